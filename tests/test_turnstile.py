"""Where requests wait: in order, never inside a hold, and nobody is left behind."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from runner.throttle import OUTAGE, Learned, Throttle
from runner.turnstile import Closing, Turnstile

Start = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Clock:
    """A clock that moves when told to, and counts how often it is looked at."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        """Return the moment."""
        self.looks += 1
        return self.now_s


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a task and looks after it; whatever is left at the end is canceled."""
    tasks: list[asyncio.Task[Any]] = []

    def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def gate(ceiling: int = 2, rate_per_s: float | None = None) -> Throttle:
    """Return a throttle without chance that knows of no limit but its ceilings."""
    known = Learned(rate_per_s=200_000.0, in_flight=2 * ceiling)
    return Throttle(ceiling=ceiling, rate_per_s=rate_per_s, chance=lambda: 0.5, start=known)


async def settled() -> None:
    """Turn the loop often enough for everybody who can move to have moved."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_first_come_first_served(start: Start) -> None:
    """Requests leave in the order in which they came, one for each slot that comes back."""
    turnstile = Turnstile(gate(ceiling=2))
    left: list[int] = []

    async def pass_through(number: int) -> None:
        await turnstile.enter()
        left.append(number)

    tasks = [start(pass_through(number)) for number in range(20)]
    await settled()

    assert left == [0, 1]
    assert turnstile.waiting == 18
    for done in range(1, 21):
        turnstile.leave()
        await settled()
        assert left == list(range(min(20, done + 2)))
    await asyncio.gather(*tasks)
    assert (turnstile.throttle.in_flight, turnstile.waiting) == (0, 0)


async def test_a_newcomer_does_not_jump_the_queue(start: Start) -> None:
    """Whoever comes while others wait stands behind them, even when a slot is free."""
    clock = Clock()
    turnstile = Turnstile(gate(ceiling=8, rate_per_s=1), clock=clock)
    left: list[str] = []

    async def pass_through(name: str) -> None:
        await turnstile.enter()
        left.append(name)

    start(pass_through("first"))
    start(pass_through("second"))
    await settled()
    clock.now_s += 1
    newcomer = start(pass_through("newcomer"))
    await settled()
    turnstile.nudge()
    clock.now_s += 1
    turnstile.nudge()
    await newcomer

    assert left == ["first", "second", "newcomer"]


async def test_departures_keep_the_pace(start: Start) -> None:
    """On a real clock forty requests at 200 a second take their time, and no more."""
    turnstile = Turnstile(gate(ceiling=100, rate_per_s=200))
    left: list[float] = []

    async def pass_through() -> None:
        await turnstile.enter()
        left.append(time.monotonic())
        turnstile.leave()

    await asyncio.gather(*(pass_through() for _ in range(40)))

    assert left == sorted(left)
    # A tolerance of half an interval, and the clock was read before the turn was given.
    assert left[-1] - left[0] >= 38 / 200
    assert left[-1] - left[0] <= 38 / 200 + 1.0


async def test_one_timer_serves_all_who_wait(start: Start) -> None:
    """A hundred who wait for a moment look at the clock when it comes, not all the time."""
    clock = Clock()
    turnstile = Turnstile(gate(ceiling=100), clock=clock)
    turnstile.throttle.throttled(1000.0, sent_at=1000.0, wait_s=60.0, detail="429")
    for _ in range(100):
        start(turnstile.enter())
    await settled()
    looks = clock.looks
    for _ in range(200):
        await asyncio.sleep(0)

    assert clock.looks == looks
    assert turnstile.waiting == 100


async def test_canceling_gives_a_place_in_the_queue_up(start: Start) -> None:
    """Who is canceled while waiting takes no slot, and those behind move up."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    first, second = start(turnstile.enter()), start(turnstile.enter())
    await settled()
    first.cancel()
    await settled()

    assert first.cancelled()
    assert turnstile.waiting == 1
    turnstile.leave()
    await second
    assert turnstile.throttle.in_flight == 1


