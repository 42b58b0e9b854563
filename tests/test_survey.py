"""A look at a sync: what it says of a row that is planned, or that is verified. It never writes."""

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec
import pytest

from runner.asking import Asker, ReadsOnly
from runner.attempt import Transport
from runner.drift import moved_since
from runner.errors import Fault, FaultKind
from runner.job import CREDENTIAL, SyncJob, find
from runner.model import Change, ErrorClass, Finding, FindingKind, Request, Response, Sighting
from runner.retry import Ruling, judge
from runner.rounds import make_plan
from runner.survey import Looks, Planning, Verifying
from tests.stage import BOTH, MIGRATE, NEW, OLD, OTHER, Stage

READY = Sighting(status="IDLE")


def change(expected: dict[str, str] | None = None, **desired: str) -> Change:
    """Return a change to `NEW`, or to *desired*."""
    return Change(1, 2, "s1", "u1", desired or {"credential_id": NEW}, expected)


def planned(finding: FindingKind, before: dict[str, str] | None, error: str = "") -> Finding:
    """Return what was found of a row when it was planned."""
    return Finding(
        row=1,
        line=2,
        sync_id="s1",
        user_id="u1",
        finding=finding,
        before=before,
        error=error or None,
    )


class TestPlanning:
    """What a state means for a row that is to be changed."""

    @pytest.mark.parametrize(
        ("asked", "state", "finding", "error"),
        [
            (change(), {"credential_id": OLD}, "change", None),
            (change(), {"credential_id": NEW}, "unchanged", None),
            (change({"credential_id": OTHER}), {"credential_id": NEW}, "unchanged", None),
            (
                change({"credential_id": OTHER}),
                {"credential_id": OLD},
                "conflicted",
                f"credential_id is {OLD}; expected {OTHER}",
            ),
            (change(), {}, "unknown", "the API does not tell credential_id of this sync"),
            (
                change({"frequency": "1h"}),
                {"credential_id": OLD},
                "unknown",
                "the API does not tell frequency of this sync",
            ),
            (
                change(credential_id=NEW, frequency="1h"),
                {"credential_id": OLD},
                "unknown",
                "the API does not tell frequency of this sync",
            ),
        ],
    )
    def test_a_state_is_compared_as_a_run_would(
        self, asked: Change, state: dict[str, str], finding: str, error: str | None
    ) -> None:
        """In force goes before not expected; a field that is not told is no guess."""
        told = Planning(find(BOTH)).weigh(asked, state, READY)

        assert (told.finding, told.error) == (finding, error)

    def test_only_a_new_credential_starts_a_resync(self) -> None:
        """A re-sync is counted where the credential becomes another one, and nowhere else."""
        ask = Planning(find(BOTH)).weigh
        state = {"credential_id": OLD, "frequency": "1h"}

        assert ask(change(), state, READY).resync
        assert not ask(change(frequency="5m"), state, READY).resync
        assert not ask(change(credential_id=OLD, frequency="5m"), state, READY).resync

    @pytest.mark.parametrize("status", ["ERRORED", "DISABLED"])
    def test_a_lame_sync_is_a_change_with_a_warning(self, status: str) -> None:
        """A dead credential is a reason to migrate; that it may stay dead is said."""
        told = Planning(find(MIGRATE)).weigh(
            change(), {"credential_id": OLD}, Sighting(status=status)
        )

        assert told.finding is FindingKind.CHANGE
        assert told.error is not None
        assert told.error.startswith(f"is {status}: a new credential may not revive it")

    @pytest.mark.parametrize(
        ("answer", "finding"),
        [
            (Response(404, b""), "blocked"),
            (Response(401, b""), "blocked"),
            (Response(403, b""), "blocked"),
            (Response(500, b""), "unknown"),
            (Fault(FaultKind.TIMEOUT, "slow"), "unknown"),
            (Fault(FaultKind.INTERNAL, "KeyError"), "unknown"),
        ],
    )
    def test_a_refusal_blocks_and_silence_does_not(
        self, answer: Response | Fault, finding: str
    ) -> None:
        """Only what the API refuses is blocked; what could not be asked is unknown."""
        ruling = judge(answer, writes=False)

        assert Planning(find(MIGRATE)).refused(ruling) == finding


class TestVerifying:
    """What a state means for a row that was carried."""

    @pytest.mark.parametrize(
        ("state", "finding", "error"),
        [
            ({"credential_id": NEW, "frequency": "1h"}, "in_force", None),
            (
                {"credential_id": OTHER, "frequency": "1h"},
                "drifted",
                f"credential_id is {OTHER}, not {NEW}",
            ),
            (
                {"credential_id": OTHER, "frequency": "5m"},
                "drifted",
                f"credential_id is {OTHER}, not {NEW}; frequency is 5m, not 1h",
            ),
            ({"frequency": "5m"}, "drifted", "frequency is 5m, not 1h"),
            ({"frequency": "1h"}, "not_told", "the API does not tell credential_id of this sync"),
        ],
    )
    def test_a_state_is_compared_with_what_was_wanted(
        self, state: dict[str, str], finding: str, error: str | None
    ) -> None:
        """One field that differs outweighs one that is not told, and is named with both values."""
        asked = change(credential_id=NEW, frequency="1h")
        told = Verifying(find(BOTH)).weigh(asked, state, READY)

        assert (told.finding, told.error) == (finding, error)

    @pytest.mark.parametrize(
        ("status", "finding"), [(404, "gone"), (410, "gone"), (401, "not_told"), (500, "not_told")]
    )
    def test_only_a_missing_sync_is_gone(self, status: int, finding: str) -> None:
        """That a token is refused says nothing about the sync."""
        ruling: Ruling = judge(Response(status, b""), writes=False)

        assert Verifying(find(MIGRATE)).refused(ruling) == finding


