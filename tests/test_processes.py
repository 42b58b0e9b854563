"""Runs of several processes: what is promised of one run holds over all of them together."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import pytest

from runner.simulator import Behavior, Fault, Faults
from tests.commands import NEW, Stage, journal, until
from tests.crowds import MOVE, check_whole, most_in, workers_of

TWO = ("--yes", "--run-id", "x", "--processes", 2)
_VARIES = ("syncshift_attempts",)


def _results(folder: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for name in ("succeeded.csv", "failed.csv", "unprocessed.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found[name] = [{k: v for k, v in row.items() if k not in _VARIES} for row in rows]
    return found


def _mixed(stage: Stage, rows: int) -> Path:
    """Write an input with rows that end in every way that an input alone decides."""
    syncs = stage.syncs(rows)
    names = ("sync_id", "user_id", "credential_id", "expected_credential_id")
    cells: list[tuple[str, ...]] = [names]
    for number, sync in enumerate(syncs):
        expected = "99999999-9999-4999-8999-999999999999" if number % 17 == 0 else ""
        there = sync.credential_id or ""
        cells.append((sync.id, sync.user, there if number % 13 == 0 else NEW, expected))
        if number % 29 == 5:
            cells.append((f"gone-{number}", sync.user, NEW, ""))
        if number % 31 == 7:
            cells.append((f"bad-{number}", sync.user, "no UUID", ""))
    # Duplicates far from their first rows: in another shard, mostly.
    cells += [cells[number] for number in range(3, rows, 40)]
    return stage.write("mixed.csv", cells)


def _same_files(tmp_path: Path, rows: int) -> None:
    found = []
    for number in (1, 2, 3):
        place = tmp_path / str(number)
        place.mkdir()
        with Stage(place) as stage:
            words = ("--skip-invalid", "--max-failures", "100%", "--yes", "--run-id", "x")
            path = _mixed(stage, rows)
            command = stage.run(*MOVE, path, *words, "--processes", number, "--json")
            assert command.code == 3, command.err
            counts = command.json()["counts"]
            found.append((_results(stage.folder("x")), counts))
            assert len(journal(stage.folder("x") / "report.jsonl")) == command.json()["rows"]
            patched = [entry.sync_id for entry in stage.asked("PATCH")]
            assert len(patched) == len(set(patched))

    assert found[0] == found[1] == found[2]
    assert all(found[0][1][kind] for kind in ("updated", "unchanged", "duplicate", "invalid"))
    assert all(found[0][1][kind] for kind in ("conflicted", "rejected"))


def test_the_result_files_are_those_of_one_process(tmp_path: Path) -> None:
    """Rows of every kind, duplicates in other shards: the same files with 1, 2 and 3 processes."""
    _same_files(tmp_path, 300)


@pytest.mark.long
def test_the_result_files_of_5000_rows_are_those_of_one_process(tmp_path: Path) -> None:
    """The same at full size."""
    _same_files(tmp_path, 5000)


def _keeps_the_rate(home: Path, *, rate: float, rows: int) -> bool:
    """Return whether a run in *home* made use of the whole rate; it must not exceed it."""
    home.mkdir()
    with Stage(home, faults=Faults(latency_s=0.1)) as stage:
        path = stage.moves(rows)
        before = {sync: record.credential_id for sync, record in stage.state().items()}

        # A share of 16 in flight could not keep the whole rate: both have to send all the time.
        command = stage.start(*MOVE, path, *TWO, "--rate", rate, "--concurrency", 32)

        assert command.wait(rows * 2 / rate + 30).code == 0, command.err
        check_whole(stage, rows, {sync: cred or "" for sync, cred in before.items()})
        moments = [entry.at_monotonic_s for entry in stage.audit]
        assert most_in(moments, 5.0) <= 1.02 * 5 * rate + 1
        # From the first second, in which both begin, to the last, in which one may be done.
        inner = [m for m in moments if moments[0] + 1 <= m <= moments[-1] - 1]
        return (len(inner) - 1) / (inner[-1] - inner[0]) >= 0.95 * rate


def test_all_processes_together_keep_the_rate_and_use_it(tmp_path: Path) -> None:
    """At most 2 % above --rate over any 5 s, and at least 95 % of it.

    That in one of three tries: a processor that others use makes departures late, which are lost.
    """
    assert any(_keeps_the_rate(tmp_path / str(n), rate=60, rows=270) for n in range(3))


@pytest.mark.long
@pytest.mark.parametrize("rate", [20, 100, 200])
def test_all_processes_together_keep_the_rate_for_a_minute(tmp_path: Path, rate: float) -> None:
    """The same for longer, at other rates."""
    assert _keeps_the_rate(tmp_path / "home", rate=rate, rows=int(30 * rate))


def test_a_429_that_one_process_meets_holds_all_within_a_second(tmp_path: Path) -> None:
    """While the server asks to wait, nobody sends: neither who was asked nor the others."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02, retry_after_s=4.0)) as stage:
        path = stage.moves(400, users=1)
        with path.open(encoding="utf-8", newline="") as file:
            ids = [row["sync_id"] for row in csv.DictReader(file)]
        stage.there(stage.simulator.script, ids[40], "GET", [Fault.HTTP_429])

        command = stage.run(*MOVE, path, *TWO, "--concurrency", 8)

        assert command.code == 0, command.err
        turned = [entry.at_monotonic_s for entry in stage.audit if entry.status == 429]
        assert len(turned) == 1
        moments = [entry.at_monotonic_s - turned[0] for entry in stage.audit]
        assert len([moment for moment in moments if moment <= 0]) > 10
        assert [moment for moment in moments if 1.0 < moment < 4.0] == []
        events = journal(stage.folder("x") / "events.jsonl")
        held = [e for e in events if e["event"] == "throttle.held" and e["reason"] == "throttled"]
        assert len(held) == 1


