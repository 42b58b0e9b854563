"""Moves changes from a source through a step into a sink, many at a time.

The source is read a block at a time in a thread; a full house stops it. The feed
says what a worker takes next. A worker carries one change at a time and is at most
one outcome ahead of the disk: that of the last change is on disk before anything is
sent for the next. There are more workers than requests in flight, because a worker
that waits for the disk holds no slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Protocol, TypeVar

import anyio
import msgspec

from runner.crew import Crew, collecting_rarely
from runner.errors import DiskFault, RunStopped, SyncshiftError
from runner.feed import Feed, Lock, Waits
from runner.model import Outcome, OutcomeKind
from runner.results import duplicate
from runner.rollout import FailureLimit, Suspicions
from runner.steps import Ending, Work
from runner.turnstile import Closing, SetAside, Turnstile

_WORKERS_PER_SLOT = 3
_FEWEST_WORKERS = 12
"""Enough for as many rows to be under way as it takes to see that the server is down."""
KNOWN_BEFORE = {OutcomeKind.INVALID, OutcomeKind.IRREVERSIBLE}
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

    def __init__(
        self, turnstile: Turnstile, *, patience_over: Callable[[], SyncshiftError] | None = None
    ) -> None:
        """*patience_over* says why the run ends when rows that were set aside are all it has."""
        self._turnstile = turnstile
        self._patience_over = patience_over
        self.reason: SyncshiftError | None = None
        self.in_flight = 0
        """Requests in flight when the reason came up."""

    def __call__(self, reason: SyncshiftError) -> None:
        """Take no more rows and send no more requests; those in flight may land."""
        if self.reason is None:
            self.reason = reason
            self.in_flight = self.flying
        self._turnstile.close()

    @property
    def flying(self) -> int:
        """Requests in flight now."""
        return self._turnstile.throttle.in_flight

    def if_set_aside(self) -> None:
        """End the run, for nothing else is left to do, if rows were set aside."""
        if self._patience_over is not None and self._turnstile.lanes.set_aside:
            self(self._patience_over())

    async def until(self) -> None:
        """Return once the run ends before its input does."""
        await self._turnstile.until_closed()


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

    def set_aside(self) -> None:
        """Take in that a row stays as it is for now: it ends when the run is resumed."""
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
        strict: bool = False,
    ) -> None:
        """*duplicates_of* a row gives (row, line) of the later rows that ask for the same.

        Rows that end in a way that is *pardoned* do not count as failed against *limit*.
        Where that is *strict*, no more rows are kept back than may still fail.
        """
        self._pardoned = pardoned
        self._settle = settle
        self._commits = commits
        self._stop = stop
        self._strict = strict
        self.limit = limit
        """May be replaced at any time."""
        self._suspicions = suspicions
        self._duplicates_of = duplicates_of
        self._is_settled = is_settled
        self.tally = Tally(counts=dict.fromkeys(OutcomeKind, 0))
        self.on_end: Callable[[], None] | None = None
        """Called when a row has ended, whether it is kept back or not."""

    @property
    def kept_back(self) -> int:
        """Rows that have ended, and of which it is not known yet whether that counts."""
        return self._suspicions.kept

    def end(self, ending: Ending) -> None:
        """Take in how a row ended; it may be kept back for a while."""
        try:
            for free in self._suspicions.weigh(ending):
                self._write(free.outcome)
        except RunStopped as fault:
            self._stop(fault)
        if self._strict and (kept := self.kept_back):
            tally = self.tally
            if self.limit.exceeded(failed=tally.failed + kept, ended=tally.ended + kept):
                self.acquit()  # and the limit is reached, whatever is behind it
        if self.on_end is not None:
            self.on_end()

    def end_known(self, outcome: Outcome) -> None:
        """Take in a row that ended without being carried."""
        self._write(outcome)

    def set_aside(self) -> None:
        """Take in that a row stays as it is for now: it ends when the run is resumed."""
        if self.on_end is not None:
            self.on_end()

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
        if outcome.outcome not in KNOWN_BEFORE:
            tally.ended += 1
            if not outcome.succeeded and outcome.outcome not in self._pardoned:
                tally.failed += 1
            # A share may be exceeded by a row that ended well: the one that makes it count.
            if tally.failed:
                self._look_at_limit()
        for row, line in self._duplicates_of(outcome.row):
            if not self._is_settled(row):
                self._write(duplicate(outcome, row=row, line=line))

    def _look_at_limit(self) -> None:
        failed, ended = self.tally.failed, self.tally.ended
        if self._stop.reason is None and self.limit.exceeded(failed=failed, ended=ended):
            flying = self._stop.flying
            self._stop(self.limit.reached(failed=failed, ended=ended, in_flight=flying))


def workers_for(*, concurrency: int, rows: int) -> int:
    """Return how many workers keep *concurrency* requests in flight."""
    return min(max(_WORKERS_PER_SLOT * concurrency, _FEWEST_WORKERS), rows)


async def flow(
    blocks: Iterator[list[Work]],
    carry: Callable[[Work], Awaitable[_EndingT | None]],
    sink: Ends[_EndingT],
    *,
    workers: int | Crew,
    stop: Stop,
    beside: Beside | None = None,
    locks: Sequence[Lock] = (),
    waits: Waits | None = None,
) -> None:
    """Carry everything that *blocks* yields, with *workers* at a time, until its end or a stop.

    A row for which *carry* returns None ends later, *beside*. One that a lock of *locks*
    blocks is carried once that opens, and *waits* is told of it. A stop lets go of every row
    that waits and lets requests in flight land. Raises what *blocks* raises.
    """
    feed = Feed(blocks, stop, locks=locks, waits=waits)
    crew = workers if isinstance(workers, Crew) else Crew(workers)
    with collecting_rarely():
        async with anyio.create_task_group() as team:
            team.start_soon(feed.run)
            async with anyio.create_task_group() as company:
                if beside is not None:
                    company.start_soon(beside.run)
                async with anyio.create_task_group() as hands:
                    crew.begin(lambda: hands.start_soon(_work, feed, carry, sink, stop))
                crew.end()
                if beside is not None:
                    beside.finish()
            # Nobody takes blocks any more: a reader that waits to hand one over may go.
            team.cancel_scope.cancel()
    stop.if_set_aside()
    if stop.reason is None:
        sink.acquit()
        try:
            await sink.durable()
        except DiskFault as fault:
            stop(fault)


async def _work(
    feed: Feed,
    carry: Callable[[Work], Awaitable[_EndingT | None]],
    sink: Ends[_EndingT],
    stop: Stop,
) -> None:
    mark = 0
    while (item := await feed.take()) is not None:
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
        except SetAside:
            sink.set_aside()
        except Closing:
            return
        except DiskFault as fault:
            stop(fault)
            return
