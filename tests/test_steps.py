"""What happens to one change: look, write down, touch, judge; and how its end is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.job import CREDENTIAL, SyncJob
from runner.model import Change, Field, Request, Response, State
from runner.simulator import TOLD, Behavior, Fault, Faults, SyncRecord
from tests.stage import BOTH, FREQUENCY, MIGRATE, NEW, OLD, OTHER, Stage, in_fast_motion


def bodies(stage: Stage, sync_id: str = "s1") -> list[Any]:
    """Return what the PATCHes to a sync asked for."""
    return [
        json.loads(entry.body or "")
        for entry in stage.audit
        if entry.method == "PATCH" and entry.sync_id == sync_id
    ]


def only(stage: Stage, **row: str) -> None:
    """Make an input of one row, about sync ``s1`` of ``u1``."""
    stage.write([{"sync_id": "s1", "user_id": "u1", **row}])


async def test_a_change_is_read_then_written_down_then_sent(tmp_path: Path) -> None:
    """The intent holds what the read showed; the outcome says how far the effect is shown."""
    async with Stage(tmp_path) as stage:
        when = "2026-01-05T08:30:22.990Z"
        stage.plain(1, status="IDLE", total_records=42, last_synced_at=when)
        run = await stage.run()

        (intent,) = run.intents
        assert [entry.method for entry in stage.audit] == ["GET", "PATCH"]
        assert bodies(stage) == [{"credentialId": NEW}]
        assert intent["before"] == {"credential_id": OLD}
        assert intent["desired"] == {"credential_id": NEW}
        assert intent["seen"] == {"status": "IDLE", "total_records": 42, "last_synced_at": when}
        assert (intent["row"], intent["line"]) == (1, 2)
        line = run.outcomes[1]
        kept = ("outcome", "proof", "sent", "before", "desired", "http_status", "attempts")
        assert {name: line[name] for name in kept} == {
            "outcome": "updated",
            "proof": "accepted",
            "sent": True,
            "before": {"credential_id": OLD},
            "desired": {"credential_id": NEW},
            "http_status": 200,
            "attempts": 1,
        }
        assert (line["error_class"], line["error"]) == (None, None)
        assert line["request_id"] == f"sim-{stage.audit[-1].number}"


async def test_what_is_so_already_is_not_sent(tmp_path: Path) -> None:
    """A sync that has the credential is left alone: no intent, no PATCH, no re-sync."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, credential_id=NEW)
        run = await stage.run()

        line = run.outcomes[1]
        assert (line["outcome"], line["sent"], line["attempts"]) == ("unchanged", False, 0)
        assert (line["proof"], line["before"]) == (None, {"credential_id": NEW})
        assert run.intents == []
        assert stage.patches == {}
        assert run.summary.exit_code == 0


async def test_letter_case_of_a_credential_makes_no_change(tmp_path: Path) -> None:
    """UUIDs are compared without regard to case, in the input as in the answer."""
    mixed = "0AEA7D3A-b5f7-4488-890e-d51a5cf4f8f1"
    async with Stage(tmp_path) as stage:
        stage.plain(2, credential_id=mixed.upper())
        stage.write(
            {"sync_id": f"s{n}", "user_id": "u1", "credential_id": credential}
            for n, credential in ((1, mixed.lower()), (2, NEW.upper()))
        )
        run = await stage.run()

        assert run.outcome(1) == ("unchanged", None)
        assert run.outcome(2) == ("updated", None)
        assert bodies(stage, "s2") == [{"credentialId": NEW}]


