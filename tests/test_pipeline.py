"""Rows from a source through a step into a sink: none lost, none twice, none in memory for long."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from runner.errors import DiskFault, InputError, LimitReached, SyncshiftError
from runner.live import Live
from runner.model import Change, ErrorClass, Intent, Outcome, OutcomeKind, Verdict
from runner.pipeline import Sink, Stop, flow, workers_for
from runner.results import duplicate
from runner.retry import Ruling
from runner.rollout import FailureLimit, Suspicions
from runner.simulator import Fault, Faults, SyncRecord
from runner.steps import Ending, Work
from runner.throttle import Throttle
from runner.turnstile import Closing, Turnstile
from tests.stage import NEW, Stage, until


def change(row: int) -> Change:
    """Return a change of row *row*."""
    return Change(row, row + 1, f"s{row}", f"u{row % 7}", {"credential_id": NEW})


def ended(
    row: int, kind: OutcomeKind = OutcomeKind.UPDATED, ruling: Ruling | None = None
) -> Ending:
    """Return how row *row* ended."""
    outcome = Outcome(row=row, line=row + 1, sync_id=f"s{row}", user_id=f"u{row}", outcome=kind)
    return Ending(outcome, ruling)


class Bench:
    """A sink with nothing real behind it, and what it was told."""

    def __init__(self, *, limit: str = "100%", duplicates: dict[int, int] | None = None) -> None:
        self.settled: list[Outcome] = []
        self.commits = 0
        self.failure: DiskFault | None = None
        turnstile = Turnstile(Throttle(ceiling=4, chance=lambda: 0.5))
        self.stop = Stop(turnstile)
        self.turnstile = turnstile
        follows = duplicates or {}
        self.sink = Sink(
            settle=self.settled.append,
            commits=self,
            stop=self.stop,
            limit=FailureLimit.parse(limit),
            suspicions=Suspicions(users=50),
            duplicates_of=lambda row: ((follows[row], follows[row] + 1),) if row in follows else (),
            is_settled=lambda row: False,
        )

    @property
    def rows(self) -> list[int]:
        """The rows that were settled, in that order."""
        return [outcome.row for outcome in self.settled]

    def commit(self) -> int:
        """Put nothing off: see `durable`."""
        return self.commits + 1

    def has_ended(self, commit: int) -> bool:
        """Whether that many commits were made."""
        return commit <= self.commits

    async def durable(self) -> None:
        """Commit at once, or fail."""
        self.commits += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure


def row_of(work: Work) -> int:
    """Return the number of the row that is to be carried."""
    assert work.change is not None
    return work.change.row


def blocks(*sizes: int) -> Iterator[list[Work]]:
    """Yield blocks of rows that are to be carried."""
    row = 0
    for size in sizes:
        yield [Work(change=change(row + n)) for n in range(1, size + 1)]
        row += size


@pytest.mark.parametrize("workers", [1, 3, 50])
@pytest.mark.parametrize("sizes", [(1,), (512, 512, 3), (1, 0, 5)])
async def test_every_row_is_carried_once(workers: int, sizes: tuple[int, ...]) -> None:
    """However many workers and whatever the blocks, each row is carried and settled once."""
    bench = Bench()
    carried: list[int] = []

    async def carry(work: Work) -> Ending:
        carried.append(row_of(work))
        await asyncio.sleep(0)
        return ended(row_of(work))

    await flow(blocks(*sizes), carry, bench.sink, workers=workers, stop=bench.stop)

    assert sorted(carried) == sorted(bench.rows) == list(range(1, sum(sizes) + 1))
    assert bench.sink.tally.counts[OutcomeKind.UPDATED] == sum(sizes)
    assert bench.sink.tally.carried == 0
    assert bench.stop.reason is None


async def test_a_full_house_stops_the_reader() -> None:
    """While no worker is free nothing is read beyond the block at hand and two more."""
    bench = Bench()
    read = 0
    gate = asyncio.Event()
    first = asyncio.Event()

    def source() -> Iterator[list[Work]]:
        nonlocal read
        for block in blocks(*[10] * 100):
            read += 1
            yield block

    async def carry(work: Work) -> Ending:
        first.set()
        await gate.wait()
        return ended(row_of(work))

    flowing = asyncio.create_task(flow(source(), carry, bench.sink, workers=2, stop=bench.stop))
    await first.wait()
    await until(lambda: read >= 3, every_s=0.001)
    for _ in range(50):
        await asyncio.sleep(0)

    assert read <= 4
    gate.set()
    await flowing
    assert len(bench.rows) == 1000


async def test_the_input_is_read_in_a_thread_of_its_own() -> None:
    """A source that takes its time does not keep the event loop from its work."""
    bench = Bench()
    threads: set[int] = set()

    def source() -> Iterator[list[Work]]:
        for block in blocks(2, 2):
            threads.add(threading.get_ident())
            yield block

    async def carry(work: Work) -> Ending:
        return ended(row_of(work))

    await flow(source(), carry, bench.sink, workers=2, stop=bench.stop)

    assert threading.get_ident() not in threads


async def test_a_known_end_is_settled_without_being_carried() -> None:
    """Invalid rows and duplicates of rows that ended before need no worker's request."""
    bench = Bench()
    known = Outcome(row=2, line=3, sync_id="s", user_id="u", outcome=OutcomeKind.INVALID)
    work = [Work(change=change(1)), Work(known=known), Work(change=change(3))]

    async def carry(work: Work) -> Ending:
        return ended(row_of(work))

    await flow(iter([work]), carry, bench.sink, workers=1, stop=bench.stop)

    assert sorted(bench.rows) == [1, 2, 3]
    assert (bench.sink.tally.ended, bench.sink.tally.failed) == (2, 0)


