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
        self.kept_per_s = 0.0
        """The last limit that was kept until this was over; 0 before there was one."""
        self._kept_s = self._next_s = _AT_LEAST_S
        self._until = math.inf

    def ends(self, now: float, limit: float) -> bool:
        """Tell whether a higher rate may be tried; if so, *limit* was kept."""
        if now < self._until:
            return False
        self.kept_per_s, self._kept_s = limit, self._next_s
        return True

    def begin(self, now: float, limit: float, *, rtt_s: float, early: bool) -> None:
        """Keep to *limit*; only a little while if it was found *early*.

        Several in one go, down and up again, are compared with what was kept before them all.
        """
        delay_s = min(max(rtt_s, _NEAR_S), _FAR_S) - _NEAR_S
        longest_s = _LONGEST_S + _LONGEST_PER_S_OF_DELAY * delay_s
        same = abs(limit - self.kept_per_s) <= _SAME * limit
        self._next_s = min(2 * self._kept_s, longest_s) if same else _AT_LEAST_S
        self._until = now + _FIRST_S
        if not early:
            self.extend(now, max(self._next_s, _SENDS / limit))

    def extend(self, now: float, seconds: float) -> None:
        """Keep to it for *seconds* at least."""
        self._until = max(self._until, now + min(seconds, _LONGEST_OF_ALL_S))
