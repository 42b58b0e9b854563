"""What happens to one row where nothing may be changed: look, and say what was found.

A survey is handed what can look and cannot write, so there is nothing in it that
could send a change. It returns what it found and leaves writing that down to
others. It raises `Closing` when the command ends first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from runner import drift
from runner.errors import Fault, FaultKind, SyncshiftError
from runner.exchange import Exchange
from runner.job import Job
from runner.log import diagnostics, stamp
from runner.model import Change, ErrorClass, Finding, FindingKind, Response, Sighting, State
from runner.retry import Ruling, judge
from runner.steps import Work
from runner.turnstile import Closing


class Looks(Protocol):
    """Asks for the present state of a sync. Nothing else can be sent through it."""

    async def look(self, change: Change) -> Exchange:
        """Read the sync of *change*. Raises `Closing`."""
        ...


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What a look found, and the ruling behind it when it was not answered well."""

    finding: Finding
    ruling: Ruling | None = None

    @property
    def user_id(self) -> str:
        """As whom it was asked."""
        return self.finding.user_id

    @property
    def http_status(self) -> int | None:
        """Of the answer, where one came."""
        return self.finding.http_status


class Told(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What an answer comes to for one row."""

    finding: FindingKind
    resync: bool = False
    error_class: ErrorClass | None = None
    error: str | None = None


class Question(Protocol):
    """What is asked of each row's sync: of its state, or of why it was not told."""

    def weigh(self, change: Change, state: State, seen: Sighting) -> Told:
        """Say what *state* means for *change*."""
        ...

    def refused(self, ruling: Ruling) -> FindingKind:
        """Say what it means that there was no good answer."""
        ...


class Planning:
    """Whether a row would change its sync, and whether it may."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def weigh(self, change: Change, state: State, seen: Sighting) -> Told:
        """Compare in the order in which a run does: in force goes before not expected."""
        if self._job.verify(change, state):
            return Told(finding=FindingKind.UNCHANGED)
        if error := drift.unexpected(change, state):
            return Told(
                finding=FindingKind.CONFLICTED, error_class=ErrorClass.CONFLICT, error=error
            )
        if error := drift.untold(change, state):
            return Told(
                finding=FindingKind.UNKNOWN, error_class=ErrorClass.UNKNOWN_STATE, error=error
            )
        resync = self._job.starts_resync(change, state)
        warning = self._job.caution(change, state, seen)
        return Told(finding=FindingKind.CHANGE, resync=resync, error=warning)

    def refused(self, ruling: Ruling) -> FindingKind:
        """A refusal blocks the row; an answer that never came leaves it unknown."""
        own_fault = ruling.error_class is ErrorClass.INTERNAL
        return FindingKind.BLOCKED if ruling.final and not own_fault else FindingKind.UNKNOWN


class Verifying:
    """Whether a sync is as a run left it."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def weigh(self, change: Change, state: State, seen: Sighting) -> Told:
        """One field that differs outweighs one that is not told."""
        in_force = self._job.verify(change, state)
        if in_force:
            return Told(finding=FindingKind.IN_FORCE)
        if in_force is None:
            return Told(
                finding=FindingKind.NOT_TOLD,
                error_class=ErrorClass.UNKNOWN_STATE,
                error=drift.untold(change, state),
            )
        return Told(
            finding=FindingKind.DRIFTED,
            error_class=ErrorClass.CONFLICT,
            error=drift.differs(change.desired, state),
        )

    def refused(self, ruling: Ruling) -> FindingKind:
        """Only an answer that there is no such sync says that it is gone."""
        gone = ruling.final and ruling.error_class is ErrorClass.NOT_FOUND
        return FindingKind.GONE if gone else FindingKind.NOT_TOLD


class Survey:
    """Looks at one row's sync after the other. It cannot change any."""

    def __init__(
        self,
        *,
        job: Job,
        looks: Looks,
        question: Question,
        wall_clock: Callable[[], float],
        remark: Callable[[int], str | None] = lambda row: None,
    ) -> None:
        """*remark* gives what is known of a row besides, for findings that are not good."""
        self._job = job
        self._look = looks.look
        self._question = question
        self._wall_clock = wall_clock
        self._remark = remark

    async def carry(self, work: Work) -> Seen:
        """Look at the sync of *work*. Raises `Closing`."""
        change = work.change
        assert change is not None  # noqa: S101  # what is not to be carried does not come here
        try:
            return await self._find(change)
        except (Closing, SyncshiftError):
            raise
        except Exception as error:  # noqa: BLE001  # a row that breaks us harms itself only
            diagnostics().error("row.broke", row=change.row, error=type(error).__name__)
            return self._unanswered(
                change, judge(Fault(FaultKind.INTERNAL, type(error).__name__), writes=False), None
            )

    async def _find(self, change: Change) -> Seen:
        exchange = await self._look(change)
        answer = exchange.last.result
        if not exchange.accepted or not isinstance(answer, Response):
            return self._unanswered(change, exchange.last.ruling, exchange.last.status)
        state, seen = self._job.observe(answer) or {}, self._job.sight(answer)
        told = self._question.weigh(change, state, seen)
        return Seen(self._finding(change, told, status=answer.status, state=state, seen=seen))

    def _unanswered(self, change: Change, ruling: Ruling, status: int | None) -> Seen:
        told = Told(
            finding=self._question.refused(ruling),
            error_class=ruling.error_class,
            error=ruling.error,
        )
        return Seen(self._finding(change, told, status=status), ruling)

    def _finding(
        self,
        change: Change,
        told: Told,
        *,
        status: int | None,
        state: State | None = None,
        seen: Sighting | None = None,
    ) -> Finding:
        error = told.error
        if error is not None and (remark := self._remark(change.row)):
            error = f"{error}; {remark}"
        return Finding(
            row=change.row,
            line=change.line,
            sync_id=change.sync_id,
            user_id=change.user_id,
            finding=told.finding,
            before=state,
            seen=seen,
            desired=change.desired,
            resync=told.resync,
            http_status=status,
            error_class=told.error_class,
            error=error,
            timestamp=stamp(self._wall_clock()),
        )
