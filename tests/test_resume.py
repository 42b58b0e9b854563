"""A run goes on where it stood: what has ended stays so, what is in doubt is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.errors import InputError, JournalDamaged, NoSuchRun, RunChanged, RunRefused
from runner.simulator import TOLD, Behavior, SyncRecord
from runner.tokens import make_demo_key
from tests.stage import BOTH, FREQUENCY, NEW, OLD, OTHER, Run, Stage


class TestDoubt:
    """Rows with an intent and no outcome: they are read, and what is seen decides."""

    async def doubtful(self, stage: Stage, *rows: int, **settings: Any) -> Run:
        """Return a run of three rows; the outcomes of some were lost in a crash."""
        stage.plain(3)
        run = await stage.run(**settings)
        run.forget(*rows)
        return run

    async def test_what_is_in_force_was_updated(self, tmp_path: Path) -> None:
        """The read shows the desired state: updated, confirmed, with the recorded before-image."""
        async with Stage(tmp_path) as stage:
            run = await self.doubtful(stage, 2)
            resumed = await stage.resume(run)

            line = resumed.outcomes[2]
            assert (line["outcome"], line["proof"]) == ("updated", "confirmed")
            assert (line["before"], line["sent"]) == ({"credential_id": OLD}, True)
            assert line["attempts"] == 1
            assert stage.patches == {"s1": 1, "s2": 1, "s3": 1}
            assert stage.reads == {"s1": 1, "s2": 2, "s3": 1}

    async def test_what_is_still_as_before_is_sent(self, tmp_path: Path) -> None:
        """The read shows the before-image: the PATCH never landed, so it is sent; one intent."""
        async with Stage(tmp_path) as stage:
            run = await self.doubtful(stage, 2)
            stage.set("s2", credential_id=OLD)
            resumed = await stage.resume(run)

            line = resumed.outcomes[2]
            assert (line["outcome"], line["proof"], line["attempts"]) == ("updated", "accepted", 1)
            assert stage.patches["s2"] == 2
            assert [i["row"] for i in resumed.intents].count(2) == 1

    async def test_what_is_something_else_is_a_conflict(self, tmp_path: Path) -> None:
        """Neither the before-image nor the aim: somebody else was there, and nothing is sent."""
        async with Stage(tmp_path) as stage:
            run = await self.doubtful(stage, 2)
            stage.set("s2", credential_id=OTHER)
            resumed = await stage.resume(run)

            assert resumed.outcome(2) == ("conflicted", "conflict")
            told = f"credential_id was {OLD} and was to become {NEW}, but is now {OTHER}"
            assert resumed.outcomes[2]["error"] == told
            assert resumed.outcomes[2]["sent"] is True
            assert stage.patches["s2"] == 1

    async def test_what_is_not_told_is_sent_again(self, tmp_path: Path) -> None:
        """The API does not tell the field: the change is absolute, so it is sent once more."""
        async with Stage(tmp_path) as stage:
            run = await self.doubtful(stage, 2)
            stage.sim.behavior = Behavior(tells=TOLD - {"credentialId"})
            resumed = await stage.resume(run)

            assert resumed.outcome(2) == ("updated", None)
            assert resumed.outcomes[2]["before"] == {"credential_id": OLD}
            assert stage.patches["s2"] == 2
            assert len(resumed.intents) == 3

    async def test_without_reading_it_is_sent_again(self, tmp_path: Path) -> None:
        """Under --no-read nothing is looked at: the change is sent once more."""
        async with Stage(tmp_path) as stage:
            run = await self.doubtful(stage, 2, no_read=True)
            resumed = await stage.resume(run)

            assert resumed.outcome(2) == ("updated", None)
            assert (stage.patches["s2"], stage.reads) == (2, {})
            assert len(resumed.intents) == 3

    async def test_an_expectation_was_met_before_and_is_not_asked_again(
        self, tmp_path: Path
    ) -> None:
        """A row in doubt was as expected when its intent was written; that is not held twice."""
        async with Stage(tmp_path) as stage:
            stage.plain(1)
            stage.write(
                [
                    {
                        "sync_id": "s1",
                        "user_id": "u1",
                        "credential_id": NEW,
                        "expected_credential_id": OLD,
                    }
                ]
            )
            run = await stage.run()
            run.forget(1)
            resumed = await stage.resume(run)

            assert resumed.outcome(1) == ("updated", None)
            assert resumed.outcomes[1]["proof"] == "confirmed"

    async def test_a_row_that_cannot_be_read_stays_in_its_own_trouble(self, tmp_path: Path) -> None:
        """A sync that is gone meanwhile is rejected; its outcome says that it may have landed."""
        async with Stage(tmp_path) as stage:
            run = await self.doubtful(stage, 2)
            stage.set("s2", user="somebody")
            resumed = await stage.resume(run)

            assert resumed.outcome(2) == ("rejected", "not_found")
            assert resumed.outcomes[2]["sent"] is True

    async def test_a_field_that_was_not_told_before_and_is_now_is_a_conflict(
        self, tmp_path: Path
    ) -> None:
        """What was unknown then and is neither aim nor before-image now is somebody else's."""
        async with Stage(tmp_path) as stage:
            stage.plain(1, frequency=None)
            stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
            run = await stage.run(FREQUENCY)
            run.forget(1)
            stage.set("s1", frequency="24h")
            resumed = await stage.resume(run)

            assert resumed.outcome(1) == ("conflicted", "conflict")
            assert "frequency was not told and was to become 5m" in resumed.outcomes[1]["error"]

    async def test_of_two_fields_the_one_that_is_left_is_sent(self, tmp_path: Path) -> None:
        """A row in doubt of which half is in force gets the other half."""
        async with Stage(tmp_path) as stage:
            stage.plain(1, frequency="1h")
            row = {"sync_id": "s1", "user_id": "u1", "credential_id": NEW, "frequency": "5m"}
            stage.write([row])
            run = await stage.run(BOTH)
            run.forget(1)
            stage.set("s1", frequency="1h")
            resumed = await stage.resume(run)

            assert resumed.outcome(1) == ("updated", None)
            assert resumed.outcomes[1]["before"] == {"credential_id": OLD, "frequency": "1h"}
            bodies = [json.loads(e.body or "") for e in stage.audit if e.method == "PATCH"]
            assert bodies[-1] == {"incrementalAccumulatorFrequency": "5m"}


