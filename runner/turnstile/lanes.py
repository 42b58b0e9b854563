"""Where requests of slowed users wait: each in a queue of its user's own, in nobody's way.

The turnstile puts them here when their user has a lane, and asks who may leave. A user who is
turned away for longer than the run waits is given up here; the user's rows are set aside.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from runner.throttle import Throttle
from runner.turnstile.turns import Closing, Queue, SetAside, Turn, end_all


class LaneQueues:
    """The queues of all users who have a lane and somebody waiting. Belongs to one event loop."""

    def __init__(self, throttle: Throttle, *, longest_wait_s: float) -> None:
        """A user who is turned away for longer than *longest_wait_s* is given up."""
        self._throttle = throttle
        self._longest_wait_s = longest_wait_s
        self._of: dict[str, Queue] = {}
        """None of them is empty."""
        self.expected: set[str] = set()
        """Users with a lane for whom a row was handed out that has not come here yet."""
        self.on_room: Callable[[str], None] | None = None
        """Called with a user for whom one more request may come to the lane, or who has none."""
        throttle.lanes.on_end = self._room_for
        self.set_aside: dict[str, float] = {}
        """Users whose rows were set aside, and until when they are turned away."""

    def __bool__(self) -> bool:
        """Tell whether anybody waits in a lane."""
        return bool(self._of)

    @property
    def waiting(self) -> int:
        """How many requests wait for their user's lane."""
        return sum(map(len, self._of.values()))

    @property
    def are_idle(self) -> bool:
        """Whether no request waits for a lane, goes through one, or is expected to come."""
        busy = any(lane.out for lane in self._throttle.lanes.of.values())
        return not (busy or self._of or self.expected)

    def is_slow(self, user: str, now: float) -> bool:
        """Tell whether a request of *user* would have to wait in a lane behind another one."""
        if user not in self._throttle.slow:
            return False
        comes_second = user in self._of or user in self.expected
        return comes_second and not self._is_hopeless(user, now)

    def expect(self, user: str) -> None:
        """Take in that a request of *user* will come soon, and wait in the lane if there is one."""
        if user in self._throttle.slow:
            self.expected.add(user)

    def has_come(self, user: str) -> None:
        """Take in that the request that was expected of *user* is here."""
        self.expected.discard(user)

    def why(self, rows: int, now: float) -> tuple[str, float | None]:
        """Say for whose sake *rows* rows wait, and until when the first of them, if all do."""
        lanes = self._throttle.lanes.of
        users = f"user {next(iter(lanes))} is" if len(lanes) == 1 else f"{len(lanes):,} users are"
        rows_wait = "1 row waits" if rows == 1 else f"{rows:,} rows wait"
        until = max((lane.until for lane in lanes.values()), default=0.0)
        return (
            f"{users} turned away by a limit of their own; {rows_wait}",
            until if len(lanes) == 1 and until > now else None,
        )

    def join(self, turn: Turn, *, first: bool = False) -> Queue:
        """Have *turn* wait for its user's lane, ahead of the others if it comes *first*."""
        queue = self._of.setdefault(turn.user, deque())
        if first:
            queue.appendleft(turn)
        else:
            queue.append(turn)
        return queue

    def leave(self, now: float, *, rejoin: Queue) -> float:
        """Let out whoever may leave; return the seconds after which to look again.

        Those whose user has no lane any more go to the end of *rejoin*.
        """
        soonest = math.inf
        for user, queue in list(self._of.items()):
            lane = self._throttle.lanes.of.get(user)
            if lane is None:
                rejoin.extend(queue)
                self._empty(user)
                continue
            while queue and queue[0].future.done():
                queue.popleft()
            if self._is_hopeless(user, now):
                self._give_up(user)
                end_all(queue, SetAside)
            elif queue:
                wait = self._throttle.take(now, user=user)
                if wait == 0:
                    queue.popleft().future.set_result(lane)
                soonest = min(soonest, wait or math.inf)
            if not queue:
                self._empty(user)
        return soonest

    def close(self) -> None:
        """Send away whoever waits."""
        for queue in self._of.values():
            end_all(queue, Closing)
        self._of.clear()

    def set_aside_if_hopeless(self, user: str, now: float) -> None:
        """Raise `SetAside` when *user* is turned away for longer than the run waits."""
        if self._is_hopeless(user, now):
            self._give_up(user)
            raise SetAside

    def _is_hopeless(self, user: str, now: float) -> bool:
        lane = self._throttle.lanes.of.get(user)
        return lane is not None and lane.until - now > self._longest_wait_s

    def _give_up(self, user: str) -> None:
        lane = self._throttle.lanes.of[user]
        self.set_aside[user] = lane.until
        self._throttle.lanes.prove(lane)

    def _empty(self, user: str) -> None:
        self._of.pop(user, None)
        self._room_for(user)

    def _room_for(self, user: str) -> None:
        self.expected.discard(user)
        if self.on_room is not None:
            self.on_room(user)
