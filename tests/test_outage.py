"""A server that is down is waited for; a row that fails alone is not mistaken for one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api import Api
from runner.attempt import Attempt, Clocks, Sender
from runner.errors import Fault, FaultKind, OutageTooLong, SyncshiftError
from runner.model import Change, ErrorClass, Request, Response, Verdict
from runner.outage import Breaker, RetryBudget
from runner.secret import Secret
from runner.throttle import THROTTLED, Throttle
from runner.tokens import ReadyToken
from runner.turnstile import Closing, Turnstile
from tests.stage import in_fast_motion
from tests.wire import CLOSE, SILENCE, Wire, says

CHANGE = Change(1, 2, "sync-1", "ann", {"frequency": "1h"})
READ = Request("GET", ("api", "syncs", "sync-1"))
WRITE = Request("PATCH", ("api", "syncs", "sync-1"), b'{"frequency":"1h"}')


def breaker(chance: float = 0.5) -> Breaker:
    """Return a breaker whose dice always fall alike."""
    return Breaker(chance=lambda: chance)


def fails(of: Breaker, times: int, *, start: float = 0.0) -> list[bool]:
    """Let so many rows fail, one a tenth of a second, and return what was said to each."""
    return [of.failed(start + n / 10) for n in range(times)]


class TestBudget:
    """What the run may spend on retries."""

    @pytest.mark.parametrize(
        ("concurrency", "capacity"), [(1, 50), (25, 50), (32, 64), (500, 1000)]
    )
    def test_it_starts_full(self, concurrency: int, capacity: int) -> None:
        """Two retries for each slot are there from the beginning, and at least fifty."""
        budget = RetryBudget(concurrency=concurrency)

        assert (budget.capacity, budget.balance) == (capacity, capacity)
        assert budget.low_since is None

    def test_it_follows_the_requests_in_flight(self) -> None:
        """`set --concurrency` moves it too; what was spent stays spent."""
        budget = RetryBudget(concurrency=32)
        for _ in range(10):
            budget.take(0.0)
        budget.set_concurrency(500)

        assert (budget.capacity, budget.balance) == (1000, 990)

        budget.set_concurrency(1)

        assert (budget.capacity, budget.balance) == (50, 40)

    def test_the_upper_half_is_spent_at_once(self) -> None:
        """In good times a retry waits for nothing but its backoff."""
        budget = RetryBudget(concurrency=1)

        assert [budget.take(0.0) for _ in range(25)] == [0.0] * 25
        assert budget.balance == 25

    def test_the_lower_half_is_rationed_to_one_a_second(self) -> None:
        """With half of it gone each retry gets a moment of its own, a second apart."""
        budget = RetryBudget(concurrency=1)
        for _ in range(25):
            budget.take(0.0)

        assert [budget.take(10.0) for _ in range(4)] == [0.0, 1.0, 2.0, 3.0]
        assert budget.take(11.5) == 2.5
        assert budget.take(60.0) == 0.0
        assert budget.balance == 25

    def test_t5_a_spent_budget_makes_a_row_wait_and_never_refuses(self) -> None:
        """Ten thousand retries in a lost minute are all let through in the end."""
        budget = RetryBudget(concurrency=1)
        waits = [budget.take(0.0) for _ in range(10_000)]

        assert waits == [0.0] * 25 + [float(n) for n in range(10_000 - 25)]

    def test_successes_fill_it_up_to_its_capacity(self) -> None:
        """A clean success earns a tenth, a retry that succeeds gives back what it took."""
        budget = RetryBudget(concurrency=1)
        for _ in range(10):
            budget.take(0.0)
        budget.pay_back(0.0)
        assert budget.balance == 41
        for _ in range(10):
            budget.clean_success(0.0)
        assert budget.balance == pytest.approx(42)
        for _ in range(1000):
            budget.clean_success(0.0)

        assert budget.balance == 50

    def test_recovery_ends_the_rationing_at_once(self) -> None:
        """Moments that were handed out for later do not delay retries in better times."""
        budget = RetryBudget(concurrency=1)
        for _ in range(125):
            budget.take(0.0)
        assert budget.take(0.0) == 100.0
        budget.pay_back(1.0)
        waits = [budget.take(1.0) for _ in range(3)]

        assert waits == [0.0, 0.0, 1.0]
        assert budget.low_since == 1.0

    def test_a_little_earned_does_not_end_the_rationing(self) -> None:
        """Below half, a clean success adds to the budget and changes nothing else."""
        budget = RetryBudget(concurrency=1)
        for _ in range(50):
            budget.take(0.0)
        budget.balance = 10.0
        budget.clean_success(5.0)

        assert budget.balance == pytest.approx(10.1)
        assert budget.low_since == 0.0
        assert budget.take(5.0) == 20.0

    def test_a_minute_of_rationing_is_starvation(self) -> None:
        """Sixty seconds with nothing but the reserve tell that the server is in trouble."""
        budget = RetryBudget(concurrency=1)
        assert not budget.starved(1000.0)
        for _ in range(26):
            budget.take(100.0)

        assert not budget.starved(159.9)
        assert budget.starved(160.0)
        budget.pay_back(161.0)
        assert not budget.starved(1000.0)

    @pytest.mark.parametrize(
        ("share", "is_rationed"),
        [(0.01, False), (0.1, False), (0.2, False), (0.4, True), (0.6, True)],
    )
    def test_t4_a_brown_out_passes_up_to_a_fifth_and_is_rationed_beyond(
        self, share: float, is_rationed: bool
    ) -> None:
        """At 20 % failures the budget never falls below half, at 40 % it does."""
        dice, budget, sends, rows = random.Random(7), RetryBudget(concurrency=32), 0, 20_000
        lowest = budget.balance
        for row in range(rows):
            now, tries = row * 0.01, 1
            while dice.random() < share:
                budget.take(now)
                lowest = min(lowest, budget.balance)
                tries += 1
            if tries == 1:
                budget.clean_success(now)
            else:
                budget.pay_back(now)
            sends += tries

        assert (lowest <= budget.capacity / 2) == is_rationed
        assert is_rationed or sends / rows <= 1.3


class TestBreaker:
    """Whether the server is down, and when to ask it again."""

    def test_it_starts_closed(self) -> None:
        """Nothing is known about a server that was not asked yet."""
        fresh = breaker()

        assert not fresh.is_open
        assert not fresh.ever_succeeded
        assert not fresh.was_down(0.0)

    def test_ten_failures_in_a_row_open_it(self) -> None:
        """The tenth row that fails without a success in between says that the server is down."""
        tried = breaker()

        assert fails(tried, 12) == [False] * 9 + [True, False, False]
        assert tried.is_open
        assert tried.opened_at == pytest.approx(0.9)
        assert tried.was_down(0.5)

    def test_a_success_in_between_starts_the_row_anew(self) -> None:
        """Nine failures, a success, nine failures: not a server that is down."""
        tried = breaker()
        for start in (0.0, 40.0, 80.0):
            fails(tried, 9, start=start)
            tried.succeeded(start + 1)

        assert not tried.is_open
        assert tried.ever_succeeded
        assert tried.last_success_at == 81.0

    @pytest.mark.parametrize(
        ("pattern", "opens_at"), [("sf", 20), ("ffs", 20), ("ssf", None), ("sssssffff", None)]
    )
    def test_half_of_twenty_open_it(self, pattern: str, opens_at: int | None) -> None:
        """From the twentieth outcome on, half of them failed is too many; fewer is not."""
        tried, opened = breaker(), list[int]()
        for n, kind in enumerate((pattern * 40)[:90], start=1):
            if kind == "s":
                tried.succeeded(n / 10)
            elif tried.failed(n / 10):
                opened.append(n)

        assert opened == ([] if opens_at is None else [opens_at])

    def test_only_the_last_half_minute_counts(self) -> None:
        """Failures of long ago are forgotten, however many there were."""
        tried = breaker()
        for n in range(14):
            tried.failed(n / 10)
            if n % 3 == 2:
                tried.succeeded(n / 10)
        for n in range(30):
            tried.succeeded(40 + n / 10)

        assert [tried.failed(50 + n) for n in range(9)] == [False] * 9

    def test_it_remembers_no_more_than_a_thousand(self) -> None:
        """At thousands of rows a second the last thousand tell enough."""
        tried = breaker()
        for n in range(5000):
            tried.succeeded(n / 10_000)

        assert len(tried._seen) == 1000
        assert fails(tried, 10, start=0.5)[-1]

    @given(st.lists(st.tuples(st.floats(0, 50), st.booleans()), max_size=200))
    def test_its_count_is_right_whatever_came(self, events: list[tuple[float, bool]]) -> None:
        """The number of failures it goes by is the number of failures it remembers."""
        tried, now = breaker(), 0.0
        for gap, failed in events:
            now += gap / 10
            if failed:
                tried.failed(now)
            else:
                tried.succeeded(now)

            assert tried._failures == sum(failed for _, failed in tried._seen)

    def test_pauses_grow_to_a_minute(self) -> None:
        """5, 10, 20, 40, then 60 s, for as long as no probe comes back."""
        tried, pauses = breaker(), []
        tried.open(0.0)
        now = tried.next_probe_at
        pauses.append(now)
        for _ in range(6):
            assert not tried.probed(now, answered=False)
            pauses.append(tried.next_probe_at - now)
            now = tried.next_probe_at

        assert pauses == [5, 10, 20, 40, 60, 60, 60]

    @pytest.mark.parametrize(("chance", "first"), [(0.0, 4.0), (1.0, 6.0)])
    def test_pauses_are_spread_by_a_fifth(self, chance: float, first: float) -> None:
        """Many clients of one server do not all ask in the same second."""
        tried = breaker(chance)
        tried.open(0.0)

        assert tried.next_probe_at == pytest.approx(first)

    def test_t5_ten_minutes_down_cost_thirteen_probes(self) -> None:
        """A server that is away for ten minutes is asked thirteen times, and row by row never."""
        tried, probes, now = breaker(), 0, 0.0
        tried.open(0.0)
        while now < 600:
            now, probes = tried.next_probe_at, probes + 1
            tried.probed(now, answered=now >= 600)

        assert probes == 13

    def test_three_good_probes_in_a_row_close_it(self) -> None:
        """A single answer is not yet a server that is back; a bad probe starts the count anew."""
        tried = breaker()
        fails(tried, 10)
        assert [tried.probed(6.0, answered=True), tried.next_probe_at] == [False, 6.0]
        assert not tried.probed(6.1, answered=True)
        assert not tried.probed(6.2, answered=False)
        assert tried.next_probe_at == pytest.approx(16.2)
        said = [tried.probed(17.0 + n, answered=True) for n in range(3)]

        assert said == [False, False, True]
        assert not tried.is_open
        assert tried.was_down(19.0)
        assert not tried.was_down(19.1)
        assert tried.last_success_at == 19.0
        assert fails(tried, 10, start=20.0)[-1]

    def test_h12_a_lost_probe_makes_the_next_one_due(self) -> None:
        """A probe that never came back is answered by a later one; it never wedges."""
        tried = breaker()
        fails(tried, 10)
        for _ in range(50):
            now = tried.next_probe_at
            tried.probed(now, answered=False)

            assert now < tried.next_probe_at <= now + 72
        assert tried.is_open

    def test_a_suspected_server_is_asked_at_once_and_cleared(self) -> None:
        """Suspicion alone finds nobody down: if the probes are good it never was."""
        tried = breaker()
        tried.open(100.0, ask_at_once=True)
        assert tried.next_probe_at == 100.0
        assert [tried.probed(100.0 + n, answered=True) for n in range(3)] == [False, False, True]

        assert not tried.was_down(100.5)

    def test_a_suspected_server_is_found_down_by_a_bad_probe(self) -> None:
        """Once a probe has failed, all that came since then was the server's doing."""
        tried = breaker()
        tried.open(100.0, ask_at_once=True)
        tried.probed(101.0, answered=False)

        assert tried.was_down(101.0)
        assert tried.next_probe_at == 106.0 + 5.0


