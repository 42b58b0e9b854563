"""Deals shards out to the processes of this machine, and is the board of all of them."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Sequence

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from runner.departures import Line
from runner.engine import Event, Held, Lease, Orders, Progress, Reason, Shard
from runner.errors import RunFault, SyncshiftError
from runner.ledger import Ledger
from runner.local.nursery import Nursery
from runner.local.wire import (
    Carry,
    FromWorker,
    Hello,
    Leased,
    Leave,
    Nudge,
    Ordered,
    Says,
    Wants,
    Wire,
)

_SHARDS_EACH = 4
"""So many for each process: the last ones end at about the same time."""
_FEWEST_ROWS = 50
"""In a shard, as long as there is one for each process."""
_MOST_SHARDS = 3
"""At one process: one that is under way, and others whose last rows are only followed."""
_MOST_DEATHS = 5
"""One after the other, while no row ends: then it is not chance."""
_SETTLE_S = 1.0
"""From a death to the moment at which others go on with what was in doubt."""
_LOOK_EVERY_S = 0.05
_PATIENCE_S = 5.0


class _Hand:
    """One process, as the one who leads knows it."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Its place among the others; who comes after it has the same."""
        self.wire: Wire[FromWorker] | None = None
        self.pid: int | None = None
        self.shards: dict[int, bool] = {}
        """What it carries, and whether all rows of that were taken."""

    def send(self, message: msgspec.Struct) -> None:
        if self.wire is not None:
            self.wire.send(message)

    @property
    def is_free(self) -> bool:
        """Whether it could carry one more."""
        has_room = len(self.shards) < _MOST_SHARDS and all(self.shards.values())
        return self.pid is not None and has_room


