"""The throttle says when the next request may leave: pace, ceiling, holds, in virtual time."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runner.throttle import OUTAGE, THROTTLED, Hold, Throttle


def throttle(ceiling: int = 32, rate_per_s: float | None = None, chance: float = 1.0) -> Throttle:
    """Return a throttle whose dice always fall alike."""
    return Throttle(ceiling=ceiling, rate_per_s=rate_per_s, chance=lambda: chance)


def departures(gate: Throttle, *, start: float, until: float, patience: float = 1.0) -> list[float]:
    """Return when requests leave that ask all the time and end at once.

    *patience* is how much of a told wait they sit out before they ask again.
    """
    now, left = start, []
    while now < until:
        wait = gate.take(now)
        if wait == 0.0:
            gate.give_back()
            left.append(now)
        else:
            # Never in smaller steps than a clock shows, and so that the wait ends.
            step = max(wait * patience, gate.interval_s / 50, 1e-9)
            now = max(now + step, math.nextafter(now, math.inf))
    return left


def most_in_a_second(moments: list[float]) -> int:
    """Return the largest number of moments in any span that is shorter than a second."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


@settings(max_examples=40, deadline=None)
@given(
    rate=st.one_of(st.floats(0.5, 5000), st.integers(1, 5000).map(float)),
    start=st.sampled_from([0.0, 17.3, 1e6]),
    patience=st.sampled_from([1.0, 0.5, 0.1]),
)
def test_never_more_than_the_rate_and_one_in_any_second(
    rate: float, start: float, patience: float
) -> None:
    """In any second at most one request more than the rate leaves, and over time the rate does."""
    span = max(1.5, 10 / rate)
    moments = departures(
        throttle(rate_per_s=rate), start=start, until=start + span, patience=patience
    )

    assert most_in_a_second(moments) <= math.ceil(rate) + 1
    assert 0.98 * rate * span - 1 <= len(moments) <= rate * span + 2


@pytest.mark.parametrize("rate", [1.0, 7.0, 50.0, 1000.0])
def test_h10_an_idle_client_does_not_save_up(rate: float) -> None:
    """After five minutes without input the pace is what it was: no burst on return."""
    gate = throttle(rate_per_s=rate)
    departures(gate, start=0.0, until=2.0)
    moments = departures(gate, start=300.0, until=302.0)

    assert most_in_a_second(moments) <= rate + 1
    assert moments[1] - moments[0] >= 0.5 / rate - 1e-9
    assert moments[2] - moments[0] >= 1.5 / rate - 1e-9


def test_the_interval_is_told() -> None:
    """Who looks ahead learns how far departures are apart; without a rate they are not."""
    assert throttle(rate_per_s=4).interval_s == 0.25
    assert throttle().interval_s == 0.0


def test_without_a_rate_only_the_ceiling_counts() -> None:
    """As many leave at once as the ceiling allows, then one for each that comes back."""
    gate = throttle(ceiling=3)

    assert [gate.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, math.inf]
    gate.give_back()
    assert [gate.take(0.0), gate.take(0.0)] == [0.0, math.inf]
    assert gate.in_flight == 3


def test_a_full_house_spends_no_departure() -> None:
    """Who is turned away for want of a slot has not used up the pace of those that follow."""
    gate = throttle(ceiling=1, rate_per_s=2)

    assert gate.take(0.0) == 0.0
    assert [gate.take(9.9), gate.take(9.9)] == [math.inf, math.inf]
    gate.give_back()
    assert gate.take(10.0) == 0.0


def test_a_wait_named_by_the_server_holds_everybody() -> None:
    """Nobody leaves before the moment that the server named, and somebody does at it."""
    gate = throttle()

    assert gate.throttled(10.0, sent_at=9.0, wait_s=30.0, detail="429 with Retry-After: 30")
    assert gate.holds(10.0) == (Hold(THROTTLED, "429 with Retry-After: 30", 10.0, 40.0),)
    assert [gate.take(10.0), gate.take(39.5)] == [30.0, 0.5]
    assert gate.is_held(39.9)
    assert not gate.is_held(40.0)
    assert gate.take(40.0) == 0.0
    assert gate.holds(40.0) == ()


def test_the_longest_wait_named_counts() -> None:
    """A later answer can make a hold longer, never shorter; only a longer one is news."""
    gate = throttle()

    assert gate.throttled(0.0, sent_at=0.0, wait_s=10.0, detail="first")
    assert not gate.throttled(1.0, sent_at=0.0, wait_s=5.0, detail="shorter")
    assert gate.throttled(2.0, sent_at=0.0, wait_s=20.0, detail="longer")
    assert gate.holds(2.0) == (Hold(THROTTLED, "longer", 0.0, 22.0),)


def test_a_hold_that_has_ended_does_not_lend_its_beginning() -> None:
    """A new hold counts from its own moment, though nobody has asked to leave in between."""
    gate = throttle()
    gate.throttled(0.0, sent_at=0.0, wait_s=5.0, detail="old")
    gate.throttled(100.0, sent_at=99.0, wait_s=5.0, detail="new")

    assert gate.holds(101.0) == (Hold(THROTTLED, "new", 100.0, 105.0),)


