"""For how long a rate that was found is kept before a higher one is tried.

The longer, the more often the same one was found; and the longer answers take, for what
is too much is seen later then, and costs more.
"""

from __future__ import annotations

import math

_FIRST_S = 4.0
_AT_LEAST_S = 10.0
_SENDS = 600
_LONGEST_S = 30.0
_NEAR_S = 0.1
"""Where answers take longer than this, what is too much is seen late, and looked for less often."""
_FAR_S = 0.5
_LONGEST_PER_S_OF_DELAY = 250.0
_LONGEST_OF_ALL_S = 600.0
_SAME = 0.05


class Keeping:
    """When it is time to try a higher rate. Times are seconds on any one steady clock."""

    def __init__(self) -> None:
        self._next_s = _AT_LEAST_S
        self._until = math.inf

    def is_over(self, now: float) -> bool:
        """Tell whether a higher rate may be tried."""
        return now >= self._until

    def begin(self, now: float, *, was: float, limit: float, rtt_s: float, early: bool) -> None:
        """Keep to *limit*, which was *was* before; only a little while if it was found *early*."""
        delay_s = min(max(rtt_s, _NEAR_S), _FAR_S) - _NEAR_S
        longest_s = _LONGEST_S + _LONGEST_PER_S_OF_DELAY * delay_s
        same = abs(limit - was) <= _SAME * limit
        self._next_s = min(2 * self._next_s, longest_s) if same else _AT_LEAST_S
        self._until = now + _FIRST_S
        if not early:
            self.extend(now, max(self._next_s, _SENDS / limit))

    def extend(self, now: float, seconds: float) -> None:
        """Keep to it for *seconds* at least."""
        self._until = max(self._until, now + min(seconds, _LONGEST_OF_ALL_S))
