"""How many re-syncs of a run may be unfinished at once, and which are.

Pure: it has no clock and never waits. Each re-sync is a ticket, taken under the number of
its row and given back when it has ended. Whoever resumes a run takes the tickets of what is
unfinished first; they may be more than a limit that was lowered since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

Share: TypeAlias = tuple[str, str]
"""A key and its value: ``("user", "u1")``."""

ALL: Final[Share] = ("re-syncs", "")
"""The share that every re-sync has part in."""


def _nobody(share: Share) -> None:
    pass


class Budget:
    """Tickets for re-syncs: a limit for all of them, and for each value of a key."""

    def __init__(self, limit: int | None, *, per: Mapping[str, int] | None = None) -> None:
        """*limit* None: any number in all. *per* key: so many for each value of it."""
        self.per = dict(per or {})
        """The limit for each value of a key."""
        self.room: Callable[[Share], None] = _nobody
        """Called with a share each time that there is room in it again."""
        self._limit = limit
        self._held: dict[int, tuple[Share, ...]] = {}
        self._taken: Counter[Share] = Counter()

    @property
    def limit(self) -> int | None:
        """How many may be unfinished in all; None: any number."""
        return self._limit

    @property
    def unfinished(self) -> int:
        """How many tickets are held."""
        return len(self._held)

    def __contains__(self, row: int) -> bool:
        """Whether *row* holds a ticket."""
        return row in self._held

    def taken(self, share: Share) -> int:
        """Return how many tickets of *share* are held."""
        return self.unfinished if share == ALL else self._taken[share]

    def limit_of(self, share: Share) -> int | None:
        """Return how many tickets of *share* there are; None: any number."""
        return self._limit if share == ALL else self.per.get(share[0])

    def lacks(self, shares: tuple[Share, ...]) -> Share | None:
        """Return in which of *shares*, or in `ALL`, there is no room for one more ticket."""
        for share in (*shares, ALL):
            limit = self.limit_of(share)
            if limit is not None and self.taken(share) >= limit:
                return share
        return None

    def take(self, row: int, shares: tuple[Share, ...]) -> None:
        """Hold a ticket for *row*, whether there is room or not; once only."""
        if row not in self._held:
            self._held[row] = shares
            self._taken.update(shares)

    def give_back(self, row: int) -> None:
        """Give the ticket of *row* back, if it holds one."""
        shares = self._held.pop(row, None)
        if shares is None:
            return
        self._taken.subtract(shares)
        for share in shares:
            if not self._taken[share]:
                del self._taken[share]
        for share in (*shares, ALL):
            self._tell_room(share)

    def set_limit(self, limit: int | None) -> None:
        """Let *limit* re-syncs be unfinished in all from now on; None: any number."""
        self._limit = limit
        self._tell_room(ALL)

    def _tell_room(self, share: Share) -> None:
        limit = self.limit_of(share)
        if limit is None or self.taken(share) < limit:
            self.room(share)