async def test_an_intent_comes_along_with_its_row() -> None:
    """What an earlier run wrote down about a row is handed to the step."""
    bench = Bench()
    intent = Intent(
        row=1,
        line=2,
        sync_id="s1",
        user_id="u1",
        before={},
        seen=None,
        desired={},
        timestamp="2026-01-01T00:00:00.000Z",
    )
    got: list[Intent | None] = []

    async def carry(work: Work) -> Ending:
        got.append(work.intent)
        return ended(row_of(work))

    work = [Work(change=change(1), intent=intent), Work(change=change(2))]
    await flow(iter([work]), carry, bench.sink, workers=1, stop=bench.stop)

    assert got == [intent, None]


async def test_a_stop_takes_no_more_rows() -> None:
    """After a stop no row is begun; those under way end, and the reader is let go."""
    bench = Bench()
    begun: list[int] = []

    async def carry(work: Work) -> Ending:
        begun.append(row_of(work))
        if row_of(work) == 5:
            bench.stop(LimitReached("enough"))
        return ended(row_of(work))

    await flow(blocks(*[4] * 50), carry, bench.sink, workers=2, stop=bench.stop)

    assert len(begun) <= 7
    assert bench.rows == begun
    assert str(bench.stop.reason) == "enough"


async def test_the_first_reason_to_stop_stands() -> None:
    """What came of a stop does not replace why it was."""
    bench = Bench()
    bench.stop(LimitReached("first"))
    bench.stop(LimitReached("second"))

    assert str(bench.stop.reason) == "first"
    assert bench.turnstile.closed


async def test_a_row_that_is_let_go_has_no_outcome() -> None:
    """A worker whose row could not leave any more ends; the row stays as it is."""
    bench = Bench()

    async def carry(work: Work) -> Ending:
        bench.stop(LimitReached("enough"))
        raise Closing

    await flow(blocks(5), carry, bench.sink, workers=3, stop=bench.stop)

    assert bench.rows == []
    assert bench.sink.tally.carried == 0


