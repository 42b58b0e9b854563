"""A line counts once it is on disk, and a file that was torn or damaged is known for what it is."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import DiskFault, JournalDamaged
from runner.journal import (
    Committer,
    Journal,
    Line,
    Tail,
    cut_torn_tail,
    scan,
    sync_directory,
    tail_of,
    write_file,
    write_whole,
)
from tests.memory import PEAK

WRITER = """
import asyncio, os, random, signal, sys
from pathlib import Path
from runner.journal import Committer, Journal

path, last, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
journal = Journal.open(path)
first = journal.seq + 1
dies_at = first + dice.randrange(200) if seed else last + 1

async def main():
    committer = Committer(journal)
    n = first
    while n <= last:
        group = range(n, min(last, n + dice.randrange(40)) + 1)
        for n in group:
            journal.append(b'{"row":%d,"filler":"%b"}' % (n, b"x" * dice.randrange(300)))
        if n >= dies_at:
            torn = journal.take()
            os.write(journal.fd, torn[:dice.randrange(1, len(torn))])
            os.kill(os.getpid(), signal.SIGKILL)
        await committer.durable()
        os.write(1, b"%d\\n" % n)
        n += 1
    await committer.close()

asyncio.run(main())
"""
"""Writes rows up to a last one, and tells each that is on disk; dies in the middle of a write."""

FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from runner.errors import DiskFault
from runner.journal import Committer, Journal

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    committer = Committer(journal)
    try:
        for n in range(1, 1000):
            journal.append(b'{"row":%d}' % n)
            await committer.durable()
            print(n)
    except DiskFault as fault:
        print(fault, file=sys.stderr)
    size = journal.path.stat().st_size
    journal.append(b'{"row":1000}')
    try:
        await committer.durable()
    except DiskFault:
        print(journal.path.stat().st_size - size, file=sys.stderr)
    await committer.close()

most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
asyncio.run(main())
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""
"""Writes to a file that may have a thousand bytes."""


def filled(path: Path, *, lines: int, filler: int = 20) -> bytes:
    """Write a journal of so many lines, and return what stands in it."""
    journal = Journal.open(path)
    for row in range(1, lines + 1):
        journal.append(b'{"row":%d,"filler":"%b"}' % (row, b"x" * filler))
    write_whole(journal.fd, journal.take())
    journal.close()
    return path.read_bytes()


def rows(path: Path) -> list[int]:
    """Return the rows that the good lines tell of."""
    return [json.loads(line.data)["row"] for line in scan(path)]


def test_a_line_ends_with_its_number_and_a_checksum(tmp_path: Path) -> None:
    """Every line is JSON whose last two fields are `seq` and the CRC-32 of all before the sum."""
    content = filled(tmp_path / "j", lines=3)

    for number, line in enumerate(content.splitlines(), start=1):
        told = json.loads(line)
        assert list(told) == ["row", "filler", "seq", "crc"]
        assert told["seq"] == number
        assert told["crc"] == f"{crc32(line[: -len('xxxxxxxx') - 2]):08x}"


def test_scan_tells_where_each_line_starts(tmp_path: Path) -> None:
    """A scan may go on behind a known place and yields what it would have yielded there."""
    path = tmp_path / "j"
    content = filled(path, lines=5)
    lines = list(scan(path))

    middle = Tail(lines[2].seq, lines[3].offset)
    assert lines[0] == Line(0, 1, content.splitlines()[0])
    assert [content[line.offset :].split(b"\n")[0] for line in lines] == [x.data for x in lines]
    assert list(scan(path, start=middle)) == lines[3:]
    assert tail_of(path) == tail_of(path, start=middle) == Tail(5, len(content), 0)


def test_numbers_go_on_where_a_journal_is_opened_again(tmp_path: Path) -> None:
    """What is appended by a later process follows the last good line without a gap."""
    path = tmp_path / "j"
    filled(path, lines=2)
    filled(path, lines=1)

    assert [line.seq for line in scan(path)] == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_is_a_journal(tmp_path: Path) -> None:
    """A file that was made and never written to is a journal without lines."""
    path = tmp_path / "j"
    path.touch()

    assert tail_of(path) == Tail()
    assert cut_torn_tail(path) == Tail()
    assert list(scan(path)) == []


@pytest.mark.parametrize("kills", [25, pytest.param(200, marks=pytest.mark.long)])
def test_d1_kills_in_the_middle_of_a_write_leave_no_bad_line(tmp_path: Path, kills: int) -> None:
    """A writer killed again and again loses nothing it has told, repeats nothing, breaks nothing.

    Half of the kills come from inside, between two bytes of a write; the others
    from outside, at whatever the writer is doing when it has told a row.
    """
    path, last = tmp_path / "j", 10_000_000
    dice = random.Random(kills)
    torn = 0
    for kill in range(kills):
        inside = kill % 2 == 0
        seed = kill + 1 if inside else 0
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(last), str(seed)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            told = 0
            outside_after = dice.randrange(1, 30)
            for count, line in enumerate(writer.stdout, start=1):
                told = int(line)
                if not inside and count == outside_after:
                    writer.kill()
            assert writer.wait() == -9
        tail = tail_of(path)
        torn += tail.torn > 0
        assert tail.seq >= told
    enough = tail_of(path).seq + 50
    subprocess.run([sys.executable, "-c", WRITER, str(path), str(enough), "0"], check=True)

    assert rows(path) == list(range(1, enough + 1))
    assert all(line.endswith(b'"}') for line in path.read_bytes().splitlines())
    assert len(list(tmp_path.glob("j.torn-*"))) == torn >= kills // 4


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_d1_any_prefix_opens_behind_its_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Wherever a file ends, all its whole lines stand, the rest is set aside byte for byte."""
    path = tmp_path_factory.mktemp("prefix") / "j"
    content = filled(path, lines=12)
    length = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:length])
    whole = content[:length].rfind(b"\n") + 1

    tail = cut_torn_tail(path)

    aside = path.with_name("j.torn-1")
    assert path.read_bytes() == content[:whole]
    assert tail == Tail(content[:whole].count(b"\n"), whole)
    assert (aside.read_bytes() if aside.exists() else b"") == content[whole:length]


