"""Finds the rows that name the same sync, in memory that hardly grows with the input."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

import msgspec

from runner.model import Change

PARTS = 256
"""Fingerprints are kept in so many parts, and compared one part at a time."""

GROUPS_A_PASS = 50_000
"""Repeated syncs that are looked at in one pass over the file."""

_SHIFT = 32
_LOW = (1 << _SHIFT) - 1


class Fingerprints:
    """Eight bytes for each text, enough to tell whether any came twice.

    Two texts may share a fingerprint, so what is found here is to be looked at again.
    """

    def __init__(self) -> None:
        self._parts = [array("q") for _ in range(PARTS)]
        self._add_to = [part.append for part in self._parts]

    def add(self, fingerprints: Iterable[int]) -> None:
        """Remember the fingerprints, `hash`, of some texts."""
        for fingerprint in fingerprints:
            self._add_to[fingerprint % PARTS](fingerprint)

    def repeated(self) -> Iterator[int]:
        """Yield each fingerprint that came more than once."""
        for part in self._parts:
            seen: set[int] = set()
            twice: set[int] = set()
            if len(set(part)) < len(part):
                for fingerprint in part:
                    (twice if fingerprint in seen else seen).add(fingerprint)
            yield from twice

    def distinct(self) -> int:
        """Return how many different fingerprints there are."""
        return sum(len(set(part)) for part in self._parts)


class Distinct:
    """Counts different texts: exactly enough for a person, in bounded memory."""

    LIMIT = 65_536
    """So many are looked up at once; of what comes then, eight bytes each are kept."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._more = Fingerprints()

    def add(self, texts: Iterable[str]) -> None:
        """Count those of *texts* that are new."""
        new = set(map(hash, texts)) - self._seen
        if len(self._seen) < self.LIMIT:
            self._seen |= new
        else:
            self._more.add(new)

    def __len__(self) -> int:
        return len(self._seen) + self._more.distinct()


class Pairs:
    """A sorted table from one number to others, both below 2**32, eight bytes a pair."""

    def __init__(self, packed: Iterable[int]) -> None:
        self._packed = array("Q", packed)

    def __len__(self) -> int:
        return len(self._packed)

    def of(self, key: int) -> tuple[int, ...]:
        """Return the numbers that belong to *key*, smallest first."""
        start = bisect_left(self._packed, key << _SHIFT)
        end = bisect_left(self._packed, (key + 1) << _SHIFT, start)
        return tuple(pair & _LOW for pair in self._packed[start:end])

    def one(self, key: int) -> int:
        """Return the smallest number that belongs to *key*, or 0."""
        at = bisect_left(self._packed, key << _SHIFT)
        if at == len(self._packed) or self._packed[at] >> _SHIFT != key:
            return 0
        return self._packed[at] & _LOW


class Repeats(msgspec.Struct, frozen=True):
    """What came of the rows that name the same sync."""

    firsts: Pairs
    """From a duplicate to the first row that makes the same change."""
    followers: Pairs
    """From a first row to its duplicates."""
    lines: Pairs
    """From a duplicate to its line."""
    clashes: Pairs
    """From each row of a sync whose rows differ to the line of one that differs from it."""
    resyncs: int
    """How many of all these rows may start a re-sync but will not be sent."""


class _Group(msgspec.Struct):
    """The rows of one sync, as far as a pass has come."""

    row: int
    line: int
    asks: bytes
    first_resync: bool
    resyncs: int = 0
    """Of the rows after the first."""
    clash: int = 0
    """The first line that asks for something else."""


class _Tables:
    def __init__(self) -> None:
        self.firsts = array("Q")
        self.followers = array("Q")
        self.lines = array("Q")
        self.clashes = array("Q")
        self.resyncs = 0


def find_repeats(
    repeated: Iterator[int],
    every_change: Callable[[], Iterator[Change]],
    starts_resync: Callable[[Change, None], bool],
) -> Repeats:
    """Look at the rows whose sync has one of the *repeated* fingerprints.

    Calls *every_change*, a pass over the file, once for each `GROUPS_A_PASS` of them.
    """
    tables = _Tables()
    while wanted := frozenset(islice(repeated, GROUPS_A_PASS)):
        _one_pass(wanted, every_change(), starts_resync, tables)
    return Repeats(
        Pairs(_in_order(tables.firsts)),
        Pairs(_in_order(tables.followers)),
        Pairs(_in_order(tables.lines)),
        Pairs(_in_order(tables.clashes)),
        tables.resyncs,
    )


def _one_pass(
    wanted: Collection[int],
    every_change: Iterator[Change],
    starts_resync: Callable[[Change, None], bool],
    tables: _Tables,
) -> None:
    groups: dict[str, _Group] = {}
    by_row: dict[int, _Group] = {}
    rows, lines, firsts, differs = array("Q"), array("Q"), array("Q"), bytearray()
    for change in every_change:
        if hash(change.sync_id) not in wanted:
            continue
        asks = _asks(change)
        resync = starts_resync(change, None)
        group = groups.get(change.sync_id)
        if group is None:
            group = _Group(change.row, change.line, asks, resync)
            groups[change.sync_id] = by_row[change.row] = group
            continue
        group.resyncs += int(resync)
        other = asks != group.asks
        if other and not group.clash:
            group.clash = change.line
        rows.append(change.row)
        lines.append(change.line)
        firsts.append(group.row)
        differs.append(other)
    for row, line, first, differing in zip(rows, lines, firsts, differs, strict=True):
        group = by_row[first]
        if group.clash:
            tables.clashes.append(row << _SHIFT | (group.line if differing else group.clash))
        else:
            tables.firsts.append(row << _SHIFT | first)
            tables.followers.append(first << _SHIFT | row)
            tables.lines.append(row << _SHIFT | line)
    for group in by_row.values():
        tables.resyncs += group.resyncs
        if group.clash:
            tables.clashes.append(group.row << _SHIFT | group.clash)
            tables.resyncs += group.first_resync


def _asks(change: Change) -> bytes:
    """Return what *change* asks for, comparable whatever the order of its fields."""
    return _ENCODER.encode((change.user_id, change.desired, change.expected))


_ENCODER = msgspec.json.Encoder(order="deterministic")


def _in_order(values: array[int]) -> Iterator[int]:
    """Yield *values* in order; sorts a piece at a time, as whole numbers take much room."""
    size = GROUPS_A_PASS
    pieces = [array("Q", sorted(values[at : at + size])) for at in range(0, len(values), size)]
    return heapq.merge(*pieces)
