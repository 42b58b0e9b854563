"""Whatever is killed, stopped or taken away under a run that workers carry: nothing is lost.

And nothing is sent unrecorded. The long tests say the same at full size.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from runner.simulator import Faults
from tests.commands import journal, until
from tests.crowds import UNMEASURED
from tests.fields import AFAR, RUN, FieldStage
from tests.servers import SYSTEM, Server, serving

IN_FLIGHT = 12


def _check(stage: FieldStage, rows: int, *, lost: int) -> None:
    """See that every row has one outcome, and that no PATCH left without its intent.

    *lost*: so many times a worker may have been lost with all that it had in flight.
    """
    folder = stage.folder("x")
    undo, report = (journal(folder / f"{name}.jsonl") for name in ("undo", "report"))
    ended = [line["row"] for line in report if line["event"] == "change.settled"]
    assert sorted(ended) == list(range(1, rows + 1))
    assert {line["outcome"] for line in report} <= {"updated", "unchanged"}
    intended = {line["sync_id"] for line in undo}
    patched = Counter(entry.sync_id for entry in stage.asked("PATCH") if entry.acted)
    assert set(patched) <= intended
    assert stage.moved() == rows
    # What was in flight when its worker was lost is looked at, and sent again if it was not there.
    assert sum(patched.values()) <= rows + lost * IN_FLIGHT


def _killed_and_stopped(home: Path, server: Server, *, rows: int, asleep_s: float) -> None:
    with FieldStage(home, server, faults=Faults(latency_s=0.05)) as stage:
        (sleeper,) = stage.workers(1, env=UNMEASURED)
        limits = ("--concurrency", IN_FLIGHT)
        command = stage.start(*RUN, stage.moves(rows), *AFAR, *limits)
        until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")
        # By its tokens it is known: they are made anew by each worker, at a time of its own.
        time.sleep(1.1)
        its_own = {entry.token_hash for entry in stage.audit}
        killed, other = stage.workers(2, env=UNMEASURED)
        carry = "SELECT count(DISTINCT split_part(worker, '/', 1)) FROM shard WHERE worker <> ''"
        until(
            lambda: stage.ask(carry)[0][0] == 3 or command.code is not None,
            "all three carry something",
        )
        assert command.code is None, command.err
        lost = [f"%:{one.pid}:%" for one in (sleeper, killed)]
        theirs = "SELECT 1 FROM shard WHERE NOT over AND worker LIKE ANY(%s)"

        def falls_asleep() -> bool:
            """Stop it while it carries something, and not between two shards."""
            os.kill(sleeper.pid, signal.SIGSTOP)
            carries = bool(stage.ask(theirs, lost[:1]))
            if not carries:
                os.kill(sleeper.pid, signal.SIGCONT)
            return carries

        until(falls_asleep, "it carries something")
        os.kill(killed.pid, signal.SIGKILL)
        slept_at = time.monotonic()
        until(lambda: not stage.ask(theirs, lost), "others have their shards", patience_s=60)
        assert time.monotonic() - slept_at < 10.0
        until(
            lambda: time.monotonic() - slept_at > asleep_s,
            "it has slept long enough",
            patience_s=asleep_s + 20,
        )
        awake = len(stage.audit)
        os.kill(sleeper.pid, signal.SIGCONT)

        assert command.wait(rows / 10).code == 0, command.err
        assert other.code is None
        # A look that was on its way when it fell asleep may still leave; it changes nothing.
        late = [e for e in stage.audit[awake:] if e.token_hash in its_own and e.method != "GET"]
        assert late == []
        _check(stage, rows, lost=2)
        events = journal(stage.folder("x") / "events.jsonl")
        assert [event for event in events if event["event"] == "worker.lost"]


def test_a_killed_worker_and_a_stopped_one_lose_nothing(tmp_path: Path, pg: Server) -> None:
    """Others go on with their shards within 10 s, and who wakes up changes nothing of them."""
    _killed_and_stopped(tmp_path, pg, rows=700, asleep_s=6.0)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_worker_and_one_that_slept_a_minute_lose_nothing(
    tmp_path: Path, pg: Server
) -> None:
    """The same with 20,000 rows."""
    _killed_and_stopped(tmp_path, pg, rows=20_000, asleep_s=60.0)


def _without_a_server(home: Path, server: Server, *, rows: int, away_s: float) -> None:
    with FieldStage(home, server, faults=Faults(latency_s=0.05)) as stage:
        workers = stage.workers(3, env=UNMEASURED)
        limits = ("--concurrency", IN_FLIGHT)
        command = stage.start(*RUN, stage.moves(rows), *AFAR, *limits)
        until(lambda: stage.patches() > rows // 10 or command.code is not None, "PATCHes come")

        server.stop(immediately=True)
        stopped_at = time.monotonic()
        until(lambda: time.monotonic() - stopped_at > away_s, "it is away", patience_s=60)
        # What had its intent on record may have left at once, and nothing since.
        late = [e for e in stage.audit if e.at_monotonic_s > stopped_at + 4.0]
        server.start()
        back_at = time.monotonic()
        seen = stage.patches()
        until(lambda: stage.patches() > seen, "they go on", patience_s=60)
        assert time.monotonic() - back_at < 10.0

        assert command.wait(rows / 10).code == 0, command.err
        assert late == []
        assert [worker.code for worker in workers] == [None] * 3
        _check(stage, rows, lost=3)


def test_a_server_that_is_away_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """Stopped as by a power cut: nothing lost, nothing sent unrecorded, workers come back."""
    with serving() as server:
        _without_a_server(tmp_path, server, rows=400, away_s=1.0)


@pytest.mark.long
@pytest.mark.parametrize("where", ["wheel", "system"])
def test_a_server_that_is_away_for_20_s_loses_nothing(tmp_path: Path, where: str) -> None:
    """The same for longer, with a server from a wheel and with that of the system."""
    if where == "system" and SYSTEM is None:
        pytest.skip("no PostgreSQL is installed here")
    place = Path(SYSTEM).resolve().parent if where == "system" and SYSTEM else None
    with serving(place) as server:
        _without_a_server(tmp_path, server, rows=3000, away_s=20.0)


def test_a_run_is_taken_from_workers_that_go_on_without_a_leader(
    tmp_path: Path, pg: Server
) -> None:
    """Its leader is killed, and somebody resumes it at once: what they record meanwhile counts."""
    with FieldStage(tmp_path, pg, faults=Faults(latency_s=0.05)) as stage:
        stage.workers(2, env=UNMEASURED)
        limits = ("--concurrency", IN_FLIGHT)
        command = stage.start(*RUN, stage.moves(400), *AFAR, *limits)
        until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")
        command.process.kill()
        command.wait()

        taken = stage.run("resume", "x", "--yes")

        assert taken.code == 0, taken.err
        _check(stage, 400, lost=2)


@pytest.mark.long
def test_a_server_that_stays_away_ends_the_run_resumable(tmp_path: Path) -> None:
    """Exit code 4 after --max-outage, of the run and of a worker; a resume carries the rest."""
    with (
        serving() as server,
        FieldStage(tmp_path, server, faults=Faults(latency_s=0.05)) as stage,
    ):
        (patient,) = stage.workers(1, env=UNMEASURED)
        hasty = stage.start("worker", "--quiet", "--max-outage", "1s", "--drain", "5s")
        limits = ("--concurrency", IN_FLIGHT, "--max-outage", "2s")
        command = stage.start(*RUN, stage.moves(200), *AFAR, *limits)
        until(lambda: stage.patches() > 20 or command.code is not None, "PATCHes come")

        server.stop(immediately=True)

        assert command.wait().code == 4, command.err
        assert "cannot be reached" in command.out + command.err
        assert hasty.wait().code == 4, hasty.err
        server.start()
        taken = stage.run("resume", "x", "--yes")
        assert taken.code == 0, taken.err
        assert patient.code is None
        _check(stage, 200, lost=2)
