"""One row's request: asked again for as long as that makes sense, and never blindly."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runner.simulator import PASSING, Behavior, Fault, Faults, RetryAfter
from tests.stage import BOTH, FREQUENCY, NEW, OLD, HastyLoop, Stage, in_fast_motion
from tests.wire import CLOSE, Wire, says

LANDED = (
    Fault.DROP_AFTER,
    Fault.TRUNCATED,
    Fault.GARBAGE,
    Fault.NOT_JSON,
    Fault.OTHER_ID,
    Fault.OTHER_DATA,
    Fault.OVERSIZED,
    Fault.GZIP_BOMB,
    Fault.HTTP_504,
)
"""The change was made, and its answer says nothing of that."""
NOT_LANDED = (Fault.DROP_BEFORE, Fault.HTTP_500, Fault.HTTP_502)
"""The change was not made, and the answer does not say so."""
PLAIN = (
    Fault.HTTP_408,
    Fault.HTTP_409,
    Fault.HTTP_423,
    Fault.HTTP_429,
    Fault.HTTP_503,
    Fault.HTTP_503_WAIT,
)
"""The answer says that the change was not made."""


def methods(stage: Stage, sync_id: str = "s1") -> str:
    """Return what a sync was asked, a letter a request: G for a read, P for a PATCH."""
    return "".join(entry.method[0] for entry in stage.audit if entry.sync_id == sync_id)


@pytest.mark.parametrize("fault", LANDED)
@in_fast_motion(10)
async def test_a_change_whose_answer_was_lost_is_found_to_have_landed(
    fault: Fault, tmp_path: Path
) -> None:
    """A credential change in doubt is read before anything is sent again; it is in force: done."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [fault])
        run = await stage.run()

        assert methods(stage) == "GPG"
        assert run.outcome(1) == ("updated", None)
        line = run.outcomes[1]
        assert (line["proof"], line["attempts"], line["sent"]) == ("confirmed", 1, True)


@pytest.mark.parametrize("fault", NOT_LANDED)
@in_fast_motion(10)
async def test_a_change_that_did_not_land_is_read_and_sent_again(
    fault: Fault, tmp_path: Path
) -> None:
    """A credential change in doubt that a read shows not to be in force is sent once more."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [fault])
        run = await stage.run()

        assert methods(stage) == "GPGP"
        line = run.outcomes[1]
        assert (line["outcome"], line["proof"], line["attempts"]) == ("updated", "accepted", 2)


@pytest.mark.parametrize("fault", PLAIN)
@in_fast_motion(20)
async def test_a_change_that_was_turned_away_is_sent_again_without_a_read(
    fault: Fault, tmp_path: Path
) -> None:
    """Nothing is in doubt about an answer that says the change was not made."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [fault])
        run = await stage.run()

        assert methods(stage) == "GPP"
        assert run.outcome(1) == ("updated", None)
        assert run.outcomes[1]["attempts"] == 2


@pytest.mark.parametrize("fault", [*LANDED, *NOT_LANDED])
@in_fast_motion(10)
async def test_a_change_that_starts_no_re_sync_needs_no_read(fault: Fault, tmp_path: Path) -> None:
    """A frequency in doubt is sent again at once: that can do no harm."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, frequency="1h")
        stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
        stage.sim.script("s1", "PATCH", [fault])
        run = await stage.run(FREQUENCY)

        assert methods(stage) == "GPP"
        line = run.outcomes[1]
        assert (line["outcome"], line["proof"], line["attempts"]) == ("updated", "accepted", 2)


@in_fast_motion(10)
async def test_a_credential_that_stays_as_it_is_needs_no_read(tmp_path: Path) -> None:
    """Of two fields only the frequency differs, so no re-sync can start and nothing is read."""
    async with Stage(tmp_path) as stage:
        stage.plain(1, frequency="1h")
        row = {"sync_id": "s1", "user_id": "u1", "credential_id": OLD, "frequency": "5m"}
        stage.write([row])
        stage.sim.script("s1", "PATCH", [Fault.DROP_AFTER])
        await stage.run(BOTH)

        assert methods(stage) == "GPP"


@in_fast_motion(10)
async def test_without_reading_a_change_in_doubt_is_sent_again(tmp_path: Path) -> None:
    """Under --no-read even a credential is sent again blindly: the change is absolute."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.DROP_AFTER])
        run = await stage.run(no_read=True)

        assert methods(stage) == "PP"
        assert run.outcome(1) == ("updated", None)


