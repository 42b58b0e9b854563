"""What a plan or a proof found, row by row: nine bytes a row, however long a line is."""

from __future__ import annotations

import os
from array import array
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Self

import msgspec

from runner.errors import RunRefused
from runner.journal import scan
from runner.model import Finding, FindingKind
from runner.results.index import not_understood
from runner.results.outcomes import line_at

_KINDS = tuple(FindingKind)
_CODES = {kind.value: code for code, kind in enumerate(_KINDS, start=1)}


class _Found(msgspec.Struct, gc=False):
    """A line, as far as it is counted."""

    row: Annotated[int, msgspec.Meta(ge=1)]
    finding: str
    resync: bool = False
    error: str | None = None
    timestamp: str = ""


_DECODE_FOUND = msgspec.json.Decoder(_Found).decode
_DECODE_FINDING = msgspec.json.Decoder(Finding).decode


class Findings:
    """The findings in one file. Enter it to fetch single ones, leave it to close the file."""

    def __init__(self, path: Path) -> None:
        """Read all of *path*; one that is not there counts as empty.

        Raises `JournalDamaged`, and `RunRefused` for what this version does not know.
        """
        self.path = path
        self.rows = 0
        """Rows that have a finding."""
        self.resyncs = 0
        """Changes that would start a full re-sync."""
        self.warned = 0
        """Rows that can be changed, but about which there is something to mind."""
        self.last = ""
        """When the last look ended."""
        self._codes = bytearray(1)
        self._offsets = array("Q", (0,))
        self._counts = [0] * (len(_KINDS) + 1)
        self._fd = -1
        for line in scan(path) if path.exists() else ():
            try:
                found = _DECODE_FOUND(line.data)
                code = _CODES[found.finding]
            except (msgspec.MsgspecError, KeyError) as error:
                raise not_understood(path, f"line {line.seq}", error) from error
            self._add(found, code, line.offset)

    def __enter__(self) -> Self:
        if self.path.exists():
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def counts(self) -> dict[FindingKind, int]:
        """How many rows were found in each way; every way is there, also with 0."""
        return dict(zip(_KINDS, self._counts[1:], strict=True))

    def kind(self, row: int) -> FindingKind | None:
        """Return what was found of *row*; None: nothing yet."""
        code = self._codes[row] if 0 < row < len(self._codes) else 0
        return _KINDS[code - 1] if code else None

    def of(self, row: int) -> Finding:
        """Return the finding of *row*. Enter this first.

        Raises `KeyError` when there is none, `RunRefused` when the file was changed meanwhile.
        """
        if self.kind(row) is None:
            raise KeyError(row)
        offset = self._offsets[row]
        try:
            found = _DECODE_FINDING(line_at(self._fd, offset))
        except msgspec.MsgspecError as error:
            raise not_understood(self.path, f"byte {offset}", error) from error
        if found.row != row:
            raise RunRefused(
                f"{self.path}: the finding of row {row} (byte {offset}) is no longer what it was a "
                "moment ago; such files are never changed. Restore the run folder from a copy"
            )
        return found

    def first(self, kinds: Container[FindingKind], most: int) -> tuple[Finding, ...]:
        """Return the first *most* findings of *kinds*, in the order of the rows."""
        with self:
            return tuple(map(self.of, islice(self._rows_of(kinds), most)))

    def _rows_of(self, kinds: Container[FindingKind]) -> Iterator[int]:
        wanted = {code for code, kind in enumerate(_KINDS, start=1) if kind in kinds}
        return (row for row, code in enumerate(self._codes) if code in wanted)

    def _add(self, found: _Found, code: int, offset: int) -> None:
        row = found.row
        if row >= len(self._codes):
            more = max(row + 1, len(self._codes) * 9 // 8) - len(self._codes)
            self._codes.extend(bytes(more))
            self._offsets.frombytes(bytes(more * self._offsets.itemsize))
        old = self._codes[row]
        self._counts[old] -= 1
        self._counts[code] += 1
        self.rows += not old
        self._codes[row], self._offsets[row] = code, offset
        if found.finding == FindingKind.CHANGE:
            self.resyncs += found.resync
            self.warned += found.error is not None
        self.last = max(self.last, found.timestamp)
