"""What looks at a sync show of a change that the API took, and when to look again.

Pure: it is handed answers and moments, and hands back an end or a pause. A
change is in force once a read shows it; the re-sync that it starts has ended
once the sync is ``IDLE`` and was last synced later than the change was accepted.
"""

from __future__ import annotations

import datetime
import email.utils

import msgspec

from runner.job import Job
from runner.log import stamp
from runner.model import (
    Acceptance,
    Change,
    ErrorClass,
    OutcomeKind,
    Progress,
    Proof,
    Response,
    Sighting,
    State,
)
from runner.retry import in_one_line

_GRAIN_S = 0.01
"""A timer may fire, and a sum of seconds may be off, by this much."""
_UNTOLD_S = 3.0
"""So long a field may stay away that no sync of this run has ever told."""
_SPREAD = 0.2
_CONFIRM_S = (0.25, 2.0, 8.0)
_RESYNC_S = (1.0, 1.5, 60.0)
"""The first pause between two looks, by how much each next one is longer, and the longest."""

_IDLE = "IDLE"
_ERRORED = "ERRORED"
_DISABLED = "DISABLED"


class Case(msgspec.Struct, array_like=True, gc=False):
    """A change that the API took, and what looks have shown of it so far."""

    change: Change
    before: State | None
    seen: Sighting | None
    """What was read besides the state before the change; None: it was not read."""
    acceptance: Acceptance
    target: Proof
    """How far it is to be proved: `Proof.CONFIRMED` or `Proof.RESYNCED`."""
    began_s: float
    """When its row was taken up, on the run's steady clock; the others likewise."""
    since_s: float
    """When it was accepted. Moved on by whatever time nobody could look."""
    in_force_s: float | None = None
    """When a look last showed it in force."""
    looks: int = 0
    """Looks since it was accepted or, once it waits for a re-sync, since then."""
    resyncing: bool = False
    """Whether nothing but the end of the re-sync is missing."""
    was_errored: bool = False
    """It was ``ERRORED`` before, and has not been seen in any other state since."""
    shown: str = "no look has told anything"
    """What the last look showed, in words."""

    def delayed(self, seconds: float) -> None:
        """Let *seconds*, for which a look had to wait, not count against the row."""
        self.since_s += seconds
        if self.in_force_s is not None:
            self.in_force_s += seconds


class End(msgspec.Struct, frozen=True, gc=False):
    """How a case ends."""

    outcome: OutcomeKind
    proof: Proof
    error_class: ErrorClass | None = None
    error: str | None = None
    """Why it failed, or what to mind although it did not."""


def target(until: str | None, *, resyncs: bool) -> Proof:
    """Return how far a change is proved under ``--until``; *resyncs*: it may start a re-sync."""
    return _TARGETS[until][resyncs]


_TARGETS = {
    None: (Proof.ACCEPTED, Proof.RESYNCED),
    "accepted": (Proof.ACCEPTED, Proof.ACCEPTED),
    "confirmed": (Proof.CONFIRMED, Proof.CONFIRMED),
    "resynced": (Proof.CONFIRMED, Proof.RESYNCED),
}
"""By `--until`, for changes that start no re-sync and for those that do."""


def begin(
    change: Change,
    *,
    before: State | None,
    seen: Sighting | None,
    acceptance: Acceptance,
    target: Proof,
    began_s: float,
    since_s: float,
) -> Case:
    """Return the case of a change that was accepted at *since_s* and not looked at yet."""
    was_errored = seen is not None and seen.status == _ERRORED
    return Case(change, before, seen, acceptance, target, began_s, since_s, was_errored=was_errored)


