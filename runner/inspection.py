"""Finds out what a wave came to: by the journals and, where that tells, another look."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime

import anyio
import anyio.to_thread
import msgspec

from runner.exchange import Exchange
from runner.job import Job
from runner.journal import scan
from runner.model import Change, Outcome, OutcomeKind, Proof, Response, State
from runner.results import Index, Outcomes
from runner.rollout import Came
from runner.turnstile import Closing

Target = Callable[[Change, State | None], Proof]
"""Tells how far a change was to be proved that was made to a sync in a state."""

_ERRORED = "ERRORED"


class _Seen(msgspec.Struct, gc=False):
    """What a read told of a sync before it was changed, as far as a gate asks for it."""

    status: str | None = None
    total_records: int | None = None


class _Intended(msgspec.Struct, gc=False):
    """A line of the undo log, likewise."""

    row: int
    seen: _Seen | None = None


_DECODE_SEEN = msgspec.json.Decoder(_Intended).decode


class Inspector:
    """Looks at the rows of a wave that have all ended. Belongs to one event loop."""

    def __init__(
        self,
        job: Job,
        look: Callable[[Change], Awaitable[Exchange]],
        *,
        looks_at_once: int,
        pardoned: Collection[OutcomeKind] = (),
    ) -> None:
        """*look* reads a sync. Rows that end in a way that is *pardoned* did not fail."""
        self._job = job
        self._look = look
        self._looks_at_once = looks_at_once
        self._pardoned = pardoned

    async def ended_s(self, rows: Iterable[int], index: Index) -> float:
        """Return when the last of *rows* ended, in seconds since the epoch."""
        return await anyio.to_thread.run_sync(_last_end_s, rows, index)

    async def read(
        self, rows: Iterable[int], index: Index, target: Target
    ) -> tuple[Came, array[int]]:
        """Return what *rows* came to by the journals, and those whose re-sync was started.

        *target* tells how far each was to be proved.
        """
        return await anyio.to_thread.run_sync(self._read, rows, index, target)

    async def look_again(
        self, came: Came, rows: array[int], index: Index, *, counts_records: bool
    ) -> None:
        """Let *came* take in what a look at the syncs of *rows* shows now.

        Their record counts too, if *counts_records*. Raises `Closing` when the run ends.
        """
        before = await anyio.to_thread.run_sync(_seen_before, index, frozenset(rows))
        following, closing = iter(rows), False
        with Outcomes(index) as outcomes:

            async def look() -> None:
                nonlocal closing
                for row in following:
                    found, was = outcomes.of(row), before.get(row, _Seen())
                    try:
                        await self._look_at(came, found, was, counts_records=counts_records)
                    except Closing:
                        closing = True
                        return

            async with anyio.create_task_group() as looks:
                for _ in range(min(self._looks_at_once, len(rows))):
                    looks.start_soon(look)
        if closing:
            raise Closing

    def _read(self, rows: Iterable[int], index: Index, target: Target) -> tuple[Came, array[int]]:
        came, resynced = Came(pardoned=self._pardoned), array("I")
        with Outcomes(index) as outcomes:
            for row in rows:
                found = outcomes.of(row)
                change, before = _change_of(found), found.before
                came.add(found, target(change, before))
                updated = found.outcome is OutcomeKind.UPDATED
                if updated and self._job.starts_resync(change, before):
                    resynced.append(row)
        return came, resynced

    async def _look_at(
        self, came: Came, found: Outcome, was: _Seen, *, counts_records: bool
    ) -> None:
        looked = await self._look(_change_of(found))
        answer = looked.last.result
        now: int | None = None
        if looked.accepted and isinstance(answer, Response):
            now = self._job.sight(answer).total_records
            progress = self._job.progress(answer)
            # One that was ERRORED before, and may not have left that state, tells nothing new.
            left = was.status != _ERRORED or found.proof is Proof.RESYNCED
            if progress.status == _ERRORED and left:
                came.errored_since(found, progress.reason or "the API gives no reason")
        if counts_records:
            came.counted(found, before=was.total_records, now=now)


def _change_of(found: Outcome) -> Change:
    return Change(found.row, found.line, found.sync_id, found.user_id, found.desired or {})


def _last_end_s(rows: Iterable[int], index: Index) -> float:
    with Outcomes(index) as outcomes:
        last = max(map(outcomes.moment, rows), default="")
    return datetime.fromisoformat(last).timestamp() if last else 0.0


def _seen_before(index: Index, rows: Collection[int]) -> dict[int, _Seen]:
    """Return what was seen of the syncs of *rows* before they were changed."""
    found: dict[int, _Seen] = {}
    for line in scan(index.undo) if rows and index.undo.exists() else ():
        intent = _DECODE_SEEN(line.data)
        if intent.row in rows and intent.seen is not None:
            found.setdefault(intent.row, intent.seen)
    return found
