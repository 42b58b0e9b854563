"""Makes the journals of the shards part of the run's own; killed at any moment, it is done anew.

The lines are appended, in the order of the shards, under a marker that says how long the run's
journals were before. What counts is the moment at which the folder of the shards loses its name:
until then the shards have the word, and what was appended is cut off again; from then on they
are only to be cleared away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from runner.errors import DiskFault, JournalDamaged
from runner.journal.lines import (
    Tail,
    cut_torn_tail,
    renumbered,
    sync_directory,
    write_file,
    write_whole,
)

SHARDS = "shards"
"""In a run's folder: the journals of its shards, while it is carried by several workers."""
_MARKER = "merging.json"
_DONE = ".shards-merged"
_NAMES = ("undo.jsonl", "report.jsonl")
"""In this order: an outcome never stands where its intent is missing."""
_BATCH = 2000
"""Lines that are written at once."""


def shard_name(number: int) -> str:
    """Return what the folder of a shard is called; by name they stand in order."""
    return f"{number:05d}"


def merge(directory: Path) -> bool:
    """Append what the shards in *directory* have to its own journals; tell whether any was there.

    Only whoever holds the run's lock may do so, while nobody carries a shard. Returns once it
    is on disk. Raises `JournalDamaged`, and `DiskFault`.
    """
    shards, done = directory / SHARDS, directory / _DONE
    try:
        if done.exists():
            shutil.rmtree(done)
        if not shards.exists():
            return False
        before = _marked(directory)
        for name in _NAMES:
            _append(directory / name, before[name], _parts(shards, name))
        shards.rename(done)
        sync_directory(directory)
        shutil.rmtree(done)
    except OSError as error:
        raise DiskFault(
            f"{shards}: its journals cannot be made part of the run's ({error.strerror}); make "
            "room or mend the disk, then try again. Nothing is lost"
        ) from error
    return True


def _parts(shards: Path, name: str) -> Iterator[Path]:
    yield from sorted(shards.glob(f"[0-9]*/{name}"), key=lambda path: int(path.parent.name))


def _marked(directory: Path) -> dict[str, Tail]:
    """Return where the run's own journals ended before; what is behind that is cut off."""
    marker = directory / SHARDS / _MARKER
    if not marker.exists():
        tails = {name: _tail(directory / name) for name in _NAMES}
        write_file(marker, msgspec.json.encode(tails))
        return tails
    try:
        tails = msgspec.json.decode(marker.read_bytes(), type=dict[str, Tail])
    except msgspec.MsgspecError:
        raise JournalDamaged(
            f"{marker}: is not what was written; restore the run folder from a copy"
        ) from None
    for name, tail in tails.items():
        path = directory / name
        if path.exists():
            os.truncate(path, tail.offset)
    return tails


def _tail(path: Path) -> Tail:
    return cut_torn_tail(path) if path.exists() else Tail()


def _append(path: Path, before: Tail, parts: Iterator[Path]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        seq = before.seq
        for part in parts:
            lines = renumbered(part, seq=seq)
            while batch := list(islice(lines, _BATCH)):
                write_whole(fd, b"".join(batch))
                seq += len(batch)
        os.fsync(fd)
        sync_directory(path.parent)
    finally:
        os.close(fd)
