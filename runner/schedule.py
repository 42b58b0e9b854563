"""Knows when sending is allowed by the clock: from a moment or a time of day on, or between two.

Pure: it is told what time it is, and never waits.

Daylight saving is met by two rules. A time of day that a day does not have, because the
clock passed over it, is the first moment after the gap. A time of day that a day has twice
opens the first time and closes the last time. So a window is never shorter than its day
allows, and one that lies whole within a gap does not open on that day.
"""

from __future__ import annotations

import datetime
import os
import re
import zoneinfo
from collections.abc import Iterator
from pathlib import Path

import msgspec

_DAY = datetime.timedelta(days=1)
_SECOND = datetime.timedelta(seconds=1)
_LONGEST_PAST = datetime.timedelta(hours=1)
"""A start that has passed by more is a slip of the pen, not somebody who was slow."""
_LOCAL_TIME = Path("/etc/localtime")
_LOCAL_ZONE = Path("/etc/timezone")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_WINDOW = re.compile(r"([\d:]+)\s*-\s*([\d:]+)(?:\s*@\s*(\S+))?", re.ASCII)
_AT = re.compile(r"([\d:]+)(?:\s*@\s*(\S+))?", re.ASCII)
_AT_HINT = "must be a time of day such as 02:00 or 02:00@Europe/Berlin"
_START_HINT = "must be a moment such as 2026-11-27T22:00:00+01:00, 2026-11-27 22:00 or 22:00"
_WINDOW_HINT = "must be two times of day such as 22:00-06:00 or 22:00-06:00@Europe/Berlin"


class Window(msgspec.Struct, frozen=True):
    """A daily time in which requests may leave; its end may lie on the day after."""

    opens: datetime.time
    closes: datetime.time
    zone: str
    """Whose clock it goes by, as in the IANA database."""

    def __str__(self) -> str:
        return f"{_short(self.opens)}-{_short(self.closes)}@{self.zone}"

    def next_change(self, now: datetime.datetime) -> tuple[bool, datetime.datetime]:
        """Return whether it is open at *now*, and when that changes, in UTC.

        It is open from the moment at which it opens, and closed from that at which it closes.
        """
        zone = zoneinfo.ZoneInfo(self.zone)
        today = now.astimezone(zone).date()
        for opens, closes in self._stretches(today, zone):
            if now < opens:
                return False, opens
            if now < closes:
                return True, closes
        raise AssertionError("a window opens again within days")  # nothing shorter than a day

    def _stretches(
        self, today: datetime.date, zone: datetime.tzinfo
    ) -> Iterator[tuple[datetime.datetime, datetime.datetime]]:
        """Yield when it is open, from before *today* on; what touches is one stretch."""
        lasts = _DAY if self.closes <= self.opens else datetime.timedelta()
        begun: tuple[datetime.datetime, datetime.datetime] | None = None
        for offset in range(-2, 6):
            day = today + offset * _DAY
            opens = moment_of(day, self.opens, zone)
            closes = moment_of(day + lasts, self.closes, zone, last=True)
            if begun is not None and opens <= begun[1]:
                # On the day of two o'clocks yesterday's end may come after today's beginning.
                begun = begun[0], max(begun[1], closes)
            elif opens < closes:
                if begun is not None:
                    yield begun
                begun = opens, closes
        if begun is not None:
            yield begun


class At(msgspec.Struct, frozen=True):
    """A time of day, and whose clock it goes by where nothing else says so."""

    time: datetime.time
    zone: str | None
    """As in the IANA database; None: something else has to say it."""

    def __str__(self) -> str:
        return _short(self.time) + (f"@{self.zone}" if self.zone else "")


def moment_of(
    day: datetime.date, time: datetime.time, zone: datetime.tzinfo, *, last: bool = False
) -> datetime.datetime:
    """Return the moment, in UTC, at which clocks of *zone* show *time* on *day*.

    One that does not come that day is the first moment after the gap. Of two it is
    the first one, or the *last*.
    """
    shown = datetime.datetime.combine(day, time)
    moments = [shown.replace(fold=fold, tzinfo=zone).astimezone(datetime.UTC) for fold in (0, 1)]
    if all(_shows(moment, zone, shown) for moment in moments):
        return moments[last]
    before, after = min(moments), max(moments)
    while after - before > _SECOND:
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == before.astimezone(zone).utcoffset():
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def _shows(moment: datetime.datetime, zone: datetime.tzinfo, shown: datetime.datetime) -> bool:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0) == shown


