"""What a run writes down is there, in the words of the contract, before anything counts."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner.attempt import Clocks, Sender
from runner.errors import DiskFault, Fault, JournalDamaged
from runner.exchange import Exchanger, Policy
from runner.job import find
from runner.journal import scan
from runner.model import (
    Change,
    ErrorClass,
    Intent,
    Outcome,
    OutcomeKind,
    Proof,
    Request,
    Response,
    Sighting,
)
from runner.outage import Breaker, RetryBudget
from runner.record import EVENTS, REPORT, UNDO, Record
from runner.secret import Secret
from runner.steps import Ending, Update, Work
from runner.throttle import Throttle
from runner.tokens import ReadyToken
from runner.turnstile import Turnstile

UNDO_WORDS = "v row line sync_id user_id before seen desired timestamp seq crc"
REPORT_WORDS = (
    "v event level timestamp row line sync_id user_id outcome proof sent before desired "
    "http_status error_class error attempts elapsed_ms request_id seq crc"
)
MOMENT = "1994-11-06T08:49:37.000Z"


def clock() -> float:
    """Return one moment for ever."""
    return 784_111_777.0


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what stands in a journal."""
    return [json.loads(line.data) for line in scan(path)]


def modes(folder: Path) -> dict[str, int]:
    """Return who may do what with each file."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def intent(row: int) -> Intent:
    """Return what is about to be sent for a row."""
    return Intent(
        row=row,
        line=row + 1,
        sync_id="s-1",
        user_id="ann",
        before={"frequency": "1h"},
        seen=Sighting("IDLE", 7, None),
        desired={"frequency": "24h"},
        timestamp=MOMENT,
    )


def outcome(row: int) -> Outcome:
    """Return how a row ended that did not end well."""
    return Outcome(
        row=row,
        line=row + 1,
        sync_id="s-1",
        user_id="ann",
        outcome=OutcomeKind.EXHAUSTED,
        sent=True,
        before={"frequency": "1h"},
        desired={"frequency": "24h"},
        http_status=503,
        error_class=ErrorClass.TRANSIENT,
        error="503: down\nfor good",
        attempts=5,
        elapsed_ms=1234,
        request_id="r-1",
    )


async def test_each_line_has_the_words_of_the_contract(tmp_path: Path) -> None:
    """Intents, outcomes and events stand in their own files, with all their fields, in order."""
    record = Record(tmp_path, wall_clock=clock)
    record.intend(intent(1))
    record.settle(outcome(1))
    record.tell("throttle.held", reason="throttled", until=MOMENT)
    await record.durable()

    (undo,) = lines(tmp_path / UNDO)
    (report,) = lines(tmp_path / REPORT)
    (event,) = lines(tmp_path / EVENTS)
    assert " ".join(undo) == UNDO_WORDS
    assert " ".join(report) == REPORT_WORDS
    assert " ".join(event) == "v event level timestamp reason until seq crc"
    assert undo["before"] == {"frequency": "1h"}
    assert undo["seen"] == {"status": "IDLE", "total_records": 7, "last_synced_at": None}
    assert (report["event"], report["timestamp"]) == ("change.settled", MOMENT)
    assert (report["outcome"], report["proof"], report["error_class"]) == (
        "exhausted",
        None,
        "transient",
    )
    assert report["error"] == "503: down\nfor good"
    await record.close()


async def test_what_was_not_read_is_null(tmp_path: Path) -> None:
    """Under --no-read there is no before-image, and none is made up."""
    record = Record(tmp_path, wall_clock=clock)
    record.intend(
        Intent(
            row=1,
            line=2,
            sync_id="s-1",
            user_id="",
            before=None,
            seen=None,
            desired={"frequency": "1h"},
            timestamp=MOMENT,
        )
    )
    await record.close()

    (undo,) = lines(tmp_path / UNDO)
    assert (undo["before"], undo["seen"], undo["user_id"]) == (None, None, "")


async def test_a_record_goes_on_where_it_was(tmp_path: Path) -> None:
    """A later process continues each file's numbers, and cuts what a crash left of a line."""
    for row in (1, 2):
        record = Record(tmp_path, wall_clock=clock)
        record.intend(intent(row))
        record.settle(outcome(row))
        await record.close()
        with (tmp_path / REPORT).open("ab") as report:  # a crash, made by hand
            report.write(b'{"v":1,"ev')

    record = Record(tmp_path, wall_clock=clock)
    await record.close()
    assert [line["seq"] for line in lines(tmp_path / UNDO)] == [1, 2]
    assert [line["row"] for line in lines(tmp_path / REPORT)] == [1, 2]
    assert {"report.jsonl.torn-1", "report.jsonl.torn-2"} < set(modes(tmp_path))


async def test_d4_a_damaged_record_is_not_opened(tmp_path: Path) -> None:
    """Damage in any of the three files refuses the run, and names the file."""
    record = Record(tmp_path, wall_clock=clock)
    for row in (1, 2, 3):
        record.intend(intent(row))
    await record.close()
    content = bytearray((tmp_path / UNDO).read_bytes())
    content[20] ^= 1
    (tmp_path / UNDO).write_bytes(content)

    with pytest.raises(JournalDamaged, match=r"undo\.jsonl: line 1 "):
        Record(tmp_path, wall_clock=clock)