def test_h9_old_news_holds_but_once() -> None:
    """Thirty throttled answers to requests of one moment make one hold, and the next is double."""
    gate = throttle()
    news = [gate.throttled(0.0, sent_at=-0.1, wait_s=None, detail="429") for _ in range(30)]

    assert news == [True] + [False] * 29
    assert gate.holds(0.0)[0].until == 1.0
    assert gate.take(1.0) == 0.0
    assert not gate.throttled(1.1, sent_at=0.5, wait_s=None, detail="late")
    assert gate.throttled(1.2, sent_at=1.0, wait_s=None, detail="again")
    assert gate.holds(1.2)[0].until == pytest.approx(3.2)


def test_holds_of_our_own_grow_to_a_limit_and_start_small_again() -> None:
    """1, 2, 4 … 60 s while nothing gets through; after one good answer 1 s again."""
    gate, now, lengths = throttle(), 0.0, []
    for _ in range(9):
        assert gate.take(now) == 0.0
        gate.give_back()
        gate.throttled(now, sent_at=now, wait_s=None, detail="429")
        lengths.append(round(gate.holds(now)[0].until - now, 6))
        now = gate.holds(now)[0].until

    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    gate.answered(sent_at=now - 1)
    gate.take(now)
    gate.throttled(now, sent_at=now, wait_s=None, detail="429")
    assert gate.holds(now)[0].until - now == 60
    now += 60
    gate.answered(sent_at=now)
    gate.take(now)
    gate.throttled(now, sent_at=now, wait_s=None, detail="429")
    assert gate.holds(now)[0].until - now == 1


