"""A plan: every row is looked at, nothing is sent, and what was seen can be read later."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import msgspec
import pytest

from runner.errors import DiskFault, InputError, RunRefused
from runner.folder import Folder
from runner.forecast import PLAN, plan_of
from runner.results import Findings, verdict_of
from runner.rounds import make_plan
from runner.simulator import TOLD, Behavior, Faults, SyncRecord
from runner.tokens import make_demo_key
from tests.commands import INTERRUPTS, until
from tests.commands import Stage as Commands
from tests.stage import BOTH, FREQUENCY, NEW, OLD, OTHER, Stage, in_fast_motion


@pytest.mark.parametrize("rows", [1_000, pytest.param(5_000, marks=pytest.mark.long)])
async def test_plan_sends_no_write_and_tells_of_every_row(rows: int, tmp_path: Path) -> None:
    """One entry a row and not one write; then 20 syncs move, and apply leaves exactly those."""
    async with Stage(tmp_path) as stage:
        records = stage.seed(rows)
        plan = await stage.plan(run_id="friday")
        found = stage.findings(plan.file)
        methods = {entry.method for entry in stage.audit}

        assert methods == {"GET"}
        assert sorted(found) == list(range(1, rows + 1))
        assert (plan.state, plan.findings["change"], plan.resyncs) == ("planned", rows, rows)

        moved = records[7 : rows : rows // 20]
        for record in moved:
            stage.set(record.id, credential_id=OTHER)
        run = await stage.apply("friday")

        assert len(moved) == 20
        assert run.counts == {"updated": rows - 20, "conflicted": 20}
        conflicted = {line["sync_id"]: line for line in run.outcomes.values() if line["error"]}
        assert set(conflicted) == {record.id for record in moved}
        was = {record.id: record.credential_id for record in records}
        for sync_id, line in conflicted.items():
            assert line["outcome"] == "conflicted"
            assert line["error"] == (
                f"credential_id was {was[sync_id]} when it was planned, and is now {OTHER}"
            )
            assert stage.sim.snapshot()[sync_id].credential_id == OTHER
            assert stage.patches[sync_id] == 0


async def test_each_row_is_told_with_reason_and_before_image(tmp_path: Path) -> None:
    """Every kind of finding, the invalid row and the duplicate among them, has its line."""
    async with Stage(tmp_path, skip_invalid=True) as stage:
        stage.plain(5)
        stage.set("s2", credential_id=NEW)
        stage.set("s4", user="somebody")
        stage.set("s5", status="ERRORED")
        to_new = {"credential_id": NEW}
        stage.write(
            [
                {"sync_id": "s1", "user_id": "u1", **to_new},
                {"sync_id": "s2", "user_id": "u1", **to_new},
                {"sync_id": "s3", "user_id": "u1", **to_new, "expected_credential_id": OTHER},
                {"sync_id": "s4", "user_id": "u1", **to_new},
                {"sync_id": "s5", "user_id": "u1", **to_new},
                {"sync_id": "s6", "user_id": "u1", "credential_id": "nonsense"},
                {"sync_id": "s1", "user_id": "u1", **to_new},
            ]
        )
        plan = await stage.plan()
        found = stage.findings(plan.file)

        assert {row: line["finding"] for row, line in found.items()} == {
            1: "change",
            2: "unchanged",
            3: "conflicted",
            4: "blocked",
            5: "change",
            6: "invalid",
            7: "duplicate",
        }
        assert found[1]["before"] == {"credential_id": OLD}
        assert found[1]["seen"]["status"] == "IDLE"
        assert (found[1]["resync"], found[2]["resync"]) == (True, False)
        assert found[3]["error"] == f"credential_id is {OLD}; expected {OTHER}"
        assert (found[4]["http_status"], found[4]["error_class"]) == (404, "not_found")
        assert "may not revive it" in found[5]["error"]
        assert "must be a UUID" in found[6]["error"]
        assert found[7]["error"] == "asks for the same as row 1 (line 2)"
        assert plan.findings == {
            "change": 2,
            "unchanged": 1,
            "duplicate": 1,
            "conflicted": 1,
            "blocked": 1,
            "unknown": 0,
            "invalid": 1,
        }
        assert (plan.resyncs, plan.warnings, plan.looks) == (2, 1, 5)
        assert [problem.row for problem in plan.problems] == [3, 4, 6]


@pytest.mark.parametrize("job", [FREQUENCY, BOTH])
async def test_what_the_api_does_not_tell_is_unknown(job: str, tmp_path: Path) -> None:
    """A field that the API keeps to itself is no state to plan from."""
    async with Stage(tmp_path, behavior=Behavior(tells=TOLD - {"frequency"})) as stage:
        stage.sim.add(SyncRecord(id="s1", user="u1", frequency="1h"))
        stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
        plan = await stage.plan(job)

        assert plan.findings["unknown"] == 1
        assert plan.problems[0].error == "the API does not tell frequency of this sync"
        assert plan.resyncs == 0


async def test_faults_are_weathered(tmp_path: Path) -> None:
    """A plan insists as a run does; what passes leaves no trace in it."""
    faults = Faults(http_500=0.05, http_429=0.05, drop_after=0.05, retry_after_s=0.1)
    async with Stage(tmp_path, faults=faults) as stage:
        stage.seed(100)
        plan = await stage.plan()

        assert plan.findings["change"] == 100
        assert stage.patches == {}


async def test_a_wrong_key_stops_a_plan_as_it_stops_a_run(tmp_path: Path) -> None:
    """Everybody is refused: that is the key's fault, told once, and the plan is not whole."""
    async with Stage(tmp_path) as stage:
        stage.seed(60, users=20)
        stage.key = make_demo_key()
        plan = await stage.plan(run_id="friday")
        manifest = Folder.open(tmp_path / "runs", "friday").read()

        assert (plan.state, manifest.exit_code, plan.whole) == ("stopped", 4, False)
        assert "401" in (manifest.reason or "")
        assert (manifest.planned, plan.estimate_s) == (None, None)
        with pytest.raises(RunRefused, match="plan again: syncshift plan migrate-credentials"):
            stage.open_planned("friday")
        with pytest.raises(RunRefused, match="is not whole"):
            stage.reopen("friday")


