"""A process that carries shards for the one that leads the run, and dies with it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from runner.asking import Asker
from runner.attempt import Clocks
from runner.carrier import Carrier
from runner.engine import Lease, Orders, Shard, Told
from runner.errors import DiskFault
from runner.exchange import Exchanger
from runner.journal import SHARDS, shard_name, sync_directory
from runner.learned import learned_of
from runner.local.nursery import Nursery
from runner.local.wire import (
    Carry,
    Hello,
    Leased,
    Leave,
    Nudge,
    Ordered,
    Says,
    ToWorker,
    Wants,
    Wire,
)
from runner.log import diagnostics
from runner.opening import Opened
from runner.record import REPORT, UNDO, Record
from runner.results import Index
from runner.slicing import Slices
from runner.throttle import Learned, LeasedPacer

_START_PER_S = 60.0


class Staff(msgspec.Struct, frozen=True):
    """What every worker of a run has from its birth."""

    opened: Opened
    slices: Slices | None
    index: Index
    """Of the run's own journals."""
    processes: int


def employ(staff: Staff, run: Callable[[Callable[[], Awaitable[None]]], None]) -> Nursery:
    """Return what makes workers for a run; *run* sees a coroutine through, in an event loop."""

    def work(end: socket.socket) -> None:
        random.seed()  # otherwise all would throw the same dice
        run(lambda: _Worker(staff).work(end))

    return Nursery(work)


class _Worker:
    """What the leading process is to a worker: its board, and who gives it shards."""

    def __init__(self, staff: Staff) -> None:
        self._staff = staff
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._merges = 0

    async def work(self, end: socket.socket) -> None:
        """Carry what comes, until told to leave. Dies at once when nobody leads any more."""
        opened, many = self._staff.opened, self._staff.processes
        settings = msgspec.structs.replace(
            opened.settings, concurrency=max(1, opened.settings.concurrency // many)
        )
        pacer = LeasedPacer(_START_PER_S)
        asker = Asker(
            settings,
            clocks=Clocks(time.monotonic, time.time, random.random),
            users=opened.checked.users,
            start=_part(learned_of(settings.base_url, opened.folder.path.parent), many),
            pacer=pacer,
            alone=False,
        )
        self._carrier = Carrier(
            opened,
            asker,
            self,
            index=self._staff.index,
            opens=self._open,
            slices=self._staff.slices,
            pacer=pacer,
        )
        self._wire: Wire[ToWorker] = await Wire.of(end, msgspec.msgpack.Decoder(ToWorker))
        self._wire.send(Hello(os.getpid()))
        async with (
            asker.asking(opened.job, opened.tokens, tell=self._carrier.tell) as exchanger,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._carrier.lease)
            await self._listen(exchanger, group)
            group.cancel_scope.cancel()

    async def lease(self, departures: int) -> Lease | None:
        """Return departures, as the board that it is."""
        number = next(self._numbers)
        lease: Lease | None = await self._ask(number, Wants(number, departures))
        return lease

    async def tell(self, told: Told) -> Orders:
        """Tell the one who leads, and return what that one orders."""
        number = next(self._numbers)
        orders: Orders = await self._ask(number, Says(number, told))
        return orders

    async def _ask(self, number: int, message: msgspec.Struct) -> Any:
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._wire.send(message)
        try:
            return await future
        finally:
            del self._asked[number]

    async def _listen(self, exchanger: Exchanger, group: anyio.abc.TaskGroup) -> None:
        while True:
            match await self._wire.receive():
                case None:
                    # Nobody holds the rate any more, nor the run's lock but we.
                    os._exit(1)
                case Leave():
                    return
                case Nudge():
                    self._carrier.nudge()
                case Carry() as order:
                    if order.merges != self._merges:
                        self._merges = order.merges
                        await anyio.to_thread.run_sync(self._staff.index.extend)
                    group.start_soon(self._carry, order, exchanger)
                case Ordered(number=number, orders=answer) | Leased(number=number, lease=answer):
                    if (future := self._asked.get(number)) is not None and not future.done():
                        future.set_result(answer)

    async def _carry(self, order: Carry, exchanger: Exchanger) -> None:
        try:
            await self._carrier.carry(order.shard, exchanger, began=order.began)
        except Exception as error:  # noqa: BLE001  # another one goes on with what is on disk
            diagnostics().error("worker.broke", error=type(error).__name__)
            os._exit(1)

    async def _open(self, shard: Shard, tell: Callable[..., None]) -> tuple[Record, Index]:
        place = self._staff.opened.folder.path / SHARDS / shard_name(shard.number)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for above in (place.parent, place.parent.parent):
                sync_directory(above)
        except OSError as error:
            raise DiskFault(f"{place}: cannot be made ({error.strerror})") from error
        record = Record(place, clock=time.monotonic, wall_clock=time.time, tell=tell)
        read = partial(Index.read, undo=place / UNDO, report=place / REPORT)
        return record, await anyio.to_thread.run_sync(read)


def _part(learned: Learned | None, many: int) -> Learned | None:
    """Return what one of *many* may begin with."""
    if learned is None:
        return None
    in_flight = max(1, learned.in_flight // many)
    return Learned(learned.rate_per_s / many, in_flight, learned.is_limit)
