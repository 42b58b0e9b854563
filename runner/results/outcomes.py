"""Fetches whole outcomes out of the report, by the places that the index keeps."""

from __future__ import annotations

import os
from typing import Self

import msgspec

from runner.errors import RunRefused
from runner.model import Outcome
from runner.results.index import Index, not_understood

_LINE_BYTES = 2048
"""Most lines are shorter; longer ones are read in further steps."""
_MORE_BYTES = 256 * 1024

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
        offset = self._index.offset(row)
        if offset is None:
            raise KeyError(row)
        report = self._index.report
        try:
            found = _DECODE_OUTCOME(self._line(offset))
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

    def _line(self, offset: int) -> bytes:
        data = os.pread(self._fd, _LINE_BYTES, offset)
        end = data.find(b"\n")
        while end < 0:
            more = os.pread(self._fd, _MORE_BYTES, offset + len(data))
            if not more:
                return data
            data += more
            end = data.find(b"\n")
        return data[:end]
