"""What a worker takes next: rows from the source, and rows that had to wait for something.

A worker never waits for what only some rows have to wait for. Before a row is handed out
each *lock* is asked; a row that is blocked is parked, packed small, and handed out once its
lock opens. Only so many are parked at a time; then reading pauses. Without locks a row costs
a look at the list of locks, and nothing more.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from typing import Final, Protocol

import anyio
import anyio.to_thread
import msgspec

from runner.errors import RunFault, SyncshiftError
from runner.steps import Work

MOST_PARKED = 50_000
"""Rows that wait for something, at most; while there are so many, reading pauses."""

LINE: Final = "the line"
"""Whatever is blocked by this holds up all rows behind it; none is parked for it."""

_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder(Work).decode


class Lock(Protocol):
    """What some rows have to wait for. Asked for every row, so it answers fast."""

    @property
    def reason(self) -> str:
        """In one word, as a wait is called."""
        ...

    def blocked_by(self, work: Work) -> Hashable | None:
        """Return what *work* has to wait for; None: nothing. Has no effect.

        A key belongs to one lock alone. `LINE` holds up everybody but rows that are parked.
        """
        ...

    def passed(self, work: Work) -> None:
        """Take in that *work* is handed out: no lock blocks it any more."""
        ...

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say why *rows* rows wait, and until when on the run's clock, where that is known."""
        ...

    def report_to(self, opened: Callable[[Hashable], None]) -> None:
        """Call *opened* with a key each time that what it blocked may pass, or some of it."""
        ...


class Halt(Protocol):
    """Why the run ends early; `runner.pipeline.Stop` is the one there is."""

    @property
    def reason(self) -> SyncshiftError | None:
        """None while it goes on."""
        ...

    def __call__(self, reason: SyncshiftError) -> None:
        """End the run."""
        ...

    def until(self) -> Awaitable[None]:
        """Return once it ends."""
        ...


class Waits(Protocol):
    """Where it is told that somebody waits; `runner.waits.Waits` is the one there is."""

    def begin(self, reason: str, detail: str, until_s: float | None = None) -> None:
        """Note that somebody waits, or bring up to date why."""
        ...

    def end(self, reason: str) -> None:
        """Note that nobody waits for *reason* any more."""
        ...