@pytest.mark.parametrize("no_read", [False, True])
@pytest.mark.parametrize(
    ("last", "ended", "proof"),
    [
        (Fault.TRUNCATED, ("updated", None), "confirmed"),
        (Fault.OTHER_DATA, ("updated", None), "confirmed"),
        (Fault.HTTP_504, ("updated", None), "confirmed"),
        (Fault.HTTP_502, ("exhausted", "transient"), None),
        (Fault.HTTP_500, ("exhausted", "transient"), None),
    ],
)
@in_fast_motion(10)
async def test_after_the_last_attempt_one_read_decides(
    no_read: bool, last: Fault, ended: tuple[str, str | None], proof: str | None, tmp_path: Path
) -> None:
    """A last attempt in doubt is settled by one read: in force is updated, else exhausted."""
    async with Stage(tmp_path, no_read=no_read) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [last])
        run = await stage.run(max_attempts=1)

        assert run.outcome(1) == ended
        line = run.outcomes[1]
        assert (line["proof"], line["attempts"], line["sent"]) == (proof, 1, True)
        assert methods(stage).lstrip("G")[:2] == "PG"
        assert stage.patches["s1"] == 1


@in_fast_motion(10)
async def test_a_frequency_never_told_is_exhausted_after_a_last_attempt_in_doubt(
    tmp_path: Path,
) -> None:
    """A read that does not tell the field cannot show that the change landed."""
    async with Stage(tmp_path, behavior=Behavior(tells=frozenset())) as stage:
        stage.plain(1, frequency="1h")
        stage.write([{"sync_id": "s1", "user_id": "u1", "frequency": "5m"}])
        stage.sim.script("s1", "PATCH", [Fault.HTTP_504])
        run = await stage.run(FREQUENCY, max_attempts=1)

        assert run.outcome(1) == ("exhausted", "transient")


@in_fast_motion(10)
async def test_nothing_is_sent_while_a_look_fails(tmp_path: Path) -> None:
    """A credential in doubt whose read fails as well is not sent blindly."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.DROP_AFTER])
        stage.sim.script("s1", "GET", [None, *[Fault.HTTP_409] * 6])
        run = await stage.run()

        assert methods(stage) == "GP" + "GGG" + "GGG"
        assert run.outcome(1) == ("exhausted", "connection")
        assert run.outcomes[1]["attempts"] == 1


@in_fast_motion(10)
async def test_a_last_look_may_still_find_what_the_first_could_not(tmp_path: Path) -> None:
    """The read that decides in the end is asked even when the one before failed."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.DROP_AFTER])
        stage.sim.script("s1", "GET", [None, *[Fault.HTTP_409] * 3])
        run = await stage.run()

        assert methods(stage) == "GP" + "GGG" + "G"
        assert run.outcome(1) == ("updated", None)
        assert run.outcomes[1]["proof"] == "confirmed"


@in_fast_motion(20)
async def test_a_row_gets_its_attempts_and_no_more(tmp_path: Path) -> None:
    """A read that always fails is tried --max-attempts times, and then the row is exhausted."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        stage.sim.script("s2", "GET", [Fault.HTTP_408] * 9)
        run = await stage.run(max_attempts=4)

        assert (methods(stage, "s1"), methods(stage, "s2")) == ("GP", "GGGG")
        assert run.outcome(2) == ("exhausted", "timeout")
        line = run.outcomes[2]
        assert (line["sent"], line["attempts"], line["http_status"]) == (False, 0, 408)


@in_fast_motion(20)
async def test_a_conflict_is_tried_three_times(tmp_path: Path) -> None:
    """A 409 passes within a few seconds or not at all."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.HTTP_409] * 9)
        run = await stage.run()

        assert methods(stage) == "GPPP"
        assert run.outcome(1) == ("exhausted", "conflict")


@in_fast_motion(100)
async def test_throttled_answers_use_up_no_attempt(tmp_path: Path) -> None:
    """A row that is throttled ten times in a row is updated, with one attempt allowed."""
    async with Stage(tmp_path, timeout=500) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.HTTP_429] * 10)
        run = await stage.run(max_attempts=1)

        assert methods(stage) == "G" + "P" * 11
        assert run.outcome(1) == ("updated", None)
        assert run.outcomes[1]["attempts"] == 11


@in_fast_motion(200)
async def test_a_row_that_is_throttled_without_end_is_given_up(tmp_path: Path) -> None:
    """After fifty throttled answers a row is exhausted, so that a run cannot hang on one."""
    async with Stage(tmp_path, timeout=500) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.HTTP_429] * 60)
        run = await stage.run()

        assert stage.patches["s1"] == 50
        assert run.outcome(1) == ("exhausted", "throttled")
        assert run.outcomes[1]["attempts"] == 50


