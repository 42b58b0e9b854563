"""Servers that a client may meet, and how well it is to get on with each.

Limits are those of the worst of all seeds: the share of what the server would take that is
used at least, the share of answers that are 429 at most, both after a warm-up; and, where
a server queues, the median time to an answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from benchmarks.throttle.passing import Users
from benchmarks.throttle.servers import (
    Bucket,
    Concurrent,
    OneUser,
    Penalty,
    Queueing,
    Server,
    Shared,
    Sliding,
    Told,
    Unreliable,
    Window,
)


class Steady(msgspec.Struct, frozen=True, kw_only=True):
    """A server whose limit stays, and what is measured once it is known."""

    name: str
    make: Callable[[random.Random], Server]
    users: Users
    many_users: bool = True
    """What a run knows of its input: whether there is more than one."""
    rtt_s: float = 0.08
    warm_up_s: float = 300.0
    until_s: float = 900.0
    share: float
    """Of what the server takes, at least."""
    turned_away: float
    """Share of answers that are 429, at most."""
    median_s: float | None = None
    """Time to an answer, at most; None: it tells nothing about the client."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A server whose limit moves."""

    name: str
    before_per_s: float
    after_per_s: float
    within_s: float
    """In which 90 % of a higher limit are used, or 429s are under 2 % again."""
    turned_away: int
    """429s in the first minute, at most."""
    at_s: float = 200.0
    until_s: float = 280.0


class Minute(msgspec.Struct, frozen=True, kw_only=True):
    """The first minute with a server of which nothing is known."""

    name: str
    make: Callable[[random.Random], Server]
    reached_s: float
    """In which 90 % of its limit are used."""
    turned_away: float = 0.03
    """Share of answers that are 429, at most, or `few` if that is more."""
    few: int = 10


def many(rng: random.Random) -> str:
    """Say whose request is next where there are a thousand users, all alike."""
    return f"u{int(rng.random() * 1000)}"


def _twenty(rng: random.Random) -> str:
    return f"u{int(rng.random() * 20)}"


def _one(rng: random.Random) -> str:
    return "u"


def _with_a_hot_one(rng: random.Random) -> str:
    return "hot" if rng.random() < 0.1 else many(rng)


def _hot(*, tells_wait: bool) -> Callable[[random.Random], Server]:
    def make(rng: random.Random) -> Server:
        own = Bucket(2, burst=2, tells_wait=tells_wait)
        return OneUser("hot", own, Bucket(50, burst=50))

    return make


def _by_chance(share: float, told: Told) -> Callable[[random.Random], Server]:
    return lambda rng: Unreliable(Bucket(50, burst=50), rng=rng, turns_away=share, told=told)


