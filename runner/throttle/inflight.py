"""Learns how many requests may be in flight: where more of them only makes each one slower.

The limit follows the gradient of the time to an answer (Netflix's Gradient2, Envoy's
adaptive concurrency): grown while it is used and answers come as fast as ever, shrunk
when they take half as long again. A server that counts requests in flight, and turns away
one too many, is recognised by that.
"""

from __future__ import annotations

import math
from collections import deque

FIRST = 6
_WINDOW_S = 0.25
_FIRST_WINDOW_S = 0.05
_SAMPLES = 10
_TOLERANCE = 1.4
_TOLERANCE_S = 0.01
"""Slower by so little is the noise of busy machines, however fast the server is."""
_SMOOTH = 0.2
_NEARLY = 0.9
_GROWTH = 1.5
_SEEN_WITHIN = 1.1
_LOOK_AFTER_S = 30.0
_LOOK_S = 0.5
_FULL_IN_A_ROW = 4
_FEWEST_TO_COUNT = 4
_RETRY_S = 2.0
_CLEARLY = 2
"""So many more than were too many, and all is well: it was something else."""
_LONGEST_RETRY_S = 60.0


class InFlight:
    """The most requests in flight, learned from answers. Pure: time is an argument."""

    def __init__(self, *, ceiling: int, first: int = FIRST) -> None:
        self.ceiling = ceiling
        self._limit = float(min(first, ceiling))
        self._starting = True
        self._halved_until = -math.inf
        self._base_s = math.inf
        self._base_seen_at = -math.inf
        self._capped_at: int | None = None
        """So many were turned away for being too many at once."""
        self._retry_s = _RETRY_S
        self._retry_at = math.inf
        self._full_in_a_row = 0
        self._peaks: deque[int] = deque(maxlen=40)
        # The window that is under way.
        self._ends_at = -math.inf
        self._count = 0
        self._sum_s = 0.0
        self._peak = 0

    @property
    def limit(self) -> int:
        """The most requests in flight now; at least 1."""
        limit = self._limit
        if self._halved_until > -math.inf:
            limit /= 2
        return max(1, int(min(limit, self.ceiling)))

    @property
    def learned(self) -> int:
        """The limit without regard to the ceiling or a look at the base."""
        return max(1, int(self._limit))

    def set_ceiling(self, ceiling: int) -> None:
        """Let so many be in flight at most."""
        self.ceiling = ceiling

    def accept(self, now: float, *, elapsed_s: float, in_flight: int) -> bool:
        """Take in an answer; tell whether the limit may have changed.

        *in_flight* counts the requests that were under way when it was asked for.
        """
        self._count += 1
        self._sum_s += elapsed_s
        if in_flight > self._peak:
            self._peak = in_flight
        if now < self._ends_at or self._count < _SAMPLES:
            return False
        self._close(now)
        return True

    def turned_away(self, now: float, *, in_flight: int) -> bool:
        """Take in that a request was turned away; tell whether that lies in the requests in flight.

        It does where those turned away had as many in flight beside them as ever, time and
        again; and, once that was seen, where one had too many again.
        """
        if self._capped_at is not None and in_flight > self._capped_at:
            self._cap(now, self._capped_at)
            return True
        most = max(self._peak, max(self._peaks, default=0))
        if most < _FEWEST_TO_COUNT or in_flight < _NEARLY * most:
            self._full_in_a_row = 0
            return False
        self._full_in_a_row += 1
        if self._full_in_a_row < _FULL_IN_A_ROW:
            return False
        self._cap(now, most - 1)
        return True

    def _cap(self, now: float, found: int) -> None:
        again = self._capped_at is not None and abs(found - self._capped_at) <= 1
        self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S) if again else _RETRY_S
        self._retry_at = now + self._retry_s
        self._capped_at = found
        self._limit = float(max(1, found))
        self._full_in_a_row = 0
        self._peaks.clear()
        self._peak = 0
        self._starting = False

    def _close(self, now: float) -> None:
        mean_s = self._sum_s / self._count
        self._look_at_base(now, mean_s)
        gradient = min(1.0, max(0.5, (_TOLERANCE * self._base_s + _TOLERANCE_S) / mean_s))
        limit = self._limit
        if self._halved_until > -math.inf:
            pass
        elif gradient < 1:
            self._starting = False
            self._limit = (1 - _SMOOTH) * limit + _SMOOTH * (limit * gradient + math.sqrt(limit))
        elif self._peak >= _NEARLY * self.limit:
            self._grow(now)
        self._limit = max(1.0, min(self._limit, self.ceiling))
        self._peaks.append(self._peak)
        self._count, self._sum_s, self._peak = 0, 0.0, 0
        self._ends_at = now + max(_FIRST_WINDOW_S if self._starting else _WINDOW_S, mean_s)

    def _grow(self, now: float) -> None:
        if self._capped_at is not None:
            if now >= self._retry_at:
                self._limit += 1
                self._retry_at = now + self._retry_s
                if self._limit > self._capped_at + _CLEARLY:
                    self._capped_at = None
        elif self._starting:
            self._limit *= _GROWTH
        else:
            self._limit += 0.2 * math.sqrt(self._limit) + 0.5

    def _look_at_base(self, now: float, mean_s: float) -> None:
        """Keep the time that an answer takes when nobody queues; look for it anew now and then."""
        if mean_s < self._base_s:
            self._base_s = mean_s
            self._base_seen_at = now
        elif mean_s <= _SEEN_WITHIN * self._base_s + _TOLERANCE_S / 2:
            self._base_seen_at = now
        if self._halved_until > -math.inf:
            if now >= self._halved_until:
                self._halved_until = -math.inf
                self._base_seen_at = now
        elif now - self._base_seen_at > _LOOK_AFTER_S:
            self._halved_until = now + max(_LOOK_S, 4 * mean_s)
            self._base_s = math.inf