class Setup:
    """A sender in front of a server, with all that it tells."""

    def __init__(self, api: Api, server: Wire, tokens: Any, clocks: Clocks) -> None:
        self.server = server
        self.stops: list[SyncshiftError] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.throttle = Throttle(ceiling=8, chance=clocks.chance)
        self.turnstile = Turnstile(self.throttle, clock=clocks.steady)
        self.breaker = Breaker(chance=clocks.chance)
        self.sender = Sender(
            transport=api,
            turnstile=self.turnstile,
            tokens=tokens,
            breaker=self.breaker,
            longest_wait_s=900,
            stop=self.stops.append,
            tell=lambda event, **fields: self.events.append((event, fields)),
            clocks=clocks,
        )

    async def send(self, request: Request = WRITE, *, understood: bool = True) -> Attempt:
        """Make one attempt."""
        return await self.sender.attempt(request, CHANGE, lambda _: understood)


def client(base_url: str) -> Api:
    """Return a client that is in no hurry."""
    return Api(base_url=base_url, concurrency=8, timeout_s=5, version="0")


@contextlib.asynccontextmanager
async def before(
    *script: bytes, closes: bool = False, tokens: Any = None, wall_s: float = 0.0
) -> AsyncIterator[Setup]:
    """Set a sender in front of a server with a script."""
    steady = asyncio.get_running_loop().time
    clocks = Clocks(steady=steady, wall=lambda: wall_s, chance=lambda: 0.5)
    async with Wire(*script, closes=closes).listening() as server, client(server.url) as api:
        yield Setup(api, server, tokens or ReadyToken(Secret("abc")), clocks)


