"""Moves changes from a source through a step into a sink, many at a time.

The source is read a block at a time in a thread; a full house stops it. A
worker carries one change at a time and is at most one outcome ahead of the disk:
that of the last change is on disk before anything is sent for the next. There are
more workers than requests in flight, because a worker that waits for the disk
holds no slot.
"""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread
import msgspec

from runner.errors import DiskFault, RunFault, RunStopped, SyncshiftError
from runner.model import Outcome, OutcomeKind
from runner.results import duplicate
from runner.rollout import FailureLimit, Suspicions
from runner.steps import Ending, Work
from runner.turnstile import Closing, Turnstile

_WORKERS_PER_SLOT = 3
_FEWEST_WORKERS = 12
"""Enough for as many rows to be under way as it takes to see that the server is down."""
_COLLECT_AFTER = 10_000
_KNOWN_BEFORE = {OutcomeKind.INVALID, OutcomeKind.IRREVERSIBLE}
"""Rows that end so were told of before anything was sent; no limit counts them."""


class Tally(msgspec.Struct):
    """What has happened so far in this process; read by whoever shows progress."""

    counts: dict[str, int] = {}
    """Rows by how they ended, or by what was found of them."""
    ended: int = 0
    failed: int = 0
    """As the failure limit counts them: without invalid rows."""
    carried: int = 0
    """Rows in the hands of a worker."""
    followed: int = 0
    """Rows that were accepted and are still to be proved."""
    looks_again_at: float | None = None
    """When the next of these is looked at, on the run's steady clock."""


class Stop:
    """Why the run ends before its input does. The first reason stands."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self.reason: SyncshiftError | None = None
        self.in_flight = 0
        """Requests in flight when the reason came up."""

    def __call__(self, reason: SyncshiftError) -> None:
        """Take no more rows and send no more requests; those in flight may land."""
        if self.reason is None:
            self.reason = reason
            self.in_flight = self._turnstile.throttle.in_flight
        self._turnstile.close()


class Commits(Protocol):
    """What gets outcomes onto the disk; `runner.journal.Committer` is the one there is."""

    def commit(self) -> int:
        """Have all that was written down so far put on disk soon; return the commit's number."""
        ...

    def has_ended(self, commit: int) -> bool:
        """Whether everything of *commit* is on disk."""
        ...

    def durable(self) -> Awaitable[None]:
        """Return what ends once all that was written down is on disk, or raises `DiskFault`."""
        ...


class Beside(Protocol):
    """What goes on beside the workers, with rows that they have let go of."""

    async def run(self) -> None:
        """Go on until `finish` was called and no row is left, or the run ends."""
        ...

    def finish(self) -> None:
        """Take in that no more rows come."""
        ...


_EndingT = TypeVar("_EndingT")
_EndingT_contra = TypeVar("_EndingT_contra", contravariant=True)


class Ends(Protocol[_EndingT_contra]):
    """What a flow needs of the place where rows end; `Sink` is that of runs that send."""

    tally: Tally

    def end(self, ending: _EndingT_contra) -> None:
        """Take in how a row ended."""
        ...

    def end_known(self, outcome: Outcome) -> None:
        """Take in a row that ended without being carried."""
        ...

    def acquit(self) -> None:
        """Take in that the input has ended."""
        ...

    def commit(self) -> int:
        """Have everything that has ended written soon; return a mark for `durable`."""
        ...

    async def durable(self, mark: int | None = None) -> None:
        """Return once everything that had ended at *mark*, or now, is on disk."""
        ...


class Sink:
    """Where rows end: weighs, writes down, counts, and sees to the duplicates."""

    def __init__(
        self,
        *,
        settle: Callable[[Outcome], None],
        commits: Commits,
        stop: Stop,
        limit: FailureLimit,
        suspicions: Suspicions[Ending],
        duplicates_of: Callable[[int], tuple[tuple[int, int], ...]],
        is_settled: Callable[[int], bool],
        pardoned: Collection[OutcomeKind] = (),
    ) -> None:
        """*duplicates_of* a row gives (row, line) of the later rows that ask for the same.

        Rows that end in a way that is *pardoned* do not count as failed against *limit*.
        """
        self._pardoned = pardoned
        self._settle = settle
        self._commits = commits
        self._stop = stop
        self._limit = limit
        self._suspicions = suspicions
        self._duplicates_of = duplicates_of
        self._is_settled = is_settled
        self.tally = Tally(counts=dict.fromkeys(OutcomeKind, 0))

    def end(self, ending: Ending) -> None:
        """Take in how a row ended; it may be kept back for a while."""
        try:
            for free in self._suspicions.weigh(ending):
                self._write(free.outcome)
        except RunStopped as fault:
            self._stop(fault)

    def end_known(self, outcome: Outcome) -> None:
        """Take in a row that ended without being carried."""
        self._write(outcome)

    def acquit(self) -> None:
        """The input has ended: what was kept back ends as it was found."""
        for ending in self._suspicions.acquit():
            self._write(ending.outcome)

    def commit(self) -> int:
        """Have everything that has ended written soon; return a mark for `durable`."""
        return self._commits.commit()

    async def durable(self, mark: int | None = None) -> None:
        """Return once everything that had ended at *mark*, or now, is on disk.

        Raises `DiskFault`.
        """
        if mark is None or not self._commits.has_ended(mark):
            await self._commits.durable()

    def _write(self, outcome: Outcome) -> None:
        self._settle(outcome)
        tally = self.tally
        tally.counts[outcome.outcome] += 1
        if outcome.outcome not in _KNOWN_BEFORE:
            tally.ended += 1
            if not outcome.succeeded and outcome.outcome not in self._pardoned:
                tally.failed += 1
                self._look_at_limit()
        for row, line in self._duplicates_of(outcome.row):
            if not self._is_settled(row):
                self._write(duplicate(outcome, row=row, line=line))

    def _look_at_limit(self) -> None:
        tally = self.tally
        if self._stop.reason is None and self._limit.exceeded(
            failed=tally.failed, ended=tally.ended
        ):
            self._stop(self._limit.reached(failed=tally.failed, ended=tally.ended))


