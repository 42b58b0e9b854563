"""The throttle says when the next request may leave: pace, ceiling, holds, in virtual time."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runner.throttle import OUTAGE, THROTTLED, Hold, Lane, Learned, Throttle
from runner.throttle.chance import Chance
from runner.throttle.lanes import LaneEnded, LaneOpened, Lanes


def throttle(ceiling: int = 32, rate_per_s: float | None = None, chance: float = 1.0) -> Throttle:
    """Return a throttle that knows of no limit but its ceilings; its dice always fall alike."""
    known = Learned(rate_per_s=200_000.0, in_flight=2 * ceiling)
    return Throttle(ceiling=ceiling, rate_per_s=rate_per_s, chance=lambda: chance, start=known)


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
            step = max(wait * patience, gate.pacer.interval_s / 50, 1e-9)
            now = max(now + step, math.nextafter(now, math.inf))
    return left


def news(
    gate: Throttle, now: float, *, sent_at: float = 0.0, wait_s: float, detail: str
) -> Hold | None:
    """Have a request turned away, everybody's; return the hold if that is news."""
    return gate.throttled(now, sent_at=sent_at, wait_s=wait_s, detail=detail).hold


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
    """Who looks ahead learns how far departures are apart, by the ceiling or by what is known."""
    unknown = Throttle(ceiling=8, chance=lambda: 0.5)

    assert throttle(rate_per_s=4).pacer.interval_s == 0.25
    assert unknown.pacer.interval_s == 1 / 60


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

    hold = Hold(THROTTLED, "429 with Retry-After: 30", 10.0, 40.0)

    assert news(gate, 10.0, sent_at=9.0, wait_s=30.0, detail=hold.detail) == hold
    assert gate.holds(10.0) == (hold,)
    assert [gate.take(10.0), gate.take(39.5)] == [30.0, 0.5]
    assert gate.is_held(39.9)
    assert not gate.is_held(40.0)
    assert gate.take(40.0) == 0.0
    assert gate.holds(40.0) == ()


def test_the_longest_wait_named_counts() -> None:
    """A later answer can make a hold longer, never shorter; only a longer one is news."""
    gate = throttle()

    assert news(gate, 0.0, wait_s=10.0, detail="first")
    assert not news(gate, 1.0, wait_s=5.0, detail="shorter")
    assert news(gate, 2.0, wait_s=20.0, detail="longer")
    assert gate.holds(2.0) == (Hold(THROTTLED, "longer", 0.0, 22.0),)


def test_a_hold_that_has_ended_does_not_lend_its_beginning() -> None:
    """A new hold counts from its own moment, though nobody has asked to leave in between."""
    gate = throttle()
    gate.throttled(0.0, sent_at=0.0, wait_s=5.0, detail="old")
    gate.throttled(100.0, sent_at=99.0, wait_s=5.0, detail="new")

    assert gate.holds(101.0) == (Hold(THROTTLED, "new", 100.0, 105.0),)


def turned_away(gate: Throttle, now: float) -> float:
    """Have the next request turned away without a word of how long; return when that was."""
    while (wait := gate.take(now)) > 0:
        now = max(now + wait, math.nextafter(now, math.inf))
    gate.throttled(now, sent_at=now, detail="429")
    gate.give_back()
    return now


def turned_away_three_times(gate: Throttle, now: float) -> float:
    """Have three requests in a row turned away, which shuts the gate; return when that was."""
    for _ in range(3):
        assert gate.take(now) == 0.0
        gate.throttled(now, sent_at=now, detail="429")
        gate.give_back()
    return now


def test_one_answer_without_a_wait_holds_nobody() -> None:
    """An isolated 429 that tells no wait is its row's; three in a row hold everybody."""
    gate = throttle()
    charges = [gate.throttled(0.0, sent_at=0.0, detail="429") for _ in range(3)]

    assert [charge.row_alone for charge in charges] == [True, True, False]
    assert charges[2].hold == Hold(THROTTLED, "429", 0.0, 0.6)