def test_d4_one_changed_byte_is_refused_with_file_and_line(tmp_path: Path) -> None:
    """A line in the middle that is not what was written refuses the run, and is named."""
    path = tmp_path / "report.jsonl"
    content = bytearray(filled(path, lines=1000))
    offset = sum(map(len, bytes(content).splitlines(keepends=True)[:499]))
    content[offset + 10] ^= 0x01
    path.write_bytes(content)

    with pytest.raises(JournalDamaged) as damage:
        Journal.open(path)

    assert str(damage.value).startswith(f"{path}: line 500 (byte {offset}) is not what was written")
    assert path.read_bytes() == content
    assert damage.value.exit_code == 5


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        pytest.param(lambda x: x[:3] + x[4:], "line 4 .* is missing; line 5 stands", id="lost"),
        pytest.param(lambda x: x[:4] + x[3:], "line 5 .* is missing; line 4 stands", id="twice"),
        pytest.param(
            lambda x: [*x[:2], x[3], x[2], *x[4:]], "line 3 .* line 4 stands", id="swapped"
        ),
        pytest.param(lambda x: x[1:], "line 1 .* is missing; line 2 stands", id="beheaded"),
        pytest.param(lambda x: [*x[:2], b"\n", *x[2:]], "line 3 .* is not what", id="blank-line"),
        pytest.param(lambda x: [*x[:2], b"{}\n", *x[2:]], "line 3 .* is not what", id="foreign"),
    ],
)
def test_d4_lines_that_were_moved_are_seen(
    tmp_path: Path, edit: Callable[[list[bytes]], list[bytes]], complaint: str
) -> None:
    """A line that is lost, doubled, moved or put in between is damage, though each is whole."""
    path = tmp_path / "j"
    lines = filled(path, lines=8).splitlines(keepends=True)
    path.write_bytes(b"".join(edit(lines)))

    with pytest.raises(JournalDamaged, match=complaint):
        cut_torn_tail(path)


