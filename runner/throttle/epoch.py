"""A stretch of time at one rate, after which it is seen how the rate was used."""

from __future__ import annotations

import math

_USED = 0.85
"""A rate of which less was used says nothing about the server, and is not raised."""


class Epoch:
    """The stretch that is under way. Times are seconds on any one steady clock."""

    __slots__ = ("_full", "_sent", "_since", "good", "look_at")

    def __init__(self) -> None:
        self.good = 0
        """Requests that left in it and were accepted."""
        self.look_at = math.inf
        """When it is over; infinite while nothing is learned."""
        self._since = math.inf
        self._sent = self._full = 0

    def begin(self, now: float, seconds: float) -> None:
        """Begin anew, for *seconds*."""
        self._since, self.look_at = now, now + seconds
        self._sent = self._full = self.good = 0

    def departed(self) -> None:
        """Take in that a request leaves."""
        self._sent += 1

    def was_full(self) -> None:
        """Take in that a request waits for a slot, not for the pace."""
        self._full += 1

    def accept(self, *, sent_at: float) -> None:
        """Take in that a request was accepted."""
        self.good += sent_at >= self._since

    def used(self, now: float, rate_per_s: float) -> bool:
        """Tell whether *rate_per_s* was used, and what held requests up was the pace."""
        span_s = now - self._since
        return self._sent >= _USED * rate_per_s * span_s and 2 * self._full < self._sent