@pytest.mark.parametrize(
    ("present", "ended"),
    [
        (OLD, ("updated", None)),
        (OTHER, ("conflicted", "conflict")),
        # Already so goes before not as expected.
        (NEW, ("unchanged", None)),
    ],
)
async def test_an_expected_state_is_held_against_the_present_one(
    present: str, ended: tuple[str, str | None], tmp_path: Path
) -> None:
    """A row with expected_credential_id changes a sync only if it still has that one."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, credential_id=present)
        only(stage, credential_id=NEW, expected_credential_id=OLD)
        run = await stage.run()

        sent = ended[0] == "updated"
        assert run.outcome(1) == ended
        assert stage.patches["s1"] == len(run.intents) == int(sent)
        assert run.outcomes[1]["sent"] is sent


async def test_a_conflict_names_both_states(tmp_path: Path) -> None:
    """Whoever reads failed.csv sees what the sync has and what was expected."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, credential_id=OTHER)
        only(stage, credential_id=NEW, expected_credential_id=OLD)
        run = await stage.run()

        assert run.outcomes[1]["error"] == f"credential_id is {OTHER}; expected {OLD}"
        assert run.outcomes[1]["before"] == {"credential_id": OTHER}
        (row,) = run.table("failed.csv")
        assert row["syncshift_error_class"] == "conflict"
        assert row["syncshift_sent"] == "false"


async def test_an_expected_state_that_is_not_told_is_no_match(tmp_path: Path) -> None:
    """What the API does not tell cannot be shown to be as expected: nothing is sent."""
    tells = TOLD - {"credentialId"}
    async with Stage(tmp_path, behavior=Behavior(tells=tells)) as stage:
        stage.plain(1)
        only(stage, credential_id=NEW, expected_credential_id=OLD)
        run = await stage.run()

        assert run.outcome(1) == ("conflicted", "unknown_state")
        assert run.outcomes[1]["error"] == "the API does not tell credential_id of this sync"
        assert (stage.patches, run.intents) == ({}, [])


async def test_a_state_that_is_not_told_is_changed_without_expectation(tmp_path: Path) -> None:
    """A row that expects nothing goes on although the API does not tell; its intent says so."""
    async with Stage(tmp_path, behavior=Behavior(tells=frozenset())) as stage:
        stage.plain(1)
        run = await stage.run()

        assert run.outcome(1) == ("updated", None)
        assert run.intents[0]["before"] == {}
        assert run.intents[0]["seen"]["status"] == "IDLE"
        assert run.intents[0]["seen"]["total_records"] is None


async def test_a_frequency_that_was_never_set_is_not_told(tmp_path: Path) -> None:
    """A missing frequency is unknown: sent without an expectation, refused with one."""
    async with Stage(tmp_path) as stage:
        stage.plain(2, frequency=None)
        stage.write(
            [
                {"sync_id": "s1", "user_id": "u1", "frequency": "5m"},
                {
                    "sync_id": "s2",
                    "user_id": "u1",
                    "frequency": "5m",
                    "expected_frequency": "1h",
                },
            ]
        )
        run = await stage.run(FREQUENCY)

        assert run.outcome(1) == ("updated", None)
        assert run.outcome(2) == ("conflicted", "unknown_state")
        assert bodies(stage) == [{"incrementalAccumulatorFrequency": "5m"}]


@pytest.mark.parametrize(
    ("credential", "frequency", "sent"),
    [
        (OLD, "5m", {"incrementalAccumulatorFrequency": "5m"}),
        (NEW, "1h", {"credentialId": NEW}),
        (NEW, "5m", {"credentialId": NEW, "incrementalAccumulatorFrequency": "5m"}),
        (NEW, "", {"credentialId": NEW}),
        ("", "5m", {"incrementalAccumulatorFrequency": "5m"}),
    ],
)
async def test_of_two_fields_only_what_differs_is_sent(
    credential: str, frequency: str, sent: dict[str, str], tmp_path: Path
) -> None:
    """A credential that is in use already is not sent again: it could start a re-sync."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, frequency="1h")
        only(stage, credential_id=credential, frequency=frequency)
        run = await stage.run(BOTH)

        desired = {"credential_id": credential, "frequency": frequency}
        assert bodies(stage) == [sent]
        assert run.outcomes[1]["before"] == {"credential_id": OLD, "frequency": "1h"}
        # The intent tells the whole aim, whatever part of it was sent.
        assert run.intents[0]["desired"] == {k: v for k, v in desired.items() if v}


async def test_both_fields_already_so_are_unchanged(tmp_path: Path) -> None:
    """Nothing is sent when neither field differs."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, frequency="1h")
        only(stage, credential_id=OLD, frequency="1h")
        run = await stage.run(BOTH)

        assert run.outcome(1) == ("unchanged", None)
        assert stage.patches == {}