@pytest.mark.parametrize("after", [1, 40, 150, 333])
async def test_d2_an_interrupted_run_is_finished_by_resume(after: int, tmp_path: Path) -> None:
    """D2: nothing is lost and nothing is sent twice, wherever the run was interrupted."""
    async with Stage(tmp_path, concurrency=8) as stage:
        stage.seed(200, users=20)
        run = await stage.interrupted(after=after)
        assert (run.summary.verdict, run.summary.exit_code) == ("interrupted", 143)
        assert run.counts["unprocessed"] > 0
        ended = {line["sync_id"] for line in run.lines}
        asked = stage.reads + stage.patches
        before = {intent["row"]: intent["before"] for intent in run.intents}

        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 200}
        assert stage.in_force() == 200
        assert resumed.summary.exit_code == 0
        again = stage.reads + stage.patches
        assert all(again[sync_id] == asked[sync_id] for sync_id in ended)
        # The first before-image stays, and there is no second one.
        assert len(resumed.intents) == 200
        kept = {intent["row"]: intent["before"] for intent in resumed.intents}
        assert before.items() <= kept.items()


async def test_d3_a_crash_repeats_no_more_than_the_rows_in_doubt(tmp_path: Path) -> None:
    """D3: only rows with an intent and no outcome are read again; none that landed is sent."""
    async with Stage(tmp_path, concurrency=8) as stage:
        stage.seed(100, users=10)
        run = await stage.run()
        lost = [line["row"] for line in run.lines[-15:]]
        run.forget(*lost)
        reads, patches = stage.reads.total(), stage.patches.total()
        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 100}
        assert stage.reads.total() - reads == len(lost)
        assert stage.patches.total() == patches
        assert resumed.events[-2]["in_doubt"] == 15


async def test_every_outcome_lost_is_every_row_in_doubt(tmp_path: Path) -> None:
    """With the whole report gone the undo log still keeps everything from being sent blindly."""
    async with Stage(tmp_path) as stage:
        stage.seed(60, users=6)
        run = await stage.run()
        run.forget_all()
        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 60}
        assert stage.patches.total() == 60
        assert {line["proof"] for line in resumed.lines} == {"confirmed"}


