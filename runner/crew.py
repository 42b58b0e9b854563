"""Knows how many workers there are, and takes on more while they work."""

from __future__ import annotations

from collections.abc import Callable


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
