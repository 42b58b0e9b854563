"""A run's folder is made once, belongs to one process at a time, and keeps its own counsel."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runner.errors import DiskFault, InputError, NoSuchRun, RunExists, RunLocked, SettingsError
from runner.folder import LOCK, MANIFEST, Folder, Input, Manifest
from runner.settings import Settings

NOON = 784_123_200.0

HOLDER = """
import signal, sys
from pathlib import Path
from runner.folder import Folder

held = Folder(Path(sys.argv[1]))
held.lock()
print("locked", flush=True)
signal.pause()
"""
"""Holds a run until it is killed."""

COPIER = """
import io, resource, sys
from pathlib import Path
from runner.errors import DiskFault
from runner.folder import Folder

most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
try:
    print(Folder(Path(sys.argv[1])).take_in(io.BytesIO(bytes(1500)), "input.csv"))
except DiskFault as fault:
    print(fault)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""
"""Copies 1,500 bytes to where there is room for 1,000."""


def manifest(run_id: str = "r-1", **changes: object) -> Manifest:
    """Return a manifest with something in every field."""
    made = Manifest(
        run_id=run_id,
        job="migrate-credentials",
        input=Input(name="syncs.csv", file="input.csv", format="csv", bytes=10, sha256="ab"),
        settings=Settings(base_url="https://on-prem.example", rate=2.5, ignore_columns=("x",)),
        versions={"syncshift": "0.1.0"},
        created="1994-11-06T12:00:00.000Z",
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where runs live; not made yet."""
    return tmp_path / "deep" / "runs"


@pytest.fixture
def folder(runs: Path) -> Iterator[Folder]:
    """A new run, locked."""
    made = Folder.create(runs, "r-1", wall_clock_s=NOON)
    yield made
    made.unlock()


def test_a_run_is_named_after_its_moment(runs: Path) -> None:
    """Without a name a run gets the time and something random, so that names sort by age."""
    one = Folder.create(runs, None, wall_clock_s=NOON)
    two = Folder.create(runs, None, wall_clock_s=NOON)
    one.unlock()
    two.unlock()

    assert re.fullmatch(r"19941106-120000-[0-9a-f]{6}", one.run_id)
    assert one.run_id != two.run_id


def test_a_name_that_could_leave_the_folder_is_refused(runs: Path) -> None:
    """A run's name is a plain name; nothing is made for any other."""
    with pytest.raises(SettingsError, match="--run-id must begin"):
        Folder.create(runs, "../elsewhere", wall_clock_s=NOON)

    assert not runs.exists()


def test_x7_all_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """Under a umask of 000 folders are 0700, files 0600."""
    before = os.umask(0)
    try:
        runs = tmp_path / "runs"
        made = Folder.create(runs, "r-1", wall_clock_s=NOON)
        made.write(manifest())
        made.take_in(io.BytesIO(b"x"), "input.csv")
    finally:
        os.umask(before)
    modes = {
        path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    made.unlock()

    assert modes == {
        "runs": 0o700,
        "runs/.gitignore": 0o600,
        "runs/r-1": 0o700,
        "runs/r-1/lock": 0o600,
        "runs/r-1/run.json": 0o600,
        "runs/r-1/input.csv": 0o600,
    }


def test_runs_do_not_end_up_in_a_repository(runs: Path) -> None:
    """The runs folder ignores itself; one that a person wrote there is left alone."""
    Folder.create(runs, "r-1", wall_clock_s=NOON).unlock()
    assert (runs / ".gitignore").read_text(encoding="utf-8") == "*\n"
    (runs / ".gitignore").write_text("!keep\n", encoding="utf-8")
    Folder.create(runs, "r-2", wall_clock_s=NOON).unlock()

    assert (runs / ".gitignore").read_text(encoding="utf-8") == "!keep\n"


def test_a_manifest_comes_back_as_it_was(folder: Folder) -> None:
    """All fields survive, with indentation for people; replacing it leaves nothing else behind."""
    first = folder.write(manifest())
    assert folder.read() == first == manifest()
    changed = folder.write(manifest(state="finished", exit_code=0, rows=7))

    assert folder.read() == changed
    assert (folder.path / MANIFEST).read_text(encoding="utf-8").startswith('{\n  "v": 1,\n')
    assert sorted(path.name for path in folder.path.iterdir()) == [LOCK, MANIFEST]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"{", b'{"v": 1, "run_id": 7}', b'{"run_id": "\xff"}', bytes(100)],
    ids=["empty", "bare", "list", "torn", "wrong-type", "no-utf-8", "zeros"],
)
def test_a_manifest_that_is_none_is_told_by_path(folder: Folder, content: bytes) -> None:
    """Whatever stands there instead, it is said which file cannot be understood."""
    (folder.path / MANIFEST).write_bytes(content)

    with pytest.raises(NoSuchRun, match=r"r-1/run\.json: is not the manifest of a run"):
        folder.read()


