"""Rounds that only look: the one that plans a run, and the one that verifies it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import anyio
import msgspec

from runner.account import index_of
from runner.asking import SIGNALED, Asker
from runner.attempt import Clocks
from runner.errors import DiskFault, Interrupted, SyncshiftError
from runner.forecast import PLAN, SHOWN_PROBLEMS, Plan, plan_of
from runner.job import Job
from runner.learned import learned_of
from runner.live import Live
from runner.log import stamp
from runner.model import Finding, FindingKind, OutcomeKind
from runner.notebook import Notebook
from runner.opening import Opened
from runner.page import leave_page
from runner.pipeline import flow, workers_for
from runner.remaining import work_left
from runner.results import Findings
from runner.revisit import Visit, touched
from runner.steps import Work
from runner.survey import Planning, Question, Survey, Verifying
from runner.tokens import TokenSource

OF_PROOFS = (
    FindingKind.IN_FORCE,
    FindingKind.DRIFTED,
    FindingKind.GONE,
    FindingKind.NOT_TOLD,
)
"""What a proof can find of a row, in the order in which it is told."""
_DEVIATIONS = frozenset(OF_PROOFS) - {FindingKind.IN_FORCE}
_FAILED = 3
_WELL = frozenset({OutcomeKind.UPDATED})


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof came to; the order of the fields is that of ``verify --json``."""

    run_id: str
    verified_at: str
    """When looking began."""
    rows: int
    """Rows whose sync the run may have changed."""
    findings: dict[str, int]
    """Rows by finding; what is missing up to `rows` was not looked at."""
    deviations: tuple[Finding, ...]
    """The first rows that are not in force."""
    file: str | None
    """Where each finding stands; None when there was nothing to look at."""
    exit_code: int
    reason: str | None = None
    """Why it ended before every row was looked at."""


def _leave_at_once(code: int) -> NoReturn:
    os._exit(code)


def _real_clocks() -> Clocks:
    return Clocks(time.monotonic, time.time, random.random)


async def make_plan(
    opened: Opened,
    *,
    show: Callable[[Live], None],
    leave: Callable[[int], NoReturn] = _leave_at_once,
    clocks: Clocks | None = None,
    sync: Callable[[int], None] = os.fdatasync,
) -> Plan:
    """Look at the sync of every row and write down what would become of it; change none.

    The run is *planned* when every row has its finding, and else what stopped it. *show* is
    handed the live figures, *leave* ends the process when a second signal comes. Raises
    `DiskFault` when not even that can be written down.
    """
    asker = Asker(
        opened.settings,
        clocks=clocks or _real_clocks(),
        users=opened.checked.users,
        start=learned_of(opened.settings.base_url, opened.folder.path.parent),
    )
    began = stamp(asker.clocks.wall())
    folder, rows = opened.folder, opened.checked.rows
    manifest = folder.write(msgspec.structs.replace(opened.manifest, state="running"))
    try:
        notebook = Notebook(
            folder.path / PLAN,
            stop=asker.stop,
            users=opened.checked.users,
            clocks=asker.clocks,
            sync=sync,
            duplicates_of=opened.checked.duplicates_of,
        )
        round_ = _Round(asker, opened.job, opened.tokens, notebook, rows=rows)
        await round_.go(
            work_left(opened, index_of(folder)), Planning(opened.job), show=show, leave=leave
        )
        reason = asker.stop.reason
        if notebook.tally.ended == rows and not isinstance(reason, DiskFault):
            reason = None  # it came when there was nothing left to look at
        manifest = folder.write(
            msgspec.structs.replace(
                manifest,
                state="planned" if reason is None else _state(reason),
                planned=began if reason is None else None,
                reason=None if reason is None else str(reason),
                exit_code=None if reason is None else exit_code_of(reason),
                ended=None if reason is None else stamp(asker.clocks.wall()),
            )
        )
        leave_page(folder, manifest, opened.job, None)
    finally:
        folder.unlock()
    return plan_of(folder, manifest)


