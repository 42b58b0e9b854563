"""When sending is allowed by the clock: starts, daily windows, days without 24 hours."""

from __future__ import annotations

import datetime
import zoneinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import schedule
from runner.schedule import check_start, local_zone, moment_of, read_start, read_window

UTC = datetime.UTC
BERLIN = "Europe/Berlin"
SPRING = "2026-03-29"
"""In Berlin 02:00 is followed by 03:00, at 01:00 UTC."""
AUTUMN = "2026-10-25"
"""In Berlin 03:00 is followed by 02:00, at 01:00 UTC."""
LORD_HOWE = "Australia/Lord_Howe"
"""The clock moves by half an hour: forth on 2026-10-04, back on 2026-04-05, at 02:00."""


def utc(text: str) -> datetime.datetime:
    """Return a moment in UTC."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=UTC)


def changes(window: str, since: str, count: int) -> list[str]:
    """Return the next changes of a window, each with what it is from then on."""
    found, now = [], utc(since)
    for _ in range(count):
        is_open, change = read_window(window).next_change(now)
        found.append(f"{change:%d %H:%M} {'closes' if is_open else 'opens'}")
        now = change
    return found


@pytest.mark.parametrize(
    ("now", "is_open", "change"),
    [
        ("2026-06-10T12:00", False, "2026-06-10T20:00"),
        ("2026-06-10T19:59:59.999999", False, "2026-06-10T20:00"),
        ("2026-06-10T20:00", True, "2026-06-11T04:00"),
        ("2026-06-11T03:59:59.999999", True, "2026-06-11T04:00"),
        ("2026-06-11T04:00", False, "2026-06-11T20:00"),
    ],
)
def test_a_window_may_cross_midnight(now: str, is_open: bool, change: str) -> None:
    """It is open from the very moment at which it opens, and closed from that of its close."""
    found = read_window(f"22:00-06:00@{BERLIN}").next_change(utc(now))

    assert found == (is_open, utc(change))


def test_a_window_within_a_day() -> None:
    """It opens and closes on the same day, in its own zone, each day."""
    assert changes("09:30-17:00@America/New_York", "2026-06-10T00:00", 3) == [
        "10 13:30 opens",
        "10 21:00 closes",
        "11 13:30 opens",
    ]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # An opening that the day does not have is the first moment after the gap.
        ("02:30-03:30", ["29 01:00 opens", "29 01:30 closes", "30 00:30 opens"]),
        # So is a close.
        ("01:30-02:30", ["29 00:30 opens", "29 01:00 closes", "29 23:30 opens"]),
        # What lies whole within the gap does not open that day.
        ("02:15-02:45", ["30 00:15 opens", "30 00:45 closes", "31 00:15 opens"]),
        ("02:00-03:00", ["30 00:00 opens", "30 01:00 closes", "31 00:00 opens"]),
        # A night with a gap is an hour shorter.
        ("22:00-06:00", ["29 04:00 closes", "29 20:00 opens", "30 04:00 closes"]),
    ],
)
def test_the_day_without_an_hour(window: str, expected: list[str]) -> None:
    """Spring in Berlin: from 02:00 to 03:00 there is no time."""
    assert changes(f"{window}@{BERLIN}", f"{SPRING}T00:00", 3) == expected


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # An opening that comes twice opens the first time.
        ("02:30-03:30", ["25 00:30 opens", "25 02:30 closes", "26 01:30 opens"]),
        # A close that comes twice closes the last time.
        ("01:30-02:30", ["24 23:30 opens", "25 01:30 closes", "26 00:30 opens"]),
        ("02:15-02:45", ["25 00:15 opens", "25 01:45 closes", "26 01:15 opens"]),
        # A night with an hour twice is an hour longer.
        ("22:00-06:00", ["25 05:00 closes", "25 21:00 opens", "26 05:00 closes"]),
        # Closed for half an hour only, it does not close on this day.
        ("02:45-02:15", ["24 00:45 opens", "26 01:15 closes", "26 01:45 opens"]),
    ],
)
def test_the_day_with_an_hour_twice(window: str, expected: list[str]) -> None:
    """Autumn in Berlin: from 02:00 to 03:00 the time comes twice."""
    since = {"22:00-06:00": "2026-10-24T23:00", "02:45-02:15": "2026-10-24T00:20"}
    begins = since.get(window, "2026-10-24T23:00")

    assert changes(f"{window}@{BERLIN}", begins, 3) == expected


def test_a_zone_that_moves_by_half_an_hour() -> None:
    """Lord Howe: 02:15 does not come in its spring, and 01:45 comes twice in its autumn."""
    spring = changes(f"02:15-05:00@{LORD_HOWE}", "2026-10-03T12:00", 2)
    autumn = changes(f"01:45-05:00@{LORD_HOWE}", "2026-04-04T12:00", 2)
    closing = changes(f"00:00-01:45@{LORD_HOWE}", "2026-04-04T12:00", 2)

    assert spring == ["03 15:30 opens", "03 18:00 closes"]
    assert autumn == ["04 14:45 opens", "04 18:30 closes"]
    assert closing == ["04 13:00 opens", "04 15:15 closes"]


def test_a_day_that_a_place_left_out() -> None:
    """Samoa had no 30 December 2011: what would have opened then opens as the 31st begins."""
    zone = zoneinfo.ZoneInfo("Pacific/Apia")
    day = datetime.date(2011, 12, 30)

    assert moment_of(day, datetime.time(12), zone) == utc("2011-12-30T10:00")


_MINUTES = st.integers(0, 24 * 60 - 1)


@given(
    opens=_MINUTES,
    closes=_MINUTES,
    zone=st.sampled_from([BERLIN, LORD_HOWE, "America/St_Johns", "Asia/Kathmandu", "UTC"]),
    minutes=st.floats(0, 366 * 24 * 60),
)
def test_every_window_opens_and_closes(opens: int, closes: int, zone: str, minutes: float) -> None:
    """Whenever it is looked at, it changes within two days, and is then what it was not."""
    if opens == closes:
        return
    now = utc("2026-01-01") + datetime.timedelta(minutes=minutes)
    text = "-".join(f"{at // 60:02}:{at % 60:02}" for at in (opens, closes))
    window = read_window(f"{text}@{zone}")
    is_open, change = window.next_change(now)
    was_open, same = window.next_change(change - datetime.timedelta(microseconds=1))
    then_open, later = window.next_change(change)

    assert now < change <= now + datetime.timedelta(days=2)
    assert (was_open, same) == (is_open, change)
    assert (then_open, later > change) == (not is_open, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("22:00", "two times of day"),
        ("22-06", "two times of day"),
        ("24:00-06:00", "from 00:00 to 23:59"),
        ("22:60-06:00", "from 00:00 to 23:59"),
        ("22:00-22:00", "different times of day"),
        ("22:00-06:00@", "two times of day"),
        ("22:00-06:00@Mars/Olympus", "names a time zone that does not exist: 'Mars/Olympus'"),
        ("22:00-06:00@../../etc/passwd", "names a time zone that does not exist"),
    ],
)
def test_a_window_that_is_none_is_refused(text: str, said: str) -> None:
    """What is wrong is told in words that follow the flag's name."""
    with pytest.raises(ValueError, match=said):
        read_window(text)


