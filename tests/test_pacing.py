"""How fast it goes: never above the rate or the ceiling, never inside a hold, and it says why."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from runner.live import Live, Wait
from runner.simulator import Fault, Faults, RetryAfter
from runner.tokens import TokenChecker, Tokens, load_signing_key
from tests.stage import PROJECT, Stage, demo_key, in_fast_motion, public_pem, until

_LANDING_S = 0.5
"""A request that had left before the answer with the wait came may still be on its way."""

_LATE_S = 0.02
"""On a busy machine a request may be seen so much later than it left, and be counted late."""


def starts_within(stage: Stage, begins_s: float, ends_s: float) -> list[float]:
    """Return when requests came in a stretch of time."""
    return [e.at_monotonic_s for e in stage.audit if begins_s < e.at_monotonic_s < ends_s]


@pytest.mark.parametrize("rate", [40, 150])
async def test_h10_the_rate_is_never_exceeded(rate: int, tmp_path: Path) -> None:
    """In no second do more requests come than --rate says, one request's tolerance apart."""
    async with Stage(tmp_path, rate=rate) as stage:
        rows = 6 * rate // 10
        stage.seed(rows, users=5)
        run = await stage.run()

        assert run.counts == {"updated": rows}
        assert stage.sim.peak_rate() <= rate + 1 + rate * _LATE_S
        # Not so careful that it would be slow either: all of it is worth 1.2 s.
        assert stage.audit[-1].at_monotonic_s - stage.audit[0].at_monotonic_s < 2


async def test_retries_pay_for_their_turn_too(tmp_path: Path) -> None:
    """One throttle for everything: reads, first tries and retries share the rate."""
    faults = Faults(http_503=0.1, http_409=0.1, close_after=0.2)
    async with Stage(tmp_path, rate=80, faults=faults) as stage:
        stage.seed(40, users=5)
        run = await stage.run(max_failures="100%")

        assert run.counts["updated"] > 30
        assert stage.sim.requests > 85
        assert stage.sim.peak_rate() <= 80 + 1 + 80 * _LATE_S


@pytest.mark.parametrize("concurrency", [1, 3, 16])
async def test_no_more_are_in_flight_than_allowed(concurrency: int, tmp_path: Path) -> None:
    """--concurrency is a ceiling, reads and retries included, and it is made use of."""
    faults = Faults(latency_s=0.03, http_503=0.05, drop_after=0.05)
    async with Stage(tmp_path, faults=faults, concurrency=concurrency) as stage:
        stage.seed(30 + 10 * concurrency, users=5)
        run = await stage.run(max_failures="100%")

        assert sum(run.counts.values()) == 30 + 10 * concurrency
        assert 0.8 * concurrency <= stage.sim.max_in_flight <= concurrency


@pytest.mark.parametrize("form", [RetryAfter.SECONDS, RetryAfter.DATE])
@pytest.mark.parametrize("fault", [Fault.HTTP_429, Fault.HTTP_503_WAIT])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
@in_fast_motion(5)
async def test_t7_nothing_starts_inside_a_hold(
    method: str, fault: Fault, form: RetryAfter, tmp_path: Path
) -> None:
    """T7: when the server asks for a wait, nobody starts until then: not a read, not a retry.

    A 429 is the server's word to all once two users were told; a 503 is at once.
    """
    faults = Faults(retry_after=form, retry_after_s=4)
    async with Stage(tmp_path, faults=faults) as stage:
        records = stage.seed(300, users=10)
        turned_away = records[120:124] if fault is Fault.HTTP_429 else records[120:121]
        assert len({record.user for record in turned_away}) == len(turned_away)
        for record in turned_away:
            stage.sim.script(record.id, method, [fault])
        run = await stage.run()

        told = max(e.at_monotonic_s for e in stage.audit if e.fault == fault.value)
        assert starts_within(stage, told + _LANDING_S * 5, told + 4) == []
        assert run.counts == {"updated": 300}
        holds = run.held("throttled")
        assert all(held["detail"].startswith(("429", "503")) for held in holds)
        # One that waited for its turn meanwhile is told of its wait when that is over.
        assert 3 <= run.summary.waits["throttled"] <= 6 * len(holds)
        assert stage.patches.total() == 300 + len(turned_away) * (method == "PATCH")


