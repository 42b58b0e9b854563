"""When it is that late in each time zone, and which names are those of zones."""

from __future__ import annotations

import datetime
import itertools
import re
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import zones
from runner.schedule import At, moment_of, read_at
from runner.zones import fault, names, next_start, pattern, starts

UTC = datetime.UTC
BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
LORD_HOWE = "Australia/Lord_Howe"
KOLKATA = "Asia/Kolkata"
MINUTE = datetime.timedelta(minutes=1)
DAY = datetime.timedelta(days=1)


def utc(text: str) -> datetime.datetime:
    """Return a moment in UTC."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=UTC)


def next_of(time: str, zone: str, after: str) -> str:
    """Return which day's start is next, and its moment."""
    day, moment = next_start(datetime.time.fromisoformat(time), zone, after=utc(after))
    return f"{day:%m-%d} {moment:%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("time", "zone", "after", "expected"),
    [
        ("02:00", BERLIN, "2026-06-10T12:00", "06-11 06-11T00:00"),
        ("02:00", BERLIN, "2026-06-11T00:00", "06-11 06-11T00:00"),
        ("02:00", BERLIN, "2026-06-11T00:01", "06-12 06-12T00:00"),
        ("02:00", NEW_YORK, "2026-06-10T12:00", "06-11 06-11T06:00"),
        ("02:00", KOLKATA, "2026-06-10T12:00", "06-11 06-10T20:30"),
        # Far ahead of Greenwich: the day there is not the day in UTC.
        ("02:00", "Pacific/Kiritimati", "2026-06-10T11:00", "06-11 06-10T12:00"),
        ("02:00", "Pacific/Pago_Pago", "2026-06-10T11:00", "06-10 06-10T13:00"),
    ],
)
def test_a_zone_starts_when_it_is_next_that_late_there(
    time: str, zone: str, after: str, expected: str
) -> None:
    """Today or tomorrow, by its own calendar; at once if it is that late this very moment."""
    assert next_of(time, zone, after) == expected


@pytest.mark.parametrize(
    ("time", "zone", "after", "expected"),
    [
        # From 02:00 to 03:00 there is no time: the first moment after the gap.
        ("02:00", BERLIN, "2026-03-28T12:00", "03-29 03-29T01:00"),
        ("02:30", BERLIN, "2026-03-28T12:00", "03-29 03-29T01:00"),
        ("02:30", NEW_YORK, "2026-03-07T12:00", "03-08 03-08T07:00"),
        # Half an hour is missing.
        ("02:15", LORD_HOWE, "2026-10-03T12:00", "10-04 10-03T15:30"),
        # Once that has passed, the next day's.
        ("02:30", BERLIN, "2026-03-29T01:01", "03-30 03-30T00:30"),
        ("02:30", KOLKATA, "2026-03-28T12:00", "03-29 03-28T21:00"),
    ],
)
def test_an_hour_that_does_not_come(time: str, zone: str, after: str, expected: str) -> None:
    """In spring a zone starts at the first moment after the gap."""
    assert next_of(time, zone, after) == expected


@pytest.mark.parametrize(
    ("time", "zone", "after", "expected"),
    [
        ("02:30", BERLIN, "2026-10-24T12:00", "10-25 10-25T00:30"),
        ("01:30", NEW_YORK, "2026-10-31T12:00", "11-01 11-01T05:30"),
        ("01:45", LORD_HOWE, "2026-04-04T12:00", "04-05 04-04T14:45"),
        # After the first one the second is no start: it would be the same night twice.
        ("02:30", BERLIN, "2026-10-25T00:31", "10-26 10-26T01:30"),
        ("01:30", NEW_YORK, "2026-11-01T05:31", "11-02 11-02T06:30"),
        ("01:45", LORD_HOWE, "2026-04-04T14:46", "04-06 04-05T15:15"),
    ],
)
def test_an_hour_that_comes_twice(time: str, zone: str, after: str, expected: str) -> None:
    """In autumn a zone starts once, the first time."""
    assert next_of(time, zone, after) == expected


@given(
    zone=st.sampled_from(sorted(names())),
    time=st.times().map(lambda time: time.replace(second=0, microsecond=0)),
    minutes=st.integers(0, 3 * 365 * 24 * 60),
)
def test_in_every_zone_there_is_a_next_start(zone: str, time: datetime.time, minutes: int) -> None:
    """It lies within two days, and clocks show the time then, or have just passed over it."""
    after = utc("2025-01-01") + minutes * MINUTE
    day, moment = next_start(time, zone, after=after)
    shown = moment.astimezone(zoneinfo.ZoneInfo(zone))
    before = (moment - MINUTE).astimezone(zoneinfo.ZoneInfo(zone))
    passed_over = before.time() < time < shown.time() or before.date() < day < shown.date()

    assert after <= moment <= after + 2 * DAY
    assert (shown.date(), shown.time()) == (day, time) or passed_over
    assert next_start(time, zone, after=moment) == (day, moment)
    assert next_start(time, zone, after=moment + MINUTE)[0] > day