def test_a_missing_manifest_is_no_run(folder: Folder) -> None:
    """A folder without a manifest cannot be read as a run."""
    with pytest.raises(NoSuchRun, match="No such file"):
        folder.read()


def test_a_run_that_exists_is_not_overwritten(runs: Path, folder: Folder) -> None:
    """A taken name is refused with what to do instead, whether or not somebody is at work."""
    folder.write(manifest())
    with pytest.raises(RunLocked, match=f"r-1 is being worked on by process {os.getpid()} on"):
        Folder.create(runs, "r-1", wall_clock_s=NOON)
    folder.unlock()

    with pytest.raises(RunExists, match=r"--run-id.*syncshift resume r-1") as refusal:
        Folder.create(runs, "r-1", wall_clock_s=NOON)
    assert refusal.value.exit_code == 5
    assert folder.read() == manifest()
    assert not folder.is_locked()


def test_a_folder_without_a_manifest_is_not_taken_over(runs: Path) -> None:
    """Something of that name that is no run is nobody's to remove."""
    (runs / "r-1").mkdir(parents=True)
    (runs / "r-1" / "mine").touch()
    (runs / "r-2").symlink_to("nowhere")

    for name in ("r-1", "r-2"):
        with pytest.raises(RunExists, match=f"there is a run {name} already"):
            Folder.create(runs, name, wall_clock_s=NOON)
    assert (runs / "r-1" / "mine").exists()


def test_a_refused_run_gives_its_name_away(runs: Path, folder: Folder) -> None:
    """After the input was mended the same name may be used again."""
    folder.write(manifest(state="refused"))
    (folder.path / "invalid.csv").touch()
    folder.unlock()
    again = Folder.create(runs, "r-1", wall_clock_s=NOON)

    assert [path.name for path in again.path.iterdir()] == [LOCK]
    assert again.is_locked()
    again.unlock()


def test_a_place_that_cannot_be_written_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    """A file where the runs folder should be is told by path, with the flag to change."""
    (tmp_path / "runs").touch()

    with pytest.raises(DiskFault, match=r"runs/r-1: cannot be made \(.*choose another --runs-dir"):
        Folder.create(tmp_path / "runs", "r-1", wall_clock_s=NOON)


def test_a_run_is_found_by_its_name(runs: Path, folder: Folder) -> None:
    """Only what has a manifest is a run; runs are listed oldest name first."""
    folder.write(manifest())
    for name in ("r-3", "r-2"):
        made = Folder.create(runs, name, wall_clock_s=NOON)
        made.write(manifest(name))
        made.unlock()
    (runs / "no-run").mkdir()

    assert Folder.open(runs, "r-1").path == folder.path
    assert [found.run_id for found in Folder.all(runs)] == ["r-1", "r-2", "r-3"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("r-11", "did you mean r-1"),
        ("no-run", "did you mean"),
        ("zzzzzz", "did you mean r-1, r-2?"),
        ("../runs/r-1", "did you mean"),
        ("", "did you mean"),
        ("..", "did you mean"),
    ],
)
def test_a_run_that_is_not_there_is_told_with_near_ones(runs: Path, name: str, hint: str) -> None:
    """A slip of the finger is helped with, and no name leads out of the folder."""
    for run_id in ("r-1", "r-2"):
        made = Folder.create(runs, run_id, wall_clock_s=NOON)
        made.write(manifest(run_id))
        made.unlock()
    (runs / "no-run").mkdir()

    with pytest.raises(NoSuchRun) as refusal:
        Folder.open(runs, name)
    assert f"there is no run {name!r} in {runs}; " in str(refusal.value)
    assert hint in str(refusal.value)


def test_an_empty_place_says_so(runs: Path) -> None:
    """Where nothing ever ran there is nothing to confuse a name with."""
    with pytest.raises(NoSuchRun, match="there are no runs there yet"):
        Folder.open(runs, "r-1")


