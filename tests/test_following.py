"""How far the effect of an accepted change is shown, and how rows are followed until it is."""

from __future__ import annotations

import signal
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from runner import following
from runner.model import Acceptance, Change, Proof, Response, Sighting
from runner.proving import Case, accepted_at, begin
from runner.simulator import TOLD, Behavior, Fault, Faults, OutageKind
from tests import commands
from tests.stage import BOTH, FREQUENCY, NEW, OLD, OTHER, Run, Stage, in_fast_motion

BEFORE = "2026-01-05T08:30:22.990Z"


def told(run: Run, row: int = 1) -> tuple[str, str | None, str | None]:
    """Return how *row* ended, how far that is proved, and what is remarked."""
    line = run.outcomes[row]
    return line["outcome"], line["proof"], line["error"]


def gets(stage: Stage, sync_id: str = "s1") -> list[float]:
    """Return when a sync was read, in seconds on the stage's clock, the first look as 0."""
    moments = [e.at_monotonic_s for e in stage.audit if e.method == "GET" and e.sync_id == sync_id]
    return [moment - moments[0] for moment in moments]


# -------------------------------------------------------------------------------- confirmed


@in_fast_motion(20)
async def test_confirmed_is_what_a_later_read_has_shown(tmp_path: Path) -> None:
    """A change that comes into force after some seconds is looked for until it is there."""
    async with Stage(tmp_path, behavior=Behavior(apply_after_s=6), until="confirmed") as stage:
        stage.plain(3)
        run = await stage.run()

        assert run.counts == {"updated": 3}
        assert told(run) == ("updated", "confirmed", None)
        assert set(stage.patches.values()) == {1}
        assert run.outcomes[1]["elapsed_ms"] >= 6_000
        line = run.acceptances[1]
        assert (line["http_status"], line["attempts"]) == (200, 1)
        assert line["request_id"] == run.outcomes[1]["request_id"]


@in_fast_motion(20)
async def test_what_is_never_seen_in_force_is_unconfirmed(tmp_path: Path) -> None:
    """A 200 to which nothing comes fails in the end, and the report says what is there instead."""
    async with Stage(
        tmp_path, faults=Faults(ignored=1.0), until="confirmed", confirm_timeout="30s"
    ) as stage:
        stage.plain(1)
        run = await stage.run()

        assert told(run) == (
            "unconfirmed",
            "accepted",
            f"accepted, but not seen in force within 30 s: credential_id is {OLD}",
        )
        assert run.outcomes[1]["error_class"] == "unconfirmed"
        assert run.summary.exit_code == 3
        # The last look is made when the time is over; pauses grow up to then.
        *_, last = gets(stage)
        assert 29.5 < last < 36
        assert len(gets(stage)) <= 10


@in_fast_motion(20)
async def test_a_field_that_the_api_does_not_tell_leaves_the_proof_at_accepted(
    tmp_path: Path,
) -> None:
    """Nobody can see whether it is in force: the row is not failed, and says why."""
    behavior = Behavior(tells=TOLD - {"credentialId"})
    async with Stage(tmp_path, behavior=behavior, until="confirmed") as stage:
        stage.plain(1)
        run = await stage.run()

        remark = "the API does not tell credential_id of this sync"
        assert told(run) == ("updated", "accepted", remark)
        assert run.outcomes[1]["error_class"] is None
        assert len(gets(stage)) <= 6


@in_fast_motion(20)
async def test_a_field_may_be_told_only_once_it_is_set(tmp_path: Path) -> None:
    """A frequency that was never set appears when the change is in force, and is waited for."""
    async with Stage(tmp_path, behavior=Behavior(apply_after_s=2), until="confirmed") as stage:
        stage.plain(1, frequency=None)
        stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
        run = await stage.run(FREQUENCY)

        assert told(run) == ("updated", "confirmed", None)


@in_fast_motion(20)
async def test_a_sync_that_is_gone_afterwards_is_unconfirmed(tmp_path: Path) -> None:
    """A look that is refused for good ends the row, with the refusal as the reason."""
    async with Stage(tmp_path, behavior=Behavior(apply_after_s=9), until="confirmed") as stage:
        stage.plain(1)
        stage.when(lambda: bool(stage.patches), lambda: stage.set("s1", user="somebody"))
        run = await stage.run()

        kind, proof, error = told(run)
        assert (kind, proof) == ("unconfirmed", "accepted")
        assert error is not None
        assert "404: Sync not found" in error
        assert run.outcomes[1]["http_status"] == 404


