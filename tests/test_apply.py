"""A plan is carried out once, and only as it was shown."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runner.errors import RunChanged, RunRefused
from runner.forecast import PLAN
from tests.commands import Stage as Commands
from tests.stage import BOTH, NEW, OLD, OTHER, Stage


async def test_only_what_was_planned_is_changed(tmp_path: Path) -> None:
    """A row that was blocked or in conflict stays as it is, though it could be changed by now."""
    async with Stage(tmp_path, max_failures="100%") as stage:
        stage.plain(6)
        stage.set("s2", user="somebody")
        stage.set("s3", user="somebody")
        stage.set("s4", credential_id=NEW)
        stage.write(
            {
                "sync_id": f"s{n}",
                "user_id": "u1",
                "credential_id": NEW,
                "expected_credential_id": OTHER if n == 5 else "",
            }
            for n in range(1, 7)
        )
        await stage.plan(run_id="friday")
        stage.set("s2", user="u1")
        stage.set("s4", credential_id=OLD)
        stage.set("s5", credential_id=OTHER)
        stage.set("s6", credential_id=NEW)
        run = await stage.apply("friday")

        assert {row: run.outcome(row)[0] for row in run.outcomes} == {
            1: "updated",
            2: "conflicted",
            3: "rejected",
            4: "conflicted",
            5: "conflicted",
            6: "unchanged",
        }
        assert stage.patches == {"s1": 1}
        errors = {row: line["error"] for row, line in run.outcomes.items()}
        assert errors[2].startswith("was blocked when it was planned: 404")
        assert errors[4] == f"credential_id was {NEW} when it was planned, and is now {OLD}"
        assert errors[5].startswith("was conflicted when it was planned: credential_id is")
        assert errors[5].endswith("; plan again")


async def test_a_field_beside_the_wanted_one_counts_too(tmp_path: Path) -> None:
    """Whatever the plan showed of a sync must still be so, also what the row leaves alone."""
    async with Stage(tmp_path) as stage:
        stage.plain(2, frequency="1h")
        await stage.plan(BOTH, run_id="friday")
        stage.set("s2", frequency="5m")
        run = await stage.apply("friday")

        assert run.counts == {"updated": 1, "conflicted": 1}
        assert run.outcomes[2]["error"] == ("frequency was 1h when it was planned, and is now 5m")


async def test_a_plan_is_applied_once(tmp_path: Path) -> None:
    """That it is applied is on disk before the first request; the second time is refused."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        await stage.plan(run_id="friday")
        asked = len(stage.audit)
        applied: list[str | None] = []
        opened = stage.open_planned("friday")
        stage.after(asked, lambda: applied.append(opened.folder.read().applied))
        run = await stage.carry(opened)

        assert applied != [None]
        assert run.counts == {"updated": 3}
        with pytest.raises(RunRefused, match="applied once; go on with it: syncshift resume"):
            stage.open_planned("friday")
        again = stage.reopen("friday")
        again.folder.unlock()
        assert again.manifest.state == "finished"


async def test_resume_honors_the_plan(tmp_path: Path) -> None:
    """What moved between apply and resume is left alone, as it would have been by apply."""
    async with Stage(tmp_path, concurrency=2) as stage:
        stage.plain(60)
        await stage.plan(run_id="friday")
        stage.after(100, lambda: signal.raise_signal(signal.SIGTERM))
        first = await stage.apply("friday")
        left = sorted(set(range(1, 61)) - set(first.outcomes))
        untouched = [row for row in left if not stage.patches[f"s{row}"]]
        stage.set(f"s{untouched[-1]}", credential_id=OTHER)
        run = await stage.resume(first)

        assert (first.summary.exit_code, first.summary.verdict) == (143, "interrupted")
        assert run.counts == {"updated": 59, "conflicted": 1}
        assert run.outcome(untouched[-1]) == ("conflicted", "conflict")
        assert "when it was planned" in run.outcomes[untouched[-1]]["error"]


async def test_what_is_refused_sends_nothing_and_leaves_the_plan(tmp_path: Path) -> None:
    """Each reason has its own words and comes before any request; the plan stays as it is."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        await stage.plan(run_id="friday")
        plain = await stage.run()
        asked = len(stage.audit)

        with pytest.raises(RunRefused, match="is no plan; make one with `syncshift plan`"):
            stage.open_planned(plain.id)
        with pytest.raises(RunRefused, match="and --max-age allows none from before"):
            stage.open_planned("friday", max_age_s=-60.0)
        with pytest.raises(RunChanged, match="--base-url"):
            stage.open_planned("friday", base_url="https://elsewhere.example.com")
        with pytest.raises(RunChanged, match="--project-id p1, and now it is p2"):
            stage.open_planned("friday", project_id="p2")
        copy = tmp_path / "runs" / "friday" / "input.csv"
        whole = copy.read_bytes()
        copy.write_bytes(whole + b"\n")
        with pytest.raises(RunChanged, match="is not the input that the run began with"):
            stage.open_planned("friday")
        copy.write_bytes(whole)
        plan = tmp_path / "runs" / "friday" / PLAN
        findings = plan.read_bytes()
        plan.write_bytes(findings.splitlines(keepends=True)[0])
        with pytest.raises(RunRefused, match="has 1 of 3 rows"):
            stage.open_planned("friday")
        plan.write_bytes(findings)

        assert len(stage.audit) == asked
        opened = stage.open_planned("friday")
        assert (opened.changes, opened.resyncs, opened.left) == (3, 3, 3)
        opened.folder.unlock()


async def test_the_confirmation_counts_what_was_planned(tmp_path: Path) -> None:
    """The re-syncs are those of the plan, not as many as there are rows."""
    async with Stage(tmp_path) as stage:
        stage.plain(10)
        for n in range(1, 8):
            stage.set(f"s{n}", credential_id=NEW)
        await stage.plan(run_id="friday")
        opened = stage.open_planned("friday")
        opened.folder.unlock()

        assert (opened.changes, opened.resyncs, opened.left) == (3, 3, 10)
        assert any("7 rows are only read" in remark for remark in opened.remarks)


def test_the_command_applies_and_then_points_to_resume(tmp_path: Path) -> None:
    """apply ends as run does; a second one is refused with 5 and sends nothing."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(12)
        stage.run(
            *("plan", "migrate-credentials", moves, "--run-id", "friday", "--until", "accepted")
        )
        asked = len(stage.audit)
        unconfirmed = stage.run("apply", "friday")
        too_few = stage.run("apply", "friday", "--yes", "--expect", "11")
        bad_age = stage.here("apply", "friday", "--yes", "--max-age", "soon")
        assert len(stage.audit) == asked
        assert stage.manifest("friday")["state"] == "planned"
        applied = stage.run("apply", "friday", "--yes", "--expect", "12", "--max-age", "1h")
        again = stage.run("apply", "friday", "--yes")

        assert (unconfirmed.code, too_few.code, bad_age.code) == (2, 2, 2)
        assert applied.code == 0, applied.err
        assert "re-syncs  12: a changed credential" in applied.err
        assert stage.moved() == 12
        assert again.code == 5
        assert "syncshift resume friday" in again.err
        assert stage.patches() == 12
