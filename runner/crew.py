"""Knows how many workers there are, and takes on more while they work."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

_COLLECT_AFTER = 10_000


class Crew:
    """How many workers there are; more may join while they work. Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._hire: Callable[[], object] | None = None

    def grow(self, size: int) -> None:
        """Have at least *size* workers from now on."""
        for _ in range(size - self.size):
            self.size += 1
            if self._hire is not None:
                self._hire()

    def begin(self, hire: Callable[[], object]) -> None:
        """Call *hire* for every worker, and for each who joins before `end`."""
        self._hire = hire
        for _ in range(self.size):
            hire()

    def end(self) -> None:
        """Hire nobody any more."""
        self._hire = None


@contextlib.contextmanager
def collecting_rarely() -> Iterator[None]:
    """Have Python look for cyclic garbage less often than it would by itself.

    It would look every few rows, at hundreds of rows under way and at all that
    was ever imported, and find next to nothing: a row leaves hardly any cycles.
    """
    usual = gc.get_threshold()
    if usual[0]:
        gc.set_threshold(max(usual[0], _COLLECT_AFTER), *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
