"""Says when it is that late in each time zone, and what zones are called.

Pure: it is told what time it is. The hour that does not come, and the one that comes twice,
are met as `runner.schedule.moment_of` says: the first moment after the gap; once, the first time.
"""

from __future__ import annotations

import datetime
import functools
import re
import zoneinfo
from collections.abc import Iterator, Mapping

import msgspec

from runner.schedule import At, moment_of, zone_of

_DAY = datetime.timedelta(days=1)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """When the rows of one zone start: what was wished for, and the moment that it is."""

    zone: str
    """As in the IANA database."""
    time: str
    """What clocks there were to show: ``02:00``."""
    date: str
    """On which day, there: ``2026-11-29``."""
    at: str
    """The moment, RFC 3339 in UTC. It stands, whatever becomes of the zone's rules."""
    rows: int = 0
    """Rows of the input that start then."""


def next_start(
    time: datetime.time, zone: str, *, after: datetime.datetime
) -> tuple[datetime.date, datetime.datetime]:
    """Return the next day, from *after* on, on which it is *time* in *zone*, and when in UTC.

    A moment that is *after* itself counts. Raises ValueError when there is no such zone.
    """
    clock = zone_of(zone)
    today = after.astimezone(clock).date()
    # A day further than seems needed: places have left out a whole one.
    days = (today + offset * _DAY for offset in range(-1, 4))
    found = ((day, moment_of(day, time, clock)) for day in days)
    return next((day, moment) for day, moment in found if moment >= after)


def starts(at: At, rows: Mapping[str, int], *, after: datetime.datetime) -> tuple[Start, ...]:
    """Return when each zone of *rows* starts, the next one first.

    *rows* tells how many go by each zone. Raises ValueError when there is no such zone.
    """
    found = []
    for zone, count in rows.items():
        day, moment = next_start(at.time, zone, after=after)
        wished = str(msgspec.structs.replace(at, zone=None))
        said = moment.isoformat().replace("+00:00", "Z")
        found.append(Start(zone=zone, time=wished, date=day.isoformat(), at=said, rows=count))
    return tuple(sorted(found, key=lambda start: (start.at, start.zone)))


def names() -> frozenset[str]:
    """Return the names of all zones. Raises ValueError where this machine knows none."""
    return _names(tuple(map(str, zoneinfo.TZPATH)))


@functools.lru_cache(maxsize=1)
def _names(places: tuple[str, ...]) -> frozenset[str]:
    found = frozenset(zoneinfo.available_timezones())
    if not found:
        raise ValueError(
            "needs to know time zones, and this machine has no list of them; install the "
            "package tzdata"
        )
    return found


def fault(name: str) -> str:
    """Tell why *name* is no zone, and which one may be meant; nothing when it is one."""
    known = names()
    if name in known:
        return ""
    meant = _near(known).get(_plain(name)) or _one_slip(_plain(name), known)
    hint = f"is {meant} meant?" if meant else "they are called like Europe/Berlin or UTC"
    return f"is no time zone that is known here; {hint}"


def pattern() -> str:
    """Return a regular expression that matches the name of each zone, and nothing else."""
    areas: dict[str, list[str]] = {}
    for name in sorted(names(), key=lambda name: (-len(name), name)):
        area, slash, place = name.partition("/")
        areas.setdefault(area + slash, []).append(re.escape(place))
    # Area by area, so that few of the six hundred are tried for a cell.
    parts = (f"{re.escape(area)}(?:{'|'.join(places)})" for area, places in areas.items())
    return f"(?:{'|'.join(parts)})"


@functools.lru_cache(maxsize=1)
def _near(known: frozenset[str]) -> dict[str, str]:
    """Return the zone that a name means, written without blanks and letter case, or city alone."""
    near: dict[str, str] = {}
    # Etc/GMT+5 is five hours behind Greenwich, and nobody who writes GMT+5 knows that.
    for name in sorted(name for name in known if not name.startswith("Etc/")):
        near.setdefault(_plain(name), name)
        near.setdefault(_plain(name.rpartition("/")[2]), name)
    return near


@functools.lru_cache(maxsize=1)
def _slips(known: frozenset[str]) -> dict[str, str]:
    slips: dict[str, str] = {}
    for plain, name in _near(known).items():
        if len(plain) > 5:
            for slip in _with_one_less(plain):
                slips.setdefault(slip, name)
    return slips


def _one_slip(plain: str, known: frozenset[str]) -> str | None:
    """Return the zone from which *plain* is one letter away: by look-ups, as there may be many."""
    slips = _slips(known)
    return next((slips[slip] for slip in _with_one_less(plain[:64]) if slip in slips), None)


def _with_one_less(text: str) -> Iterator[str]:
    yield text
    for at in range(len(text)):
        yield text[:at] + text[at + 1 :]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).casefold()
