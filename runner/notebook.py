"""Where findings end: weighed, written down, counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runner.attempt import Clocks
from runner.errors import RunStopped
from runner.journal import Committer, Journal
from runner.log import stamp
from runner.model import Finding, FindingKind, Outcome, encode_json
from runner.pipeline import Stop, Tally
from runner.rollout import Suspicions
from runner.survey import Seen


class Notebook:
    """One file of findings, written by group commits. Belongs to one event loop.

    Findings that speak of a fault of the whole command, a wrong key for
    instance, are kept back; enough of them end it.
    """

    def __init__(
        self,
        path: Path,
        *,
        stop: Stop,
        users: int,
        clocks: Clocks,
        sync: Callable[[int], None] = os.fdatasync,
        duplicates_of: Callable[[int], tuple[tuple[int, int], ...]] = lambda row: (),
    ) -> None:
        """*users*: how many different ones there are. Raises `DiskFault`, `JournalDamaged`."""
        self._journal = Journal.open(path)
        self.committer = Committer(self._journal, sync=sync, clock=clocks.steady)
        self._wall_clock = clocks.wall
        self._stop = stop
        self._suspicions: Suspicions[Seen] = Suspicions(users=users)
        self._duplicates_of = duplicates_of
        self.tally = Tally(counts=dict.fromkeys(FindingKind, 0))

    def end(self, ending: Seen) -> None:
        """Take in what a look found; it may be kept back for a while."""
        try:
            for free in self._suspicions.weigh(ending):
                self._write(free.finding)
        except RunStopped as fault:
            self._stop(fault)

    def end_known(self, outcome: Outcome) -> None:
        """Take in a row that could not become a change."""
        self._write(
            Finding(
                row=outcome.row,
                line=outcome.line,
                sync_id=outcome.sync_id,
                user_id=outcome.user_id,
                finding=FindingKind.INVALID,
                error_class=outcome.error_class,
                error=outcome.error,
                timestamp=stamp(self._wall_clock()),
            )
        )

    def set_aside(self) -> None:
        """Nothing was found of a row, and nothing is written."""

    def acquit(self) -> None:
        """The input has ended: what was kept back is written as it was found."""
        for seen in self._suspicions.acquit():
            self._write(seen.finding)

    def commit(self) -> int:
        """Have everything that was found written soon; return a mark for `durable`."""
        return self.committer.commit()

    async def durable(self, mark: int | None = None) -> None:
        """Return once everything that was found at *mark*, or now, is on disk.

        Raises `DiskFault`.
        """
        if mark is None or not self.committer.has_ended(mark):
            await self.committer.durable()

    async def close(self) -> None:
        """Commit what is left and close the file. Raises `DiskFault`."""
        await self.committer.close()

    def _write(self, finding: Finding) -> None:
        self._journal.append(encode_json(finding))
        self.tally.counts[finding.finding] += 1
        self.tally.ended += 1
        for row, line in self._duplicates_of(finding.row):
            self._write(
                Finding(
                    row=row,
                    line=line,
                    sync_id=finding.sync_id,
                    user_id=finding.user_id,
                    finding=FindingKind.DUPLICATE,
                    desired=finding.desired,
                    error=f"asks for the same as row {finding.row} (line {finding.line})",
                    timestamp=finding.timestamp,
                )
            )