@pytest.mark.parametrize("form", [RetryAfter.SECONDS, RetryAfter.DATE])
@in_fast_motion(4)
async def test_h4_one_users_wait_is_that_users_alone(form: RetryAfter, tmp_path: Path) -> None:
    """H4: a wait that one user was told is kept to by that user's requests; the others go on."""
    faults = Faults(retry_after=form, retry_after_s=4)
    async with Stage(tmp_path, faults=faults) as stage:
        records = stage.seed(300, users=10)
        stage.sim.script(records[120].id, "GET", [Fault.HTTP_429])
        run = await stage.run()

        (told,) = (e.at_monotonic_s for e in stage.audit if e.fault == "http_429")
        user = records[120].user
        later = [e for e in stage.audit if told < e.at_monotonic_s < told + 4]
        assert [e for e in later if e.user == user and e.at_monotonic_s > told + 2.5] == []
        assert len([e for e in later if e.user != user]) > 100
        assert run.counts == {"updated": 300}
        assert run.held("throttled") == []
        (held,) = run.held("lane")
        assert held["detail"].startswith(f"user {user} is turned away by a limit of their own; ")
        assert run.summary.waits["lane"] > 1


@in_fast_motion(5)
async def test_waits_that_nobody_named_grow(tmp_path: Path) -> None:
    """429s to everybody that tell no wait hold all: 0.5 s, and half as long again each time."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.seed(120, users=12)

        def turned_away() -> list[float]:
            return [e.at_monotonic_s for e in stage.audit if e.status == 429]

        def turn_everybody_away() -> None:
            stage.sim.faults = Faults(http_429=1.0, retry_after=RetryAfter.NONE)

        def relent() -> None:
            stage.sim.faults = Faults()

        stage.after(60, turn_everybody_away)
        stage.when(lambda: len(turned_away()) >= 10, relent)
        run = await stage.run()

        gaps = [after - before for before, after in itertools.pairwise(turned_away())]
        assert run.counts == {"updated": 120}
        assert all(gap >= 0.5 * 1.5**n for n, gap in enumerate(gaps[-3:]))
        assert len(run.held("throttled")) >= 3
        assert any(e["event"] == "throttle.narrowed" for e in run.events)


async def test_a_limit_of_the_server_is_kept_to(tmp_path: Path) -> None:
    """A server that takes 60 requests a second gets them all done, and its waits are honored."""
    faults = Faults(limit_per_s=60, burst=20, latency_s=0.002)
    async with Stage(tmp_path, faults=faults, concurrency=8) as stage:
        stage.seed(40, users=5)
        run = await stage.run()

        throttled = [e for e in stage.audit if e.status == 429]
        assert run.counts == {"updated": 40}
        assert stage.in_force() == 40
        assert throttled
        # Each wait is one second; in each at most what was in flight is turned away.
        assert len(throttled) <= 8 * len(run.held("throttled"))


@in_fast_motion(10)
async def test_the_reason_of_a_wait_is_known_while_it_lasts(tmp_path: Path) -> None:
    """Whoever looks at a run that is held sees why, since when, and until when."""
    async with Stage(tmp_path, faults=Faults(retry_after_s=6)) as stage:
        records = stage.seed(80, users=4)
        for record in records[38:46]:
            stage.sim.script(record.id, "GET", [Fault.HTTP_429])
        lives: list[Live] = []
        seen: list[tuple[Wait, ...]] = []

        async def watch() -> None:
            def throttled() -> bool:
                return any(w.reason == "throttled" for live in lives for w in live.waits())

            await until(throttled)
            seen.append(tuple(w for w in lives[0].waits() if w.reason == "throttled"))

        watching = asyncio.create_task(watch())
        run = await stage.carry(stage.open(), show=lives.append)
        await watching

        ((wait,),) = seen
        assert (wait.reason, wait.detail) == ("throttled", "429: Too Many Requests")
        assert 0 <= wait.for_s < 5
        assert wait.left_s is not None
        assert wait.for_s + wait.left_s == pytest.approx(6, abs=0.2)
        assert run.counts == {"updated": 80}


@in_fast_motion(10)
async def test_backoff_is_a_reason_too(tmp_path: Path) -> None:
    """When all that is left waits for its next try, that is said."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.HTTP_423] * 2)
        lives: list[Live] = []
        seen: list[Wait] = []

        async def watch() -> None:
            def found() -> bool:
                seen.extend(w for live in lives for w in live.waits() if w.reason == "backoff")
                return bool(seen)

            await until(found)

        watching = asyncio.create_task(watch())
        await stage.carry(stage.open(), show=lives.append)
        await watching

        assert seen[0].detail == "1 row waits before the next try"
        assert seen[0].left_s is None


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_t8_an_absurd_wait_stops_the_run(method: str, tmp_path: Path) -> None:
    """T8: a server that asks all to wait for a day ends the run, which says when to come back."""
    async with Stage(tmp_path, faults=Faults(retry_after_s=86_400)) as stage:
        records = stage.seed(200, users=10)
        for record in records[60:62]:
            stage.sim.script(record.id, method, [Fault.HTTP_429])
        run = await stage.run()

        assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
        assert "the server asks to wait 86,400 s, until " in run.reason
        assert "which is longer than --max-outage 900s" in run.reason
        assert "Resume the run after that" in run.reason
        assert set(run.counts) <= {"updated", "unprocessed"}
        assert run.counts["unprocessed"] > 0

        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 200}
        assert stage.in_force() == 200


