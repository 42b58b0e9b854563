"""The brake: it pauses what a run has set going and nothing else, and lets exactly that go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.brake import open_brake, open_release
from runner.errors import NoSuchRun, RunLocked, SettingsError
from runner.simulator import Behavior, Fault, Faults
from tests import commands
from tests.stage import FREQUENCY, MIGRATE, Run, Stage, in_fast_motion

BEFORE = "2026-01-05T08:30:22.990Z"
DISABLE, ENABLE = "disable-syncs", "enable-syncs"


def paused(stage: Stage) -> set[str]:
    """Return the syncs that are paused."""
    return {id_ for id_, record in stage.sim.snapshot().items() if record.status == "DISABLED"}


def names(run: Run) -> set[str]:
    """Return the syncs of a run's input."""
    return {row["sync_id"] for row in run.table("succeeded.csv") + run.table("failed.csv")}


async def brake(stage: Stage, run: Run) -> Run:
    """Brake *run* and carry that to where it ends."""
    opened = open_brake(run.id, stage.resolved(until=None), warn=pytest.fail)
    return await stage.carry(opened)


async def release(stage: Stage, run: Run) -> Run:
    """Release the brakes of *run* and carry that to where it ends."""
    opened = open_release(run.id, stage.resolved(until=None), warn=pytest.fail)
    return await stage.carry(opened)


async def going(stage: Stage, *, after: int = 12) -> tuple[Run, set[str]]:
    """Return a run that was interrupted, and the syncs whose re-sync is going because of it."""
    run = await stage.interrupted(after=after, until=None)
    return run, {run.intents[row]["sync_id"] for row in _followed(run)}


def _followed(run: Run) -> list[int]:
    place = {line["row"]: at for at, line in enumerate(run.intents)}
    return [place[row] for row in run.acceptances if row not in run.outcomes]


# ------------------------------------------------------------------------------------ the jobs


async def test_a_pause_needs_no_more_than_a_sync_and_its_user(tmp_path: Path) -> None:
    """`disable-syncs` is a job like any other: a plain file, looked at first, and undone."""
    async with Stage(tmp_path) as stage:
        records = stage.plain(4)
        stage.write({"sync_id": r.id, "user_id": r.user} for r in records)
        stage.set("s2", status="DISABLED")
        run = await stage.run(DISABLE)

        assert run.counts == {"updated": 3, "unchanged": 1}
        assert paused(stage) == {"s1", "s2", "s3", "s4"}
        assert [(e.method, e.path.rsplit("/", 1)[1]) for e in stage.audit if e.acted] == [
            ("POST", "disable")
        ] * 3
        assert run.intents[0]["before"] == {"sync_state": "enabled"}
        assert run.intents[0]["desired"] == {"sync_state": "disabled"}

        back = await stage.rollback(run)

        assert back.counts == {"updated": 3}
        assert paused(stage) == {"s2"}


