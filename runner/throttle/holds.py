"""Reasons for which nobody moves."""

from __future__ import annotations

import math

import msgspec

THROTTLED = "throttled"
"""The server asked for a pause."""
OUTAGE = "outage"
"""The server is down; probes alone may leave."""


class Hold(msgspec.Struct, frozen=True):
    """Why nobody moves."""

    reason: str
    """One word: `THROTTLED`, `OUTAGE`, or whatever somebody else holds everybody for."""
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


class Holds:
    """All holds, by reason."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def __bool__(self) -> bool:
        return bool(self._holds)

    def put(self, reason: str, *, now: float, until: float, detail: str, stays: bool) -> bool:
        """Hold everybody for *reason*; tell whether that is news: longer than what was held."""
        present = self._holds.get(reason)
        if present is not None and not present.active(now):
            present = None
        if present is not None and not stays and present.until >= until:
            return False
        since = present.since if present else now
        self._holds[reason] = Hold(reason, detail, since, until, stays)
        return True

    def lift(self, reason: str) -> bool:
        """End the hold for *reason*; tell whether there was one."""
        return self._holds.pop(reason, None) is not None

    def active(self, now: float) -> tuple[Hold, ...]:
        """Return every reason for which nobody moves at *now*."""
        return tuple(hold for hold in self._holds.values() if hold.active(now))

    def left_s(self, now: float, *, probe: bool) -> float:
        """Return how long they last; infinite while one stays. A *probe* passes an outage."""
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