@pytest.mark.parametrize("settings", [{}, {"max_resyncs": 3, "until": None}, {"strict": True}])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_t8_an_absurd_wait_of_one_user_parks_that_users_rows(
    method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """T8: one user who is to wait for a day stops nobody else; then the run ends, resumable."""
    async with Stage(tmp_path, faults=Faults(retry_after_s=86_400)) as stage:
        records = stage.seed(100, users=10)
        stage.sim.script(records[40].id, method, [Fault.HTTP_429])
        run = await stage.run(**settings)

        user = records[40].user
        rest = {n for n, record in enumerate(records, start=1) if record.user != user}
        assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
        assert f"the server turns user {user} away until " in run.reason
        assert "all that could go on has ended. Resume the run after that" in run.reason
        assert rest <= set(run.outcomes)
        assert run.counts["unprocessed"] > 0
        assert {"lane.opened"} == {e["event"] for e in run.events if "lane" in e["event"]}

        resumed = await stage.resume(run, **{"until": "accepted"} | settings)

        assert resumed.counts == {"updated": 100}
        assert stage.in_force() == 100


@in_fast_motion(20)
async def test_a_wait_within_max_outage_is_waited_for(tmp_path: Path) -> None:
    """--max-outage is the measure: what is within it is a hold, what is beyond ends the run."""
    async with Stage(tmp_path, faults=Faults(retry_after_s=5)) as stage:
        stage.plain(3)
        stage.sim.script("s2", "GET", [Fault.HTTP_429, Fault.HTTP_429])
        patient = await stage.run(max_outage="5s")
        stage.sim.script("s2", "GET", [Fault.HTTP_429])
        hasty = await stage.run(max_outage="4s")

        assert patient.counts == {"updated": 3}
        assert hasty.summary.exit_code == 4
        assert "--max-outage 4s" in hasty.reason


@in_fast_motion(5)
async def test_a3_a_token_is_renewed_after_a_long_wait(tmp_path: Path) -> None:
    """A3: a token that ran out while its row was held is not sent; a fresh one is."""
    faults = Faults(retry_after_s=3)
    async with Stage(tmp_path, faults=faults) as stage:
        stage.plain(30, users=3)
        stage.sim.script("s10", "GET", [Fault.HTTP_429])
        shift = 0.0

        def now() -> float:
            return stage.clocks.wall() + shift

        lives: list[Live] = []

        async def let_time_pass() -> None:
            nonlocal shift
            await until(lambda: lives and lives[0].waits() and not lives[0].in_flight)
            shift = 1200.0

        stage.checker = TokenChecker(public_pem(), f"useparagon.com/{PROJECT}", now)
        passing = asyncio.create_task(let_time_pass())
        key = load_signing_key(demo_key(), origin="the tests")
        tokens = Tokens(
            key,
            audience=f"useparagon.com/{PROJECT}",
            lifetime_s=600,
            renew_ahead_s=60,
            now=now,
        )
        run = await stage.carry(stage.open(), tokens=tokens, show=lives.append)
        await passing

        assert run.counts == {"updated": 30}
        assert [e for e in stage.audit if e.status == 401] == []
        # Three users had a token each before the wait; who was asked for after it got another.
        assert len({e.token_hash for e in stage.audit}) > 3
