"""Folds what happened over time into a few hundred buckets, however long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

_FIRST_S = 0.01
K = TypeVar("K", bound=Hashable)


class Timeline:
    """Counts and levels over time, in at most *most* buckets of the same width.

    Buckets begin narrow; whenever time runs past the last of them, each two become one. So
    nothing need be known beforehand, and memory does not grow.
    """

    def __init__(self, *, counts: Sequence[str], levels: Sequence[str], most: int = 600) -> None:
        self.width_s = _FIRST_S
        self._most = most + most % 2
        self._end_s = 0.0
        self._counts = {name: [0] * self._most for name in counts}
        # Of each level: by how much it rose in a bucket, and what that adds up to until the
        # bucket's end. Both can be folded, and what a span costs does not depend on its length.
        self._rises = {name: [0] * self._most for name in levels}
        self._parts = {name: [0.0] * self._most for name in levels}

    @property
    def buckets(self) -> int:
        """How many buckets there are up to the last moment that was told."""
        return min(self._most, int(self._end_s / self.width_s) + 1)

    def reach(self, at_s: float) -> None:
        """Let the time that is shown last at least until *at_s*."""
        self._bucket(at_s)

    def count(self, name: str, at_s: float) -> None:
        """Count one event at *at_s*."""
        bucket = self._bucket(at_s)  # may fold, so it comes first
        self._counts[name][bucket] += 1

    def rise(self, name: str, at_s: float, by: int = 1) -> None:
        """Let a level be higher by *by* from *at_s* on."""
        bucket = self._bucket(at_s)
        self._rises[name][bucket] += by
        self._parts[name][bucket] += by * ((bucket + 1) * self.width_s - max(0.0, at_s))

    def span(self, name: str, since_s: float, until_s: float) -> None:
        """Let a level be higher by one from *since_s* to *until_s*."""
        if until_s > since_s:
            self.rise(name, since_s)
            self.rise(name, until_s, -1)

    def counts(self, name: str) -> list[int]:
        """Return what was counted in each bucket."""
        return self._counts[name][: self.buckets]

    def levels(self, name: str) -> list[float]:
        """Return the mean of a level over each bucket."""
        found, reached = [], 0
        for bucket in range(self.buckets):
            found.append(max(0.0, reached + self._parts[name][bucket] / self.width_s))
            reached += self._rises[name][bucket]
        return found

    def _bucket(self, at_s: float) -> int:
        at_s = max(0.0, at_s)
        while at_s >= self._most * self.width_s:
            self._fold()
        self._end_s = max(self._end_s, at_s)
        return min(self._most - 1, int(at_s / self.width_s))

    def _fold(self) -> None:
        rest = [0] * (self._most // 2)
        for name, counts in self._counts.items():
            self._counts[name] = [a + b for a, b in _pairs(counts)] + rest
        for name, rises in self._rises.items():
            parts = self._parts[name]
            # What rose in the first of two lasts through the whole of the second.
            self._parts[name] = [
                parts[i] + rises[i] * self.width_s + parts[i + 1] for i in range(0, self._most, 2)
            ] + [0.0] * len(rest)
            self._rises[name] = [a + b for a, b in _pairs(rises)] + rest
        self.width_s *= 2


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


class Most(Generic[K]):
    """Says what comes most often, without keeping everything that comes.

    Exact for up to *keep* different keys. Beyond that, whatever comes more often than once in
    *keep* is still found, and what is said of it is the least that it can be.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._counts: Counter[K] = Counter()
        self.exact = True
        """Whether every key was kept."""

    def add(self, key: K) -> None:
        """Count *key*."""
        if key in self._counts or len(self._counts) < self._keep:
            self._counts[key] += 1
            return
        self.exact = False
        self._counts = Counter({k: n - 1 for k, n in self._counts.items() if n > 1})

    def __len__(self) -> int:
        return len(self._counts)

    def top(self, most: int) -> list[tuple[K, int]]:
        """Return the *most* frequent keys, those with the same count in their order."""
        ranked = sorted(self._counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
        return ranked[:most]
