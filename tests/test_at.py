"""`--at` and `--zone-column`: each row starts when it is that late in its time zone."""

from __future__ import annotations

import asyncio
import datetime
import json
import signal
import struct
import time
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cli.carrying import resolve_settings
from runner.cli.flags import Output, Rollout
from runner.cli.telling import starts_of
from runner.errors import InputError, SettingsError
from runner.live import Live, Wait
from runner.onset import said
from runner.opening import Opened
from runner.spread import part_of
from tests.commands import Stage as Commands
from tests.stage import NEW, Run, Stage, in_fast_motion, until

_LATE_S = 45.0
"""In fast motion a busy machine is late by so much; it is never early."""

ZONES = ("Test/First", "Test/Second", "Test/Third")


def write_zones(place: Path, *, apart_s: int) -> Path:
    """Make three zones whose clocks go behind each other by so many seconds."""
    (place / "Test").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(ZONES):
        header = struct.pack(">4sc15x6l", b"TZif", b"\0", 0, 0, 0, 0, 1, 4)
        kind = struct.pack(">lbb4s", -apart_s * number, 0, 0, b"TST\0")
        (place / name).write_bytes(header + kind)
    return place


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Let there be three zones more, so many seconds apart."""
    places = zoneinfo.TZPATH

    def make(apart_s: int) -> None:
        place = write_zones(tmp_path / "zones", apart_s=apart_s)
        zoneinfo.reset_tzpath([str(place), *places])

    zoneinfo.ZoneInfo.clear_cache()
    yield make
    zoneinfo.reset_tzpath(places)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """A stage for commands."""
    with Commands(tmp_path) as there:
        yield there


def by_zone(stage: Stage, *names: str, rows: int = 12, **more: str) -> None:
    """Write an input whose rows name these zones by turns."""
    stage.plain(rows)
    stage.write(
        {
            "sync_id": f"s{n}",
            "user_id": "u1",
            "credential_id": NEW,
            "time_zone": names[n % len(names)],
            **more,
        }
        for n in range(1, rows + 1)
    )


def soon(now_s: float, in_s: float) -> str:
    """Return the time of day that it is so many seconds later, in the first zone."""
    return f"{datetime.datetime.fromtimestamp(now_s + in_s, datetime.UTC):%H:%M:%S}"


def sense(**flags: Any) -> None:
    """Resolve settings as a command does."""
    resolve_settings(Output(), Rollout(**flags))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"at": "02:00"}, "does not say whose clock is meant"),
        ({"at": "02:00"}, "take --start-at 02:00"),
        ({"zone_column": "tz"}, "there is no --at; add one, such as --at 02:00"),
        ({"at": "02:00", "zone_column": "tz", "waves": "1,100%"}, "cannot be had with --waves"),
        ({"at": "02:00@UTC", "waves": "1,100%"}, "--window 02:00-05:00@Europe/Berlin"),
        ({"at": "2 am"}, "--at must be a time of day"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(
    flags: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a run, and with what to do instead."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SettingsError, match=said):
        sense(**flags)


def test_a_file_may_name_the_column_for_whoever_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --at it is not looked at; with it, it counts."""
    (tmp_path / "syncshift.toml").write_text('zone-column = "tz"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    sense()
    sense(at="02:00")
    sense(at="02:00", window="22:00-06:00@UTC", spread="1h", start_at="23:00")


def refused(stage: Stage, **settings: Any) -> InputError:
    """Open a run that is refused for its input."""
    with pytest.raises(InputError) as caught:
        stage.open(**settings)
    return caught.value


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_what_is_no_zone_is_the_problem_of_its_row(tmp_path: Path, form: str) -> None:
    """With line, column, value and reason; a blank one only where no zone was given for it."""
    names = ["Europe/Berlin", "Europe/Belrin", "", "UTC"]
    async with Stage(tmp_path, at="02:00", zone_column="time_zone") as stage:
        by_zone(stage, *names, rows=4)
        if form == "jsonl":
            stage.source = tmp_path / "input.jsonl"
            rows = [
                {"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW, "time_zone": zone}
                for n, zone in enumerate([*names[1:], names[0]], 1)
            ]
            stage.source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        refusal = refused(stage)
        first = 2 if form == "csv" else 1
        opened = stage.open(at="02:00@UTC", skip_invalid=True)
        opened.folder.unlock()

    assert [(p.line, p.column, p.value) for p in refusal.problems] == [
        (first, "time_zone", "Europe/Belrin"),
        (first + 1, "time_zone", ""),
    ]
    slip, blank = (problem.reason for problem in refusal.problems)
    assert slip == "is no time zone that is known here; is Europe/Berlin meant?"
    assert blank == "is required; or name a zone for such rows, as in --at 02:00@Europe/Berlin"
    assert {start.zone: start.rows for start in opened.manifest.starts} == {
        "UTC": 3,  # one names it, one is blank, and one is invalid and goes nowhere
        "Europe/Berlin": 1,
    }


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("timezone", "there is no column timezone, which says .* is time_zone meant?"),
        ("user_id", "--zone-column user_id: that column has a meaning of its own"),
        ("syncshift_row", "--zone-column syncshift_row: that column has a meaning"),
    ],
)
@pytest.mark.parametrize("at", ["02:00", "02:00@UTC"])
async def test_a_column_that_is_not_there_is_told(
    tmp_path: Path, column: str, said: str, at: str
) -> None:
    """A slip in its name must not start everybody by the clock of a few."""
    async with Stage(tmp_path, at=at, zone_column=column) as stage:
        by_zone(stage, "UTC", rows=2)

        with pytest.raises((InputError, SettingsError), match=said):
            stage.open()


