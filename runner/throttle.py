"""Decides when the next request may leave. Never sends one, never sleeps, has no clock.

One throttle serves first tries, retries and reads alike. It keeps

* a *ceiling*: the most requests in flight,
* a *pace*: departures spread evenly at a rate (the generic cell rate algorithm of
  ITU-T I.371, with a tolerance of half an interval, so that in any second at
  most one request more than the rate leaves),
* *holds*: reasons for which nobody moves until a moment; all active ones are known
  to whoever asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

_RAMP_START = 0.25
"""Share of the ceiling with which sending begins again after an outage, or after a loss."""
_MAX_DOUBLINGS = 30
"""Enough to pass every limit there is; more would leave the range of numbers."""

THROTTLED = "throttled"
"""The server asked for a pause."""
OUTAGE = "outage"
"""The server is down; probes alone may leave."""


class Hold(msgspec.Struct, frozen=True):
    """Why nobody moves."""

    reason: str
    """One word: `THROTTLED` or `OUTAGE`."""
    detail: str
    """What was seen, for a person: "429 with Retry-After: 30"."""
    since: float
    """Seconds on the throttle's clock."""
    until: float
    """Likewise: when it ends, or, of one that `stays`, when it is looked at again."""
    stays: bool = False
    """It ends when it is lifted, not by itself."""

    def active(self, now: float) -> bool:
        """Whether it holds at *now*."""
        return self.stays or self.until > now


class Throttle:
    """A pace, a ceiling in flight, and the holds. Times are seconds on any one steady clock."""

    def __init__(
        self,
        *,
        ceiling: int,
        rate_per_s: float | None = None,
        chance: Callable[[], float],
        first_hold_s: float = 1.0,
        longest_hold_s: float = 60.0,
    ) -> None:
        """*chance* gives numbers from 0 to 1; it spreads the holds that we choose ourselves."""
        self.ceiling = ceiling
        self.in_flight = 0
        self._interval = 1 / rate_per_s if rate_per_s else 0.0
        self._next = -math.inf
        self._chance = chance
        self._first_hold_s = first_hold_s
        self._longest_hold_s = longest_hold_s
        self._growth = 0
        self._held_until = -math.inf
        self._ramp_from: float | None = None
        self._lost_at: float | None = None
        self._holds: dict[str, Hold] = {}

    @property
    def interval_s(self) -> float:
        """Seconds between two departures; 0 when there is no rate."""
        return self._interval

    def take(self, now: float, *, probe: bool = False) -> float:
        """Ask to let one request leave.

        0.0: it leaves, and its slot is taken until `give_back`. A positive
        number: ask again after so many seconds. Infinite: ask again when a
        slot comes back or a hold is lifted. A *probe* passes an outage, and
        nothing else.
        """
        if self._holds:
            wait = self._held_for(now, probe=probe)
            if wait > 0:
                return wait
        if self.in_flight >= self.ceiling:
            return math.inf
        if self._ramp_from is not None and self.in_flight >= self._ramped(now):
            return math.inf
        if self._lost_at is not None and self.in_flight >= max(1.0, self.ceiling * _RAMP_START):
            return math.inf
        if self._interval:
            early = self._next - now
            if early > self._interval / 2:
                return early - self._interval / 2
            self._next = max(self._next, now) + self._interval
        self.in_flight += 1
        return 0.0

    def give_back(self) -> None:
        """Return the slot of a request that has ended, however it ended."""
        self.in_flight -= 1

    def throttled(self, now: float, *, sent_at: float, wait_s: float | None, detail: str) -> bool:
        """Hold everybody because the server asked for it; tell whether that is news.

        With *wait_s* from the server nobody moves for that long. Without, or when
        it is 0, the hold grows with every throttled answer to a request sent after
        the last hold: old news does not count twice.
        """
        if not wait_s:
            if sent_at < self._held_until or THROTTLED in self._holds:
                return False
            doublings = min(self._growth, _MAX_DOUBLINGS)
            longest = min(self._longest_hold_s, self._first_hold_s * 2**doublings)
            wait_s = longest * (0.5 + self._chance() / 2)
            self._growth += 1
        until = now + wait_s
        present = self._holds.get(THROTTLED)
        if present is not None and present.until >= until:
            return False
        since = present.since if present and present.active(now) else now
        self._holds[THROTTLED] = Hold(THROTTLED, detail, since, until)
        self._held_until = until
        return True

    def lost(self, now: float) -> None:
        """Note a request without an answer: fewer may be in flight until a later one has one.

        Otherwise a server that goes away would be sent all that waits before
        anybody could know.
        """
        if self._lost_at is None:
            self._lost_at = now

    def answered(self, *, sent_at: float) -> None:
        """Note an answer that was not throttled: holds start small again, losses are forgotten."""
        if self._lost_at is not None and sent_at >= self._lost_at:
            self._lost_at = None
        if self._growth and sent_at >= self._held_until:
            self._growth = 0

    def hold(self, reason: str, *, now: float, until: float, detail: str) -> None:
        """Hold everybody for *reason* until it is lifted; at *until* it is looked at again."""
        present = self._holds.get(reason)
        since = present.since if present else now
        self._holds[reason] = Hold(reason, detail, since, until, stays=True)

    def lift(self, reason: str, *, now: float) -> None:
        """End the hold for *reason*. After an outage the ceiling is climbed in steps."""
        if self._holds.pop(reason, None) is not None and reason == OUTAGE:
            self._ramp_from = now

    def is_held(self, now: float) -> bool:
        """Tell whether nobody moves at *now*."""
        return bool(self._holds) and bool(self.holds(now))

    def holds(self, now: float) -> tuple[Hold, ...]:
        """Return every reason for which nobody moves at *now*."""
        return tuple(hold for hold in self._holds.values() if hold.active(now))

    def _held_for(self, now: float, *, probe: bool) -> float:
        for reason in [r for r, hold in self._holds.items() if not hold.active(now)]:
            del self._holds[reason]
        return max(
            (
                math.inf if hold.stays else hold.until - now
                for hold in self._holds.values()
                if not (probe and hold.reason == OUTAGE)
            ),
            default=0.0,
        )

    def _ramped(self, now: float) -> float:
        assert self._ramp_from is not None  # noqa: S101  # the caller has looked
        doublings = min(now - self._ramp_from, _MAX_DOUBLINGS)
        allowed = max(1.0, self.ceiling * _RAMP_START) * 2**doublings
        if allowed >= self.ceiling:
            self._ramp_from = None
        return allowed
