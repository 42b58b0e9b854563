"""Retry: what did not succeed is sent again as a new run, and a family counts every row once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from runner.account import SUMMARY, add_up
from runner.errors import RunChanged, RunLocked, RunRefused, SettingsError
from runner.model import OutcomeKind
from runner.redo import BY_DEFAULT, open_retry
from runner.results import Summary
from tests.stage import NEW, OLD, OTHER, Run, Stage


def family(run: Run) -> Summary:
    """Add *run* up again, with its retries, and write its files."""
    folder = run.opened.folder
    return add_up(folder, folder.read(), run.opened.job)


def counts(summary: Summary) -> dict[str, int]:
    """Return the counts that are not 0."""
    return {name: n for name, n in summary.counts.items() if n}


def expecting(stage: Stage, rows: int, *, more: dict[str, str] | None = None) -> None:
    """Write an input whose rows move syncs to `NEW`, but only from `OLD`."""
    stage.plain(rows)
    stage.write(
        {
            "sync_id": f"s{n}",
            "user_id": "u1",
            "credential_id": NEW,
            "expected_credential_id": OLD,
            **(more or {}),
        }
        for n in range(1, rows + 1)
    )


async def test_rows_repaired_by_hand_are_not_sent(tmp_path: Path) -> None:
    """After 40 rows were repaired the retry sends none of them, and each row counts once."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        expecting(stage, 100)
        for n in range(1, 51):
            stage.set(f"s{n}", credential_id=OTHER)
        run = await stage.run()
        for n in range(1, 41):
            stage.set(f"s{n}", credential_id=NEW)
        for n in range(41, 46):
            stage.set(f"s{n}", credential_id=OLD)
        retried = await stage.retry(run)
        whole = family(run)
        succeeded, failed = run.table("succeeded.csv"), run.table("failed.csv")
        numbers = sorted(int(row["syncshift_row"]) for row in succeeded + failed)

        assert run.counts == {"updated": 50, "conflicted": 50}
        assert retried.counts == {"unchanged": 40, "updated": 5, "conflicted": 5}
        assert sum(stage.patches[f"s{n}"] for n in range(1, 41)) == 0
        assert counts(whole) == {"updated": 55, "unchanged": 40, "conflicted": 5}
        assert whole.rows == 100
        assert whole.family == (run.id, retried.id)
        assert (whole.attempts, whole.resyncs) == (55, 55)
        assert whole.error_classes == {"conflict": 5}
        assert numbers == list(range(1, 101))
        assert json.loads((run.path / SUMMARY).read_bytes())["family"] == [run.id, retried.id]
        assert retried.summary.family == ()


async def test_what_moved_since_a_plan_is_retried_only_when_asked_for(tmp_path: Path) -> None:
    """A sync that somebody edited between plan and apply is not overwritten by a plain retry."""
    async with Stage(tmp_path, max_failures="100%") as stage:
        stage.plain(2)
        plan = await stage.plan()
        stage.set("s1", credential_id=OTHER)
        run = await stage.apply(plan.run_id)

        with pytest.raises(SettingsError, match="--class conflicted"):
            await stage.retry(run)
        retried = await stage.retry(run, "conflicted")

        assert run.counts == {"updated": 1, "conflicted": 1}
        assert retried.counts == {"updated": 1}


async def test_a_second_retry_takes_what_failed_in_the_family(tmp_path: Path) -> None:
    """Named is the first run or its retry: either way each row counts as it ended last."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        expecting(stage, 4)
        for n in (1, 2, 3):
            stage.set(f"s{n}", credential_id=OTHER)
        run = await stage.run()
        stage.set("s1", credential_id=OLD)
        first = await stage.retry(run)
        stage.set("s2", credential_id=OLD)
        second = await stage.retry(first)
        stage.set("s3", credential_id=OLD)
        third = await stage.retry(run)
        whole = family(run)

        assert [run.counts["conflicted"], first.counts["conflicted"]] == [3, 2]
        assert second.counts == {"updated": 1, "conflicted": 1}
        assert second.opened.manifest.parent == first.id
        assert third.counts == {"updated": 1}
        assert third.opened.manifest.parent == run.id
        assert whole.family == (run.id, first.id, second.id, third.id)
        assert counts(whole) == {"updated": 4}
        assert (whole.verdict, whole.exit_code) == ("succeeded", 0)
        with pytest.raises(SettingsError, match="every row succeeded"):
            await stage.retry(second)


async def test_the_last_outcome_is_the_one_that_came_last(tmp_path: Path) -> None:
    """A run that is resumed after it was retried has the last word on the rows it then ends."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        expecting(stage, 3)
        run = await stage.run()
        run.forget(2, 3)
        for n in (2, 3):
            stage.set(f"s{n}", credential_id=OTHER)
        retried = await stage.retry(run)
        middle = family(run)
        for n in (2, 3):
            stage.set(f"s{n}", credential_id=NEW)
        await stage.resume(run)

        assert retried.counts == {"conflicted": 2}
        assert counts(middle) == {"updated": 1, "conflicted": 2}
        assert counts(family(run)) == {"updated": 3}