async def test_r8_a_dead_connection_costs_one_free_resend(tmp_path: Path) -> None:
    """A server that says keep-alive and closes costs no row, and at most two PATCHes each."""
    async with Stage(tmp_path, faults=Faults(close_after=1.0), concurrency=4) as stage:
        stage.seed(150)
        run = await stage.run(max_attempts=1)

        assert run.counts == {"updated": 150}
        assert stage.in_force() == 150
        assert max(stage.patches.values()) <= 2
        assert run.held("outage") == []


@in_fast_motion(10)
async def test_r8_only_the_first_dead_connection_is_free(tmp_path: Path) -> None:
    """A row that finds a second dead connection pays for it with an attempt."""
    told = says(200, body=b'{"status":"IDLE","credentialId":"%b"}' % OLD.encode())
    wire = Wire(told, CLOSE, told, CLOSE, told)
    async with Stage(tmp_path) as stage, wire.listening():
        stage.plain(1)
        run = await stage.run(base_url=wire.url, max_attempts=1)

        assert "".join(heard.method[0] for heard in wire.heard[:5]) == "GPGPG"
        assert run.outcome(1) == ("exhausted", "connection")
        assert run.outcomes[1]["attempts"] == 2


@in_fast_motion(20)
async def test_r9_attempts_on_record_are_patches_on_the_wire(tmp_path: Path) -> None:
    """Whatever PATCHes meet, each row's attempts are the PATCHes that its sync got."""
    # A connection that closes behind a good answer swallows the next request unseen.
    kinds = [fault for fault in PASSING if fault is not Fault.CLOSE_AFTER]
    faults = Faults.mixed(1.0, faults_per_row=2, slow_s=0.01, kinds=kinds)
    async with Stage(tmp_path, faults=faults, timeout=300) as stage:
        stage.seed(150, users=30)
        run = await stage.run(max_failures="100%")

        attempts = {line["sync_id"]: line["attempts"] for line in run.lines}
        assert attempts == {sync_id: stage.patches[sync_id] for sync_id in attempts}
        assert sum(attempts.values()) > 200


@in_fast_motion(20)
async def test_a_date_in_retry_after_is_waited_for(tmp_path: Path) -> None:
    """A wait told as a date holds the run until that date."""
    faults = Faults(retry_after=RetryAfter.DATE, retry_after_s=3)
    async with Stage(tmp_path, faults=faults, timeout=300) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [Fault.HTTP_503_WAIT])
        run = await stage.run()

        first, second = (e.at_monotonic_s for e in stage.audit if e.method == "PATCH")
        assert 3 <= second - first < 6
        assert run.outcome(1) == ("updated", None)
        assert run.outcomes[1]["attempts"] == 2


class _Nowhere(HastyLoop):
    """A machine on which no name resolves."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("rows", [1, 100])
def test_a_host_that_has_no_address_stops_the_run(rows: int, tmp_path: Path) -> None:
    """A name that does not resolve is told once, within seconds; no row pays for it."""

    async def story() -> None:
        async with Stage(tmp_path) as stage:
            stage.plain(rows)
            began = stage.clocks.steady()
            run = await stage.run(base_url="https://sync.example.invalid")

            assert stage.clocks.steady() - began < 8
            assert run.summary.exit_code == 4
            assert run.counts == {"unprocessed": rows}
            assert "the host's name did not resolve; check --base-url" in run.reason

    with asyncio.Runner(loop_factory=lambda: _Nowhere(10)) as runner:
        runner.run(story())


async def test_a_user_who_is_forbidden_is_rejected_at_once(tmp_path: Path) -> None:
    """What the API will never accept is asked once."""
    wire = Wire(says(403, body=b'{"message":"not yours"}'))
    async with Stage(tmp_path) as stage, wire.listening():
        stage.plain(1)
        run = await stage.run(base_url=wire.url)

        assert len(wire.heard) == 1
        assert run.outcome(1) == ("rejected", "forbidden")
        assert run.outcomes[1]["error"] == "403: not yours"


async def test_a_4xx_with_a_wait_is_a_throttle_and_not_a_refusal(tmp_path: Path) -> None:
    """A 403 that tells a wait is waited for, as some gateways throttle that way."""
    told = says(200, body=b'{"status":"IDLE","credentialId":"%b"}' % NEW.encode())
    wire = Wire(says(403, "Retry-After: 1"), told)
    async with Stage(tmp_path) as stage, wire.listening():
        stage.plain(1)
        run = await stage.run(base_url=wire.url)

        assert run.outcome(1) == ("unchanged", None)
        assert [hold["detail"] for hold in run.held("throttled")] == ["403: {}"]