@pytest.mark.parametrize("status", [422, 429, 400, 404, 401, 409])
@in_fast_motion(40)
async def test_h11_the_breaker_ignores_what_only_a_living_server_says(status: int) -> None:
    """Half of forty answers are 4xx, 429 among them: the server counts as up, and well."""
    script = [says(status, "Retry-After: 0"), says(200)] * 20
    async with before(*script) as setup:
        for _ in range(40):
            await setup.send()

        assert not setup.breaker.is_open
        assert setup.breaker._failures == 0
        assert setup.throttle.in_flight == 0


@pytest.mark.parametrize(
    ("answer", "is_outage"),
    [
        pytest.param(says(500), True, id="500"),
        pytest.param(says(502), True, id="502"),
        pytest.param(says(503), True, id="503"),
        pytest.param(says(504), True, id="504"),
        pytest.param(says(507), True, id="507"),
        pytest.param(says(999), True, id="999"),
        pytest.param(CLOSE, True, id="closed"),
        pytest.param(says(408), False, id="408"),
        pytest.param(says(429), False, id="429"),
        pytest.param(says(503, "Retry-After: 1"), False, id="503-with-a-wait"),
        pytest.param(says(301), False, id="301"),
        pytest.param(b"GARBAGE\r\n\r\n", False, id="garbage"),
        pytest.param(says(200, length=9), False, id="cut-short"),
    ],
)
async def test_h11_only_a_server_that_is_down_answers_so(answer: bytes, is_outage: bool) -> None:
    """5xx and lost connections speak of the server; everything else is about the request."""
    async with before(answer, closes=True) as setup:
        attempt = await setup.send()

        assert attempt.ruling.outage == is_outage
        assert attempt.sends == 1
        assert not attempt.accepted


