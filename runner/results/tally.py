"""What the outcomes add up to, in one pass over the report and in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

import msgspec

from runner.journal import scan
from runner.model import ErrorClass, OutcomeKind, State
from runner.results.history import Session
from runner.results.index import Index, not_understood

StartsResync: TypeAlias = Callable[[State, State | None], bool]
"""Tells whether going to *desired* from *before* starts a full re-sync; *before* may be unknown."""

_EXACT_BITS = 8
"""Numbers are kept to so many binary digits: an error of at most 1 in 256."""


class _Settled(msgspec.Struct, gc=False):
    """An outcome, as far as it is added up."""

    timestamp: str
    row: int
    outcome: OutcomeKind | None = None
    sent: bool = False
    before: State | None = None
    desired: State | None = None
    http_status: int | None = None
    error_class: ErrorClass | None = None
    attempts: int = 0
    elapsed_ms: int = 0


_DECODE_SETTLED = msgspec.json.Decoder(_Settled).decode


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from a row's first request to its outcome, over the rows that made one.

    Percentiles are by nearest rank, each at most 0.4 % off; `max` is exact.
    """

    p50: int
    p90: int
    p99: int
    max: int


class Histogram:
    """Counts whole numbers by size, in at most a few thousand bins, however many come."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self._max = 0

    def add(self, number: int) -> None:
        """Count *number*, which is not negative."""
        shift = max(0, number.bit_length() - _EXACT_BITS)
        self._bins[(number >> shift << shift) + (1 << shift >> 1)] += 1
        if number > self._max:
            self._max = number

    def latency(self) -> Latency | None:
        """Return what was counted as percentiles; None when nothing was."""
        if not self._bins:
            return None
        return Latency(self._at(0.5), self._at(0.9), self._at(0.99), self._max)

    def _at(self, share: float) -> int:
        rank = math.ceil(share * self._bins.total())
        numbers = sorted(self._bins)
        reached = accumulate(self._bins[number] for number in numbers)
        found = next(n for n, so_far in zip(numbers, reached, strict=True) if so_far >= rank)
        return min(found, self._max)


class Tally:
    """Sums over the outcomes of a run."""

    def __init__(self) -> None:
        self.error_classes: Counter[ErrorClass] = Counter()
        self.attempts = 0
        """PATCHes sent."""
        self.resyncs = 0
        """Rows updated whose change starts a full re-sync."""
        self.elapsed_ms = Histogram()

    def add(self, line: _Settled, starts_resync: StartsResync, *, last: bool = True) -> None:
        """Count one outcome; of one that is not the row's *last* only what it took."""
        self.attempts += line.attempts
        if not last:
            return
        if line.error_class is not None:
            self.error_classes[line.error_class] += 1
        if line.sent or line.elapsed_ms or line.http_status is not None:
            self.elapsed_ms.add(line.elapsed_ms)
        if line.outcome is OutcomeKind.UPDATED and starts_resync(line.desired or {}, line.before):
            self.resyncs += 1


def add_up(
    index: Index,
    sessions: Sequence[Session],
    starts_resync: StartsResync,
    *,
    tally: Tally | None = None,
    is_last: Callable[[int], bool] = lambda row: True,
) -> Tally:
    """Return the sums over the outcomes that *index* knows, and no others; added to *tally*.

    *is_last* tells whether a row's outcome is its last one in a family of runs.
    Each line of the report is a sign of life for the session it falls into.
    Raises `JournalDamaged`, and `RunRefused` for what this version does not know.
    """
    tally = tally or Tally()
    following = iter(sessions)
    session = next(following)
    after = next(following, None)
    for line in scan(index.report) if index.report.exists() else ():
        try:
            found = _DECODE_SETTLED(line.data)
        except msgspec.MsgspecError as error:
            raise not_understood(index.report, f"line {line.seq}", error) from error
        while after is not None and found.timestamp >= after.opened:
            session, after = after, next(following, None)
        if index.offset(found.row) == line.offset:
            tally.add(found, starts_resync, last=is_last(found.row))
            session.alive(found.timestamp)
    return tally