@settings(deadline=None, max_examples=20)  # each goes through most of a year
@given(
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, "America/St_Johns", "Africa/Casablanca"]),
    time=st.times().map(lambda time: time.replace(second=0, microsecond=0)),
    year=st.integers(2020, 2037),
)
def test_each_day_of_a_year_starts_once(zone: str, time: datetime.time, year: int) -> None:
    """Whoever goes from start to start meets every day, both edges among them, exactly once."""
    moment = utc(f"{year}-02-20")
    days = []
    for _ in range(280):
        day, moment = next_start(time, zone, after=moment + MINUTE)
        days.append(day)

    assert [later - earlier for earlier, later in itertools.pairwise(days)] == [DAY] * 279


def test_a_day_that_a_place_left_out() -> None:
    """Samoa had no 30 December 2011; nothing is lost, and nobody looks for it for ever."""
    noon = datetime.time(12)
    day, moment = next_start(noon, "Pacific/Apia", after=utc("2011-12-29T23:00"))

    assert (day, moment) == (datetime.date(2011, 12, 30), utc("2011-12-30T10:00"))
    assert moment_of(datetime.date(2011, 12, 31), noon, zoneinfo.ZoneInfo("Pacific/Apia")) > moment


def test_starts_are_told_in_their_order() -> None:
    """With what was wished for and what that comes to, so that both can be kept."""
    found = starts(
        At(datetime.time(2), "UTC"),
        {BERLIN: 3, KOLKATA: 1, "UTC": 2},
        after=utc("2026-11-28T12:00"),
    )

    assert [(start.zone, start.at, start.rows) for start in found] == [
        (KOLKATA, "2026-11-28T20:30:00Z", 1),
        (BERLIN, "2026-11-29T01:00:00Z", 3),
        ("UTC", "2026-11-29T02:00:00Z", 2),
    ]
    assert {(start.time, start.date) for start in found} == {("02:00", "2026-11-29")}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2:00", "02:00"),
        ("02:00:30", "02:00:30"),
        (" 02:00 @ Europe/Berlin ", "02:00@Europe/Berlin"),
        ("23:59@UTC", "23:59@UTC"),
    ],
)
def test_a_time_of_day_is_kept_with_its_zone(text: str, kept: str) -> None:
    """And without one where none was given: this machine's own would be a guess."""
    assert str(read_at(text)) == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("24:00", "must be a time of day such as 02:00 or 02:00@Europe/Berlin"),
        ("2", "must be a time of day"),
        ("2026-11-28T02:00", "must be a time of day"),
        ("02:00@", "must be a time of day"),
        ("02:00@Mars/Olympus", "names a time zone that does not exist: 'Mars/Olympus'"),
    ],
)
def test_a_time_of_day_that_is_none_is_refused(text: str, said: str) -> None:
    """What is wrong is told in words that follow the flag's name."""
    with pytest.raises(ValueError, match=said):
        read_at(text)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("europe/berlin", "is Europe/Berlin meant?"),
        ("Berlin", "is Europe/Berlin meant?"),
        ("Europe/Belrin", "is Europe/Berlin meant?"),
        ("Europe/Berlinn", "is Europe/Berlin meant?"),
        ("America/New York", "is America/New_York meant?"),
        ("UTC ", "is UTC meant?"),
        ("Mars/Olympus", "they are called like Europe/Berlin or UTC"),
        # Etc/GMT+5 is five hours behind Greenwich: nobody is led there.
        ("GMT+5", "they are called like Europe/Berlin or UTC"),
        ("+01:00", "they are called like Europe/Berlin or UTC"),
        ("x" * 100_000, "they are called like Europe/Berlin or UTC"),
    ],
)
def test_a_name_that_is_no_zone_is_told_from_those_that_are(name: str, said: str) -> None:
    """With the one that is meant, where a slip, letter case or a city alone tells it."""
    assert fault(name) == f"is no time zone that is known here; {said}"


def test_the_pattern_matches_zones_and_nothing_else() -> None:
    """It says yes to every name, and no to each name with a letter more or less."""
    matches = re.compile(pattern(), re.ASCII).fullmatch
    near = {name[:-1] for name in names()} | {f"{name}x" for name in names()} | {"", " ", "utc"}

    assert all(map(matches, names()))
    assert [name for name in near - names() if matches(name)] == []
    assert {fault(name) for name in names()} == {""}


def test_a_machine_without_time_zones_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no zone at all is known, no cell is to blame."""
    zones._names.cache_clear()
    monkeypatch.setattr(zoneinfo, "available_timezones", set)

    with pytest.raises(ValueError, match="install the package tzdata"):
        names()
