"""Shut while the server turns everybody away; then one request finds out whether it still does."""

from __future__ import annotations

import math
from collections.abc import Callable

from runner.throttle.quotas import Closure

_FIRST_S = 0.5
_GROWTH = 1.5
_LONGEST_S = 15.0
_SPREAD = 0.2
_MOST_GROWTHS = 30


class Gate:
    """Shut or open. Times are seconds on any one steady clock."""

    def __init__(self, *, chance: Callable[[], float]) -> None:
        """*chance* gives numbers from 0 to 1; it spreads the times that nobody named."""
        self._chance = chance
        self.until = -math.inf
        """While shut: when one request may find out whether it is over."""
        self.is_shut = False
        self._probe_is_out = False
        """That one request is under way."""
        self._growth = 0
        self.shut_at = self._shut_for_sure_until = 0.0
        self._opened_at: float | None = None
        self._accepted_before = 0

    def wait_s(self, now: float) -> float:
        """Return the seconds until one request may find out; infinite while one does."""
        if self.until > now:
            return self.until - now
        return math.inf if self._probe_is_out else 0.0

    def departed(self, now: float) -> None:
        """Take in that a request leaves."""
        if self._opened_at is None:
            self._opened_at = now
        if self.is_shut:
            self._probe_is_out = True

    def nobody_is_out(self) -> None:
        """Take in that no request is under way: one that was to find out was lost."""
        self._probe_is_out = False

    def shut(self, now: float, *, wait_s: float | None) -> None:
        """Shut for *wait_s*, or, where nobody named a time, a little longer each time."""
        self._shut_for_sure_until = now + (wait_s or 0.0)
        if not wait_s:
            wait_s = _FIRST_S * _GROWTH ** min(self._growth, _MOST_GROWTHS)
            wait_s = min(wait_s, _LONGEST_S) * (1 + _SPREAD * self._chance())
            self._growth += 1
        if not self.is_shut:
            self.is_shut = True
            self.shut_at = now
            self.until = now
        self.until = max(self.until, now + wait_s)
        self._probe_is_out = False

    def open(self, now: float, *, accepted: int) -> Closure:
        """Open, and return what the time since it was opened last has been like.

        *accepted* counts the requests that were accepted since sending began.
        """
        began = self.shut_at if self._opened_at is None else self._opened_at
        closure = Closure(
            sending_s=self.shut_at - began,
            closed_s=now - self.shut_at,
            unsure_s=max(0.0, now - self._shut_for_sure_until),
            accepted=accepted - self._accepted_before,
            was_named=self._shut_for_sure_until > self.shut_at,
        )
        self._opened_at, self._accepted_before = now, accepted
        self._growth = 0
        self.is_shut = self._probe_is_out = False
        self.until = -math.inf
        return closure