def test_h9_old_news_holds_but_once() -> None:
    """Thirty throttled answers to requests of one moment make one hold, and cut but once."""
    gate = throttle()
    charges = [gate.throttled(0.0, sent_at=-0.1, detail="429") for _ in range(30)]
    later = [gate.throttled(0.1, sent_at=-0.1, detail="429") for _ in range(30)]

    assert sum(charge.hold is not None for charge in charges + later) == 1
    assert len(gate.news) == 1


def test_holds_of_our_own_grow_to_a_limit_and_start_small_again() -> None:
    """Half as long again each time nobody gets through, up to 15 s; after one good answer 0.5 s."""
    gate, lengths = throttle(chance=0.0), []
    now = turned_away_three_times(gate, 0.0)
    for _ in range(10):
        lengths.append(gate.holds(now)[0].until - now)
        now = turned_away(gate, now)

    assert lengths == pytest.approx([min(0.5 * 1.5**n, 15) for n in range(10)])
    now += 60
    assert gate.take(now) == 0.0
    gate.answered(now + 0.1, sent_at=now)
    gate.give_back()
    for _ in range(3):
        gate.throttled(now + 1, sent_at=now + 1, detail="429")
    assert gate.holds(now + 1)[0].until == pytest.approx(now + 1.5)


@pytest.mark.parametrize(("chance", "until"), [(0.0, 0.5), (0.5, 0.55), (1.0, 0.6)])
def test_holds_of_our_own_are_spread(chance: float, until: float) -> None:
    """Many clients that were throttled together do not come back together."""
    gate = throttle(chance=chance)
    turned_away_three_times(gate, 0.0)

    assert gate.holds(0.0)[0].until == pytest.approx(until)


def test_t7_a_wait_of_no_seconds_is_not_taken_for_permission() -> None:
    """`Retry-After: 0` names no time, so it counts like an answer without one."""
    gate = throttle()
    charges = [gate.throttled(5.0, sent_at=4.0, wait_s=0.0, detail="429") for _ in range(3)]

    assert [charge.everybody for charge in charges] == [False, False, True]


def test_after_a_hold_one_request_finds_out_whether_it_is_over() -> None:
    """Nobody follows the first before its answer has come; if that is good all may."""
    gate = throttle()
    gate.throttled(0.0, sent_at=0.0, wait_s=5.0, detail="429")

    assert [gate.take(5.0), gate.take(5.0), gate.take(6.0)] == [0.0, math.inf, math.inf]
    gate.answered(6.5, sent_at=5.0)
    gate.give_back()
    assert [gate.take(6.5), gate.take(6.5)] == [0.0, 0.0]


@pytest.mark.parametrize("how", ["turned away", "no answer", "broken"])
def test_h12_a_probe_that_fails_leaves_the_gate_shut(how: str) -> None:
    """H12: another 429, a timeout or a 500 make everybody wait again, and then one more asks."""
    gate = throttle()
    gate.throttled(0.0, sent_at=0.0, wait_s=5.0, detail="429")
    gate.take(5.0)
    match how:
        case "turned away":
            gate.throttled(5.1, sent_at=5.0, detail="429")
        case "no answer":
            gate.lost(5.1, sent_at=5.0)
        case _:
            gate.failed(5.1, sent_at=5.0)
    gate.give_back()
    wait = gate.take(5.1)

    assert 0 < wait < 1
    assert gate.take(5.1 + wait) == 0.0
    assert gate.take(5.1 + wait) == math.inf


def test_h12_a_probe_that_is_lost_without_a_word_wedges_nothing() -> None:
    """H12: one that was canceled, so that nobody tells how it ended, is replaced by another."""
    gate = throttle()
    gate.throttled(0.0, sent_at=0.0, wait_s=5.0, detail="429")
    gate.take(5.0)
    gate.give_back()

    assert gate.take(5.0) == 0.0


