"""The throttle against servers of many kinds, in virtual time: `make bench-throttle` in little.

Three seeds each, and a shorter stretch of time; the limits are the same.
"""

from __future__ import annotations

import random

import pytest

from benchmarks.throttle.measuring import SCENARIOS, measure
from benchmarks.throttle.passing import Pass
from benchmarks.throttle.scenarios import STEADY, Minute, Steady, many
from benchmarks.throttle.servers import Bucket, Told
from runner.throttle import Learned, Throttle

pytestmark = pytest.mark.no_cover

SEEDS = range(3)
BREVITY = 0.2
LEAST_S = 90.0
LEAST_S_OF_MANY = 40.0
"""Where hundreds are sent a second, less time shows as much."""
MANY = ("bucket 400/s",)
NOISY = ("others take 30 %",)
"""What others do evens out over a longer time only."""

BUCKETS = (
    "bucket 50/s, burst 50",
    "bucket 50/s, burst 5",
    "bucket 50/s, Retry-After",
    "bucket 2/s",
    "bucket 400/s",
    "20 users alike",
    "one user alone",
    "others take 30 %",
    "bucket 50/s, 300 ms away",
    "bucket 50/s, 1 s away",
)
WINDOWS = (
    "window 100 in 1 s",
    "window 500 in 10 s",
    "window 600 in 60 s, blind",
    "window 3,000 in 60 s, Retry-After",
    "sliding 500 in 10 s",
    "window 100 in 1 s, 300 ms away",
)
FIELDS = ("the same, RateLimit fields",)
HOT = ("a hot user, 2/s of its own", "the same, Retry-After")
BUSY = ("20 workers and a queue, no 429", "20 at once, 200 ms each")
STEPS = ("50/s falls to 20/s", "20/s rises to 80/s", "50/s rises to 500/s")
CHANCE = (
    "0.3 % of 429s by chance",
    "3 % of 429s by chance",
    "14 % of 429s by chance",
    "the same, Retry-After: 1",
    "14 % of 503s, Retry-After: 1",
    "1 % of 500s by chance",
)
BANS = ("banned 10 s for each 429",)


def beyond(name: str, *, first_minute: bool = False) -> list[str]:
    """Return which figures of a scenario are beyond their limits."""
    (scenario,) = (
        one for one in SCENARIOS if one.name == name and isinstance(one, Minute) == first_minute
    )
    brevity = BREVITY
    if isinstance(scenario, Steady):
        least_s = LEAST_S_OF_MANY if name in MANY else LEAST_S
        brevity = max(brevity, least_s / (scenario.until_s - scenario.warm_up_s))
        brevity = 1.0 if name in NOISY else brevity
    found = measure(scenario, SEEDS, brevity=brevity)
    return [f"{one.what}: {one.worst}, not {one.limit}" for one in found if not one.held]


def test_every_scenario_is_put_to_the_test() -> None:
    """What the benchmark holds against its limits, a test does, in little."""
    steady = {*BUCKETS, *WINDOWS, *FIELDS, *HOT, *BUSY, *STEPS, *CHANCE, *BANS}

    assert {one.name for one in SCENARIOS if not isinstance(one, Minute)} == steady


@pytest.mark.parametrize("name", BUCKETS)
def test_h1_an_unknown_limit_is_found_and_kept(name: str) -> None:
    """Nearly all of what a server takes is used, and hardly anything is turned away."""
    assert beyond(name) == []


@pytest.mark.parametrize("name", [one.name for one in SCENARIOS if isinstance(one, Minute)])
def test_h1_the_first_minute_finds_it(name: str) -> None:
    """A limit of which nothing is known is found soon, and few pay for that."""
    assert beyond(name, first_minute=True) == []


@pytest.mark.parametrize("name", WINDOWS)
def test_h2_quotas_over_a_window_are_learned(name: str) -> None:
    """Who may send so many in a time sends them evenly over that time."""
    assert beyond(name) == []


@pytest.mark.parametrize("name", FIELDS)
def test_h3_ratelimit_fields_are_heeded(name: str) -> None:
    """Where the server tells its limits, nobody has to be turned away."""
    assert beyond(name) == []


@pytest.mark.parametrize(
    ("policy", "remaining"),
    [
        ('"x";q=1000000;w=1', '"x";r=1000000;t=1'),
        ('"x";q=-5;w=0', '"x";r=-1;t=-1'),
        ("q=1;w=", "100;100;w=60"),
        ("\x00(", '"x";r=1e9;t=nan'),
        ('"x";q=5;w=1;qu="content-bytes"', '"x";r="many"'),
    ],
)
def test_h3_fields_are_no_grant_and_nonsense_is_no_limit(policy: str, remaining: str) -> None:
    """What a server promises lets nothing through that was not learned; what it garbles nothing."""

    class Boasting(Bucket):
        def ask(self, now: float, user: str) -> Told:
            told = super().ask(now, user)
            return Told(told.status, wait_s=told.wait_s, policy=policy, remaining=remaining)

    silent = Pass(Bucket(50, burst=50), many, seed=1).run(60)
    boasting = Pass(Boasting(50, burst=50), many, seed=1).run(60)

    assert (boasting.accepted, boasting.turned_away) == (silent.accepted, silent.turned_away)


@pytest.mark.parametrize("name", HOT)
def test_h4_a_hot_user_costs_the_others_nothing(name: str) -> None:
    """One user's own limit slows that user; all together use what the account may."""
    assert beyond(name) == []


@pytest.mark.parametrize("name", BUSY)
def test_h5_a_server_that_queues_is_noticed(name: str) -> None:
    """The limit on requests in flight is found, by the time they take or by who is turned away."""
    assert beyond(name) == []


@pytest.mark.parametrize("name", STEPS)
def test_h6_a_limit_that_moves_is_followed(name: str) -> None:
    """Down within seconds, up within a minute or two."""
    assert beyond(name) == []


@pytest.mark.parametrize("name", CHANCE)
def test_h7_random_failures_are_not_mistaken_for_limits(name: str) -> None:
    """A server that has bad moments is not thought to be small."""
    assert beyond(name) == []


@pytest.mark.parametrize("name", BANS)
def test_h8_a_penalty_is_not_earned_twice(name: str) -> None:
    """Where each 429 costs ten seconds, few are earned."""
    assert beyond(name) == []


@pytest.mark.parametrize("scenario", STEADY, ids=lambda one: one.name)
def test_nothing_leaves_inside_a_hold(scenario: Steady) -> None:
    """Whatever the server is like, nobody is sent to it while everybody is held."""
    seen = Pass(scenario.make(random.Random(7)), many, seed=7).run(20)

    assert seen.accepted
    assert seen.inside_a_hold == 0


def test_what_was_learned_is_a_start_and_no_grant() -> None:
    """Half of what an earlier run has learned is where the next begins, under its own ceilings."""
    first = Pass(Bucket(50, burst=50), many, seed=3)
    first.run(120)
    learned = first.throttle.learned()
    assert learned is not None

    again = Throttle(ceiling=8, chance=lambda: 0.5, start=learned)
    capped = Throttle(ceiling=2, rate_per_s=4, chance=lambda: 0.5, start=learned)
    boasted = Throttle(ceiling=2, rate_per_s=4, chance=lambda: 0.5, start=Learned(1e6, 512))

    assert learned.rate_per_s == pytest.approx(50, rel=0.1)
    assert again.rate_per_s == pytest.approx(learned.rate_per_s / 2)
    assert capped.rate_per_s == boasted.rate_per_s == 4
    assert boasted.in_flight_limit <= 2