async def test_canceling_in_the_moment_of_the_turn_gives_the_slot_back(start: Start) -> None:
    """A slot that was granted to somebody canceled in the same moment goes to the next."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    first, second = start(turnstile.enter()), start(turnstile.enter())
    await settled()
    turnstile.leave()
    first.cancel()
    await second

    assert first.cancelled()
    assert turnstile.throttle.in_flight == 1
    assert turnstile.waiting == 0


async def test_s6_a_cancellation_is_one_though_the_queue_has_moved_on(start: Start) -> None:
    """Canceled, then passed over by a turn before it could wake: canceled all the same."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    first, second = start(turnstile.enter()), start(turnstile.enter())
    await settled()
    first.cancel()
    turnstile.leave()
    await second

    assert first.cancelled()
    assert turnstile.throttle.in_flight == 1


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_s6_a_cancellation_is_one_though_all_was_closed(
    start: Start, cancel_first: bool
) -> None:
    """Canceled and closed in one moment, in either order: it leaves canceled, with no slot."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    await turnstile.approach()
    turnstile.throttle.hold(OUTAGE, now=0.0, until=math.inf, detail="")
    writer, late = start(turnstile.enter()), start(turnstile.approach())
    await settled()
    if not cancel_first:
        turnstile.close()
    for task in (writer, late):
        task.cancel()
    if cancel_first:
        turnstile.close()
    await settled()

    assert writer.cancelled()
    assert late.cancelled()
    assert turnstile.throttle.in_flight == 1
    assert turnstile._approaching == 1


async def test_nobody_starts_inside_a_hold_that_came_after_the_turn(start: Start) -> None:
    """A hold that began between the turn and the start is seen: the slot goes back."""
    clock = Clock()
    turnstile = Turnstile(gate(ceiling=1), clock=clock)
    await turnstile.enter()
    waiting = start(turnstile.enter())
    await settled()
    turnstile.leave()
    turnstile.throttle.throttled(clock.now_s, sent_at=clock.now_s, wait_s=60.0, detail="429")
    await settled()

    assert not waiting.done()
    assert (turnstile.throttle.in_flight, turnstile.waiting) == (0, 1)
    clock.now_s += 60
    turnstile.nudge()
    await waiting
    assert turnstile.throttle.in_flight == 1


async def test_s1_nobody_starts_after_a_close_that_came_after_the_turn(start: Start) -> None:
    """A close between the turn and the start is seen as well: nothing leaves any more."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    waiting = start(turnstile.enter())
    await settled()
    turnstile.leave()
    turnstile.close()
    with pytest.raises(Closing):
        await waiting

    assert turnstile.throttle.in_flight == 0


async def test_s3_a_hold_and_a_close_after_the_turn_leave_nobody_behind(start: Start) -> None:
    """Who loses its turn to a hold does not queue at a door that is closed for good."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    waiting = start(turnstile.enter())
    await settled()
    turnstile.leave()
    turnstile.throttle.hold(OUTAGE, now=0.0, until=math.inf, detail="")
    turnstile.close()
    async with asyncio.timeout(5):
        with pytest.raises(Closing):
            await waiting

    assert turnstile.throttle.in_flight == 0


async def test_s3_closing_wakes_everybody(start: Start) -> None:
    """Who waits for a turn, for room, or for time to pass hears at once that the run ends."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    turnstile.throttle.hold(OUTAGE, now=0.0, until=math.inf, detail="")
    tasks = [start(turnstile.enter()) for _ in range(1000)]
    tasks += [start(turnstile.approach()) for _ in range(1000)]
    tasks += [start(turnstile.sleep(3600)) for _ in range(1000)]
    await settled()
    began = time.monotonic()
    assert not turnstile.closed
    turnstile.close()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(end) for end in ended} == {Closing}
    assert time.monotonic() - began < 1
    assert turnstile.waiting == 0
    assert turnstile.closed


