"""What a signal does to a run: the first lets it land, the second ends it, resume goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.simulator import Faults, OutageKind, RetryAfter
from tests.commands import INTERRUPTS, Command, Stage, journal, table, until

pytestmark = pytest.mark.no_cover

MOVE = ("run", "migrate-credentials")
ROWS = 60
IN_FLIGHT = 5
FILES = ("succeeded.csv", "failed.csv", "unprocessed.csv")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose server takes its time."""
    with Stage(tmp_path, faults=Faults(latency_s=0.1)) as there:
        yield there


def begin(stage: Stage, *flags: str, patches: int = 12) -> Command:
    """Start a run and return it in the middle of its work."""
    words = (*MOVE, stage.moves(ROWS), "--yes", "--run-id", "x", "--concurrency", IN_FLIGHT, *flags)
    command = stage.start(*words)
    until(lambda: stage.patches() >= patches or command.code is not None, "PATCHes come")
    assert command.code is None, command.err
    return command


def hang(stage: Stage) -> None:
    """Let the server answer nothing more; return once every slot is taken by such a request."""
    stage.simulator.faults = Faults(latency_s=300.0, latency_jitter=0.0)
    asked = len(stage.audit)
    until(lambda: len(stage.audit) >= asked + IN_FLIGHT, "all requests hang")


def finish(stage: Stage) -> None:
    """Resume the run to its end, and see that each row was changed exactly once."""
    stage.simulator.faults = Faults()

    resumed = stage.run("resume", "x", "--yes", "--json")

    assert resumed.code == 0, resumed.err
    assert resumed.json()["counts"]["updated"] == ROWS
    assert stage.moved() == ROWS
    changed = [entry.sync_id for entry in stage.asked("PATCH") if entry.acted]
    assert len(changed) == len(set(changed)) == ROWS
    outcomes = journal(stage.folder("x") / "report.jsonl")
    assert sorted(line["row"] for line in outcomes) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("number", INTERRUPTS, ids=str)
def test_s1_the_first_signal_lets_what_is_in_flight_land(
    stage: Stage, number: signal.Signals
) -> None:
    """No send after it, what was in flight is answered and on record, every file is written."""
    command = begin(stage)
    stage.simulator.faults = Faults(latency_s=0.5, latency_jitter=0.0)
    before = stage.patches()
    until(lambda: stage.patches() >= before + IN_FLIGHT, "slow PATCHes are in flight")

    signaled_at = time.monotonic()
    command.signal(number)
    command.wait()

    assert command.code == INTERRUPTS[number], command.err
    assert stage.audit[-1].at_monotonic_s < signaled_at + 0.25
    settled = {line["sync_id"] for line in journal(stage.folder("x") / "report.jsonl")}
    assert {entry.sync_id for entry in stage.asked("PATCH")} <= settled
    manifest = stage.manifest("x")
    assert (manifest["state"], manifest["exit_code"]) == ("interrupted", INTERRUPTS[number])
    assert number.name in manifest["reason"]
    assert sum(len(table(stage.folder("x") / name)) for name in FILES) == ROWS
    assert "interrupted: rows are left, and can be resumed" in command.out
    assert "syncshift resume x" in command.out
    finish(stage)


def test_s1_the_summary_of_an_interrupted_run_says_so(stage: Stage) -> None:
    """Verdict, exit code and counts of summary.json, standard output and the process agree."""
    command = begin(stage, "--json")

    command.signal(signal.SIGINT)
    command.wait()

    summary = command.json()
    assert command.code == summary["exit_code"] == 130
    assert (summary["state"], summary["verdict"]) == ("interrupted", "interrupted")
    assert 0 < summary["counts"]["unprocessed"] < ROWS
    assert sum(summary["counts"].values()) == ROWS
    assert "SIGINT came" in command.err
    closed = journal(stage.folder("x") / "events.jsonl")[-1]
    assert (closed["event"], closed["state"]) == ("run.closed", "interrupted")


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGTERM), (signal.SIGHUP, signal.SIGINT)],
    ids=str,
)
def test_s2_a_second_signal_leaves_at_once(
    stage: Stage, first: signal.Signals, second: signal.Signals
) -> None:
    """With a server that hangs: out within 2 s, journals that parse, nothing lost or repeated."""
    command = begin(stage)
    hang(stage)

    began = time.monotonic()
    command.signal(first)
    command.signal(second)
    command.wait()

    assert time.monotonic() - began < 2.0
    assert command.code in {INTERRUPTS[first], INTERRUPTS[second]}
    assert command.err.rstrip().endswith("syncshift resume x")
    for name in ("undo", "report", "events"):
        journal(stage.folder("x") / f"{name}.jsonl", torn=True)
    (listed,) = stage.run("status", "--json").json()
    assert (listed["state"], listed["verdict"]) == ("running", "interrupted")
    finish(stage)


