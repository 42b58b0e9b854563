"""Writes a CSV file that has its name only once it is whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TextIO

from runner.errors import SettingsError


class NewTable:
    """A CSV file that is written for the first time, or a stream of CSV."""

    def __init__(self, path: Path | None, stream: TextIO | None = None) -> None:
        """*path* None writes to *stream*. Raises `SettingsError` when *path* cannot be made."""
        self.path = path
        self.lines = 0
        """Records that were written, the header included."""
        self._broken = False
        self._part: Path | None = None
        if path is None:
            assert stream is not None  # noqa: S101  # one of the two is given
            self._file: IO[str] = stream
            self._writer = csv.writer(stream, lineterminator="\n")
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be made ({error.strerror}); choose another --output"
            ) from None
        self._part = part
        self._file = os.fdopen(handle, "w", encoding="utf-8", newline="")
        # CRLF, so that a lone CR inside a cell is quoted by every version of Python.
        self._writer = csv.writer(self._file, lineterminator="\r\n")

    def write(self, cells: Iterable[str]) -> None:
        """Write one record. Raises OSError."""
        try:
            self._writer.writerow(cells)
        except OSError:
            self._broken = True
            raise
        self.lines += 1

    def close(self) -> bool:
        """Give the file its name if anything was written and all of it is there; tell if so.

        Raises OSError, and then there is no file.
        """
        if self._part is None or self.path is None:
            self._file.flush()
            return False
        whole = self.lines > 0 and not self._broken
        try:
            with self._file as file:
                if whole:
                    file.flush()
                    os.fsync(file.fileno())
            if whole:
                self._part.rename(self.path)
        finally:
            self._part.unlink(missing_ok=True)
        return whole
