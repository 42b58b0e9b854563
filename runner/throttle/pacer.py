"""Spreads departures evenly in time: the generic cell rate algorithm of ITU-T I.371."""

from __future__ import annotations

import math

_MOST_SLACK_S = 0.02
_COARSE_S = 0.002
"""Clocks and timers are no finer than about this; at thousands a second evenness means that."""


class Pacer:
    """Departures at a rate. Times are seconds on any one steady clock."""

    __slots__ = ("_next", "interval_s", "rate_per_s", "slack_s")

    def __init__(self, rate_per_s: float) -> None:
        self._next = -math.inf
        self.set(rate_per_s)

    def set(self, rate_per_s: float, *, strictly: bool = False) -> None:
        """Go on at another rate, counted from the last departure.

        *strictly*: in any second at most one request more than the rate leaves,
        however high it is.
        """
        interval_s = 1.0 / rate_per_s
        self._next += interval_s - getattr(self, "interval_s", interval_s)
        self.rate_per_s = rate_per_s
        self.interval_s = interval_s
        slack_s = min(interval_s / 2, _MOST_SLACK_S)
        self.slack_s = slack_s if strictly else max(slack_s, _COARSE_S)

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next departure is due; 0.0 when it is."""
        early = self._next - now - self.slack_s
        return early if early > 0.0 else 0.0

    def depart(self, now: float) -> None:
        """Take in that a request leaves. What was not used before *now* is not saved up."""
        self._next = (self._next if self._next > now else now) + self.interval_s
