"""Runs that workers begin by a clock."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from runner.errors import SettingsError
from runner.postgres.scheduling import next_moment
from tests.commands import until
from tests.fields import FieldStage
from tests.servers import Server


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