STEADY = (
    Steady(
        name="bucket 50/s, burst 50",
        make=lambda rng: Bucket(50, burst=50),
        users=many,
        share=0.97,
        turned_away=0.008,
    ),
    Steady(
        name="bucket 50/s, burst 5",
        make=lambda rng: Bucket(50, burst=5),
        users=many,
        share=0.97,
        turned_away=0.008,
    ),
    Steady(
        name="bucket 50/s, Retry-After",
        make=lambda rng: Bucket(50, burst=50, tells_wait=True),
        users=many,
        share=0.98,
        turned_away=0.006,
    ),
    Steady(
        name="bucket 2/s",
        make=lambda rng: Bucket(2, burst=2),
        users=many,
        until_s=1800,
        share=0.97,
        turned_away=0.008,
    ),
    Steady(
        name="bucket 400/s",
        make=lambda rng: Bucket(400, burst=400),
        users=many,
        warm_up_s=100,
        until_s=250,
        share=0.97,
        turned_away=0.008,
    ),
    Steady(
        name="window 100 in 1 s",
        make=lambda rng: Window(100, 1),
        users=many,
        warm_up_s=200,
        until_s=500,
        share=0.97,
        turned_away=0.006,
    ),
    Steady(
        name="window 500 in 10 s",
        make=lambda rng: Window(500, 10),
        users=many,
        share=0.97,
        turned_away=0.006,
    ),
    Steady(
        name="window 600 in 60 s, blind",
        make=lambda rng: Window(600, 60),
        users=many,
        warm_up_s=300,
        until_s=1800,
        share=0.92,
        turned_away=0.02,
    ),
    Steady(
        name="window 3,000 in 60 s, Retry-After",
        make=lambda rng: Window(3000, 60, tells_wait=True),
        users=many,
        share=0.98,
        turned_away=0.006,
    ),
    Steady(
        name="the same, RateLimit fields",
        make=lambda rng: Window(3000, 60, tells_wait=True, tells_left=True),
        users=many,
        share=0.98,
        turned_away=0.0,
    ),
    Steady(
        name="sliding 500 in 10 s",
        make=lambda rng: Sliding(500, 10),
        users=many,
        share=0.97,
        turned_away=0.006,
    ),
    Steady(
        name="20 at once, 200 ms each",
        make=lambda rng: Concurrent(20, work_s=0.2, rng=rng),
        users=many,
        rtt_s=0.01,
        warm_up_s=200,
        until_s=500,
        share=0.89,
        turned_away=0.002,
    ),
    Steady(
        name="20 workers and a queue, no 429",
        make=lambda rng: Queueing(20, work_s=0.2, rng=rng),
        users=many,
        rtt_s=0.02,
        warm_up_s=200,
        until_s=500,
        share=0.98,
        turned_away=0.0,
        median_s=1.8 * 0.22,
    ),
    Steady(
        name="0.3 % of 429s by chance",
        make=lambda rng: Unreliable(Bucket(50, burst=50), rng=rng, turns_away=0.003),
        users=many,
        share=0.75,
        turned_away=0.01,
    ),
    Steady(
        name="3 % of 429s by chance",
        make=lambda rng: Unreliable(Bucket(50, burst=50), rng=rng, turns_away=0.03),
        users=many,
        share=0.3,
        turned_away=0.06,
    ),
    Steady(
        name="14 % of 429s by chance",
        make=lambda rng: Unreliable(Bucket(50, burst=50), rng=rng, turns_away=0.14),
        users=many,
        share=0.3,
        turned_away=0.25,
    ),
    # Everybody is held for a second, each time that somebody is turned away.
    Steady(
        name="the same, Retry-After: 1",
        make=_by_chance(0.14, Told(status=429, wait_s=1.0)),
        users=many,
        share=0.1,
        turned_away=0.2,
    ),
    Steady(
        name="14 % of 503s, Retry-After: 1",
        make=_by_chance(0.14, Told(status=503, wait_s=1.0)),
        users=many,
        share=0.1,
        turned_away=0.2,
    ),
    Steady(
        name="1 % of 500s by chance",
        make=lambda rng: Unreliable(Bucket(50, burst=50), rng=rng, fails=0.01),
        users=many,
        share=0.99,
        turned_away=0.008,
    ),
    Steady(
        name="banned 10 s for each 429",
        make=lambda rng: Penalty(Bucket(50, burst=50), ban_s=10),
        users=many,
        share=0.9,
        turned_away=0.005,
    ),
    Steady(
        name="a hot user, 2/s of its own",
        make=_hot(tells_wait=False),
        users=_with_a_hot_one,
        share=0.98,
        turned_away=0.015,
    ),
    Steady(
        name="the same, Retry-After",
        make=_hot(tells_wait=True),
        users=_with_a_hot_one,
        share=0.98,
        turned_away=0.015,
    ),
    Steady(
        name="20 users alike",
        make=lambda rng: Bucket(50, burst=50),
        users=_twenty,
        share=0.96,
        turned_away=0.008,
    ),
    Steady(
        name="one user alone",
        make=lambda rng: Bucket(50, burst=50),
        users=_one,
        many_users=False,
        share=0.97,
        turned_away=0.008,
    ),
    Steady(
        name="others take 30 %",
        make=lambda rng: Shared(Bucket(50, burst=50), share=0.3, rng=rng),
        users=many,
        share=0.98,
        turned_away=0.015,
    ),
    Steady(
        name="bucket 50/s, 300 ms away",
        make=lambda rng: Bucket(50, burst=50),
        users=many,
        rtt_s=0.3,
        share=0.96,
        turned_away=0.003,
    ),
    Steady(
        name="window 100 in 1 s, 300 ms away",
        make=lambda rng: Window(100, 1),
        users=many,
        rtt_s=0.3,
        warm_up_s=200,
        until_s=500,
        share=0.91,
        turned_away=0.036,
    ),
    Steady(
        name="bucket 50/s, 1 s away",
        make=lambda rng: Bucket(50, burst=50),
        users=many,
        rtt_s=1.0,
        share=0.85,
        turned_away=0.024,
    ),
)

STEPS = (
    Step(name="50/s falls to 20/s", before_per_s=50, after_per_s=20, within_s=10, turned_away=45),
    Step(name="20/s rises to 80/s", before_per_s=20, after_per_s=80, within_s=60, turned_away=45),
    Step(
        name="50/s rises to 500/s",
        before_per_s=50,
        after_per_s=500,
        within_s=120,
        turned_away=45,
        until_s=335,
    ),
)

MINUTES = (
    # Sending begins at many times what this server takes.
    Minute(name="bucket 2/s", make=lambda rng: Bucket(2, burst=2), reached_s=25, few=18),
    Minute(name="bucket 50/s", make=lambda rng: Bucket(50, burst=50), reached_s=3),
    Minute(name="bucket 50/s, burst 5", make=lambda rng: Bucket(50, burst=5), reached_s=25),
    Minute(name="bucket 400/s", make=lambda rng: Bucket(400, burst=400), reached_s=5),
    Minute(name="window 100 in 1 s", make=lambda rng: Window(100, 1), reached_s=28),
)