def test_unfinished_resyncs_never_exceed_the_budget_over_all_processes(tmp_path: Path) -> None:
    """Five at once, whoever started them; and with five the run is no slower than it must be."""
    behavior = Behavior(resync_s=0.4)
    with Stage(tmp_path, behavior=behavior, until=None) as stage:
        path = stage.moves(40)

        command = stage.run(*MOVE, path, *TWO, "--max-resyncs", 5)

        assert command.code == 0, command.err
        starts = sorted(e.at_monotonic_s for e in stage.asked("PATCH") if e.acted)
        assert len(starts) == 40
        assert most_in(starts, 0.4) <= 5


def test_no_row_of_a_wave_is_sent_before_the_gate_in_front_of_it(tmp_path: Path) -> None:
    """Each PATCH of a wave comes behind the verdict on the wave before, whoever sends it."""
    with Stage(tmp_path, faults=Faults(latency_s=0.01)) as stage:
        path = stage.moves(120)

        command = stage.run(*MOVE, path, *TWO, "--waves", "4,25%,100%", "--until", "confirmed")

        assert command.code == 0, command.err
        events = journal(stage.folder("x") / "events.jsonl")
        order = [e["event"] for e in events if e["event"] in {"wave.started", "gate.judged"}]
        assert order == ["wave.started", "gate.judged"] * 2 + ["wave.started"]
        judged = [e["timestamp"] for e in events if e["event"] == "gate.judged"]
        sent = sorted(line["timestamp"] for line in journal(stage.folder("x") / "undo.jsonl"))
        assert [sum(moment < gate for moment in sent) for gate in judged] == [4, 30]
        assert stage.manifest("x")["wave_rows"] == [4, 26, 90]


def test_a_gate_that_fails_stops_all_and_a_resume_goes_past_it(tmp_path: Path) -> None:
    """Nothing of the next wave is sent; the waves are the same for whoever resumes alone."""
    with Stage(tmp_path, behavior=Behavior(errored=1.0), until="resynced") as stage:
        path = stage.moves(60)
        words = ("--waves", "5,100%", "--max-failures", "100%")

        command = stage.run(*MOVE, path, *TWO, *words)

        assert command.code == 4, command.err
        assert stage.patches() == 5
        assert "the gate of wave 1 failed" in command.out


