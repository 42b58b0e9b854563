"""A client that always has something to send, a throttle and a server, in virtual time."""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from benchmarks.throttle.servers import Server, Told
from runner.throttle import Lane, Throttle

_JITTER = 0.25
_CEILING = 512
_PARKED = 100_000

Users = Callable[[random.Random], str]
"""Says whose request is next."""


class _Sent(msgspec.Struct, frozen=True, gc=False):
    """A request that is under way."""

    user: str
    at_s: float
    in_flight: int
    lane: Lane | None


class Seen(msgspec.Struct):
    """What a pass has shown."""

    accepted: list[float] = []
    """When requests left that were not turned away."""
    turned_away: list[float] = []
    """When requests left that were."""
    took_s: list[float] = []
    """How long the accepted ones took, as they were answered."""
    by_user: Counter[str] = msgspec.field(default_factory=Counter)
    """Accepted requests of each user."""
    inside_a_hold: int = 0
    """Requests that left while nobody was to move."""

    def between(self, begins_s: float, ends_s: float) -> tuple[int, int]:
        """Return how many were accepted and turned away in a stretch of time."""
        accepted, turned_away = (
            bisect_left(moments, ends_s) - bisect_left(moments, begins_s)
            for moments in (self.accepted, self.turned_away)
        )
        return accepted, turned_away


class Pass:
    """One client against one server. The same seed gives the same pass."""

    def __init__(
        self,
        server: Server,
        users: Users,
        *,
        seed: int,
        rtt_s: float = 0.08,
        ceiling: int = _CEILING,
        many_users: bool = True,
    ) -> None:
        """*rtt_s*: the median time to a server that answers at once, and back."""
        chance = random.Random(seed + 1).random
        self.throttle = Throttle(ceiling=ceiling, chance=chance, many_users=many_users)
        self.seen = Seen()
        self._rng = random.Random(seed)
        self._server, self._users, self._way_s = server, users, rtt_s / 2
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._sequence = 0
        self._wake_at = math.inf
        self._in_lanes: Counter[str] = Counter()
        """Requests that wait for their user's lane."""
        self._again: deque[str] = deque()
        self._next: str | None = None

    def run(self, until_s: float) -> Seen:
        """Go on until *until_s*."""
        self._pump(0.0)
        while self._events:
            now, _, act, about = heapq.heappop(self._events)
            if now >= until_s:
                break
            act(now, *about)
        # Answers overtake each other.
        self.seen.accepted.sort()
        self.seen.turned_away.sort()
        return self.seen

    def _at(self, when: float, act: Callable[..., None], *about: object) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, act, about))

    def _wake(self, now: float) -> None:
        if now == self._wake_at:  # and not one that was replaced by an earlier one
            self._wake_at = math.inf
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Send what may leave; see to being woken when more may."""
        soonest = min(self._pump_lanes(now), self._pump_all(now))
        if soonest < math.inf:
            at = max(now + soonest, math.nextafter(now, math.inf))
            if at < self._wake_at:
                self._wake_at = at
                self._at(at, self._wake)

    def _pump_lanes(self, now: float) -> float:
        soonest = math.inf
        for user in list(self._in_lanes):
            wait = self.throttle.take(now, user=user)
            if wait == 0.0:
                self._in_lanes[user] -= 1
                if not self._in_lanes[user]:
                    del self._in_lanes[user]
                self._send(now, user)
            soonest = min(soonest, wait or math.inf)
        return soonest

    def _pump_all(self, now: float) -> float:
        throttle, in_lanes = self.throttle, self._in_lanes
        while True:
            user = self._next
            if user is None:
                user = self._again.popleft() if self._again else self._users(self._rng)
            if user in throttle.slow:
                if in_lanes.total() >= _PARKED:
                    return math.inf
                in_lanes[user] += 1
                self._next = None
                continue
            self._next = user
            wait = throttle.take(now, user=user)
            if wait > 0:
                return wait
            self._next = None
            self._send(now, user)

    def _send(self, now: float, user: str) -> None:
        self.seen.inside_a_hold += self.throttle.is_held(now)
        sent = _Sent(user, now, self.throttle.in_flight, self.throttle.lanes.of.get(user))
        self._at(now + self._one_way_s(), self._arrive, sent)

    def _arrive(self, now: float, sent: _Sent) -> None:
        told = self._server.ask(now, sent.user)
        self._at(now + told.after_s + self._one_way_s(), self._answer, sent, told)

    def _answer(self, now: float, sent: _Sent, told: Told) -> None:
        throttle, seen = self.throttle, self.seen
        if told.status == 429 or told.wait_s is not None:
            seen.turned_away.append(sent.at_s)
            throttle.throttled(
                now,
                sent_at=sent.at_s,
                user=sent.user,
                in_flight=sent.in_flight,
                wait_s=told.wait_s,
                everybody=told.status != 429,
                detail=str(told.status),
            )
            self._again.append(sent.user)
        elif told.status >= 500:
            # It came past the limit, and counts against it, but it says nothing else.
            seen.accepted.append(sent.at_s)
            throttle.failed(now, sent_at=sent.at_s)
            self._again.append(sent.user)
        else:
            seen.accepted.append(sent.at_s)
            seen.took_s.append(now - sent.at_s)
            seen.by_user[sent.user] += 1
            throttle.answered(
                now,
                sent_at=sent.at_s,
                user=sent.user,
                in_flight=sent.in_flight,
                policy=told.policy,
                remaining=told.remaining,
            )
        throttle.give_back(sent.lane)
        self._pump(now)

    def _one_way_s(self) -> float:
        return self._way_s * self._rng.lognormvariate(0, _JITTER)