@pytest.mark.parametrize(
    ("step", "masks"),
    [(29, (0x01,)), pytest.param(1, (0x01, 0x20, 0x80, 0xFF), marks=pytest.mark.long)],
)
def test_d4_no_flipped_byte_goes_unseen(tmp_path: Path, step: int, masks: tuple[int, ...]) -> None:
    """Each byte of a 200-line journal, changed: refused, or in a torn tail of at most two lines."""
    path = tmp_path / "j"
    content = filled(path, lines=200, filler=80)
    lines = content.splitlines()
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    refused = torn = 0
    for offset in [*range(0, len(content), step), *range(starts[197], len(content))]:
        for mask in masks:
            changed = bytearray(content)
            changed[offset] ^= mask
            path.write_bytes(changed)
            try:
                found = list(scan(path))
                tail = tail_of(path)
            except JournalDamaged:
                refused += 1
                continue
            torn += 1
            assert [line.data for line in found] == lines[: tail.seq]
            assert tail.seq >= 198
            assert starts[tail.seq] == tail.offset <= offset
            assert tail.offset + tail.torn == len(content)

    assert refused > torn > 0


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(bytes(100) + b"\n" + bytes(100) + b"\n", id="zeros-with-line-ends"),
        pytest.param(random.Random(5).randbytes(4096), id="random"),
        pytest.param(b"\n", id="a-line-end"),
        pytest.param(b"\n\n\n", id="blank-lines"),
        pytest.param(b'{"row":4,"seq":4,"crc":"00000000"}\n', id="wrong-sum"),
        pytest.param(b'"}\n', id="the-end-of-a-line"),
        pytest.param(b"x", id="one-byte"),
    ],
)
def test_d5_a_nonsense_tail_is_set_aside_and_cut(tmp_path: Path, tail: bytes) -> None:
    """What follows the last good line and is none counts as torn; nothing of it is thrown away."""
    path = tmp_path / "j"
    content = filled(path, lines=3)
    path.write_bytes(content + tail)

    assert list(scan(path))[-1].seq == 3
    assert tail_of(path) == Tail(3, len(content), len(tail))
    filled(path, lines=1)
    assert [line.seq for line in scan(path)] == [1, 2, 3, 4]
    assert (tmp_path / "j.torn-1").read_bytes() == tail
    assert stat.S_IMODE((tmp_path / "j.torn-1").stat().st_mode) == 0o600


