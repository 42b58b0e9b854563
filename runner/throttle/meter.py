"""Counts what was accepted lately."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 2048


class Meter:
    """How many requests a second were accepted, over any span that it remembers."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self.note = self._times.append
        """Take in the moment of an answer that accepted a request."""

    def per_s(self, now: float, span_s: float) -> float:
        """Return the requests a second that were accepted in the *span_s* seconds before *now*."""
        since, count = now - span_s, 0
        for moment in reversed(self._times):
            if moment <= since:
                return count / span_s
            count += moment <= now
        if len(self._times) == _REMEMBERED:
            return count / max(now - self._times[0], 1e-9)
        return count / span_s
