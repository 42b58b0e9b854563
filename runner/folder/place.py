"""A run's directory: made once, locked while somebody works on it, its manifest always whole."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from runner.errors import (
    DiskFault,
    InputError,
    NoSuchRun,
    RunExists,
    RunLocked,
    RunRefused,
    SyncshiftError,
    UsageError,
)
from runner.folder.manifest import Manifest
from runner.journal import SHARDS, merge, sync_directory, write_file, write_whole
from runner.log import stamp
from runner.settings import check_run_id

MANIFEST = "run.json"
LOCK = "lock"
SESSION = "engine.session"
"""Of which session in the database the folder is a copy, where workers carry the run."""
_BLOCK = 1 << 20
_LOOKS = 5
_LOOK_S = 0.02


class Readable(Protocol):
    """What bytes can be read from; nothing means that there are no more."""

    def read(self, size: int, /) -> bytes:
        """Return at most about *size* bytes more."""
        ...


class Folder:
    """One run's directory. Only whoever holds its lock writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BinaryIO | None = None

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.path.name

    @classmethod
    def create(cls, runs_dir: Path, run_id: str | None, *, wall_clock_s: float) -> Folder:
        """Make and lock the directory of a new run.

        A run whose input was refused gives its name away. Raises `RunExists`,
        `RunLocked`, `SettingsError` for a bad name, `DiskFault`.
        """
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(wall_clock_s))
        name = check_run_id(run_id) if run_id else f"{moment}-{secrets.token_hex(3)}"
        folder = cls(runs_dir / name)
        try:
            _make_runs_dir(runs_dir)
            if folder.path.exists():
                folder._give_way()
            try:
                folder.path.mkdir(mode=0o700)
            except FileExistsError:
                raise folder._taken() from None
            sync_directory(runs_dir)
        except OSError as error:
            raise DiskFault(
                f"{folder.path}: cannot be made ({error.strerror}); choose another --runs-dir"
            ) from error
        folder.lock()
        return folder

    @classmethod
    def open(cls, runs_dir: Path, run_id: str) -> Folder:
        """Return the directory of a run there is. Raises `NoSuchRun`, naming near ones."""
        path = runs_dir / run_id
        if "/" in run_id or not (path / MANIFEST).is_file():
            names = [folder.run_id for folder in cls.all(runs_dir)]
            near = difflib.get_close_matches(run_id, names, n=3, cutoff=0.5) or names[-3:]
            hint = f"did you mean {', '.join(near)}?" if near else "there are no runs there yet"
            raise NoSuchRun(f"there is no run {run_id!r} in {runs_dir}; {hint}")
        folder = cls(path)
        folder._bring_together()
        return folder

    @classmethod
    def all(cls, runs_dir: Path) -> list[Folder]:
        """Return every run of *runs_dir*, oldest name first. Raises `RunRefused`."""
        try:
            os.scandir(runs_dir).close()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunRefused(f"{runs_dir}: its runs cannot be read ({error.strerror})") from None
        return [cls(path.parent) for path in sorted(runs_dir.glob(f"*/{MANIFEST}"))]

    def lock(self) -> None:
        """Take the run for this process, until it ends; its journals are whole then.

        Raises `RunLocked`, and, of a run whose journals lie in shards, as `merge` does.
        """
        path = self.path / LOCK
        while True:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
            if not _flocked(file):
                owner = file.read(200).decode("utf-8", errors="replace").strip()
                file.close()
                raise RunLocked(
                    f"run {self.run_id} is being worked on by {owner or 'another process'}; "
                    "wait for it, or stop it first"
                )
            if _is_named(file, path):
                break
            file.close()  # its owner removed it while we waited for it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        file.flush()
        self._lock = file
        try:
            merge(self.path)
        except SyncshiftError:
            self.unlock()
            raise

    def unlock(self) -> None:
        """Let go of the run."""
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def is_locked(self) -> bool:
        """Tell whether a process is at work on the run."""
        try:
            with (self.path / LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def read(self) -> Manifest:
        """Return the manifest. Raises `NoSuchRun` when it cannot be understood."""
        path = self.path / MANIFEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NoSuchRun(f"{path}: is not the manifest of a run ({error})") from None

    def write(self, manifest: Manifest) -> Manifest:
        """Replace the manifest, durably, and return it. Raises `DiskFault`."""
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        write_file(self.path / MANIFEST, text + b"\n")
        return manifest

    def amend(self, **changes: Any) -> Manifest:
        """Change single fields of the manifest as it is on disk, durably. Raises `DiskFault`."""
        return self.write(msgspec.structs.replace(self.read(), **changes))

    def refuse(self, refusal: UsageError) -> None:
        """Write down that nothing was sent, and why; then let go of the run. Raises `DiskFault`."""
        manifest = self.read()
        self.write(
            msgspec.structs.replace(
                manifest,
                state="refused",
                reason=str(refusal),
                ended=stamp(time.time()),
                exit_code=refusal.exit_code,
            )
        )
        self.unlock()

    def take_in(self, source: Readable, name: str) -> tuple[int, str]:
        """Copy *source* into the run as *name*, durably; return its bytes and SHA-256.

        Raises `InputError` when it cannot be read, `DiskFault` when it cannot be written.
        """
        digest, size = hashlib.sha256(), 0
        part = self.path / f".{name}.part"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                while block := _read_block(source):
                    write_whole(fd, block)
                    digest.update(block)
                    size += len(block)
                os.fsync(fd)
            finally:
                os.close(fd)
            part.replace(self.path / name)
            sync_directory(self.path)
        except OSError as error:
            raise DiskFault(
                f"{part}: the input cannot be copied ({error.strerror}); make room, or leave it "
                "where it is with --no-copy"
            ) from error
        return size, digest.hexdigest()

    def _bring_together(self) -> None:
        """Make the journals of a run whole whose processes were killed."""
        if (self.path / SHARDS).exists() and not self.is_locked():
            with contextlib.suppress(RunLocked):
                self.lock()
                self.unlock()

    def _never_began(self) -> bool:
        """Tell whether somebody was killed before the manifest was there: nothing is in it."""
        if self.path.is_symlink() or not self.path.is_dir() or self.is_locked():
            return False
        return all(
            path.name == LOCK or path.name.endswith(".part") or path.name.startswith("input.")
            for path in self.path.iterdir()
        )

    def _give_way(self) -> None:
        """Remove the run if its input was refused. Raises `RunExists` otherwise."""
        if (self.path / MANIFEST).is_file():
            self.lock()
            try:
                if self.read().state == "refused":
                    shutil.rmtree(self.path)
                    return
            finally:
                self.unlock()
        elif self._never_began():
            shutil.rmtree(self.path)
            return
        raise self._taken()

    def _taken(self) -> RunExists:
        return RunExists(
            f"there is a run {self.run_id} already in {self.path.parent}; choose another --run-id, "
            f"or go on with it: syncshift resume {self.run_id}"
        )


def _flocked(file: BinaryIO) -> bool:
    """Take the lock on *file*; try again a moment later, for somebody may only be looking."""
    for _ in range(_LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOOK_S)
        else:
            return True
    return False


def _is_named(file: BinaryIO, path: Path) -> bool:
    """Tell whether *path* is the name of the open *file*."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _read_block(source: Readable) -> bytes:
    try:
        return source.read(_BLOCK)
    except OSError as error:
        raise InputError(f"the input cannot be read ({error.strerror})") from error


def _make_runs_dir(runs_dir: Path) -> None:
    if not runs_dir.is_dir():
        runs_dir.mkdir(parents=True, mode=0o700)
    ignore = runs_dir / ".gitignore"
    if not ignore.exists():
        # Runs hold customers' data; they must not end up in a repository.
        ignore.touch(mode=0o600)
        ignore.write_text("*\n", encoding="utf-8")
