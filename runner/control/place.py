"""Where the socket of a run is, and how one with a long name is reached."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "control.sock"
_LONGEST = 100
"""Bytes of an address; systems allow 104 to 108."""
_BY_NUMBER = Path("/proc/self/fd")


@contextmanager
def address_in(directory: Path) -> Iterator[str]:
    """Yield an address of the socket in *directory* that fits into what a system takes.

    Raises `OSError` where there is none, or no such directory.
    """
    plain = os.fspath(directory / SOCKET)
    if len(os.fsencode(plain)) <= _LONGEST:
        yield plain
        return
    if not _BY_NUMBER.is_dir():
        raise OSError(
            errno.ENAMETOOLONG,
            f"the path of its socket is longer than {_LONGEST} bytes; use a shorter --runs-dir",
        )
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_BY_NUMBER}/{number}/{SOCKET}"
    finally:
        os.close(number)