def test_the_failure_limit_counts_the_rows_of_all_processes(tmp_path: Path) -> None:
    """Six failed rows stop both, though neither has seen six; in flight may land."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02)) as stage:
        syncs = stage.syncs(400)
        rows = [
            (f"gone-{n}" if n % 20 == 0 else sync.id, sync.user, NEW)
            for n, sync in enumerate(syncs)
        ]
        path = stage.write("moves.csv", [("sync_id", "user_id", "credential_id"), *rows])

        command = stage.run(*MOVE, path, *TWO, "--max-failures", 5, "--concurrency", 4)

        assert command.code == 4, command.err
        assert "rows failed, and --max-failures allows 5" in command.out
        assert 100 < len(stage.audit) < 500
        counts = stage.run("status", "x", "--json").json()["counts"]
        assert 6 <= counts["rejected"] <= 6 + 4


def test_orders_are_heeded_by_all_processes(tmp_path: Path) -> None:
    """Paused, nobody sends; set, all keep to it; stopped, all land and leave."""
    with Stage(tmp_path, faults=Faults(latency_s=0.02)) as stage:
        command = stage.start(*MOVE, stage.moves(600), *TWO, "--rate", 40)
        until(lambda: stage.patches() > 10 or command.code is not None, "PATCHes come")

        assert stage.run("pause", "x").code == 0
        workers = workers_of(command)
        paused_at = until(lambda: _quiet_since(stage), "nobody sends")
        shown: dict[str, Any] = stage.run("status", "x", "--json").json()
        assert [wait["reason"] for wait in shown["waiting"]] == ["pause"]
        assert shown["live"]["settled"] == sum(
            n for kind, n in shown["counts"].items() if kind != "unprocessed"
        )
        assert len(stage.audit) == paused_at
        assert stage.run("set", "x", "--rate", 20, "--max-failures", 3).code == 0
        refused = stage.run("set", "x", "--concurrency", 1)
        assert refused.code != 0
        assert "each of the 2 processes" in refused.out + refused.err
        assert stage.run("continue", "x").code == 0
        until(lambda: len(stage.audit) > paused_at + 60, "they go on")
        assert stage.run("stop", "x", "--reason", "enough").code == 0

        assert command.wait().code == 4, command.err
        assert workers_of(command) == []
        assert workers
        moments = [entry.at_monotonic_s for entry in stage.audit[paused_at + 20 :]]
        assert (len(moments) - 1) / (moments[-1] - moments[0]) < 1.05 * 20
        assert stage.manifest("x")["settings"]["rate"] == 20
        report = journal(stage.folder("x") / "report.jsonl")
        assert len(report) == stage.patches() < 600


def _quiet_since(stage: Stage) -> int:
    """Return how many requests have come, if the last one came a while ago."""
    audit = stage.audit
    quiet = audit and time.monotonic() - audit[-1].at_monotonic_s > 0.4
    return len(audit) if quiet else 0


@pytest.mark.parametrize("flags", [("--strict",), ("--max-resyncs-per", "user=1")])
def test_what_needs_to_know_every_row_is_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Exit code 2 and a reason, before anything is sent or a person is asked."""
    with Stage(tmp_path) as stage:
        said = stage.run(*MOVE, stage.moves(3), *TWO, *flags)

        assert said.code == 2
        assert "cannot be had with --processes 2" in said.err
        assert stage.audit == []


def test_a_retry_and_a_rollback_take_as_many_processes_as_they_are_given(tmp_path: Path) -> None:
    """Whatever carries rows takes --processes: retry, plan and apply, rollback."""
    with Stage(tmp_path) as stage:
        path = stage.moves(60)
        stage.run("plan", "migrate-credentials", path, "--run-id", "x")
        assert stage.run("apply", "x", "--yes", "--processes", 2).code == 0
        assert stage.moved() == 60

        undone = stage.run("rollback", "x", "--yes", "--processes", 2, "--run-id", "y")

        assert undone.code == 0, undone.err
        assert stage.moved() == 0
        assert stage.manifest("y")["settings"]["processes"] == 2
