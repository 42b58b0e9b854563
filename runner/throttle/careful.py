"""Few at a time: after an outage, and while it is open whether there is one."""

from __future__ import annotations

_START = 0.25
"""Share of the limit in flight with which sending begins again."""
_MAX_DOUBLINGS = 30
"""Enough to pass every limit there is; more would leave the range of numbers."""


class Careful:
    """Keeps the limit in flight low for a while. Times are seconds on any one steady clock."""

    def __init__(self) -> None:
        self.is_on = False
        """Whether `limit` says anything."""
        self._ramp_from: float | None = None
        self._lost_at: float | None = None

    def lost(self, now: float) -> None:
        """Take in that a request got no answer."""
        if self._lost_at is None:
            self._lost_at = now
            self.is_on = True

    def answered(self, *, sent_at: float) -> None:
        """Take in an answer: a loss before it was sent is forgotten."""
        if self._lost_at is not None and sent_at >= self._lost_at:
            self._lost_at = None
            self.is_on = self._ramp_from is not None

    def is_back(self, now: float) -> None:
        """Take in that an outage is over: the limit is climbed in steps."""
        self._ramp_from = now
        self.is_on = True

    def limit(self, now: float, limit: int) -> float:
        """Return how many may be in flight where *limit* is what may be at other times."""
        few = max(1.0, limit * _START)
        if self._lost_at is not None:
            return few
        if self._ramp_from is None:
            return limit
        allowed = few * 2 ** min(now - self._ramp_from, _MAX_DOUBLINGS)
        if allowed >= limit:
            self._ramp_from = None
            self.is_on = False
        return allowed