async def test_a_key_that_no_object_has_is_told(tmp_path: Path) -> None:
    """In JSONL each row may leave it out where there is a zone for such rows, but not all."""
    row = {"sync_id": "s1", "user_id": "u1", "credential_id": NEW}
    async with Stage(tmp_path, at="02:00@UTC", zone_column="time_zone") as stage:
        stage.source = tmp_path / "input.jsonl"
        stage.source.write_text(json.dumps(row) + "\n")
        with pytest.raises(InputError, match="no row has a time_zone"):
            stage.open()
        rows = [row, {**row, "sync_id": "s2", "time_zone": "Asia/Tokyo"}]
        lines = [*map(json.dumps, rows), json.dumps({**row, "sync_id": "s3", "time_zone": None})]
        stage.source.write_text("\n".join(lines) + "\n")
        opened = stage.open()
        opened.folder.unlock()

    assert {start.zone: start.rows for start in opened.manifest.starts} == {
        "Asia/Tokyo": 1,
        "UTC": 2,
    }


async def test_a_row_costs_two_bytes(tmp_path: Path) -> None:
    """Whatever the names are: a number a row, and each zone once."""
    async with Stage(tmp_path, at="02:00", zone_column="time_zone") as stage:
        by_zone(stage, "Europe/Berlin", "America/New_York", "Asia/Kolkata", rows=600)
        opened = stage.open()
        opened.folder.unlock()

    table = opened.timetable
    assert table is not None
    assert table._of_row.itemsize * len(table._of_row) == 1_200
    assert len(table.starts) == 3


async def test_many_zones_are_told_in_short(tmp_path: Path) -> None:
    """A person reads the first ones and the last; zones of one moment are one wait."""
    of_one_moment = ("Europe/Berlin", "Europe/Madrid", "Europe/Paris", "Europe/Rome")
    async with Stage(tmp_path, at="02:00", zone_column="time_zone") as stage:
        by_zone(stage, *of_one_moment, "Asia/Tokyo", "America/Lima", rows=12)
        opened = stage.open()
        opened.folder.unlock()
    assert opened.timetable is not None
    starts = opened.timetable.starts
    (moment,) = {start.at for start in starts if start.zone in of_one_moment}
    together = tuple(start for start in starts if start.at == moment)
    confirmed, planned = starts_of(opened.manifest), starts_of(opened.manifest, planned=True)

    assert confirmed["starts"].count("(2 rows)") == 5
    assert f"; and 2 zones more, the last of them {starts[-1].zone} at" in confirmed["starts"]
    assert confirmed["starts"].endswith("; this process waits for that, so leave it running")
    assert planned["starts"].endswith("; counted anew when the plan is applied")
    assert said(together) == (
        f"Europe/Berlin, Europe/Madrid, Europe/Paris and 1 more (8 rows) at 02:00 of "
        f"{together[0].date} there, {moment}"
    )