async def test_an_input_that_can_no_longer_be_read_stops_the_run() -> None:
    """What was read before is carried; the run stops and says why, with nothing marked failed."""
    bench = Bench()

    def source() -> Iterator[list[Work]]:
        yield from blocks(5)
        raise InputError("input.csv: breaks off")

    async def carry(work: Work) -> Ending:
        return ended(row_of(work))

    await flow(source(), carry, bench.sink, workers=2, stop=bench.stop)

    assert str(bench.stop.reason) == "the input can no longer be used: input.csv: breaks off"
    assert set(bench.rows) <= set(range(1, 6))


async def test_d6_a_disk_that_fails_at_the_very_end_stops_the_run() -> None:
    """D6: rows kept back until the end are written then; if that fails it is told as a stop."""
    bench, both_ended = Bench(), threading.Event()
    suspicious = Ruling(Verdict.REJECTED, ErrorClass.AUTH, "401", halts_after=5, over_users=5)

    async def carry(work: Work) -> Ending:
        if row_of(work) == 2:
            asyncio.get_running_loop().call_later(0.01, both_ended.set)
        return ended(row_of(work), OutcomeKind.REJECTED, suspicious)

    def source() -> Iterator[list[Work]]:
        yield from blocks(2)
        both_ended.wait()
        bench.failure = DiskFault("report.jsonl: cannot be written")

    await flow(source(), carry, bench.sink, workers=1, stop=bench.stop)

    assert isinstance(bench.stop.reason, DiskFault)


async def test_d6_a_disk_that_fails_stops_the_workers() -> None:
    """D6: a worker whose outcome could not be recorded takes one more row at most.

    Nothing is sent for that one: its intent cannot be recorded either.
    """
    bench = Bench()
    bench.failure = DiskFault("report.jsonl: cannot be written")
    begun: list[int] = []

    async def carry(work: Work) -> Ending:
        begun.append(row_of(work))
        return ended(row_of(work))

    await flow(blocks(100), carry, bench.sink, workers=2, stop=bench.stop)

    assert len(begun) <= 4
    assert isinstance(bench.stop.reason, DiskFault)


def test_suspects_stay_unprocessed_though_others_land() -> None:
    """Once the run is convicted, a row in flight that ends well acquits nobody any more."""
    bench = Bench()
    wrong_key = Ruling(Verdict.AUTH, ErrorClass.AUTH, "401", halts_after=5, over_users=5)
    for row in range(1, 6):
        bench.sink.end(ended(row, OutcomeKind.REJECTED, wrong_key))
    bench.sink.end(ended(6))
    bench.sink.end(ended(7, OutcomeKind.REJECTED, wrong_key))
    bench.sink.acquit()

    assert bench.rows == [6]
    assert "5 rows in a row ended alike" in str(bench.stop.reason)


def test_suspects_are_acquitted_by_a_row_that_ends_otherwise() -> None:
    """Four 401s and then a success: the four are those rows' own, and end as they were found."""
    bench = Bench()
    wrong_key = Ruling(Verdict.AUTH, ErrorClass.AUTH, "401", halts_after=5, over_users=5)
    for row in range(1, 5):
        bench.sink.end(ended(row, OutcomeKind.REJECTED, wrong_key))
    assert bench.rows == []
    bench.sink.end(ended(5))

    assert bench.rows == [1, 2, 3, 4, 5]
    assert bench.stop.reason is None


