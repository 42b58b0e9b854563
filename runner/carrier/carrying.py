"""Takes a shard to its end: opens its journals, carries what is left of it, tells what came of it.

All shards of a process share its throttle, and what the board orders holds for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from runner.asking import Asker
from runner.carrier.telling import Teller, Wanting
from runner.crew import Crew
from runner.detour import Detour
from runner.engine import MOST_LEASED, Board, Event, GivenUp, Orders, Reason, Shard, Told
from runner.errors import DiskFault, SyncshiftError
from runner.exchange import Exchanger
from runner.feed import Lock
from runner.lineup import Lineup
from runner.live import Live
from runner.model import Proof
from runner.opening import Opened
from runner.pipeline import flow, workers_for
from runner.record import Record
from runner.remaining import mend, work_left
from runner.results import Index, JoinedIndex
from runner.rig import follower_of, pardoned_in, sink_of, update_of
from runner.rollout import FailureLimit
from runner.slicing import Slices
from runner.steps import Work
from runner.throttle import THROTTLED, LeasedPacer
from runner.waits import Waits

Opens = Callable[[Shard, Callable[..., None]], Awaitable[tuple[Record, Index]]]
"""Opens the journals of a shard, and reads what is in them; its events go to the callable."""

_NEVER = FailureLimit(rows=1 << 40)
"""Whoever leads the run counts failed rows; a shard knows too little."""
_BUDGET = "budget"
_SLACK_S = 0.05


class Carrier:
    """Carries shards of one run in one process. Belongs to one event loop."""

    def __init__(
        self,
        opened: Opened,
        asker: Asker,
        board: Board,
        *,
        index: Index,
        opens: Opens,
        slices: Slices | None = None,
        pacer: LeasedPacer,
    ) -> None:
        """*index* is of the run's own journals, from before its rows were dealt out.

        *slices* says which row belongs to which wave, of a run that has several. *pacer*,
        which must be that of *asker*, spends what the board leases.
        """
        self._opened = opened
        self._asker = asker
        self._board = board
        self._index = index
        self._opens = opens
        self._slices = slices
        self._pacer = pacer
        self._crews: list[Crew] = []
        self._scopes: list[anyio.CancelScope] = []
        self._ordered: set[str] = set()
        self._stopped: Reason | None = None
        self._concurrency = asker.settings.concurrency
        self._wanted, self._nudge = anyio.Event(), anyio.Event()
        self._events: list[Event] = []
        self._rate = asker.settings.rate
        pacer.free = self._rate is None
        pacer.on_want = self._want

    def tell(self, name: str, **fields: Any) -> None:
        """Take in what happened, for the run's events."""
        self._events.append(Event(name, fields))

    def _want(self) -> None:
        self._wanted.set()

    def nudge(self) -> None:
        """Have every shard say a word to the board now."""
        self._nudge.set()
        self._nudge = anyio.Event()

    async def lease(self) -> None:
        """Have departures at hand whenever they are wanted, until canceled. Raises `GivenUp`."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            lease = await self._board.lease(MOST_LEASED)
            if lease is not None:
                first = self._asker.clocks.steady() + lease.begins_in_s
                self._pacer.grant(first, lease.interval_s, lease.departures)
                self._asker.turnstile.nudge()

    async def carry(self, shard: Shard, exchanger: Exchanger, *, began: str) -> None:
        """Carry what is left of *shard*; when this returns, the board knows what came of it.

        *began*, RFC 3339, is when the run, or its wave, began to send. Raises `GivenUp` when
        the shard was given to somebody else: nothing is sent for it any more.
        """
        try:
            record, own = await self._opens(shard, self.tell)
        except SyncshiftError as error:
            self._asker.stop(error)
            await self._board.tell(_unopened(shard, Reason.of(error)))
            return
        part = _Part(self, shard, exchanger, record, own)
        self._scopes.append(part.scope)
        self._crews.append(part.crew)
        try:
            await part.carry(began)
        finally:
            self._scopes.remove(part.scope)
            self._crews.remove(part.crew)

    def obey(self, orders: Orders) -> None:
        """Do what holds for the whole process."""
        self._hold(orders)
        if orders.rate != self._rate and orders.rate is not None:
            self._rate = orders.rate
            self._pacer.free = False
            self._asker.set_ceilings(rate=orders.rate, concurrency=None)
        if orders.concurrency is not None and orders.concurrency != self._concurrency:
            self._concurrency = orders.concurrency
            self._asker.set_ceilings(rate=None, concurrency=orders.concurrency)
            rows = self._opened.checked.rows
            for crew in self._crews:
                crew.grow(workers_for(concurrency=orders.concurrency, rows=rows))
        if orders.stop is not None and self._stopped is None:
            self._stopped = orders.stop
            for scope in self._scopes:
                self._asker.drain(scope, orders.stop.error())

    def _hold(self, orders: Orders) -> None:
        turnstile, now = self._asker.turnstile, self._asker.clocks.steady()
        throttle, held = turnstile.throttle, {hold.reason for hold in orders.holds}
        known = {hold.reason: hold.until for hold in throttle.holds(now)}
        for hold in orders.holds:
            left_s = math.inf if hold.left_s is None else hold.left_s
            if hold.reason != THROTTLED:
                throttle.hold(hold.reason, now=now, until=now + left_s, detail=hold.detail)
            elif known.get(THROTTLED, 0.0) + _SLACK_S < now + left_s:
                throttle.held_by_others(now, wait_s=left_s, detail=hold.detail)
        for reason in self._ordered - held:
            throttle.lift(reason, now=now)
        if self._ordered != held:
            self._ordered = {reason for reason in held if reason != THROTTLED}
            turnstile.nudge()


class _Part:
    """One shard on its way."""

    def __init__(
        self, carrier: Carrier, shard: Shard, exchanger: Exchanger, record: Record, own: Index
    ) -> None:
        opened, asker = carrier._opened, carrier._asker
        if shard.starts_at is not None:
            # It is begun when its rows start, by the clock that all who carry the run share.
            opened = msgspec.structs.replace(opened, timetable=None)
        clocks = asker.clocks
        self._carrier, self._opened, self._asker = carrier, carrier._opened, asker
        self._shard, self._exchanger, self._record = shard, exchanger, record
        self._rows = (shard.first_row, shard.last_row)
        self._index = JoinedIndex(carrier._index, own, self._rows)
        self._waits = Waits(_to_nobody, clock=clocks.steady, wall=clocks.wall)
        self._lineup = Lineup(
            opened,
            self._index,
            clocks=clocks,
            ended=lambda: asker.stop.reason is not None,
            tell=carrier.tell,
        )
        self._sink = sink_of(opened, record, asker.stop, _NEVER, self._index.settled)
        self.scope = anyio.CancelScope()
        rows = shard.last_row - shard.first_row + 1
        self.crew = Crew(workers_for(concurrency=carrier._concurrency, rows=rows))
        budget = self._lineup.budget
        if budget is not None:
            budget.set_limit(0)  # until the board has granted some
        self._teller = Teller(
            carrier._board,
            shard,
            live=Live(
                rows=rows,
                settled_before=0,
                tally=self._sink.tally,
                turnstile=asker.turnstile,
                committer=record.committer,
                clock=clocks.steady,
                waits=self._waits,
            ),
            throttle=asker.turnstile.throttle,
            clock=clocks.steady,
            before=own,
            pardoned=pardoned_in(opened),
            budget=budget,
            urgent=0 if budget is None else len(self._index.in_doubt() + self._index.to_follow()),
            events=carrier._events,
            obey=carrier.obey,
            nudge=lambda: carrier._nudge,
        )
        self._is_read = False

    async def carry(self, began: str) -> None:
        """Carry it, close its journals, and tell what came of it. Raises `GivenUp`."""
        given_up = False
        async with anyio.create_task_group() as group:
            try:
                await self._teller.tell()
                group.start_soon(self._keep_telling, group.cancel_scope)
                with self.scope:
                    await self._flow(began)
            except SyncshiftError as error:
                self._asker.stop(error)
            except GivenUp:
                given_up = True
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close()
            given_up = given_up or group.cancel_scope.cancel_called
            group.cancel_scope.cancel()
        if given_up:
            raise GivenUp
        reason, ordered = self._asker.stop.reason, self._carrier._stopped
        fault = Reason.of(reason) if reason is not None and ordered is None else None
        left = None
        if reason is None and self._asker.turnstile.lanes.set_aside:
            left = Reason.of(self._asker.patience_over())
        await self._teller.tell(is_over=True, fault=fault, left=left)

    async def _keep_telling(self, everything: anyio.CancelScope) -> None:
        try:
            await self._teller.run()
        except GivenUp:
            everything.cancel()

    async def _close(self) -> None:
        try:
            await self._record.close()
        except DiskFault as fault:
            self._asker.stop(fault)

    async def _flow(self, began: str) -> None:
        asker, opened, lineup = self._asker, self._opened, self._lineup
        await anyio.to_thread.run_sync(
            partial(mend, opened, self._index, self._sink.end_known, self._rows)
        )
        update = update_of(
            opened,
            self._exchanger,
            self._record,
            turnstile=asker.turnstile,
            clocks=asker.clocks,
            budgeted=lineup.budget is not None,
        )
        takes, slices = None, self._carrier._slices
        if slices is not None and self._shard.wave is not None:
            wave = slices.waves[self._shard.wave - 1]
            takes = slices.takes(wave)
            if opened.settings.until is None and not wave.is_last:
                # A gate is judged by what is shown, so everything in front of one has to be.
                update.until = Proof.RESYNCED
        if self._shard.starts_at is not None and opened.timetable is not None:
            takes = opened.timetable.takes(self._shard.starts_at)
        follower = follower_of(
            opened,
            self._exchanger,
            self._record,
            self._sink,
            update,
            turnstile=asker.turnstile,
            stop=asker.stop,
            clocks=asker.clocks,
            budget=lineup.budget,
        )
        blocks, locks = lineup.line_up(
            lambda: work_left(opened, self._index, takes=takes, rows=self._rows), began=began
        )
        self._teller.is_read = self._has_few
        await flow(
            self._noting_the_end(blocks),
            follower.carry,
            self._sink,
            workers=self.crew,
            stop=asker.stop,
            beside=follower,
            locks=(Detour(asker.turnstile), *map(self._known, locks)),
            waits=self._waits,
        )

    def _known(self, lock: Lock) -> Lock:
        if lock.reason != _BUDGET:
            return lock
        self._teller.lock = Wanting(lock)
        return self._teller.lock

    def _has_few(self) -> bool:
        """Whether the rows at hand are too few to keep everybody busy."""
        return self._is_read and 2 * self._sink.tally.carried < self.crew.size

    def _noting_the_end(self, blocks: Iterator[list[Work]]) -> Iterator[list[Work]]:
        yield from blocks
        self._is_read = True


def _unopened(shard: Shard, fault: Reason) -> Told:
    return Told(shard=shard.number, fence=shard.fence, is_over=True, fault=fault)


def _to_nobody(event: str, **fields: Any) -> None:
    """Tell nobody: whoever leads the run has a registry of its own."""
