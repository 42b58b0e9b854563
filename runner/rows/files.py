"""Opens an input and gives its bytes: unpacked, counted, in blocks of whole lines."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias, cast

import msgspec

from runner.errors import InputError, Problem, SettingsError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Format: TypeAlias = Literal["csv", "jsonl"]
Compression: TypeAlias = Literal["gz", "zst"]

STANDARD_INPUT = "-"

CHUNK_BYTES = 256 * 1024
RAW_BUFFER_BYTES = 1024 * 1024
HEAD_BYTES = 4096
LINE_LIMIT_BYTES = 1024 * 1024
"""Bytes that one line may hold; this bounds the memory that reading needs."""

_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}

_BOM = b"\xef\xbb\xbf"
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe", "is UTF-16 or UTF-32; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "is UTF-32; save it as UTF-8"),
    (b"\x1f\x8b", "is packed with gzip; give it a name that ends in .gz, or unpack it"),
    (
        b"\x28\xb5\x2f\xfd",
        "is packed with zstd; give it a name that ends in .zst, or unpack it",
    ),
    (b"PK\x03\x04", "is a ZIP archive or a spreadsheet; export the sheet as CSV in UTF-8"),
    (b"PAR1", "is a Parquet file; export it as CSV or JSONL"),
)


class InputFile(msgspec.Struct, frozen=True):
    """A file of rows, and how it is to be read."""

    path: Path
    format: Format
    compression: Compression | None = None


class FileVersion(msgspec.Struct, frozen=True):
    """What changes when a file is changed, as far as a look at its folder shows."""

    inode: int
    size: int
    changed_ns: int


def file_version(file: InputFile) -> FileVersion | None:
    """Return which version of *file* is there now; None when there is none."""
    try:
        found = file.path.stat()
    except OSError:
        return None
    return FileVersion(found.st_ino, found.st_size, found.st_mtime_ns)


class Trace:
    """What one whole reading learns about a file besides its rows.

    Complete once the reading has come to its end; until then a part.
    """

    def __init__(self, *, hashes: bool = True) -> None:
        """Without *hashes* it has no `sha256`, which takes longer than to pass over rows."""
        self._sha256 = hashlib.sha256() if hashes else None
        self.size = 0
        """Bytes of the file as it lies on disk, compressed if it is."""
        self.names: dict[str, None] = {}
        """The input's own columns, in order of first appearance; ``syncshift_*`` left out."""
        self.passed = 0
        """Rows in front that were counted, and not looked at."""

    @property
    def sha256(self) -> str:
        """Hex digits of the SHA-256 of the file as it lies on disk; empty without *hashes*."""
        return self._sha256.hexdigest() if self._sha256 else ""

    def update(self, data: bytes | memoryview) -> None:
        """Count *data*, the next bytes of the file as it lies on disk."""
        if self._sha256 is not None:
            self._sha256.update(data)
        self.size += len(data)

    def whole(self, path: Path) -> None:
        """Count *path* from the beginning, for a reading that broke off."""
        self._sha256 = hashlib.sha256()
        self.size = 0
        with path.open("rb", buffering=0) as raw:
            while chunk := raw.read(RAW_BUFFER_BYTES):
                self.update(chunk)