def test_s2_somebody_impatient_is_let_go(stage: Stage) -> None:
    """Ctrl-C again and again ends a run whose server hangs, within 2 s, with 130."""
    command = begin(stage)
    hang(stage)
    began = time.monotonic()

    def pressed() -> bool:
        if command.code is None:
            command.signal(signal.SIGINT)
        return command.code is not None

    until(pressed, "it ends")

    assert time.monotonic() - began < 2.0
    assert command.code == 130
    finish(stage)


@pytest.mark.parametrize("wait", ["throttled", "outage"])
def test_s3_rows_that_wait_leave_at_once(stage: Stage, wait: str) -> None:
    """While everybody is held a signal ends the run in a moment; the rows stay unprocessed."""
    command = begin(stage)
    if wait == "throttled":
        stage.simulator.faults = Faults(
            http_429=1.0, retry_after=RetryAfter.SECONDS, retry_after_s=300
        )
    else:
        stage.there(stage.simulator.outage, OutageKind.UNAVAILABLE)
    events = stage.folder("x") / "events.jsonl"
    until(lambda: b'"throttle.held"' in events.read_bytes(), "the run is held")
    until(lambda: stage.simulator.in_flight == 0, "nothing is in flight")
    asked = len(stage.audit)

    began = time.monotonic()
    command.signal(signal.SIGTERM)
    command.wait()

    assert time.monotonic() - began < 3
    assert command.code == 143, command.err
    assert len(stage.audit) <= asked + (wait == "outage")
    assert len(journal(stage.folder("x") / "report.jsonl")) < ROWS
    stage.there(stage.simulator.outage, None)
    finish(stage)


def test_a_drain_has_its_limit(stage: Stage) -> None:
    """What has not landed within --drain is given up: it stays in doubt, and resume reads it."""
    command = begin(stage, "--drain", "1s")
    hang(stage)

    began = time.monotonic()
    command.signal(signal.SIGINT)
    command.wait()

    assert 0.9 < time.monotonic() - began < 3.0
    assert command.code == 130, command.err
    unanswered = {
        row["sync_id"]
        for row in table(stage.folder("x") / "unprocessed.csv")
        if row["syncshift_sent"] == "unanswered"
    }
    settled = {line["sync_id"] for line in journal(stage.folder("x") / "report.jsonl")}
    assert {entry.sync_id for entry in stage.asked("PATCH")} - settled <= unanswered
    finish(stage)


def test_a_signal_while_the_input_is_checked_leaves_a_run_to_resume(stage: Stage) -> None:
    """Before anything was sent Ctrl-C ends the check with 130, and resume begins it again."""
    path = stage.moves(ROWS)
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    filler = (f"filler-{n},user-00001,0aea7d3a-b5f7-4488-890e-{n:012x},x\n" for n in range(400_000))
    path.write_text(header + "".join(rows) + "".join(filler), encoding="utf-8")
    command = stage.start(*MOVE, path, "--yes", "--run-id", "x", "--no-copy")
    until((stage.folder("x") / "run.json").exists, "the run is there")

    command.signal(signal.SIGINT)
    command.wait()

    assert command.code == 130
    assert "Traceback" not in command.err
    assert stage.manifest("x")["state"] == "checking"
    assert stage.audit == []
    (listed,) = stage.run("status", "--json").json()
    assert listed["verdict"] == "interrupted"
