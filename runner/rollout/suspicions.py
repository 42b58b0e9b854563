"""Rows that met what may be a fault of the whole run are kept back until that is known."""

from __future__ import annotations

from collections import defaultdict
from typing import Generic, Protocol, TypeVar

from runner.errors import RunFault
from runner.model import ErrorClass
from runner.retry import Ruling

_MOST_SUSPECTS = 100
"""Rows with one fault kept back; more of them from too few users are those users' own."""


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

    @property
    def kept(self) -> int:
        """How many rows are kept back."""
        return sum(map(len, self._suspects.values()))

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
                f"Such rows stay unprocessed; {_mend(ruling)}, then resume the run"
            )
        if len(suspects) > _MOST_SUSPECTS:
            return self.acquit()
        return []

    def acquit(self) -> list[_SuspectT]:
        """Return all rows kept back: they are to be settled as they were found."""
        suspects = [ending for group in self._suspects.values() for ending in group]
        self._suspects.clear()
        return suspects


def _mend(ruling: Ruling) -> str:
    if ruling.error_class is ErrorClass.AUTH:
        return "check the signing key, --project-id and --audience (syncshift doctor tries them)"
    return "mend the cause"