@in_fast_motion(20)
async def test_without_reading_first_a_change_can_still_be_proved(tmp_path: Path) -> None:
    """--no-read saves the look before a change, not the looks that prove it."""
    async with Stage(tmp_path, no_read=True, until="confirmed") as stage:
        stage.plain(2)
        run = await stage.run()

        assert told(run) == ("updated", "confirmed", None)
        assert [entry.method for entry in stage.audit if entry.sync_id == "s1"] == ["PATCH", "GET"]


@in_fast_motion(60)
async def test_an_outage_does_not_count_against_a_row_that_is_followed(tmp_path: Path) -> None:
    """While the server is down nobody can look; the row still gets its time afterwards."""
    async with Stage(
        tmp_path,
        behavior=Behavior(apply_after_s=100),
        until="confirmed",
        confirm_timeout="60s",
    ) as stage:
        stage.plain(1)

        def go_down() -> None:
            stage.sim.outage(OutageKind.UNAVAILABLE)

        def come_back() -> None:
            stage.sim.outage(None)

        stage.when(lambda: len(gets(stage)) >= 2, go_down)
        stage.when(lambda: stage.sim.requests >= 12, come_back)
        run = await stage.run()

        assert told(run) == ("updated", "confirmed", None)


# --------------------------------------------------------------------------------- resynced


@in_fast_motion(50)
async def test_by_default_a_resync_is_followed_to_its_end(tmp_path: Path) -> None:
    """A new credential is proved once the sync is idle again and has run since."""
    async with Stage(tmp_path, behavior=Behavior(apply_after_s=2, resync_s=90)) as stage:
        stage.plain(2, last_synced_at=BEFORE)
        run = await stage.run(until=None)

        assert told(run) == ("updated", "resynced", None)
        assert run.outcomes[1]["elapsed_ms"] >= 90_000
        assert len(gets(stage)) < 25


@in_fast_motion(50)
async def test_by_default_what_starts_no_resync_ends_when_it_is_accepted(tmp_path: Path) -> None:
    """A frequency alone is not followed unless somebody asks for it."""
    async with Stage(tmp_path) as stage:
        stage.plain(2, frequency="1h")
        stage.write(
            [
                {"sync_id": "s1", "user_id": "u1", "credential_id": "", "frequency": "5m"},
                {"sync_id": "s2", "user_id": "u1", "credential_id": NEW, "frequency": "5m"},
            ]
        )
        run = await stage.run(BOTH, until=None)

        assert (told(run, 1)[1], told(run, 2)[1]) == ("accepted", "resynced")


@in_fast_motion(50)
async def test_what_starts_no_resync_ends_at_confirmed(tmp_path: Path) -> None:
    """There is no re-sync of a frequency whose end could be seen."""
    async with Stage(tmp_path, until="resynced") as stage:
        stage.plain(1, frequency="1h")
        stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
        run = await stage.run(FREQUENCY)

        assert told(run) == ("updated", "confirmed", None)


@in_fast_motion(100)
async def test_an_old_sync_run_is_not_mistaken_for_the_resync(tmp_path: Path) -> None:
    """`IDLE` alone is no proof: the sync must have run after the change was accepted."""
    async with Stage(tmp_path, until="resynced", resync_timeout="5m") as stage:
        stage.plain(1, last_synced_at=BEFORE)
        stage.sim._service.syncs.behavior = Behavior(patch_revives_errored=False)
        stage.set("s1", status="IDLE")

        def stall() -> None:
            stage.set("s1", status="IDLE", last_synced_at=BEFORE)

        stage.when(lambda: bool(stage.patches), stall)
        run = await stage.run()

        why = "the re-sync was not seen to end within 300 s: the status of the sync is IDLE"
        assert told(run) == ("updated", "confirmed", why)
        assert run.summary.exit_code == 0


@in_fast_motion(50)
async def test_a_sync_that_errs_fails_its_row_with_its_reason(tmp_path: Path) -> None:
    """The reason that the API gives stands in the report, in one line and without secrets."""
    behavior = Behavior(
        resync_s=20, errored_ids=frozenset({"s2"}), reason="Bearer eyJhbGciOi.eyJzdWIi.c2ln\nis bad"
    )
    async with Stage(tmp_path, behavior=behavior, until="resynced", max_failures="50%") as stage:
        stage.plain(2)
        run = await stage.run()

        assert told(run, 1) == ("updated", "resynced", None)
        kind, proof, error = told(run, 2)
        assert (kind, proof) == ("errored", "confirmed")
        assert run.outcomes[2]["error_class"] == "errored"
        assert error is not None
        assert error.startswith("the sync is ERRORED: ")
        assert "\n" not in error
        assert "eyJ" not in error