def test_d5_each_torn_tail_is_kept(tmp_path: Path) -> None:
    """A second torn tail does not overwrite the first one that was set aside."""
    path = tmp_path / "j"
    for n in (1, 2, 3):
        content = filled(path, lines=1)
        path.write_bytes(content + b"torn %d" % n)
        cut_torn_tail(path)

    assert [(tmp_path / f"j.torn-{n}").read_bytes()[-1:] for n in (1, 2, 3)] == [b"1", b"2", b"3"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_d5_a_power_cut_loses_a_suffix_and_no_more(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a disk made of the bytes after the last sync, every line before it stands."""
    path = tmp_path_factory.mktemp("cut") / "j"
    content = filled(path, lines=30, filler=60)
    lines = content.splitlines(keepends=True)
    synced = sum(map(len, lines[: data.draw(st.integers(0, 30), label="lines synced")]))
    length = data.draw(st.integers(synced, len(content)), label="length")
    broken_at = data.draw(st.integers(synced, length), label="first bad byte")
    if data.draw(st.booleans(), label="by sectors"):
        broken_at = max(synced, broken_at // 512 * 512)
    size = length - broken_at
    filling = data.draw(
        st.one_of(st.just(bytes(size)), st.binary(min_size=size, max_size=size)), label="filling"
    )
    path.write_bytes(content[:broken_at] + filling)

    tail = cut_torn_tail(path)

    assert tail.offset >= synced
    assert content.startswith(path.read_bytes())
    assert [line.data + b"\n" for line in scan(path)] == lines[: tail.seq]


async def test_d6_a_failed_sync_ends_it_and_is_never_repeated(tmp_path: Path) -> None:
    """After one EIO nobody is told that anything was saved, and the disk is not asked again."""
    calls = []

    def sync(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = Journal.open(tmp_path / "undo.jsonl")
    committer = Committer(journal, sync=sync)
    journal.append(b'{"row":1}')
    waiting = [committer.durable() for _ in range(3)]
    with pytest.raises(DiskFault, match=r"undo\.jsonl: cannot be written \(Input/output error\)"):
        await waiting[0]
    journal.append(b'{"row":2}')
    late = committer.durable()

    assert late.done()
    assert {type(f.exception()) for f in (*waiting[1:], late)} == {DiskFault}
    assert committer.failure is waiting[1].exception()
    assert calls == [journal.fd]
    await committer.close()
    assert calls == [journal.fd]
    assert rows(journal.path) == [1]


async def test_d6_whoever_came_during_the_failing_sync_is_told_as_well(tmp_path: Path) -> None:
    """Callers that wait for the next group learn at once that there will be none."""
    entered, go = threading.Event(), threading.Event()

    def sync(fd: int) -> None:
        entered.set()
        go.wait(10)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal, sync=sync)
    journal.append(b'{"row":1}')
    first = committer.durable()
    assert await asyncio.to_thread(entered.wait, 10)
    journal.append(b'{"row":2}')
    second = committer.durable()
    go.set()
    with pytest.raises(DiskFault, match="No space left"):
        await second

    assert isinstance(first.exception(), DiskFault)
    await committer.close()
    assert rows(journal.path) == [1]


async def test_d6_a_full_device_ends_it(tmp_path: Path) -> None:
    """A write for which there is no room is a fault of the disk, told with what to do."""
    journal = Journal(tmp_path / "j", os.open("/dev/full", os.O_WRONLY), 0)
    committer = Committer(journal)
    journal.append(b'{"row":1}')

    with pytest.raises(DiskFault, match=r"No space left on device.*then resume the run"):
        await committer.durable()
    await committer.close()


def test_d6_a_short_write_is_cut_and_repeated_by_the_next_process(tmp_path: Path) -> None:
    """When a file can grow no more, what was told stands, and the part of a line is torn."""
    path = tmp_path / "j"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], check=True, capture_output=True, text=True
    )
    told = [int(line) for line in done.stdout.split()]
    fault, written_afterwards = done.stderr.splitlines()

    assert "cannot be written (File too large)" in fault
    assert written_afterwards == "0"
    assert rows(path) == told
    assert path.stat().st_size == 1000
    assert tail_of(path).torn > 0
    filled(path, lines=1)
    assert len(rows(path)) == len(told) + 1


async def test_d6_a_removed_file_is_noticed(tmp_path: Path) -> None:
    """A journal that was deleted under the run records nothing any more, and says so."""
    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal)
    journal.path.unlink()
    journal.append(b'{"row":1}')

    with pytest.raises(DiskFault, match="the file was removed"):
        await committer.durable()
    await committer.close()


async def test_d6_close_tells_that_the_last_commit_failed(tmp_path: Path) -> None:
    """What is left at the end is committed by closing; if that fails, it is no quiet end."""
    journal = Journal(tmp_path / "j", os.open("/dev/full", os.O_WRONLY), 0)
    committer = Committer(journal)
    journal.append(b'{"row":1}')

    with pytest.raises(DiskFault, match="No space"):
        await committer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(journal.fd)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file and directory that was synced, by name; each sync is made for real as well."""
    names: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def test_d7_creation_is_durable(tmp_path: Path, synced: list[str]) -> None:
    """A journal is there after a power cut: file, then directory, before it may be used."""
    Journal.open(tmp_path / "j").close()

    assert synced == ["j", tmp_path.name]


def test_d7_a_cut_is_durable(tmp_path: Path, synced: list[str]) -> None:
    """A torn tail is safe elsewhere before it is cut off, and the cut before anything follows."""
    path = tmp_path / "j"
    path.write_bytes(filled(path, lines=1) + b"torn")
    synced.clear()
    cut_torn_tail(path)

    assert synced == [".j.torn-1.part", tmp_path.name, "j", tmp_path.name]


def test_d7_a_file_is_replaced_as_a_whole(tmp_path: Path, synced: list[str]) -> None:
    """A replaced file is synced under another name first, so no reader ever sees a part."""
    write_file(tmp_path / "f", b"old")
    with (tmp_path / "f").open("rb") as reader:
        write_file(tmp_path / "f", b"new")

        assert reader.read() == b"old"
    assert (tmp_path / "f").read_bytes() == b"new"
    assert synced == [".f.part", tmp_path.name] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_what_cannot_be_replaced_stays(tmp_path: Path) -> None:
    """A file that cannot be written is told by name, and the old one is left."""
    (tmp_path / "f").mkdir()

    with pytest.raises(DiskFault, match=r"f: cannot be written \(Is a directory\)"):
        write_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").is_dir()
    with pytest.raises(DiskFault, match=r"gone/f: cannot be written \(No such file"):
        write_file(tmp_path / "gone" / "f", b"new")
    with pytest.raises(NotADirectoryError):
        sync_directory(Path(__file__))


def test_a_journal_that_cannot_be_opened_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    """A folder that is gone, or something else of that name, is told by path."""
    (tmp_path / "folder").mkdir()

    with pytest.raises(DiskFault, match=r"gone/j: cannot be opened for writing \(No such file"):
        Journal.open(tmp_path / "gone" / "j")
    with pytest.raises(JournalDamaged, match="folder: is not a file"):
        Journal.open(tmp_path / "folder")
    with pytest.raises(JournalDamaged, match="null: is not a file"):
        Journal.open(Path("/dev/null"))


def test_x7_journals_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """Under a umask of 000 nobody else may read what is written."""
    before = os.umask(0)
    try:
        Journal.open(tmp_path / "j").close()
        write_file(tmp_path / "f", b"")
    finally:
        os.umask(before)

    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


async def test_done_means_on_disk(tmp_path: Path) -> None:
    """When `durable` ends, another reader of the file sees the line, and it was synced."""
    synced_sizes = []

    def sync(fd: int) -> None:
        os.fdatasync(fd)
        synced_sizes.append(os.fstat(fd).st_size)

    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal, sync=sync)
    for row in (1, 2, 3):
        journal.append(b'{"row":%d}' % row)
        await committer.durable()

        assert rows(journal.path) == list(range(1, row + 1))
        assert synced_sizes[-1] == journal.path.stat().st_size
    await committer.close()


async def test_callers_that_overlap_share_one_sync(tmp_path: Path) -> None:
    """A hundred rows that come while the disk is busy cost one more sync, not a hundred."""
    entered, go, calls = threading.Event(), threading.Event(), []

    def sync(fd: int) -> None:
        calls.append(fd)
        entered.set()
        go.wait(10)

    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal, sync=sync)
    journal.append(b'{"row":0}')
    waiting = [committer.durable()]
    assert await asyncio.to_thread(entered.wait, 10)
    for row in range(1, 101):
        journal.append(b'{"row":%d}' % row)
        waiting.append(committer.durable())
    go.set()
    await asyncio.gather(*waiting)

    assert len(calls) == 2
    assert rows(journal.path) == list(range(101))
    await committer.close()
    assert rows(journal.path) == list(range(101))