async def test_an_answer_that_does_not_speak_of_the_row_is_no_success() -> None:
    """A 200 that nobody understands is in doubt; one that is understood makes a known good row."""
    async with before(says(200)) as setup:
        doubtful = await setup.send(understood=False)
        assert setup.sender.known_good is None
        good = await setup.send()

        assert doubtful.ruling.verdict is Verdict.AMBIGUOUS
        assert good.accepted
        assert good.status == 200
        assert setup.sender.known_good is CHANGE


async def test_what_never_left_is_not_counted_as_sent() -> None:
    """A request that found no server is an attempt without a send."""
    async with before(says(200)) as setup:
        unreachable = Api(base_url="http://127.0.0.1:1", concurrency=1, timeout_s=5, version="0")
        async with unreachable:
            setup.sender._transport = unreachable
            attempt = await setup.send()

        assert isinstance(attempt.result, Fault)
        assert attempt.result.kind is FaultKind.CONNECT
        assert attempt.sends == 0
        assert setup.throttle.in_flight == 0


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        pytest.param("Retry-After: 30", 30.0, 30.6, id="seconds"),
        pytest.param("Retry-After: Sun, 06 Nov 1994 08:50:37 GMT", 60.0, 61.0, id="date"),
    ],
)
async def test_t7_a_throttled_answer_holds_everybody_and_says_so(
    header: str, low: float, high: float
) -> None:
    """A wait in any form holds for at least that long, and is told once with its end."""
    async with before(says(429, header), wall_s=784111777.0) as setup:
        sent = time.monotonic()
        attempt = await setup.send()
        (hold,) = setup.throttle.holds(time.monotonic())

        assert attempt.ruling.verdict is Verdict.THROTTLED
        assert hold.reason == THROTTLED
        assert sent + low <= hold.until <= time.monotonic() + high
        ((event, fields),) = setup.events
        assert event == "throttle.held"
        assert fields["reason"] == THROTTLED
        assert fields["detail"].startswith("429: ")
        assert fields["until"].startswith("1994-11-06T08:5" if high > 30 else "1994-11-06T08:49:3")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Retry-After: 0", id="no-seconds"),
        pytest.param("Retry-After: Sun, 06 Nov 1994 08:00:00 GMT", id="past"),
        pytest.param("Retry-After: soon", id="nonsense"),
        pytest.param("X-Other: 1", id="none"),
    ],
)
async def test_t7_without_a_wait_three_in_a_row_hold_everybody(header: str) -> None:
    """A 429 that names no time yet to come is its row's alone; three in a row are everybody's."""
    async with before(says(429, header), wall_s=784111777.0) as setup:
        attempts = [await setup.send() for _ in range(3)]
        (hold,) = setup.throttle.holds(time.monotonic())

        assert [attempt.waits_alone for attempt in attempts] == [True, True, False]
        assert 0.3 <= hold.until - time.monotonic() <= 0.6
        assert [name for name, _ in setup.events].count("throttle.held") == 1


