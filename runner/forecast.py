"""What the plan of a run comes to: counts, re-syncs, problems, and how long it may take."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from runner.errors import SyncshiftError
from runner.folder import Folder, Manifest
from runner.journal import scan
from runner.model import Finding, FindingKind, Proof
from runner.results import Findings
from runner.settings import Settings

PLAN = "plan.jsonl"
_REPORT = "report.jsonl"
_LATELY = 3
"""So many finished runs are asked how long their re-syncs took."""
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
    rounds: int | None
    """Rounds in which ``--max-resyncs`` lets the re-syncs run; None: there is no such limit."""
    resyncs_s: float | None
    """How long these may take, if such re-syncs take as long as lately; None: nobody knows."""
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
    rounds = rounds_of(found.resyncs, manifest.settings, folder.path.parent)
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
        rounds=None if rounds is None else rounds.count,
        resyncs_s=None if rounds is None else rounds.all_s,
        problems=found.first(PROBLEMS, SHOWN_PROBLEMS),
        file=str(folder.path / PLAN),
    )


class Rounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the re-sync budget makes of the re-syncs that a run may start."""

    resyncs: int
    at_once: int
    """How many may be unfinished at once."""
    each_s: float | None
    """How long one took lately, in the mean; None: no run against this host has seen one end."""

    @property
    def count(self) -> int:
        """How many rounds there are, each as long as the slowest of its re-syncs."""
        return math.ceil(self.resyncs / self.at_once)

    @property
    def all_s(self) -> float | None:
        """How long all of them may take, in seconds; None: nobody knows."""
        if self.each_s is None or not self.resyncs:
            return None
        return round(max(1.0, self.resyncs / self.at_once) * self.each_s, 3)


def rounds_of(resyncs: int, settings: Settings, runs_dir: Path) -> Rounds | None:
    """Return what the budget of a run makes of its re-syncs; None: any number may run at once.

    How long one takes is what the newest finished runs in *runs_dir* against the same host
    have seen.
    """
    at_once = settings.resync_budget
    if at_once is None:
        return None
    each_s = _lately_s(settings.base_url, runs_dir) if resyncs else None
    return Rounds(resyncs=resyncs, at_once=at_once, each_s=each_s)


def _lately_s(base_url: str, runs_dir: Path) -> float | None:
    finished = []
    for folder in Folder.all(runs_dir):
        try:
            manifest = folder.read()
        except SyncshiftError:
            continue  # tells nothing
        if manifest.state == "finished" and manifest.settings.base_url == base_url:
            finished.append((manifest.ended or "", folder.path / _REPORT))
    told = (times for _, path in sorted(finished, reverse=True) if (times := [*_resyncs(path)]))
    times = [seconds for some in islice(told, _LATELY) for seconds in some]
    return sum(times) / len(times) if times else None


class _Reported(msgspec.Struct, gc=False):
    """A line of a report, as far as it tells of time."""

    event: str
    row: int
    timestamp: str
    proof: str | None = None


_DECODE_REPORTED = msgspec.json.Decoder(_Reported).decode


def _resyncs(report: Path) -> Iterator[float]:
    """Yield how long each re-sync took that a run has seen end, in seconds."""
    accepted: dict[int, str] = {}
    try:
        for line in scan(report) if report.exists() else ():
            told = _DECODE_REPORTED(line.data)
            if told.event == "change.accepted":
                accepted[told.row] = told.timestamp
            elif (since := accepted.pop(told.row, None)) and told.proof == Proof.RESYNCED:
                yield _between(since, told.timestamp)
    except (SyncshiftError, msgspec.MsgspecError):
        return  # what is damaged is told by whoever needs it


def _between(since: str | None, until: str) -> float:
    if since is None or not until:
        return 0.0
    begin, end = map(datetime.datetime.fromisoformat, (since, until))
    return max(0.001, (end - begin).total_seconds())
