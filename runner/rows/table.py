"""Cuts CSV into records, and keeps one bad byte or quote from spoiling its neighbors."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain, islice

from runner.rows.files import LINE_LIMIT_BYTES, InputFile, Lost, Trace, blocks
from runner.rows.plan import Flaw
from runner.rows.text import FIELD_LIMIT, has_surrogate, over_long

RECORD_LIMIT_LINES = 1000
"""Lines that one record may span; more are taken for a quote that was never closed."""

CsvRecord = tuple[int, int, list[str], tuple[Flaw, ...]]
"""First line, last line, cells, and what is wrong with them as text."""


def csv_records(file: InputFile, trace: Trace, *, skip: int = 0) -> Iterator[CsvRecord]:
    """Yield every record of *file*, the header first; empty lines are no records.

    Of the first *skip* records behind the header those are passed over that can be counted
    without being taken apart; *trace* then has their number. Raises `Lost` where records can no
    longer be told apart, and what `blocks` raises.
    """
    lines = _Lines(file, trace, skip)
    reader = csv.reader(chain.from_iterable(lines), strict=True)
    last = passed = 0
    while True:
        try:
            for cells in reader:
                start = last + 1 + trace.passed - passed
                passed = trace.passed
                last = reader.line_num + passed
                if start == last and not lines.suspects:
                    if cells:
                        yield start, last, cells, ()
                elif cells:
                    if last - start >= RECORD_LIMIT_LINES:
                        raise unclosed(file, start)
                    yield start, last, cells, tuple(_flaws(cells, lines.offsets(start, last)))
            return
        except csv.Error as error:
            start = last + 1 + trace.passed - passed
            passed = trace.passed
            last = reader.line_num + passed
            if start != last or "end of data" in str(error):
                raise unclosed(file, start) from None
            lines.offsets(start, last)
            yield start, last, *_misquoted(lines.text(last).rstrip("\r\n"), error)
        except Lost as lost:
            lost.line = lost.line or reader.line_num + trace.passed + 1
            raise


class _Lines:
    """The lines of a file, in lists, and which of them need a second look.

    Split at LF, CRLF and lone CR, and at nothing else; each line keeps its end.
    """

    def __init__(self, file: InputFile, trace: Trace, skip: int = 0) -> None:
        self._blocks = blocks(file, trace, _last_break)
        self._trace = trace
        self._skip = skip
        self._uncounted = 0
        self._first = 1
        self._lines: list[str] = []
        self.suspects: dict[int, int] = {}
        """Lines that hold NUL, a byte that is not UTF-8 (and its offset), or very much."""

    def __iter__(self) -> Iterator[list[str]]:
        for offset, data in self._blocks:
            data = self._left_of(data)
            if not data:
                continue
            try:
                text = data.decode()
                sound = b"\0" not in data
            except UnicodeDecodeError:
                text = data.decode("utf-8", "surrogateescape")
                sound = False
            self._first += len(self._lines)
            self._lines = io.StringIO(text, newline="").readlines()
            if not sound or max(map(len, self._lines)) > FIELD_LIMIT:
                yield from self._suspect(offset)
            yield self._lines
            self._count()

    def _left_of(self, data: bytes) -> bytes:
        """Return what of a block has to be taken apart: while rows are passed over, the header."""
        head = b"" if self._lines else data[: data.find(b"\n") + 1]
        rows = _lines_in(data) - bool(head) if self._skip else -1
        if not 0 <= rows <= self._skip or not (head or self._lines):
            self._skip = 0
            return data
        self._skip -= rows
        self._uncounted = rows
        if not head:
            self._count()
        return head

    def _count(self) -> None:
        """Take in the rows that were passed over, once the header in front of them is out."""
        self._first += self._uncounted
        self._trace.passed += self._uncounted
        self._uncounted = 0

    def _suspect(self, offset: int) -> Iterator[list[str]]:
        for number, line in enumerate(self._lines, self._first):
            raw = line.encode("utf-8", "surrogateescape")
            if len(raw) > LINE_LIMIT_BYTES:
                yield self._lines[: number - self._first]
                raise Lost("the line is longer than 1 MiB", number)
            try:
                raw.decode()
                if "\0" in line or len(line) > FIELD_LIMIT:
                    self.suspects[number] = -1
            except UnicodeDecodeError as error:
                self.suspects[number] = offset + error.start
            offset += len(raw)

    def offsets(self, start: int, last: int) -> list[int]:
        """Return the offsets of the first bad byte of each line that has one, and forget them."""
        found = [self.suspects.pop(n, -1) for n in sorted(self.suspects) if n <= last]
        return [offset for offset in found if offset >= 0]

    def text(self, number: int) -> str:
        """Return a line of the present block."""
        return self._lines[number - self._first]


def _lines_in(data: bytes) -> int:
    """Return how many records a block has; -1: that cannot be told without taking it apart."""
    # One byte is found many times faster than two: what costs more is asked only where CR stands.
    is_strange = b'"' in data or data[:1] in (b"\r", b"\n") or b"\n\n" in data
    if is_strange or (
        b"\r" in data and (b"\n\r" in data or data.count(b"\r") != data.count(b"\r\n"))
    ):
        return -1
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _last_break(data: bytes) -> int:
    # A CR at the very end may be the first half of CRLF.
    return max(data.rfind(b"\n"), data.rfind(b"\r", 0, max(len(data) - 1, 0))) + 1


def _flaws(cells: list[str], bad_bytes: list[int]) -> Iterator[Flaw]:
    for index, cell in enumerate(cells):
        if bad := has_surrogate(cell):
            reason = f"is not UTF-8: byte 0x{ord(bad.group()) & 0xFF:02x}"
            if bad_bytes:
                reason += f" at offset {bad_bytes[0]:,} of the file"
                bad_bytes = []
            yield Flaw(reason, cell, index)
        elif "\0" in cell:
            yield Flaw("holds a NUL character", cell, index)
        elif len(cell) > FIELD_LIMIT:
            yield Flaw(over_long(cell), cell, index)


def _misquoted(line: str, error: csv.Error) -> tuple[list[str], tuple[Flaw, ...]]:
    """Return what a line with a wrong quote, or a cell beyond all bounds, had."""
    if "field limit" in str(error):
        return [line], (Flaw(f"a cell is longer than {FIELD_LIMIT:,} characters", line),)
    reason = (
        "a quoted cell goes on after its closing quote; "
        'write a quote inside a quoted cell twice: ""'
    )
    return next(csv.reader([line])), (Flaw(reason, line),)


def unclosed(file: InputFile, start: int) -> Lost:
    """Return the error for a quote in the record that starts on line *start*."""
    return Lost(
        "a quote that opens here is not closed within its row; "
        'close it, or write a quote inside a quoted cell twice: ""',
        _opening(file, start),
    )


def _opening(file: InputFile, start: int) -> int:
    """Return the line on which the longest quoted cell of the record at *start* opens.

    The hot path keeps no lines, so this reads the file up to there once more.
    """
    lines = enumerate(chain.from_iterable(_Lines(file, Trace())), 1)
    opened = closed = longest = 0
    found, before = start, ","
    try:
        for number, line in islice(lines, start - 1, start + RECORD_LIMIT_LINES):
            for character in line:
                if opened and character == '"':
                    if number - opened > longest:
                        longest, found = number - opened, opened
                    opened, closed = 0, opened
                elif character == '"' and closed:
                    opened, closed = closed, 0
                elif character == '"' and before in ",\r\n":
                    opened = number
                else:
                    closed = 0
                before = character
            if not opened:
                return found
    except Lost:
        pass
    return opened or found