async def test_h9_throttled_answers_of_one_moment_are_told_once() -> None:
    """Requests in flight together that are all throttled make one hold and one event."""
    async with before(says(429)) as setup:
        await asyncio.gather(*(setup.send() for _ in range(4)))

        assert [name for name, _ in setup.events].count("throttle.held") == 1
        assert setup.throttle.in_flight == 0


async def test_what_the_throttle_learns_is_told() -> None:
    """That it has become slower is an event, with the rate and the reason."""
    async with before(says(429)) as setup:
        for _ in range(3):
            await setup.send()
        (fields,) = (f for name, f in setup.events if name == "throttle.narrowed")

        assert fields["rate"] < 10
        assert fields["in_flight"] == 6
        assert fields["why"].startswith("429: ")


async def test_t8_an_absurd_wait_ends_the_run_and_says_when_to_come_back() -> None:
    """A server that asks to wait a day stops the run at once."""
    async with before(says(429, "Retry-After: 86400"), wall_s=784111777.0) as setup:
        with pytest.raises(Closing):
            await setup.send()
        (stop,) = setup.stops

        assert isinstance(stop, OutageTooLong)
        assert "86,400 s, until 1994-11-07T08:49:37" in str(stop)
        assert setup.throttle.in_flight == 0


class Tokens:
    """A source of numbered tokens, some of which have run out by the time of the turn."""

    renewable = True

    def __init__(self, headers: Iterator[str | None]) -> None:
        self.headers = headers
        self.minted = 0
        self.log: list[str] = []

    def header(self, user_id: str) -> str | None:
        """Return what is at hand."""
        return next(self.headers)

    async def mint(self, user_id: str) -> str:
        """Count and make one."""
        self.minted += 1
        return f"Bearer minted-{self.minted}"

    def discard(self, user_id: str, header: str) -> None:
        """Note it."""
        self.log.append(f"discard {header}")

    def learn_server_time(self, date_header: str) -> bool:
        """Note it."""
        self.log.append(f"date {date_header}")
        return False

    def close(self) -> None:
        """Do nothing."""