@in_fast_motion(30)
async def test_what_is_started_again_is_followed_as_a_resync(tmp_path: Path) -> None:
    """`enable-syncs` sets work going: each has a ticket, and is proved when it has run."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=10), until=None, max_resyncs=2) as stage:
        records = stage.plain(5, status="DISABLED", last_synced_at=BEFORE)
        stage.write({"sync_id": r.id, "user_id": r.user} for r in records)
        stage.set("s5", status="IDLE")
        run = await stage.run(ENABLE)

        assert run.counts == {"updated": 4, "unchanged": 1}
        assert [run.outcomes[row]["proof"] for row in range(1, 5)] == ["resynced"] * 4
        assert run.held("budget")


@in_fast_motion(60)
async def test_a_sync_that_errs_again_when_it_is_started_is_told(tmp_path: Path) -> None:
    """Starting cures no cause: the row ends errored, also when it was so before."""
    behavior = Behavior(resync_s=5, errored_ids=frozenset({"s1"}))
    async with Stage(tmp_path, behavior=behavior, until=None, max_failures="100%") as stage:
        records = stage.plain(2, status="DISABLED", last_synced_at=BEFORE)
        stage.set("s2", status="ERRORED", reason="revoked")
        stage.write({"sync_id": r.id, "user_id": r.user} for r in records)
        run = await stage.run(ENABLE)

        assert run.outcome(1) == ("errored", "errored")
        assert run.outcome(2) == ("updated", None)


async def test_what_was_errored_cannot_be_put_back(tmp_path: Path) -> None:
    """A rollback of a pause leaves such a sync as it is, and says so; it is not paused again."""
    async with Stage(tmp_path) as stage:
        records = stage.plain(2)
        stage.set("s1", status="ERRORED")
        stage.write({"sync_id": r.id, "user_id": r.user} for r in records)
        run = await stage.run(DISABLE)
        stage.set("s1", status="IDLE")
        back = await stage.rollback(run)

        assert back.counts == {"updated": 1, "irreversible": 1}
        assert paused(stage) == set()


# ----------------------------------------------------------------------------------- the brake


@in_fast_motion(20)
async def test_a_brake_pauses_what_is_going_and_nothing_else(tmp_path: Path) -> None:
    """Of the syncs of a run: those whose re-sync it started and did not see end."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=3_000), max_resyncs=6) as stage:
        stage.plain(20, last_synced_at=BEFORE)
        run, started = await going(stage)
        asked = len(stage.audit)
        braked = await brake(stage, run)

        assert len(started) >= 3
        assert braked.counts == {"updated": len(started)}
        assert paused(stage) == started
        assert names(braked) == started
        acted = [entry for entry in stage.audit[asked:] if entry.acted]
        assert {(e.method, e.path.rsplit("/", 1)[1]) for e in acted} == {("POST", "disable")}
        manifest = braked.opened.folder.read()
        assert (manifest.job, manifest.relation, manifest.parent) == (DISABLE, "brake", run.id)
        assert {line["proof"] for line in braked.outcomes.values()} == {"confirmed"}


@in_fast_motion(20)
async def test_a_release_starts_exactly_those_again(tmp_path: Path) -> None:
    """Not one that was paused before, nor one that somebody has started meanwhile."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=30), max_resyncs=6) as stage:
        stage.plain(20, last_synced_at=BEFORE)
        stage.set("s20", status="DISABLED")
        stage.sim.behavior = Behavior(resync_s=3_000)
        run, started = await going(stage)
        first, second, *_ = sorted(started)
        stage.set(first, status="DISABLED")
        await brake(stage, run)
        stage.sim.behavior = Behavior(resync_s=30)
        stage.set(second, status="IDLE")
        asked = len(stage.audit)
        released = await release(stage, run)

        again = {entry.sync_id for entry in stage.audit[asked:] if entry.method == "POST"}
        assert again == started - {first, second}
        assert released.counts == {"updated": len(started) - 2, "unchanged": 1}
        assert paused(stage) == {first, "s20"}
        manifest = released.opened.folder.read()
        assert (manifest.job, manifest.relation) == (ENABLE, "release")
        with pytest.raises(SettingsError, match="nothing to release"):
            open_release(run.id, stage.resolved(until=None), warn=pytest.fail)


@in_fast_motion(20)
async def test_a_second_brake_is_released_as_well(tmp_path: Path) -> None:
    """What was paused, started and paused again is paused; one release starts it again."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=9_000), max_resyncs=4) as stage:
        stage.plain(8, last_synced_at=BEFORE)
        run, started = await going(stage)
        at_once = stage.resolved(until="accepted", max_resyncs="none")
        await brake(stage, run)
        await stage.carry(open_release(run.id, at_once, warn=pytest.fail))
        assert paused(stage) == set()
        await brake(stage, run)
        assert paused(stage) == started
        released = await stage.carry(open_release(run.id, at_once, warn=pytest.fail))

        assert released.counts == {"updated": len(started)}
        assert paused(stage) == set()


@in_fast_motion(20)
async def test_a_brake_that_failed_is_retried_and_counts(tmp_path: Path) -> None:
    """What a retry of a brake has paused is released with it."""
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=9_000), max_resyncs=4, max_attempts=1
    ) as stage:
        stage.plain(8, last_synced_at=BEFORE)
        run, started = await going(stage)
        one = min(started)
        stage.sim.script(one, "POST", [Fault.HTTP_500])
        braked = await brake(stage, run)
        assert braked.counts == {"updated": len(started) - 1, "exhausted": 1}
        retried = await stage.retry(braked)
        stage.sim.behavior = Behavior()
        released = await release(stage, run)

        assert retried.counts == {"updated": 1}
        assert released.counts == {"updated": len(started)}