@pytest.mark.parametrize(
    ("kind", "as_duplicate", "error_class"),
    [
        (OutcomeKind.UPDATED, OutcomeKind.DUPLICATE, None),
        (OutcomeKind.UNCHANGED, OutcomeKind.DUPLICATE, None),
        (OutcomeKind.REJECTED, OutcomeKind.REJECTED, ErrorClass.DUPLICATE_OF_FAILED),
        (OutcomeKind.EXHAUSTED, OutcomeKind.EXHAUSTED, ErrorClass.DUPLICATE_OF_FAILED),
        (OutcomeKind.CONFLICTED, OutcomeKind.CONFLICTED, ErrorClass.DUPLICATE_OF_FAILED),
    ],
)
def test_a_duplicate_ends_as_its_first_row_did(
    kind: OutcomeKind, as_duplicate: OutcomeKind, error_class: ErrorClass | None
) -> None:
    """A success makes it a duplicate; otherwise it fails alike and names the row before it."""
    bench = Bench(duplicates={1: 9})
    bench.sink.end(ended(1, kind))
    first, second = bench.settled

    assert (second.row, second.line, second.outcome) == (9, 10, as_duplicate)
    assert second.error_class is error_class
    assert (second.sent, second.attempts, second.proof) == (False, 0, None)
    assert second.sync_id == first.sync_id
    if error_class is not None:
        assert second.error == f"asks for the same as row 1 (line 2), which is {kind}"


def test_a_duplicate_takes_nothing_over_that_was_not_its_own() -> None:
    """No request was made for it, so it has no status and no request ID."""
    first = Outcome(
        row=1,
        line=2,
        sync_id="s",
        user_id="u",
        outcome=OutcomeKind.UPDATED,
        sent=True,
        http_status=200,
        attempts=3,
        elapsed_ms=40,
        request_id="r-1",
    )
    second = duplicate(first, row=2, line=3)

    assert (second.http_status, second.request_id, second.elapsed_ms) == (None, None, 0)


@pytest.mark.parametrize(
    ("concurrency", "rows", "workers"),
    [(1, 1000, 12), (32, 1000, 96), (32, 5, 5), (1, 3, 3), (100, 1000, 300)],
)
def test_there_are_more_workers_than_slots(concurrency: int, rows: int, workers: int) -> None:
    """Who waits for the disk holds no slot; and a server that is down shows with few slots too."""
    assert workers_for(concurrency=concurrency, rows=rows) == workers


async def test_duplicates_in_a_whole_run(tmp_path: Path) -> None:
    """The later of two equal rows is never sent, however its first row ended."""
    async with Stage(tmp_path) as stage:
        stage.plain(2)
        stage.set("s2", credential_id=NEW)
        stage.sim.add(SyncRecord(id="theirs", user="somebody"))
        ids = ["s1", "s1", "s2", "s2", "theirs", "theirs", "s1"]
        stage.write({"sync_id": i, "user_id": "u1", "credential_id": NEW} for i in ids)
        run = await stage.run(max_failures="100%")

        found = [run.outcome(row)[0] for row in range(1, 8)]
        assert found == [
            "updated",
            "duplicate",
            "unchanged",
            "duplicate",
            "rejected",
            "rejected",
            "duplicate",
        ]
        assert run.outcome(6) == ("rejected", "duplicate_of_failed")
        assert stage.patches == {"s1": 1}


async def test_a_duplicate_of_a_row_that_is_left_is_left_too(tmp_path: Path) -> None:
    """While the first row is unprocessed its duplicates are, and they end with it later."""
    async with Stage(tmp_path, faults=Faults(retry_after_s=86_400)) as stage:
        stage.plain(1)
        stage.write([{"sync_id": "s1", "user_id": "u1", "credential_id": NEW}] * 2)
        stage.sim.script("s1", "GET", [Fault.HTTP_429])
        run = await stage.run()
        resumed = await stage.resume(run)

        assert run.counts == {"unprocessed": 2}
        assert resumed.counts == {"updated": 1, "duplicate": 1}


class BadDisk:
    """A disk that fails its syncs from some moment on."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.broken = False
        self.calls_after = 0

    def sync(self, fd: int) -> None:
        """Sync, or fail."""
        if self.broken:
            self.calls_after += 1
            raise OSError(self.code, os.strerror(self.code))
        os.fdatasync(fd)

    def break_(self) -> None:
        """Fail from now on."""
        self.broken = True


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("after", [1, 60, 150])
async def test_d6_a_failed_sync_ends_the_run_with_nothing_sent_unrecorded(
    after: int, code: int, tmp_path: Path
) -> None:
    """D6: the run stops at once, exit code 4; every PATCH that left has its intent on disk."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.seed(150, users=10)
        disk = BadDisk(code)
        stage.after(after, disk.break_)
        run = await stage.carry(stage.open(), sync=disk.sync)

        assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
        assert "cannot be written" in run.reason
        assert os.strerror(code) in run.reason
        assert disk.calls_after == 1
        intended = {intent["sync_id"] for intent in run.intents}
        assert set(stage.patches) <= intended
        assert run.counts["unprocessed"] > 0

        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 150}
        assert stage.in_force() == 150
        assert max(stage.patches.values()) == 1


