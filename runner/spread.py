"""Spreads rows over a time, each at a moment of its own, in memory that does not grow.

The moment of a row is a hash of its sync ID, so the same sync always falls on the same part
of the spread, whoever runs it and however often: re-syncs, and the schedules that begin with
them, do not line up.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable, Iterator
from hashlib import blake2b

import msgspec

from runner.feed import LINE
from runner.steps import Work

MOST_HELD = 50_000
"""Rows that are put in order at a time. A longer input is read once more for each so many."""

_BLOCK = 512
_SHORTEST_S = 0.001
_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder(Work).decode


def part_of(sync_id: str) -> float:
    """Return at which part of the spread, from 0 to less than 1, this sync has its moment."""
    digest = blake2b(sync_id.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


class Spread:
    """The lock that lets each row go when its moment has come. Belongs to one event loop.

    What an earlier session may have begun goes at once, and so does what is overdue.
    """

    reason = "spread"

    def __init__(
        self,
        over_s: float,
        *,
        began_s: float,
        clock: Callable[[], float],
        start_s: Callable[[int], float] | None = None,
    ) -> None:
        """Spread rows over *over_s* seconds from *began_s* on, which is a moment of *clock*.

        *start_s* tells from when on a row is spread, where not all are from the same moment.
        """
        self._over_s = over_s
        self._began_s = began_s
        self._start_s = start_s
        self._clock = clock
        self._next_s = began_s
        self._opened: Callable[[Hashable], None] = _nobody
        self._timer: asyncio.TimerHandle | None = None

    def due_s(self, work: Work) -> float:
        """Return when *work* may go, on the run's clock."""
        change = work.change
        if change is None or work.intent is not None or work.accepted is not None:
            return self._began_s
        start_s = self._began_s if self._start_s is None else self._start_s(change.row)
        return start_s + self._over_s * part_of(change.sync_id)

    def blocked_by(self, work: Work) -> Hashable | None:
        """Hold up the line until *work* is due: rows come in the order of their moments."""
        due_s, now_s = self.due_s(work), self._clock()
        if due_s <= now_s:
            return None
        self._next_s = due_s
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(_SHORTEST_S, due_s - now_s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._opened, LINE)
        return LINE

    def passed(self, work: Work) -> None:
        """Nothing is counted here."""

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say that the next row is not due yet, and when it is."""
        return f"rows are spread over {self._over_s:g} s, and none is due now", self._next_s

    def report_to(self, opened: Callable[[Hashable], None]) -> None:
        """Tell *opened* when the next row is due."""
        self._opened = opened


def in_order(
    passes: Callable[[], Iterator[list[Work]]],
    due_s: Callable[[Work], float],
    *,
    ended: Callable[[], bool],
    most: int = MOST_HELD,
) -> Iterator[list[Work]]:
    """Yield what a pass yields, in the order of *due_s*; what need not be carried goes first.

    Holds *most* rows at a time, so that a longer input takes several passes. Gives up in the
    middle of one as soon as it has *ended*.
    """
    last = (float("-inf"), 0)
    first = True
    while True:
        held: list[tuple[float, int, bytes]] = []
        # The greatest on top, so that it makes room for a smaller one.
        more = False
        for block in passes():
            if ended():
                return
            if first and (known := [work for work in block if work.change is None]):
                yield known
            for work in block:
                if work.change is None:
                    continue
                place = (due_s(work), work.change.row)
                if place <= last:
                    continue
                entry = (-place[0], -place[1], _PACK(work))
                if len(held) < most:
                    heapq.heappush(held, entry)
                else:
                    heapq.heappushpop(held, entry)
                    more = True
        held.sort(reverse=True)
        if held:
            last = (-held[-1][0], -held[-1][1])
        for at in range(0, len(held), _BLOCK):
            yield [_UNPACK(packed) for _, _, packed in held[at : at + _BLOCK]]
        if not more:
            return
        first = False


def _nobody(key: Hashable) -> None:
    pass
