"""Servers to be paced against, of a few lines each, in virtual time.

Requests come to a server in the order of time. *rng* is where its chance comes from.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable

import msgspec


class Told(msgspec.Struct, frozen=True):
    """A server's answer to one request."""

    status: int = 200
    after_s: float = 0.0
    """How long it works on it."""
    wait_s: float | None = None
    """Retry-After."""
    policy: str | None = None
    remaining: str | None = None


OK = Told()
TURNED_AWAY = Told(status=429)


class Server:
    """Takes everything at once. Others say what they do instead."""

    limit_per_s = math.inf

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        return OK

    def limit_at(self, now: float) -> float:
        """Return the requests a second that it takes at *now*."""
        return self.limit_per_s


class Bucket(Server):
    """A token bucket that starts full."""

    def __init__(
        self,
        rate: float | Callable[[float], float],
        *,
        burst: float,
        tells_wait: bool = False,
    ) -> None:
        self._rate = rate
        self._burst, self._tokens, self._at = burst, burst, 0.0
        self._tells_wait = tells_wait

    def limit_at(self, now: float) -> float:
        """Return the requests a second that it takes at *now*."""
        return self._rate(now) if callable(self._rate) else self._rate

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        rate = self.limit_at(now)
        self._tokens = min(self._burst, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return OK
        if not self._tells_wait:
            return TURNED_AWAY
        wait_s = float(math.ceil((1 - self._tokens) / rate))
        return Told(status=429, wait_s=wait_s)


class Window(Server):
    """So many requests in each window of time, counted from 0."""

    def __init__(
        self, quota: int, span_s: float, *, tells_wait: bool = False, tells_left: bool = False
    ) -> None:
        self.limit_per_s = quota / span_s
        self._quota, self._span_s = quota, span_s
        self._tells_wait, self._tells_left = tells_wait, tells_left
        self._window, self._used = -1, 0

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        window = int(now // self._span_s)
        if window != self._window:
            self._window, self._used = window, 0
        ends_s = math.ceil((window + 1) * self._span_s - now)
        ok = self._used < self._quota
        self._used += ok
        policy = remaining = None
        if self._tells_left:
            policy = f'"default";q={self._quota};w={self._span_s:g}'
            remaining = f'"default";r={self._quota - self._used};t={ends_s}'
        wait_s = float(ends_s) if self._tells_wait and not ok else None
        if ok and not self._tells_left:
            return OK
        return Told(
            status=200 if ok else 429,
            wait_s=wait_s,
            policy=policy,
            remaining=remaining,
        )


class Sliding(Server):
    """So many requests in any window of that length."""

    def __init__(self, quota: int, span_s: float) -> None:
        self.limit_per_s = quota / span_s
        self._quota, self._span_s = quota, span_s
        self._taken: deque[float] = deque()

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        while self._taken and self._taken[0] <= now - self._span_s:
            self._taken.popleft()
        if len(self._taken) >= self._quota:
            return TURNED_AWAY
        self._taken.append(now)
        return OK


class Concurrent(Server):
    """Turns away whoever comes while so many are being worked on."""

    def __init__(self, most: int, *, work_s: float, rng: random.Random) -> None:
        self.limit_per_s = most / work_s
        self._most, self._work_s, self._rng = most, work_s, rng
        self._busy: list[float] = []

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        while self._busy and self._busy[0] <= now:
            heapq.heappop(self._busy)
        if len(self._busy) >= self._most:
            return TURNED_AWAY
        work_s = self._work_s * self._rng.lognormvariate(0, 0.1)
        heapq.heappush(self._busy, now + work_s)
        return Told(after_s=work_s)


class Queueing(Server):
    """So many workers and a queue without an end: never a 429, only patience."""

    def __init__(self, workers: int, *, work_s: float, rng: random.Random) -> None:
        self.limit_per_s = workers / work_s
        self._free = [0.0] * workers
        self._work_s, self._rng = work_s, rng

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        begins = max(now, heapq.heappop(self._free))
        ends = begins + self._work_s * self._rng.lognormvariate(0, 0.1)
        heapq.heappush(self._free, ends)
        return Told(after_s=ends - now)


class Penalty(Server):
    """Whoever is turned away once is turned away for a while."""

    def __init__(self, behind: Server, *, ban_s: float) -> None:
        self._behind, self._ban_s, self._until = behind, ban_s, -math.inf

    def limit_at(self, now: float) -> float:
        """Return the requests a second that it takes at *now*."""
        return self._behind.limit_at(now)

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        if now < self._until:
            return TURNED_AWAY
        told = self._behind.ask(now, user)
        if told.status == 429:
            self._until = now + self._ban_s
        return told


class OneUser(Server):
    """One user has a limit of their own, besides everybody's."""

    def __init__(self, user: str, own: Server, everybody: Server) -> None:
        self._user, self._own, self._everybody = user, own, everybody

    def limit_at(self, now: float) -> float:
        """Return the requests a second that it takes at *now*."""
        return self._everybody.limit_at(now)

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        if user == self._user:
            told = self._own.ask(now, user)
            if told.status == 429:
                return told
        return self._everybody.ask(now, user)


class Unreliable(Server):
    """Some requests fail, or are turned away, for no reason."""

    def __init__(
        self,
        behind: Server,
        *,
        rng: random.Random,
        fails: float = 0.0,
        turns_away: float = 0.0,
        told: Told = TURNED_AWAY,
    ) -> None:
        """*told* is what those that are turned away hear."""
        self._behind, self._rng = behind, rng
        self._fails, self._turns_away, self._told = fails, turns_away, told

    def limit_at(self, now: float) -> float:
        """Return the requests a second that it takes at *now*."""
        return self._behind.limit_at(now)

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        if self._rng.random() < self._turns_away:
            return self._told
        told = self._behind.ask(now, user)
        if told.status == 200 and self._rng.random() < self._fails:
            return Told(status=500)
        return told


class Shared(Server):
    """Other tenants use a share of it, now and then."""

    def __init__(self, behind: Server, *, share: float, rng: random.Random) -> None:
        self._behind, self._share, self._rng, self._next = behind, share, rng, 0.0

    def limit_at(self, now: float) -> float:
        """Return the requests a second that it takes at *now*."""
        return self._behind.limit_at(now) * (1 - self._share)

    def ask(self, now: float, user: str) -> Told:
        """Answer one request of *user*."""
        rate = self._share * self._behind.limit_at(now)
        while self._next <= now:
            self._behind.ask(self._next, "")
            self._next += self._rng.expovariate(rate)
        return self._behind.ask(now, user)