async def test_a4_a_token_that_was_refused_is_replaced_once() -> None:
    """A 401 costs one new token and one more request; the clock of the answer is learned."""
    tokens = Tokens(iter(["Bearer old", "Bearer old", "Bearer new", "Bearer new"]))
    refusal = says(401, "Date: Sun, 06 Nov 1994 08:49:37 GMT")
    async with before(refusal, says(200), tokens=tokens) as setup:
        attempt = await setup.send()

        assert attempt.accepted
        assert attempt.sends == 2
        assert tokens.log == ["date Sun, 06 Nov 1994 08:49:37 GMT", "discard Bearer old"]
        assert [heard.headers["authorization"] for heard in setup.server.heard] == [
            "Bearer old",
            "Bearer new",
        ]


async def test_a4_a_ready_made_token_is_not_tried_twice() -> None:
    """Without another token a 401 is final after one request."""
    async with before(says(401)) as setup:
        attempt = await setup.send()

        assert attempt.ruling.verdict is Verdict.AUTH
        assert (attempt.sends, len(setup.server.heard)) == (1, 1)


async def test_a4_a_refusal_that_breaks_off_is_one() -> None:
    """A 401 whose body is cut short still says that the token was not accepted."""
    async with before(says(401, length=9), closes=True) as setup:
        attempt = await setup.send()

        assert isinstance(attempt.result, Fault)
        assert attempt.ruling.verdict is Verdict.AUTH
        assert attempt.sends == 1


async def test_t9_a_job_that_breaks_on_an_answer_is_no_success() -> None:
    """An exception of a job's own is that row's fault, told without its words."""

    def breaks(answer: Response) -> bool:
        raise KeyError("s3cret")

    async with before(says(200)) as setup:
        attempt = await setup.sender.attempt(WRITE, CHANGE, breaks)

        assert attempt.ruling.error_class is ErrorClass.INTERNAL
        assert "KeyError" in (attempt.ruling.error or "")
        assert "s3cret" not in repr(attempt)
        assert setup.sender.known_good is None
        assert setup.throttle.in_flight == 0


async def test_a3_a_token_that_ran_out_in_the_queue_is_not_sent() -> None:
    """Freshness is looked at after the wait for a turn, and the turn is given back meanwhile."""
    tokens = Tokens(iter([None, None, "Bearer fresh"]))
    async with before(says(200), tokens=tokens) as setup:
        await setup.turnstile.approach()
        _, attempt = await setup.sender.send(READ, CHANGE, lambda _: True, approached=True)

        assert attempt.accepted
        assert tokens.minted == 2
        assert setup.server.heard[0].headers["authorization"] == "Bearer fresh"
        assert (setup.throttle.in_flight, setup.turnstile._approaching) == (0, 0)


async def test_t2_a_canceled_attempt_gives_its_slot_back() -> None:
    """Whoever is canceled while its request is out leaves as canceled, and the slot is free."""
    async with before(SILENCE) as setup:
        task = asyncio.create_task(setup.send())
        await setup.server.asked.wait()
        assert setup.throttle.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert setup.throttle.in_flight == 0


async def test_a_body_is_not_read_past_its_answer() -> None:
    """An answer with a body is taken whole: the next request on the connection is a new one."""
    async with before(says(200, body=b'{"id":"a"}'), says(200, body=b'{"id":"b"}')) as setup:
        results = [(await setup.send(READ)).result for _ in range(2)]

        bodies = [result.body for result in results if isinstance(result, Response)]
        assert bodies == [b'{"id":"a"}', b'{"id":"b"}']