async def verify(
    of: Visit,
    *,
    show: Callable[[Live], None],
    leave: Callable[[int], NoReturn] = _leave_at_once,
    clocks: Clocks | None = None,
) -> Verified:
    """Look at every sync that the run may have changed, and compare; change nothing.

    Writes a ``verify-*.jsonl`` of its own into the run's folder, whoever is at work there.
    Raises `DiskFault`.
    """
    clocks = clocks or _real_clocks()
    moment = stamp(clocks.wall())
    if not of.touched:
        of.tokens.close()
        return _verified(of, moment, None, None)
    asker = Asker(
        of.settings,
        clocks=clocks,
        users=of.manifest.users or 1,
        start=learned_of(of.settings.base_url, of.folder.path.parent),
    )
    path = _new_file(of.folder.path, moment)
    users = of.manifest.users or 1
    notebook = Notebook(path, stop=asker.stop, users=users, clocks=clocks)
    round_ = _Round(asker, of.job, of.tokens, notebook, rows=of.touched)
    await round_.go(
        touched(of), Verifying(of.job), show=show, leave=leave, remark=lambda row: _ended(of, row)
    )
    reason = asker.stop.reason
    if notebook.tally.ended == of.touched and not isinstance(reason, DiskFault):
        reason = None
    return _verified(of, moment, path, reason)


class _Round:
    """One look at each of many rows."""

    def __init__(
        self, asker: Asker, job: Job, tokens: TokenSource, notebook: Notebook, *, rows: int
    ) -> None:
        self._asker = asker
        self._job = job
        self._tokens = tokens
        self._notebook = notebook
        self._rows = rows

    async def go(
        self,
        blocks: Iterator[list[Work]],
        question: Question,
        *,
        show: Callable[[Live], None],
        leave: Callable[[int], NoReturn],
        remark: Callable[[int], str | None] = lambda row: None,
    ) -> None:
        """Look at all of *blocks*; ends with every finding on disk, or with a stop saying why."""
        asker, notebook, clocks = self._asker, self._notebook, self._asker.clocks
        show(
            Live(
                rows=self._rows,
                settled_before=0,
                tally=notebook.tally,
                turnstile=asker.turnstile,
                committer=notebook.committer,
                clock=clocks.steady,
            )
        )
        try:
            async with anyio.create_task_group() as group:
                carrying = anyio.CancelScope()
                group.start_soon(asker.heed_signals, carrying, leave)
                with carrying:
                    async with asker.looking(self._job, self._tokens) as looks:
                        survey = Survey(
                            job=self._job,
                            looks=looks,
                            question=question,
                            wall_clock=clocks.wall,
                            remark=remark,
                        )
                        await flow(
                            blocks,
                            survey.carry,
                            notebook,
                            workers=workers_for(
                                concurrency=asker.settings.concurrency, rows=self._rows
                            ),
                            stop=asker.stop,
                        )
                group.cancel_scope.cancel()
        finally:
            self._tokens.close()
            with anyio.CancelScope(shield=True):
                try:
                    await notebook.close()
                except DiskFault as fault:
                    asker.stop(fault)


def exit_code_of(reason: SyncshiftError) -> int:
    """Return the exit code of a round that *reason* ended."""
    if isinstance(reason, Interrupted):
        return SIGNALED + reason.signal_number
    return reason.exit_code


def _state(reason: SyncshiftError) -> str:
    return "interrupted" if isinstance(reason, Interrupted) else "stopped"


def _verified(of: Visit, moment: str, path: Path | None, reason: SyncshiftError | None) -> Verified:
    counts = dict.fromkeys(OF_PROOFS, 0)
    deviations: tuple[Finding, ...] = ()
    if path is not None:
        found = Findings(path)
        counts = {kind: found.counts[kind] for kind in OF_PROOFS}
        deviations = found.first(_DEVIATIONS, SHOWN_PROBLEMS)
    if reason is not None:
        code = exit_code_of(reason)
    else:
        code = 0 if counts[FindingKind.IN_FORCE] == of.touched else _FAILED
    return Verified(
        run_id=of.folder.run_id,
        verified_at=moment,
        rows=of.touched,
        findings={kind.value: count for kind, count in counts.items()},
        deviations=deviations,
        file=None if path is None else str(path),
        exit_code=code,
        reason=None if reason is None else str(reason),
    )


def _ended(of: Visit, row: int) -> str | None:
    """Say how a row ended that the run itself does not call updated."""
    outcome = of.index.outcome(row)
    if outcome in _WELL:
        return None
    return f"in the run the row ended {outcome}" if outcome else "the run did not see it end"


def _new_file(directory: Path, moment: str) -> Path:
    """Make a file for the findings of *moment*; never one that is there. Raises `DiskFault`."""
    name = "verify-" + moment.replace("-", "").replace(":", "")[:15] + "Z"
    number = 1
    while True:
        path = directory / (f"{name}.jsonl" if number == 1 else f"{name}-{number}.jsonl")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            number += 1
        except OSError as error:
            raise DiskFault(
                f"{path}: cannot be made ({error.strerror}); nothing was looked at"
            ) from error
        else:
            return path
