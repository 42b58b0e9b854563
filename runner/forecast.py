"""What the plan of a run comes to: counts, re-syncs, problems, and how long it may take."""

from __future__ import annotations

import datetime

import msgspec

from runner.folder import Folder, Manifest
from runner.model import Finding, FindingKind
from runner.results import Findings

PLAN = "plan.jsonl"
SHOWN_PROBLEMS = 50

OF_PLANS = (
    FindingKind.CHANGE,
    FindingKind.UNCHANGED,
    FindingKind.DUPLICATE,
    FindingKind.CONFLICTED,
    FindingKind.BLOCKED,
    FindingKind.UNKNOWN,
    FindingKind.INVALID,
)
"""What a plan can find of a row, in the order in which it is told."""
PROBLEMS = frozenset(
    {FindingKind.CONFLICTED, FindingKind.BLOCKED, FindingKind.UNKNOWN, FindingKind.INVALID}
)
"""Findings that leave a row as it is although it should become something else."""
_LOOKED_AT = (
    FindingKind.CHANGE,
    FindingKind.UNCHANGED,
    FindingKind.CONFLICTED,
    FindingKind.BLOCKED,
    FindingKind.UNKNOWN,
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan comes to; the order of the fields is that of ``plan --json``."""

    run_id: str
    job: str
    state: str
    """As in ``run.json``; anything but ``planned`` before it is applied: it is not whole."""
    rows: int
    """Rows of the input."""
    findings: dict[str, int]
    """Rows by finding; what is missing up to `rows` was not looked at."""
    warnings: int
    """Rows to be changed whose sync is ERRORED or DISABLED."""
    resyncs: int
    """Full re-syncs that its changes would start."""
    users: int
    looks: int
    """Syncs that were read."""
    looked_s: float
    """Seconds that took, at the run's limits."""
    estimate_s: float | None
    """How long it may take to apply, re-syncs not counted; None while the plan is not whole."""
    problems: tuple[Finding, ...]
    """The first rows that would not be changed although they should."""
    file: str

    @property
    def whole(self) -> bool:
        """Whether every row has its finding."""
        return sum(self.findings.values()) == self.rows > 0


def plan_of(folder: Folder, manifest: Manifest) -> Plan:
    """Return what the plan of a run comes to, as far as it is made, from its files alone.

    Raises `JournalDamaged`, `RunRefused`.
    """
    found = Findings(folder.path / PLAN)
    counts = found.counts
    looks = sum(counts[kind] for kind in _LOOKED_AT)
    looked_s = _between(manifest.planned, found.last)
    estimate_s = None
    if manifest.planned is not None and looks:
        # Each row is read once more, and each change is a request besides.
        estimate_s = looked_s * (looks + counts[FindingKind.CHANGE]) / looks
    return Plan(
        run_id=manifest.run_id,
        job=manifest.job,
        state=manifest.state,
        rows=manifest.rows or 0,
        findings={kind.value: counts[kind] for kind in OF_PLANS},
        warnings=found.warned,
        resyncs=found.resyncs,
        users=manifest.users or 0,
        looks=looks,
        looked_s=round(looked_s, 3),
        estimate_s=None if estimate_s is None else round(estimate_s, 3),
        problems=found.first(PROBLEMS, SHOWN_PROBLEMS),
        file=str(folder.path / PLAN),
    )


def _between(since: str | None, until: str) -> float:
    if since is None or not until:
        return 0.0
    begin, end = map(datetime.datetime.fromisoformat, (since, until))
    return max(0.001, (end - begin).total_seconds())
