"""Tells the board of one shard, now and then and whenever that concerns others, and obeys it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import anyio

from runner.budget import Budget
from runner.engine import TELL_EVERY_S, Board, Event, Held, Orders, Reason, Shard, Told, Waited
from runner.feed import Lock
from runner.live import Live
from runner.model import SUCCEEDED, OutcomeKind
from runner.pipeline import KNOWN_BEFORE
from runner.results import Index
from runner.steps import Work
from runner.throttle import THROTTLED, Throttle

_LOOK_EVERY_S = 0.02


class Wanting:
    """The lock of the re-sync budget, and how many rows wait for it."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self.reason = lock.reason
        self.blocked_by: Callable[[Work], Hashable | None] = lock.blocked_by
        self.passed: Callable[[Work], None] = lock.passed
        self.report_to = lock.report_to
        self.rows = 0

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say why *rows* rows wait; note how many they are."""
        self.rows = rows
        return self._lock.why(rows)


class Teller:
    """Speaks for one shard. Belongs to one event loop."""

    def __init__(
        self,
        board: Board,
        shard: Shard,
        *,
        live: Live,
        throttle: Throttle,
        clock: Callable[[], float],
        before: Index,
        pardoned: frozenset[OutcomeKind],
        budget: Budget | None,
        urgent: int,
        events: list[Event],
        obey: Callable[[Orders], None],
        nudge: Callable[[], anyio.Event],
    ) -> None:
        """*before* is what earlier workers have put into the shard's journals.

        *urgent* rows of it may have a re-sync under way. *events* are told and taken out.
        *obey* does what is ordered for the process; *nudge* is what is set when the board
        asks for a word.
        """
        self._board = board
        self._shard = shard
        self._live = live
        self._throttle = throttle
        self._clock = clock
        self._pardoned = pardoned
        self._before = {kind: n for kind, n in before.counts.items() if n}
        self._budget = budget
        self._urgent = urgent
        self._events = events
        self._obey = obey
        self._nudge = nudge
        self._last = Told(shard=shard.number, fence=shard.fence)
        self.lock: Wanting | None = None
        """Who knows how many rows wait for a re-sync to end."""
        self.is_read: Callable[[], bool] = lambda: False

    async def run(self) -> None:
        """Go on telling until canceled. Raises `GivenUp`."""
        while True:
            ends, nudge = self._clock() + TELL_EVERY_S, self._nudge()
            while self._clock() < ends and not nudge.is_set() and not self._is_news():
                with anyio.move_on_after(_LOOK_EVERY_S):
                    await nudge.wait()
            await self.tell()

    async def tell(
        self, *, is_over: bool = False, fault: Reason | None = None, left: Reason | None = None
    ) -> None:
        """Tell how the shard stands, and do what is ordered. Raises `GivenUp`."""
        events, self._events[:] = tuple(self._events), []
        self._last = self._told(events, is_over=is_over, fault=fault, left=left)
        orders = await self._board.tell(self._last)
        self._obey(orders)
        if self._budget is not None and orders.tickets is not None:
            self._budget.set_limit(orders.tickets)

    def _told(
        self,
        events: tuple[Event, ...],
        *,
        is_over: bool,
        fault: Reason | None,
        left: Reason | None,
    ) -> Told:
        live, tally, now = self._live, self._live.tally, self._clock()
        live.note()
        counts = {kind.value: n for kind, n in self._before.items()}
        for name, n in tally.counts.items():
            if n:
                counts[str(name)] = counts.get(str(name), 0) + n
        limit, unfinished = self._tickets()
        at = tally.looks_again_at
        return Told(
            shard=self._shard.number,
            fence=self._shard.fence,
            counts=counts,
            ended=tally.ended + self._counted(KNOWN_BEFORE),
            failed=tally.failed + self._counted({*KNOWN_BEFORE, *SUCCEEDED, *self._pardoned}),
            in_flight=live.in_flight,
            followed=live.followed,
            looks_again_in_s=None if at is None else max(0.0, at - now),
            tickets=0 if is_over else limit,
            unfinished=0 if is_over else unfinished,
            wanted=self._wanted(),
            held=self._held(now),
            waits=tuple(
                Waited(
                    w.reason,
                    w.detail,
                    None if w.until is None or w.until == math.inf else max(0.0, w.until - now),
                )
                for w in live.reasons()
            ),
            events=events,
            is_read=self.is_read() and not self._wanted(),
            is_over=is_over,
            fault=fault,
            left=left,
        )

    def _counted(self, apart_from: set[OutcomeKind] | frozenset[OutcomeKind]) -> int:
        return sum(n for kind, n in self._before.items() if kind not in apart_from)

    def _tickets(self) -> tuple[int, int]:
        """Return how many re-syncs may be unfinished here, and how many are."""
        if self._budget is None:
            return 0, 0
        # Rows that an earlier worker began take their tickets as soon as they are read.
        urgent = 0 if self.is_read() else self._urgent
        unfinished = max(self._budget.unfinished, urgent)
        return max(self._budget.limit or 0, unfinished), unfinished

    def _wanted(self) -> int:
        lock = self.lock
        waits = lock is not None and any(w.reason == lock.reason for w in self._live.reasons())
        return lock.rows if lock is not None and waits else 0

    def _held(self, now: float) -> Held | None:
        for hold in self._throttle.holds(now):
            if hold.reason == THROTTLED:
                return Held(THROTTLED, hold.detail, hold.until - now)
        return None

    def _is_news(self) -> bool:
        """Tell whether something has happened that the others should know of."""
        last, now = self._last, self._clock()
        held = self._held(now)
        return (
            (held is not None and last.held is None)
            or self._live.tally.failed + self._counted({*KNOWN_BEFORE, *SUCCEEDED, *self._pardoned})
            > last.failed
            or (self._wanted() > 0) != (last.wanted > 0)
            or (self.is_read() and not last.is_read and not self._wanted())
            or self._live.closing
        )
