"""How many rows may fail before a run stops by itself."""

from __future__ import annotations

import re
from typing import Self

import msgspec

from runner.errors import LimitReached, SettingsError

FROM_ENDED = 20
"""A share of fewer rows than this says nothing."""

_PART = 1_000_000
"""Percents have six digits behind the point at most; they are compared in whole numbers."""


class FailureLimit(msgspec.Struct, frozen=True):
    """How many rows may fail. Invalid rows that were skipped by request do not count."""

    rows: int | None = None
    """Stop when more rows than this have failed."""
    percent: float | None = None
    """Stop when at least 20 rows have ended and more than this share of them failed."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``N`` or ``P%``. Raises `SettingsError`."""
        found = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%", text.strip(), re.ASCII)
        if found is None or (found[2] and float(found[2]) > 100):
            raise SettingsError(
                f"--max-failures must be a number of rows such as 5, or a share such as 10%; "
                f"got {text!r}"
            )
        return cls(rows=int(found[1])) if found[1] else cls(percent=float(found[2]))

    def __str__(self) -> str:
        return f"{self.rows}" if self.rows is not None else f"{self.percent:.9g}%"

    def exceeded(self, *, failed: int, ended: int) -> bool:
        """Tell whether *failed* of *ended* rows are too many."""
        if self.rows is not None:
            return failed > self.rows
        return ended >= FROM_ENDED and failed * 100 * _PART > self._parts * ended

    def may_still_fail(self, *, failed: int, ended: int) -> int:
        """Return how many rows that are under way may all fail without reaching the limit.

        0 when the next one reaches it, and when it is exceeded already.
        """
        if self.rows is not None:
            return max(0, self.rows - failed)
        too_few = max(0, FROM_ENDED - 1 - ended)
        # The most for which failed + most is no more than the share of ended + most.
        spare, cost = self._parts * ended - failed * 100 * _PART, 100 * _PART - self._parts
        if cost <= 0:
            return 1 << 30  # a share of 100% is never exceeded
        return max(too_few, spare // cost, 0)

    def reached(self, *, failed: int, ended: int, in_flight: int) -> LimitReached:
        """Say which limit was exceeded, by its formula in plain numbers.

        *in_flight*: requests that could still land.
        """
        if self.rows is not None:
            why = (
                f"{failed:,} rows failed, and --max-failures allows {self.rows:,} "
                f"({failed:,} > {self.rows:,})"
            )
        else:
            share = 100 * failed / ended
            why = (
                f"{failed:,} of {ended:,} rows failed ({share:.4g}%), and --max-failures allows "
                f"{self} from {FROM_ENDED} ended rows on ({failed:,}/{ended:,} > {self})"
            )
        flying = "1 request was" if in_flight == 1 else f"{in_flight:,} requests were"
        return LimitReached(
            f"{why}; {flying} in flight and could land. Look at failed.csv; `syncshift resume` "
            "goes on with the rest"
        )

    def in_words(self, *, rows: int, strict: bool = False) -> str:
        """Say in plain numbers when a run of *rows* rows stops."""
        if self.rows is not None:
            words = f"stops at {self.rows + 1:,} failed rows (--max-failures {self.rows})"
        else:
            most = self._parts * rows // (100 * _PART)
            words = (
                f"stops above {self} failed, from {FROM_ENDED} ended rows on; "
                f"at most {most:,} of {rows:,} may fail"
            )
        return f"{words}; no more rows under way than may still fail" if strict else words

    @property
    def _parts(self) -> int:
        assert self.percent is not None  # noqa: S101  # parse sets one of the two
        return round(self.percent * _PART)
