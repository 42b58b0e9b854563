"""Departures that others have leased to us: each at its own moment, or not at all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from runner.throttle.pacer import Pacer

_LATE_S = 0.05
"""A departure may leave so late; after that it is lost, for what was saved up would be a burst."""
_AHEAD_S = 0.2
"""When what is leased ends sooner, more is asked for."""
_AGAIN_S = 0.05
"""More is asked for as well while somebody has to wait, but no more often."""


class LeasedPacer(Pacer):
    """A pacer below a ceiling that several share: it has no more than what was leased to it.

    While a lower rate was found than the ceiling, that one is kept besides.
    """

    __slots__ = ("_again_at", "_asked", "_due", "_ends", "_own", "free", "on_want")

    def __init__(self, rate_per_s: float) -> None:
        self._due: list[float] = []
        self._ends = -math.inf
        self._own = True
        self.free = False
        """Whether there is no such ceiling now."""
        self._asked = False
        self._again_at = -math.inf
        self.on_want: Callable[[], None] | None = None
        """Called when more is to be leased, once until `grant`."""
        super().__init__(rate_per_s)

    def set(self, rate_per_s: float, *, strictly: bool = False) -> None:
        """Keep to *rate_per_s* besides; *strictly*: it is the ceiling, which the leases keep."""
        self._own = not strictly
        super().set(rate_per_s, strictly=strictly)

    def grant(self, first: float, interval_s: float, departures: int) -> None:
        """Take in that so many departures are ours, from *first* on."""
        for number in range(departures):
            heapq.heappush(self._due, first + number * interval_s)
        if departures:
            self._ends = max(self._ends, first + departures * interval_s)
        self._asked = False

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next departure, or until more may be asked for.

        Infinite while more is asked for and none is leased.
        """
        if self.free:
            return super().wait_s(now)
        due = self._due
        while due and due[0] < now - _LATE_S:
            heapq.heappop(due)
        wait_s = max(0.0, due[0] - now) if due else math.inf
        if (wait_s or self._ends < now + _AHEAD_S) and now >= self._again_at:
            self._again_at = now + _AGAIN_S
            self._want()
        if not due:
            # Who was granted nothing, for others had it all, is woken by nobody: it asks again.
            return math.inf if self._asked else self._again_at - now
        return max(wait_s, super().wait_s(now)) if self._own else wait_s

    def depart(self, now: float) -> None:
        """Take in that a request leaves."""
        if self._due:
            heapq.heappop(self._due)
        super().depart(now)

    def _want(self) -> None:
        if not self._asked:
            self._asked = True
            if self.on_want is not None:
                self.on_want()
