"""A whole run: what it tells while it goes, how it ends, and what it adds up to."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runner.account import SUMMARY, add_up, holds_of
from runner.errors import DiskFault, RunChanged, SettingsError, SyncshiftError
from runner.folder import Folder
from runner.journal import Journal
from runner.live import Live
from runner.model import OutcomeKind
from runner.results import FAILED_FILE, SUCCEEDED_FILE, UNPROCESSED_FILE
from runner.rig import limit_of
from runner.run import carry_out
from runner.simulator import Fault, Faults, OutageKind, SyncRecord
from tests.stage import BOTH, NEW, OLD, Run, Stage, in_fast_motion, until

FILES = (SUCCEEDED_FILE, FAILED_FILE, UNPROCESSED_FILE)


def assert_accounted_for(stage: Stage, run: Run, state: str) -> None:
    """Rows, journals, result files, summary and manifest agree with each other."""
    with stage.source.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    tables = {name: run.table(name) for name in FILES}
    told = sorted(
        (row for table in tables.values() for row in table),
        key=lambda row: int(row["syncshift_row"]),
    )
    summary = run.summary
    assert [[row[name] for name in header] for row in told] == rows
    assert sum(summary.counts.values()) == summary.rows == len(rows)
    for name, table in tables.items():
        whole = (run.path / name).read_bytes()
        assert summary.files[name].rows == len(table)
        assert summary.files[name].sha256 == hashlib.sha256(whole).hexdigest()
    written = json.loads((run.path / SUMMARY).read_bytes())
    assert (written["verdict"], written["exit_code"]) == (summary.verdict, summary.exit_code)
    assert written["counts"] == summary.counts
    manifest = run.opened.folder.read()
    assert (manifest.state, manifest.exit_code) == (state, summary.exit_code)
    assert not run.opened.folder.is_locked()


class TestEnds:
    """Every way out of a run leaves the whole account behind (I13), and its own exit code (P3)."""

    async def test_p3_all_succeeded(self, tmp_path: Path) -> None:
        """P3: 0 when every row succeeded, whether or not it had to be changed."""
        async with Stage(tmp_path) as stage:
            stage.plain(30)
            for n in range(1, 6):
                stage.set(f"s{n}", credential_id=NEW)
            run = await stage.run()

            assert (run.summary.exit_code, run.summary.verdict) == (0, "succeeded")
            assert run.counts == {"updated": 25, "unchanged": 5}
            assert_accounted_for(stage, run, "finished")
            assert run.reason == ""

    async def test_p3_some_failed(self, tmp_path: Path) -> None:
        """P3, P2: 3 when some rows failed; each has class, status and the server's words."""
        async with Stage(tmp_path) as stage:
            stage.plain(30)
            stage.set("s7", user="somebody")
            run = await stage.run()

            assert (run.summary.exit_code, run.summary.verdict) == (3, "failed")
            assert run.summary.error_classes == {"not_found": 1}
            assert_accounted_for(stage, run, "finished")
            (row,) = run.table(FAILED_FILE)
            assert (row["syncshift_error_class"], row["syncshift_http_status"]) == (
                "not_found",
                "404",
            )
            assert run.outcomes[7]["request_id"].startswith("sim-")

    async def test_p3_stopped(self, tmp_path: Path) -> None:
        """P3: 4 when a limit stopped it; what is left is in unprocessed.csv."""
        async with Stage(tmp_path, concurrency=1, max_failures="0") as stage:
            stage.plain(60)
            stage.set("s7", user="somebody")
            run = await stage.run()

            assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
            assert_accounted_for(stage, run, "stopped")
            left = run.table(UNPROCESSED_FILE)
            assert {row["syncshift_sent"] for row in left} <= {"no", "unanswered"}
            assert len(left) == run.counts["unprocessed"] > 0

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    async def test_s1_interrupted(self, number: signal.Signals, code: int, tmp_path: Path) -> None:
        """S1: after the signal nothing is sent, what was out lands, and every file is written."""
        async with Stage(tmp_path, faults=Faults(latency_s=0.05), concurrency=8) as stage:
            stage.seed(100)
            asked: list[int] = []

            def interrupt() -> None:
                signal.raise_signal(number)
                asked.append(stage.sim.requests)

            stage.after(60, interrupt)
            run = await stage.run()

            assert (run.summary.exit_code, run.summary.verdict) == (code, "interrupted")
            assert run.reason == f"{number.name} came; what was in flight could land"
            assert stage.sim.requests <= asked[0] + 8
            assert_accounted_for(stage, run, "interrupted")
            # Every PATCH that was out has its outcome; some that were about to leave did not.
            assert set(stage.patches) == {line["sync_id"] for line in run.lines}
            unanswered = [
                row for row in run.table(UNPROCESSED_FILE) if row["syncshift_sent"] == "unanswered"
            ]
            assert len(unanswered) <= 2 * 8

    async def test_s3_rows_that_wait_leave_at_once(self, tmp_path: Path) -> None:
        """S3: a run that is held for a minute ends within a moment of the signal."""
        async with Stage(tmp_path, faults=Faults(retry_after_s=60)) as stage:
            stage.seed(100)
            stage.sim.script(next(iter(stage.desired)), "GET", [Fault.HTTP_429])
            loop = asyncio.get_running_loop()
            lives: list[Live] = []
            signaled: list[float] = []

            async def interrupt() -> None:
                await until(lambda: lives and lives[0].waits() and not lives[0].in_flight)
                signaled.append(loop.time())
                signal.raise_signal(signal.SIGTERM)

            interrupting = asyncio.create_task(interrupt())
            run = await stage.carry(stage.open(), show=lives.append)
            await interrupting

            assert loop.time() - signaled[0] < 1
            assert run.summary.exit_code == 143
            assert_accounted_for(stage, run, "interrupted")

    @in_fast_motion(10)
    async def test_s1_the_drain_is_bounded(self, tmp_path: Path) -> None:
        """S1: a request that does not land within --drain is given up; its row stays in doubt."""
        async with Stage(tmp_path, faults=Faults(latency_s=20.0, latency_jitter=0.0)) as stage:
            stage.plain(3)
            began = stage.clocks.steady()
            stage.after(2, lambda: signal.raise_signal(signal.SIGTERM))
            run = await stage.run(no_read=True, drain="2s")

            assert stage.clocks.steady() - began < 10
            assert run.summary.exit_code == 143
            assert run.counts == {"unprocessed": 3}
            assert {row["syncshift_sent"] for row in run.table(UNPROCESSED_FILE)} == {"unanswered"}

            stage.sim.faults = Faults()
            resumed = await stage.resume(run)
            assert resumed.counts == {"updated": 3}

    async def test_s2_a_second_signal_leaves_at_once(self, tmp_path: Path) -> None:
        """S2: whoever insists is let go with the signal's code, with nothing in between."""

        class Left(Exception):
            pass

        def leave(code: int) -> NoReturn:
            raise Left(code)

        async with Stage(tmp_path, faults=Faults(latency_s=0.3, latency_jitter=0.0)) as stage:
            stage.plain(40)
            opened = stage.open(concurrency=4)

            def twice() -> None:
                signal.raise_signal(signal.SIGTERM)
                loop = asyncio.get_running_loop()
                loop.call_later(0.05, signal.raise_signal, signal.SIGINT)

            stage.after(3, twice)
            with pytest.raises(ExceptionGroup) as left:
                await carry_out(opened, show=lambda _: None, leave=leave, clocks=stage.clocks)
            opened.folder.unlock()
            stage.sim.faults = Faults()

            assert left.group_contains(Left, match="130")
            resumed = await stage.carry(stage.reopen(opened.folder.run_id))
            assert resumed.counts == {"updated": 40}

    async def test_an_interrupted_run_without_rows_left_is_done(self, tmp_path: Path) -> None:
        """A signal during the last request changes nothing: the rows alone decide."""
        async with Stage(tmp_path, faults=Faults(latency_s=0.02), concurrency=1) as stage:
            stage.plain(1)
            stage.after(1, lambda: signal.raise_signal(signal.SIGTERM))
            run = await stage.run()

            assert (run.summary.exit_code, run.summary.verdict) == (0, "succeeded")
            assert run.opened.folder.read().exit_code == 0

    async def test_one_user_s_refusals_at_the_end_are_settled(self, tmp_path: Path) -> None:
        """Rows kept back as suspects end as they were found once the input has ended."""
        async with Stage(tmp_path) as stage:
            stage.plain(3)
            stage.checker = lambda _: None
            run = await stage.run(max_failures="100%")

            assert run.counts == {"rejected": 3}
            assert_accounted_for(stage, run, "finished")


