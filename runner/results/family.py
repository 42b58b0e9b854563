"""How far each row of a run and of its retries has come: every row once, as it ended last."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import msgspec

from runner.errors import RunRefused
from runner.model import SUCCEEDED, Outcome, OutcomeKind
from runner.results.index import Index
from runner.results.outcomes import Outcomes


class FamilyIndex:
    """What an `Index` is for one run, for a run and its retries. Rows are those of the first."""

    def __init__(
        self, indexes: Sequence[Index], origins: Sequence[Sequence[int]], rows: int
    ) -> None:
        """*origins* has, for each retry, the row of the first run behind each of its rows.

        *rows* is what the first run has. Raises `RunRefused` when an origin is
        none of them, and as `Outcomes` does.
        """
        self.indexes = tuple(indexes)
        self._origins = tuple(origins)
        self._rows = rows
        self._member = array("H", bytes(2 * (rows + 1)))
        self._row = array("I", range(rows + 1))
        # Rows that a retry intended or that it has as accepted: there may be more to them.
        self._intended = bytearray(rows + 1)
        self._accepted = bytearray(rows + 1)
        with FamilyOutcomes(self) as outcomes:
            for number in range(1, len(self.indexes)):
                self._take(number, outcomes)
        self.counts = self._count()
        """How many rows ended in each way; every way is there, also with 0."""

    def place(self, row: int) -> tuple[int, int]:
        """Return which run has the last outcome of *row*, 0 being the first, and as which row."""
        return self._member[row], self._row[row]

    def is_last(self, number: int, row: int) -> bool:
        """Whether the outcome of *row* in run *number* is the last of that row."""
        return self.place(self.origin(number, row)) == (number, row)

    def origin(self, number: int, row: int) -> int:
        """Return the row of the first run that is *row* in run *number*."""
        return self._origins[number - 1][row - 1] if number else row

    def outcome(self, row: int) -> OutcomeKind | None:
        """Return how *row* ended last; None: it has not."""
        number, own = self.place(row)
        return self.indexes[number].outcome(own)

    def settled(self, row: int) -> bool:
        """Whether *row* has an outcome."""
        return self.outcome(row) is not None

    def intended(self, row: int) -> bool:
        """Whether any run has an intent of *row* on record."""
        return bool(self._intended[row]) or self.indexes[0].intended(row)

    def accepted(self, row: int) -> bool:
        """Whether any run has *row* on record as accepted and to be proved further."""
        return bool(self._accepted[row]) or self.indexes[0].accepted(row)

    @property
    def succeeded(self) -> int:
        """How many rows count as succeeded."""
        return sum(n for kind, n in self.counts.items() if kind in SUCCEEDED)

    @property
    def failed(self) -> int:
        """How many rows count as failed."""
        return sum(n for kind, n in self.counts.items() if kind not in SUCCEEDED)

    def check(self, rows: int) -> None:
        """Raise `SyncshiftError` when a journal names rows that its input has not."""
        self.indexes[0].check(rows)
        for index, origins in zip(self.indexes[1:], self._origins, strict=True):
            index.check(len(origins))

    def _take(self, number: int, outcomes: FamilyOutcomes) -> None:
        index = self.indexes[number]
        for own, origin in enumerate(self._origins[number - 1], 1):
            if not 1 <= origin <= self._rows:
                raise RunRefused(
                    f"{index.report.parent}: the input of this retry speaks of row {origin}, and "
                    f"the run that it retries has {self._rows:,}; restore the folder from a copy"
                )
            self._intended[origin] |= index.intended(own)
            self._accepted[origin] |= index.accepted(own)
            if index.settled(own) and (
                not self.settled(origin) or outcomes.moment(number, own) >= outcomes.last(origin)
            ):
                self._member[origin] = number
                self._row[origin] = own

    def _count(self) -> dict[OutcomeKind, int]:
        found = Counter(filter(None, map(self.outcome, range(1, self._rows + 1))))
        return {kind: found[kind] for kind in OutcomeKind}


class FamilyOutcomes:
    """What `Outcomes` is for one run, for a run and its retries."""

    def __init__(self, index: FamilyIndex) -> None:
        self._index = index
        self._stack = ExitStack()
        self._outcomes: list[Outcomes] = []

    def __enter__(self) -> Self:
        self._outcomes = [self._stack.enter_context(Outcomes(i)) for i in self._index.indexes]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, row: int) -> Outcome:
        """Return the last outcome of *row*, as if the first run had brought it about.

        Raises as `Outcomes.of` does.
        """
        number, own = self._index.place(row)
        return msgspec.structs.replace(self._outcomes[number].of(own), row=row)

    def moment(self, number: int, row: int) -> str:
        """Return when *row* of run *number* ended."""
        return self._outcomes[number].moment(row)

    def last(self, row: int) -> str:
        """Return when *row* of the first run ended last."""
        return self.moment(*self._index.place(row))


def outcomes_of(index: Index | FamilyIndex) -> Outcomes | FamilyOutcomes:
    """Return what fetches the outcomes that *index* knows of."""
    return FamilyOutcomes(index) if isinstance(index, FamilyIndex) else Outcomes(index)
