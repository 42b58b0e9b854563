"""Runs that are killed, or whose disk gives out: nothing is lost or sent twice."""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.pipeline import workers_for
from runner.simulator import Faults
from tests.commands import NEW, Command, Stage, journal, table, until

pytestmark = pytest.mark.no_cover

MOVE = ("run", "migrate-credentials")
ROWS = 120
IN_FLIGHT = 6
CARRIED = workers_for(concurrency=IN_FLIGHT, rows=ROWS)
"""Rows that may be in somebody's hands at one moment: more of them than slots, by design."""
KILLS = 5
"""With one seed, each followed by a resume."""
UNMEASURED: dict[str, str | None] = {"COVERAGE_PROCESS_CONFIG": None}
"""Who is killed writes no coverage, and measuring would only slow it down."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose server takes its time."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02)) as there:
        yield there


# ----------------------------------------------------------------------------------------- kill


class Victim:
    """One run on a stage of its own that is killed at random moments and resumed each time."""

    def __init__(self, stage: Stage, chance: random.Random, *, reads: bool) -> None:
        self._stage = stage
        self._chance = chance
        self._reads = reads
        self._folder = stage.folder("x")
        self._path = stage.moves(ROWS)
        self._before = {sync: record.credential_id for sync, record in stage.state().items()}
        self._doubtful: set[str] = set()
        self._deaths: list[tuple[int, set[str]]] = []

    def live(self, *, most: int) -> int:
        """Be killed at most *most* times and end well; return how often it was killed."""
        command = self._begin()
        while len(self._deaths) < most:
            self._await_moment(command, len(self._stage.audit))
            command.process.kill()
            if command.wait().code == 0:
                break  # it was done a moment before
            assert command.code == -9, command.out + command.err
            self._deaths.append(self._look())
            command = self._go_on()
        assert command.wait().code == 0, command.err
        self._check_lives()
        self._check_end()
        return len(self._deaths)

    def _begin(self) -> Command:
        flags = () if self._reads else ("--no-read",)
        words = ("--yes", "--run-id", "x", "--concurrency", IN_FLIGHT, *flags)
        return self._stage.start(*MOVE, self._path, *words, env=UNMEASURED)

    def _go_on(self) -> Command:
        if (self._folder / "run.json").exists():
            return self._stage.start("resume", "x", "--yes", env=UNMEASURED)
        # Killed before there was a run: its name may not have been taken, or only half.
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._begin()

    def _await_moment(self, command: Command, asked: int) -> None:
        """Return at a random moment of the run's work, or now and then of its life."""
        left = 2 * (ROWS - self._stage.moved())
        moment = self._chance.uniform(0, 0.6), self._chance.uniform(0, 0.02)
        if self._chance.random() < 0.2:
            threading.Event().wait(moment[0])
            return
        requests = self._chance.uniform(1, max(2, left / 3))
        until(
            lambda: len(self._stage.audit) >= asked + requests or command.code is not None,
            "requests come",
        )
        threading.Event().wait(moment[1])

    def _look(self) -> tuple[int, set[str]]:
        """Return how many requests came so far and which syncs are settled now."""
        lines = {
            name: journal(path, torn=True) if path.exists() else []
            for name in ("undo", "report")
            for path in [self._folder / f"{name}.jsonl"]
        }
        intended = {line["sync_id"] for line in lines["undo"]}
        settled = {line["sync_id"] for line in lines["report"]}
        assert {entry.sync_id for entry in self._stage.asked("PATCH")} <= intended
        assert len(settled) == len(lines["report"])
        assert len(intended - settled) <= CARRIED
        self._doubtful |= intended - settled
        return len(self._stage.audit), settled

    def _check_lives(self) -> None:
        """See that nobody asks for what is settled, and each life for little that was asked."""
        audit = self._stage.audit
        ends = [asked for asked, _ in self._deaths[1:]] + [len(audit)]
        for (asked, settled), end in zip(self._deaths, ends, strict=True):
            known = {entry.sync_id for entry in audit[:asked]}
            again = {entry.sync_id for entry in audit[asked:end]}
            assert not settled & {entry.sync_id for entry in audit[asked:]}
            # Of each worker the row whose outcome was on its way to the disk, and the next one,
            # which is looked at meanwhile; it is sent only once that outcome is there.
            assert len(known & again) <= 2 * CARRIED

    def _check_end(self) -> None:
        stage, folder = self._stage, self._folder
        undo, report = (journal(folder / f"{name}.jsonl") for name in ("undo", "report"))
        rows = list(range(1, ROWS + 1))
        assert sorted(line["row"] for line in report) == rows
        assert sorted(line["row"] for line in undo) == rows
        assert {line["outcome"] for line in report} == {"updated"}
        assert stage.moved() == ROWS
        for line in undo:
            image = {"credential_id": self._before[line["sync_id"]]} if self._reads else None
            assert line["before"] == image
        times = Counter(entry.sync_id for entry in stage.asked("PATCH") if entry.acted)
        repeated = {sync for sync, n in times.items() if n > 1}
        assert len(times) == ROWS
        assert repeated <= (set() if self._reads else self._doubtful)
        assert len(table(folder / "succeeded.csv")) == ROWS