class Prover:
    """Judges every case of one run; learns from each which fields the API tells at all."""

    def __init__(self, job: Job, *, confirm_timeout_s: float, resync_timeout_s: float) -> None:
        self._job = job
        self._confirm_s = confirm_timeout_s
        self._resync_s = resync_timeout_s
        self._told: set[str] = set()

    def weigh(self, case: Case, answer: Response, *, now_s: float) -> End | float:
        """Take in a look; return how the case ends, or for how long the API asks to be let be."""
        state = self._job.observe(answer) or {}
        progress = self._job.progress(answer)
        in_force = self._job.verify(case.change, state)
        self._told.update(state, case.before or ())
        case.looks += 1
        case.was_errored &= progress.status in {_ERRORED, None}
        if in_force is False:
            case.shown = _differing(case.change, state)
            end = self._not_in_force(case, progress, now_s)
        else:
            if in_force:
                case.in_force_s = now_s
            case.shown = f"the status of the sync is {progress.status or 'not told'}"
            end = self._in_force(case, progress, _untold(case.change, state), now_s)
        return end or min(progress.backoff_s or 0.0, self._resync_s)

    def missed(self, case: Case, error: str, *, now_s: float) -> End | None:
        """Take in that a look came to nothing because of *error*."""
        case.looks += 1
        case.shown = f"it could not be looked at: {error}"
        return self._in_vain(case) if self._is_over(case, now_s) else None

    def refused(self, case: Case, error: str) -> End:
        """Return how a case ends whose sync the API does not show any more."""
        case.shown = f"it can no longer be looked at: {error}"
        if case.resyncing:
            return _proved(case, f"the re-sync was not seen to end: {case.shown}")
        error = f"accepted, but not seen in force: {case.shown}"
        return End(OutcomeKind.UNCONFIRMED, Proof.ACCEPTED, ErrorClass.UNCONFIRMED, error)

    def pause_s(self, case: Case, *, now_s: float, at_least_s: float, chance: float) -> float:
        """Return for how long a case that has not ended sleeps until its next look.

        The last look is made when its time is over. *chance* is from 0 to 1.
        """
        first_s, factor, longest_s = _RESYNC_S if case.resyncing else _CONFIRM_S
        pause_s = min(longest_s, first_s * factor ** min(case.looks, 30))
        pause_s *= 1 - _SPREAD + 2 * _SPREAD * chance
        return max(min(pause_s, self._over_at(case) - now_s), at_least_s, 0.0)

    # --------------------------------------------------------------------------- what it comes to

    def _in_force(
        self, case: Case, progress: Progress, untold: list[str], now_s: float
    ) -> End | None:
        """Go by a look that shows nothing that is not as desired."""
        if untold and not self._stays_untold(case, untold, now_s):
            return None
        remark = f"the API does not tell {' and '.join(untold)} of this sync" if untold else None
        if case.target is not Proof.RESYNCED:
            return _proved(case, remark)
        if not case.resyncing:
            case.resyncing, case.looks = True, 0
        over = self._is_over(case, now_s)
        if progress.status == _ERRORED and (over or not case.was_errored):
            return _errored(case, progress)
        if progress.status == _DISABLED:
            return _proved(case, _and(remark, "the sync is DISABLED, so no re-sync runs"))
        if progress.status == _IDLE:
            if _later(progress.last_synced_at, case):
                return End(OutcomeKind.UPDATED, Proof.RESYNCED, error=remark)
            if progress.last_synced_at is None and self._elapsed(case, self._confirm_s, now_s):
                why = "the API does not tell when the sync last ran, so no re-sync was seen to end"
                return _proved(case, _and(remark, why))
        if over:
            return _proved(case, _and(remark, self._not_ended(case)))
        return None

    def _not_in_force(self, case: Case, progress: Progress, now_s: float) -> End | None:
        """Go by a look that shows something else than what is desired."""
        if case.resyncing:
            # It was in force. Several servers may answer, and one lags behind: another look.
            last_s = case.since_s if case.in_force_s is None else case.in_force_s
            if now_s - last_s < self._confirm_s - _GRAIN_S and not self._is_over(case, now_s):
                return None
            if progress.status == _ERRORED and not case.was_errored:
                return _errored(case, progress)
            return self._in_vain(case)
        if not self._is_over(case, now_s):
            return None
        if case.target is Proof.RESYNCED and progress.status == _ERRORED and not case.was_errored:
            return _errored(case, progress)
        return self._in_vain(case)

    def _in_vain(self, case: Case) -> End:
        """Return the end of a case whose time is over, or that cannot be looked at any more."""
        if case.resyncing:
            return _proved(case, self._not_ended(case))
        return End(
            OutcomeKind.UNCONFIRMED,
            Proof.ACCEPTED,
            ErrorClass.UNCONFIRMED,
            f"accepted, but not seen in force within {self._confirm_s:g} s: {case.shown}",
        )

    def _not_ended(self, case: Case) -> str:
        return f"the re-sync was not seen to end within {self._resync_s:g} s: {case.shown}"

    def _stays_untold(self, case: Case, untold: list[str], now_s: float) -> bool:
        """Tell whether to give up on fields that a look did not tell.

        A frequency is told only once it was set, so it may still come.
        """
        patience_s = self._confirm_s
        if not self._told.issuperset(untold):
            patience_s = min(patience_s, _UNTOLD_S)
        return case.resyncing or self._elapsed(case, patience_s, now_s)

    # --------------------------------------------------------------------------------- its time

    def _over_at(self, case: Case) -> float:
        return case.since_s + (self._resync_s if case.resyncing else self._confirm_s)

    def _is_over(self, case: Case, now_s: float) -> bool:
        return now_s >= self._over_at(case) - _GRAIN_S

    def _elapsed(self, case: Case, seconds: float, now_s: float) -> bool:
        return now_s - case.since_s >= seconds - _GRAIN_S