async def test_one_field_not_told_is_sent_with_the_other(tmp_path: Path) -> None:
    """A field that the API does not tell counts as differing."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, frequency=None)
        only(stage, credential_id=OLD, frequency="1h")
        await stage.run(BOTH)

        assert bodies(stage) == [{"incrementalAccumulatorFrequency": "1h"}]


async def test_without_reading_everything_is_sent(tmp_path: Path) -> None:
    """--no-read sends blindly: no read, no skip, and no before-image."""
    async with Stage(tmp_path) as stage:
        stage.plain(2, credential_id=NEW)
        run = await stage.run(no_read=True)

        assert stage.reads == {}
        assert run.counts == {"updated": 2}
        assert [intent["before"] for intent in run.intents] == [None, None]
        assert [intent["seen"] for intent in run.intents] == [None, None]
        assert run.outcomes[1]["before"] is None


@pytest.mark.parametrize("status", ["ERRORED", "DISABLED", "ACTIVE", "RATE_LIMITED", "NOVEL"])
async def test_the_status_of_a_sync_does_not_stand_in_the_way(status: str, tmp_path: Path) -> None:
    """Whatever state a sync is in, its credential can be changed; the intent tells the state."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, status=status)
        run = await stage.run()

        assert run.outcome(1) == ("updated", None)
        assert run.intents[0]["seen"]["status"] == status
        assert stage.in_force() == 1


async def test_the_syncs_of_others_and_unknown_ones_are_rejected(tmp_path: Path) -> None:
    """A sync that this user does not have is rejected after one read; nothing is sent."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.add(SyncRecord(id="theirs", user="somebody"))
        stage.write(
            {"sync_id": sync_id, "user_id": "u1", "credential_id": NEW}
            for sync_id in ("s1", "theirs", "nowhere")
        )
        run = await stage.run()

        assert run.outcome(1) == ("updated", None)
        assert run.outcome(2) == run.outcome(3) == ("rejected", "not_found")
        assert run.outcomes[2]["error"] == "404: Sync not found"
        assert (stage.reads["theirs"], stage.reads["nowhere"]) == (1, 1)
        assert run.summary.exit_code == 3
        assert len(run.intents) == 1


@pytest.mark.parametrize("sync_id", ["a/b", "../admin", "a?x=1#f", "%2e%2e", "ünï/ø", " s "])
async def test_r1_an_id_is_one_opaque_segment(sync_id: str, tmp_path: Path) -> None:
    """R1: the server sees the very ID of the input, whatever stands in it."""
    async with Stage(tmp_path) as stage:
        stage.sim.add(SyncRecord(id=sync_id, user="u1", credential_id=OLD))
        stage.write([{"sync_id": sync_id, "user_id": "u1", "credential_id": NEW}])
        run = await stage.run()

        assert run.outcome(1) == ("updated", None)
        assert {entry.sync_id for entry in stage.audit} == {sync_id}


async def test_a_change_without_effect_in_time_is_told_as_accepted_only(tmp_path: Path) -> None:
    """A 200 is proof that Paragon accepted, and of nothing else."""
    async with Stage(tmp_path, behavior=Behavior(apply_after_s=3600)) as stage:
        stage.plain(1)
        run = await stage.run()

        assert run.outcomes[1]["proof"] == "accepted"
        assert stage.in_force() == 0


class _Broken(SyncJob):
    """Moves credentials, and breaks on some syncs at one of its questions."""

    name = MIGRATE
    owns: tuple[Field, ...] = (CREDENTIAL,)

    def __init__(self, breaks_in: str, *sync_ids: str) -> None:
        self._breaks_in, self._sync_ids = breaks_in, sync_ids
        self.asked = ""

    def _break(self, question: str, sync_id: str) -> None:
        if question == self._breaks_in and sync_id in self._sync_ids:
            raise KeyError(sync_id)

    def read(self, change: Change) -> Request:
        """Break, or ask."""
        self._break("read", change.sync_id)
        return super().read(change)

    def verify(self, change: Change, state: State) -> bool | None:
        """Break, or compare."""
        self._break("verify", change.sync_id)
        return super().verify(change, state)

    def write(self, change: Change) -> Request:
        """Break, or ask."""
        self._break("write", change.sync_id)
        return super().write(change)

    def echoes(self, change: Change, response: Response) -> bool:
        """Break, or compare."""
        self._break("echoes", change.sync_id)
        return super().echoes(change, response)


@pytest.mark.parametrize(
    ("question", "sent"), [("read", 0), ("verify", 0), ("write", 0), ("echoes", 1)]
)
async def test_t9_a_row_that_breaks_the_job_harms_itself_only(
    question: str, sent: int, tmp_path: Path
) -> None:
    """T9: a KeyError on one row ends that row as internal, with what was sent; all others go on."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.plain(60, users=3)
        run = await stage.carry(stage.open(), job=_Broken(question, "s30"))

        assert run.counts == {"updated": 59, "exhausted": 1}
        assert run.outcome(30) == ("exhausted", "internal")
        line = run.outcomes[30]
        assert "Syncshift itself failed on this row (KeyError)" in line["error"]
        assert stage.patches["s30"] == line["attempts"] == sent
        assert line["sent"] is bool(sent)
        assert len(run.intents) == 59 + sent


