"""When a run must stop by itself: too many failures, or a fault that is not the rows'."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Generic, Protocol, Self, TypeVar

import msgspec

from runner.errors import LimitReached, RunFault, SettingsError
from runner.retry import Ruling

_FROM_ENDED = 20
"""A share of fewer rows than this says nothing."""

_MOST_SUSPECTS = 100
"""Rows with one fault kept back; more of them from too few users are those users' own."""


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

    def exceeded(self, *, failed: int, ended: int) -> bool:
        """Tell whether *failed* of *ended* rows are too many."""
        if self.rows is not None:
            return failed > self.rows
        assert self.percent is not None  # noqa: S101  # parse sets one of the two
        return ended >= _FROM_ENDED and failed * 100 > self.percent * ended

    def reached(self, *, failed: int, ended: int) -> LimitReached:
        """Say that the limit was exceeded, in plain numbers."""
        if self.rows is not None:
            why = f"{failed:,} rows failed, and --max-failures allows {self.rows:,}"
        else:
            share = 100 * failed / ended
            why = (
                f"{failed:,} of {ended:,} rows failed ({share:.1f}%), and --max-failures allows "
                f"{self.percent:g}%"
            )
        return LimitReached(f"{why}. Look at failed.csv; `syncshift resume` goes on with the rest")

    def in_words(self, *, rows: int) -> str:
        """Say in plain numbers when a run of *rows* rows stops."""
        if self.rows is not None:
            return f"stops at {self.rows + 1:,} failed rows (--max-failures {self.rows})"
        assert self.percent is not None  # noqa: S101  # parse sets one of the two
        most = int(self.percent * rows / 100)
        return (
            f"stops above {self.percent:g}% failed, from {_FROM_ENDED} ended rows on; "
            f"at most {most:,} of {rows:,} may fail"
        )


class Suspect(Protocol):
    """What is known of a row that has ended, as far as it may speak of the whole run."""

    @property
    def ruling(self) -> Ruling | None:
        """What its last attempt came to, when it did not end well."""
        ...

    @property
    def user_id(self) -> str:
        """As whom it was asked."""
        ...

    @property
    def http_status(self) -> int | None:
        """Of the last answer."""
        ...


_SuspectT = TypeVar("_SuspectT", bound=Suspect)


class Suspicions(Generic[_SuspectT]):
    """Keeps rows back that met what may be a fault of the whole run.

    A row that ends in any other way acquits them, and they end as they were
    found. Enough of them in a row convict the run: they stay unprocessed, and
    the fault is told once.
    """

    def __init__(self, *, users: int) -> None:
        """*users*: how many different users the input has."""
        self._users = max(1, users)
        self._suspects: defaultdict[tuple[str, int], list[_SuspectT]] = defaultdict(list)
        self._convicted = False
        self._others = False

    def weigh(self, ending: _SuspectT) -> list[_SuspectT]:
        """Return the rows that may be settled now. Raises `RunFault` on conviction."""
        ruling = ending.ruling
        if ruling is None or not ruling.halts_after:
            self._others = True
            return [*self.acquit(), ending] if self._suspects else [ending]
        if self._convicted:
            return []
        suspects = self._suspects[str(ruling.error_class), ending.http_status or 0]
        suspects.append(ending)
        users = {suspect.user_id for suspect in suspects}
        enough_users = len(users) >= min(ruling.over_users, self._users)
        nothing_else = len(suspects) > _MOST_SUSPECTS and not self._others
        if len(suspects) >= ruling.halts_after and (enough_users or nothing_else):
            many = len(suspects) > 1
            rows = f"{len(suspects)} rows in a row ended alike, which" if many else "what a row met"
            # Rows still in flight that end well must not acquit them any more.
            self._suspects.clear()
            self._convicted = True
            raise RunFault(
                f"{rows} is a fault of the run and not of the rows: {ruling.error}. "
                "Such rows stay unprocessed; mend the cause, then resume the run"
            )
        if len(suspects) > _MOST_SUSPECTS:
            return self.acquit()
        return []

    def acquit(self) -> list[_SuspectT]:
        """Return all rows kept back: they are to be settled as they were found."""
        suspects = [ending for group in self._suspects.values() for ending in group]
        self._suspects.clear()
        return suspects