class TestEvents:
    """What the run did, in order."""

    async def test_a_run_opens_and_closes(self, tmp_path: Path) -> None:
        """The first event says what is to be done, the last how it ended."""
        async with Stage(tmp_path) as stage:
            stage.plain(5)
            run = await stage.run()
            first, last = run.events

            assert {k: first[k] for k in ("event", "resumed", "rows", "settled", "in_doubt")} == {
                "event": "run.opened",
                "resumed": False,
                "rows": 5,
                "settled": 0,
                "in_doubt": 0,
            }
            assert (last["event"], last["state"], last["reason"]) == ("run.closed", "finished", "")

    async def test_a_resume_says_so(self, tmp_path: Path) -> None:
        """A second session tells how many had ended, and how many are in doubt."""
        async with Stage(tmp_path) as stage:
            stage.plain(5)
            run = await stage.run()
            run.forget(2, 3)
            resumed = await stage.resume(run)
            _, _, opened, closed = resumed.events

            assert (opened["resumed"], opened["settled"], opened["in_doubt"]) == (True, 3, 2)
            assert closed["event"] == "run.closed"


class TestAccount:
    """What lies in the folder is enough to add it all up again."""

    @pytest.mark.parametrize("end", ["finished", "stopped", "resumed"])
    async def test_p1_the_account_is_the_same_byte_for_byte(self, end: str, tmp_path: Path) -> None:
        """P1: with summary and result files gone, the journals give them again, byte for byte."""
        async with Stage(tmp_path, concurrency=4) as stage:
            stage.seed(120, users=9)
            stage.set(list(stage.desired)[33], user="somebody")
            if end == "finished":
                run = await stage.run()
            elif end == "stopped":
                run = await stage.run(max_failures="0")
            else:
                run = await stage.resume(await stage.interrupted(after=100))
            names = (*FILES, SUMMARY)
            before = {name: (run.path / name).read_bytes() for name in names}
            for name in names:
                (run.path / name).unlink()
            folder = Folder(run.path)
            again = add_up(folder, folder.read(), run.opened.job)

            assert {name: (run.path / name).read_bytes() for name in names} == before
            assert again == run.summary

    async def test_an_account_without_files_leaves_them_alone(self, tmp_path: Path) -> None:
        """Whoever only looks changes nothing, and is told the same numbers."""
        async with Stage(tmp_path) as stage:
            stage.plain(5)
            run = await stage.run()
            before = {path: path.stat().st_mtime_ns for path in run.path.iterdir()}
            looked = add_up(
                run.opened.folder, run.opened.folder.read(), run.opened.job, files=False
            )

            assert looked.counts == run.summary.counts
            assert looked.files == {}
            assert {path: path.stat().st_mtime_ns for path in run.path.iterdir()} == before

    async def test_a_run_that_is_at_work_has_no_verdict_yet(self, tmp_path: Path) -> None:
        """Looked at while it goes, a run has counts, and neither verdict nor exit code."""
        async with Stage(tmp_path) as stage:
            stage.plain(60)
            opened = stage.open()
            seen: list[Any] = []

            def look() -> None:
                folder = Folder(opened.folder.path)
                seen.append(add_up(folder, folder.read(), opened.job, live=True, files=False))

            stage.after(70, look)
            await stage.carry(opened)

            (summary,) = seen
            assert (summary.verdict, summary.exit_code, summary.state) == (None, None, "running")
            assert sum(summary.counts.values()) == 60

    async def test_resyncs_are_counted_for_what_was_updated(self, tmp_path: Path) -> None:
        """Only a credential that really changed sets off a re-sync."""
        async with Stage(tmp_path) as stage:
            stage.plain(4, frequency="1h")
            stage.write(
                {"sync_id": f"s{n}", "user_id": "u1", "credential_id": c, "frequency": f}
                for n, c, f in ((1, NEW, ""), (2, "", "5m"), (3, OLD, "5m"), (4, NEW, "1h"))
            )
            run = await stage.run(BOTH)

            assert run.counts == {"updated": 4}
            assert run.summary.resyncs == 2
            assert run.summary.attempts == 4

    async def test_limits_are_told(self, tmp_path: Path) -> None:
        """The summary says under which limits the run went."""
        async with Stage(tmp_path) as stage:
            stage.plain(1)
            run = await stage.run(concurrency=3, rate=50, max_failures="2", timeout="9s")

            assert run.summary.limits == {
                "concurrency": 3,
                "rate": 50.0,
                "strict": False,
                "max_resyncs": None,
                "max_attempts": 5,
                "timeout_s": 9.0,
                "max_outage_s": 900.0,
                "max_failures": "2",
            }

    @in_fast_motion(30)
    async def test_what_holds_a_run_is_in_its_events(self, tmp_path: Path) -> None:
        """Another process that looks at the folder sees why nothing is sent, while that is so."""
        async with Stage(tmp_path, faults=Faults(retry_after_s=5)) as stage:
            stage.plain(40)
            opened = stage.open()
            during: list[Any] = []

            def look() -> None:
                during.append(holds_of(opened.folder, now_s=stage.clocks.wall()))

            stage.after(30, lambda: stage.sim.outage(OutageKind.UNAVAILABLE))
            stage.when(lambda: "outage.probed" in stage.diagnostics.getvalue(), look)
            stage.when(lambda: bool(during), lambda: stage.sim.outage(None))
            stage.sim.script("s40", "PATCH", [Fault.HTTP_429])
            run = await stage.carry(opened)

            ((hold,),) = during
            assert (hold.reason, hold.detail, hold.until) == (
                "outage",
                "503: Service Unavailable",
                None,
            )
            assert run.counts == {"updated": 40}
            until = run.held("throttled")[-1]["until"]
            (during_throttle,) = holds_of(opened.folder, now_s=0.0)
            assert (during_throttle.reason, during_throttle.until) == ("throttled", until)
            assert holds_of(opened.folder, now_s=stage.clocks.wall() + 60) == ()

    async def test_a_run_without_events_is_held_by_nothing(self, tmp_path: Path) -> None:
        """Before anything was sent there is nothing to wait for."""
        assert holds_of(Folder(tmp_path), now_s=0.0) == ()

    async def test_an_input_that_is_gone_cannot_be_added_up(self, tmp_path: Path) -> None:
        """The message names the file; the journals are not touched."""
        async with Stage(tmp_path) as stage:
            stage.plain(5)
            run = await stage.run()
            (run.path / "input.csv").unlink()
            with pytest.raises(
                RunChanged, match=r"input\.csv: the input of the run cannot be read"
            ):
                add_up(run.opened.folder, run.opened.folder.read(), run.opened.job)


