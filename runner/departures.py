"""One line of departures for everybody who sends: leased in advance, each to one worker.

Departures lie on a grid, one every 1/rate. The line has as many lanes as there are workers: a
lease is a stretch of one lane, every n-th departure, so that all send at the same time and each
needs its share of the requests in flight and no more. Pure: time is an argument, and the whole
state is a few numbers.
"""

from __future__ import annotations

import math

import msgspec

from runner.engine import AHEAD_S, LONGEST_LEASE_S, MOST_LEASED

_LET_GO_S = 0.1
"""Whoever uses a lane has asked for it sooner before its next departure than this."""
_SAME = 1e-6
"""Shares of a step of the grid: so far apart two moments are one, after some arithmetic."""


class Line(msgspec.Struct):
    """Departures at a rate, and up to where each lane was leased. Times are of one steady clock."""

    rate_per_s: float
    lanes: list[float]
    """Of each lane the first departure that nobody has."""

    @classmethod
    def of(cls, rate_per_s: float, *, lanes: int, now: float) -> Line:
        """Return a line of *lanes* of which nothing was leased before *now*."""
        return cls(rate_per_s, [now + lane / rate_per_s for lane in range(lanes)])

    @property
    def interval_s(self) -> float:
        """From one departure of a lane to the next."""
        return len(self.lanes) / self.rate_per_s

    def lease(self, now: float, departures: int, *, lane: int | None = None) -> tuple[float, int]:
        """Take a free stretch; return its first departure and how many it has, which may be 0.

        They are *departures* at most, and no more than half a second's worth. What lies before
        *now* is nobody's any more. Whoever has a *lane* gets of that one, and of another only
        what its own worker would let go by; without one, it is the lane that is most behind.
        """
        step_s = self.interval_s
        behind = min(range(len(self.lanes)), key=self.lanes.__getitem__)
        if lane is None or self.lanes[lane] > now + AHEAD_S:
            if self.lanes[behind] > now + (AHEAD_S if lane is None else _LET_GO_S):
                return self.lanes[behind], 0
            lane = behind
        most = min(departures, MOST_LEASED, max(1, int(LONGEST_LEASE_S / step_s)))
        first = self.lanes[lane]
        if first < now:
            first += math.ceil((now - first) / step_s - _SAME) * step_s
        self.lanes[lane] = first + most * step_s
        return first, most

    def set_rate(self, rate_per_s: float, *, now: float) -> None:
        """Go on at another rate, behind all that was leased at the old one."""
        begins = max(now, *(lane - self.interval_s for lane in self.lanes))
        begins += 1.0 / rate_per_s
        self.rate_per_s = rate_per_s
        self.lanes = [begins + lane / rate_per_s for lane in range(len(self.lanes))]
