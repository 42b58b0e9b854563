"""What a run is doing right now, for whoever shows it."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from runner.budget import Budget
from runner.journal import Committer
from runner.pipeline import Tally
from runner.throttle import LANE
from runner.turnstile import Turnstile
from runner.waits import Wait as Reason
from runner.waits import Waits

IDLE = ("disk", "backoff", "proof")
"""Reasons that nobody begins or ends: they are seen."""


class Wait(msgspec.Struct, frozen=True):
    """One reason why somebody waits at the moment."""

    reason: str
    detail: str
    for_s: float
    """For how long already."""
    left_s: float | None
    """How much longer; None when that is not known."""


class Live:
    """What a run is doing right now, for whoever shows it. Reading it costs the run nothing."""

    def __init__(
        self,
        *,
        rows: int,
        settled_before: int,
        tally: Tally,
        turnstile: Turnstile,
        committer: Committer,
        clock: Callable[[], float],
        waits: Waits | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.rows = rows
        """Rows of the input."""
        self.settled_before = settled_before
        """Rows that had ended when this process began."""
        self.tally = tally
        self.began_at = clock()
        self._throttle = turnstile.throttle
        self._turnstile = turnstile
        self._committer = committer
        self._clock = clock
        self._waits = waits
        self._budget = budget

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return self._throttle.in_flight

    @property
    def in_flight_limit(self) -> int:
        """The most requests that may be on their way now."""
        return self._throttle.in_flight_limit

    @property
    def rate_per_s(self) -> float:
        """The requests a second that may leave now."""
        return self._throttle.rate_per_s

    @property
    def rate_ceiling_per_s(self) -> float | None:
        """The most that they were ever allowed to be; None: any number."""
        return self._throttle.rate_ceiling_per_s

    @property
    def resyncs(self) -> tuple[int, int | None] | None:
        """Unfinished re-syncs, and how many there may be (None: any number); None: not counted."""
        return None if self._budget is None else (self._budget.unfinished, self._budget.limit)

    @property
    def followed(self) -> int:
        """Rows that were accepted and are still to be proved."""
        return self.tally.followed

    @property
    def settled(self) -> int:
        """Rows that have ended, in this process or before."""
        return self.settled_before + sum(self.tally.counts.values())

    @property
    def closing(self) -> bool:
        """Whether the run ends, and only what is in flight may still land."""
        return self._turnstile.closed

    @property
    def elapsed_s(self) -> float:
        """Seconds since this process began to send."""
        return self._clock() - self.began_at

    def waits(self) -> tuple[Wait, ...]:
        """Return every reason why somebody waits now."""
        now = self._clock()
        return tuple(
            Wait(
                wait.reason,
                wait.detail,
                now - wait.since,
                None if wait.until is None else max(0.0, wait.until - now),
            )
            for wait in self.reasons()
        )

    def reasons(self) -> tuple[Reason, ...]:
        """Return the same, with moments on the run's steady clock."""
        now = self._clock()
        known = {wait.reason: wait for wait in self._waits.active()} if self._waits else {}
        found = [
            *self._holds(now),
            *self._lanes(),
            *(wait for reason, wait in known.items() if reason not in IDLE),
        ]
        for wait in self._idle(now):
            began = known[wait.reason].since if wait.reason in known else wait.since
            found.append(Reason(wait.reason, wait.detail, began, wait.until))
        # Of what is known to the throttle and to the registry, the registry knows more.
        return tuple({wait.reason: wait for wait in found}.values())

    def note(self) -> None:
        """Have the registry know what is only seen from here; call it now and then."""
        if self._waits is None:
            return
        idle = {wait.reason: wait for wait in self._idle(self._clock())}
        for reason in IDLE:
            if reason in idle:
                self._waits.begin(reason, idle[reason].detail, idle[reason].until)
            else:
                self._waits.end(reason)
        for lane in self._lanes():
            self._waits.begin(lane.reason, lane.detail, lane.until)
        if self._turnstile.lanes.are_idle:
            self._waits.end(LANE)
        self._waits.sweep()

    def _lanes(self) -> list[Reason]:
        rows = self._turnstile.lanes.waiting
        if not (rows and self._throttle.lanes.of):
            return []
        why, until = self._turnstile.lanes.why(rows, self._turnstile.clock())
        since = min(lane.opened_at for lane in self._throttle.lanes.of.values())
        return [Reason(LANE, why, since, until)]

    def _holds(self, now: float) -> list[Reason]:
        return [
            Reason(
                hold.reason, hold.detail, hold.since, None if hold.until == math.inf else hold.until
            )
            for hold in self._throttle.holds(now)
        ]

    def _idle(self, now: float) -> list[Reason]:
        """Return why nothing goes on, as far as it is nobody's decision."""
        slow_since = self._committer.slow_since(now)
        if slow_since is not None:
            why = "the disk has not taken the last records"
            return [Reason("disk", why, slow_since, None)]
        if self.in_flight or self._throttle.is_held(now):
            return []
        asleep = self._turnstile.sleeping
        if asleep and not self._turnstile.waiting:
            rows = "1 row waits" if asleep == 1 else f"{asleep:,} rows wait"
            return [Reason("backoff", f"{rows} before the next try", now, None)]
        if not self.tally.carried and self.followed:
            rows = "1 row is" if self.followed == 1 else f"{self.followed:,} rows are"
            why = f"{rows} accepted and looked at again until the proof is there"
            return [Reason("proof", why, now, self.tally.looks_again_at)]
        return []
