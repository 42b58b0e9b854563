"""Fetches whole outcomes out of the report, by the places that the index keeps."""

from __future__ import annotations

import os
from typing import Self

import msgspec

from runner.errors import RunRefused
from runner.model import ErrorClass, Outcome, OutcomeKind
from runner.results.index import Index, not_understood

_LINE_BYTES = 2048
"""Most lines are shorter; longer ones are read in further steps."""
_MORE_BYTES = 256 * 1024


class _Moment(msgspec.Struct, gc=False):
    """A line of the report, as far as it tells when it was written."""

    timestamp: str


_DECODE_MOMENT = msgspec.json.Decoder(_Moment).decode
_DECODE_OUTCOME = msgspec.json.Decoder(Outcome).decode


class Outcomes:
    """Fetches the outcomes of single rows. Enter it to open the report, leave it to close it."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._fd = -1

    def __enter__(self) -> Self:
        if self._index.report.exists():
            self._fd = os.open(self._index.report, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def of(self, row: int) -> Outcome:
        """Return the outcome of *row*, which the index has as settled.

        Raises `KeyError` when it has not; `RunRefused` when the report was
        changed since the index was read, or says what this version does not know.
        """
        line, offset = self._line(row)
        report = self._index.report
        try:
            found = _DECODE_OUTCOME(line)
        except msgspec.ValidationError as error:
            raise not_understood(report, f"byte {offset}", error) from error
        except msgspec.DecodeError:
            found = None
        if found is None or found.row != row:
            raise RunRefused(
                f"{report}: the outcome of row {row} (byte {offset}) is no longer what it was a "
                "moment ago; journals are never changed. Restore the run folder from a copy"
            )
        return found

    def moment(self, row: int) -> str:
        """Return when *row* ended, RFC 3339 in UTC. Raises as `of` does."""
        line, offset = self._line(row)
        try:
            return _DECODE_MOMENT(line).timestamp
        except msgspec.MsgspecError as error:
            raise not_understood(self._index.report, f"byte {offset}", error) from error

    def _line(self, row: int) -> tuple[bytes, int]:
        offset = self._index.offset(row)
        if offset is None:
            raise KeyError(row)
        return line_at(self._fd, offset), offset


def line_at(fd: int, offset: int) -> bytes:
    """Return the line of the open file *fd* that starts at *offset*, without its line end."""
    data = os.pread(fd, _LINE_BYTES, offset)
    end = data.find(b"\n")
    while end < 0:
        more = os.pread(fd, _MORE_BYTES, offset + len(data))
        if not more:
            return data
        data += more
        end = data.find(b"\n")
    return data[:end]


def duplicate(first: Outcome, *, row: int, line: int) -> Outcome:
    """Return how a row ends that asks for the same as *first*, which has ended."""
    same = msgspec.structs.replace(
        first,
        row=row,
        line=line,
        sent=False,
        attempts=0,
        elapsed_ms=0,
        proof=None,
        http_status=None,
        request_id=None,
    )
    if first.succeeded:
        return msgspec.structs.replace(same, outcome=OutcomeKind.DUPLICATE)
    return msgspec.structs.replace(
        same,
        error_class=ErrorClass.DUPLICATE_OF_FAILED,
        error=f"asks for the same as row {first.row} (line {first.line}), which is {first.outcome}",
    )
