"""Leads a run that several carry: deals its rows out, has gates judged, adds up.

Shards are submitted wave by wave. Behind each wave their journals become part of the run's own,
so that a gate, and whoever looks at the run later, finds them as if one process had carried all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import anyio
import anyio.abc
import anyio.to_thread

from runner.asking import Looker
from runner.engine import Held, Reason, Shard
from runner.errors import SyncshiftError
from runner.gatekeeper import Gatekeeper, go_past, keeper_of
from runner.model import Proof
from runner.pipeline import Tally
from runner.results import Index
from runner.rig import pardoned_in, update_of
from runner.run.mirror import Led, LiveOfMany, Mirror
from runner.run.session import Session
from runner.slicing import Slices, Wave
from runner.standstill import HEALTH, PAUSE, START, WINDOW
from runner.steering import Lever, helm
from runner.steps import Update
from runner.throttle import Throttle
from runner.turnstile import Closing

_OURS = (PAUSE, START, WINDOW, HEALTH)


class Troop(Led, Protocol):
    """Those who carry a run, as whoever leads it sees them."""

    began: str
    """When the run, or its wave, began to send; shards that are submitted are told."""

    @property
    def left(self) -> Reason | None:
        """Why rows were left although the run went on to its end."""
        ...

    def parts(self, rows: int) -> int:
        """Return into how many shards so many rows are cut."""
        ...

    async def gather(self) -> None:
        """Make what the shards have written part of the run's own journals.

        Nobody carries one. Raises `SyncshiftError`.
        """
        ...

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Have it work until canceled."""
        ...


def mirror_of(session: Session) -> tuple[Mirror, Tally]:
    """Return what shows a session that several carry, and the figures it keeps."""
    tally = Tally(counts={})
    record, stop = session.record, session.asker.stop
    mirror = Mirror(tally, session.waits, stop, clocks=session.asker.clocks, tell=record.tell)
    return mirror, tally


async def conduct(
    session: Session,
    troop: Troop,
    *,
    mirror: Mirror,
    tally: Tally,
    index: Index,
    slices: Slices | None,
    levers: Mapping[str, Lever],
) -> None:
    """Have what is left carried by *troop*. Ends early with the reason in the stop."""
    opened, asker, record = session.opened, session.asker, session.record
    clocks, stop = asker.clocks, asker.stop
    live = LiveOfMany(
        rows=opened.checked.rows,
        settled_before=session.index.succeeded + session.index.failed,
        tally=tally,
        turnstile=asker.turnstile,
        committer=record.committer,
        clock=clocks.steady,
        waits=session.waits,
        seen=mirror,
    )
    session.show(live)
    async with asker.asking(opened.job, opened.tokens, tell=record.tell) as exchanger:
        update = update_of(
            opened,
            exchanger,
            record,
            turnstile=asker.turnstile,
            clocks=clocks,
            budgeted=opened.settings.resync_budget is not None,
        )
        keeper = keeper_of(
            opened,
            Looker(exchanger, opened.job).look,
            record=record,
            waits=session.waits,
            stop=stop,
            turnstile=asker.turnstile,
            clocks=clocks,
            pardoned=pardoned_in(opened),
            decide=session.decide,
        )
        try:
            async with (
                helm(
                    opened,
                    asker,
                    live=live,
                    waits=session.waits,
                    levers=levers,
                    drain=session.drain,
                    approve=keeper.approve,
                    tell=record.tell,
                ),
                anyio.create_task_group() as group,
            ):
                await group.start(troop.run)
                group.start_soon(mirror.run, troop)
                await _Conductor(session, troop, index, slices, keeper, update).carry()
                mirror.look(troop)
                group.cancel_scope.cancel()
        finally:
            # Nobody writes to them any more, whatever ended this.
            with anyio.CancelScope(shield=True):
                try:
                    await troop.gather()
                except SyncshiftError as fault:
                    stop(fault)
    if troop.left is not None:
        stop(troop.left.error())


class _Conductor:
    """Submits shards, one wave after the other, and has gates judged in between."""

    def __init__(
        self,
        session: Session,
        troop: Troop,
        index: Index,
        slices: Slices | None,
        keeper: Gatekeeper,
        update: Update,
    ) -> None:
        self._session = session
        self._opened = session.opened
        self._stop = session.asker.stop
        self._index = index
        self._slices = slices
        self._troop = troop
        self._keeper = keeper
        self._update = update
        self._number = 0

    async def carry(self) -> None:
        """Have every row carried that is left, or those in front of a gate nobody passes."""
        opened, slices, session = self._opened, self._slices, self._session
        if opened.past_gate is not None:
            wall_s = session.asker.clocks.wall()
            go_past(opened.folder, opened.past_gate, session.record, wall_s=wall_s)
        if slices is None:
            await self._flow(None, session.began)
            return
        manifest, began = opened.folder.read(), session.began
        if manifest.wave_rows != slices.sizes:
            opened.folder.amend(wave_rows=slices.sizes)
        for gate in manifest.gates:
            began = gate.passed_at or began
        for wave in slices.ahead(manifest.gates):
            session.record.tell("wave.started", wave=wave.number, rows=wave.rows)
            await self._flow(wave, began)
            if wave.is_last or self._stop.reason is not None:
                return
            # What this wave has written counts at its gate, and for what is left behind it.
            await anyio.to_thread.run_sync(self._index.extend)
            if not await self._lets_through(slices, wave):
                return
            began = opened.folder.read().gates[-1].passed_at or began

    async def _flow(self, wave: Wave | None, began: str) -> None:
        troop, rows = self._troop, self._opened.checked.rows
        shards = list(self._shards(wave, rows))
        if not shards or self._stop.reason is not None:
            return
        troop.began = began
        await troop.submit(shards)
        await troop.over()
        await troop.gather()

    async def _lets_through(self, slices: Slices, wave: Wave) -> bool:
        update = self._update
        if self._opened.settings.until is None:
            update.until = Proof.RESYNCED
        rows = slices.rows_of(wave)
        try:
            return await self._keeper.lets_through(wave.number, rows, self._index, update.target)
        except Closing:
            return False

    def _shards(self, wave: Wave | None, rows: int) -> Iterator[Shard]:
        """Yield the ranges of which something is left; with ``--at``, for each start those."""
        timetable, takes = self._opened.timetable, None
        if wave is not None and self._slices is not None:
            takes = self._slices.takes(wave)
        starts = sorted({start.at for start in timetable.starts}) if timetable else [None]
        number = self._troop.parts(rows)
        for moment in starts:
            if timetable is not None and moment is not None:
                takes = timetable.takes(moment)
            for part in range(number):
                first, last = rows * part // number + 1, rows * (part + 1) // number
                if _has_left(self._index, first, last, takes):
                    self._number += 1
                    of_wave = None if wave is None else wave.number
                    yield Shard(self._number, first, last, of_wave, starts_at=moment)


def _has_left(index: Index, first: int, last: int, takes: Callable[[int], bool] | None) -> bool:
    return any(
        not index.settled(row) and (takes is None or takes(row)) for row in range(first, last + 1)
    )


def standing_of(throttle: Throttle, now: float) -> tuple[Held, ...]:
    """Return why nobody moves, as people, the clock and the outside check have it."""
    return tuple(
        Held(hold.reason, hold.detail, hold.until - now if hold.until < float("inf") else None)
        for hold in throttle.holds(now)
        if hold.reason in _OURS
    )