def asked_first(stage: Stage) -> dict[str, float]:
    """Return when each sync was asked about first."""
    first: dict[str, float] = {}
    for entry in stage.audit:
        first.setdefault(entry.sync_id or "", entry.at_monotonic_s)
    return first


def started(run: Run) -> list[list[str]]:
    """Return the zones that were told to start, in order."""
    return [event["zones"] for event in run.events if event["event"] == "zone.started"]


class Zoned:
    """A stage on which three zones start, each so many hasty seconds after the other."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, *, apart_s: int) -> None:
        self.stage = stage
        self.apart_s = apart_s
        # What opens a run goes by the clock that the run goes by.
        monkeypatch.setattr("runner.opening.time", SimpleNamespace(time=stage.clocks.wall))
        by_zone(stage, *ZONES)
        self.began_s = int(stage.clocks.wall()) + apart_s
        self.flags = {"at": soon(self.began_s, 0), "zone_column": "time_zone"}

    def start_s(self, number: int) -> float:
        """Return when the zone of row *number* starts, on the steady clock."""
        ahead_s = self.stage.clocks.steady() - self.stage.clocks.wall()
        return self.began_s + number % 3 * self.apart_s + ahead_s


@in_fast_motion(30)
async def test_each_zone_starts_at_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zones: Callable[[int], None]
) -> None:
    """No row goes before; while the run waits it says which zone is next, and when."""
    zones(90)
    async with Stage(tmp_path) as stage:
        zoned = Zoned(stage, monkeypatch, apart_s=90)
        lives: list[Live] = []
        seen: dict[str, Wait] = {}

        def ended() -> bool:
            for wait in lives[0].waits() if lives else ():
                if wait.reason == "zone":
                    seen.setdefault(wait.detail.split()[2], wait)
            return carrying.done()

        carrying = asyncio.create_task(stage.carry(stage.open(**zoned.flags), show=lives.append))
        await until(ended)
        run = await carrying

        assert run.counts == {"updated": 12}
        for sync_id, at_s in asked_first(stage).items():
            assert 0 <= at_s - zoned.start_s(int(sync_id[1:])) < _LATE_S
        assert started(run) == [["Test/First"], ["Test/Second"], ["Test/Third"]]
        assert list(seen) == list(ZONES)
        assert " there, 20" in seen["Test/Second"].detail
        assert "(4 rows)" in seen["Test/Third"].detail
        assert run.held("zone")
        assert run.summary.waits["zone"] > 150
        wished = [(start.time, start.rows) for start in run.opened.manifest.starts]
        assert wished == [(zoned.flags["at"], 4)] * 3


@in_fast_motion(30)
async def test_a_resumed_run_keeps_its_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zones: Callable[[int], None]
) -> None:
    """A zone whose moment passed while nobody was at work starts at once, the others in time."""
    zones(90)
    async with Stage(tmp_path) as stage:
        zoned = Zoned(stage, monkeypatch, apart_s=90)
        stage.after(5, lambda: signal.raise_signal(signal.SIGTERM))
        run = await stage.run(**zoned.flags)
        before = run.opened.folder.read().starts
        await until(lambda: stage.clocks.steady() > zoned.start_s(1) + 20)
        again_s, asked = stage.clocks.steady(), len(stage.audit)
        run = await stage.resume(run)

        assert run.counts == {"updated": 12}
        assert run.opened.folder.read().starts == before
        for entry in stage.audit[asked:]:
            due_s = max(again_s, zoned.start_s(int((entry.sync_id or "")[1:])))
            assert 0 <= entry.at_monotonic_s - due_s < _LATE_S


async def test_starts_are_counted_anew_until_sending_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that is applied days later starts in the night that comes then."""
    async with Stage(tmp_path, at="02:00", zone_column="time_zone") as stage:
        by_zone(stage, "Europe/Berlin", "Asia/Tokyo", rows=2)
        await stage.plan(run_id="x")
        planned = stage.open_planned("x")
        planned.folder.unlock()
        now_s = stage.clocks.wall()
        monkeypatch.setattr("runner.opening.time", SimpleNamespace(time=lambda: now_s + 3 * 86_400))
        later = stage.open_planned("x")
        later.folder.unlock()

        def days(opened: Opened) -> list[float]:
            moments = (start.at for start in opened.manifest.starts)
            return [datetime.datetime.fromisoformat(moment).timestamp() for moment in moments]

        assert [b - a for a, b in zip(days(planned), days(later), strict=True)] == [259_200.0] * 2
        assert later.folder.read().starts == later.manifest.starts


