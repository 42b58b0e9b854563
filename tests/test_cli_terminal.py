"""What a person sees at a terminal: the question, the progress, why it waits, how it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.simulator import Faults, OutageKind
from tests.commands import PATIENCE_S, Stage, Terminal, journal, until

MOVE = ("run", "migrate-credentials")
ROWS = 60
CTRL_C, CTRL_D = "\x03", "\x04"
ASKED = f"Send up to {ROWS} changes? [y/N]"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose server takes its time."""
    with Stage(tmp_path, faults=Faults(latency_s=0.05)) as there:
        yield there


def begin(stage: Stage, *flags: object) -> Terminal:
    """Start a run at a terminal; it has asked its question."""
    terminal = stage.terminal(*MOVE, stage.moves(ROWS), "--run-id", "x", *flags)
    terminal.expect(ASKED)
    return terminal


def at_work(stage: Stage, *flags: object) -> Terminal:
    """Start a run at a terminal, say yes, and return in the middle of its work."""
    terminal = begin(stage, "--concurrency", 4, *flags)
    terminal.type("y\n")
    until(lambda: stage.patches() > 5 or terminal.code is not None, "PATCHes come")
    assert terminal.code is None, terminal.shown
    return terminal


# --------------------------------------------------------------------------------- the question


def test_the_question_names_what_is_about_to_happen(stage: Stage) -> None:
    """Job, host, rows, users, re-syncs and every limit are named before anything is sent."""
    shown = begin(stage, "--rate", 20, "--max-failures", 5).shown

    assert f"migrate-credentials on {stage.base_url}" in shown
    told = dict(re.findall(r"^  (\S+) +(.+)$", shown, re.MULTILINE))
    assert told["run"] == "x (runs/x)"
    assert told["rows"] == f"{ROWS} to carry"
    assert told["users"] == "4"
    assert told["re-syncs"].startswith(f"up to {ROWS}")
    assert "32 requests in flight" in told["limits"]
    assert "20 requests a second" in told["limits"]
    assert "5 attempts each" in told["limits"]
    assert "stops at 6 failed rows (--max-failures 5)" in told["failures"]
    assert told["proof"].startswith("accepted")
    assert stage.audit == []


def test_a_job_that_starts_no_resync_says_so(stage: Stage) -> None:
    """A new frequency starts no re-sync, and the question says that."""
    rows = [(sync.id, sync.user, "24h") for sync in stage.syncs(3)]
    path = stage.write("often.csv", [("sync_id", "user_id", "frequency"), *rows])

    terminal = stage.terminal("run", "change-frequency", path)

    assert "re-syncs  none" in terminal.expect("[y/N]")


@pytest.mark.parametrize("answer", ["y\n", "Y\n", " yes \n"])
def test_yes_sends(stage: Stage, answer: str) -> None:
    """Only a clear yes counts, and it is enough."""
    terminal = begin(stage)
    terminal.type(answer)
    terminal.wait()

    assert terminal.code == 0, terminal.shown
    assert "succeeded: every row succeeded" in terminal.shown
    assert stage.moved() == ROWS


@pytest.mark.parametrize("answer", ["n\n", "\n", "maybe\n", CTRL_D])
def test_anything_else_sends_nothing(stage: Stage, answer: str) -> None:
    """No, nothing, something else, or the end of input: exit 2; the name may be taken again."""
    terminal = begin(stage)
    terminal.type(answer)
    terminal.wait()

    assert terminal.code == 2
    assert terminal.shown.splitlines()[-1] == "error: not confirmed; nothing was sent"
    assert stage.audit == []
    assert stage.manifest("x")["state"] == "refused"
    assert stage.run(*MOVE, stage.home / "moves.csv", "--run-id", "x", "--yes").code == 0


def test_ctrl_c_at_the_question_sends_nothing(stage: Stage) -> None:
    """Ctrl-C instead of an answer: exit 130, nothing sent, and the run can be gone on with."""
    terminal = begin(stage)
    terminal.type(CTRL_C)
    terminal.wait()

    assert terminal.code == 130
    assert terminal.shown.endswith("\n")
    assert "Traceback" not in terminal.shown
    assert stage.audit == []
    assert stage.manifest("x")["state"] == "checking"
    assert "syncshift resume x" in terminal.shown
    assert stage.run("resume", "x", "--yes").code == 0


