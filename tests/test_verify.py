"""A run is verified against the API itself, whoever is at work on it, and nothing is changed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runner.errors import NoSuchRun, RunChanged
from runner.simulator import TOLD, Behavior, Faults
from runner.tokens import make_demo_key
from tests.commands import NEW as MOVED
from tests.commands import Stage as Commands
from tests.commands import until
from tests.stage import NEW, OTHER, Stage, in_fast_motion


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a run but the proofs."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.startswith("verify-")
    }


async def test_all_in_force(tmp_path: Path) -> None:
    """Every row that was touched is read once; nothing else in the run is changed."""
    async with Stage(tmp_path) as stage:
        stage.plain(20)
        stage.set("s20", credential_id=NEW)
        run = await stage.run()
        before, asked = contents(run.path), len(stage.audit)
        proof = await stage.verify(run.id)

        assert (proof.exit_code, proof.rows) == (0, 19)
        assert proof.findings == {"in_force": 19, "drifted": 0, "gone": 0, "not_told": 0}
        assert [entry.method for entry in stage.audit[asked:]] == ["GET"] * 19
        assert contents(run.path) == before
        assert sorted(stage.findings(proof.file)) == list(range(1, 20))


async def test_what_is_otherwise_is_told_with_what_it_is(tmp_path: Path) -> None:
    """Drifted rows say what they are now, deleted ones that they are gone; the code is 3."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        run = await stage.run()
        stage.set("s2", credential_id=OTHER)
        stage.set("s4", user="somebody")
        proof = await stage.verify(run.id)

        assert proof.exit_code == 3
        assert proof.findings == {"in_force": 3, "drifted": 1, "gone": 1, "not_told": 0}
        drifted, gone = proof.deviations
        assert (drifted.row, drifted.error) == (2, f"credential_id is {OTHER}, not {NEW}")
        assert (gone.row, gone.finding, gone.http_status) == (4, "gone", 404)


async def test_what_the_api_does_not_tell_does_not_hold(tmp_path: Path) -> None:
    """A field that is not told is neither in force nor drifted."""
    async with Stage(tmp_path, behavior=Behavior(tells=TOLD - {"credentialId"})) as stage:
        stage.plain(2)
        run = await stage.run()
        proof = await stage.verify(run.id)

        assert (proof.exit_code, proof.findings["not_told"]) == (3, 2)
        assert "does not tell credential_id" in (proof.deviations[0].error or "")


@in_fast_motion(20)
async def test_it_agrees_with_the_service_row_by_row(tmp_path: Path) -> None:
    """3 % of the writes are dropped and 3 % not answered; exactly those not in force are told."""
    faults = Faults(ignored=0.03, drop_after=0.03)
    async with Stage(tmp_path, faults=faults, max_failures="100%") as stage:
        stage.seed(600)
        run = await stage.run()
        proof = await stage.verify(run.id)
        found = stage.findings(proof.file)
        snapshot = stage.sim.snapshot()
        holds = {
            sync_id
            for sync_id, desired in stage.desired.items()
            if snapshot[sync_id].credential_id == desired["credential_id"]
        }

        assert {line["sync_id"] for line in found.values()} == set(stage.desired)
        assert {f["sync_id"] for f in found.values() if f["finding"] == "in_force"} == holds
        assert 0 < proof.findings["drifted"] == 600 - len(holds) < 60
        assert proof.exit_code == 3


async def test_rows_that_never_ended_are_read_as_well(tmp_path: Path) -> None:
    """A run whose outcomes were lost, as by a crash, is verified by its undo log alone."""
    async with Stage(tmp_path) as stage:
        stage.plain(6)
        run = await stage.run()
        run.forget(5, 6)
        stage.set("s6", credential_id=OTHER)
        proof = await stage.verify(run.id)

        assert proof.findings["in_force"] == 5
        assert (proof.deviations[0].error or "").endswith("; the run did not see it end")


async def test_a_run_at_work_can_be_verified(tmp_path: Path) -> None:
    """No lock is taken: who is at work goes on, and is not disturbed."""
    async with Stage(tmp_path) as stage:
        stage.plain(4)
        run = await stage.run()
        run.opened.folder.lock()
        proof = await stage.verify(run.id)

        assert proof.exit_code == 0
        assert run.opened.folder.is_locked()
        run.opened.folder.unlock()