def test_throttled_for_ever_still_ends_in_a_number() -> None:
    """After thousands of throttled answers in a row the hold is the longest, not an error."""
    gate = throttle()
    now = turned_away_three_times(gate, 0.0)
    for _ in range(3000):
        now = turned_away(gate, now)

    assert gate.holds(now)[0].until - now == pytest.approx(18)


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
    gate.answered(3.1, sent_at=3.0)
    assert gate.take(3.1, probe=True) == pytest.approx(0.88)
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
    gate.lost(10.0, sent_at=9.0)
    gate.lost(11.0, sent_at=9.0)
    after_loss = [gate.take(11.0) for _ in range(ceiling)].count(0.0)
    gate.answered(11.2, sent_at=9.9)
    old_news = [gate.take(11.5) for _ in range(ceiling)].count(0.0)
    gate.answered(11.6, sent_at=10.5)
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


class Case(NamedTuple):
    """A request that is under way."""

    sent_at: float
    user: str
    lane: Lane | None


@settings(max_examples=300, deadline=None)
@given(
    ceiling=st.integers(1, 6),
    rate=st.one_of(st.none(), st.floats(0.5, 50)),
    seed=st.integers(0, 10**6),
    steps=st.integers(10, 200),
)
def test_whatever_happens_the_rules_hold(
    ceiling: int, rate: float | None, seed: int, steps: int
) -> None:
    """No take inside a hold, one probe at most, limits in range, and a wait ends or is ended."""
    dice = random.Random(seed)
    gate = Throttle(ceiling=ceiling, rate_per_s=rate, chance=dice.random)
    now, sent = 0.0, list[Case]()
    for _ in range(steps):
        now += dice.choice([0.0, 0.0, 0.001, 0.1, 1.0, 30.0, 2000.0])
        match dice.randrange(9):
            case 0 | 1 | 2 if sent:
                case = sent.pop(dice.randrange(len(sent)))
                answer(gate, case, now, dice)
                gate.give_back(case.lane)
            case 3 if dice.random() < 0.3:
                gate.hold(OUTAGE, now=now, until=now + 5, detail="")
            case 4:
                gate.lift(OUTAGE, now=now)
            case _:
                probe, user = dice.random() < 0.2, dice.choice("abcd")
                held = [h for h in gate.holds(now) if not (probe and h.reason == OUTAGE)]
                full = gate.in_flight >= ceiling
                lane = None if probe else gate.lanes.of.get(user)
                wait = gate.take(now, user=user, probe=probe)
                if wait == 0.0:
                    assert not held
                    assert not full
                    assert lane is None or (lane.until <= now and lane.out == 1)
                    sent.append(Case(now, user, lane))
                elif math.isinf(wait):
                    # Somebody in flight, or an outage, will wake whoever waits.
                    assert sent or any(hold.stays for hold in held)
                else:
                    assert 0 < wait < 10_000
                    assert wait >= max((h.until - now for h in held), default=0.0)
        assert len(sent) == gate.in_flight <= ceiling
        assert gate.is_held(now) == bool(gate.holds(now))
        assert 1 / 3600 <= gate.rate_per_s <= (rate or 100_000)
        assert 1 <= gate.in_flight_limit <= ceiling
        if gate._gate.is_shut:
            assert sum(case.sent_at >= gate._gate.until for case in sent) <= 1


def answer(gate: Throttle, case: Case, now: float, dice: random.Random) -> None:
    """Have the throttle take in some end of a request."""
    sent_at, user = case.sent_at, case.user
    match dice.randrange(6):
        case 0:
            wait_s = dice.choice([None, None, 0.0, 0.3, 5.0, 900.0])
            everybody = dice.random() < 0.2
            gate.throttled(now, sent_at=sent_at, wait_s=wait_s, user=user, everybody=everybody)
        case 1:
            gate.lost(now, sent_at=sent_at)
        case 2:
            gate.failed(now, sent_at=sent_at)
        case 3:
            left, ends = dice.randrange(100), dice.randrange(100)
            told = f'"x";r={left};t={ends}'
            gate.answered(now, sent_at=sent_at, user=user, policy='"x";q=9;w=3', remaining=told)
        case 4:
            gate.answered(now, sent_at=sent_at, user=user, in_flight=len(user))
        case _:
            pass  # canceled: nobody tells how it ended


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