async def test_d6_one_fault_of_the_disk_is_everybodys(tmp_path: Path) -> None:
    """After a failed sync neither intent nor outcome is ever called durable again."""

    def sync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    record = Record(tmp_path, wall_clock=clock, sync=sync)
    record.intend(intent(1))
    with pytest.raises(DiskFault):
        await record.durable()
    record.settle(outcome(1))
    with pytest.raises(DiskFault):
        await record.durable()
    await record.close()

    assert lines(tmp_path / REPORT) == []


async def test_d11_an_intent_is_on_disk_when_it_is_called_durable(tmp_path: Path) -> None:
    """The before-image can be read from the file before the request may leave."""
    record = Record(tmp_path, wall_clock=clock)
    for row in range(1, 21):
        record.intend(intent(row))
        await record.durable()

        assert [line["row"] for line in lines(tmp_path / UNDO)][-1] == row
    await record.close()


async def test_s4_the_last_commit_is_made_though_all_is_canceled(tmp_path: Path) -> None:
    """What was written down before a cancellation is on disk when the record is closed in it."""
    record = Record(tmp_path, wall_clock=clock)
    with anyio.CancelScope() as scope:
        record.settle(outcome(1))
        scope.cancel()
        await record.close()

    assert [line["row"] for line in lines(tmp_path / REPORT)] == [1]


async def test_x7_a_record_is_private(tmp_path: Path) -> None:
    """All three files are the user's alone, whatever the umask."""
    before = os.umask(0)
    try:
        record = Record(tmp_path, wall_clock=clock)
    finally:
        os.umask(before)
    await record.close()

    assert modes(tmp_path) == dict.fromkeys((UNDO, REPORT, EVENTS), 0o600)


class Post:
    """A transport that counts what it hands over; answers take a few turns of the loop."""

    def __init__(self, *, turns: int) -> None:
        self.turns = turns
        self.asked = asyncio.Event()
        self.received = set[str]()
        """Syncs whose PATCH was answered, and the answer handed over."""

    async def send(
        self, request: Request, authorization: str, *, afresh: bool = False
    ) -> Response | Fault:
        """Answer a read with another frequency, and a write with what it asks for."""
        sync_id = request.segments[-1]
        if request.body is None:
            return Response(200, b'{"incrementalAccumulatorFrequency":"1h"}')
        self.asked.set()
        for _ in range(self.turns + int(sync_id) % 3):
            await asyncio.sleep(0)
        self.received.add(sync_id)
        return Response(200, b'{"id":"%b","data":{}}' % sync_id.encode())


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("canceled_after", range(0, 12, 2))
async def test_d10_an_answer_that_came_is_written_down_whatever_is_canceled(
    tmp_path: Path, turns: int, canceled_after: int
) -> None:
    """Everything is canceled in each of the moments in which answers arrive: none is lost."""
    job, post = find("change-frequency"), Post(turns=turns)
    clocks = Clocks(steady=time.monotonic, wall=clock, chance=lambda: 0.5)
    turnstile = Turnstile(Throttle(ceiling=8, chance=clocks.chance))
    record = Record(tmp_path, wall_clock=clock)
    sender = Sender(
        transport=post,
        turnstile=turnstile,
        tokens=ReadyToken(Secret("abc")),
        breaker=Breaker(chance=clocks.chance),
        longest_wait_s=1.0,
        stop=lambda reason: None,
        tell=record.tell,
        clocks=clocks,
    )
    update = Update(
        job=job,
        exchanger=Exchanger(
            sender,
            policy=Policy(max_attempts=5, max_outage_s=1.0),
            budget=RetryBudget(concurrency=8),
            probe_with=job.read,
        ),
        turnstile=turnstile,
        record=record,
        reads=True,
        until=None,
        clock=time.monotonic,
        wall_clock=clock,
    )

    async def row(number: int) -> None:
        change = Change(number, number, str(number), "ann", {"frequency": "24h"})
        ending = await update.carry(Work(change=change))
        assert isinstance(ending, Ending)
        record.settle(ending.outcome)
        await record.durable()

    tasks = [asyncio.create_task(row(number)) for number in range(1, 9)]
    await post.asked.wait()
    for _ in range(canceled_after):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await record.close()

    settled = {line["sync_id"] for line in lines(tmp_path / REPORT)}
    assert settled == post.received
    assert {line["sync_id"] for line in lines(tmp_path / UNDO)} >= settled
    assert turnstile.throttle.in_flight == 0


def test_an_outcome_knows_whether_it_counts_as_a_success() -> None:
    """Done, already so, or done by an earlier row: everything else failed."""

    def ended(kind: OutcomeKind) -> Outcome:
        return Outcome(row=1, line=2, sync_id="s", user_id="u", outcome=kind, proof=Proof.ACCEPTED)

    good = {kind.value for kind in OutcomeKind if ended(kind).succeeded}

    assert good == {"updated", "unchanged", "duplicate"}