async def test_no_proof_overwrites_another(tmp_path: Path) -> None:
    """Each look has a file of its own, also two of the same second."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        run = await stage.run()
        files = [(await stage.verify(run.id)).file for _ in range(3)]

        assert len(set(files)) == 3
        assert [len(stage.findings(file)) for file in files] == [1, 1, 1]


async def test_nothing_touched_is_nothing_to_verify(tmp_path: Path) -> None:
    """A run that sent nothing, a plan for instance, holds; no file is written."""
    async with Stage(tmp_path) as stage:
        stage.plain(2)
        await stage.plan(run_id="friday")
        proof = await stage.verify("friday")

        assert (proof.rows, proof.exit_code, proof.file) == (0, 0, None)


async def test_a_wrong_key_is_no_drift(tmp_path: Path) -> None:
    """A fault of the whole command ends it with 4; a signal with its own code."""
    async with Stage(tmp_path) as stage:
        stage.plain(30, users=15)
        run = await stage.run()
        right, stage.key = stage.key, make_demo_key()
        refused = await stage.verify(run.id)
        stage.key = right
        stage.after(len(stage.audit) + 5, lambda: signal.raise_signal(signal.SIGTERM))
        cut = await stage.verify(run.id, concurrency=2)

        assert (refused.exit_code, cut.exit_code) == (4, 143)
        assert "401" in (refused.reason or "")
        assert refused.findings["drifted"] == refused.findings["gone"] == 0
        with pytest.raises(RunChanged, match="project"):
            await stage.verify(run.id, project_id="p2")
        with pytest.raises(NoSuchRun):
            await stage.verify("monday")


def test_the_command_says_whether_all_hold(tmp_path: Path) -> None:
    """0 and a table when all hold, 3 and the deviations when not; --json is one object."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(12)
        run = ("run", "migrate-credentials", moves, "--run-id", "friday", "--until", "accepted")
        assert stage.run(*run, "--yes").code == 0
        well = stage.run("verify", "friday")
        sync_id = next(iter(stage.state()))
        stage.there(drift, stage, sync_id)
        said = stage.run("verify", "friday")
        as_json = stage.run("verify", "friday", "--json", "--rate", "1000")

        assert (well.code, said.code, as_json.code) == (0, 3, 3)
        assert "12 of 12 syncs are as the run left them" in well.out
        assert f"credential_id is {OTHER}, not {MOVED}" not in well.out
        assert f"{sync_id}: drifted, credential_id is {OTHER}" in said.out
        found = as_json.json()
        assert (found["run_id"], found["rows"], found["exit_code"]) == ("friday", 12, 3)
        assert found["findings"] == {"in_force": 11, "drifted": 1, "gone": 0, "not_told": 0}
        assert [line["sync_id"] for line in found["deviations"]] == [sync_id]


def test_watch_looks_until_all_hold(tmp_path: Path) -> None:
    """A line a look, and 0 in the end; Ctrl-C ends it before with 130."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(5)
        run = ("run", "migrate-credentials", moves, "--run-id", "friday", "--until", "accepted")
        assert stage.run(*run, "--yes").code == 0
        sync_id = next(iter(stage.state()))
        stage.there(drift, stage, sync_id)
        watching = stage.start("verify", "friday", "--watch", "--every", "50ms")
        until(lambda: "1 drifted" in watching.err, "a look that finds the drift")
        stage.there(drift, stage, sync_id, MOVED)
        assert watching.wait().code == 0, watching.err
        stage.there(drift, stage, sync_id)
        watching = stage.start("verify", "friday", "--watch", "--every", "10m")
        until(lambda: "1 drifted" in watching.err, "a look that finds the drift")
        watching.signal(signal.SIGINT)

        assert watching.wait().code == 130


def drift(stage: Commands, sync_id: str, credential_id: str = OTHER) -> None:
    """Change a sync behind the run's back."""
    sync = stage.simulator._service.syncs._syncs[sync_id]
    sync.record = type(sync.record)(id=sync_id, user=sync.record.user, credential_id=credential_id)
