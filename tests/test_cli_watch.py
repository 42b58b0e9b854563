"""`status --watch`, `watch`, `ui` and `--ui` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.simulator import Faults
from tests.commands import Command, Stage, until

MOVE = ("run", "migrate-credentials")
CTRL_C = "\x03"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Return where commands are run, with a simulator."""
    with Stage(tmp_path) as stage:
        yield stage


def begin(stage: Stage, rows: int, rate: int, *words: str) -> Command:
    """Start a run that takes a while, and return it once it takes orders."""
    path = stage.moves(rows)
    given = (*MOVE, path, "--yes", "--no-read", "--run-id", "x", "--rate", rate, *words)
    command = stage.start(*given)
    until((stage.folder("x") / "control.sock").exists, "it takes orders")
    return command


def test_a_run_is_followed_on_a_terminal(stage: Stage) -> None:
    """Rows, pace, limits, waves and why it waits are shown; in the end what it came to."""
    command = begin(stage, 200, 40, "--waves", "20,100%")
    watching = stage.terminal("status", "x", "--watch")
    watching.expect("of 200 rows")
    watching.expect("32 in flight, 40/s")
    watching.expect("waves")
    assert stage.run("pause", "x", "--reason", "tea").code == 0
    watching.expect("waiting: pause: ordered by")
    assert stage.run("continue", "x").code == 0

    assert command.wait().code == 0
    assert watching.wait().code == 0
    counts = [int(n) for n in re.findall(r"(\d+) of 200 rows", watching.shown)]
    assert counts == sorted(counts)
    assert re.search(r"pace  [▁▂▃▄▅▆▇█]", watching.shown)
    assert "succeeded: every row succeeded" in watching.shown


def test_ctrl_c_ends_the_look_and_not_the_run(stage: Stage) -> None:
    """Who stops watching stops nothing else."""
    command = begin(stage, 120, 40)
    watching = stage.terminal("status", "x", "--watch")
    watching.expect("of 120 rows")
    watching.type(CTRL_C)

    assert watching.wait().code == 130
    assert "Traceback" not in watching.shown
    assert command.wait().code == 0


def test_a_run_is_followed_in_a_pipe(stage: Stage) -> None:
    """A line at once, then the end; with --quiet the end alone. One that has ended is shown."""
    command = begin(stage, 240, 40)
    loud = stage.start("status", "x", "--watch")
    quiet = stage.start("status", "x", "--watch", "--quiet")
    assert command.wait().code == 0
    again = stage.run("status", "x", "--watch")

    assert (loud.wait().code, quiet.wait().code, again.code) == (0, 0, 0)
    assert re.search(r"^\d\d:\d\d:\d\d  \d+ of 240 rows", loud.out)
    assert "of 240 rows" not in quiet.out
    for watched in (loud, quiet, again):
        assert "succeeded: every row succeeded" in watched.out


def test_a_killed_run_ends_the_look(stage: Stage) -> None:
    """The look sees that no process holds the run any more."""
    stage.simulator.faults = Faults(latency_s=30.0)
    command = begin(stage, 20, 40)
    watching = stage.start("status", "x", "--watch")
    until(lambda: "of 20 rows" in watching.out, "a line")
    command.end()

    assert watching.wait().code == 0
    assert "rows are left, and can be resumed" in watching.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "--watch"), "--watch follows one run for a person"),
        (("status", "x", "--watch", "--json"), "--watch follows one run for a person"),
    ],
)
def test_what_cannot_be_watched_is_refused(stage: Stage, words: tuple[str, ...], said: str) -> None:
    """2, with what to do."""
    command = stage.here(*words)

    assert command.code == 2
    assert said in command.err