def accepted_at(answer: Response, *, now_s: float) -> str:
    """Return when *answer* was given: by the server's clock if it told one, else *now_s*.

    RFC 3339 in UTC; *now_s* is in seconds since the epoch.
    """
    try:
        moment = email.utils.parsedate_to_datetime(answer.date or "")
    except (ValueError, OverflowError):
        return stamp(now_s)
    return stamp(_in_utc(moment).timestamp())


def moment_s(text: str | None) -> float | None:
    """Return an RFC 3339 moment in seconds since the epoch; None when it is none."""
    try:
        return _in_utc(datetime.datetime.fromisoformat(text or "")).timestamp()
    except (ValueError, OverflowError):
        return None


def _in_utc(moment: datetime.datetime) -> datetime.datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _later(last_synced_at: str | None, case: Case) -> bool:
    """Tell whether the sync last ran after the change was accepted."""
    synced_s, accepted_s = moment_s(last_synced_at), moment_s(case.acceptance.accepted_at)
    if synced_s is None or accepted_s is None:
        return False
    if case.seen is None:
        return synced_s > accepted_s
    # `Date` tells whole seconds: a run of the same one counts if it was not there before.
    return synced_s >= accepted_s and case.seen.last_synced_at != last_synced_at


def _proved(case: Case, remark: str | None) -> End:
    """Return the end of a row that is as far as it will be shown."""
    proof = Proof.ACCEPTED if case.in_force_s is None else Proof.CONFIRMED
    return End(OutcomeKind.UPDATED, proof, error=remark)


def _errored(case: Case, progress: Progress) -> End:
    said = in_one_line(progress.reason or "") or "the API gives no reason"
    proof = Proof.ACCEPTED if case.in_force_s is None else Proof.CONFIRMED
    before = "still ERRORED" if case.was_errored else "ERRORED"
    error = f"the sync is {before}: {said}"
    return End(OutcomeKind.ERRORED, proof, ErrorClass.ERRORED, error)


def _untold(change: Change, state: State) -> list[str]:
    return [name for name in change.desired if name not in state]


def _differing(change: Change, state: State) -> str:
    wrong = (f"{n} is {state[n]}" for n, v in change.desired.items() if state.get(n, v) != v)
    return ", ".join(wrong) or "the state is not the desired one"


def _and(remark: str | None, more: str) -> str:
    return f"{remark}; {more}" if remark else more
