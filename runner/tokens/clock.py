"""The server's clock, as far as its answers tell it."""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Callable
from typing import Final

TOLERANCE_S: Final = 30.0
"""Offsets up to this are noise: ``Date`` counts whole seconds, and answers take their time."""

MAX_SKEW_S: Final = 86_400.0
"""A ``Date`` further off than a day is a broken header, not a clock."""


class ServerClock:
    """Our own clock *now* (seconds since the epoch), set right by the server's ``Date``."""

    __slots__ = ("_last", "_now", "skew_s")

    skew_s: float
    """The server's clock less ours; 0 while they agree within `TOLERANCE_S`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = ""
        self.skew_s = 0.0

    def now(self) -> float:
        """Return what the server's clock shows, in seconds since the epoch."""
        return self._now() + self.skew_s

    def learn(self, date_header: str) -> bool:
        """Take in the ``Date`` of an answer that came just now; tell if `skew_s` changed by it.

        It changes only when the answer is more than `TOLERANCE_S` away from what `now` says,
        so small wobbles move nothing. A header that is no date is passed over.
        """
        # Hundreds of answers share a second, and parsing is dear beside a look-up.
        if date_header == self._last:
            return False
        self._last = date_header
        shown = seconds_of(date_header)
        if shown is None:
            return False
        offset_s = shown - self._now()
        if abs(offset_s - self.skew_s) <= TOLERANCE_S or abs(offset_s) > MAX_SKEW_S:
            return False
        self.skew_s = offset_s if abs(offset_s) > TOLERANCE_S else 0.0
        return True


def seconds_of(date_header: str) -> float | None:
    """Return the moment that a ``Date`` header names, in seconds since the epoch."""
    try:
        moment = email.utils.parsedate_to_datetime(date_header)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