async def test_several_journals_are_committed_together(tmp_path: Path) -> None:
    """One future speaks for all journals of a committer; a quiet one is not touched."""
    synced: list[int] = []
    one, two, quiet = (Journal.open(tmp_path / name) for name in ("one", "two", "quiet"))
    committer = Committer(one, two, quiet, sync=synced.append)
    one.append(b'{"row":1}')
    two.append(b'{"row":2}')
    await committer.durable()

    assert synced == [one.fd, two.fd]
    assert (rows(one.path), rows(two.path), rows(quiet.path)) == ([1], [2], [])
    await committer.durable()
    assert synced == [one.fd, two.fd]
    await committer.close()


async def test_d10_a_canceled_caller_loses_no_line_and_harms_no_other(tmp_path: Path) -> None:
    """Whoever is canceled while it waits for the disk has its line saved all the same."""
    entered, go = threading.Event(), threading.Event()

    def sync(fd: int) -> None:
        entered.set()
        go.wait(10)

    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal, sync=sync)

    async def settle(row: int) -> None:
        journal.append(b'{"row":%d}' % row)
        await committer.durable()

    tasks = [asyncio.create_task(settle(row)) for row in range(1, 6)]
    assert await asyncio.to_thread(entered.wait, 10)
    tasks += [asyncio.create_task(settle(row)) for row in range(6, 11)]
    await asyncio.sleep(0)
    for task in (*tasks[:4], *tasks[5:9]):
        task.cancel()
    go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(e) for e in ended] == 2 * [*[asyncio.CancelledError] * 4, type(None)]
    assert rows(journal.path) == list(range(1, 11))
    await committer.close()


