"""Follows rows that the API took until their effect is proved, without a worker or a slot.

A row that sleeps is a few hundred bytes in a heap, ordered by when it is looked
at next. One scheduler wakes those that are due, so many at a time as requests
may be in flight; each look goes through the same exchanger as all else, and
pays the same throttle.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import msgspec

from runner.attempt import Clocks
from runner.budget import Budget
from runner.errors import DiskFault, SyncshiftError
from runner.exchange import Exchanger
from runner.job import Job
from runner.log import diagnostics
from runner.model import ErrorClass, Outcome, OutcomeKind, Proof, Response
from runner.proving import Case, End, Prover, begin, moment_s
from runner.record import Record
from runner.retry import Ruling
from runner.steps import Ending, Update, Work
from runner.turnstile import Closing, SetAside, Turnstile

MOST_ASLEEP = 50_000
"""Rows that are followed at once. While there are so many, workers wait with the next."""

_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder(Case).decode


class Told(Protocol):
    """Where the figures go that are shown of a run; `runner.pipeline.Tally` is the one there is."""

    followed: int
    looks_again_at: float | None


class Ends(Protocol):
    """Where followed rows end; `runner.pipeline.Sink` is the one there is."""

    @property
    def tally(self) -> Told:
        """What is shown of the run."""
        ...

    def end(self, ending: Ending) -> None:
        """Take in how a row ended."""
        ...

    def durable(self) -> Awaitable[None]:
        """Return once it is on disk, or raise `DiskFault`."""
        ...


class Follower:
    """Carries rows through *update*, and follows those that are to be proved further.

    Belongs to one event loop.
    """

    def __init__(
        self,
        update: Update,
        *,
        job: Job,
        exchanger: Exchanger,
        turnstile: Turnstile,
        record: Record,
        sink: Ends,
        stop: Callable[[SyncshiftError], None],
        clocks: Clocks,
        confirm_timeout_s: float,
        resync_timeout_s: float,
        budget: Budget | None = None,
        most_asleep: int = MOST_ASLEEP,
    ) -> None:
        """*stop* ends the run when the disk fails.

        The tickets of *budget* are given back when their re-syncs have ended. A row that was
        given up, though it may have landed, is looked after until that is clear or other
        rows need its ticket no more.
        """
        self._update = update
        self._job = job
        self._ask = exchanger.ask
        self._turnstile = turnstile
        self._record = record
        self._sink = sink
        self._stop = stop
        self._clocks = clocks
        self._most_asleep = most_asleep
        self._budget = budget
        self._prover = Prover(
            job, confirm_timeout_s=confirm_timeout_s, resync_timeout_s=resync_timeout_s
        )
        self._asleep: list[tuple[float, int, bytes]] = []
        """When a row is looked at next, its number, its case."""
        self._doubtful: set[int] = set()
        """Rows that have their outcome, and are looked after all the same."""
        self._looking = 0
        self._finished = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def carry(self, work: Work) -> Ending | None:
        """Take the change of *work* to its end; None: from now on it is followed.

        That it was accepted is then on disk. Raises as `Update.carry` does.
        """
        if work.accepted is not None:
            case = self._taken_up(work)
        else:
            try:
                carried = await self._update.carry(work)
            except SetAside:
                if self._budget is not None and work.change is not None:
                    self._budget.give_back(work.change.row)
                raise
            if isinstance(carried, Ending):
                self._let_go(carried)
                return carried
            case = carried
            self._record.accept(case.acceptance)
            await self._record.durable()
        while self._sink.tally.followed >= self._most_asleep and not self._turnstile.closed:
            self._room.clear()
            await self._room.wait()
        self._sink.tally.followed += 1
        self._lay_down(case, at_least_s=0.0)
        return None

    async def run(self) -> None:
        """Look after rows until `finish` was called and none is left, or the run ends.

        May be called again, for more rows.
        """
        self._finished = False
        async with anyio.create_task_group() as team:
            team.start_soon(self._wake_at_closing)
            async with anyio.create_task_group() as looks:
                while not self._turnstile.closed and not self._is_done():
                    while self._is_due():
                        due_s, _, packed = heapq.heappop(self._asleep)
                        self._looking += 1
                        looks.start_soon(self._look, due_s, _UNPACK(packed))
                    await self._until_news()
                if self._doubtful:
                    looks.cancel_scope.cancel()
            team.cancel_scope.cancel()

    def finish(self) -> None:
        """Take in that no more rows come."""
        self._finished = True
        self._news.set()

    def _taken_up(self, work: Work) -> Case:
        """Return the case of a row that an earlier session saw accepted."""
        change, intent, accepted = work.change, work.intent, work.accepted
        assert change is not None and accepted is not None  # noqa: S101, PT018  # as in `carry`
        before = intent.before if intent else None
        now_s, wall_s = self._clocks.steady(), self._clocks.wall()
        told = accepted.timestamp
        since_s = moment_s(told if isinstance(told, str) else None) or wall_s
        target = self._update.target(change, before)
        return begin(
            change,
            before=before,
            seen=intent.seen if intent else None,
            acceptance=msgspec.structs.replace(accepted, timestamp=msgspec.UNSET),
            # It was on record as to be proved, so it is, even where the job has changed its mind.
            target=Proof.CONFIRMED if target is Proof.ACCEPTED else target,
            began_s=now_s,
            since_s=now_s - max(0.0, wall_s - since_s),
        )

    def _let_go(self, ending: Ending) -> None:
        """Take in that a row ends without being followed; but its re-sync may be under way."""
        budget, row = self._budget, ending.outcome.row
        if budget is None:
            return
        if ending.doubt is None or row not in budget:
            budget.give_back(row)
        else:
            self._doubtful.add(row)
            self._lay_down(ending.doubt, at_least_s=0.0)

    def _lay_down(self, case: Case, *, at_least_s: float) -> None:
        """Let a case sleep until its next look is due."""
        now_s = self._clocks.steady()
        pause_s = self._prover.pause_s(
            case, now_s=now_s, at_least_s=at_least_s, chance=self._clocks.chance()
        )
        heapq.heappush(self._asleep, (now_s + pause_s, case.change.row, _PACK(case)))
        self._tell_next()
        if self._asleep[0][1] == case.change.row:
            self._news.set()

    def _is_done(self) -> bool:
        return self._finished and len(self._asleep) + self._looking == len(self._doubtful)

    def _has_room(self) -> bool:
        return self._looking < self._turnstile.throttle.ceiling

    def _is_due(self) -> bool:
        return (
            self._has_room() and bool(self._asleep) and self._asleep[0][0] <= self._clocks.steady()
        )

    async def _until_news(self) -> None:
        """Return when a row may be due, a look has ended, or the run ends."""
        sleeps = self._asleep and self._has_room()
        due_in_s = max(0.0, self._asleep[0][0] - self._clocks.steady()) if sleeps else None
        with anyio.move_on_after(due_in_s):
            await self._news.wait()
        self._news.clear()

    async def _wake_at_closing(self) -> None:
        await self._turnstile.until_closed()
        self._news.set()
        self._room.set()

    async def _look(self, due_s: float, case: Case) -> None:
        """Look at one row: it ends, or goes back to sleep."""
        try:
            ending = await self._look_at(due_s, case)
            if ending is not None:
                await self._end(case.change.row, ending)
        except Closing:
            pass  # the row stays as it is: accepted, and to be followed by whoever resumes
        except anyio.get_cancelled_exc_class():
            # Nobody waits for it now; its ticket may be needed by the rows of the next `run`.
            self._lay_down(case, at_least_s=0.0)
            raise
        except asyncio.CancelledError:
            self._lay_down(case, at_least_s=0.0)  # until more rows come
            raise
        except DiskFault as fault:
            self._stop(fault)
        finally:
            self._looking -= 1
            self._tell_next()
            self._news.set()

    async def _end(self, row: int, ending: Ending) -> None:
        if row in self._doubtful:
            self._doubtful.remove(row)
        else:
            self._sink.tally.followed -= 1
            self._room.set()
            self._sink.end(ending)
            await self._sink.durable()
        if self._budget is not None:
            self._budget.give_back(row)

    async def _look_at(self, due_s: float, case: Case) -> Ending | None:
        job, change, prover = self._job, case.change, self._prover
        look = await self._ask(
            job.read(change), change, lambda answer: job.observe(answer) is not None
        )
        now_s = self._clocks.steady()
        # An outage, or a long queue at the throttle, is not the row's fault.
        case.delayed(max(0.0, now_s - due_s))
        ruling = look.last.ruling
        at_least_s = 0.0
        if look.accepted and isinstance(look.last.result, Response):
            try:
                found = prover.weigh(case, look.last.result, now_s=now_s)
            except Exception as error:  # noqa: BLE001  # a row that breaks us harms itself only
                diagnostics().error("row.broke", row=change.row, error=type(error).__name__)
                return self._ending(case, _broke(error), None)
            if isinstance(found, End):
                return self._ending(case, found, None)
            at_least_s = found
        elif ruling.final:
            end = prover.refused(case, ruling.error or "")
            return self._ending(case, end, ruling, http_status=look.last.status)
        elif (over := prover.missed(case, ruling.error or "", now_s=now_s)) is not None:
            return self._ending(case, over, ruling, http_status=look.last.status)
        self._lay_down(case, at_least_s=at_least_s)
        return None

    def _ending(
        self, case: Case, end: End, ruling: Ruling | None, *, http_status: int | None = None
    ) -> Ending:
        change, acceptance = case.change, case.acceptance
        outcome = Outcome(
            row=change.row,
            line=change.line,
            sync_id=change.sync_id,
            user_id=change.user_id,
            outcome=end.outcome,
            proof=end.proof,
            sent=True,
            before=case.before,
            desired=change.desired,
            http_status=http_status or acceptance.http_status,
            error_class=end.error_class,
            error=end.error,
            attempts=acceptance.attempts,
            elapsed_ms=round((self._clocks.steady() - case.began_s) * 1000),
            request_id=acceptance.request_id,
        )
        return Ending(outcome, ruling)

    def _tell_next(self) -> None:
        self._sink.tally.looks_again_at = self._asleep[0][0] if self._asleep else None


def _broke(error: Exception) -> End:
    said = f"accepted, but Syncshift itself failed on the answer to a look ({type(error).__name__})"
    return End(OutcomeKind.UNCONFIRMED, Proof.ACCEPTED, ErrorClass.INTERNAL, said)
