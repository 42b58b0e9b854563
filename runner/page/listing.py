"""The rows that a page lists: taken from the result files as they lie there, line by line.

A page holds these very lines, so what it gives back as a file is what stands in `failed.csv`,
byte for byte.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from runner.page.timeline import Most
from runner.results import COLUMNS, FAILED_FILE, SUCCEEDED_FILE, UNPROCESSED_FILE

ALL_UP_TO = 5_000
"""Rows of a run that are all listed, those that succeeded included."""
_SMALL_RUN_BYTES = 16_000_000
_LARGE_RUN_BYTES = 2_400_000
"""What lines may come to in a page that has to stay below 3 MB."""
_OVERHEAD_BYTES = 200
"""What else a page holds of a row: when it ended, what was there before, and JSON's quotes."""
MOST_OWNERS = 20_000
"""How many users and integrations are kept, to find those with the most failures."""
SHOWN = 200
"""Characters of the name of one that are shown."""
_UNPROCESSED = "unprocessed"
_SUCCEEDED = "succeeded"
_NAMES = {
    "sync": ("sync_id", "syncid"),
    "user": ("user_id", "userid"),
    "integration": ("integration", "integration_id", "integrationid"),
}


def place_of(role: str, header: Sequence[str]) -> int | None:
    """Return the place in *header* of a column of this role: sync, user or integration."""
    folded = [name.strip().casefold() for name in header]
    return next((folded.index(name) for name in _NAMES[role] if name in folded), None)


class Columns(msgspec.Struct, frozen=True):
    """Where in a line of a result file the things stand that a page shows."""

    sync: int | None
    user: int | None
    integration: int | None
    row: int
    """The first of the columns that stand behind the input's own."""

    @classmethod
    def of(cls, header: list[str]) -> Columns:
        """Find them in the header of a result file."""
        width = len(header) - len(COLUMNS)
        found = {role: place_of(role, header[:width]) for role in _NAMES}
        return cls(**found, row=width)


class Listing(msgspec.Struct):
    """What a page shows of single rows."""

    header: str = ""
    """The header of the result files, as it stands there."""
    columns: Columns | None = None
    lines: dict[int, str] = msgspec.field(default_factory=dict)
    """Lines by row, in the order of the input, without their line ends."""
    users: Most[str] = msgspec.field(default_factory=lambda: Most(MOST_OWNERS))
    """Users by rows that failed."""
    integrations: Most[str] = msgspec.field(default_factory=lambda: Most(MOST_OWNERS))
    """Likewise, where the input has such a column."""
    left_out: dict[str, int] = msgspec.field(default_factory=dict)
    """Rows that did not succeed and are not listed, by error class or ``unprocessed``."""


def list_rows(
    directory: Path, *, rows: int, classes: Mapping[str, int], unprocessed: int
) -> Listing:
    """Choose the rows that a page lists, and count the users and integrations of what failed.

    All of a run of up to 5,000 rows. Of a larger one those that did not succeed, in the order of
    the input, as far as there is room; each error class gets its share of that.
    """
    listing = Listing()
    small = rows <= ALL_UP_TO
    quotas = Quotas(small=small)
    paths = [directory / name for name in (FAILED_FILE, UNPROCESSED_FILE)]
    size = sum(path.stat().st_size for path in paths if path.exists())
    counts = {**classes, _UNPROCESSED: unprocessed}
    quotas.share(counts, size=size / max(1, sum(counts.values())))
    for row, raw, cells in _records(paths[0], listing):
        _count_owner(cells, listing)
        quotas.offer(_class_of(cells, listing), row, raw, listing)
    for row, raw, _ in _records(paths[1], listing):
        quotas.offer(_UNPROCESSED, row, raw, listing)
    for row, raw, _ in _records(directory / SUCCEEDED_FILE, listing) if small else ():
        quotas.offer(_SUCCEEDED, row, raw, listing)
    return quotas.done(listing)


class Quotas:
    """Shares room for lines between kinds of rows, so that no rare kind is crowded out."""

    def __init__(self, *, small: bool) -> None:
        self._room = float(_SMALL_RUN_BYTES if small else _LARGE_RUN_BYTES)
        self._left: dict[str, float] = {}
        self._refused: Counter[str] = Counter()

    def share(self, counts: Mapping[str, int], *, size: float) -> None:
        """Give each kind what it needs, or an even part of what those leave that need less.

        *counts* are rows, *size* is about how many bytes a row has.
        """
        wanted = {name: count * (size + _OVERHEAD_BYTES + 20) for name, count in counts.items()}
        room = self._room
        for place, name in enumerate(sorted(wanted, key=lambda name: (wanted[name], name))):
            self._left[name] = room / (len(wanted) - place)
            room -= min(wanted[name], self._left[name])

    def offer(self, name: str, row: int, raw: str, listing: Listing) -> None:
        """Put a line into *listing* if there is room for one more of this kind."""
        size = _weight(raw)
        left = min(self._left.get(name, self._room), self._room)
        if size > left:
            self._refused[name] += 1
            return
        self._left[name] = left - size
        self._room -= size
        listing.lines[row] = raw

    def done(self, listing: Listing) -> Listing:
        """Return *listing* in the order of the input, with what was left out."""
        listing.lines = {row: listing.lines[row] for row in sorted(listing.lines)}
        listing.left_out = {name: n for name, n in sorted(self._refused.items()) if n}
        return listing


def _records(path: Path, listing: Listing) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each row of a result file: its number, as it stands there, and taken apart."""
    if not path.exists():
        return
    with path.open("rb") as file:
        own = -1
        taken = b""
        for line in file:
            taken = taken + line if taken else line
            # A record ends where every quote has its other one.
            if taken.count(b'"') % 2:
                continue
            raw = taken[:-1].decode("utf-8")
            taken = b""
            cells = cells_of(raw)
            if own < 0:
                listing.header, listing.columns = raw, Columns.of(cells)
                own = listing.columns.row
            else:
                yield int(cells[own]), raw, cells


def cells_of(raw: str) -> list[str]:
    """Take one record apart."""
    try:
        return next(csv.reader((raw,), strict=True), [])
    except csv.Error:
        # Longer than csv's limit for a cell, which is one for the whole process.
        found = _CELL.findall(raw)
        return [quoted.replace('""', '"') or bare for quoted, bare in found]


_CELL = re.compile(r'(?:^|,)(?:"((?:[^"]|"")*)"|([^,"]*))')


def _class_of(cells: list[str], listing: Listing) -> str:
    return cells[listing.columns.row + _CLASS] if listing.columns else ""


def _count_owner(cells: list[str], listing: Listing) -> None:
    columns = listing.columns
    if columns is None:
        return
    if columns.user is not None and cells[columns.user]:
        listing.users.add(cells[columns.user][:SHOWN])
    if columns.integration is not None and cells[columns.integration]:
        listing.integrations.add(cells[columns.integration][:SHOWN])


def _weight(raw: str) -> int:
    # JSON writes quotes and line ends with two characters, what is beyond ASCII with up to four
    # bytes, and a page escapes a few more.
    twice = raw.count('"') + raw.count("\\")
    return len(raw.encode()) + twice + 5 * len(_ESCAPED.findall(raw)) + _OVERHEAD_BYTES


_ESCAPED = re.compile(r"[<>&\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u180e\u2000-\u206f\ufeff]")
_CLASS = COLUMNS.index("syncshift_error_class")