async def test_a_plan_that_is_interrupted_is_made_anew(tmp_path: Path) -> None:
    """Half a plan can neither be applied nor resumed, and says so."""
    async with Stage(tmp_path, faults=Faults(latency_s=0.02), concurrency=4) as stage:
        stage.seed(80)
        stage.after(30, lambda: signal.raise_signal(signal.SIGINT))
        plan = await stage.plan(run_id="friday")
        manifest = Folder.open(tmp_path / "runs", "friday").read()

        assert (plan.state, manifest.exit_code) == ("interrupted", INTERRUPTS[signal.SIGINT])
        assert 0 < sum(plan.findings.values()) < 80
        assert not Folder.open(tmp_path / "runs", "friday").is_locked()
        for opener in (stage.open_planned, stage.reopen):
            with pytest.raises(RunRefused, match="is not whole"):
                opener("friday")


async def test_what_cannot_be_written_down_ends_a_plan(tmp_path: Path) -> None:
    """A disk that fails stops the looking; the plan is not whole."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    async with Stage(tmp_path) as stage:
        stage.seed(30)
        opened = stage.open()
        plan = await make_plan(opened, show=lambda _: None, clocks=stage.clocks, sync=full)
        manifest = opened.folder.read()

        assert (plan.state, manifest.exit_code) == ("stopped", DiskFault.exit_code)
        assert "No space left" in (manifest.reason or "")


@in_fast_motion(4)
async def test_the_estimate_follows_from_the_limits(tmp_path: Path) -> None:
    """At 20 requests a second, 60 looks take 3 s, and 60 looks and 60 changes take 6.

    Never less; how much more depends on how busy the machine is.
    """
    async with Stage(tmp_path, rate=20) as stage:
        stage.seed(60)
        plan = await stage.plan()

        assert 2.8 <= plan.looked_s <= 6.0
        assert plan.estimate_s == pytest.approx(2 * plan.looked_s, abs=0.01)


async def test_a_plan_is_read_from_its_file_alone(tmp_path: Path) -> None:
    """What was shown when it was made is shown again later, to the last figure."""
    async with Stage(tmp_path) as stage:
        stage.seed(40)
        plan = await stage.plan(run_id="friday")
        folder = Folder.open(tmp_path / "runs", "friday")

        assert plan_of(folder, folder.read()) == plan
        assert verdict_of("planned", failed=0, unprocessed=40) is None
        with Findings(folder.path / PLAN) as found:
            assert [found.of(row).row for row in (1, 40)] == [1, 40]
            with pytest.raises(KeyError):
                found.of(41)


# ----------------------------------------------------------------------------------- as a command


def test_the_command_plans_and_says_what_is_next(tmp_path: Path) -> None:
    """It needs no yes, sends no change, exits with 0, and names the command that carries it out."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(30)
        said = stage.run("plan", "migrate-credentials", moves, "--run-id", "friday")
        listed = stage.run("status")
        shown = stage.run("status", "friday")
        as_json = stage.run("plan", "migrate-credentials", moves, "--json").json()

        assert said.code == 0, said.err
        for text in ("30  change", "30 would start", "syncshift apply friday", "30 looks took"):
            assert text in said.out
            assert text in shown.out
        assert "planned" in listed.out
        assert stage.patches() == 0
        assert stage.manifest("friday")["state"] == "planned"
        assert list(as_json) == [
            "run_id",
            "job",
            "state",
            "rows",
            "findings",
            "warnings",
            "resyncs",
            "users",
            "looks",
            "looked_s",
            "estimate_s",
            "rounds",
            "resyncs_s",
            "problems",
            "file",
        ]
        assert (as_json["state"], as_json["rows"], as_json["resyncs"]) == ("planned", 30, 30)
        assert Path(tmp_path / as_json["file"]).is_file()


