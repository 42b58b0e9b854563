"""Rollback: what a run may have changed is put back, and nothing else is touched."""

from __future__ import annotations

import random
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from runner.errors import RunChanged, RunLocked, SettingsError
from runner.job import find
from runner.model import Intent
from runner.simulator import Faults
from runner.undo import open_rollback, row_of
from tests.commands import Stage as Commands
from tests.commands import journal, table, until
from tests.stage import BOTH, FREQUENCY, MIGRATE, NEW, OLD, OTHER, Stage


def credentials(stage: Stage) -> dict[str, str]:
    """Return the credential of each sync."""
    return {sync_id: sync.credential_id for sync_id, sync in stage.sim.snapshot().items()}


async def test_d12_a_rollback_undoes_our_own_value_only(tmp_path: Path) -> None:
    """Of 1,000 rows 30 lost their outcome and 10 were edited since: 990 restored, 10 untouched.

    The rollback of the rollback gives the changed state again.
    """
    async with Stage(tmp_path, until="accepted", faults=Faults(drop_after=0.03)) as stage:
        records = stage.seed(1000)
        before = credentials(stage)
        run = await stage.run()
        changed = credentials(stage)
        run.forget(*range(1, 901, 30))
        edited = [record.id for record in records[5:1000:100]]
        for sync_id in edited:
            stage.set(sync_id, credential_id=OTHER)
        asked = len(stage.audit)

        back = await stage.rollback(run)
        sent = {entry.sync_id for entry in stage.audit[asked:] if entry.method == "PATCH"}
        restored = credentials(stage)
        again = await stage.rollback(back)

        others = dict.fromkeys(edited, OTHER)
        assert back.counts == {"updated": 990, "conflicted": 10}
        assert sent.isdisjoint(edited)
        assert restored == before | others
        assert again.counts == {"updated": 990}
        assert credentials(stage) == changed | others


async def test_d12_two_changes_to_one_sync_end_at_the_oldest_before_image(tmp_path: Path) -> None:
    """A sync that a run and its retry wrote is one row, from the last value to the first one."""
    async with Stage(tmp_path, until="accepted") as stage:
        stage.plain(3)
        run = await stage.run()
        run.forget(1, 2)
        # The first row is undone meanwhile, and the retry makes it again.
        stage.set("s1", credential_id=OLD)
        retried = await stage.retry(run)
        back = await stage.rollback(run)

        assert [line["before"] for line in retried.intents] == [{"credential_id": OLD}]
        assert back.counts == {"updated": 3}
        assert credentials(stage) == {"s1": OLD, "s2": OLD, "s3": OLD}
        assert [row["sync_id"] for row in back.table("succeeded.csv")] == ["s1", "s3", "s2"]


async def test_d12_what_others_set_between_two_runs_is_what_comes_back(tmp_path: Path) -> None:
    """A value that somebody set before the retry wrote over it is not passed over."""
    async with Stage(tmp_path, until="accepted") as stage:
        stage.plain(2)
        run = await stage.run()
        run.forget(1)
        stage.set("s1", credential_id=OTHER)
        await stage.retry(run)
        back = await stage.rollback(run)

        assert back.counts == {"updated": 2}
        assert credentials(stage) == {"s1": OTHER, "s2": OLD}


async def test_only_leaves_the_retries_out(tmp_path: Path) -> None:
    """With --only what a retry changed stays as the retry left it."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(2)
        stage.write(
            {"sync_id": s, "user_id": "u1", "credential_id": NEW, "expected_credential_id": OLD}
            for s in ("s1", "s2")
        )
        stage.set("s2", credential_id=OTHER)
        run = await stage.run()
        stage.set("s2", credential_id=OLD)
        await stage.retry(run)
        back = await stage.rollback(run, only=True)

        assert run.counts == {"updated": 1, "conflicted": 1}
        assert back.counts == {"updated": 1}
        assert credentials(stage) == {"s1": OLD, "s2": NEW}


async def test_what_was_never_told_is_irreversible(tmp_path: Path) -> None:
    """A frequency that was never set cannot be restored: named before, never sent or skipped."""
    async with Stage(tmp_path, max_failures="0") as stage:
        stage.plain(3, frequency=None)
        stage.set("s2", frequency="1h")
        stage.write({"sync_id": f"s{n}", "user_id": "u1", "frequency": "6h"} for n in range(1, 4))
        run = await stage.run(FREQUENCY)
        opened = open_rollback(run.id, stage.resolved(), warn=print)
        asked = len(stage.audit)
        back = await stage.carry(opened)
        patched = [e.sync_id for e in stage.audit[asked:] if e.method == "PATCH"]
        failed = back.table("failed.csv")

        assert (opened.irreversible, opened.left) == (2, 1)
        assert "s3 (row 3)" in opened.remarks[0]
        assert "frequency" in opened.remarks[0]
        assert back.counts == {"updated": 1, "irreversible": 2}
        assert patched == ["s2"]
        assert stage.sim.snapshot()["s2"].frequency == "1h"
        assert {row["syncshift_error_class"] for row in failed} == {"irreversible"}
        assert all("frequency" in row["syncshift_error"] for row in failed)
        assert back.opened.folder.read().state == "finished"
        assert not (back.path / "invalid.csv").exists()


async def test_what_was_not_read_is_irreversible(tmp_path: Path) -> None:
    """A run with --no-read has no before-images, and its rollback says so of every row."""
    async with Stage(tmp_path) as stage:
        stage.plain(2)
        run = await stage.run(no_read=True, until="accepted")
        back = await stage.rollback(run)

        assert back.counts == {"irreversible": 2}
        assert "was not read" in back.table("failed.csv")[0]["syncshift_error"]
        with pytest.raises(SettingsError, match="--no-read cannot be had with rollback"):
            await stage.rollback(run, no_read=True)


@pytest.mark.parametrize(("error_class", "rows"), [("not_found", 1), ("forbidden", 2)])
async def test_of_refused_rows_only_those_whose_sync_is_gone_are_left_out(
    error_class: str, rows: int, tmp_path: Path
) -> None:
    """A refused row may have landed in a session before; a sync that is gone is no more to undo."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(2)
        run = await stage.run()
        lines = run.lines
        lines[1] |= {"outcome": "rejected", "error_class": error_class, "attempts": 1}
        run._rewrite("report", lines)
        back = await stage.rollback(run)

        assert back.counts == {"updated": rows}