@pytest.mark.parametrize(
    ("revives", "ended", "proof"),
    [(True, "updated", "resynced"), (False, "errored", "confirmed")],
)
def test_a_sync_that_was_errored_before_counts_once_it_has_left_that_state(
    revives: bool, ended: str, proof: str, tmp_path: Path
) -> None:
    """An old error is no news; it fails the row only when it stays until the time is over."""

    @in_fast_motion(100)
    async def story() -> None:
        behavior = Behavior(apply_after_s=3, resync_s=30, patch_revives_errored=revives)
        async with Stage(
            tmp_path, behavior=behavior, until="resynced", resync_timeout="4m"
        ) as stage:
            stage.plain(1, status="ERRORED", reason="the old credential was deleted")
            run = await stage.run()

            assert told(run)[:2] == (ended, proof)
            if not revives:
                assert run.outcomes[1]["elapsed_ms"] >= 239_000
                assert "the sync is still ERRORED: the old" in (told(run)[2] or "")

    story()


@in_fast_motion(50)
async def test_a_disabled_sync_stops_at_confirmed(tmp_path: Path) -> None:
    """Nothing runs while it is disabled, so there is nothing to wait for."""
    async with Stage(tmp_path, until="resynced") as stage:
        stage.plain(1, status="DISABLED")
        run = await stage.run()

        assert told(run) == (
            "updated",
            "confirmed",
            "the sync is DISABLED, so no re-sync runs",
        )


@in_fast_motion(100)
async def test_a_rate_limited_sync_is_let_be_for_as_long_as_it_asks(tmp_path: Path) -> None:
    """`rateLimitBackoffMs` is the least pause; and a status nobody knows means: still going."""
    async with Stage(tmp_path, until="resynced", resync_timeout="5m") as stage:
        stage.plain(1, last_synced_at=BEFORE)

        def limited() -> None:
            stage.set("s1", status="RATE_LIMITED", last_synced_at=BEFORE)

        def pondering() -> None:
            stage.set("s1", status="Pondering")

        stage.when(lambda: bool(stage.patches), limited)
        stage.when(lambda: len(gets(stage)) >= 5, pondering)
        run = await stage.run()

        pauses = [b - a for a, b in zip(gets(stage), gets(stage)[1:], strict=False)]
        assert told(run)[:2] == ("updated", "confirmed")
        assert all(pause >= 29.9 for pause in pauses[1:4]), pauses
        assert "PONDERING" in (told(run)[2] or "")


@in_fast_motion(50)
async def test_the_servers_clock_decides_what_is_later(tmp_path: Path) -> None:
    """A server whose clock is an hour behind ours is compared with itself."""
    behavior = Behavior(resync_s=20, clock_skew_s=-3600)
    async with Stage(tmp_path, behavior=behavior, until="resynced") as stage:
        stage.plain(1)
        run = await stage.run()

        assert told(run) == ("updated", "resynced", None)
        assert run.acceptances[1]["accepted_at"] < run.acceptances[1]["timestamp"]


def test_the_moment_of_acceptance_is_the_servers_where_it_told_one() -> None:
    """The `Date` of the answer counts; without one that can be read, our own clock."""
    dated = Response(200, b"{}", date="Mon, 05 Jan 2026 08:30:22 GMT")

    assert accepted_at(dated, now_s=0.0) == "2026-01-05T08:30:22.000Z"
    assert accepted_at(Response(200, b"{}"), now_s=1.5) == "1970-01-01T00:00:01.500Z"
    assert accepted_at(Response(200, b"{}", date="soon"), now_s=0) == "1970-01-01T00:00:00.000Z"


