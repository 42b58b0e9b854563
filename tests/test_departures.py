"""One rate for many workers: leases of departures, and the pacer that spends them."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runner.departures import Line
from runner.throttle import LeasedPacer, Throttle
from runner.turnstile import Turnstile

WINDOW_S = 5.0


def _most_in_window(moments: list[float]) -> int:
    moments = sorted(moments)
    most = behind = 0
    for ahead, moment in enumerate(moments):
        while moments[behind] <= moment - WINDOW_S:
            behind += 1
        most = max(most, ahead - behind + 1)
    return most


@given(
    rate=st.floats(0.5, 5000),
    lanes=st.integers(1, 9),
    asks=st.lists(
        st.tuples(st.floats(0, 2), st.integers(1, 300), st.none() | st.integers(0, 8)),
        min_size=1,
        max_size=80,
    ),
)
def test_leases_never_add_up_to_more_than_the_rate(
    rate: float, lanes: int, asks: list[tuple[float, int, int | None]]
) -> None:
    """Whoever asks, whenever, for however many: no departure twice, all on one even grid."""
    line, now, moments = Line.of(rate, lanes=lanes, now=100.0), 100.0, []
    for pause, wanted, lane in asks:
        now += pause
        first, count = line.lease(now, wanted, lane=None if lane is None else lane % lanes)
        assert 0 <= count <= wanted
        assert first >= now - 1e-3 / rate
        moments += [first + n * line.interval_s for n in range(count)]

    for one, other in pairwise(sorted(moments)):
        assert other - one > 0.99 / rate


def test_who_asks_in_time_loses_nothing() -> None:
    """Two who ask again before their leases end use every departure there is."""
    line, moments, ends = Line.of(50.0, lanes=2, now=0.0), [], [0.0, 0.0]
    while min(ends) < 20:
        worker = ends.index(min(ends))
        first, count = line.lease(max(0.0, ends[worker] - 0.2), 100)
        moments += [first + n * line.interval_s for n in range(count)]
        ends[worker] = first + count * line.interval_s

    assert _most_in_window(moments) == 250


def test_who_is_left_alone_gets_the_lanes_of_those_who_have_gone() -> None:
    """One who asks whenever it has to wait soon has the whole rate; nothing is let go by."""
    line, moments, now = Line.of(60.0, lanes=3, now=0.0), [], 0.0
    while now < 20:
        first, count = line.lease(now, 100, lane=0)
        moments += [first + n * line.interval_s for n in range(count)]
        now += 0.05

    assert _most_in_window(moments) in {300, 301}
    assert len([moment for moment in moments if 1 <= moment < 20]) == 19 * 60


def test_a_new_rate_begins_behind_all_that_was_leased() -> None:
    """What was leased at the old rate stays good, and nobody else goes in between."""
    line = Line.of(100.0, lanes=2, now=0.0)
    old = [line.lease(0.0, 100) for _ in range(2)]
    last = max(first + (count - 1) * 0.02 for first, count in old)

    line.set_rate(10.0, now=0.1)

    first, _ = line.lease(0.1, 100)
    assert first >= last + 0.1 - 1e-9
    assert line.interval_s == 0.2


def test_a_departure_that_comes_late_is_lost() -> None:
    """Only at its moment, or a trice later: whoever was busy has nothing saved up."""
    pacer = LeasedPacer(60.0)
    pacer.set(10.0, strictly=True)
    assert pacer.wait_s(0.0) == math.inf
    pacer.grant(1.0, 0.1, 5)

    assert pacer.wait_s(0.9) == 0.1 or math.isclose(pacer.wait_s(0.9), 0.1)
    assert pacer.wait_s(1.0) == 0.0
    pacer.depart(1.0)
    assert math.isclose(pacer.wait_s(1.31), 0.0, abs_tol=1e-9)
    pacer.depart(1.31)
    assert math.isclose(pacer.wait_s(1.31), 0.09, abs_tol=1e-9)
    assert pacer.wait_s(2.0) == math.inf


def test_more_is_asked_for_once_and_in_time() -> None:
    """Before the lease ends, while somebody wants to leave; and not again before it came."""
    pacer, asked = LeasedPacer(60.0), []
    pacer.set(100.0, strictly=True)
    pacer.on_want = lambda: asked.append(1)

    for moment in (0.0, 0.01, 0.1):
        pacer.wait_s(moment)
    assert len(asked) == 1
    pacer.grant(0.1, 0.01, 50)
    pacer.wait_s(0.2)
    assert len(asked) == 1
    pacer.wait_s(0.45)
    assert len(asked) == 2


def test_who_is_granted_nothing_asks_again() -> None:
    """A busy worker has leased the lane of one that was idle: that one is not left waiting."""
    line = Line.of(10.0, lanes=2, now=0.0)
    for step in range(25):
        line.lease(step * 0.02, 100, lane=0)
    pacer, asked = LeasedPacer(60.0), []
    pacer.set(10.0, strictly=True)
    pacer.on_want = lambda: asked.append(1)

    assert pacer.wait_s(0.5) == math.inf
    first, count = line.lease(0.5, 100, lane=1)
    assert count == 0
    pacer.grant(first, line.interval_s, count)

    again_s = pacer.wait_s(0.501)
    assert 0 < again_s <= 0.05
    assert pacer.wait_s(0.501 + again_s) == math.inf
    assert len(asked) == 2


async def test_a_request_that_was_granted_nothing_leaves_all_the_same() -> None:
    """With nothing in flight that would wake it, it is woken in time to ask once more."""
    grants = [0, 0, 1]
    loop, pacer = asyncio.get_running_loop(), LeasedPacer(60.0)
    throttle = Throttle(ceiling=8, rate_per_s=10.0, chance=lambda: 0.5, pacer=pacer)
    turnstile = Turnstile(throttle, clock=loop.time)

    def grant() -> None:
        pacer.grant(loop.time(), 0.1, grants.pop(0))
        turnstile.nudge()

    def grant_soon() -> None:
        loop.call_soon(grant)

    pacer.on_want = grant_soon
    async with asyncio.timeout(5):
        await turnstile.enter()

    assert grants == []


def test_a_lower_rate_that_was_found_is_kept_besides() -> None:
    """Leases allow a hundred a second; the server was seen to take two."""
    pacer = LeasedPacer(2.0)
    pacer.grant(0.0, 0.01, 100)

    assert pacer.wait_s(0.0) == 0.0
    pacer.depart(0.0)
    assert pacer.wait_s(0.2) > 0.04


def test_who_hears_of_a_hold_waits_as_long_and_then_finds_out_with_one_request() -> None:
    """Somebody else's 429: nobody leaves until it is over, then one, and after its answer all."""
    throttle = Throttle(ceiling=8, chance=lambda: 0.5)
    assert throttle.take(0.0) == 0.0
    throttle.give_back()

    throttle.held_by_others(1.0, wait_s=5.0, detail="429 with Retry-After: 5")

    assert [hold.reason for hold in throttle.holds(1.0)] == ["throttled"]
    assert throttle.take(3.0) > 0
    assert throttle.take(6.1) == 0.0
    assert throttle.take(6.2) > 0
    throttle.answered(6.3, sent_at=6.1)
    throttle.give_back()
    assert throttle.take(6.4) == 0.0
