"""Runs that workers begin by a clock."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest

from runner.errors import SettingsError
from runner.postgres.scheduling import next_moment
from tests.commands import until
from tests.fields import AFAR, RUN, FieldStage
from tests.servers import Server, serving


@pytest.mark.parametrize(
    ("after", "moment"),
    [
        ("2026-11-27T12:00:00Z", "2026-11-27T17:00:00Z"),
        ("2026-11-27T17:00:00Z", "2026-12-04T17:00:00Z"),
    ],
)
def test_a_moment_goes_by_the_clock_of_the_zone(after: str, moment: str) -> None:
    """Fridays at 18:00 in Berlin; the moment itself is over once it has come."""
    found = next_moment("0 18 * * 5", "Europe/Berlin", after=datetime.datetime.fromisoformat(after))

    assert found == datetime.datetime.fromisoformat(moment)


def test_both_days_on_which_clocks_change_have_each_moment_once() -> None:
    """02:30 does not come in March and comes twice in October; it is one moment all the same."""
    for day in ("2027-03-28", "2026-10-25"):
        begins = datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00") - datetime.timedelta(
            hours=3
        )
        first = next_moment("30 2 * * *", "Europe/Berlin", after=begins)
        second = next_moment("30 2 * * *", "Europe/Berlin", after=first)

        assert first.date().isoformat() == day
        assert second.date() > first.date()


@pytest.mark.parametrize(("cron", "zone"), [("at noon", "UTC"), ("0 18 * * 5", "Mars/Base")])
def test_what_is_no_moment_is_refused(cron: str, zone: str) -> None:
    """In words that say what would be right."""
    with pytest.raises(SettingsError, match=r"--cron|--zone"):
        next_moment(cron, zone, after=datetime.datetime.now(datetime.UTC))


def test_a_worker_begins_what_is_due_and_leads_it(tmp_path: Path, pg: Server) -> None:
    """Added, listed, begun at its moment, once; then removed."""
    with FieldStage(tmp_path, pg) as stage:
        path = stage.moves(20)
        cron = ("--cron", "0 18 * * 5", "--zone", "Europe/Berlin", "--rate", "200")
        added = stage.here("schedule", "add", "weekly", "migrate-credentials", path, *cron)
        again = stage.here("schedule", "add", "weekly", "migrate-credentials", path, *cron)
        bare = stage.here("schedule", "add", "other")
        assert (added.code, again.code, bare.code) == (0, 5, 2), added.err
        stage.ask("UPDATE schedule SET next_at = clock_timestamp() RETURNING 1")
        stage.workers(1)

        until(lambda: stage.moved() == 20, "the run was begun and has ended")
        (run,) = until(
            lambda: stage.ask("SELECT id FROM run WHERE led_at IS NULL"),
            "it is over",
            patience_s=20,
        )
        listed = stage.here("schedule", "list")
        shown = stage.run("status", run[0], "--json").json()

        assert run[0].startswith("weekly-2")
        assert run[0] in listed.out
        assert shown["counts"]["updated"] == 20
        assert stage.patches() == 20
        assert stage.here("schedule", "remove", "weekly").code == 0
        assert stage.here("schedule", "remove", "weekly").code == 5


def test_a_schedule_of_an_unknown_zone_is_left_to_who_knows_it(tmp_path: Path, pg: Server) -> None:
    """A worker whose machine lacks the zone says so, once, and does all else."""
    with FieldStage(tmp_path, pg) as stage:
        path = stage.moves(4)
        for name in ("strange", "known"):
            words = ("migrate-credentials", path, "--cron", "0 18 * * 5")
            assert stage.here("schedule", "add", name, *words).code == 0
        stage.ask("UPDATE schedule SET zone = 'Mars/Base' WHERE name = 'strange' RETURNING 1")
        stage.ask("UPDATE schedule SET next_at = clock_timestamp() RETURNING 1")
        (worker,) = stage.workers(1)

        until(lambda: stage.moved() == 4, "the other one was begun")
        time.sleep(2)

        assert worker.code is None
        assert worker.err.count("Mars/Base") == 1
        assert "schedule.left" in worker.err
        kept = dict(stage.ask("SELECT name, last_run FROM schedule"))
        assert kept["strange"] is None
        assert kept["known"].startswith("known-2")


def _starts_and_closes(tmp_path: Path, server: Server, *, start_s: int, restarts: bool) -> None:
    """Leave a run to the workers that may send for 4 s, or 20 s with a restart in front of it."""
    lasts_s = 20 if restarts else 4
    with FieldStage(tmp_path, server) as stage:
        stage.workers(2)
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        opened = now - datetime.timedelta(seconds=60)
        start = now + datetime.timedelta(seconds=start_s)
        closes = start + datetime.timedelta(seconds=lasts_s)
        window = ("--window", f"{opened:%T}-{closes:%T}@UTC", "--start-at", f"{start:%FT%TZ}")
        rows = 60 * lasts_s
        left = stage.run(*RUN, stage.moves(rows), *AFAR, "--detach", *window, "--rate", 40)
        assert left.code == 0, left.err
        if restarts:
            server.stop(immediately=True)
            server.start()

        def is_closed() -> bool:
            waits = stage.run("status", "x", "--json").json().get("waiting", [])
            return "window" in [wait["reason"] for wait in waits]

        until(lambda: stage.patches() > 20, "it has started", patience_s=start_s + lasts_s)
        until(is_closed, "it is closed again")
        looks = stage.start("status", "x", "--watch")
        until(lambda: f"waiting: window: {window[0]} {window[1]}" in looks.out, "a look tells why")
        assert stage.run("status", "x", "--json").json()["verdict"] is None
        sent = [entry.at_monotonic_s for entry in stage.audit]
        assert stage.run("stop", "x").code == 0
        until(lambda: stage.manifest_there("x")["state"] == "stopped", "it has stopped")
        assert looks.wait().code == 0, looks.err

        ahead_s = time.time() - time.monotonic()
        assert min(sent) + ahead_s >= start.timestamp() - 0.01
        assert max(sent) + ahead_s < closes.timestamp() + 1
        assert len(stage.audit) == len(sent) < 2 * rows


def test_start_and_window_hold_all_workers(tmp_path: Path, pg: Server) -> None:
    """Nobody sends before the one or after the other."""
    _starts_and_closes(tmp_path, pg, start_s=6, restarts=False)


@pytest.mark.long
def test_start_and_window_survive_a_restart(tmp_path: Path) -> None:
    """The same with a database that is stopped at once, and started, while all wait."""
    with serving() as server:
        _starts_and_closes(tmp_path, server, start_s=20, restarts=True)


def test_what_is_not_healthy_holds_all_workers(tmp_path: Path, pg: Server) -> None:
    """Asked by whoever leads; while it says no nobody sends, and all go on once it says yes."""
    with FieldStage(tmp_path, pg) as stage:
        stage.workers(2)
        healthy = tmp_path / "healthy"
        words = ("--health", f"test -e {healthy}", "--rate", 30)
        command = stage.start(*RUN, stage.moves(120), *AFAR, *words)

        def is_held() -> bool:
            status = stage.run("status", "x", "--json").json()
            return "health" in [wait["reason"] for wait in status.get("waiting", [])]

        until(is_held, "it waits for that")
        asked = len(stage.audit)
        healthy.touch()
        until(lambda: stage.patches() > 20, "they send")
        healthy.unlink()
        until(is_held, "they wait again")
        time.sleep(0.5)
        before = len(stage.audit)
        time.sleep(1.5)
        during = len(stage.audit) - before
        healthy.touch()

        assert command.wait().code == 0, command.err
        assert (asked, during) == (0, 0)
        assert stage.moved() == 120