class TestMovedSince:
    """What an apply may still change, by what was found when it was planned."""

    def test_what_is_as_it_was_may_be_changed(self) -> None:
        """The same state as in the plan lets a row go on."""
        for kind in (FindingKind.CHANGE, FindingKind.UNCHANGED):
            assert (
                moved_since(planned(kind, {"credential_id": OLD}), {"credential_id": OLD}) is None
            )

    def test_what_has_moved_is_told_from_what_to_what(self) -> None:
        """Any field of the before-image that is another now stops the row."""
        before = {"credential_id": OLD, "frequency": "1h"}

        assert moved_since(
            planned(FindingKind.CHANGE, before), {"credential_id": OLD, "frequency": "5m"}
        ) == (ErrorClass.CONFLICT, "frequency was 1h when it was planned, and is now 5m")
        assert moved_since(planned(FindingKind.UNCHANGED, {"credential_id": NEW}), before) == (
            ErrorClass.CONFLICT,
            f"credential_id was {NEW} when it was planned, and is now {OLD}",
        )

    def test_what_is_not_told_any_more_stops_the_row(self) -> None:
        """A field that the plan knew and the API now keeps to itself is unknown, not equal."""
        found = moved_since(planned(FindingKind.CHANGE, {"credential_id": OLD}), {})

        assert found == (
            ErrorClass.UNKNOWN_STATE,
            f"the API does not tell credential_id of this sync any more; it was {OLD} when planned",
        )

    def test_what_was_not_planned_to_be_changed_is_not(self) -> None:
        """A row that was blocked, in conflict or unknown stays as it is, and its reason is told."""
        assert moved_since(planned(FindingKind.BLOCKED, None, "404: none"), {}) == (
            ErrorClass.CONFLICT,
            "was blocked when it was planned: 404: none; plan again",
        )
        assert moved_since(planned(FindingKind.UNKNOWN, {}, "not told"), {}) == (
            ErrorClass.UNKNOWN_STATE,
            "was unknown when it was planned: not told; plan again",
        )


# ------------------------------------------------------------------------------- nothing is written


def test_a_survey_is_handed_nothing_that_can_write() -> None:
    """What a survey asks through has one question, and it takes no request."""
    questions = [name for name in vars(Looks) if not name.startswith("_")]

    assert questions == ["look"]
    assert list(inspect.signature(Looks.look).parameters) == ["self", "change"]


async def test_a_transport_for_reads_passes_nothing_else() -> None:
    """A PATCH, a POST, or a GET with a body is stopped before it reaches the wire."""

    class Wire(Transport):
        def __init__(self) -> None:
            self.sent: list[Request] = []

        async def send(
            self, request: Request, authorization: str, *, afresh: bool = False
        ) -> Response | Fault:
            self.sent.append(request)
            return Response(200, b"{}")

    wire = Wire()
    reads = ReadsOnly(wire)
    path = ("api", "syncs", "s1")
    for request in (
        Request("PATCH", path, b"{}"),
        Request("POST", path),
        Request("GET", path, b""),
    ):
        answer = await reads.send(request, "Bearer x")
        assert isinstance(answer, Fault)
        assert not answer.sent
    passed = await reads.send(Request("GET", path), "Bearer x")

    assert isinstance(passed, Response)
    assert wire.sent == [Request("GET", path)]


class Sly(SyncJob):
    """A job whose read is a write."""

    name = "sly"
    owns = (CREDENTIAL,)

    def read(self, change: Change) -> Request:
        """Ask for the change itself."""
        return self.write(change)


async def test_a_plan_of_a_job_that_writes_when_it_reads_writes_nothing(tmp_path: Path) -> None:
    """Not even a job that breaks its promise gets a write past a plan."""
    async with Stage(tmp_path) as stage:
        stage.plain(8)
        opened = msgspec.structs.replace(stage.open(), job=Sly())
        plan = await make_plan(opened, show=lambda _: None, clocks=stage.clocks)

        assert stage.audit == []
        assert plan.findings["blocked"] == 8


async def test_an_engine_that_looks_has_no_way_to_write(tmp_path: Path) -> None:
    """What `looking` yields offers a look and nothing besides."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        opened = stage.open()
        asker = Asker(opened.settings, clocks=stage.clocks)
        async with asker.looking(opened.job, opened.tokens) as looks:
            offered = [name for name in dir(looks) if not name.startswith("_")]
            found = await looks.look(change())

        assert offered == ["look"]
        assert found.accepted
        opened.folder.unlock()
        assert [entry.method for entry in stage.audit] == ["GET"]