async def test_t9_broken_rows_take_no_place_in_the_queue(tmp_path: Path) -> None:
    """T9: however many rows break on their way to the queue, good ones get through."""
    async with Stage(tmp_path, concurrency=2) as stage:
        stage.plain(60)
        broken = [f"s{n}" for n in range(1, 61) if n % 3]
        run = await stage.carry(stage.open(max_failures="100%"), job=_Broken("write", *broken))

        assert run.counts == {"updated": 20, "exhausted": 40}


async def test_t9_too_many_broken_rows_in_a_row_stop_the_run(tmp_path: Path) -> None:
    """T9: 25 rows in a row that break us are our fault, not theirs; they stay unprocessed."""
    async with Stage(tmp_path, concurrency=1) as stage:
        records = stage.plain(100)
        broken = _Broken("read", *(record.id for record in records))
        run = await stage.carry(stage.open(max_failures="100%"), job=broken)

        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": 100}
        assert "25 rows in a row ended alike" in run.reason
        assert stage.sim.requests == 0


class _Mumbling(_Broken):
    """A job that understands no answer about some syncs."""

    def observe(self, response: Response) -> State | None:
        """Understand nothing that speaks of a novel state."""
        return None if b"NOVEL" in response.body else super().observe(response)


@in_fast_motion(20)
async def test_a_read_that_is_not_understood_is_asked_again(tmp_path: Path) -> None:
    """An answer to a read that makes no sense is a failed read: nothing is sent on it."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        stage.sim.add(SyncRecord(id="odd", user="u1", status="NOVEL"))
        stage.write(
            {"sync_id": sync_id, "user_id": "u1", "credential_id": NEW}
            for sync_id in ("s1", "odd", "s2")
        )
        run = await stage.carry(stage.open(), job=_Mumbling(""))

        assert run.counts == {"updated": 2, "exhausted": 1}
        assert run.outcome(2) == ("exhausted", "protocol")
        assert (stage.reads["odd"], stage.patches["odd"]) == (5, 0)


@pytest.mark.parametrize(
    "fault", [Fault.NOT_JSON, Fault.TRUNCATED, Fault.OVERSIZED, Fault.GZIP_BOMB]
)
@in_fast_motion(10)
async def test_r4_a_read_that_breaks_is_asked_again(fault: Fault, tmp_path: Path) -> None:
    """R4: a 200 whose body is not what it should be is no read; the next one counts."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "GET", [fault])
        run = await stage.run()

        assert run.outcome(1) == ("updated", None)
        assert (stage.reads["s1"], stage.patches["s1"]) == (2, 1)


async def test_r10_no_cookie_is_kept(tmp_path: Path) -> None:
    """R10: one session serves many users, so no answer's cookie is ever sent back."""
    async with Stage(tmp_path, faults=Faults(set_cookie=True)) as stage:
        stage.seed(60, users=20)
        run = await stage.run()

        assert run.counts == {"updated": 60}
        assert not any(entry.had_cookie for entry in stage.audit)
