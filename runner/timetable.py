"""Knows which row goes by which time zone, and when that zone starts; two bytes a row."""

from __future__ import annotations

import datetime
from array import array
from collections import Counter
from collections.abc import Callable, Sequence

from runner.check import Checked
from runner.errors import InputError, SettingsError
from runner.folder import Manifest
from runner.rows import told
from runner.schedule import read_at
from runner.settings import Settings
from runner.zones import Start, names, starts


class Timetable:
    """When each row of a run starts."""

    def __init__(self, starts: Sequence[Start], zones: Sequence[str], of_row: array[int]) -> None:
        """*of_row* has each row's place in *zones*; rows that it has not are of the first."""
        self.starts = tuple(starts)
        """The next one first."""
        moments = {start.zone: _seconds(start.at) for start in starts}
        # A zone that nobody goes by has no start, and is not asked about.
        self._moments = [moments.get(zone, 0.0) for zone in zones]
        self._of_row = of_row

    def start_s(self, row: int) -> float:
        """Return when *row* starts, in seconds since the epoch."""
        known = 0 < row <= len(self._of_row)
        return self._moments[self._of_row[row - 1] if known else 0]

    def takes(self, moment: str) -> Callable[[int], bool]:
        """Return what tells whether a row starts at *moment*, RFC 3339.

        Rows that have no zone, for nothing is sent for them, go with the first one.
        """
        wanted = {_seconds(moment)}
        if moment == self.starts[0].at:
            wanted.add(0.0)
        return lambda row: self.start_s(row) in wanted

    def at(self, start_s: float) -> tuple[Start, ...]:
        """Return the zones that start at that moment."""
        return tuple(start for start in self.starts if _seconds(start.at) == start_s)


def must_make_sense(settings: Settings) -> None:
    """Make sure that ``--at`` says enough, and goes with the rest. Raises `SettingsError`."""
    if settings.at is None:
        return
    at = read_at(settings.at)
    if settings.zone_column is None and at.zone is None:
        raise SettingsError(
            f"--at {settings.at} does not say whose clock is meant: name the column of the input "
            "that holds each row's time zone with --zone-column, or one zone for all rows as in "
            f"--at {settings.at}@Europe/Berlin; for this machine's clock take --start-at "
            f"{settings.at}"
        )
    if settings.waves is not None:
        raise SettingsError(
            "--at cannot be had with --waves: each wave is proved before the next one begins, and "
            "that takes longer than it stays that late anywhere; carry the first rows out as a "
            "run of their own, or hold every wave to the night of one zone with "
            "--window 02:00-05:00@Europe/Berlin"
        )
    try:
        names()
    except ValueError as error:
        raise SettingsError(f"--at {error}") from None


def timetable_of(manifest: Manifest, checked: Checked, *, now_s: float) -> Timetable | None:
    """Return when the rows of a run start; None: it has no ``--at``.

    Before sending has begun they are counted from *now_s*, or ``--start-at`` when that is
    later; from then on what the manifest says stands. Raises `InputError` when the input has no
    such column or can no longer be read.
    """
    settings = manifest.settings
    if settings.at is None:
        return None
    at, column = read_at(settings.at), settings.zone_column
    zones, of_row = [at.zone or ""], array("H")
    if column is not None:
        if column not in checked.names:
            raise InputError(
                f"{checked.file.path.name}: no row has a {column}, which --zone-column names; name "
                "another one, or leave it out"
            )
        known = names()
        numbers = {zones[0]: 0}
        for (zone,) in told(checked.file, column):
            if zone not in known:
                of_row.append(0)  # blank; all else is no row
                continue
            number = numbers.setdefault(zone, len(numbers))
            of_row.append(number)
        zones = list(numbers)
    kept = manifest.starts if manifest.started else ()
    if not kept:
        counted = Counter(of_row) if column is not None else Counter({0: checked.rows})
        of_zone = {zones[number]: count for number, count in counted.items() if zones[number]}
        after_s = max(now_s, _seconds(settings.start_at) if settings.start_at else 0.0)
        after = datetime.datetime.fromtimestamp(after_s, datetime.UTC)
        kept = starts(at, of_zone, after=after)
    return Timetable(kept, zones, of_row)


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
