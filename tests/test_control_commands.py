"""`pause`, `continue`, `set` and `stop`, on a run of another process."""

from __future__ import annotations

import datetime
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.simulator import Faults
from tests.commands import Command, Stage, journal, until

pytestmark = pytest.mark.no_cover

MOVE = ("run", "migrate-credentials")
ROWS = 3_000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose answers take a while."""
    with Stage(tmp_path, faults=Faults(latency_s=0.03)) as there:
        yield there


def at_work(stage: Stage, *flags: object, rows: int = ROWS) -> Command:
    """Start the run ``x``, and return it once it is well under way."""
    command = stage.start(
        *MOVE, stage.moves(rows), "--yes", "--run-id", "x", "--concurrency", 8, *flags
    )
    until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")
    assert command.code is None, command.err
    return command


def status(stage: Stage) -> dict[str, Any]:
    """Ask for the status of the run."""
    command = stage.here("status", "x", "--json")
    assert command.code == 0, command.err
    found: dict[str, Any] = json.loads(command.out)
    return found


def waiting(stage: Stage) -> dict[str, dict[str, Any]]:
    """Return why the run waits, by reason."""
    return {wait["reason"]: wait for wait in status(stage)["waiting"]}


def at_rest(stage: Stage) -> int:
    """Return how many requests have come, once none is on its way."""
    until(lambda: status(stage)["live"]["in_flight"] == 0, "what was in flight has landed")
    return len(stage.audit)


def orders(stage: Stage) -> list[dict[str, Any]]:
    """Return the orders that are on record."""
    events = journal(stage.folder("x") / "events.jsonl", torn=True)
    return [event for event in events if event["event"] == "control.received"]


def test_a_day_with_a_run(stage: Stage) -> None:
    """Pause, look, set, continue, stop, resume: each does what it says, and says what it did."""
    run = at_work(stage)

    paused = stage.run("pause", "x", "--reason", "warehouse is being upgraded")
    asked = at_rest(stage)
    wait = waiting(stage)["pause"]
    shown = stage.here("status", "x")
    quiet = len(stage.audit)
    changed = stage.run("set", "x", "--rate", "900", "--concurrency", 4, "--max-failures", "5")
    limits = status(stage)["limits"]
    went_on = stage.run("continue", "x", "--json")
    until(lambda: len(stage.audit) > asked + 50, "it goes on")
    after = status(stage)["waiting"]
    stopped = stage.run("stop", "x", "--reason", "wrong account")
    run.wait()
    resumed = stage.run("resume", "x", "--yes", "--json", "--rate", "100000", "--concurrency", 64)

    assert (paused.code, paused.err) == (0, "")
    assert paused.out == "x paused: nothing is sent before `syncshift continue x`\n"
    assert "warehouse is being upgraded" in wait["detail"]
    assert wait["until"] is None
    assert wait["since"] > status(stage)["started"]
    assert "waiting  pause: ordered by" in shown.out
    assert quiet == asked
    assert changed.out == "x set: max-failures 5, rate 900, concurrency 4\n"
    assert (limits["rate"], limits["concurrency"], limits["max_failures"]) == (900.0, 4, "5")
    assert went_on.json()["said"] == "the pause is over"
    assert after == []
    assert stopped.out.startswith("x stopping: no more rows are taken")
    assert run.code == 4, run.err
    assert "why     stopped by" in run.out.replace("why      ", "why     ")
    assert "wrong account" in run.out
    assert not (stage.folder("x") / "control.sock").exists()
    assert resumed.code == 0, resumed.err
    assert resumed.json()["counts"]["updated"] == ROWS
    assert resumed.json()["waits"]["pause"] > 0
    assert [order["command"] for order in orders(stage)] == ["pause", "set", "continue", "stop"]
    assert stage.patches() == ROWS


def test_a_pause_does_not_outlive_its_process(stage: Stage) -> None:
    """A run that was killed while it was paused sends again when it is resumed."""
    run = at_work(stage, rows=300)
    stage.run("pause", "x")
    asked = at_rest(stage)
    run.signal(signal.SIGKILL)
    run.wait()
    left_behind = (stage.folder("x") / "control.sock").is_socket()
    refused = stage.run("continue", "x")
    shown = stage.run("status", "x", "--json")

    resumed = stage.run("resume", "x", "--yes", "--json")

    assert left_behind
    assert refused.code == 5
    assert "it was killed; go on with it: syncshift resume x" in refused.err
    assert (shown.json()["waiting"], shown.json()["live"]) == ([], None)
    assert resumed.code == 0, resumed.err
    assert len(stage.audit) > asked
    assert resumed.json()["counts"]["updated"] == 300


def test_what_was_set_outlives_a_crash(stage: Stage) -> None:
    """`resume` goes by what was set last, unless it is told otherwise."""
    run = at_work(stage)
    stage.run("set", "x", "--concurrency", 2, "--max-failures", "33%")
    run.signal(signal.SIGKILL)
    run.wait()
    asked = len(stage.audit)

    again = stage.start("resume", "x", "--yes")
    until(lambda: len(stage.audit) > asked + 20, "it goes on")
    now = status(stage)
    again.signal(signal.SIGTERM)
    again.wait()

    assert (now["live"]["limits"]["concurrency"], now["limits"]["max_failures"]) == (2, "33%")
    assert stage.manifest("x")["settings"]["concurrency"] == 2


def test_a_paused_run_can_be_stopped_and_interrupted(stage: Stage) -> None:
    """It ends at once: nothing has to be sent for that."""
    run = at_work(stage)
    stage.run("pause", "x")
    began = time.monotonic()
    stage.run("stop", "x")
    run.wait()
    again = stage.start("resume", "x", "--yes")
    until(lambda: status(stage)["live"], "it listens")
    stage.run("pause", "x", "--for", "1h")
    until_told = waiting(stage)["pause"]["until"]
    again.signal(signal.SIGINT)
    again.wait()

    assert (run.code, again.code) == (4, 130)
    assert time.monotonic() - began < 20
    assert until_told is not None


def test_a_flag_file_holds_every_run_of_the_folder(stage: Stage) -> None:
    """Nothing is sent while it lies there, from the very first request on."""
    stage.runs.mkdir(mode=0o700)
    flag = stage.runs / "PAUSE"
    flag.write_text("freeze until Monday\n", encoding="utf-8")
    path = stage.moves(5)
    runs = [stage.start(*MOVE, path, "--yes", "--run-id", name) for name in "xy"]
    until(lambda: all("PAUSE is" in stage.here("status", n).out for n in "xy"), "both say why")
    asked = len(stage.audit)
    flag.unlink()
    for run in runs:
        run.wait()

    assert asked == 0
    assert [run.code for run in runs] == [0, 0]
    assert stage.moved() == 5


def test_a_run_outside_its_window_says_when_it_opens(stage: Stage) -> None:
    """Nothing is sent, and the progress lines and `status` tell why and until when."""
    now = datetime.datetime.now(datetime.UTC)
    hours = [f"{now + datetime.timedelta(hours=h):%H:%M}" for h in (2, 4)]
    window = "-".join(hours) + "@UTC"
    run = stage.start(*MOVE, stage.moves(3), "--yes", "--run-id", "x", "--window", window)
    until(lambda: run.code is not None or "window:" in stage.here("status", "x").out, "it says so")
    wait = waiting(stage)["window"]
    until(lambda: "waiting: window" in run.err, "the progress line says it too")
    run.signal(signal.SIGTERM)
    run.wait()

    assert wait["detail"].startswith(f"--window {window} opens at ")
    assert wait["until"] is not None
    assert wait["until"][11:19] == f"{hours[0]}:00"
    assert run.code == 143
    assert stage.audit == []
    assert stage.manifest("x")["settings"]["window"] == window


def test_a_start_lies_ahead(stage: Stage) -> None:
    """Nothing is sent before; the moment is kept in UTC."""
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(
        seconds=4
    )
    local = start.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=45)))
    run = stage.run(
        *MOVE, stage.moves(3), "--yes", "--run-id", "x", "--start-at", local.isoformat()
    )

    assert run.code == 0, run.err
    assert stage.manifest("x")["settings"]["start_at"] == f"{start:%FT%TZ}"
    assert "start" in run.out
    assert len(stage.audit) == 6


@pytest.mark.parametrize("command", ["pause", "continue", "stop"])
def test_only_a_run_at_work_can_be_told_anything(stage: Stage, command: str) -> None:
    """5: a run that has ended says how, as JSON too where asked for."""
    stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", "x")

    told = stage.run(command, "x", "--json")
    nobody = stage.run(command, "y")

    assert (told.code, nobody.code) == (5, 5)
    assert told.json()["verdict"] == "refused"
    assert "run x is not at work, so it takes no orders; it is finished at" in told.err
    assert "there is no run 'y'" in nobody.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "x"), "set takes at least one of"),
        (("set", "x", "--rate", "fast"), "--rate must be a number"),
        (("set", "x", "--concurrency", "0"), "--concurrency must be a whole number"),
        (("set", "x", "--max-failures", "some"), "--max-failures"),
        (("set", "x", "--max-resyncs", "-1"), "--max-resyncs must be a whole number"),
        (("pause", "x", "--for", "soon"), "--for must be a duration"),
        (("pause", "x", "--for", "0s"), "--for must be longer than nothing"),
        (("pause",), "--help"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(stage: Stage, words: tuple[str, ...], said: str) -> None:
    """2: before any run is asked; whatever the run is, the words were wrong."""
    stage.run(*MOVE, stage.moves(1), "--yes", "--run-id", "x")

    command = stage.here(*words)

    assert command.code == 2
    assert said in command.err


def test_a_start_of_last_year_is_refused(stage: Stage) -> None:
    """2: a slip in the year must not send everything at once."""
    path = stage.moves(1)

    command = stage.here(*MOVE, path, "--yes", "--start-at", "2025-11-27T22:00:00Z")

    assert command.code == 2
    assert "--start-at must not have passed; now it is 2" in command.err
    assert stage.audit == []