class Lost(Exception):
    """The structure of the file is lost: nothing after this place can be told apart."""

    def __init__(self, reason: str, line: int = 0, column: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        """Where it stands; 0: at the next line that was to come."""
        self.column = column


def recognise(name: str | Path, format: str | None = None) -> InputFile:
    """Tell by *name* how a file is to be read; *format* goes before the extension.

    ``.csv``, ``.jsonl`` and ``.ndjson`` are known, each also with ``.gz`` or
    ``.zst`` behind it. ``-`` is standard input: its path stays ``-``, the caller
    spools it. Raises `SettingsError` when the name does not tell.
    """
    if format not in (None, "csv", "jsonl"):
        raise SettingsError(f"--format {format}: there are csv and jsonl")
    given = cast("Format | None", format)
    path = Path(name)
    if str(name) == STANDARD_INPUT:
        if given is None:
            raise SettingsError(
                "standard input has no extension to tell its format by; "
                "add --format csv or --format jsonl"
            )
        return InputFile(path, given)
    endings = [ending.lower() for ending in path.suffixes]
    compression = _COMPRESSIONS.get(endings[-1]) if endings else None
    ending = "".join(endings[-2:-1] if compression else endings[-1:])
    found = given or _FORMATS.get(ending)
    if found is None:
        raise SettingsError(
            f"{path.name}: the name does not tell the format; it may end in .csv, .jsonl or "
            ".ndjson, then .gz or .zst; otherwise add --format csv or --format jsonl"
        )
    return InputFile(path, found, compression)


def refused(file: InputFile, *problems: Problem, name: str | None = None) -> InputError:
    """Return the error that names *problems* of the file as a whole.

    *name* is what its user calls it; otherwise its own.
    """
    first = problems[0]
    told = str(first) if first.line else first.reason
    separator = ": " if first.line else " "
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InputError(f"{name or file.path.name}{separator}{told}{more}", problems)


def blocks(
    file: InputFile, trace: Trace, last_break: Callable[[bytes], int]
) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, many at a time, each block with its offset in the unpacked file.

    *last_break* tells how many bytes of a block are whole lines. A byte-order mark
    is left out. Raises `InputError` when the file cannot be opened or is of another
    kind, `Lost` when it breaks off; a line that broke off is not given out.
    """
    rest, offset, begun = b"", 0, False
    broken: Lost | None = None
    try:
        for chunk in _chunks(file, trace):
            rest += chunk
            if not begun and len(rest) >= HEAD_BYTES:
                offset, rest, begun = *_begin(file, rest), True
            whole = last_break(rest) if begun else 0
            if whole:
                yield offset, rest[:whole]
                offset += whole
                rest = rest[whole:]
            if len(rest) > LINE_LIMIT_BYTES:
                raise Lost("the line is longer than 1 MiB")
    except Lost as lost:
        broken = lost
    if not begun:
        offset, rest = _begin(file, rest)
    if broken:
        rest = rest[: last_break(rest)]
    if rest:
        yield offset, rest
    if broken:
        raise broken


def _begin(file: InputFile, head: bytes) -> tuple[int, bytes]:
    """Return *head* without a byte-order mark, and its offset; other kinds are refused."""
    _refuse_strangers(file, head)
    rest = head.removeprefix(_BOM)
    return len(head) - len(rest), rest


def _refuse_strangers(file: InputFile, head: bytes) -> None:
    for magic, reason in _STRANGERS:
        if head.startswith(magic):
            raise refused(file, Problem(0, "", "", reason))
    if head.count(0) * 4 >= len(head) > 0:
        raise refused(
            file, Problem(0, "", "", "is full of NUL bytes, as UTF-16 is; save it as UTF-8")
        )


def _chunks(file: InputFile, trace: Trace) -> Iterator[bytes]:
    with _open(file) as raw:
        stream = _unpacked(io.BufferedReader(_Counted(raw, trace), RAW_BUFFER_BYTES), file)
        try:
            # One piece at a time: a piece that was read before a fault is not lost with it.
            while chunk := stream.read1(CHUNK_BYTES):
                yield chunk
        except EOFError:
            raise Lost(f"the {file.compression} file is truncated; fetch it again") from None
        except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            raise Lost(
                f"the {file.compression} data is damaged or no {file.compression} data at all "
                f"({error}); fetch it again"
            ) from error
        except OSError as error:
            raise Lost(f"the file cannot be read any further ({error.strerror})") from error


def _open(file: InputFile) -> io.FileIO:
    try:
        if not stat.S_ISREG(file.path.stat().st_mode):
            reason = "is no regular file; pipe it in and name it -, with --format csv or jsonl"
            raise refused(file, Problem(0, "", "", reason))
        return io.FileIO(file.path)
    except OSError as error:
        reason = f"cannot be opened: {error.strerror}"
        raise refused(file, Problem(0, "", "", reason)) from error


def _unpacked(
    raw: io.BufferedReader, file: InputFile
) -> io.BufferedReader | gzip.GzipFile | zstd.ZstdFile:
    if file.compression == "gz":
        return gzip.GzipFile(fileobj=raw)
    if file.compression == "zst":
        return zstd.ZstdFile(raw)
    return raw


class _Counted(io.RawIOBase):
    """A raw file whose bytes are counted as they are read."""

    def __init__(self, raw: io.FileIO, trace: Trace) -> None:
        self._raw = raw
        self._trace = trace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # narrower than any Buffer
        count = self._raw.readinto(buffer)
        self._trace.update(memoryview(buffer)[:count])
        return count
