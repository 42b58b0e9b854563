"""Where requests wait for the throttle; everybody leaves when it closes.

The throttle says when; this says who, and does the sleeping. A write goes before
reads that wait: what was read of its row should still be true. Rows that are
about to write wait *before* their intent is recorded for as long as nobody
could send it anyway, so that a crash leaves few rows in doubt. Requests of a user who
has a lane wait in a queue of their own, in nobody's way.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable

from runner.throttle import Lane, Throttle
from runner.turnstile.lanes import LaneQueues
from runner.turnstile.turns import Closing, Queue, Turn, end_all

_LOOK_AHEAD_S = 0.25
_AHEAD = 8
"""For each slot so many rows may be recorded before they leave; waiting costs more than they do."""
_TIMER_GRAIN_S = 0.0015
"""Event loops wake late by up to about this much; where the pace leaves less slack than that,
nearer departures are met by turning the loop."""
_TIMER_NEAR_S = 0.0001
"""A timer so much later than would be right is right enough: another one costs more."""
_TIMER_TICK_S = 0.001
"""The shortest sleep of every event loop: uvloop takes less for none at all."""


class Turnstile:
    """Lets requests leave when the throttle says so. Belongs to one event loop."""

    def __init__(
        self,
        throttle: Throttle,
        *,
        clock: Callable[[], float] = time.monotonic,
        longest_wait_s: float = math.inf,
    ) -> None:
        """A row whose user is turned away for longer than *longest_wait_s* is set aside."""
        self.throttle = throttle
        self.clock = clock
        self.lanes = LaneQueues(throttle, longest_wait_s=longest_wait_s)
        self._queue: Queue = deque()
        self._writes: Queue = deque()
        self._aspirants: Queue = deque()
        self._approaching = 0
        self._slow_approaching: Counter[str] = Counter()
        """Of these, those of users who have a lane: they take up nobody's room."""
        self._is_due = False
        """Whether `_pump` runs in this turn of the loop, for all whose slots came back."""
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self.closed = False
        """Whether nobody passes any more."""
        self._closing = asyncio.Event()
        self.sleeping = 0
        """How many are in `sleep`."""

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn, but for those in lanes."""
        return len(self._queue) + len(self._writes)

    async def approach(self, user: str = "") -> None:
        """Wait until a write that is recorded now could soon leave. Follow with `enter`.

        Raises `Closing`.
        """
        if self.closed:
            raise Closing
        if user in self.throttle.slow:
            self.lanes.set_aside_if_hopeless(user, self.clock())
            self._slow_approaching[user] += 1
        elif self._aspirants or not self._has_room():
            turn = Turn(user)
            self._aspirants.append(turn)
            self._look_soon()
            await self._turn(turn, self._aspirants, self._unapproach)
        else:
            self._approaching += 1

    def withdraw(self, user: str = "") -> None:
        """Give up an approach that will not be followed by `enter`."""
        self._withdraw(user)

    async def enter(
        self, user: str = "", *, approached: bool = False, probe: bool = False
    ) -> Lane | None:
        """Return when a request may leave, its slot taken; `leave` gives the slot back.

        Returns the lane through which it goes, if the user has one, for `leave`.
        Raises `Closing`, and `SetAside` when the user is turned away for too long.
        """
        try:
            if self.closed:
                raise Closing
            throttle, lanes = self.throttle, self.lanes
            if lanes.expected:
                lanes.has_come(user)
            if probe:
                await self._probe()
            elif throttle.slow and user in throttle.slow:
                return await self._through_lane(user, first=approached)
            elif self._queue or self._writes:
                return await self._wait(user, self._writes if approached else self._queue)
            elif (wait := throttle.take(self.clock(), user=user)) > 0:
                if lanes:
                    self._look_soon()
                else:
                    self._set_timer(wait)
                return await self._wait(user, self._writes if approached else self._queue)
            return None
        finally:
            if approached:
                self._withdraw(user)

    def leave(self, lane: Lane | None = None) -> None:
        """Give the slot of a request back, and its place in *lane*."""
        self.throttle.give_back(lane)
        if self._queue or self._writes or self._aspirants or self.lanes:
            self._look_soon()

    def nudge(self) -> None:
        """Look again: a hold was set, moved or lifted."""
        self._pump()

    async def sleep(self, seconds: float) -> None:
        """Sleep, holding neither slot nor turn. Raises `Closing` as soon as it closes."""
        self.sleeping += 1
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._closing.wait()
        except TimeoutError:
            return
        finally:
            self.sleeping -= 1
        raise Closing

    async def until_closed(self) -> None:
        """Return once nobody passes any more."""
        await self._closing.wait()

    def close(self) -> None:
        """Let nobody pass any more, and wake everybody who waits."""
        self.closed = True
        self._closing.set()
        self._stop_timer()
        for queue in (self._writes, self._queue, self._aspirants):
            end_all(queue, Closing)
        self.lanes.close()

    async def _probe(self) -> None:
        # A probe has no queue: it is the only one that may pass an outage.
        while (wait := self.throttle.take(self.clock(), probe=True)) > 0:
            await self.sleep(min(wait, 0.05))

    async def _wait(self, user: str, queue: Queue) -> Lane | None:
        """Queue up. Whoever waits at the head has a timer, or a slot to come back, to wake it."""
        while True:
            turn = Turn(user)
            queue.append(turn)
            lane = await self._turn(turn, queue, self.leave)
            held = self.throttle.is_held(self.clock())
            passed_by = lane is None and user in self.throttle.slow
            if not (self.closed or held or passed_by):
                return lane
            # A hold, or a lane, began between the turn and this moment: nobody starts inside it.
            self.leave(lane)
            if self.closed:
                raise Closing
            if passed_by:
                return await self._through_lane(user, first=queue is self._writes)
            # Once this one stands in the queue again.
            self._look_soon()

    async def _through_lane(self, user: str, *, first: bool) -> Lane | None:
        self.lanes.set_aside_if_hopeless(user, self.clock())
        turn = Turn(user)
        queue = self.lanes.join(turn, first=first)
        self._pump()
        lane = await self._turn(turn, queue, self.leave)
        if self.closed or self.throttle.is_held(self.clock()):
            self.leave(lane)
            return await self.enter(user)
        return lane

    async def _turn(
        self, turn: Turn, queue: Queue, undo: Callable[[Lane | None], None]
    ) -> Lane | None:
        try:
            return await turn.future
        except asyncio.CancelledError:
            # It may have been taken out of the queue since, without having had its turn.
            future = turn.future
            if turn in queue:
                queue.remove(turn)
            elif not future.cancelled() and future.exception() is None:
                undo(future.result())
            raise

    def _look_soon(self) -> None:
        """Look who may leave, later in this turn of the loop: one look serves all that comes."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _look_now(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        self._is_due = False
        now = self.clock()
        wait = self.lanes.leave(now, rejoin=self._queue) if self.lanes else math.inf
        throttle = self.throttle
        while queue := self._writes or self._queue:
            turn = queue[0]
            if turn.user in throttle.slow:
                self.lanes.join(queue.popleft())
                wait = min(wait, self.lanes.leave(now, rejoin=self._queue))
                continue
            blocked = throttle.take(now, user=turn.user)
            if blocked > 0:
                wait = min(wait, blocked)
                break
            queue.popleft()
            if turn.future.done():
                throttle.give_back()
            else:
                turn.future.set_result(None)
        while self._aspirants and self._has_room():
            future = self._aspirants.popleft().future
            if not future.done():
                self._approaching += 1
                future.set_result(None)
        if self._aspirants and not self.waiting:
            # A hold that stays ends with a nudge; looking for its end would never stop.
            ends = (hold.until - now for hold in throttle.holds(now) if not hold.stays)
            wait = min(wait, *ends, math.inf)
        self._set_timer(wait)

    def _has_room(self) -> bool:
        throttle, coming = self.throttle, self._approaching
        if coming >= _AHEAD * throttle.in_flight_limit or throttle.is_held(self.clock()):
            return False
        return not coming or coming < _LOOK_AHEAD_S * throttle.rate_per_s

    def _unapproach(self, _: object) -> None:
        self._withdraw()

    def _withdraw(self, user: str = "") -> None:
        if self._slow_approaching and self._slow_approaching[user] > 0:
            self._slow_approaching[user] -= 1
            if not self._slow_approaching[user]:
                del self._slow_approaching[user]
            return
        self._approaching -= 1
        if self._aspirants:
            self._look_soon()

    def _set_timer(self, wait: float) -> None:
        if wait == math.inf or self.closed:
            return  # a slot that comes back, or a nudge, is what wakes the next one
        loop = asyncio.get_running_loop()
        if self.throttle.pacer.slack_s >= _TIMER_GRAIN_S:
            # Whoever wakes a little late loses nothing, so nobody turns the loop to be on time.
            wait = max(wait, _TIMER_TICK_S)
        elif wait < _TIMER_GRAIN_S:
            self._look_soon()
            return
        else:
            wait = max(_TIMER_GRAIN_S, wait - _TIMER_GRAIN_S)
        at = loop.time() + wait
        if self._timer is not None:
            if self._timer_at <= at + _TIMER_NEAR_S:
                return  # it will look again, and set another one
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(at, self._look_now), at

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