def workers_for(*, concurrency: int, rows: int) -> int:
    """Return how many workers keep *concurrency* requests in flight."""
    return min(max(_WORKERS_PER_SLOT * concurrency, _FEWEST_WORKERS), rows)


async def flow(
    blocks: Iterator[list[Work]],
    carry: Callable[[Work], Awaitable[_EndingT | None]],
    sink: Ends[_EndingT],
    *,
    workers: int,
    stop: Stop,
    beside: Beside | None = None,
) -> None:
    """Carry everything that *blocks* yields, with *workers* at a time, until its end or a stop.

    A row for which *carry* returns None ends later, *beside*. A stop lets go of every row
    that waits and lets requests in flight land. Raises what *blocks* raises.
    """
    hall = _Hall(blocks, stop)
    with _collecting_rarely():
        async with anyio.create_task_group() as team:
            team.start_soon(hall.fill)
            async with anyio.create_task_group() as company:
                if beside is not None:
                    company.start_soon(beside.run)
                async with anyio.create_task_group() as hands:
                    for _ in range(workers):
                        hands.start_soon(_work, hall, carry, sink, stop)
                if beside is not None:
                    beside.finish()
            # Nobody takes blocks any more: a reader that waits to hand one over may go.
            team.cancel_scope.cancel()
    if stop.reason is None:
        sink.acquit()
        try:
            await sink.durable()
        except DiskFault as fault:
            stop(fault)


@contextlib.contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Have Python look for cyclic garbage less often than it would by itself.

    It would look every few rows, at hundreds of rows under way and at all that
    was ever imported, and find next to nothing: a row leaves hardly any cycles.
    """
    usual = gc.get_threshold()
    if usual[0]:
        gc.set_threshold(max(usual[0], _COLLECT_AFTER), *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Hall:
    """Where rows wait for a worker: one block at hand, the next one read ahead."""

    def __init__(self, blocks: Iterator[list[Work]], stop: Stop) -> None:
        self._blocks = blocks
        self._stop = stop
        self._send, self._receive = anyio.create_memory_object_stream[list[Work]](1)
        self._ready: deque[Work] = deque()
        self._lock = anyio.Lock()

    async def fill(self) -> None:
        """Read blocks until the input or the run ends."""
        with self._receive, self._send:
            while not self._stop.reason:
                try:
                    block = await anyio.to_thread.run_sync(next, self._blocks, None)
                except SyncshiftError as error:
                    self._stop(RunFault(f"the input can no longer be used: {error}"))
                    return
                if block is None:
                    self._send.close()
                    await anyio.sleep_forever()
                else:
                    await self._send.send(block)

    async def take(self) -> Work | None:
        """Return the next row, or None when there is no more."""
        while not self._ready:
            if self._stop.reason:
                return None
            async with self._lock:
                if not self._ready:
                    try:
                        self._ready.extend(await self._receive.receive())
                    except (anyio.EndOfStream, anyio.ClosedResourceError):
                        return None
        return None if self._stop.reason else self._ready.popleft()


async def _work(
    hall: _Hall,
    carry: Callable[[Work], Awaitable[_EndingT | None]],
    sink: Ends[_EndingT],
    stop: Stop,
) -> None:
    mark = 0
    while (item := await hall.take()) is not None:
        try:
            if item.change is not None:
                sink.tally.carried += 1
                try:
                    ending = await carry(item)
                    if ending is not None:
                        sink.end(ending)
                finally:
                    sink.tally.carried -= 1
            elif item.known is not None:
                sink.end_known(item.known)
            # The outcome before this one: a worker is one ahead of the disk, never two. What
            # it sends next leaves after the intent, which is written after this outcome.
            await sink.durable(mark)
            mark = sink.commit()
        except Closing:
            return
        except DiskFault as fault:
            stop(fault)
            return