async def test_d14_a_slow_disk_makes_everybody_wait_and_is_told(tmp_path: Path) -> None:
    """While a sync hangs nothing is called done, and since when can be asked."""
    entered, go = threading.Event(), threading.Event()
    now_s = 100.0

    def sync(fd: int) -> None:
        entered.set()
        go.wait(10)

    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal, sync=sync, clock=lambda: now_s)
    journal.append(b'{"row":1}')
    waiting = committer.durable()
    assert await asyncio.to_thread(entered.wait, 10)
    now_s = 105.0

    assert not waiting.done()
    assert committer.slow_since(100.9) is None
    assert committer.slow_since(105.0) == 100.0
    assert committer.slow_since(105.0, patience_s=6.0) is None
    second = committer.durable()
    go.set()
    await waiting
    await second
    assert committer.slow_since(1000.0) is None
    await committer.close()


async def test_a_journal_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    """A reader sees whole lines only, in order, however fast they come."""
    journal = Journal.open(tmp_path / "j")
    committer = Committer(journal)
    seen = 0
    for row in range(1, 301):
        journal.append(b'{"row":%d,"filler":"%b"}' % (row, b"x" * (row % 50)))
        saved = committer.durable()
        if row % 10 == 0:
            found = rows(journal.path)
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= seen
            seen = len(found)
            await saved
    await committer.close()

    assert rows(journal.path) == list(range(1, 301))


def test_all_of_a_large_block_is_written(tmp_path: Path) -> None:
    """A pipe takes a large block in parts; all of them arrive, in order."""
    data = random.Random(1).randbytes(1 << 20)
    out, into = os.pipe()

    def write() -> None:
        write_whole(into, data)
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(out, "rb") as reader:
        got = reader.read()
    writer.join()

    assert got == data


def test_d13_a_scan_takes_no_memory_to_speak_of(tmp_path: Path) -> None:
    """Reading fifty thousand lines holds a block of them, never all."""
    path = tmp_path / "j"
    filled(path, lines=50_000, filler=100)
    tracemalloc.start()
    try:
        tail = tail_of(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert tail.seq == 50_000
    assert peak < 4_000_000


@pytest.mark.long
def test_d13_ten_million_lines_are_read_in_half_a_minute(tmp_path: Path) -> None:
    """A scan at the size of the largest run: at most 30 s and 64 MB above what Python takes."""
    path = tmp_path / "j"
    journal = Journal.open(path)
    for row in range(1, 10_000_001):
        journal.append(b'{"row":%d,"filler":"%b"}' % (row, b"x" * 90))
        if row % 10_000 == 0:
            write_whole(journal.fd, journal.take())
    journal.close()
    code = (
        f"import sys, time, pathlib\n{PEAK}"
        "from runner.journal import tail_of\n"
        "began, before = time.monotonic(), peak()\n"
        "print(tail_of(pathlib.Path(sys.argv[1])).seq)\n"
        "print(time.monotonic() - began)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    seq, seconds, grown = map(float, done.stdout.split())
    path.unlink()

    assert seq == 10_000_000
    assert seconds <= 30
    assert 0 < grown <= 64 * 1024 * 1024