@in_fast_motion(50)
async def test_a_lost_answer_that_landed_is_followed_as_well(tmp_path: Path) -> None:
    """What a look shows in force has been accepted too, and its re-sync counts like any other."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=20)) as stage:
        stage.plain(2)
        stage.sim.script(method="PATCH", sync_id="s1", faults=(Fault.DROP_AFTER,))
        run = await stage.run(until=None)

        assert told(run) == ("updated", "resynced", None)
        assert run.acceptances[1]["http_status"] is None
        assert run.acceptances[1]["accepted_at"] == run.intents[0]["timestamp"]


# ------------------------------------------------------------------------ what was dropped


def dropped(stage: Stage) -> set[str]:
    """Return the syncs that are not as the input asks."""
    now = stage.sim.snapshot()
    return {
        sync_id
        for sync_id, desired in stage.desired.items()
        if now[sync_id].credential_id != desired["credential_id"]
    }


def unconfirmed(run: Run) -> set[str]:
    """Return the syncs whose rows ended so."""
    return {o["sync_id"] for o in run.outcomes.values() if o["outcome"] == "unconfirmed"}


@in_fast_motion(10)
async def test_exactly_what_was_dropped_is_unconfirmed(tmp_path: Path) -> None:
    """Of 600 rows 3 % are taken and dropped, and 3 % acted upon without an answer."""
    faults = Faults(ignored=0.03, drop_after=0.03)
    async with Stage(tmp_path, faults=faults, until="confirmed") as stage:
        stage.seed(600)
        run = await stage.run()

        assert unconfirmed(run) == dropped(stage)
        assert 5 <= len(unconfirmed(run)) <= 40
        assert run.counts == {
            "updated": 600 - len(unconfirmed(run)),
            "unconfirmed": len(unconfirmed(run)),
        }
        assert {o["proof"] for o in run.outcomes.values() if o["outcome"] == "updated"} == {
            "confirmed"
        }


@in_fast_motion(10)
async def test_p5_nothing_is_called_confirmed_that_was_dropped(tmp_path: Path) -> None:
    """Server says 200 and drops 1 %: exactly those fail, and a healthy row costs one read more."""
    async with Stage(tmp_path, faults=Faults(ignored=0.01), until="confirmed") as stage:
        stage.seed(1_000)
        run = await stage.run()

        lost = dropped(stage)
        assert unconfirmed(run) == lost
        assert lost
        assert run.counts == {"updated": 1_000 - len(lost), "unconfirmed": len(lost)}
        healthy = [n for sync_id, n in stage.reads.items() if sync_id not in lost]
        # One look before the change, and one that confirms it.
        assert set(healthy) == {2}
        assert max(stage.reads.values()) <= 16


# ------------------------------------------------------------------------------ being followed


@in_fast_motion(30)
async def test_rows_asleep_hold_neither_worker_nor_slot(tmp_path: Path) -> None:
    """With one request at a time, 40 rows are all accepted while none has ended."""
    shown: list[tuple[int, int]] = []
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=60), until="resynced", concurrency=1
    ) as stage:
        stage.plain(40)
        lives: list[Any] = []
        stage.when(
            lambda: len(stage.patches) == 40,
            lambda: shown.append((lives[0].followed, lives[0].settled)),
        )
        run = await stage.carry(stage.open(), show=lives.append)

        ((followed, settled),) = shown
        assert followed >= 35
        assert settled == 0
        assert run.counts == {"updated": 40}
        assert lives[0].followed == 0


@in_fast_motion(20)
async def test_a_full_house_of_sleepers_makes_workers_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more rows are taken than may be followed at once; all end all the same."""
    most = 5
    defaults = dict(following.Follower.__init__.__kwdefaults__ or {}, most_asleep=most)
    monkeypatch.setattr(following.Follower.__init__, "__kwdefaults__", defaults)
    seen: list[int] = []
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=10), until="resynced", concurrency=2
    ) as stage:
        stage.plain(60)
        lives: list[Any] = []

        def look() -> bool:
            seen.extend(live.followed for live in lives)
            return False

        stage.when(look, lambda: None)
        run = await stage.carry(stage.open(), show=lives.append)

        assert run.counts == {"updated": 60}
        assert max(seen) == most


@in_fast_motion(20)
async def test_whoever_watches_is_told_why_nothing_is_sent(tmp_path: Path) -> None:
    """With nothing left but rows that sleep, the wait has a reason and an end."""
    waits: list[Any] = []
    async with Stage(tmp_path, behavior=Behavior(resync_s=60), until="resynced") as stage:
        stage.plain(2)
        lives: list[Any] = []

        async def watch() -> None:
            while not waits:
                await anyio.sleep(0.1)
                if lives and lives[0].followed == 2 and not lives[0].in_flight:
                    waits.extend(lives[0].waits())

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await stage.carry(stage.open(), show=lives.append)

        (wait,) = waits
        assert wait.reason == "proof"
        assert wait.detail == "2 rows are accepted and looked at again until the proof is there"
        assert wait.left_s is not None