async def test_after_closing_nobody_comes_in() -> None:
    """A closed turnstile refuses entries, approaches, probes and naps alike."""
    turnstile = Turnstile(gate())
    await turnstile.approach()
    turnstile.close()
    turnstile.close()

    with pytest.raises(Closing):
        await turnstile.enter(approached=True)
    with pytest.raises(Closing):
        await turnstile.enter(probe=True)
    with pytest.raises(Closing):
        await turnstile.approach()
    with pytest.raises(Closing):
        await turnstile.sleep(1)
    assert turnstile._approaching == 0
    assert turnstile.throttle.in_flight == 0


async def test_sleep_ends_by_itself() -> None:
    """A nap lasts as long as asked, and one of no length or less ends at once."""
    turnstile = Turnstile(gate())
    began = time.monotonic()
    await turnstile.sleep(0.02)
    slept = time.monotonic() - began
    await turnstile.sleep(0)
    await turnstile.sleep(-5)

    assert slept >= 0.02


async def test_a_hold_ends_by_itself(start: Start) -> None:
    """Nobody has to be nudged when the time that the server named is over."""
    turnstile = Turnstile(gate())
    now = time.monotonic()
    turnstile.throttle.throttled(now, sent_at=now, wait_s=0.03, detail="429")
    async with asyncio.timeout(5):
        await asyncio.gather(start(turnstile.enter()), start(turnstile.approach()))

    assert time.monotonic() - now >= 0.03


async def test_an_approach_is_woken_when_a_hold_ends(start: Start) -> None:
    """With only aspirants at the door it is still looked at again when a hold ends."""
    turnstile = Turnstile(gate())
    now = time.monotonic()
    turnstile.throttle.throttled(now, sent_at=now, wait_s=0.03, detail="429")
    async with asyncio.timeout(5):
        await turnstile.approach()

    assert time.monotonic() - now >= 0.03


async def test_s5_waiting_for_an_outage_to_end_does_not_spin(start: Start) -> None:
    """While a probe is out, past the moment at which it was due, those who wait sleep."""
    clock = Clock()
    turnstile = Turnstile(gate(), clock=clock)
    turnstile.throttle.hold(OUTAGE, now=clock.now_s, until=clock.now_s + 5, detail="503")
    clock.now_s += 10
    waiting = start(turnstile.approach())
    await settled()
    looks = clock.looks
    for _ in range(200):
        await asyncio.sleep(0)

    assert clock.looks == looks
    turnstile.throttle.lift(OUTAGE, now=clock.now_s)
    turnstile.nudge()
    await waiting


async def test_a_probe_passes_an_outage_and_its_queue(start: Start) -> None:
    """While everybody is held, one request that asks whether the server is back may leave."""
    turnstile = Turnstile(gate(ceiling=2))
    turnstile.throttle.hold(OUTAGE, now=0.0, until=math.inf, detail="")
    waiting = start(turnstile.enter())
    await settled()
    await turnstile.enter(probe=True)

    assert turnstile.throttle.in_flight == 1
    assert not waiting.done()


async def test_a_probe_waits_for_a_slot(start: Start) -> None:
    """Even a probe is counted: it waits until one of those in flight has landed."""
    turnstile = Turnstile(gate(ceiling=1))
    await turnstile.enter()
    probe = start(turnstile.enter(probe=True))
    await settled()
    assert not probe.done()
    turnstile.leave()
    async with asyncio.timeout(5):
        await probe

    assert turnstile.throttle.in_flight == 1


@pytest.mark.parametrize(
    ("ceiling", "rate_per_s", "most"),
    [(4, None, 32), (4, 1000.0, 32), (100, 40.0, 10), (100, 0.5, 1), (1, None, 8)],
)
async def test_few_approach_at_a_time(
    start: Start, ceiling: int, rate_per_s: float | None, most: int
) -> None:
    """No more intents are recorded ahead than eight for each slot, or a quarter of a second's."""
    turnstile = Turnstile(gate(ceiling=ceiling, rate_per_s=rate_per_s))
    tasks = [start(turnstile.approach()) for _ in range(3 * most + 5)]
    await settled()

    assert [task.done() for task in tasks].count(True) == most
    turnstile.withdraw()
    await settled()
    assert [task.done() for task in tasks].count(True) == most + 1
    assert all(task.done() for task in tasks[: most + 1])


