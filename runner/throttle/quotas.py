"""Recognises a quota: so many requests in each window of time, and none until the next."""

from __future__ import annotations

import msgspec

_SAME = 0.003
_FEW = 2.0
_SMALL = 0.05
_OTHER_PACE = 0.15
_APART_S = 5.0
_SEVERAL = 4
_THIN = 20


class Closure(msgspec.Struct, frozen=True):
    """A time in which the server turned everybody away, and the time of sending before it."""

    sending_s: float
    closed_s: float
    unsure_s: float
    """So much of the time closed may have been over already."""
    accepted: int
    """Requests that were accepted in it."""
    was_named: bool = False
    """The server said how long it would last."""

    @property
    def is_thin(self) -> bool:
        """Whether one like it may be an accident: so few were taken before a wait was named."""
        return self.was_named and self.accepted < _THIN

    @property
    def cycle_s(self) -> float:
        """Sending and closed together."""
        return self.sending_s + self.closed_s

    @property
    def is_brief(self) -> bool:
        """Whether it is too short to tell anything."""
        return self.closed_s <= max(1.0, 0.01 * self.cycle_s)

    @property
    def average_per_s(self) -> float:
        """What was accepted, over the whole cycle."""
        return max(self.accepted, 1) / (self.cycle_s - self.unsure_s / 2)


class Quotas:
    """Compares one closure with those before it."""

    def __init__(self) -> None:
        self._known = 0
        """So many are taken in each window of time, if that was recognised."""
        self._count, self._pace = 0, 0.0

    def recognise(self, closure: Closure, *, probed: bool) -> bool:
        """Tell whether *closure* shows a quota: as many as before, at another pace.

        Where a higher rate was *probed*, a limit without a window may look so as well; only
        a quota that is known already is recognised then.
        """
        count = closure.accepted
        pace = count / max(closure.sending_s, 0.1)
        other_pace = abs(pace - self._pace) > _OTHER_PACE * pace
        again = not probed and other_pace and _alike(count, self._count)
        if again or _alike(count, self._known):
            self._known = count
            return True
        self._count, self._pace = (0 if probed else count), pace
        return False


class Series:
    """Closures that follow one another: what is sent in between is too much, if ever so briefly."""

    def __init__(self) -> None:
        self._count, self._accepted, self._seconds = 0, 0, 0.0

    def average_per_s(self, closure: Closure) -> float | None:
        """Return what was accepted over several cycles, once there were several in a row."""
        if closure.sending_s >= _APART_S:
            self._count, self._accepted, self._seconds = 0, 0, 0.0
        self._count += 1
        self._accepted += closure.accepted
        self._seconds += closure.cycle_s
        if self._count < _SEVERAL:
            return None
        average = max(self._accepted, 1) / self._seconds
        self._count, self._accepted, self._seconds = 0, 0, 0.0
        return average


def _alike(count: int, other: int) -> bool:
    most = max(min(_FEW, _SMALL * other), _SAME * other)
    return other > 0 and abs(count - other) <= most