@in_fast_motion(20)
async def test_an_interrupted_run_lets_go_of_followed_rows_and_takes_them_up_again(
    tmp_path: Path,
) -> None:
    """They are safe on disk: a signal ends the run at once, and resume sends nothing again."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=40), until="resynced") as stage:
        stage.plain(10)
        stage.when(
            lambda: sum(stage.reads.values()) > 22, lambda: signal.raise_signal(signal.SIGTERM)
        )
        run = await stage.run()

        assert run.summary.exit_code == 143
        assert run.counts == {"unprocessed": 10}
        assert len(run.acceptances) == 10
        assert {row["syncshift_sent"] for row in run.table("unprocessed.csv")} == {"accepted"}

        run = await stage.resume(run)

        assert run.counts == {"updated": 10}
        assert set(stage.patches.values()) == {1}
        assert told(run) == ("updated", "resynced", None)
        line = run.outcomes[1]
        assert (line["http_status"], line["attempts"], line["sent"]) == (200, 1, True)
        assert line["before"] == {"credential_id": OLD}
        assert len([x for x in run.lines if x["event"] == "change.accepted"]) == 10


@in_fast_motion(20)
async def test_time_that_passed_while_nobody_followed_counts_but_one_look_is_due(
    tmp_path: Path,
) -> None:
    """Long after its time a row still ends as a read shows it, after that one read."""
    async with Stage(tmp_path, until="confirmed", confirm_timeout="60s") as stage:
        stage.plain(2)
        run = await stage.run()
        run.forget(1, 2)
        lines = [
            {k: v for k, v in line.items() if k not in {"seq", "crc"}}
            | {"timestamp": "2026-01-01T00:00:00.000Z"}
            for line in run.lines
        ]
        run._rewrite("report", lines)
        stage.set("s2", credential_id=OTHER)
        before = stage.reads.copy()
        run = await stage.resume(run)

        assert told(run, 1) == ("updated", "confirmed", None)
        assert told(run, 2)[0] == "unconfirmed"
        assert OTHER in (told(run, 2)[2] or "")
        assert stage.reads - before == {"s1": 1, "s2": 1}
        assert set(stage.patches.values()) == {1}


@in_fast_motion(50)
async def test_a_revoked_key_leaves_followed_rows_to_be_resumed(tmp_path: Path) -> None:
    """What is a fault of the whole run stops it; no row is called unconfirmed for it."""
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=100), until="resynced", max_failures="100%"
    ) as stage:
        stage.plain(20, users=6)

        def revoke() -> None:
            stage.checker = lambda _: None

        good = stage.checker
        stage.when(lambda: sum(stage.reads.values()) > 60, revoke)
        run = await stage.run()

        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": 20}

        stage.checker = good
        run = await stage.resume(run)

        assert run.counts == {"updated": 20}
        assert set(stage.patches.values()) == {1}


def a_case(row: int) -> Case:
    """Return a case as long as they come."""
    return begin(
        Change(row, row + 1, str(uuid.uuid4()), f"user-{row}", {"credential_id": NEW}),
        before={"credential_id": OLD},
        seen=Sighting("IDLE", 1_000, BEFORE),
        acceptance=Acceptance(
            row=row, accepted_at=BEFORE, http_status=200, request_id=str(uuid.uuid4()), attempts=1
        ),
        target=Proof.RESYNCED,
        began_s=1.0,
        since_s=2.0,
    )


def test_a_row_asleep_takes_a_few_hundred_bytes() -> None:
    """20,000 rows may sleep in some ten megabytes, and wake up as they were."""
    tracemalloc.start()
    try:
        asleep = [(float(row), row, msgspec.msgpack.encode(a_case(row))) for row in range(20_000)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size / len(asleep) < 800
    case = a_case(7)
    assert following._UNPACK(following._PACK(case)) == case


def test_sigkill_while_rows_are_followed_sends_none_again(tmp_path: Path) -> None:
    """50 rows sleep when the process is killed: resume goes on following, and proves them."""
    behavior = Behavior(resync_s=4.0)
    with commands.Stage(tmp_path, behavior=behavior, until=None) as stage:
        source = stage.moves(50)
        words = ("--yes", "--run-id", "r1", "--until", "resynced")
        run = stage.start("run", "migrate-credentials", source, *words)
        report = stage.folder("r1") / "report.jsonl"

        def followed() -> int:
            return report.read_bytes().count(b'"change.accepted"') if report.exists() else 0

        commands.until(lambda: followed() == 50, "50 rows are followed")
        run.signal(signal.SIGKILL)
        run.wait()
        lines = commands.journal(report, torn=True)
        assert [x["event"] for x in lines].count("change.settled") == 0
        sent = stage.patches()

        resumed = stage.run("resume", "r1", "--yes", "--json")

        assert (sent, stage.patches()) == (50, 50)
        assert resumed.code == 0, resumed.err
        assert resumed.json()["counts"]["updated"] == 50
        rows = commands.table(stage.folder("r1") / "succeeded.csv")
        assert {row["syncshift_proof"] for row in rows} == {"resynced"}
