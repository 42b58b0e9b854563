"""How far the rows of one shard have come: by its own journals, and by the run's from before."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from runner.model import Acceptance, Intent, Outcome
from runner.results.index import Index
from runner.results.outcomes import Outcomes


class JoinedIndex:
    """What an `Index` is for a run, for one shard of it, whose rows go on from the run's own."""

    def __init__(self, run: Index, own: Index, rows: tuple[int, int]) -> None:
        """*run* is of the run's own journals, *own* of the shard's; *rows* its first and last."""
        self.run = run
        self.own = own
        self._first, self._last = rows

    def settled(self, row: int) -> bool:
        """Whether *row* has an outcome."""
        return self.own.settled(row) or self.run.settled(row)

    def in_doubt(self) -> list[int]:
        """Return the rows of the shard with an intent, neither settled nor accepted, in order."""
        found = {*self.run.in_doubt(), *self.own.in_doubt()}
        return [row for row in self._mine(found) if not self._accepted(row)]

    def to_follow(self) -> list[int]:
        """Return the rows of the shard that were accepted and are not settled, in order."""
        return self._mine({*self.run.to_follow(), *self.own.to_follow()})

    def intents(self, rows: Collection[int]) -> dict[int, Intent]:
        """Return the first intent of each of *rows*, whoever wrote it down."""
        found = self.run.intents([row for row in rows if self.run.intended(row)])
        return found | self.own.intents([row for row in rows if row not in found])

    def acceptances(self, rows: Collection[int]) -> dict[int, Acceptance]:
        """Return the first acceptance of each of *rows*, likewise."""
        found = self.run.acceptances([row for row in rows if self.run.accepted(row)])
        return found | self.own.acceptances([row for row in rows if row not in found])

    def _accepted(self, row: int) -> bool:
        return self.run.accepted(row) or self.own.accepted(row)

    def _mine(self, rows: Collection[int]) -> list[int]:
        within = (row for row in rows if self._first <= row <= self._last)
        return sorted(row for row in within if not self.settled(row))


class JoinedOutcomes:
    """What `Outcomes` is for a run, for one shard of it."""

    def __init__(self, index: JoinedIndex, run: Outcomes, own: Outcomes) -> None:
        self._index = index
        self._run = run
        self._own = own

    def of(self, row: int) -> Outcome:
        """Return the outcome of *row*. Raises as `Outcomes.of` does."""
        return (self._own if self._index.own.settled(row) else self._run).of(row)


@contextmanager
def fetching(index: Index | JoinedIndex) -> Iterator[Outcomes | JoinedOutcomes]:
    """Yield what fetches the outcomes that *index* knows of."""
    if isinstance(index, Index):
        with Outcomes(index) as outcomes:
            yield outcomes
    else:
        with Outcomes(index.run) as run, Outcomes(index.own) as own:
            yield JoinedOutcomes(index, run, own)