async def test_a_rollback_is_a_run_that_resumes(tmp_path: Path) -> None:
    """Interrupted, it goes on where it was, and conflicts do not count against its limit."""
    async with Stage(tmp_path, until="accepted", concurrency=2) as stage:
        records = stage.plain(60)
        run = await stage.run()
        for record in records[:30]:
            stage.set(record.id, credential_id=OTHER)
        opened = open_rollback(run.id, stage.resolved(max_failures="0"), warn=print)
        stage.after(stage.sim.requests + 50, lambda: signal.raise_signal(signal.SIGTERM))
        back = await stage.carry(opened)
        resumed = await stage.resume(back)

        assert back.summary.counts["unprocessed"] > 0
        assert resumed.counts == {"updated": 30, "conflicted": 30}


async def test_a_failed_rollback_is_retried_as_a_rollback(tmp_path: Path) -> None:
    """Its retry puts back too, row for row, and the family tells of both."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(3, frequency=None)
        stage.write(
            {"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW, "frequency": f}
            for n, f in ((1, "1h"), (2, ""), (3, ""))
        )
        run = await stage.run(BOTH)
        stage.set("s2", credential_id=OTHER)
        back = await stage.rollback(run)
        stage.set("s2", credential_id=NEW)
        retried = await stage.retry(back)
        hopeless = await stage.retry(back, "irreversible")

        assert back.counts == {"updated": 1, "conflicted": 1, "irreversible": 1}
        assert retried.counts == {"updated": 1}
        assert credentials(stage) == {"s1": NEW, "s2": OLD, "s3": OLD}
        assert hopeless.counts == {"irreversible": 1}
        assert hopeless.opened.manifest.undoes


async def test_a_rollback_is_refused_where_it_makes_no_sense(tmp_path: Path) -> None:
    """With nothing changed, with another host, and while the run is at work."""
    async with Stage(tmp_path, until="accepted") as stage:
        stage.plain(1)
        stage.set("s1", credential_id=NEW)
        unchanged = await stage.run()
        stage.set("s1", credential_id=OLD)
        run = await stage.run()

        with pytest.raises(SettingsError, match="nothing to put back"):
            await stage.rollback(unchanged)
        with pytest.raises(RunChanged, match="--base-url"):
            await stage.rollback(run, base_url="https://elsewhere.example")
        run.opened.folder.lock()
        with pytest.raises(RunLocked):
            await stage.rollback(run)
        run.opened.folder.unlock()


def test_a_value_that_cannot_be_set_is_irreversible() -> None:
    """What the API told before and no input may hold is not sent, and said to be lost."""
    job = find(MIGRATE)
    intent = Intent(
        row=1,
        line=2,
        sync_id="s1",
        user_id="u1",
        before={"credential_id": "strange"},
        seen=None,
        desired={"credential_id": NEW},
        timestamp="",
    )
    cells = row_of(intent.before, intent, owned=job.owns, job=job, row=4)

    assert cells[:5] == ("s1", "u1", "", NEW, 4)
    assert "'strange'" in str(cells[5])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.long)])
def test_d12_a_run_killed_at_any_moment_is_rolled_back_whole(kills: int, tmp_path: Path) -> None:
    """Killed at random moments and never resumed: every sync that it touched is restored."""
    chance = random.Random(12)
    with Commands(tmp_path, faults=Faults(latency_s=0.01)) as stage:
        path = stage.moves(100)
        before = stage.state()
        for kill in range(kills):
            run_id = f"k{kill}"
            command = stage.start(
                "run",
                MIGRATE,
                path,
                "--yes",
                "--run-id",
                run_id,
                "--concurrency",
                6,
                "--until",
                "accepted",
                env={"COVERAGE_PROCESS_CONFIG": None},
            )
            sent = stage.patches() + chance.randrange(1, 95)
            until(partial(_have_come, stage, sent), "changes are sent")
            threading.Event().wait(chance.uniform(0, 0.02))
            command.process.kill()
            command.wait()
            until(partial(_at_rest, stage), "the last request has landed")
            undo = stage.folder(run_id) / "undo.jsonl"
            with undo.open("ab") as file:
                file.write(b'{"v":1,"row":')
            kept = undo.read_bytes()
            touched = {line["sync_id"] for line in journal(undo, torn=True)}
            back = stage.run("rollback", run_id, "--yes", "--run-id", f"b{kill}", "--quiet")

            assert back.code == 0, back.err
            assert stage.state().keys() == before.keys()
            assert all(
                now.credential_id == before[sync_id].credential_id
                for sync_id, now in stage.state().items()
            )
            rows = table(stage.folder(f"b{kill}") / "succeeded.csv")
            assert {row["sync_id"] for row in rows} == touched
            assert undo.read_bytes() == kept


def _have_come(stage: Commands, changes: int) -> bool:
    return stage.patches() >= changes


def _at_rest(stage: Commands) -> bool:
    return stage.simulator.in_flight == 0