def read_window(text: str) -> Window:
    """Read ``HH:MM-HH:MM`` or ``HH:MM-HH:MM@ZONE``; without a zone the machine's own is meant.

    Raises ValueError, in words fit for a person.
    """
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError(_WINDOW_HINT)
    opens, closes = (_time(part) for part in found.group(1, 2))
    if opens is None or closes is None:
        raise ValueError(f"{_WINDOW_HINT}, each from 00:00 to 23:59")
    if opens == closes:
        raise ValueError("must open and close at different times of day; leave it out for always")
    zone = found[3] or local_zone()
    zone_of(zone)
    return Window(opens, closes, zone)


def read_at(text: str) -> At:
    """Read ``HH:MM`` or ``HH:MM@ZONE``. Raises ValueError, in words fit for a person."""
    found = _AT.fullmatch(text.strip())
    time = _time(found[1]) if found is not None else None
    if found is None or time is None:
        raise ValueError(f"{_AT_HINT}, from 00:00 to 23:59")
    if found[2]:
        zone_of(found[2])
    return At(time, found[2])


def read_start(text: str, *, now: datetime.datetime) -> datetime.datetime:
    """Read a moment as UTC: RFC 3339, or the machine's own time with or without a day.

    A time without a day is the next one, today or tomorrow. Raises ValueError, in words
    fit for a person.
    """
    text = text.strip()
    time = _time(text)
    try:
        return _next(time, now) if time is not None else _moment(text)
    except OverflowError:
        raise ValueError(_START_HINT) from None


def check_start(start: datetime.datetime, *, now: datetime.datetime) -> None:
    """Make sure that *start* has not long passed: then it is a slip, and would send at once.

    Raises ValueError, in words fit for a person.
    """
    if now - start > _LONGEST_PAST:
        raise ValueError(f"must not have passed; now it is {now.astimezone(datetime.UTC):%FT%TZ}")


def local_zone() -> str:
    """Return the IANA name of the machine's time zone.

    Raises ValueError, in words that ask for the name, where it cannot be found.
    """
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name and _LOCAL_TIME.is_symlink():
        name = str(_LOCAL_TIME.resolve()).rpartition("zoneinfo/")[2]
    if not name and _LOCAL_ZONE.is_file():
        name = _LOCAL_ZONE.read_text(encoding="utf-8", errors="replace").strip()
    if not name and not _LOCAL_TIME.exists():
        return "UTC"
    try:
        return zone_of(name).key
    except ValueError:
        raise ValueError(
            "goes by this machine's time zone, whose name cannot be found; name it: "
            "22:00-06:00@Europe/Berlin for a window, +01:00 behind the time for a moment"
        ) from None


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """Return the zone of that name. Raises ValueError, in words fit for a person."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if not zoneinfo.available_timezones():
            raise ValueError(
                "needs to know time zones, and this machine has no list of them; install the "
                "package tzdata"
            ) from None
        raise ValueError(
            f"names a time zone that does not exist: {name!r}; they are called like "
            "Europe/Berlin or UTC"
        ) from None


def _time(text: str) -> datetime.time | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups())
    return datetime.time(hour, minute, second)


def _next(time: datetime.time, now: datetime.datetime) -> datetime.datetime:
    zone = zone_of(local_zone())
    today = now.astimezone(zone).date()
    moments = (moment_of(today + days * _DAY, time, zone) for days in range(3))
    return next(moment for moment in moments if moment > now)


def _moment(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_START_HINT) from None
    if ":" not in text:
        raise ValueError(f"{_START_HINT}; the time is missing")
    if moment.tzinfo is None:
        return moment_of(moment.date(), moment.time(), zone_of(local_zone()))
    return moment.astimezone(datetime.UTC)


def _short(time: datetime.time) -> str:
    return time.strftime("%H:%M:%S" if time.second else "%H:%M")