async def test_a_finished_run_resumes_to_nothing(tmp_path: Path) -> None:
    """Nothing is left: no request, the same account, exit code 0."""
    async with Stage(tmp_path) as stage:
        stage.seed(20)
        run = await stage.run()
        requests = stage.sim.requests
        opened = stage.reopen(run.id)
        assert opened.left == 0
        resumed = await stage.carry(opened)

        assert stage.sim.requests == requests
        assert resumed.summary.counts == run.summary.counts
        assert resumed.summary.files == run.summary.files
        assert resumed.summary.exit_code == 0


async def test_duplicates_follow_their_first_row_across_a_resume(tmp_path: Path) -> None:
    """A duplicate whose first row had ended before the crash gets its end from the record."""
    async with Stage(tmp_path) as stage:
        stage.plain(2)
        stage.sim.add(SyncRecord(id="theirs", user="somebody"))
        ids = ["s1", "theirs", "s2", "s1", "theirs", "s1"]
        stage.write({"sync_id": i, "user_id": "u1", "credential_id": NEW} for i in ids)
        run = await stage.run(max_failures="100%")
        run.forget(4, 5, 6)
        requests = stage.sim.requests
        resumed = await stage.resume(run)

        assert resumed.outcome(4) == resumed.outcome(6) == ("duplicate", None)
        assert resumed.outcome(5) == ("rejected", "duplicate_of_failed")
        assert resumed.outcomes[5]["error"] == (
            "asks for the same as row 2 (line 3), which is rejected"
        )
        assert stage.sim.requests == requests


async def test_a_duplicate_whose_first_row_is_left_ends_with_it(tmp_path: Path) -> None:
    """A duplicate is never sent itself, also when its first row is carried by the resume."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.write([{"sync_id": "s1", "user_id": "u1", "credential_id": NEW}] * 3)
        run = await stage.run()
        run.forget_all()
        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 1, "duplicate": 2}
        assert stage.patches["s1"] == 1


class TestRefusals:
    """What makes another run out of it is refused before any request, and named."""

    async def stopped(self, stage: Stage) -> Run:
        """Return a run with rows left."""
        stage.plain(30)
        run = await stage.interrupted(after=10)
        stage.sim.audit.clear()
        return run

    @pytest.mark.parametrize(
        ("setting", "value", "told"),
        [
            ("base_url", "https://sync.example.com", "--base-url http://127.0.0.1:"),
            ("project_id", "p2", "--project-id p1, and now it is p2"),
            ("audience", "useparagon.com/p2", "--audience useparagon.com/p1, and now it is"),
        ],
    )
    async def test_d9_another_target_is_refused(
        self, setting: str, value: str, told: str, tmp_path: Path
    ) -> None:
        """D9: another host, project or audience is another run; both values are named."""
        async with Stage(tmp_path) as stage:
            run = await self.stopped(stage)
            settings: dict[str, Any] = {setting: value}
            with pytest.raises(RunChanged) as refused:
                stage.reopen(run.id, **settings)

            assert told in str(refused.value)
            assert value in str(refused.value)
            assert refused.value.exit_code == 5
            assert stage.audit == []
            assert not run.opened.folder.is_locked()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data.replace(NEW.encode(), OTHER.encode(), 1),
            lambda data: data[:-1],
            lambda data: data + b"\n",
        ],
    )
    async def test_d9_another_input_is_refused(
        self, spoil: Callable[[bytes], bytes], tmp_path: Path
    ) -> None:
        """D9: one byte of the run's copy that differs is another input."""
        async with Stage(tmp_path) as stage:
            run = await self.stopped(stage)
            copy = run.path / "input.csv"
            copy.write_bytes(spoil(copy.read_bytes()))
            with pytest.raises(RunChanged, match="is not the input that the run began with"):
                stage.reopen(run.id)

            assert stage.audit == []

    async def test_d9_an_input_that_is_gone_is_named(self, tmp_path: Path) -> None:
        """D9: without its input a run cannot go on; the message says which file to put back."""
        async with Stage(tmp_path) as stage:
            run = await self.stopped(stage)
            (run.path / "input.csv").unlink()
            with pytest.raises(
                RunChanged, match=r"input\.csv: the input of the run cannot be read"
            ):
                stage.reopen(run.id)

    async def test_the_original_may_change_once_it_was_copied(self, tmp_path: Path) -> None:
        """The copy is the run's; what becomes of the file it came from does not matter."""
        async with Stage(tmp_path) as stage:
            run = await self.stopped(stage)
            stage.source.unlink()
            resumed = await stage.resume(run)

            assert resumed.counts == {"updated": 30}

    async def test_d4_a_damaged_journal_is_refused(self, tmp_path: Path) -> None:
        """D4: a byte that was changed in the middle stops everything before any request."""
        async with Stage(tmp_path) as stage:
            run = await self.stopped(stage)
            undo = run.path / "undo.jsonl"
            data = bytearray(undo.read_bytes())
            data[40] ^= 1
            undo.write_bytes(data)
            with pytest.raises(JournalDamaged, match=r"undo\.jsonl: line 1"):
                stage.reopen(run.id)

            assert stage.audit == []
            assert not run.opened.folder.is_locked()

    @pytest.mark.parametrize("name", ["undo.jsonl", "report.jsonl"])
    async def test_d4_a_journal_that_is_gone_is_refused(self, tmp_path: Path, name: str) -> None:
        """Without either nobody knows what was sent: nothing is, and the file is named."""
        async with Stage(tmp_path) as stage:
            run = await self.stopped(stage)
            (run.path / name).unlink()
            with pytest.raises(JournalDamaged, match=rf"{name}: is gone"):
                stage.reopen(run.id)

            assert stage.audit == []
            assert not run.opened.folder.is_locked()

    async def test_a_run_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        """A name that is nearly right is answered with the right one."""
        async with Stage(tmp_path) as stage:
            stage.plain(1)
            run = await stage.carry(stage.open(run_id="friday"))
            with pytest.raises(NoSuchRun, match=f"did you mean {run.id}"):
                stage.reopen("fridy")

    async def test_a_refused_run_cannot_be_resumed(self, tmp_path: Path) -> None:
        """A run whose input was refused never sent anything; a new one has to be begun."""
        async with Stage(tmp_path) as stage:
            stage.write([{"sync_id": "s1", "user_id": "u1", "credential_id": "nonsense"}])
            with pytest.raises(InputError, match="cannot become a change"):
                stage.open(run_id="bad")
            with pytest.raises(RunRefused, match="refused before anything was sent"):
                stage.reopen("bad")