def test_a_no_to_resume_leaves_the_run_as_it_was(stage: Stage) -> None:
    """Who says no to a resume can still say yes to the next one."""
    command = stage.start(*MOVE, stage.moves(ROWS), "--run-id", "x", "--yes", "--concurrency", 4)
    until(lambda: stage.patches() > 5, "PATCHes come")
    command.signal(signal.SIGINT)
    assert command.wait().code == 130
    asked = len(stage.audit)

    terminal = stage.terminal("resume", "x")
    left = ROWS - len(journal(stage.folder("x") / "report.jsonl"))
    shown = terminal.expect(f"Send up to {left} changes? [y/N]")
    terminal.type("n\n")
    terminal.wait()

    assert terminal.code == 2
    assert f"{left} to carry, {ROWS - left} ended before" in shown
    assert "counted afresh" in shown
    assert len(stage.audit) == asked
    assert stage.manifest("x")["state"] == "interrupted"
    assert stage.run("resume", "x", "--yes").code == 0


def test_nothing_left_is_not_asked_about(stage: Stage) -> None:
    """A run whose rows have all ended asks for no leave to send nothing."""
    stage.run(*MOVE, stage.moves(3), "--run-id", "x", "--yes")

    terminal = stage.terminal("resume", "x").wait()

    assert terminal.code == 0
    assert "[y/N]" not in terminal.shown


def test_quiet_asks_with_all_that_one_needs_to_know(stage: Stage) -> None:
    """Even with --quiet nobody is asked for a yes to something that was not shown."""
    terminal = begin(stage, "--quiet")

    assert f"migrate-credentials on {stage.base_url}" in terminal.shown
    terminal.type("y\n")
    terminal.wait()
    assert terminal.code == 0
    assert terminal.shown.partition("[y/N]")[2].strip() == "y"


# --------------------------------------------------------------------------------- the progress


def test_progress_shows_how_far_how_fast_and_how_long(stage: Stage) -> None:
    """While it goes: rows, rate, what is in flight, outcomes so far, and the time left."""
    terminal = at_work(stage)
    shown = terminal.wait().shown

    assert terminal.code == 0
    seen = re.findall(rf"(\d+) of {ROWS} rows +(\d+)/s +(\d+) in flight +(\d+s) left", shown)
    assert len(seen) > 1
    assert max(int(in_flight) for _, _, in_flight, _ in seen) <= 4
    assert [int(settled) for settled, *_ in seen] == sorted(int(settled) for settled, *_ in seen)
    assert re.search(r"\n  updated \d+", shown)
    assert shown.rstrip().splitlines()[-1].startswith("  files")


def test_p4_a_hold_is_explained_while_it_lasts(stage: Stage) -> None:
    """After a 429: that nothing is sent, since when, how much longer, and what the server said."""
    terminal = at_work(stage, "--max-outage", "3h")
    stage.simulator.faults = Faults(http_429=1.0, retry_after_s=7_500)

    shown = terminal.expect("waiting: throttled for ")

    until(lambda: "waiting: throttled for 1s; " in terminal.shown, "the wait is counted")
    assert re.search(r"throttled for \d+s; 2h 0\dm more: 429: Too Many Requests", shown)
    last = terminal.shown.rpartition("in flight")[2]
    assert " left" not in last, "how long it takes cannot be known while nothing is sent"
    stage.simulator.faults = Faults()
    terminal.type(CTRL_C)
    assert terminal.wait().code == 130


def test_p4_an_outage_is_explained_while_it_lasts(stage: Stage) -> None:
    """With the server down: that it is, since when, when it is asked next, and what was seen."""
    terminal = at_work(stage)
    stage.there(stage.simulator.outage, OutageKind.UNAVAILABLE)

    shown = terminal.expect("waiting: outage for ")

    assert re.search(r"outage for \d+s; \d+s more: 503: Service Unavailable", shown)
    terminal.type(CTRL_C)
    assert terminal.wait().code == 130
    assert "syncshift resume x" in terminal.shown


def test_p4_without_a_terminal_a_line_now_and_then_says_so_too(stage: Stage) -> None:
    """In a log there is a line every few seconds, and one at the end: how far, and why not on."""
    stage.simulator.faults = Faults(http_429=1.0, retry_after_s=120)
    command = stage.start(*MOVE, stage.moves(ROWS), "--run-id", "x", "--yes")
    began = time.monotonic()

    until(lambda: "waiting: throttled" in command.err, "a line says why", patience_s=10)

    assert time.monotonic() - began < 10
    line = command.err.splitlines()[-1]
    pattern = (
        rf"\d\d:\d\d:\d\d  0/{ROWS} rows  0%  0/s  0 in flight  waiting: throttled for \d+s; .*"
    )
    assert re.fullmatch(pattern, line), line
    command.signal(signal.SIGTERM)
    assert command.wait().code == 143