class TestLive:
    """What a run is doing right now."""

    async def test_the_figures_are_those_of_the_moment(self, tmp_path: Path) -> None:
        """Rows, outcomes so far, requests on their way and time are there to be shown."""
        async with Stage(tmp_path, faults=Faults(latency_s=0.01), concurrency=4) as stage:
            stage.seed(60)
            lives: list[Live] = []
            seen: list[tuple[int, int, float]] = []

            def look() -> None:
                seen.append((lives[0].settled, lives[0].in_flight, lives[0].elapsed_s))

            stage.after(60, look)
            run = await stage.carry(stage.open(), show=lives.append)

            ((settled, in_flight, elapsed_s),) = seen
            live = lives[0]
            assert live.rows == 60
            assert 0 < settled < 60
            assert 1 <= in_flight <= 4
            assert elapsed_s > 0
            assert (live.settled, live.in_flight, live.settled_before) == (60, 0, 0)
            assert live.tally.counts[OutcomeKind.UPDATED] == 60
            assert live.waits() == ()
            assert run.counts == {"updated": 60}

    async def test_a_resume_begins_where_the_run_stood(self, tmp_path: Path) -> None:
        """What had ended before counts as settled from the first moment."""
        async with Stage(tmp_path) as stage:
            stage.plain(10)
            run = await stage.run()
            run.forget(9, 10)
            shown: list[int] = []
            await stage.carry(
                stage.reopen(run.id), show=lambda live: shown.append(live.settled_before)
            )

            assert shown == [8]

    async def test_d14_a_slow_disk_is_a_reason_to_wait(self, tmp_path: Path) -> None:
        """D14: while the disk keeps everybody waiting that is said, and nothing is sent."""
        async with Stage(tmp_path, concurrency=4) as stage:
            stage.seed(60)
            lives: list[Live] = []
            asleep = asyncio.Event()
            loop = asyncio.get_running_loop()
            seen: list[str] = []
            slow = False

            def sync(fd: int) -> None:
                nonlocal slow
                if slow:
                    slow = False
                    loop.call_soon_threadsafe(asleep.set)
                    while not seen:
                        os.sched_yield()
                os.fdatasync(fd)

            def be_slow() -> None:
                nonlocal slow
                slow = True

            async def look() -> None:
                await asleep.wait()
                await until(lives[0].waits)
                requests = stage.sim.requests
                await asyncio.sleep(0)
                assert stage.sim.requests == requests
                seen.extend(wait.reason for wait in lives[0].waits())

            stage.after(50, be_slow)
            looking = asyncio.create_task(look())
            run = await stage.carry(stage.open(), show=lives.append, sync=sync)
            await looking

            assert seen == ["disk"]
            assert run.counts == {"updated": 60}


