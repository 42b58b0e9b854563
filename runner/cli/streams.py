"""Standard output and error, whose reader may leave, and whose disk may be full."""

from __future__ import annotations

import os
import sys
from typing import IO, Any

from runner.errors import DiskFault


class Losable:
    """Standard error, on a disk that may be full: the rest is dropped, and the work goes on."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write *text*, or drop it."""
        try:
            return self._stream.write(text)
        except OSError:
            forsake(self._stream)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written so far, or drop it."""
        try:
            self._stream.flush()
        except OSError:
            forsake(self._stream)


def lost_output(error: OSError) -> DiskFault:
    """Write nothing more to standard output, which did not take what there was, and say so."""
    forsake(sys.stdout)
    return DiskFault(
        f"standard output cannot be written ({error.strerror}); what a run came to is in its "
        "folder: see syncshift status"
    )


def forsake(stream: IO[str]) -> None:
    """Let what is still to be written to *stream*, which has lost its reader, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