class Processes:
    """The engine of one machine. Belongs to one event loop; enter `running` to have it work."""

    def __init__(
        self,
        nursery: Nursery,
        ledger: Ledger,
        *,
        processes: int,
        concurrency: int,
        rate: float | None,
        clock: Callable[[], float],
        standing: Callable[[float], tuple[Held, ...]],
        heed: Callable[[int, Event], None],
        lost: Callable[[int], None],
        merge: Callable[[], object],
    ) -> None:
        """*standing* tells why nobody moves, as people and the clock have it.

        *heed* takes what happened at a worker, by its number, and *lost* is told that one died.
        *merge* makes what shards have written part of the run's own journals; it blocks.
        """
        self._merge = merge
        self._nursery = nursery
        self._ledger = ledger
        self._hands = [_Hand(number) for number in range(processes)]
        self._clock = clock
        self._standing = standing
        self._heed = heed
        self._lost = lost
        self._queue: deque[Shard] = deque()
        self._concurrency = concurrency
        self._rate = rate
        self._line = None if rate is None else Line.of(rate, lanes=processes, now=clock())
        self._over = anyio.Event()
        self._deaths, self._ended_at_death = 0, 0
        self.began = ""
        """When the run, or its wave, began to send; shards that are dealt out are told."""
        self.merges = 0
        """How often shards became part of the run's own journals."""

    @property
    def processes(self) -> int:
        """How many there are to be."""
        return len(self._hands)

    @property
    def stop(self) -> Reason | None:
        """Why the run ends."""
        return self._ledger.stop

    @property
    def left(self) -> Reason | None:
        """Why rows were left although the run went on to its end."""
        return self._ledger.left

    def parts(self, rows: int) -> int:
        """Return into how many shards so many rows are cut."""
        many = self.processes
        return max(many, min(_SHARDS_EACH * many, rows // _FEWEST_ROWS))

    # What the conductor asks for.

    async def submit(self, shards: Sequence[Shard]) -> None:
        """Have *shards* carried from now on."""
        self._over = anyio.Event()
        for shard in shards:
            self._ledger.admit(shard)
        self._queue.extend(shards)
        self._deal()

    async def over(self) -> Progress:
        """Return once every shard is over, or the run was canceled and all has landed."""
        await self._over.wait()
        return self.observe()

    def observe(self) -> Progress:
        """Return how far they are."""
        there = sum(hand.pid is not None for hand in self._hands)
        return self._ledger.progress(workers=there)

    async def gather(self) -> None:
        """Make what the shards have written part of the run's own journals. Raises `DiskFault`."""
        await anyio.to_thread.run_sync(self._merge)
        self.merges += 1

    def cancel(self, reason: SyncshiftError) -> None:
        """Let nobody take another row, or send anything more; what is in flight may land."""
        self._ledger.end(Reason.of(reason))
        self._nudge_all()
        self._deal()

    def set_rate(self, rate: float) -> None:
        """Lease departures at *rate* from now on."""
        now, self._rate = self._clock(), rate
        if self._line is None:
            self._line = Line.of(rate, lanes=len(self._hands), now=now)
        else:
            self._line.set_rate(rate, now=now)
        self._nudge_all()

    def set_concurrency(self, concurrency: int) -> None:
        """Have so many requests in flight at most, over all processes."""
        self._concurrency = concurrency
        self._nudge_all()

    # Its life.

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Have processes, and new ones for those that die, until canceled. None is left then."""
        try:
            async with anyio.create_task_group() as group:
                for hand in self._hands:
                    group.start_soon(self._attend, hand)
                task_status.started()
                await self._look_at_standing()
        finally:
            with anyio.CancelScope(shield=True):
                await self._dismiss()

    async def _look_at_standing(self) -> None:
        last: set[tuple[str, str]] = set()
        while True:
            now = {(held.reason, held.detail) for held in self._standing(self._clock())}
            if now != last:
                last = now
                self._nudge_all()
            await anyio.sleep(_LOOK_EVERY_S)

    async def _attend(self, hand: _Hand) -> None:
        """Have a process at this place; when it dies another one goes on."""
        while True:
            end = self._nursery.fork()
            if end is None:
                self._give_up("no process can be made any more: the one that makes them was killed")
                return
            wire: Wire[FromWorker] = await Wire.of(end, msgspec.msgpack.Decoder(FromWorker))
            hand.wire = wire
            while (message := await wire.receive()) is not None:
                self._answer(hand, message)
            wire.close()
            hand.pid, hand.wire = None, None
            self._lost(hand.number + 1)
            # What it had sent may be on its way yet; a look now could come before it.
            await anyio.sleep(_SETTLE_S if hand.shards else 0.0)
            self._bury(hand)

    async def _dismiss(self) -> None:
        """Have every process leave; kill those that do not."""
        for hand in self._hands:
            hand.send(Leave())
        with anyio.move_on_after(_PATIENCE_S):
            for hand in self._hands:
                await _see_off(hand)
        for hand in self._hands:
            if hand.wire is not None and hand.pid is not None:
                _kill(hand.pid)
            await _see_off(hand)
        self._nursery.close()

    def _answer(self, hand: _Hand, message: FromWorker) -> None:
        now = self._clock()
        match message:
            case Hello(pid=pid):
                hand.pid = pid
                self._deal()
            case Wants(number=number, departures=departures):
                hand.send(Leased(number, self._lease(hand, now, departures)))
            case Says(number=number, told=told):
                concerns_all = self._ledger.take(told, now=now)
                for event in told.events:
                    self._heed(hand.number + 1, event)
                hand.send(Ordered(number, self._orders(hand, told.shard, now)))
                if told.is_over:
                    hand.shards.pop(told.shard, None)
                else:
                    hand.shards[told.shard] = told.is_read
                if concerns_all:
                    self._nudge_all(apart_from=hand)
                self._deal()

    def _lease(self, hand: _Hand, now: float, departures: int) -> Lease | None:
        if self._line is None:
            return None
        first, count = self._line.lease(now, departures, lane=hand.number)
        return Lease(first - now, self._line.interval_s, count)

    def _orders(self, hand: _Hand, shard: int, now: float) -> Orders:
        orders = self._ledger.orders(shard, now=now)
        share, more = divmod(self._concurrency, len(self._hands))
        return msgspec.structs.replace(
            orders,
            holds=(*orders.holds, *self._standing(now)),
            concurrency=max(1, share + (hand.number < more)),
            rate=self._rate,
        )

    def _deal(self) -> None:
        """Give shards to those who are free, and see whether all is over."""
        if self._ledger.stop is not None:
            self._queue.clear()
        while self._queue and (free := [hand for hand in self._hands if hand.is_free]):
            hand = min(free, key=lambda hand: len(hand.shards))
            shard = self._queue.popleft()
            hand.shards[shard.number] = False
            hand.send(Carry(shard, self.began, self.merges))
        if not self._queue and not any(hand.shards for hand in self._hands):
            self._over.set()

    def _bury(self, hand: _Hand) -> None:
        """Take in that a process is dead: others go on with what it carried."""
        shards, hand.shards = sorted(hand.shards, reverse=True), {}
        for number in shards:
            self._queue.appendleft(self._ledger.again(number))
        ended = self.observe().ended
        self._deaths = 1 if ended > self._ended_at_death else self._deaths + 1
        self._ended_at_death = ended
        if self._deaths >= _MOST_DEATHS:
            self._give_up(f"{self._deaths} processes died one after the other, and no row ended")
        self._deal()

    def _give_up(self, why: str) -> None:
        if any(hand.pid is not None for hand in self._hands) and self._deaths < _MOST_DEATHS:
            return  # the others go on
        self.cancel(RunFault(f"{why}. Resume the run, with --processes 1 if it happens again"))

    def _nudge_all(self, *, apart_from: _Hand | None = None) -> None:
        for hand in self._hands:
            if hand is not apart_from:
                hand.send(Nudge())


async def _see_off(hand: _Hand) -> None:
    """Return once the process is no more."""
    while hand.wire is not None:
        if await hand.wire.receive() is None:
            hand.wire.close()
            hand.wire, hand.pid = None, None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
