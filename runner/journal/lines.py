"""Append-only JSON lines that count only once they are on disk.

Every line ends with a sequence number and a CRC-32 of the bytes before it::

    {"v":1,…,"seq":17,"crc":"9f3a11c2"}

so a line that is torn, changed, lost or moved is seen. A torn tail is set aside
and cut before anything is appended; any other bad line is damage, and the run
is refused. (The rules are those of etcd's write-ahead log; the grouping of
syncs is the group commit of databases.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from runner.errors import DiskFault, JournalDamaged

_TAIL = len('00000000"}\n')
_MARK = b',"crc":"'
_SEQ = b',"seq":'
_BLOCK = 1 << 20


class Line(msgspec.Struct, frozen=True, gc=False):
    """One good line of a journal."""

    offset: int
    """Where it starts, in bytes."""
    seq: int
    data: bytes
    """The whole line, JSON, without its line end."""


class Tail(msgspec.Struct, frozen=True, gc=False):
    """Where the good lines of a journal end."""

    seq: int = 0
    """Sequence number of the last good line; 0 when there is none."""
    offset: int = 0
    """Bytes of good lines."""
    torn: int = 0
    """Bytes after them that were never written whole."""


class Journal:
    """One append-only file. Nothing reaches it but through a `Committer`."""

    def __init__(self, path: Path, fd: int, seq: int) -> None:
        self.path = path
        self.fd = fd
        self.seq = seq
        self._buffer = bytearray()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Create the journal, or open it behind its last good line.

        A torn tail is copied to ``<name>.torn-<n>`` and cut. Returns once file
        and directory are synced. Raises `JournalDamaged` for any other bad
        line, `DiskFault` when the disk refuses.
        """
        try:
            tail = cut_torn_tail(path) if path.exists() else Tail()
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fsync(fd)
            sync_directory(path.parent)
        except OSError as error:
            raise DiskFault(f"{path}: cannot be opened for writing ({error.strerror})") from error
        return cls(path, fd, tail.seq)

    def append(self, line: bytes) -> None:
        """Add *line*, an encoded JSON object, to the next commit."""
        self.seq += 1
        head = line[:-1]
        self._buffer += head
        self._buffer += _end(self.seq, crc32(head))

    def take(self) -> bytes:
        """Hand over what was appended since the last call."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def close(self) -> None:
        """Close the file. What was not committed is lost."""
        os.close(self.fd)


def write_whole(fd: int, data: bytes) -> None:
    """Write all of *data*, however often the system takes only a part.

    Raises OSError as the system does.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: bytes) -> None:
    """Replace *path* by *data*, so that a crash leaves the old file or the new one, never a part.

    Returns once file and directory are synced. Raises `DiskFault`.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_whole(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        part.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise DiskFault(f"{path}: cannot be written ({error.strerror})") from error


def sync_directory(path: Path) -> None:
    """Make the names in *path* survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def scan(path: Path, *, start: Tail | None = None) -> Iterator[Line]:
    """Yield the good lines of a journal, from behind *start* on, without changing the file.

    Ends before a torn tail. Raises `JournalDamaged`, with file and line, when
    a bad line is followed by a good one, or a line is missing.
    """
    seq = start.seq if start else 0
    offset = start.offset if start else 0
    with path.open("rb", buffering=_BLOCK) as file:
        file.seek(offset)
        for raw in file:
            if raw[-1:] != b"\n":
                return  # the writer may be at this very line; nothing stands behind it
            if not _is_good(raw):
                if any(_is_good(later) for later in file):
                    raise _damage(path, seq + 1, offset, "is not what was written")
                return
            found = int(raw[raw.rfind(b'"seq":') + 6 : -_TAIL - 8])
            if found != seq + 1:
                raise _damage(path, seq + 1, offset, f"is missing; line {found} stands there")
            seq = found
            yield Line(offset, seq, raw[:-1])
            offset += len(raw)


def renumbered(path: Path, *, seq: int) -> Iterator[bytes]:
    """Yield the good lines of a journal whole, numbered anew from behind *seq* on.

    Ends and raises as `scan` does.
    """
    own = offset = 0
    with path.open("rb", buffering=_BLOCK) as file:
        for raw in file:
            cut = raw.rfind(_SEQ)
            head = raw[:cut]
            own += 1
            # What does not change is summed up once, for the old line and for the new one.
            crc = crc32(head)
            if raw[cut:] != _end(own, crc):
                break
            seq += 1
            offset += len(raw)
            yield head + _end(seq, crc)
        else:
            return
    for line in scan(path, start=Tail(own - 1, offset)):  # torn or damaged
        seq += 1
        head = line.data[: line.data.rfind(_SEQ)]
        yield head + _end(seq, crc32(head))


def tail_of(path: Path, *, start: Tail | None = None) -> Tail:
    """Return where the good lines of *path* end. Raises `JournalDamaged`."""
    seq, offset = (start.seq, start.offset) if start else (0, 0)
    for line in scan(path, start=start):
        seq, offset = line.seq, line.offset + len(line.data) + 1
    return Tail(seq, offset, path.stat().st_size - offset)


def cut_torn_tail(path: Path) -> Tail:
    """Set a torn tail aside as ``<name>.torn-<n>`` and cut it off, durably.

    Raises `JournalDamaged` for any other bad line, OSError as the system does.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise JournalDamaged(f"{path}: is not a file; was the run folder tampered with?")
    tail = tail_of(path)
    if tail.torn:
        n = 1
        while (aside := path.with_name(f"{path.name}.torn-{n}")).exists():
            n += 1
        with path.open("r+b") as file:
            file.seek(tail.offset)
            write_file(aside, file.read())
            file.truncate(tail.offset)
            os.fsync(file.fileno())
        sync_directory(path.parent)
    return Tail(tail.seq, tail.offset)


def _end(seq: int, crc: int) -> bytes:
    """Return how a line of that number ends; *crc* is the sum of what stands before."""
    mark = b',"seq":%d,"crc":"' % seq
    return b'%b%08x"}\n' % (mark, crc32(mark, crc))


def _is_good(raw: bytes) -> bool:
    body = raw[:-_TAIL]
    return body[-8:] == _MARK and raw[-_TAIL:] == b'%08x"}\n' % crc32(body)


def _damage(path: Path, line: int, offset: int, what: str) -> JournalDamaged:
    return JournalDamaged(
        f"{path}: line {line} (byte {offset}) {what}. The journal was damaged after it was "
        "written; restore the run folder from a copy. Nothing was sent"
    )
