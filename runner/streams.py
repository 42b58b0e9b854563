"""Bytes that are made piece by piece, and read like a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence


class Pieces:
    """A file of the bytes that an iterator gives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int, /) -> bytes:
        """Return about *size* bytes more, or nothing at the end."""
        gathered = bytearray()
        for piece in self._pieces:
            gathered += piece
            if len(gathered) >= size:
                break
        return bytes(gathered)


def csv_line(cells: Sequence[object]) -> bytes:
    """Return *cells* as one record of a CSV file."""
    out = io.StringIO()
    # CRLF, so that a lone CR inside a cell is quoted by every version of Python.
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().encode("utf-8", "backslashreplace")
