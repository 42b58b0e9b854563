"""Runs of several processes, some of which are killed: nothing is lost or sent twice."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path

import pytest

from runner.pipeline import workers_for
from runner.simulator import Faults
from tests.commands import Command, Stage, journal, until
from tests.crowds import MOVE, UNMEASURED, check_whole, kill, until_alone, workers_of

pytestmark = pytest.mark.no_cover

ROWS = 240
IN_FLIGHT = 8
KILLS = 4
"""Of each seed."""
CARRIED = 2 * workers_for(concurrency=IN_FLIGHT // 2, rows=ROWS)
"""Rows that may be in somebody's hands at one moment."""


class Victim:
    """One run of two processes that are killed at random moments, the leading one among them."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self._path = stage.moves(ROWS)
        self._before = {sync: record.credential_id for sync, record in stage.state().items()}

    def live(self) -> None:
        """Be killed, and end well."""
        command = self._begin()
        for _ in range(KILLS):
            self._await_moment(command)
            if command.code is not None:
                break
            workers = workers_of(command)
            if self._chance.random() < 0.4 or not workers:
                command.process.kill()
                command.wait()
                asked = len(self._stage.audit)
                until_alone(workers)
                assert len(self._stage.audit) - asked <= IN_FLIGHT
                command = self._go_on()
            else:
                self._kill_one(self._chance.choice(workers))
        assert command.wait(60).code == 0, command.out + command.err
        check_whole(self._stage, ROWS, self._before)

    def _kill_one(self, worker: int) -> None:
        """Kill a process that carries rows, and see that no settled row is asked for again."""
        kill(worker)
        asked, folder = len(self._stage.audit), self._stage.folder("x")
        settled = {
            line["sync_id"]
            for path in [folder / "report.jsonl", *folder.glob("shards/*/report.jsonl")]
            if path.exists()
            for line in journal(path, torn=True)
        }
        until(
            lambda: len(self._stage.audit) > asked + CARRIED or self._stage.moved() == ROWS,
            "others go on",
        )
        again = {entry.sync_id for entry in self._stage.asked("PATCH", after=asked + IN_FLIGHT)}
        assert not settled & again

    def _begin(self) -> Command:
        words = ("--yes", "--run-id", "x", "--processes", 2, "--concurrency", IN_FLIGHT)
        return self._stage.start(*MOVE, self._path, *words, env=UNMEASURED)

    def _go_on(self) -> Command:
        return self._stage.start("resume", "x", "--yes", env=UNMEASURED)

    def _await_moment(self, command: Command) -> None:
        asked = len(self._stage.audit)
        more = self._chance.uniform(1, 2 + (ROWS - self._stage.moved()) / 2)
        until(
            lambda: len(self._stage.audit) >= asked + more or command.code is not None,
            "requests come",
        )
        threading.Event().wait(self._chance.uniform(0, 0.03))


@pytest.mark.parametrize("seed", range(4))
def test_d2_whichever_process_is_killed_nothing_is_lost_or_sent_twice(
    tmp_path: Path, seed: int
) -> None:
    """One that carries, or the one that leads: every row ends once, with its first before-image."""
    with Stage(tmp_path, faults=Faults(latency_s=0.01)) as stage:
        Victim(stage, random.Random(seed)).live()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 140))
def test_d2_whichever_process_is_killed_a_hundred_times_more(tmp_path: Path, seed: int) -> None:
    """The same at other moments."""
    with Stage(tmp_path, faults=Faults(latency_s=0.01)) as stage:
        Victim(stage, random.Random(seed)).live()


def _begin(stage: Stage, *words: object) -> Command:
    """Start a run of two processes, and return it in the middle of its work."""
    command = stage.start(*MOVE, stage.moves(ROWS), "--yes", "--run-id", "x", *words)
    until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")
    assert command.code is None, command.err
    return command


def test_a_process_that_dies_is_replaced_and_that_is_on_record(tmp_path: Path) -> None:
    """Another one is there soon, the run ends by itself, and its events tell of the death."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02)) as stage:
        command = _begin(stage, "--processes", 2, "--concurrency", IN_FLIGHT)
        first = workers_of(command)
        assert len(first) == 2

        kill(first[0])

        until(lambda: len(set(workers_of(command)) | set(first)) == 3, "a new one is there")
        assert command.wait().code == 0, command.err
        lost = [
            e for e in journal(stage.folder("x") / "events.jsonl") if e["event"] == "worker.lost"
        ]
        assert len(lost) == 1


def test_when_the_leading_process_dies_the_others_leave_at_once(tmp_path: Path) -> None:
    """Nothing is sent by orphans, what they wrote counts, and status shows it without a resume."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02)) as stage:
        command = _begin(stage, "--processes", 2, "--concurrency", IN_FLIGHT)
        workers = workers_of(command)

        command.process.kill()
        command.wait()
        until_alone(workers)

        sent = stage.patches()
        (listed,) = stage.run("status", "--json").json()
        shown = stage.run("report", "x", "--json").json()
        assert listed["verdict"] == "interrupted"
        assert shown["counts"]["updated"] == len(journal(stage.folder("x") / "report.jsonl"))
        assert 0 < shown["counts"]["updated"] <= sent < ROWS
        assert stage.patches() == sent


def test_ctrl_c_lets_the_requests_of_all_processes_land(tmp_path: Path) -> None:
    """The first signal takes no more rows and loses no answer; resume carries the rest."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02)) as stage:
        command = _begin(stage, "--processes", 2, "--concurrency", IN_FLIGHT)

        command.signal(signal.SIGINT)

        assert command.wait().code == 130, command.err
        undo, report = (journal(stage.folder("x") / f"{n}.jsonl") for n in ("undo", "report"))
        assert {line["row"] for line in undo} >= {line["row"] for line in report}
        assert stage.patches() == len(report) < ROWS
        assert not (stage.folder("x") / "shards").exists()
        assert stage.run("resume", "x", "--yes", "--processes", 1).code == 0
        assert stage.moved() == ROWS == stage.patches()