@pytest.mark.parametrize(("chance", "until"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_holds_of_our_own_are_spread(chance: float, until: float) -> None:
    """Many clients that were throttled together do not come back together."""
    gate = throttle(chance=chance)
    gate.throttled(0.0, sent_at=0.0, wait_s=None, detail="429")

    assert gate.holds(0.0)[0].until == until


def test_t7_a_wait_of_no_seconds_is_not_taken_for_permission() -> None:
    """`Retry-After: 0` names no time, so it holds like an answer without one, and grows."""
    gate = throttle()

    assert gate.throttled(5.0, sent_at=4.0, wait_s=0.0, detail="429")
    assert gate.holds(5.0)[0].until == 6.0


def test_throttled_for_ever_still_ends_in_a_number() -> None:
    """After thousands of throttled answers in a row the hold is the longest, not an error."""
    gate, now = throttle(), 0.0
    for _ in range(3000):
        gate.take(now)
        gate.give_back()
        gate.throttled(now, sent_at=now, wait_s=None, detail="429")
        now = gate.holds(now)[0].until

    assert gate.throttled(now, sent_at=now, wait_s=None, detail="429") is False
    assert gate.take(now) == 0.0


def test_an_outage_holds_until_it_is_lifted() -> None:
    """Its moment is when it is looked at again; nobody but a probe passes before it is lifted."""
    gate = throttle()
    gate.hold(OUTAGE, now=0.0, until=5.0, detail="503")

    assert gate.take(100.0) == math.inf
    assert gate.is_held(100.0)
    assert gate.take(100.0, probe=True) == 0.0
    gate.hold(OUTAGE, now=100.0, until=110.0, detail="503 again")
    assert gate.holds(100.0) == (Hold(OUTAGE, "503 again", 0.0, 110.0, stays=True),)
    gate.lift(OUTAGE, now=101.0)
    assert gate.holds(101.0) == ()


def test_a_probe_passes_nothing_but_an_outage() -> None:
    """A probe waits for what the server asked, for the pace and for a slot like anybody."""
    gate = throttle(ceiling=2, rate_per_s=1)
    gate.hold(OUTAGE, now=0.0, until=5.0, detail="")
    gate.throttled(0.0, sent_at=0.0, wait_s=3.0, detail="")

    assert gate.take(1.0, probe=True) == 2.0
    assert gate.take(3.0, probe=True) == 0.0
    assert gate.take(3.1, probe=True) == pytest.approx(0.4)
    assert gate.take(4.0, probe=True) == 0.0
    assert gate.take(9.0, probe=True) == math.inf


def test_the_longest_of_several_holds_counts() -> None:
    """All reasons are told; whoever asks waits for the last of them."""
    gate = throttle()
    gate.hold("paused", now=0.0, until=1.0, detail="an operator")
    gate.throttled(0.0, sent_at=0.0, wait_s=10.0, detail="429")

    assert [hold.reason for hold in gate.holds(5.0)] == ["paused", THROTTLED]
    assert gate.take(5.0) == math.inf
    gate.lift("paused", now=5.0)
    assert gate.take(5.0) == 5.0
    gate.lift("paused", now=5.0)
    gate.lift("unheard of", now=5.0)
    assert gate.take(10.0) == 0.0


def test_after_an_outage_the_ceiling_is_climbed() -> None:
    """A server that comes back meets a quarter of the ceiling, doubled each second."""
    gate = throttle(ceiling=32)
    gate.hold(OUTAGE, now=0.0, until=5.0, detail="")
    gate.lift(OUTAGE, now=10.0)

    def fill(now: float) -> int:
        while gate.take(now) == 0.0:
            pass
        return gate.in_flight

    assert [fill(10.0), fill(11.0), fill(12.0), fill(13.0)] == [8, 16, 32, 32]


@pytest.mark.parametrize("ceiling", [1, 2, 3, 5])
def test_a_small_ceiling_is_climbed_from_one(ceiling: int) -> None:
    """After an outage at least one request may leave at once, however low the ceiling."""
    gate = throttle(ceiling=ceiling)
    gate.hold(OUTAGE, now=0.0, until=5.0, detail="")
    gate.lift(OUTAGE, now=10.0)

    assert gate.take(10.0) == 0.0
    assert gate.in_flight == 1


@pytest.mark.parametrize(("ceiling", "few"), [(32, 8), (4, 1), (1, 1)])
def test_after_a_loss_fewer_are_in_flight_until_a_later_answer(ceiling: int, few: int) -> None:
    """A lost connection may be the first of all: a quarter goes on until a later one answers."""
    gate = throttle(ceiling=ceiling)
    gate.lost(10.0)
    gate.lost(11.0)
    after_loss = [gate.take(11.0) for _ in range(ceiling)].count(0.0)
    gate.answered(sent_at=9.9)
    old_news = [gate.take(11.5) for _ in range(ceiling)].count(0.0)
    gate.answered(sent_at=10.5)
    since = [gate.take(12.0) for _ in range(ceiling)].count(0.0)

    assert (after_loss, old_news, since) == (few, 0, ceiling - few)


@pytest.mark.parametrize("idle_s", [60.0, 2_000.0, 1e9])
def test_a_long_pause_after_an_outage_is_no_error(idle_s: float) -> None:
    """When nothing was sent for hours after an outage, the full ceiling is free."""
    gate = throttle(ceiling=32)
    gate.hold(OUTAGE, now=0.0, until=5.0, detail="")
    gate.lift(OUTAGE, now=10.0)
    taken = [gate.take(10.0 + idle_s) for _ in range(33)]

    assert taken == [0.0] * 32 + [math.inf]


@settings(max_examples=200, deadline=None)
@given(
    ceiling=st.integers(1, 6),
    rate=st.one_of(st.none(), st.floats(0.5, 50)),
    seed=st.integers(0, 10**6),
    steps=st.integers(10, 120),
)
def test_whatever_happens_the_rules_hold(
    ceiling: int, rate: float | None, seed: int, steps: int
) -> None:
    """No take inside a hold, never above the ceiling, and a wait ends unless full or held."""
    dice = random.Random(seed)
    gate = Throttle(ceiling=ceiling, rate_per_s=rate, chance=dice.random)
    now, sent = 0.0, list[float]()
    for _ in range(steps):
        now += dice.choice([0.0, 0.0, 0.001, 0.1, 1.0, 30.0, 2000.0])
        match dice.randrange(9):
            case 0 if sent:
                sent.pop(dice.randrange(len(sent)))
                gate.give_back()
            case 1:
                sent_at = dice.choice([*sent, now])
                wait_s = dice.choice([None, None, 0.0, 0.3, 5.0, 900.0])
                gate.throttled(now, sent_at=sent_at, wait_s=wait_s, detail="")
            case 2:
                gate.answered(sent_at=dice.choice([*sent, now]))
            case 3 if dice.random() < 0.3:
                gate.hold(OUTAGE, now=now, until=now + 5, detail="")
            case 4:
                gate.lift(OUTAGE, now=now)
            case _:
                probe = dice.random() < 0.2
                held = [h for h in gate.holds(now) if not (probe and h.reason == OUTAGE)]
                full = gate.in_flight >= ceiling
                wait = gate.take(now, probe=probe)
                if wait == 0.0:
                    assert not held
                    assert not full
                    sent.append(now)
                elif math.isinf(wait):
                    # Somebody in flight, or an outage, will wake whoever waits.
                    assert sent or any(hold.stays for hold in held)
                else:
                    assert wait > 0
                    assert wait >= max((h.until - now for h in held), default=0.0)
        assert len(sent) == gate.in_flight <= ceiling
        assert gate.is_held(now) == bool(gate.holds(now))


@settings(max_examples=100, deadline=None)
@given(
    rate=st.one_of(st.none(), st.floats(0.5, 1000)),
    held_s=st.one_of(st.none(), st.floats(0.001, 100)),
    before=st.integers(0, 20),
)
def test_who_waits_as_told_gets_through(
    rate: float | None, held_s: float | None, before: int
) -> None:
    """Asking again when told to, nobody has to ask more than a few times."""
    gate = throttle(ceiling=100, rate_per_s=rate)
    for _ in range(before):
        gate.take(0.0)
    assume(gate.in_flight < 100)
    if held_s is not None:
        gate.throttled(0.0, sent_at=0.0, wait_s=held_s, detail="")
    now, asked = 0.0, 0
    while (wait := gate.take(now)) > 0:
        assert math.isfinite(wait)
        now = max(now + wait, math.nextafter(now, math.inf))
        asked += 1

    assert asked <= 6