def test_offline_checks_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    """No request, no key, no run: only what the file itself tells."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(12)
        no_key = {"PARAGON_SIGNING_KEY_FILE": None}
        said = stage.run("plan", "migrate-credentials", moves, "--offline", env=no_key)
        piped = stage.run(
            *("plan", "migrate-credentials", "-", "--format", "csv", "--offline", "--json"),
            env=no_key,
            stdin=moves.read_bytes(),
        )

        assert said.code == 0, said.err
        assert "12 rows, no fault found" in said.out
        assert "nothing to apply" in said.out
        assert piped.json() | {"problems": []} == {
            "job": "migrate-credentials",
            "state": "checked",
            "rows": 12,
            "valid": 12,
            "duplicates": 0,
            "invalid": 0,
            "users": 4,
            "resyncs": 12,
            "problems": [],
        }
        assert stage.audit == []
        assert not stage.runs.exists()


def test_offline_refuses_a_bad_file(tmp_path: Path) -> None:
    """A file with a fault is refused with 2 and its problems, and leaves no run."""
    with Commands(tmp_path) as stage:
        bad = stage.write("bad.csv", [("sync_id", "user_id", "credential_id"), ("s", "u", "x")])
        said = stage.here("plan", "migrate-credentials", bad, "--offline", "--json")

        assert said.code == InputError.exit_code
        assert json.loads(said.out)["verdict"] == "refused"
        assert not stage.runs.exists()


def test_a_plan_cannot_do_without_reading(tmp_path: Path) -> None:
    """--no-read is refused, by a flag or by the settings file."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(2)
        by_flag = stage.here("plan", "migrate-credentials", moves, "--no-read")
        (tmp_path / "syncshift.toml").write_text("no-read = true\n")
        by_file = stage.here("plan", "migrate-credentials", moves)

        assert (by_flag.code, by_file.code) == (2, 2)
        assert "--no-read cannot be had with plan" in by_flag.err
        assert stage.audit == []


def test_ctrl_c_ends_a_plan(tmp_path: Path) -> None:
    """130, and the next thing to do is to plan anew."""
    with Commands(tmp_path, faults=Faults(latency_s=0.05)) as stage:
        moves = stage.moves(300)
        command = stage.start(
            "plan", "migrate-credentials", moves, "--run-id", "friday", "--concurrency", "4"
        )
        until(lambda: len(stage.audit) >= 20, "20 requests")
        command.signal(signal.SIGINT)

        assert command.wait().code == 130
        assert "cannot be applied" in command.out
        assert f"syncshift plan migrate-credentials {moves}" in command.out
        assert stage.manifest("friday")["state"] == "interrupted"
        assert stage.patches() == 0


def test_no_token_stands_in_a_plan(tmp_path: Path) -> None:
    """What a plan writes down holds findings and no secret."""
    with Commands(tmp_path) as stage:
        stage.run("plan", "migrate-credentials", stage.moves(3), "--run-id", "friday")
        text = (stage.folder("friday") / PLAN).read_text()

        assert "Bearer" not in text
        assert all(msgspec.json.decode(line)["v"] == 1 for line in text.splitlines())


# --------------------------------------------------------------------------------- as documented


def test_the_pages_examples_can_be_given_as_they_stand(tmp_path: Path) -> None:
    """Each command of the pages about plan, apply and verify ends well, in their order."""
    docs = Path(__file__).resolve().parents[1] / "docs"
    text = "".join((docs / name).read_text() for name in ("plan-and-apply.md", "verify.md"))
    commands = re.findall(r"^\$ syncshift (.+)$", text, re.MULTILINE)
    with Commands(tmp_path) as stage:
        stage.moves(8)
        (tmp_path / "syncshift.toml").write_text('until = "accepted"\n')

        assert len(commands) >= 7
        for command in commands:
            yes = ["--yes"] if command.startswith("apply") else []
            said = stage.run(*command.split(), *yes)
            assert said.code == 0, (command, said.err)