async def test_settings_may_be_given_anew(tmp_path: Path) -> None:
    """Rate, concurrency, time limit and failure limit are the resume's own if it gives them."""
    async with Stage(tmp_path) as stage:
        stage.plain(30)
        run = await stage.interrupted(after=10, concurrency=4)
        opened = stage.reopen(
            run.id, rate=500, concurrency=2, timeout="7s", max_failures="3", max_attempts=9
        )
        settings = opened.settings
        resumed = await stage.carry(opened)

        assert (settings.rate, settings.concurrency, settings.timeout_s) == (500.0, 2, 7.0)
        assert settings.max_failures == "3"
        # Not among those that may change: the run's own stands.
        assert settings.max_attempts == 5
        assert resumed.summary.limits["concurrency"] == 2
        assert resumed.counts == {"updated": 30}


async def test_another_key_of_the_same_project_may_finish_a_run(tmp_path: Path) -> None:
    """A wrong key stops a run; with the right one it goes on: the key is not part of it."""
    async with Stage(tmp_path) as stage:
        stage.plain(40, users=8)
        right = stage.key
        stage.key = make_demo_key()
        run = await stage.run()
        stage.key = right
        resumed = await stage.resume(run)

        assert (run.summary.exit_code, run.counts) == (4, {"unprocessed": 40})
        assert resumed.counts == {"updated": 40}


async def test_a_run_killed_while_it_checked_is_checked_again(tmp_path: Path) -> None:
    """The manifest says *checking*, and knows neither rows nor fingerprint: both are made anew."""
    async with Stage(tmp_path) as stage:
        stage.plain(10)
        opened = stage.open()
        folder, manifest = opened.folder, opened.manifest
        folder.write(
            msgspec.structs.replace(
                manifest,
                rows=None,
                users=None,
                input=msgspec.structs.replace(manifest.input, bytes=None, sha256=None),
            )
        )
        (folder.path / "input.csv").unlink()
        folder.unlock()
        resumed = await stage.carry(stage.reopen(folder.run_id))

        assert resumed.counts == {"updated": 10}
        assert folder.read().input.sha256 == manifest.input.sha256
        assert folder.read().rows == 10
