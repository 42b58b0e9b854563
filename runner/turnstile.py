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

_LOOK_AHEAD_S = 0.25
_TIMER_GRAIN_S = 0.0015
"""Event loops wake late by up to about this much; nearer departures are met by turning the loop."""


class Closing(Exception):  # not an error: the run ends, and the row stays as it is
    """No more requests leave; whoever waits gives up its turn."""


class SetAside(Closing):  # nor is this one
    """A row's user is turned away for longer than the run waits; the others go on."""


class _Turn:
    """A request that waits for its turn, and then the lane through which it goes."""

    __slots__ = ("future", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.future: asyncio.Future[Lane | None] = asyncio.get_running_loop().create_future()


_Queue = deque[_Turn]


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
        self._clock = clock
        self._longest_wait_s = longest_wait_s
        self._queue: _Queue = deque()
        self._writes: _Queue = deque()
        self._in_lanes: dict[str, _Queue] = {}
        """Those who wait for their user's lane; no queue in it is empty."""
        self._expected: set[str] = set()
        """Users with a lane for whom a row was handed out that has not come here yet."""
        self._aspirants: _Queue = deque()
        self._approaching = 0
        self._slow_approaching: Counter[str] = Counter()
        """Of these, those of users who have a lane: they take up nobody's room."""
        self.on_lane_room: Callable[[str], None] | None = None
        """Called with a user for whom one more request may come to the lane, or who has none."""
        throttle.lanes.on_end = self._room_for
        self.set_aside: dict[str, float] = {}
        """Users whose rows were set aside, and until when they are turned away."""
        self._timer: asyncio.Handle | None = None
        self._closed = asyncio.Event()
        self.sleeping = 0
        """How many are in `sleep`."""

    @property
    def closed(self) -> bool:
        """Whether nobody passes any more."""
        return self._closed.is_set()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn, but for those in lanes."""
        return len(self._queue) + len(self._writes)

    @property
    def waiting_in_lanes(self) -> int:
        """How many requests wait for their user's lane."""
        return sum(map(len, self._in_lanes.values()))

    def is_slow(self, user: str) -> bool:
        """Tell whether a request of *user* would have to wait in a lane behind another one."""
        if not self.throttle.slowed(user):
            return False
        comes_second = user in self._in_lanes or user in self._expected
        return comes_second and not self._is_hopeless(user, self._clock())

    def expect(self, user: str) -> None:
        """Take in that a request of *user* will come soon, and wait in the lane if there is one."""
        if self.throttle.slowed(user):
            self._expected.add(user)

    def why_lanes(self, rows: int) -> tuple[str, float | None]:
        """Say for whose sake *rows* rows wait, and until when the first of them, if all do."""
        lanes = self.throttle.lanes.of
        users = f"user {next(iter(lanes))} is" if len(lanes) == 1 else f"{len(lanes):,} users are"
        rows_wait = "1 row waits" if rows == 1 else f"{rows:,} rows wait"
        until = max((lane.until for lane in lanes.values()), default=0.0)
        return (
            f"{users} turned away by a limit of their own; {rows_wait}",
            until if len(lanes) == 1 and until > self._clock() else None,
        )

    async def approach(self, user: str = "") -> None:
        """Wait until a write that is recorded now could soon leave. Follow with `enter`.

        Raises `Closing`.
        """
        if self.closed:
            raise Closing
        if self.throttle.slowed(user):
            self._set_aside_if_hopeless(user)
            self._slow_approaching[user] += 1
        elif self._aspirants or not self._has_room():
            turn = _Turn(user)
            self._aspirants.append(turn)
            self._pump()
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
            if self._expected:
                self._expected.discard(user)
            if probe:
                await self._probe()
            elif self.throttle.slowed(user):
                return await self._through_lane(user, first=approached)
            elif self._queue or self._writes:
                return await self._wait(user, self._writes if approached else self._queue)
            elif (wait := self.throttle.take(self._clock(), user=user)) > 0:
                if self._in_lanes:
                    asyncio.get_running_loop().call_soon(self._pump)
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
        if self._queue or self._writes or self._aspirants or self._in_lanes:
            self._pump()

    def nudge(self) -> None:
        """Look again: a hold was set, moved or lifted."""
        self._pump()

    async def sleep(self, seconds: float) -> None:
        """Sleep, holding neither slot nor turn. Raises `Closing` as soon as it closes."""
        self.sleeping += 1
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._closed.wait()
        except TimeoutError:
            return
        finally:
            self.sleeping -= 1
        raise Closing

    async def until_closed(self) -> None:
        """Return once nobody passes any more."""
        await self._closed.wait()

    def close(self) -> None:
        """Let nobody pass any more, and wake everybody who waits."""
        self._closed.set()
        self._stop_timer()
        for queue in (self._writes, self._queue, self._aspirants, *self._in_lanes.values()):
            while queue:
                future = queue.popleft().future
                if not future.done():
                    future.set_exception(Closing())
        self._in_lanes.clear()

    async def _probe(self) -> None:
        # A probe has no queue: it is the only one that may pass an outage.
        while (wait := self.throttle.take(self._clock(), probe=True)) > 0:
            await self.sleep(min(wait, 0.05))

    async def _wait(self, user: str, queue: _Queue) -> Lane | None:
        """Queue up. Whoever waits at the head has a timer, or a slot to come back, to wake it."""
        while True:
            turn = _Turn(user)
            queue.append(turn)
            lane = await self._turn(turn, queue, self.leave)
            held = self.throttle.is_held(self._clock())
            passed_by = lane is None and self.throttle.slowed(user)
            if not (self.closed or held or passed_by):
                return lane
            # A hold, or a lane, began between the turn and this moment: nobody starts inside it.
            self.leave(lane)
            if self.closed:
                raise Closing
            if passed_by:
                return await self._through_lane(user, first=queue is self._writes)
            # Once this one stands in the queue again.
            asyncio.get_running_loop().call_soon(self._pump)

    async def _through_lane(self, user: str, *, first: bool) -> Lane | None:
        self._set_aside_if_hopeless(user)
        turn = _Turn(user)
        queue = self._in_lanes.setdefault(user, deque())
        if first:
            queue.appendleft(turn)
        else:
            queue.append(turn)
        self._pump()
        lane = await self._turn(turn, queue, self.leave)
        if self.closed or self.throttle.is_held(self._clock()):
            self.leave(lane)
            return await self.enter(user)
        return lane

    async def _turn(
        self, turn: _Turn, queue: _Queue, undo: Callable[[Lane | None], None]
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

    def _pump(self) -> None:
        now = self._clock()
        self._stop_timer()
        wait = self._pump_lanes(now) if self._in_lanes else math.inf
        throttle = self.throttle
        while queue := self._writes or self._queue:
            turn = queue[0]
            if throttle.slowed(turn.user):
                self._in_lanes.setdefault(turn.user, deque()).append(queue.popleft())
                wait = min(wait, self._pump_lanes(now))
                continue
            blocked = throttle.take(now, user=turn.user)
            if blocked > 0:
                wait = min(wait, blocked)
                break
            queue.popleft()
            self._let_go(turn, None)
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

    def _pump_lanes(self, now: float) -> float:
        """Let out of the lanes whoever may leave; return when to look again."""
        soonest = math.inf
        for user, queue in list(self._in_lanes.items()):
            lane = self.throttle.lanes.of.get(user)
            if lane is None:
                # All of them stand at the end of the queue, like everybody.
                self._queue.extend(queue)
                self._empty(user)
                continue
            while queue and queue[0].future.done():
                queue.popleft()
            if self._is_hopeless(user, now):
                self._give_up(user)
                while queue:
                    future = queue.popleft().future
                    if not future.done():
                        future.set_exception(SetAside())
            elif queue:
                wait = self.throttle.take(now, user=user)
                if wait == 0:
                    self._let_go(queue.popleft(), lane)
                soonest = min(soonest, wait or math.inf)
            if not queue:
                self._empty(user)
        return soonest

    def _let_go(self, turn: _Turn, lane: Lane | None) -> None:
        if turn.future.done():
            self.throttle.give_back(lane)
        else:
            turn.future.set_result(lane)

    def _empty(self, user: str) -> None:
        self._in_lanes.pop(user, None)
        self._room_for(user)

    def _room_for(self, user: str) -> None:
        self._expected.discard(user)
        if self.on_lane_room is not None:
            self.on_lane_room(user)

    def _is_hopeless(self, user: str, now: float) -> bool:
        """Tell whether *user* is turned away for longer than the run waits."""
        lane = self.throttle.lanes.of.get(user)
        return lane is not None and lane.until - now > self._longest_wait_s

    def _set_aside_if_hopeless(self, user: str) -> None:
        if self._is_hopeless(user, self._clock()):
            self._give_up(user)
            raise SetAside

    def _give_up(self, user: str) -> None:
        lane = self.throttle.lanes.of[user]
        self.set_aside[user] = lane.until
        self.throttle.lanes.prove(lane)

    def _has_room(self) -> bool:
        return self._approaching < self._look_ahead and not self.throttle.is_held(self._clock())

    @property
    def _look_ahead(self) -> int:
        paced = math.ceil(_LOOK_AHEAD_S * self.throttle.rate_per_s)
        return max(1, min(2 * self.throttle.in_flight_limit, paced))

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
            self._pump()

    def _set_timer(self, wait: float) -> None:
        if wait == math.inf or self.closed:
            return  # a slot that comes back, or a nudge, is what wakes the next one
        self._stop_timer()
        loop = asyncio.get_running_loop()
        if wait < _TIMER_GRAIN_S:
            self._timer = loop.call_soon(self._pump)
        else:
            self._timer = loop.call_later(max(_TIMER_GRAIN_S, wait - _TIMER_GRAIN_S), self._pump)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
