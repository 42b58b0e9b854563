"""What happens to one change, in order: look, write down, touch, judge.

A step returns how the row ended, or the case that it has become once the API
took it and its effect is still to be proved. It writes down the intent, and
leaves the outcome to the sink. It raises `Closing` when the run ends first, and the row
then stays unprocessed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from runner.drift import moved_in_doubt, moved_since, narrowed_to
from runner.errors import Fault, FaultKind, SyncshiftError
from runner.exchange import Doubt, Exchange, Exchanger
from runner.job import Job
from runner.log import diagnostics, stamp
from runner.model import (
    Acceptance,
    Change,
    ErrorClass,
    Finding,
    Intent,
    Outcome,
    OutcomeKind,
    Proof,
    Response,
    Sighting,
    State,
)
from runner.proving import Case, accepted_at, begin, target
from runner.record import Record
from runner.retry import Ruling, judge
from runner.turnstile import Closing, Turnstile

_STALE_S = 300.0
"""What was read so long ago is read again before it is acted on."""


class Work(msgspec.Struct, frozen=True, gc=False):
    """One row that is to be carried, or whose end is known already."""

    change: Change | None = None
    intent: Intent | None = None
    """What an earlier session wrote down about it without learning how it ended."""
    known: Outcome | None = None
    """How it ends without being carried: invalid, or a duplicate of a row settled before."""
    planned: Finding | None = None
    """What was found when it was planned; nothing else may be changed."""
    accepted: Acceptance | None = None
    """An earlier session's word that the API took it: it is followed, and not sent again."""


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How a row ended, and the ruling behind it when it did not end well."""

    outcome: Outcome
    ruling: Ruling | None = None
    doubt: Case | None = None
    """It was given up, though it may have landed: what would be followed if it had."""

    @property
    def user_id(self) -> str:
        """As whom it was sent."""
        return self.outcome.user_id

    @property
    def http_status(self) -> int | None:
        """Of the last answer."""
        return self.outcome.http_status


class Update:
    """Carries one change as far as the API's acceptance. `until` may be set anew meanwhile."""

    def __init__(
        self,
        *,
        job: Job,
        exchanger: Exchanger,
        turnstile: Turnstile,
        record: Record,
        reads: bool,
        until: str | None,
        budgeted: bool = False,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """*reads*: look at the present state before it is changed.

        *until*: how far changes are proved; None: rows that start a re-sync until it has
        ended, others not at all. *budgeted*: such rows to its end, whatever *until* says.
        """
        self._job = job
        self._ask, self._foresee = exchanger.ask, exchanger.foresee
        self._turnstile = turnstile
        self._record = record
        self._reads = reads
        self.until = until
        self._budgeted = budgeted
        self._clock = clock
        self._wall_clock = wall_clock

    async def carry(self, work: Work) -> Ending | Case:
        """Take the change of *work* to its outcome, or as far as the API's acceptance.

        Raises `Closing`, and `DiskFault` when nothing can be recorded any more.
        """
        change = work.change
        assert change is not None  # noqa: S101  # what is not to be carried does not come here
        row = _Row(self, change, work.intent, work.planned)
        try:
            if not self._reads:
                return await row.write(None, None)
            return await row.look_then_write()
        except (Closing, SyncshiftError):
            raise
        except Exception as error:  # noqa: BLE001  # a row that breaks us harms itself only
            diagnostics().error("row.broke", row=change.row, error=type(error).__name__)
            ruling = judge(Fault(FaultKind.INTERNAL, type(error).__name__), writes=True)
            return row.end(OutcomeKind.EXHAUSTED, ruling=ruling)

    def target(self, change: Change, before: State | None) -> Proof:
        """Return how far *change* is to be proved, made to a sync in state *before*."""
        narrowed = narrowed_to(change, before) if before else change
        resyncs = self._job.starts_resync(narrowed, before)
        return target(None if resyncs and self._budgeted else self.until, resyncs=resyncs)


class _Row:
    """One change on its way, and what is known about it so far."""

    def __init__(
        self, step: Update, change: Change, intent: Intent | None, planned: Finding | None
    ) -> None:
        self._step = step
        self._change = change
        self._intent = intent
        self._planned = planned
        self._began = step._clock()
        self._before: State | None = intent.before if intent else None
        self._seen: Sighting | None = intent.seen if intent else None
        self._recorded_at = intent.timestamp if intent else ""
        self._sends = 0
        self._sent = intent is not None
        self._in_doubt = intent is not None
        self._last: Exchange | None = None
        self._looks, self._looked_at = 0, 0.0

    async def look_then_write(self) -> Ending | Case:
        """Read the present state, and send only what is not so yet."""
        job, change = self._step._job, self._change
        look = await self._look()
        self._looks, self._looked_at = self._looks + 1, self._step._clock()
        if not look.accepted:
            return self._given_up(look)
        answer = look.last.result
        assert isinstance(answer, Response)  # noqa: S101  # accepted, so it answered
        state = job.observe(answer) or {}
        in_force = job.verify(change, state)
        if self._intent is not None:
            if in_force:
                self._sends = 1  # at least: it is in force, so one has left
                return self._landed()
            if moved := moved_in_doubt(self._intent, state):
                return self._conflicted(ErrorClass.CONFLICT, moved)
            return await self.write(state, None)
        self._before = state
        if in_force:
            return self.end(OutcomeKind.UNCHANGED)
        if self._planned is not None and (why := moved_since(self._planned, state)):
            return self._conflicted(*why)
        if change.expected is not None:
            for name, wanted in change.expected.items():
                if name not in state:
                    return self._conflicted(
                        ErrorClass.UNKNOWN_STATE, f"the API does not tell {name} of this sync"
                    )
                if state[name] != wanted:
                    return self._conflicted(
                        ErrorClass.CONFLICT, f"{name} is {state[name]}; expected {wanted}"
                    )
        return await self.write(state, job.sight(answer))

    async def write(self, state: State | None, seen: Sighting | None) -> Ending | Case:
        """Record the intent, send what differs from *state*, and see how that went."""
        step, job, change = self._step, self._step._job, self._change
        narrowed = narrowed_to(change, state) if state else change
        request = job.write(narrowed)
        careful = step._reads and job.starts_resync(narrowed, state)
        await step._turnstile.approach(self._change.user_id)
        if self._looks == 1 and step._clock() - self._looked_at > _STALE_S:
            # It waited through a pause, say. Once: a slow pace must not have it look for ever.
            step._turnstile.withdraw(self._change.user_id)
            return await self.look_then_write()
        try:
            if self._intent is None:
                self._seen, self._recorded_at = seen, stamp(step._wall_clock())
                step._record.intend(
                    Intent(
                        row=change.row,
                        line=change.line,
                        sync_id=change.sync_id,
                        user_id=change.user_id,
                        before=self._before,
                        seen=seen,
                        desired=change.desired,
                        timestamp=self._recorded_at,
                    )
                )
                step._foresee(change)
                await step._record.durable()
        except BaseException:
            step._turnstile.withdraw(self._change.user_id)
            raise
        self._sent = self._in_doubt = True
        self._last = exchange = await step._ask(
            request,
            change,
            partial(job.echoes, narrowed),
            approached=True,
            look_again=self._look_again if careful else None,
        )
        self._sends += exchange.sends
        self._sent = self._sends > 0 or self._intent is not None
        self._in_doubt = exchange.in_doubt or self._intent is not None
        if exchange.accepted:
            return self._accepted(exchange)
        if exchange.landed or (exchange.in_doubt and await self._look_again() is Doubt.LANDED):
            return self._landed()
        return self._given_up(exchange)

    def _accepted(self, exchange: Exchange) -> Ending | Case:
        """Return the row's end if no more is to be proved, else what is."""
        target = self._step.target(self._change, self._before)
        if target is Proof.ACCEPTED:
            return self.end(OutcomeKind.UPDATED, proof=Proof.ACCEPTED)
        answer = exchange.last.result
        assert isinstance(answer, Response)  # noqa: S101  # accepted, so it answered
        acceptance = Acceptance(
            row=self._change.row,
            accepted_at=accepted_at(answer, now_s=self._step._wall_clock()),
            http_status=answer.status,
            request_id=answer.request_id,
            attempts=self._sends,
        )
        return self._case(acceptance, target)

    def _landed(self) -> Ending | Case:
        """Go on from a read that shows the change in force, although no answer has said so."""
        target = self._step.target(self._change, self._before)
        if target is not Proof.RESYNCED:
            return self.end(OutcomeKind.UPDATED, proof=Proof.CONFIRMED)
        return self._unanswered()

    def _unanswered(self) -> Case:
        row, at = self._change.row, self._recorded_at
        acceptance = Acceptance(row=row, accepted_at=at, attempts=self._sends)
        return self._case(acceptance, Proof.RESYNCED)

    def _case(self, acceptance: Acceptance, target: Proof) -> Case:
        return begin(
            self._change,
            before=self._before,
            seen=self._seen,
            acceptance=acceptance,
            target=target,
            began_s=self._began,
            since_s=self._step._clock(),
        )

    async def _look(self) -> Exchange:
        job, change = self._step._job, self._change
        look = await self._step._ask(
            job.read(change), change, lambda answer: job.observe(answer) is not None
        )
        self._last = self._last or look
        return look

    async def _look_again(self) -> Doubt:
        """Say whether a request that may have landed did."""
        look = await self._look()
        if not look.accepted or not isinstance(look.last.result, Response):
            return Doubt.UNKNOWN
        state = (job := self._step._job).observe(look.last.result) or {}
        return Doubt.LANDED if job.verify(self._change, state) else Doubt.SEND_AGAIN

    def _given_up(self, exchange: Exchange) -> Ending:
        self._last = exchange
        ruling = exchange.last.ruling
        rejected = ruling.final and ruling.error_class is not ErrorClass.INTERNAL
        kind = OutcomeKind.REJECTED if rejected else OutcomeKind.EXHAUSTED
        return self.end(kind, ruling=ruling)

    def _conflicted(self, error_class: ErrorClass, error: str) -> Ending:
        return self.end(OutcomeKind.CONFLICTED, error_class=error_class, error=error)

    def end(
        self,
        kind: OutcomeKind,
        *,
        proof: Proof | None = None,
        ruling: Ruling | None = None,
        error_class: ErrorClass | None = None,
        error: str | None = None,
    ) -> Ending:
        """Put together how the row ended."""
        change, last = self._change, self._last.last if self._last else None
        result = last.result if last else None
        outcome = Outcome(
            row=change.row,
            line=change.line,
            sync_id=change.sync_id,
            user_id=change.user_id,
            outcome=kind,
            proof=proof,
            sent=self._sent,
            before=self._before,
            desired=change.desired,
            http_status=last.status if last else None,
            error_class=ruling.error_class if ruling else error_class,
            error=ruling.error if ruling else error,
            attempts=self._sends,
            elapsed_ms=round((self._step._clock() - self._began) * 1000),
            request_id=result.request_id if isinstance(result, Response) else None,
        )
        return Ending(outcome, ruling, self._unanswered() if self._in_doubt else None)