@in_fast_motion(30)
async def test_a_spread_begins_with_each_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zones: Callable[[int], None]
) -> None:
    """--spread: each sync at a moment of its own, counted from the start of its zone."""
    zones(60)
    async with Stage(tmp_path, spread="2m") as stage:
        zoned = Zoned(stage, monkeypatch, apart_s=60)
        run = await stage.run(**zoned.flags)

        assert run.counts == {"updated": 12}
        for sync_id, at_s in asked_first(stage).items():
            due_s = zoned.start_s(int(sync_id[1:])) + 120 * part_of(sync_id)
            assert 0 <= at_s - due_s < _LATE_S


@in_fast_motion(30)
async def test_a_start_and_a_budget_hold_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zones: Callable[[int], None]
) -> None:
    """--start-at and --max-resyncs: rows that wait for a ticket and zones to come go on."""
    zones(60)
    async with Stage(tmp_path, max_resyncs=1, until="resynced") as stage:
        zoned = Zoned(stage, monkeypatch, apart_s=60)
        monkeypatch.setattr("runner.opening.time", SimpleNamespace(time=lambda: zoned.began_s - 1))
        start = datetime.datetime.fromtimestamp(zoned.began_s - 1, datetime.UTC)
        run = await stage.run(**zoned.flags, start_at=f"{start:%FT%TZ}")

        assert run.counts == {"updated": 12}
        for sync_id, at_s in asked_first(stage).items():
            assert at_s >= zoned.start_s(int(sync_id[1:]))


async def test_a_later_start_moves_the_night(tmp_path: Path) -> None:
    """With --start-at in two days, the zone starts in the night after that."""
    async with Stage(tmp_path, at="02:00@UTC", start_at="2031-03-01T03:00Z") as stage:
        stage.plain(1)
        opened = stage.open()
        opened.folder.unlock()

    (start,) = opened.manifest.starts
    assert (start.zone, start.at, start.rows) == ("UTC", "2031-03-02T02:00:00Z", 1)


@in_fast_motion(30)
async def test_a_closed_window_holds_a_zone_that_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zones: Callable[[int], None]
) -> None:
    """--window holds as ever: what starts while it is closed goes when it opens."""
    zones(30)
    async with Stage(tmp_path) as stage:
        zoned = Zoned(stage, monkeypatch, apart_s=30)
        opens_s = zoned.began_s + 120
        window = f"{soon(opens_s, 0)}-{soon(opens_s, 7200)}@UTC"
        run = await stage.run(**zoned.flags, window=window)

        assert run.counts == {"updated": 12}
        ahead_s = stage.clocks.steady() - stage.clocks.wall()
        assert min(asked_first(stage).values()) >= opens_s + ahead_s
        assert run.held("window")


def test_a_command_waits_for_three_zones(commands: Commands, tmp_path: Path) -> None:
    """A real run: each zone starts within two seconds of its moment, and all of it is on record."""
    place = write_zones(tmp_path / "zones", apart_s=2)
    path = commands.moves(6)
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    zoned = [f"{lines[0]},time_zone"]
    zoned += [f"{line},{ZONES[n % 3]}" for n, line in enumerate(lines[1:])]
    Path(path).write_text("\n".join(zoned) + "\n", encoding="utf-8")
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    began = now + datetime.timedelta(seconds=8)

    run = commands.run(
        "run",
        "migrate-credentials",
        path,
        *("--yes", "--run-id", "x", "--at", f"{began:%T}", "--zone-column", "time_zone"),
        env={"PYTHONTZPATH": f"{place}:/usr/share/zoneinfo"},
    )

    assert run.code == 0, run.err
    assert f"Test/First at {began:%T} of {began:%F}, {began:%FT%TZ} (2 rows)" in run.err
    assert "leave it running" in run.err
    starts = commands.manifest("x")["starts"]
    assert [start["zone"] for start in starts] == list(ZONES)
    patches = [entry for entry in commands.audit if entry.method == "PATCH"]
    ahead_s = time.time() - time.monotonic() - began.timestamp()
    late = [entry.at_monotonic_s + ahead_s - 2 * (n // 2) for n, entry in enumerate(patches)]
    assert len(late) == 6
    assert all(-0.01 < seconds < 2 for seconds in late), late
