"""The result files: every row of the input in exactly one of three, its own cells untouched.

CSV as the input's, UTF-8, in input order. Lines end with LF alone; cells that
hold line ends, CR included, are quoted and keep them. A row with fewer cells
than the header is filled up with empty ones. Cells beyond the header stand
behind all other columns, without a name, so that the row, fed back, is again
seen to be one that has too many.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import msgspec

from runner.errors import DiskFault, SyncshiftError
from runner.journal import sync_directory, write_whole
from runner.model import SUCCEEDED
from runner.results.family import FamilyIndex, FamilyOutcomes, outcomes_of
from runner.results.index import Index
from runner.results.outcomes import Outcomes

SUCCEEDED_FILE = "succeeded.csv"
FAILED_FILE = "failed.csv"
UNPROCESSED_FILE = "unprocessed.csv"

COLUMNS = tuple(
    f"syncshift_{name}"
    for name in (
        "row",
        "line",
        "outcome",
        "proof",
        "sent",
        "error_class",
        "error",
        "http_status",
        "attempts",
    )
)
"""What stands behind the input's own columns."""

Record: TypeAlias = tuple[int, int, Sequence[str]]
"""A row of the input as text: number, line on which it starts, cells."""

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # full-width forms start a formula too
_BLOCK_BYTES = 256 * 1024


class FileWritten(msgspec.Struct, frozen=True):
    """One result file, as it lies on disk."""

    rows: int
    """Rows of the input in it; the header does not count."""
    sha256: str
    """Hex digits, of the whole file."""


def write_files(
    directory: Path,
    *,
    header: Sequence[str],
    records: Iterable[Record],
    index: Index | FamilyIndex,
    rows: int,
) -> dict[str, FileWritten]:
    """Write ``succeeded.csv``, ``failed.csv`` and ``unprocessed.csv``; tell what is in each.

    *records* gives each of the *rows* rows in input order: number, line, cells.
    Returns once all three are on disk; none is replaced before that, and on any
    error the old ones stay. Memory does not grow with the input.

    Raises `DiskFault` when the disk refuses; `SyncshiftError`, naming the rows,
    when *records*, *rows* and *index* do not speak of the same input;
    `RunRefused` when the report changed under our hands.
    """
    index.check(rows)
    with contextlib.ExitStack() as stack:
        parts = {
            name: stack.enter_context(_Part(directory / name, (*header, *COLUMNS)))
            for name in (SUCCEEDED_FILE, FAILED_FILE, UNPROCESSED_FILE)
        }
        outcomes = outcomes_of(index)
        stack.enter_context(outcomes)
        width = len(header)
        for number, line, cells in _each_once(records, rows):
            name, told = _told(number, index, outcomes)
            own = [*cells[:width], *[""] * (width - len(cells))]
            parts[name].add([*own, number, line, *told, *cells[width:]])
        for part in parts.values():
            part.finish()
        for part in parts.values():
            part.publish()
        with _disk(directory):
            sync_directory(directory)
        return {name: part.written for name, part in parts.items()}


def _each_once(records: Iterable[Record], rows: int) -> Iterator[Record]:
    """Yield *records* as they come. Raises `SyncshiftError` unless they are rows 1 to *rows*."""
    last = 0
    for record in records:
        if record[0] != last + 1:
            raise SyncshiftError(
                f"the input gave row {record[0]} after row {last}: every row must come once and in "
                "order, or one would be missing from the result files"
            )
        last += 1
        yield record
    if last != rows:
        raise SyncshiftError(
            f"the input ended after row {last}, but the run has {rows} rows: it is not the input "
            "of this run. Restore the run's copy of it"
        )


def _told(
    row: int, index: Index | FamilyIndex, outcomes: Outcomes | FamilyOutcomes
) -> tuple[str, Sequence[object]]:
    """Return the file that *row* belongs to, and its outcome columns behind row and line."""
    if not index.settled(row):
        sent = "no"
        if index.accepted(row):
            sent = "accepted"
        elif index.intended(row):
            sent = "unanswered"
        return UNPROCESSED_FILE, ("", "", sent, "", "", "", "")
    found = outcomes.of(row)
    return SUCCEEDED_FILE if found.outcome in SUCCEEDED else FAILED_FILE, (
        found.outcome.value,
        found.proof.value if found.proof else "",
        "true" if found.sent else "false",
        found.error_class.value if found.error_class else "",
        _inert(found.error or ""),
        found.http_status,
        found.attempts,
    )


def _inert(text: str) -> str:
    """Return *text* so that no spreadsheet runs it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


class _Part:
    """A result file in the making: beside the old one until `publish`."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._path = path
        # A report may be asked for while the run writes its own: each writes a part of its own.
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._fd = -1  # until it is entered
        self._buffer = bytearray()
        self._sha256 = hashlib.sha256()
        self._rows = 0
        # With LF as its line end csv leaves a lone CR unquoted before Python 3.13, and readers
        # take it for the end of the row. With CRLF it quotes both; `write` then drops the CR.
        self._writer: Any = csv.writer(self, lineterminator="\r\n")
        self._writer.writerow(header)

    def __enter__(self) -> Self:
        with _disk(self._path):
            self._clear_away()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(self._part, flags, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        # Gone once it is published; otherwise a part of a file is of no use to anybody.
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _clear_away(self) -> None:
        """Remove what a process has left that was killed while it wrote this file."""
        for part in self._path.parent.glob(f".{self._path.name}.*.part"):
            number = part.name.removesuffix(".part").rpartition(".")[2]
            try:
                os.kill(int(number), 0)
            except (ValueError, PermissionError):
                continue
            except (ProcessLookupError, OverflowError):
                part.unlink(missing_ok=True)

    @property
    def written(self) -> FileWritten:
        """What was written; whole after `finish`."""
        return FileWritten(self._rows, self._sha256.hexdigest())

    def add(self, cells: Sequence[object]) -> None:
        """Write one row. Raises `DiskFault`."""
        self._writer.writerow(cells)
        self._rows += 1
        if len(self._buffer) >= _BLOCK_BYTES:
            self._flush()

    def write(self, text: str) -> None:
        """Take one row from csv, which hands it over whole."""
        # What no encoding has, half a character for instance, is written as an escape.
        self._buffer += text[:-2].encode("utf-8", "backslashreplace")
        self._buffer += b"\n"

    def finish(self) -> None:
        """Return once all that was added is on disk. Raises `DiskFault`."""
        self._flush()
        with _disk(self._path):
            os.fsync(self._fd)

    def publish(self) -> None:
        """Take the place of the old file. Raises `DiskFault`."""
        with _disk(self._path):
            self._part.replace(self._path)

    def _flush(self) -> None:
        self._sha256.update(self._buffer)
        with _disk(self._path):
            write_whole(self._fd, bytes(self._buffer))
        self._buffer.clear()


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskFault(
            f"{path}: cannot be written ({error.strerror}). The run's record is not touched by "
            "this; make room or mend the disk, then build the files again with `syncshift report`"
        ) from error