@pytest.mark.parametrize(
    ("job", "until_", "why"),
    [
        (FREQUENCY, None, "none of the re-syncs that it started is going"),
        (MIGRATE, None, "none of the re-syncs that it started is going"),
        (MIGRATE, "accepted", "with --until accepted it does not follow re-syncs"),
    ],
)
async def test_a_run_with_nothing_going_has_no_brake(
    tmp_path: Path, job: str, until_: str | None, why: str
) -> None:
    """Nothing is made or sent, and it says why."""
    async with Stage(tmp_path) as stage:
        stage.plain(2, last_synced_at=BEFORE)
        if job == FREQUENCY:
            stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
        run = await stage.run(job, until=until_)

        with pytest.raises(SettingsError, match=f"nothing to brake: {why}"):
            open_brake(run.id, stage.resolved(until=None), warn=pytest.fail)
        with pytest.raises(SettingsError, match="nothing to release"):
            open_release(run.id, stage.resolved(until=None), warn=pytest.fail)
        with pytest.raises(NoSuchRun):
            open_brake("nobody", stage.resolved(until=None), warn=pytest.fail)
        assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1


@in_fast_motion(20)
async def test_a_release_waits_for_no_brake_that_is_at_work(tmp_path: Path) -> None:
    """While a brake may still pause more, nobody knows what is to be started."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=9_000), max_resyncs=4) as stage:
        stage.plain(8, last_synced_at=BEFORE)
        run, _ = await going(stage)
        opened = open_brake(run.id, stage.resolved(until=None), warn=pytest.fail)

        with pytest.raises(RunLocked):
            open_release(run.id, stage.resolved(until=None), warn=pytest.fail)
        await stage.carry(opened)


@in_fast_motion(20)
async def test_a_brake_looks_before_it_pauses(tmp_path: Path) -> None:
    """--no-read is refused: a sync that was paused before must not be started by a release."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=9_000), max_resyncs=4) as stage:
        stage.plain(8, last_synced_at=BEFORE)
        run, _ = await going(stage)

        with pytest.raises(SettingsError, match="--no-read cannot be had with brake"):
            open_brake(run.id, stage.resolved(until=None, no_read=True), warn=pytest.fail)


def test_a_run_at_work_is_paused_first_and_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    """From outside: nothing new is started behind the brake; released and continued it ends."""
    behavior = Behavior(resync_s=60.0)
    with commands.Stage(
        tmp_path, faults=Faults(latency_s=0.01), behavior=behavior, until=None
    ) as stage:
        path = stage.moves(30)
        run = stage.start("run", MIGRATE, path, "--yes", "--run-id", "x", "--max-resyncs", 6)
        commands.until(lambda: stage.patches() == 6, "the budget is used up")
        braked = stage.run("brake", "x", "--yes", "--run-id", "b")

        assert braked.code == 0, braked.err
        assert "run x is paused; to let it go on: syncshift continue x" in braked.err
        statuses = [record.status for record in stage.state().values()]
        assert statuses.count("DISABLED") == 6
        assert stage.patches() == 6
        assert run.code is None

        stage.simulator.behavior = Behavior()
        released = stage.run("brake", "x", "--release", "--yes", "--run-id", "r")
        continued = stage.run("continue", "x")

        assert released.code == 0, released.err
        assert continued.code == 0, continued.err
        assert run.wait().code == 0, run.err
        assert stage.moved() == 30
        assert all(record.status == "IDLE" for record in stage.state().values())


def test_nobody_brakes_without_being_asked(tmp_path: Path) -> None:
    """Without a terminal and without --yes nothing is paused, and the run is left as it is."""
    with commands.Stage(tmp_path, until=None) as stage:
        stage.run("run", MIGRATE, stage.moves(3), "--yes", "--run-id", "x")
        asked = len(stage.audit)
        refused = stage.run("brake", "x")

        assert refused.code == 2
        assert "add --yes" in refused.err
        assert len(stage.audit) == asked