def test_a_window_is_kept_with_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a zone the machine's own is meant, and named: a run may go on elsewhere."""
    monkeypatch.setenv("TZ", BERLIN)

    assert str(read_window("9:30 - 17:00")) == f"09:30-17:00@{BERLIN}"
    assert str(read_window("22:00-06:00:30@UTC")) == "22:00-06:00:30@UTC"


NOW = utc("2026-11-27T12:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-27T22:00:00+01:00", "2026-11-27T21:00"),
        ("2026-11-27T22:00Z", "2026-11-27T22:00"),
        ("2026-11-27 22:00", "2026-11-27T21:00"),
        ("22:00", "2026-11-27T21:00"),
        # Half an hour ago in Berlin: tomorrow.
        ("12:30", "2026-11-28T11:30"),
        # It has just passed: at once.
        ("2026-11-27T11:30Z", "2026-11-27T11:30"),
        # A moment that its day does not have, and one that it has twice.
        ("2027-03-28 02:30", "2027-03-28T01:00"),
        ("2027-10-31 02:30", "2027-10-31T00:30"),
    ],
)
def test_a_start_is_a_moment(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a zone it is what it says; without one, the machine's time; without a day, the next."""
    monkeypatch.setenv("TZ", BERLIN)

    assert read_start(text, now=NOW) == utc(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("soon", "must be a moment such as"),
        ("2026-11-28", "the time is missing"),
        ("2026-13-01T00:00Z", "must be a moment such as"),
        ("25:00", "must be a moment such as"),
        ("9999-12-31T23:59-12:00", "must be a moment such as"),
    ],
)
def test_a_start_that_is_none_is_refused(text: str, said: str) -> None:
    """What is wrong is told in words that follow the flag's name."""
    with pytest.raises(ValueError, match=said):
        read_start(text, now=NOW)


def test_a_start_that_passed_long_ago_is_a_slip() -> None:
    """The wrong year must not send everything at once; a few minutes ago is at once."""
    check_start(read_start("2026-11-27T11:30Z", now=NOW), now=NOW)

    with pytest.raises(ValueError, match="must not have passed; now it is 2026-11-27T12:00:00Z"):
        check_start(read_start("2025-11-27T22:00Z", now=NOW), now=NOW)


def test_the_machines_zone_is_found_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TZ, by what /etc/localtime links to, by name; a rule without a name is asked about."""
    link, name = tmp_path / "localtime", tmp_path / "timezone"
    monkeypatch.setattr(schedule, "_LOCAL_TIME", link)
    monkeypatch.setattr(schedule, "_LOCAL_ZONE", name)
    monkeypatch.delenv("TZ", raising=False)
    found = [local_zone()]
    name.write_text("Asia/Tokyo\n", encoding="utf-8")
    found.append(local_zone())
    link.symlink_to("/usr/share/zoneinfo/Europe/Paris")
    found.append(local_zone())
    monkeypatch.setenv("TZ", ":America/Lima")
    found.append(local_zone())
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")

    assert found == ["UTC", "Asia/Tokyo", "Europe/Paris", "America/Lima"]
    with pytest.raises(ValueError, match="name it: 22:00-06:00@Europe/Berlin"):
        local_zone()


def test_a_machine_without_time_zones_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no zone at all is known, the name that was given is not to blame."""
    monkeypatch.setattr(zoneinfo, "available_timezones", set)

    with pytest.raises(ValueError, match="install the package tzdata"):
        read_window("22:00-06:00@Mars/Olympus")