class Feed:
    """Hands out rows: one block at hand, the next read ahead, and what is parked.

    Belongs to one event loop.
    """

    def __init__(
        self,
        blocks: Iterator[list[Work]],
        stop: Halt,
        *,
        locks: Sequence[Lock] = (),
        waits: Waits | None = None,
        most_parked: int = MOST_PARKED,
    ) -> None:
        """*locks* are asked in this order, and none behind one that blocks."""
        self._blocks = blocks
        self._stop = stop
        self._locks = tuple(locks)
        self._waits = waits
        self._most_parked = most_parked
        self._ready: deque[Work] = deque()
        self._ahead: list[Work] = []
        self._ended = False
        self._room = asyncio.Event()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._parked: dict[Hashable, deque[bytes]] = {}
        self._keeper: dict[Hashable, Lock] = {}
        """Which lock blocks what is parked under a key."""
        self._open: dict[Hashable, None] = {}
        """Keys whose rows may be asked about again, oldest first."""
        self.parked = 0
        """How many rows wait for a lock."""
        self._waiting: Counter[str] = Counter()
        """Likewise by the reason of the lock."""
        self._holder: Lock | None = None
        """The lock that holds up the line."""
        for lock in self._locks:
            lock.report_to(self.opened)

    async def run(self) -> None:
        """Read blocks until the input or the run ends; then go on until canceled."""
        async with anyio.create_task_group() as team:
            team.start_soon(self._heed_stop)
            await self._fill()

    async def take(self) -> Work | None:
        """Return the next row that may go; None when there is no more, or the run ends."""
        while self._stop.reason is None:
            if self._ready and not self._locks:
                return self._ready.popleft()
            work = self._next()
            if work is not None:
                if self._takers and (self._open or self._ready or self._ahead or self._is_over):
                    self._wake(1)
                return work
            if self._is_over:
                break
            future = asyncio.get_running_loop().create_future()
            self._takers.append(future)
            await future
        self._wake(len(self._takers))
        return None

    def opened(self, key: Hashable) -> None:
        """Take in that some of what *key* blocks may pass."""
        if key == LINE:
            if self._holder is not None:
                self._tell_end(self._holder)
                self._holder = None
                self._wake(1)
        elif key in self._parked:
            self._open[key] = None
            self._wake(1)

    @property
    def _is_over(self) -> bool:
        return self._ended and not (self._ready or self._ahead or self._parked)

    async def _heed_stop(self) -> None:
        await self._stop.until()
        self._room.set()
        self._wake(len(self._takers))

    async def _fill(self) -> None:
        while self._stop.reason is None:
            try:
                block = await anyio.to_thread.run_sync(next, self._blocks, None)
            except SyncshiftError as error:
                self._stop(RunFault(f"the input can no longer be used: {error}"))
                break
            if block is None:
                break
            while self._ahead and self._stop.reason is None:
                self._room.clear()
                await self._room.wait()
            self._ahead = block
            self._wake(len(block))
        self._ended = True
        self._wake(len(self._takers))

    def _next(self) -> Work | None:
        """Return a row that may go now, if there is one; what is blocked is parked."""
        # Before the line is looked at: what waits in front of it need not wait for its head.
        if self._open and (work := self._let_through()) is not None:
            return work
        if self._holder is not None:
            return None
        ready = self._ready
        while self._holder is None and (ready or self._ahead):
            if not ready:
                ready.extend(self._ahead)
                self._ahead = []
                self._room.set()
                continue
            if self._locks and self.parked >= self._most_parked:
                return None
            work = ready.popleft()
            blocked = self._blocked_by(work)
            if blocked is None:
                return work
            lock, key = blocked
            if key == LINE:
                ready.appendleft(work)
                self._hold_up(lock)
            else:
                self._park(lock, key, _PACK(work))
        return None

    def _let_through(self) -> Work | None:
        """Return a parked row whose lock has opened, if no other one blocks it."""
        while self._open:
            key = next(iter(self._open))
            work = _UNPACK(self._parked[key][0])
            blocked = self._blocked_by(work)
            if blocked is None:
                self._unpark(key)
                return work
            lock, now = blocked
            if now == LINE:
                self._hold_up(lock)
                return None
            if now == key:
                del self._open[key]
            else:
                self._park(lock, now, self._unpark(key))
        return None

    def _blocked_by(self, work: Work) -> tuple[Lock, Hashable] | None:
        if work.change is None:
            return None
        for lock in self._locks:
            key = lock.blocked_by(work)
            if key is not None:
                return lock, key
        for lock in self._locks:
            lock.passed(work)
        return None

    def _park(self, lock: Lock, key: Hashable, packed: bytes) -> None:
        self._parked.setdefault(key, deque()).append(packed)
        self._keeper[key] = lock
        self.parked += 1
        self._waiting[lock.reason] += 1
        self._tell(lock)

    def _unpark(self, key: Hashable) -> bytes:
        lock, rows = self._keeper[key], self._parked[key]
        packed = rows.popleft()
        self.parked -= 1
        self._waiting[lock.reason] -= 1
        if not rows:
            del self._parked[key], self._keeper[key]
            self._open.pop(key, None)
        if self._waiting[lock.reason]:
            self._tell(lock)
        else:
            self._tell_end(lock)
        return packed

    def _hold_up(self, lock: Lock) -> None:
        if self._holder is not None and self._holder is not lock:
            # Whichever opens first, the head of the line is asked about again by both.
            self._tell_end(self._holder)
        self._holder = lock
        self._tell(lock)

    def _tell(self, lock: Lock) -> None:
        if self._waits is not None:
            self._waits.begin(lock.reason, *lock.why(self._waiting[lock.reason]))

    def _tell_end(self, lock: Lock) -> None:
        if self._waits is not None:
            self._waits.end(lock.reason)

    def _wake(self, takers: int) -> None:
        while takers > 0 and self._takers:
            future = self._takers.popleft()
            if not future.done():
                future.set_result(None)
                takers -= 1