async def test_d6_a_folder_that_is_removed_ends_the_run(tmp_path: Path) -> None:
    """D6: journals that nobody can find any more record nothing: the run stops as on a bad disk."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.seed(150, users=10)
        opened = stage.open()
        stage.after(100, lambda: shutil.rmtree(opened.folder.path))
        with pytest.raises(DiskFault, match="cannot be written"):
            await stage.carry(opened)

        assert stage.sim.requests < 250
        assert not opened.folder.is_locked()


async def test_d11_every_patch_has_its_intent_on_disk_before_it(tmp_path: Path) -> None:
    """D11: at the moment a PATCH arrives, the undo log on disk holds its intent."""
    async with Stage(tmp_path, concurrency=16) as stage:
        stage.seed(120, users=10)
        opened = stage.open()
        undo = opened.folder.path / "undo.jsonl"
        missing: list[str] = []
        judge = stage.sim._service._record

        def record(call: object, verdict: object, **about: object) -> None:
            judge(call, verdict, **about)  # type: ignore[arg-type]  # handed on as it came
            entry = stage.audit[-1]
            if entry.method == "PATCH" and (entry.sync_id or "?") not in undo.read_text():
                missing.append(entry.sync_id or "?")

        stage.sim._service._record = record  # type: ignore[method-assign]  # a witness in between
        run = await stage.carry(opened)

        assert run.counts == {"updated": 120}
        assert missing == []


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_d10_s4_what_was_answered_is_on_record_though_all_is_canceled(
    how: str, tmp_path: Path
) -> None:
    """D10, S4: canceled in the moment answers arrive, the run has every answer on record."""
    async with Stage(tmp_path, concurrency=8) as stage:
        stage.seed(200, users=10)
        opened = stage.open()
        lives: list[Live] = []
        scope = anyio.CancelScope()

        async def carry() -> None:
            with scope:
                await stage.carry(opened, show=lives.append)

        task = asyncio.create_task(carry())
        cancel: Callable[[], object] = scope.cancel if how == "scope" else task.cancel
        stage.after(250, cancel)
        await asyncio.gather(task, return_exceptions=True)
        report = (opened.folder.path / "report.jsonl").read_bytes()
        answered = sum(lives[0].tally.counts.values())

        assert report.count(b"change.settled") == answered > 0

        opened.folder.unlock()
        resumed = await stage.carry(stage.reopen(opened.folder.run_id))

        assert resumed.counts == {"updated": 200}
        assert stage.in_force() == 200


async def test_i1_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """I1: ten times as many rows through source, workers and sink need no more memory."""

    async def peak(rows: int) -> int:
        bench = Bench()
        bench.sink._settle = lambda outcome: None

        async def carry(work: Work) -> Ending:
            return ended(row_of(work))

        gc.collect()
        tracemalloc.start()
        try:
            sizes = [500] * (rows // 500)
            await flow(blocks(*sizes), carry, bench.sink, workers=32, stop=bench.stop)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = await peak(2_000), await peak(20_000)

    assert many < few + 300_000


def test_a_stop_knows_how_many_were_in_flight() -> None:
    """The closing event tells how many requests were still out when the reason came up."""
    bench = Bench()
    bench.turnstile.throttle.in_flight = 3
    reason: SyncshiftError = LimitReached("enough")
    bench.stop(reason)

    assert bench.stop.in_flight == 3