def _kill_and_resume(home: Path, seed: int) -> None:
    """Kill runs `KILLS` times, resuming each to its end. One in five of them does not look."""
    chance, kills = random.Random(seed), 0
    while kills < KILLS:
        place = home / f"{seed}-{kills}"
        place.mkdir()
        with Stage(place, faults=Faults(latency_s=0.01)) as stage:
            victim = Victim(stage, chance, reads=seed % 5 != 4)
            kills += victim.live(most=KILLS - kills)


@pytest.mark.parametrize("first", range(0, 10, 2))
def test_d2_killed_at_any_moment_nothing_is_lost_or_sent_twice(tmp_path: Path, first: int) -> None:
    """Ten kills: what is settled is never asked for again, and every row ends exactly once.

    Before-images stay the first ones; only what was in somebody's hands is asked for once more.
    """
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_kill_and_resume, (tmp_path, tmp_path), (first, first + 1)))


@pytest.mark.long
@pytest.mark.parametrize("first", range(10, 50, 2))
def test_d2_killed_two_hundred_times_more(tmp_path: Path, first: int) -> None:
    """The same at other moments."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_kill_and_resume, (tmp_path, tmp_path), (first, first + 1)))


@pytest.mark.parametrize(
    "tail",
    [b'{"v":1,"row":', bytes(4096), b"\xff\x00nonsense\n" * 9],
    ids=("half", "zeros", "noise"),
)
def test_d1_d5_a_torn_tail_is_set_aside_and_cut(stage: Stage, tail: bytes) -> None:
    """Half a line, zeros, or nonsense at the end of a journal: kept aside, cut, and gone on."""
    command = _begin(stage)
    command.process.kill()
    command.wait()
    for name in ("undo", "report", "events"):
        with (stage.folder("x") / f"{name}.jsonl").open("ab") as file:
            file.write(tail)

    resumed = stage.run("resume", "x", "--yes")

    assert resumed.code == 0, resumed.err
    for name in ("undo", "report", "events"):
        aside = stage.folder("x") / f"{name}.jsonl.torn-1"
        assert aside.read_bytes().endswith(tail)
        assert aside.stat().st_mode & 0o777 == 0o600
    _check_whole(stage)


def test_a_run_killed_while_checking_is_resumed_from_the_start(stage: Stage) -> None:
    """Killed before anything was sent: known as interrupted, and resume checks anew."""
    stage.run(*MOVE, stage.moves(5), "--yes", "--run-id", "x")
    folder = stage.folder("x")
    manifest = (folder / "run.json").read_text(encoding="utf-8")
    for path in folder.iterdir():
        path.unlink()
    # What a run has on disk from its first moment on.
    early = manifest.replace('"state": "finished"', '"state": "checking"')
    for name in ("rows", "users", "bytes", "sha256", "started", "ended", "exit_code"):
        early = _without(early, name)
    (folder / "run.json").write_text(early, encoding="utf-8")

    (listed,) = stage.run("status", "--json").json()
    shown = stage.run("status", "x")
    reported = stage.run("report", "x", "--json")
    resumed = stage.run("resume", "x", "--yes", "--json")

    assert (listed["state"], listed["verdict"]) == ("checking", "interrupted")
    assert shown.code == 0
    assert "interrupted" in shown.out
    assert (reported.code, reported.json()["verdict"]) == (0, "interrupted")
    assert reported.json()["files"] == {}
    assert resumed.code == 0, resumed.err
    assert resumed.json()["counts"]["unchanged"] == 5


def test_status_and_report_of_a_run_that_was_killed(stage: Stage) -> None:
    """It shows as interrupted; report writes its files as they stand, and resume goes on."""
    command = _begin(stage)
    command.process.kill()
    command.wait()
    folder = stage.folder("x")
    assert not (folder / "summary.json").exists()

    (listed,) = stage.run("status", "--json").json()
    shown = stage.run("status", "x")
    reported = stage.run("report", "x", "--json")

    settled = len(journal(folder / "report.jsonl", torn=True))
    assert (listed["state"], listed["verdict"]) == ("running", "interrupted")
    assert listed["succeeded"] == settled
    assert listed["unprocessed"] == ROWS - settled
    assert "interrupted: rows are left, and can be resumed" in shown.out
    assert "syncshift resume x" in shown.out
    assert reported.code == 0
    summary = reported.json()
    assert (summary["verdict"], summary["exit_code"]) == ("interrupted", None)
    assert summary["counts"]["unprocessed"] == ROWS - settled
    sent = Counter(row["syncshift_sent"] for row in table(folder / "unprocessed.csv"))
    assert set(sent) <= {"no", "unanswered"}
    patched = {entry.sync_id for entry in stage.asked("PATCH")}
    unsent = {
        row["sync_id"] for row in table(folder / "unprocessed.csv") if row["syncshift_sent"] == "no"
    }
    assert not patched & unsent
    assert stage.run("resume", "x", "--yes").code == 0
    _check_whole(stage)


# ----------------------------------------------------------------------------------------- disk


def test_d6_a_full_disk_stops_the_run_and_nothing_is_sent_unrecorded(stage: Stage) -> None:
    """When a journal can grow no more: exit 4 saying what to do, and each PATCH has its intent."""
    path = stage.moves(ROWS)
    flags = ("--yes", "--run-id", "x", "--concurrency", IN_FLIGHT)

    # 24 KiB for a file, in blocks of 512 bytes: room for the input and about 60 intents.
    command = stage.run(*MOVE, path, *flags, before="ulimit -f 48", env=UNMEASURED)

    assert command.code == 4, command.err
    assert "cannot be written (File too large)" in command.out
    assert "Make room or mend the disk, then resume the run" in command.out
    assert "Traceback" not in command.err
    intended = {line["sync_id"] for line in journal(stage.folder("x") / "undo.jsonl", torn=True)}
    patched = {entry.sync_id for entry in stage.asked("PATCH")}
    assert 10 < len(patched) < ROWS
    assert patched <= intended
    assert stage.run("resume", "x", "--yes").code == 0
    _check_whole(stage)


def test_d6_a_folder_that_is_taken_away_stops_the_run(stage: Stage) -> None:
    """Once the run's folder is gone nothing more is sent, and the exit code is 4."""
    command = _begin(stage)

    shutil.rmtree(stage.folder("x"))
    sent = stage.patches()
    command.wait()

    assert command.code == 4, command.err
    assert "error: " in command.err
    assert "Traceback" not in command.err
    assert stage.patches() <= sent + 2 * CARRIED < ROWS


def _begin(stage: Stage) -> Command:
    """Start a run and return it in the middle of its work."""
    words = (*MOVE, stage.moves(ROWS), "--yes", "--run-id", "x", "--concurrency", IN_FLIGHT)
    command = stage.start(*words)
    until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")
    assert command.code is None, command.err
    return command


def _check_whole(stage: Stage) -> None:
    """See that every row has one outcome and was changed once."""
    assert stage.moved() == ROWS
    for name in ("undo", "report"):
        lines = journal(stage.folder("x") / f"{name}.jsonl")
        assert sorted(line["row"] for line in lines) == list(range(1, ROWS + 1))
    assert all(
        line["desired"] == {"credential_id": NEW}
        for line in journal(stage.folder("x") / "undo.jsonl")
    )
    changed = [entry.sync_id for entry in stage.asked("PATCH") if entry.acted]
    assert len(changed) == len(set(changed)) == ROWS


def _without(manifest: str, name: str) -> str:
    """Return *manifest*, JSON of one field a line, with *name* unknown."""
    lines = manifest.splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(f'"{name}":')]
    return "".join(kept).replace(",\n  }", "\n  }").replace(",\n}", "\n}")