async def test_x7_everything_in_the_folder_is_private(tmp_path: Path) -> None:
    """X7: whatever the umask, all files of a run are 0600 and its folder is 0700."""
    before = os.umask(0)
    try:
        async with Stage(tmp_path) as stage:
            stage.plain(5)
            run = await stage.run()
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.path.iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert set(modes) >= {"run.json", "input.csv", "undo.jsonl", "report.jsonl", "events.jsonl"}


async def test_a_wrong_failure_limit_is_refused(tmp_path: Path) -> None:
    """Nothing is sent under a limit that nobody can read."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        opened = stage.open(max_failures="many")
        with pytest.raises(SettingsError, match="--max-failures must be"):
            limit_of(opened)
        with pytest.raises(SettingsError, match="--max-failures must be"):
            await stage.carry(opened)
        opened.folder.unlock()

        assert stage.sim.requests == 0


async def test_d6_an_account_that_cannot_be_written_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    """D6: the journals are whole, so the files can be made later; the message says how."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        opened = stage.open()
        # A folder in its place makes the file unwritable, for root too.
        (opened.folder.path / f".{SUMMARY}.part").mkdir()
        with pytest.raises(DiskFault, match=f"syncshift report {opened.folder.run_id}"):
            await stage.carry(opened)

        assert not opened.folder.is_locked()
        (opened.folder.path / f".{SUMMARY}.part").rmdir()
        summary = add_up(opened.folder, opened.folder.read(), opened.job)
        assert summary.counts["updated"] == 5


