"""What a run is doing right now, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runner.journal import Committer
from runner.pipeline import Tally
from runner.turnstile import Turnstile


class Wait(msgspec.Struct, frozen=True):
    """One reason why nothing is sent at the moment."""

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

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return self._throttle.in_flight

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
        """Return every reason why nothing is sent now."""
        now = self._clock()
        waits = [
            Wait(hold.reason, hold.detail, now - hold.since, max(0.0, hold.until - now))
            for hold in self._throttle.holds(now)
        ]
        slow_since = self._committer.slow_since(now)
        if slow_since is not None:
            waits.append(
                Wait("disk", "the disk has not taken the last records", now - slow_since, None)
            )
        asleep = self._turnstile.sleeping
        if not waits and asleep and not self.in_flight and not self._turnstile.waiting:
            rows = "1 row waits" if asleep == 1 else f"{asleep:,} rows wait"
            waits.append(Wait("backoff", f"{rows} before the next try", 0.0, None))
        elif not waits and not self.in_flight and not self.tally.carried and self.followed:
            rows = "1 row is" if self.followed == 1 else f"{self.followed:,} rows are"
            next_at = self.tally.looks_again_at
            left_s = None if next_at is None else max(0.0, next_at - now)
            why = f"{rows} accepted and looked at again until the proof is there"
            waits.append(Wait("proof", why, 0.0, left_s))
        return tuple(waits)
