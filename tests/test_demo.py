"""`syncshift demo` tells the whole story, and what it says is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.commands import Stage, journal, until


def test_the_demo_tells_the_truth(tmp_path: Path) -> None:
    """It ends with 0: planned, applied, interrupted, resumed, verified, and rolled back."""
    with Stage(tmp_path) as stage:
        command = stage.start("demo", "--keep", "kept").wait(90)

    assert command.code == 0, command.out + command.err
    runs = tmp_path / "kept" / "runs"
    found = re.findall(r"The simulator's own state agrees for (\d+) of (\d+) syncs", command.out)
    summaries = {
        path.parent.name: json.loads(path.read_bytes()) for path in runs.glob("*/summary.json")
    }
    assert set(summaries) == {"migration", "schedule", "way-back"}
    assert {summary["verdict"] for summary in summaries.values()} == {"succeeded"}
    assert len(found) == 3
    assert all(agree == of for agree, of in found)
    opened = [
        line["resumed"]
        for line in journal(runs / "migration" / "events.jsonl")
        if line["event"] == "run.opened"
    ]
    assert opened == [False, True]
    assert f"{runs.relative_to(tmp_path)}" in command.out
    assert "interrupted: rows are left" in command.out
    assert "syncshift resume migration" in command.out
    for words in (
        "plan migrate-credentials",
        "apply migration",
        "resume migration",
        "verify migration",
        "rollback migration",
        "run change-frequency",
        "status",
    ):
        assert f"$ syncshift {words}" in command.out
    assert stage.audit == []


def test_a_folder_that_holds_runs_is_not_mixed_up(tmp_path: Path) -> None:
    """Kept runs are not touched by a second demo: exit 2, and what to do."""
    (tmp_path / "kept" / "runs").mkdir(parents=True)
    with Stage(tmp_path) as stage:
        command = stage.run("demo", "--keep", "kept")

    assert command.code == 2
    assert "--keep kept: holds runs already; choose another folder" in command.err


def test_ctrl_c_ends_the_demo_and_all_that_it_started(tmp_path: Path) -> None:
    """Who has seen enough is back at the shell at once, with no command left behind."""
    with Stage(tmp_path) as stage:
        demo = stage.terminal("demo", "--keep", "kept")
        report = tmp_path / "kept" / "runs" / "migration" / "report.jsonl"
        until(lambda: report.exists() and report.stat().st_size, "the first run is at work")
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()

        demo.type("\x03")
        demo.wait()

    assert demo.code == 130
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert "Traceback" not in demo.shown
    assert json.loads((report.parent / "summary.json").read_bytes())["verdict"] == "interrupted"