def test_ctrl_c_at_a_terminal_interrupts_and_says_how_to_go_on(stage: Stage) -> None:
    """Ctrl-C in the middle: 130, the result is shown, and the command that goes on is named."""
    terminal = at_work(stage)
    terminal.type(CTRL_C)
    terminal.wait()

    assert terminal.code == 130
    assert "interrupted: rows are left, and can be resumed" in terminal.shown
    assert terminal.shown.rstrip().splitlines()[-1] == "  next   syncshift resume x"


def test_a_narrow_terminal_is_no_trouble(stage: Stage) -> None:
    """In 40 columns everything is still said, and nothing breaks."""
    terminal = stage.terminal(*MOVE, stage.moves(8), "--run-id", "x", "--yes", size=(10, 40))

    assert terminal.wait().code == 0, terminal.shown
    assert "8  updated" in terminal.shown


def test_json_at_a_terminal_shows_progress_beside_it(stage: Stage) -> None:
    """With standard output elsewhere, the progress is on the terminal and the JSON is alone."""
    terminal = stage.terminal(
        *MOVE, stage.moves(8), "--run-id", "x", "--yes", "--json", before="exec >out.json;"
    )

    assert terminal.wait().code == 0, terminal.shown
    assert '"verdict": "succeeded"' in (stage.home / "out.json").read_text(encoding="utf-8")
    assert "8 of 8 rows" in terminal.shown
    assert "verdict" not in terminal.shown


# ----------------------------------------------------------------------------- nobody watches


@pytest.mark.parametrize("level", ["warning", "debug"])
def test_a_run_goes_on_when_nobody_reads_what_it_says(stage: Stage, level: str) -> None:
    """`syncshift run … 2>&1 | head -1`: the reader is gone, every row ends as it should."""
    stage.simulator.faults = Faults(http_500=1.0, rows=0.15, faults_per_row=1)
    words = (*MOVE, stage.moves(20), "--yes", "--run-id", "x", "--log-level", level)
    ours, theirs = os.pipe()

    with subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=stage.environment,
        cwd=stage.home,
    ) as process:
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        code = process.wait(PATIENCE_S)

    outcomes = journal(stage.folder("x") / "report.jsonl")
    assert [line["outcome"] for line in outcomes] == ["updated"] * 20
    assert stage.manifest("x")["exit_code"] == code == 0


# ----------------------------------------------------------------------------------- the status


def test_status_is_live_while_a_run_goes(stage: Stage) -> None:
    """At a terminal `status RUN` follows a run: how far it is, and how it ended."""
    terminal = at_work(stage)
    watching = stage.terminal("status", "x")
    watching.expect("running: at work")

    assert terminal.wait().code == 0
    assert watching.wait().code == 0
    assert "succeeded: every row succeeded" in watching.shown
    counts = [int(n) for n in re.findall(r"(\d+)  updated", watching.shown)]
    assert counts == sorted(counts)
    assert counts[-1] == ROWS


def test_ctrl_c_ends_a_status_and_not_the_run(stage: Stage) -> None:
    """Who stops watching stops nothing else."""
    terminal = at_work(stage)
    watching = stage.terminal("status", "x")
    watching.expect("running: at work")
    watching.type(CTRL_C)

    assert watching.wait().code == 130
    assert "Traceback" not in watching.shown
    assert terminal.wait().code == 0


def test_status_of_a_run_at_work_is_told_once_without_a_terminal(stage: Stage) -> None:
    """In a pipe `status` answers once: the list, one run, and both as JSON."""
    terminal = at_work(stage)
    stage.simulator.faults = Faults(latency_s=30.0)

    (listed,) = stage.run("status", "--json").json()
    shown = stage.run("status", "x")
    as_json = stage.run("status", "x", "--json").json()
    table = stage.run("status").out.splitlines()
    told = stage.run("report", "x")

    assert (listed["state"], listed["verdict"], listed["rows"]) == ("running", None, ROWS)
    assert "running: at work" in shown.out
    assert (as_json["verdict"], as_json["exit_code"], as_json["ended"]) == (None, None, None)
    assert sum(as_json["counts"].values()) == ROWS
    assert "at work" in table[1]
    assert told.code == 0
    assert "the run is at work; its files are written when it ends" in told.err
    assert not (stage.folder("x") / "summary.json").exists()
    assert terminal.code is None


def test_p4_status_says_why_a_run_waits_from_its_first_moment(stage: Stage) -> None:
    """What holds a run is on disk while it holds, also when no row has ended yet."""
    stage.simulator.faults = Faults(http_429=1.0, retry_after_s=120)
    stage.start(*MOVE, stage.moves(4), "--run-id", "x", "--yes")
    until(lambda: stage.audit and not stage.simulator.in_flight, "it has been told to wait")

    def told() -> bool:
        return "waiting  throttled: 429" in stage.here("status", "x").out

    until(told, "status says why", patience_s=5)