async def test_a_journal_that_cannot_be_opened_sends_nothing(tmp_path: Path) -> None:
    """A run whose record cannot be kept does not begin, and lets go of its folder."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        opened = stage.open()
        (opened.folder.path / "events.jsonl").symlink_to(tmp_path / "nowhere" / "events.jsonl")
        with pytest.raises(DiskFault, match=r"events\.jsonl: cannot be opened"):
            await stage.carry(opened)

        assert stage.sim.requests == 0
        assert not opened.folder.is_locked()


async def test_an_input_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    """An input that is changed under the run stops it, and resume takes the old one only."""
    async with Stage(tmp_path) as stage:
        records = [SyncRecord(id=f"s{n}", user="u1", credential_id=NEW) for n in range(2500)]
        stage.sim.add(*records)
        stage.write({"sync_id": r.id, "user_id": r.user, "credential_id": NEW} for r in records)
        opened = stage.open()
        copy = opened.folder.path / "input.csv"
        whole = copy.read_bytes()
        stage.after(20, lambda: copy.write_bytes(whole[: len(whole) // 2]))
        with pytest.raises(RunChanged, match=r"input\.csv: is not the input that the run began"):
            await stage.carry(opened)

        assert not opened.folder.is_locked()
        copy.write_bytes(whole)
        resumed = await stage.carry(stage.reopen(opened.folder.run_id))
        assert resumed.counts == {"unchanged": 2500}


async def test_rows_of_another_input_in_the_journals_are_refused(tmp_path: Path) -> None:
    """A record that names rows which the input has not is not gone on with."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        opened = stage.open()
        journal = Journal(opened.folder.path / "report.jsonl", -1, 0)
        journal.append(b'{"event":"change.settled","row":9,"outcome":"updated"}')
        journal.path.write_bytes(journal.take())
        with pytest.raises(SyncshiftError, match="the journals name 1 more"):
            await stage.carry(opened)

        assert stage.sim.requests == 0
        assert not opened.folder.is_locked()
