"""Runs that workers carry over PostgreSQL: what is promised of one run holds over all of them."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
import time
from pathlib import Path

import pytest

from runner.simulator import Behavior, Fault, Faults
from tests.commands import NEW, Stage, journal, until
from tests.crowds import MOVE, check_whole, children_of, kill, most_in
from tests.fields import AFAR, RUN, FieldStage, stop_all
from tests.servers import Server, serving
from tests.test_at import ZONES, write_zones
from tests.test_processes import _mixed, _results


def _same_files(tmp_path: Path, server: Server, rows: int) -> None:
    found = []
    for number, words in enumerate(((), ("--processes", 2), ("--engine", "postgres"))):
        place = tmp_path / str(number)
        place.mkdir()
        with FieldStage(place, server) as stage:
            workers = stage.workers(2) if "postgres" in words else []
            usual = ("--skip-invalid", "--max-failures", "100%", "--yes", "--run-id", "x")
            path = _mixed(stage, rows)
            command = stage.start(*MOVE, path, *usual, *words, "--json").wait(rows / 10 + 30)
            assert command.code == 3, command.err
            counts = command.json()["counts"]
            found.append((_results(stage.folder("x")), counts))
            assert len(journal(stage.folder("x") / "report.jsonl")) == command.json()["rows"]
            patched = [entry.sync_id for entry in stage.asked("PATCH")]
            assert len(patched) == len(set(patched))
            assert [worker.code for worker in workers] == [None] * len(workers)

    assert found[0] == found[1] == found[2]
    assert all(found[0][1][kind] for kind in ("updated", "unchanged", "duplicate", "invalid"))


def test_the_result_files_are_those_of_this_machine(tmp_path: Path, pg: Server) -> None:
    """Rows of every kind: the same files from one process, from two, and from workers."""
    _same_files(tmp_path, pg, 150)


@pytest.mark.long
def test_the_result_files_of_5000_rows_are_those_of_this_machine(
    tmp_path: Path, pg: Server
) -> None:
    """The same at full size."""
    _same_files(tmp_path, pg, 5000)


def _keeps_the_rate(home: Path, server: Server, *, rate: float, rows: int) -> bool:
    """Return whether a run in *home* made use of the whole rate; it must not exceed it."""
    home.mkdir()
    with FieldStage(home, server, faults=Faults(latency_s=0.1, retry_after_s=3.0)) as stage:
        stage.workers(3)
        path = stage.moves(rows)
        before = {sync: record.credential_id or "" for sync, record in stage.state().items()}

        command = stage.start(*RUN, path, *AFAR, "--rate", rate, "--concurrency", 33)

        assert command.wait(rows * 2 / rate + 30).code == 0, command.err
        check_whole(stage, rows, before)
        moments = [entry.at_monotonic_s for entry in stage.audit]
        assert most_in(moments, 5.0) <= 1.02 * 5 * rate + 1
        # From when all have begun to when one of them may have nothing left.
        inner = [m for m in moments if moments[0] + 3 <= m <= moments[-1] - 4]
        return (len(inner) - 1) / (inner[-1] - inner[0]) >= 0.95 * rate


def test_all_workers_together_keep_the_rate_and_use_it(tmp_path: Path, pg: Server) -> None:
    """Three of them, at most 2 % above --rate over any 5 s, and at least 95 % of it.

    That in one of three tries, as with the processes of one machine.
    """
    assert any(_keeps_the_rate(tmp_path / str(n), pg, rate=60, rows=240) for n in range(3))


@pytest.mark.long
@pytest.mark.parametrize("rate", [20, 100, 200])
def test_all_workers_together_keep_the_rate_for_a_minute(
    tmp_path: Path, pg: Server, rate: float
) -> None:
    """The same for longer, at other rates."""
    assert _keeps_the_rate(tmp_path / "home", pg, rate=rate, rows=int(30 * rate))


def test_a_run_that_has_sent_nothing_yet_is_resumed(tmp_path: Path, pg: Server) -> None:
    """Its rows were refused when they were looked at: an empty journal is one all the same."""
    with FieldStage(tmp_path, pg) as stage:
        stage.workers(1)
        path = stage.moves(60)
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([head, *(f"gone-{row}" for row in rows)]), encoding="utf-8")

        stopped = stage.run(*RUN, path, *AFAR)
        taken = stage.run("resume", "x", "--yes", "--max-failures", "100%")

        assert (stopped.code, taken.code) == (4, 3), taken.err


def test_a_429_that_one_worker_meets_holds_all_within_a_second(tmp_path: Path, pg: Server) -> None:
    """While the server asks to wait, nobody sends: neither who was asked nor the others."""
    with FieldStage(tmp_path, pg, faults=Faults(latency_s=0.02, retry_after_s=2.0)) as stage:
        stage.workers(3)
        path = stage.moves(200, users=1)
        with path.open(encoding="utf-8", newline="") as file:
            ids = [row["sync_id"] for row in csv.DictReader(file)]
        stage.there(stage.simulator.script, ids[30], "GET", [Fault.HTTP_429])

        command = stage.start(*RUN, path, *AFAR, "--concurrency", 9).wait()

        assert command.code == 0, command.err
        (turned,) = (entry.at_monotonic_s for entry in stage.audit if entry.status == 429)
        moments = [entry.at_monotonic_s - turned for entry in stage.audit]
        assert len([moment for moment in moments if moment <= 0]) > 10
        assert [moment for moment in moments if 1.0 < moment < 2.0] == []
        events = journal(stage.folder("x") / "events.jsonl")
        held = [e for e in events if e["event"] == "throttle.held" and e["reason"] == "throttled"]
        assert len(held) == 1


def test_budget_and_gates_hold_over_all_workers(tmp_path: Path, pg: Server) -> None:
    """Five re-syncs at once, whoever started them; no row of a wave before the gate in front."""
    behavior = Behavior(resync_s=0.4)
    with FieldStage(tmp_path, pg, behavior=behavior, until=None) as stage:
        stage.workers(2)
        words = ("--waves", "4,100%", "--max-resyncs", 5)

        command = stage.start(*RUN, stage.moves(14), *AFAR, *words).wait()

        assert command.code == 0, command.err
        starts = sorted(e.at_monotonic_s for e in stage.asked("PATCH") if e.acted)
        assert len(starts) == 14
        assert most_in(starts, 0.4) <= 5
        folder = stage.folder("x")
        events = journal(folder / "events.jsonl")
        judged = [e["timestamp"] for e in events if e["event"] == "gate.judged"]
        sent = sorted(line["timestamp"] for line in journal(folder / "undo.jsonl"))
        assert [sum(moment < gate for moment in sent) for gate in judged] == [4]


def test_the_failure_limit_counts_the_rows_of_all_workers(tmp_path: Path, pg: Server) -> None:
    """Six failed rows stop all, though none has seen six; in flight may land."""
    with FieldStage(tmp_path, pg, faults=Faults(latency_s=0.05)) as stage:
        stage.workers(2)
        rows = [
            (f"gone-{n}" if n % 20 == 0 else sync.id, sync.user, NEW)
            for n, sync in enumerate(stage.syncs(400))
        ]
        path = stage.write("moves.csv", [("sync_id", "user_id", "credential_id"), *rows])

        command = stage.start(*RUN, path, *AFAR, "--max-failures", 5, "--concurrency", 4).wait()

        assert command.code == 4, command.err
        assert "rows failed, and --max-failures allows 5" in command.out
        counts = stage.run("status", "x", "--json").json()["counts"]
        assert 6 <= counts["rejected"] <= 6 + 4
        assert counts["unprocessed"] > 100


def test_a_run_can_be_left_steered_and_taken_up_from_anywhere(tmp_path: Path, pg: Server) -> None:
    """Left to the workers, paused, stopped, resumed, reported and undone: each from elsewhere."""
    with FieldStage(tmp_path, pg, faults=Faults(latency_s=0.05)) as stage:
        workers = stage.workers(2)
        left = stage.run(*RUN, stage.moves(150), *AFAR, "--detach", "--rate", 25)
        assert left.code == 0, left.err
        assert "left to the workers" in left.out
        until(lambda: stage.patches() > 20, "they carry it")
        shutil.rmtree(stage.runs)

        assert stage.run("pause", "x").code == 0
        quiet = until(lambda: _quiet_since(stage), "nobody sends")
        (listed,) = stage.run("status", "--json").json()
        assert (listed["run_id"], listed["verdict"]) == ("x", None)
        shown = stage.run("status", "x", "--json").json()
        assert 0 < listed["succeeded"] == shown["counts"]["updated"] <= quiet
        assert shown["verdict"] is None
        assert [wait["reason"] for wait in shown["waiting"]] == ["pause"]
        assert stage.run("continue", "x").code == 0
        until(lambda: len(stage.audit) > quiet + 20, "they go on")
        stopped = stage.run("stop", "x", "--reason", "enough")
        assert stopped.code == 0, stopped.err
        until(lambda: stage.manifest_there("x")["state"] == "stopped", "it has stopped")
        here = stage.run("resume", "x", "--yes", "--engine", "local")
        assert here.code == 5
        assert "its rows are in PostgreSQL" in here.err
        taken = stage.run("resume", "x", "--yes", "--rate", 400)

        assert taken.code == 0, taken.err
        check = json.loads(stage.run("verify", "x", "--json").out)
        assert check["findings"]["in_force"] == 150
        shutil.rmtree(stage.runs)
        assert stage.run("report", "x").code == 0
        assert len(journal(stage.folder("x") / "report.jsonl")) == 150
        assert (stage.folder("x") / "report.html").exists()
        shutil.rmtree(stage.runs)
        (listed,) = stage.run("status", "--json").json()
        assert (listed["verdict"], listed["succeeded"], listed["unprocessed"]) == (
            "succeeded",
            150,
            0,
        )
        undone = stage.run("rollback", "x", "--yes", "--run-id", "y", "--engine", "postgres")
        assert undone.code == 0, undone.err
        assert stage.moved() == 0
        stop_all(workers)


def _quiet_since(stage: Stage) -> int:
    """Return how many requests have come, if the last one came a while ago."""
    audit = stage.audit
    quiet = audit and time.monotonic() - audit[-1].at_monotonic_s > 0.6
    return len(audit) if quiet else 0


def test_a_leader_that_is_killed_is_followed_by_another_one(tmp_path: Path, pg: Server) -> None:
    """Nobody sends for long without one; whoever resumes leads, and every row ends once."""
    with FieldStage(tmp_path, pg, faults=Faults(latency_s=0.05)) as stage:
        stage.workers(2)
        command = stage.start(*RUN, stage.moves(200), *AFAR, "--concurrency", 8)
        until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")
        command.end()
        shutil.rmtree(stage.runs)

        taken = stage.run("resume", "x", "--yes")

        assert taken.code == 0, taken.err
        report = journal(stage.folder("x") / "report.jsonl")
        assert sorted(line["row"] for line in report) == list(range(1, 201))
        assert stage.moved() == 200


def _starts_zones(tmp_path: Path, server: Server, *, apart_s: int, away_s: float) -> None:
    """Start three zones, with the server stopped and started again in between."""
    with FieldStage(tmp_path, server) as stage:
        place = write_zones(tmp_path / "zones", apart_s=apart_s)
        stage.environment["PYTHONTZPATH"] = f"{place}:/usr/share/zoneinfo"
        stage.workers(2)
        moves = stage.moves(9).read_text(encoding="utf-8").splitlines()
        zoned = [f"{line},{ZONES[n % 3]}" for n, line in enumerate(moves[1:])]
        path = stage.home / "zoned.csv"
        path.write_text("\n".join([f"{moves[0]},time_zone", *zoned]) + "\n", encoding="utf-8")
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        began = now + datetime.timedelta(seconds=6)

        words = ("--at", f"{began:%T}", "--zone-column", "time_zone")
        command = stage.start(*RUN, path, *AFAR, *words)
        until(lambda: stage.patches() >= 3 or command.code is not None, "the first has started")
        waiting = stage.run("status", "x", "--json").json()["waiting"]
        server.stop(immediately=True)
        time.sleep(away_s)
        server.start()

        assert command.wait(apart_s * 3 + 60).code == 0, command.err
        assert [wait["reason"] for wait in waiting] == ["zone"]
        kept = stage.ask("SELECT DISTINCT starts_at FROM shard ORDER BY 1")
        wished = stage.manifest("x")["starts"]
        assert [moment for (moment,) in kept] == [start["at"] for start in wished]
        ahead_s = time.time() - time.monotonic() - began.timestamp()
        patches = stage.asked("PATCH")
        late = [e.at_monotonic_s + ahead_s - apart_s * (n // 3) for n, e in enumerate(patches)]
        assert len(late) == 9
        assert all(-0.01 < seconds < 2 for seconds in late), late
        events = journal(stage.folder("x") / "events.jsonl")
        assert [e["zones"] for e in events if e["event"] == "zone.started"] == [[z] for z in ZONES]


def test_three_zones_start_in_time_over_a_restart_of_the_server(tmp_path: Path) -> None:
    """Each within two seconds of its moment, whoever is there; all of it is on record."""
    with serving() as server:
        _starts_zones(tmp_path, server, apart_s=5, away_s=0.1)


@pytest.mark.long
def test_three_zones_start_in_time_over_a_longer_restart(tmp_path: Path) -> None:
    """The same with a server that is away for 20 s."""
    with serving() as server:
        _starts_zones(tmp_path, server, apart_s=40, away_s=20.0)


@pytest.mark.long
def test_a_plan_that_is_left_to_workers_is_carried_out_once(tmp_path: Path, pg: Server) -> None:
    """Applied without its machine, and without the worker that led it: each change is made once."""
    with FieldStage(tmp_path, pg, faults=Faults(latency_s=0.05)) as stage:
        workers = stage.workers(2)
        planned = stage.run("plan", "migrate-credentials", stage.moves(100), "--run-id", "x")
        assert planned.code == 0, planned.err
        applied = stage.run("apply", "x", "--yes", *AFAR[:2], "--detach", "--rate", 40)
        assert applied.code == 0, applied.err
        shutil.rmtree(stage.runs)
        until(lambda: stage.patches() > 10, "they carry it")
        leads = "SELECT leader FROM run WHERE led_at IS NOT NULL"
        leader = stage.ask(leads)[0][0]
        leading = int(leader.removeprefix("process ").partition(" on ")[0])
        (led_by,) = (w for w in workers if leading in children_of(w.pid))
        led_by.end()
        kill(leading)

        until(lambda: stage.manifest_there("x")["state"] == "finished", "it is over")

        assert stage.moved() == 100
        again = stage.run("apply", "x", "--yes")
        assert again.code == 5
        assert "is applied once" in again.err