async def test_entering_ends_the_approach(start: Start) -> None:
    """Room is made for the next intent when a write gets through, is canceled, or is refused."""
    # A quarter of a second at this rate is two.
    turnstile = Turnstile(gate(ceiling=1, rate_per_s=8))
    await turnstile.approach()
    await turnstile.approach()
    await turnstile.enter(approached=True)
    third = start(turnstile.approach())
    await third
    canceled = start(turnstile.enter(approached=True))
    await settled()
    fourth = start(turnstile.approach())
    await settled()

    assert not fourth.done()
    canceled.cancel()
    await fourth
    assert turnstile._approaching == 2
    assert turnstile.throttle.in_flight == 1


async def test_a_canceled_approach_makes_room(start: Start) -> None:
    """An aspirant that is canceled, waiting or just let through, does not use up the room."""
    # A quarter of a second at this rate is two.
    turnstile = Turnstile(gate(ceiling=1, rate_per_s=8))
    await turnstile.approach()
    await turnstile.approach()
    waiting, granted, last = (start(turnstile.approach()) for _ in range(3))
    await settled()
    waiting.cancel()
    turnstile.withdraw()
    granted.cancel()
    await last

    assert waiting.cancelled()
    assert granted.cancelled()
    assert turnstile._approaching == 2


async def test_nobody_approaches_inside_a_hold(start: Start) -> None:
    """Nothing is recorded as about to be sent while nothing can be sent."""
    clock = Clock()
    turnstile = Turnstile(gate(), clock=clock)
    turnstile.throttle.hold(OUTAGE, now=clock.now_s, until=clock.now_s + 60, detail="503")
    waiting = start(turnstile.approach())
    await settled()

    assert not waiting.done()
    turnstile.throttle.lift(OUTAGE, now=clock.now_s)
    turnstile.nudge()
    await waiting


async def test_s5_a_thousand_cancellations_leave_nothing_behind(start: Start) -> None:
    """However often rows come and are canceled, slots, room and queues end as they began."""
    turnstile = Turnstile(gate(ceiling=3, rate_per_s=5000))

    async def row(number: int) -> None:
        await turnstile.approach()
        entered = False
        try:
            await turnstile.enter(approached=True)
            entered = True
            await asyncio.sleep(0)
        finally:
            if entered:
                turnstile.leave()

    tasks = []
    for number in range(1000):
        tasks.append(start(row(number)))
        if number % 3 == 0:
            tasks[number // 2].cancel()
        if number % 10 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(end) for end in ended} <= {type(None), asyncio.CancelledError}
    assert ended.count(None) > 500
    assert turnstile.throttle.in_flight == turnstile._approaching == turnstile.waiting == 0
    assert not turnstile._aspirants


async def test_waiting_for_the_pace_does_not_turn_the_loop(start: Start) -> None:
    """Where a departure may be late, whoever waits for it sleeps, however near it is."""
    clock = Clock()
    turnstile = Turnstile(gate(ceiling=9, rate_per_s=200.0), clock=clock)
    await turnstile.enter()
    waits = start(turnstile.enter())
    await settled()
    looks = clock.looks
    await settled()

    assert not waits.done()
    assert clock.looks == looks


async def test_whoever_comes_behind_others_sets_no_timer(start: Start) -> None:
    """The timer that is set will look for them too."""
    turnstile = Turnstile(gate(ceiling=9, rate_per_s=5.0))
    await turnstile.enter()
    start(turnstile.enter())
    await settled()
    timer = turnstile._timer
    for _ in range(5):
        start(turnstile.approach())
        turnstile.nudge()
        await settled()

    assert timer is not None
    assert turnstile._timer is timer