# -------------------------------------------------------------------------------- by chance


def answers_at(chance: Chance, rate: float, *, one_in: int, answers: int, now: float) -> float:
    """Have one in so many turned away at *rate*; return when the last of *answers* came."""
    for number in range(1, answers + 1):
        now += 1 / rate
        chance.answered(now, away=number % one_in == 0, rate_per_s=rate)
    return now


def test_h7_a_share_that_stays_the_same_at_any_rate_is_no_limit() -> None:
    """One in seven at 50/s, and one in seven at 35/s, where a limit of 43/s would allow all."""
    chance = Chance()
    now = answers_at(chance, 50.0, one_in=7, answers=70, now=0.0)
    chance.cut(now, rate_per_s=50.0)
    answers_at(chance, 35.0, one_in=7, answers=70, now=now)

    assert chance.explains(35.0) == 50.0
    assert 0.1 < chance.share < 0.2


@pytest.mark.parametrize("one_in", [30, 3])
def test_h7_a_share_that_falls_with_the_rate_is_a_limit(one_in: int) -> None:
    """To send less has helped, or there is more to it: then no chance is blamed."""
    chance = Chance()
    now = answers_at(chance, 50.0, one_in=7, answers=70, now=0.0)
    chance.cut(now, rate_per_s=50.0)
    answers_at(chance, 35.0, one_in=one_in, answers=300, now=now)

    assert chance.explains(35.0) is None
    assert chance.share == 0.0


def test_h7_rates_that_a_limit_would_not_allow_prove_nothing() -> None:
    """Of 50/s only 20/s were taken: who is turned away at 40/s is so by the limit."""
    chance = Chance()
    now = answers_at(chance, 50.0, one_in=2, answers=100, now=0.0)
    chance.cut(now, rate_per_s=50.0, taken_per_s=20.0)
    answers_at(chance, 40.0, one_in=2, answers=100, now=now)

    assert chance.explains(40.0) is None


def test_h7_what_was_chance_is_a_limit_again_once_it_is_over() -> None:
    """Where hardly anybody is turned away any more, nothing is tolerated beyond the usual."""
    chance = Chance()
    now = answers_at(chance, 50.0, one_in=7, answers=70, now=0.0)
    chance.cut(now, rate_per_s=50.0)
    now = answers_at(chance, 35.0, one_in=7, answers=70, now=now)
    chance.explains(35.0)
    answers_at(chance, 50.0, one_in=1000, answers=700, now=now)

    assert chance.share == 0.0


@pytest.mark.parametrize("per_s", [5, 20, 80, 400])
def test_a_lane_ends_once_its_user_is_four_times_as_fast(per_s: int) -> None:
    """However quick its user was: also where a lane begins at a hundredth of a second."""
    told: list[object] = []
    lanes = Lanes(told.append, many_users=True)
    for number in range(256):
        lanes.sent(("hot" if number % 8 == 0 else f"user-{number}", number / (8 * per_s)))
    now = 256 / (8 * per_s)
    lane = lanes.open("hot", now=now, answer=0, wait_s=None, proved=True)
    first_s = lane.interval_s

    answers = 0
    while "hot" in lanes.of:
        answers += 1
        now = max(now, lane.next_at)
        lane.depart(now)
        lane.out -= 1
        lanes.answered(now, sent_at=now, user="hot", answer=answers)

    assert answers == 14  # nine tenths of what it was, each time
    assert lane.interval_s == pytest.approx(first_s / 4, rel=0.1)
    assert told == [LaneOpened("hot"), LaneEnded("hot")]