def test_d8_one_process_holds_a_run(folder: Folder) -> None:
    """A second one is refused within a second, by name, and the first is not disturbed."""
    folder.unlock()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            began = time.monotonic()
            assert folder.is_locked()
            with pytest.raises(RunLocked, match=f"worked on by process {holder.pid} on") as refusal:
                folder.lock()
            took_s = time.monotonic() - began
            assert holder.poll() is None
        finally:
            holder.kill()

    assert took_s < 1
    assert refusal.value.exit_code == 5
    assert not folder.is_locked()
    folder.lock()
    assert folder.is_locked()


def test_d8_a_lock_that_nobody_signed_is_respected(folder: Folder) -> None:
    """Even when it is not known who holds it, the run is not opened."""
    (folder.path / LOCK).write_bytes(b"")

    with pytest.raises(RunLocked, match="worked on by another process"):
        Folder(folder.path).lock()


def test_letting_go_removes_the_lock(folder: Folder) -> None:
    """A run that nobody works on has no lock file; letting go twice does no harm."""
    folder.unlock()
    folder.unlock()

    assert not (folder.path / LOCK).exists()
    assert not folder.is_locked()


def test_a_lock_left_by_a_crash_is_no_lock(folder: Folder) -> None:
    """The file alone means nothing: whoever held it is gone."""
    folder.unlock()
    (folder.path / LOCK).write_bytes(b"process 1 on elsewhere\n")

    assert not folder.is_locked()
    folder.lock()
    assert (folder.path / LOCK).read_text(encoding="utf-8").startswith(f"process {os.getpid()} on")


def test_d8_never_two_at_once_however_they_come_and_go(folder: Folder) -> None:
    """Threads that take and leave a run as fast as they can never hold it together."""
    folder.unlock()
    inside, most, taken = 0, 0, 0
    counting = threading.Lock()

    def worker() -> None:
        nonlocal inside, most, taken
        mine, until = Folder(folder.path), time.monotonic() + 0.5
        while time.monotonic() < until:
            try:
                mine.lock()
            except RunLocked:
                continue
            with counting:
                inside += 1
                taken += 1
                most = max(most, inside)
            with counting:
                inside -= 1
            mine.unlock()

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1
    assert taken > 10


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 3_000_000])
def test_an_input_is_taken_in_byte_for_byte(folder: Folder, size: int) -> None:
    """The copy is what was read, with its length and fingerprint."""
    content = random.Random(size).randbytes(size)
    told = folder.take_in(io.BytesIO(content), "input.csv")

    assert told == (size, hashlib.sha256(content).hexdigest())
    assert (folder.path / "input.csv").read_bytes() == content
    assert sorted(path.name for path in folder.path.iterdir()) == ["input.csv", LOCK]


def test_d6_an_input_for_which_there_is_no_room_is_not_taken_for_whole(folder: Folder) -> None:
    """A copy that the disk took only a part of is a fault, though no write failed outright."""
    done = subprocess.run(
        [sys.executable, "-c", COPIER, str(folder.path)],
        check=True,
        capture_output=True,
        text=True,
    )

    assert "the input cannot be copied (File too large); make room" in done.stdout
    assert "--no-copy" in done.stdout
    assert not (folder.path / "input.csv").exists()


def test_a_copy_that_cannot_be_made_is_a_fault_of_the_disk(folder: Folder) -> None:
    """Something in the way of the copy is told by path."""
    (folder.path / "input.csv").mkdir()

    with pytest.raises(DiskFault, match="the input cannot be copied"):
        folder.take_in(io.BytesIO(b"x"), "input.csv")


def test_an_input_that_cannot_be_read_is_the_inputs_fault(folder: Folder, tmp_path: Path) -> None:
    """A source that breaks is told apart from a disk that is full."""
    unreadable = (tmp_path / "for-writing-only").open("wb")
    with unreadable, pytest.raises(InputError, match="the input cannot be read"):
        folder.take_in(unreadable, "input.csv")


def test_a_folder_whose_maker_was_killed_at_once_is_taken_over(tmp_path: Path) -> None:
    """Before its manifest is there a run is nothing: its name can be had again, with its files."""
    left = tmp_path / "friday"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / ".run.json.part").write_text("{")

    folder = Folder.create(tmp_path, "friday", wall_clock_s=0)

    assert sorted(path.name for path in folder.path.iterdir()) == ["lock"]
    folder.unlock()