async def test_what_is_retried_is_asked_for_by_class(tmp_path: Path) -> None:
    """Outcomes and error classes both name rows; what could not succeed now is left out."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(2)
        stage.set("s1", credential_id=OTHER)
        stage.write(
            {"sync_id": s, "user_id": "u1", "credential_id": c, "expected_credential_id": OLD}
            for s, c in (("s1", NEW), ("s2", NEW), ("gone", NEW), ("s9", "wrong"))
        )
        run = await stage.run(skip_invalid=True)
        default = await stage.retry(run)
        rejected = await stage.retry(run, "not_found")
        invalid = await stage.retry(run, "invalid, conflict")

        assert run.counts == {"updated": 1, "conflicted": 1, "rejected": 1, "invalid": 1}
        assert [row["sync_id"] for row in default.table("failed.csv")] == ["s1"]
        assert [row["sync_id"] for row in rejected.table("failed.csv")] == ["gone"]
        assert invalid.counts == {"invalid": 1, "conflicted": 1}
        assert [int(origin["sync_id"] == "s9") for origin in invalid.table("failed.csv")] == [0, 1]


async def test_nothing_to_retry_says_what_there_is(tmp_path: Path) -> None:
    """The refusal counts what failed and names the words that would retry it."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(1)
        stage.write([{"sync_id": "gone", "user_id": "u1", "credential_id": NEW}])
        run = await stage.run()

        with pytest.raises(SettingsError, match=f"1 rejected.*retry {run.id} --class rejected"):
            await stage.retry(run)
        with pytest.raises(SettingsError, match="--class sad"):
            await stage.retry(run, "sad")
        with pytest.raises(SettingsError, match="names nothing"):
            await stage.retry(run, ",")
        with pytest.raises(RunChanged, match="--project-id"):
            await stage.retry(run, "rejected", project_id="other", audience=None)
        run.opened.folder.lock()
        with pytest.raises(RunLocked):
            await stage.retry(run, "rejected")
        run.opened.folder.unlock()
        assert [folder.name for folder in (tmp_path / "runs").iterdir() if folder.is_dir()] == [
            run.id
        ]


async def test_a_refused_run_is_not_retried(tmp_path: Path) -> None:
    """A run whose input was refused has nothing that could be sent again."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.write([{"sync_id": "s1", "user_id": "u1", "credential_id": "wrong"}])
        with pytest.raises(Exception, match="cannot become a change"):
            stage.open(run_id="x")
        with pytest.raises(RunRefused, match="never came to send"):
            open_retry("x", stage.resolved(), warn=print)


async def test_an_interrupted_run_may_be_retried(tmp_path: Path) -> None:
    """Rows that were not reached are carried by the retry, with the run's own settings."""
    async with Stage(tmp_path, until="accepted", concurrency=2, rate=500) as stage:
        stage.plain(60)
        run = await stage.interrupted(after=40)
        retried = await stage.retry(run, rate=1000)
        whole = family(run)

        assert run.summary.counts["unprocessed"] > 0
        assert retried.opened.settings.rate == 1000
        assert retried.opened.settings.concurrency == 2
        assert counts(whole)["updated"] + counts(whole).get("unchanged", 0) == 60
        assert whole.verdict == "succeeded"


CELLS = ["plain", "two\nlines", "a,b", 'say "hi"', " blanks ", "=1+1", "cr\rhere", "", "é☃"]


async def test_a_retry_has_the_own_columns_cell_for_cell(tmp_path: Path) -> None:
    """Whatever stands in a column of the user's own is in the retry's input and files as it was."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(len(CELLS))
        stage.write(
            {
                "sync_id": f"s{n}",
                "user_id": "u1",
                "credential_id": NEW,
                "expected_credential_id": OTHER,
                "note": note,
                "syncshift_row": "99",
            }
            for n, note in enumerate(CELLS, 1)
        )
        run = await stage.run()
        retried = await stage.retry(run)
        with (retried.path / "input.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))

        assert [row["note"] for row in rows] == CELLS
        assert [row["syncshift_row"] for row in rows] == [str(n) for n in range(1, len(CELLS) + 1)]
        assert [row["note"] for row in retried.table("failed.csv")] == CELLS


async def test_a_retry_of_jsonl_is_jsonl(tmp_path: Path) -> None:
    """Values that are no text stay what they are, and a line that is no object stays invalid."""
    async with Stage(tmp_path, until="accepted", max_failures="100%") as stage:
        stage.plain(3)
        stage.source = tmp_path / "input.jsonl"
        first = {"syncId": "s1", "user_id": "u1", "credential_id": NEW}
        last = {"sync_id": "gone", "user_id": "u1", "credential_id": NEW, "syncshift_row": "7"}
        stage.source.write_text(
            f'{json.dumps(first)[:-1]},"n":1.50}}\n[1]\n{json.dumps(last)}\n', encoding="utf-8"
        )
        run = await stage.run(skip_invalid=True)
        run.forget(1)
        retried = await stage.retry(run, "unprocessed,rejected,invalid")
        lines = [
            json.loads(line)
            for line in (retried.path / "input.jsonl").read_text(encoding="utf-8").splitlines()
        ]

        assert lines == [
            {**first, "n": 1.5, "syncshift_row": 1},
            {"unreadable": "[1]", "syncshift_row": 2},
            {**last, "syncshift_row": 3},
        ]
        assert '"n":1.50' in (retried.path / "input.jsonl").read_text(encoding="utf-8")
        assert retried.counts == {"unchanged": 1, "invalid": 1, "rejected": 1}
        assert counts(family(run)) == {"unchanged": 1, "invalid": 1, "rejected": 1}


def test_the_default_leaves_out_what_cannot_succeed_now() -> None:
    """Rejected, invalid and irreversible rows are retried only when they are asked for."""
    never = {OutcomeKind.REJECTED, OutcomeKind.INVALID, OutcomeKind.IRREVERSIBLE}

    assert BY_DEFAULT.isdisjoint(kind.value for kind in never)
    assert {"exhausted", "conflicted", "unconfirmed", "errored", "unprocessed"} == BY_DEFAULT
