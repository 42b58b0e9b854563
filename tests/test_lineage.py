"""Families of runs, and the commands that make them: help, exit codes, documented examples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runner.errors import NoSuchRun, RunLocked
from runner.folder import Folder
from runner.lineage import holding, root_of, with_retries
from runner.simulator import Fault
from tests.commands import NEW, ROOT, Stage
from tests.stage import Stage as Engine

MIGRATE = "migrate-credentials"
EXAMPLES = [
    line.removeprefix("$ syncshift ")
    for page in ("retry", "rollback")
    for line in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("$ syncshift ")
]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage with a run called friday: one row updated, one exhausted, one rejected."""
    with Stage(tmp_path) as there:
        good, bad = there.syncs(2, users=1)
        there.there(there.simulator.script, bad.id, "PATCH", [Fault.HTTP_500])
        rows = [(good.id, good.user, NEW), (bad.id, bad.user, NEW), ("gone", bad.user, NEW)]
        path = there.write("moves.csv", [("sync_id", "user_id", "credential_id"), *rows])
        limits = ("--max-attempts", 1, "--max-failures", "100%", "--until", "accepted")
        run = there.run("run", MIGRATE, path, "--run-id", "friday", "--yes", *limits, "--json")
        counts = run.json()["counts"]
        assert [counts[name] for name in ("updated", "exhausted", "rejected")] == [1, 1, 1]
        yield there


@pytest.mark.parametrize("words", EXAMPLES)
def test_documented_examples_work(stage: Stage, words: str) -> None:
    """Every command on the pages of retry and rollback makes a run that names its parent."""
    command = stage.run(*shlex.split(words), "--yes", "--json")
    run_id = command.json()["run_id"]
    relation = words.split(maxsplit=1)[0]
    manifest = stage.manifest(run_id)

    assert command.code in {0, 3}, command.err
    assert (manifest["parent"], manifest["relation"]) == ("friday", relation)
    assert manifest["state"] == "finished"
    named = re.search(r"--run-id (\S+)", words)
    assert named is None or run_id == named[1]


def test_status_and_report_tell_of_a_family(stage: Stage) -> None:
    """The first run counts with its retries, a retry by itself, and the list marks who is what."""
    stage.run("retry", "friday", "--yes", "--run-id", "again")
    stage.run("rollback", "friday", "--yes", "--run-id", "back")
    root = stage.run("status", "friday")
    child = stage.run("status", "again")
    listed = {run["run_id"]: run for run in stage.run("status", "--json").json()}
    report = stage.run("report", "friday", "--json").json()

    assert "again" in root.out
    assert "friday, as its retry" in child.out
    assert [listed[name]["parent"] for name in ("friday", "again", "back")] == [
        None,
        "friday",
        "friday",
    ]
    assert "(rollback)" in stage.run("status").out
    assert report["family"] == ["friday", "again"]
    assert (report["counts"]["updated"], report["counts"]["rejected"]) == (2, 1)
    assert report["files"]["succeeded.csv"]["rows"] == 2


def test_refusals_have_their_exit_codes(stage: Stage) -> None:
    """2 for what makes no sense, 5 for a run that cannot be opened; neither makes a run."""
    codes = {
        words: stage.here(*words.split(), "--yes").code
        for words in (
            "retry nothing",
            "rollback nothing",
            "retry friday --class nonsense",
            "rollback friday --no-read",
            "retry friday --base-url https://elsewhere.example",
        )
    }

    assert list(codes.values()) == [5, 5, 2, 2, 5]
    assert stage.here("retry", "friday").code == 2
    assert [folder.run_id for folder in Folder.all(stage.runs)] == ["friday"]


async def test_a_family_is_found_from_any_member(tmp_path: Path) -> None:
    """Retries of retries belong to it; rollbacks and refused runs do not; one that is gone tells.

    While it is held, nobody else works on any of it.
    """
    async with Engine(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(1)
        stage.write([{"sync_id": "gone", "user_id": "u1", "credential_id": NEW}])
        run = await stage.run()
        first = await stage.retry(run, "rejected")
        second = await stage.retry(first, "rejected")
        refused = await stage.retry(run, "rejected")
        folder = refused.opened.folder
        folder.write(msgspec.structs.replace(folder.read(), state="refused"))
        root = root_of(second.opened.folder)
        members = with_retries(root.folder, root.manifest)

        assert [member.run_id for member in members] == [run.id, first.id, second.id]
        with holding(members), pytest.raises(RunLocked):
            second.opened.folder.lock()
        assert not any(member.folder.is_locked() for member in members)
        (first.path / "run.json").unlink()
        with pytest.raises(NoSuchRun):
            root_of(second.opened.folder)
