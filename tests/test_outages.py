"""A server that is down is waited for, and no row pays for it; a row that breaks it pays alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runner.live import Live, Wait
from runner.simulator import Fault, Faults, Outage, OutageKind
from tests.stage import Run, Stage, free_port, in_fast_motion, until

C = 32
UNAVAILABLE, DROP = OutageKind.UNAVAILABLE, OutageKind.DROP


class Down:
    """An outage that begins when the run is under way, and what was sent in it."""

    def __init__(
        self, stage: Stage, *, kind: OutageKind | None, lasts_s: float, after: int
    ) -> None:
        """*kind* None: the server takes the requests, and never answers."""
        self._stage, self._kind, self._lasts_s = stage, kind, lasts_s
        self._from = self._to = 0
        self.began_s = self.ended_s = 0.0
        stage.after(after, self._begin)

    @property
    def sent(self) -> int:
        """How many requests came while it lasted."""
        assert self.ended_s, "it did not end"
        return self._to - self._from

    def _begin(self) -> None:
        stage = self._stage
        self._from, self.began_s = stage.sim.requests, stage.clocks.steady()
        if self._kind is None:
            stage.sim.faults = Faults(latency_s=100_000.0, latency_jitter=0.0)
        else:
            stage.sim.outage(self._kind)
        asyncio.get_running_loop().call_later(self._lasts_s, self._end)

    def _end(self) -> None:
        stage = self._stage
        self._to, self.ended_s = stage.sim.requests, stage.clocks.steady()
        stage.sim.faults = Faults()
        stage.sim.outage(None)


def assert_nobody_paid(stage: Stage, run: Run, rows: int) -> None:
    """Every row was updated, and the server has it so."""
    assert run.counts == {"updated": rows}
    assert stage.in_force() == rows


@pytest.mark.parametrize("concurrency", [1, C])
@pytest.mark.parametrize("kind", [UNAVAILABLE, DROP, None])
@in_fast_motion(30)
async def test_t5_thirty_seconds_of_outage_fail_no_row(
    kind: OutageKind | None, concurrency: int, tmp_path: Path
) -> None:
    """T5: 503s, dropped connections or silence for 30 s: no row fails, and little is sent."""
    async with Stage(tmp_path, concurrency=concurrency, timeout=15) as stage:
        stage.seed(200, users=20)
        down = Down(stage, kind=kind, lasts_s=30, after=150)
        run = await stage.run()

        assert_nobody_paid(stage, run, 200)
        assert down.sent <= concurrency + 30
        # Some requests after the others that wait in vain take as long as the outage.
        if kind is not None:
            assert run.summary.waits["outage"] > 15


@in_fast_motion(30)
async def test_t5_refused_connections_fail_no_row(tmp_path: Path) -> None:
    """T5: a server process that is gone for 30 s costs no row either."""
    async with Stage(tmp_path, port=free_port()) as stage:
        stage.seed(200, users=20)
        restarted = asyncio.Event()

        async def restart() -> None:
            await stage.sim.__aexit__(None, None, None)
            await asyncio.sleep(30)
            await stage.sim.__aenter__()
            restarted.set()

        tasks: list[asyncio.Task[None]] = []
        stage.after(150, lambda: tasks.append(asyncio.create_task(restart())))
        run = await stage.run()
        await restarted.wait()

        assert_nobody_paid(stage, run, 200)
        assert 15 < run.summary.waits["outage"] < 60
        assert stage.diagnostics.getvalue().count("outage.probed") < 10


@in_fast_motion(200)
async def test_t5_ten_minutes_of_outage_fail_no_row(tmp_path: Path) -> None:
    """T5: ten minutes cost no row, and at most concurrency + 30 requests."""
    async with Stage(tmp_path, timeout=1500) as stage:
        stage.seed(300, users=20)
        down = Down(stage, kind=UNAVAILABLE, lasts_s=600, after=200)
        run = await stage.run()

        assert_nobody_paid(stage, run, 300)
        assert down.sent <= C + 30
        assert run.summary.waits["outage"] >= 595


async def test_t5_a_short_outage_in_real_time(tmp_path: Path) -> None:
    """T5: the same with no hasty clock, for as long as a test may take."""
    async with Stage(tmp_path) as stage:
        stage.seed(300, users=20)
        down = Down(stage, kind=DROP, lasts_s=2, after=200)
        run = await stage.run()

        assert_nobody_paid(stage, run, 300)
        assert down.sent <= C + 30


@pytest.mark.long
@pytest.mark.parametrize("concurrency", [1, C])
@pytest.mark.parametrize("kind", [UNAVAILABLE, DROP])
async def test_t5_thirty_seconds_in_real_time(
    kind: OutageKind, concurrency: int, tmp_path: Path
) -> None:
    """T5: thirty real seconds."""
    async with Stage(tmp_path, concurrency=concurrency) as stage:
        stage.seed(1_000, users=20)
        down = Down(stage, kind=kind, lasts_s=30, after=500)
        run = await stage.run()

        assert_nobody_paid(stage, run, 1_000)
        assert down.sent <= concurrency + 30


@pytest.mark.parametrize(("rows", "kind"), [(3, UNAVAILABLE), (200, UNAVAILABLE), (200, DROP)])
@pytest.mark.parametrize("concurrency", [1, C])
@in_fast_motion(30)
async def test_t5_an_outage_at_the_start_fails_no_row(
    kind: OutageKind, concurrency: int, rows: int, tmp_path: Path
) -> None:
    """T5: a server that is down when the run begins, and comes up in time, costs no row."""
    outages = (Outage(start_s=0, duration_s=18, kind=kind),)
    async with Stage(
        tmp_path, faults=Faults(outages=outages), concurrency=concurrency, timeout=300
    ) as stage:
        stage.seed(rows, users=3)
        run = await stage.run()

        assert_nobody_paid(stage, run, rows)


@pytest.mark.parametrize("no_read", [False, True])
@pytest.mark.parametrize("concurrency", [1, 4])
@in_fast_motion(30)
async def test_t5_outage_after_outage_fails_no_row(
    concurrency: int, no_read: bool, tmp_path: Path
) -> None:
    """T5: a server that goes away again and again still costs no row."""
    async with Stage(tmp_path, concurrency=concurrency, timeout=300) as stage:
        stage.seed(130, users=20)
        for after, lasts_s, kind in ((30, 3, UNAVAILABLE), (60, 12, DROP), (90, 25, UNAVAILABLE)):
            Down(stage, kind=kind, lasts_s=lasts_s, after=after)
            Down(stage, kind=kind, lasts_s=lasts_s, after=after + 60)
        run = await stage.run(no_read=no_read)

        assert_nobody_paid(stage, run, 130)


@pytest.mark.parametrize("kind", [UNAVAILABLE, DROP])
@in_fast_motion(20)
async def test_an_outage_beyond_max_outage_stops_the_run_resumably(
    kind: OutageKind, tmp_path: Path
) -> None:
    """After --max-outage the run stops with exit code 4; nothing failed, resume does the rest."""
    async with Stage(tmp_path, timeout=300) as stage:
        stage.seed(200, users=20)
        down = Down(stage, kind=kind, lasts_s=90, after=150)
        run = await stage.run(max_outage="40s")

        assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
        assert "the server has been down for" in run.reason
        assert "--max-outage" in run.reason
        assert set(run.counts) == {"updated", "unprocessed"}
        assert run.counts["updated"] + run.counts["unprocessed"] == 200
        assert 40 <= run.summary.waits["outage"] < 50
        sent_before = stage.patches

        await until(lambda: down.ended_s)
        resumed = await stage.resume(run)

        assert_nobody_paid(stage, resumed, 200)
        settled = [line["sync_id"] for line in run.outcomes.values()]
        assert settled
        assert resumed.summary.exit_code == 0
        assert down.sent <= C + 30
        first = [line["sync_id"] for line in run.lines[: run.counts["updated"]]]
        assert all(stage.patches[sync_id] == sent_before[sync_id] for sync_id in first)


@pytest.mark.parametrize("concurrency", [1, C])
@pytest.mark.parametrize("rows", [1, 100])
@in_fast_motion(15)
async def test_a_host_that_was_never_reached_stops_the_run(
    rows: int, concurrency: int, tmp_path: Path
) -> None:
    """Nobody listens there: the run stops within half a minute, whatever --max-outage says."""
    async with Stage(tmp_path, concurrency=concurrency) as stage:
        stage.plain(rows)
        began = stage.clocks.steady()
        run = await stage.run(base_url=f"http://127.0.0.1:{free_port()}")

        assert stage.clocks.steady() - began < 45
        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": rows}
        assert "the host did not answer once" in run.reason
        assert "--base-url" in run.reason
        assert run.table("failed.csv") == []


@in_fast_motion(8)
async def test_a_short_max_outage_goes_for_a_host_never_reached_too(tmp_path: Path) -> None:
    """Whoever wants to wait for less than half a minute waits for less."""
    async with Stage(tmp_path, max_outage="4s") as stage:
        stage.plain(50)
        began = stage.clocks.steady()
        run = await stage.run(base_url=f"http://127.0.0.1:{free_port()}")

        assert stage.clocks.steady() - began < 10
        assert run.counts == {"unprocessed": 50}


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("concurrency", [1, C])
@in_fast_motion(10)
async def test_t9_a_poison_row_at_the_end_is_no_outage(
    concurrency: int, method: str, tmp_path: Path
) -> None:
    """The last row breaks the server each time: five attempts, exhausted, and nobody waits long."""
    async with Stage(tmp_path, concurrency=concurrency) as stage:
        records = stage.plain(60)
        last = records[-1].id
        stage.sim.script(last, method, [Fault.HTTP_500] * 9)
        run = await stage.run()

        assert run.counts == {"updated": 59, "exhausted": 1}
        assert run.outcome(60) == ("exhausted", "transient")
        assert sum(e.sync_id == last and e.status == 500 for e in stage.audit) == 5
        assert run.outcomes[60]["attempts"] == (5 if method == "PATCH" else 0)
        assert run.summary.waits.get("outage", 0.0) < 2


@in_fast_motion(60)
async def test_t9_many_poison_rows_at_the_end_come_to_an_end(tmp_path: Path) -> None:
    """Forty rows that break the server look like an outage; the good ones tell that it is none."""
    async with Stage(tmp_path, timeout=500) as stage:
        records = stage.plain(100)
        poison = frozenset(record.id for record in records[-40:])
        stage.sim.faults = Faults(poison=poison)
        run = await stage.run(max_failures="100%")

        assert run.counts == {"updated": 60, "exhausted": 40}
        assert max(stage.reads[sync_id] for sync_id in poison) < 20


@in_fast_motion(20)
async def test_t4_a_fifth_of_failing_requests_passes(tmp_path: Path) -> None:
    """T4: with 20 % of 503s every row is done, with at most 1.3 sends where one was needed."""
    async with Stage(tmp_path, faults=Faults(http_503=0.2), timeout=300) as stage:
        stage.seed(500, users=20)
        run = await stage.run()

        assert_nobody_paid(stage, run, 500)
        assert stage.sim.requests <= 1.3 * 2 * 500
        assert run.held("outage") == []


@in_fast_motion(30)
async def test_an_outage_is_seen_by_whoever_looks(tmp_path: Path) -> None:
    """Live figures tell the reason, since when, and when the server is asked again."""
    async with Stage(tmp_path) as stage:
        stage.seed(100, users=5)
        Down(stage, kind=UNAVAILABLE, lasts_s=20, after=80)
        seen: list[tuple[Wait, ...]] = []
        lives: list[Live] = []
        # A busy machine's disk may be slow just then, which is a reason of its own.
        busy_disk = "disk"

        def look() -> None:
            seen.append(tuple(w for w in lives[0].waits() if w.reason != busy_disk))

        def probed() -> bool:
            return "outage.probed" in stage.diagnostics.getvalue()

        stage.when(probed, look)
        run = await stage.carry(stage.open(), show=lives.append)

        ((wait,),) = seen
        assert (wait.reason, wait.detail) == ("outage", "503: Service Unavailable")
        assert wait.for_s > 3
        assert wait.left_s is not None
        assert lives[0].waits() == ()
        (held,) = run.held("outage")
        released = [e for e in run.events if e["event"] == "throttle.released"]
        (ended,) = [e for e in released if e["reason"] != busy_disk]
        assert ended["reason"] == "outage"
        assert ended["held_s"] == pytest.approx(run.summary.waits["outage"], abs=0.01)
        assert held["until"] is None
