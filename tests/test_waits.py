"""Why a run waits: every reason is told while it lasts, and is gone afterwards."""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runner.control import Order, ask
from runner.live import Live, Wait
from runner.log import stamp
from runner.opening import Opened
from runner.results.history import read_sessions
from runner.simulator import Behavior, Fault, Faults, OutageKind
from runner.standstill import Standstill
from runner.waits import Waits
from tests.stage import MIGRATE, OTHER, HastyLoop, Run, Stage, in_fast_motion, until

# -------------------------------------------------------------------------------- the registry


class Book:
    """A registry whose time is set by hand, and what it has told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.waits = Waits(
            lambda event, **fields: self.told.append((event.rpartition(".")[2], fields)),
            clock=lambda: self.now,
            wall=lambda: self.now + 1000,
        )


def test_a_wait_is_told_when_it_begins_and_when_it_is_over() -> None:
    """Both stand in the events: why, until when, and how long it was."""
    book = Book()
    book.waits.begin("pause", "ordered by ana", 130.0)
    (active,) = book.waits.active()
    book.now = 112.5
    book.waits.end("pause")
    after = book.waits.active()
    book.now = 113.6
    book.waits.sweep()

    assert (active.reason, active.detail, active.since, active.until) == (
        "pause",
        "ordered by ana",
        100.0,
        130.0,
    )
    assert after == ()
    assert book.told == [
        ("held", {"reason": "pause", "detail": "ordered by ana", "until": stamp(1130.0)}),
        ("released", {"reason": "pause", "held_s": 12.5}),
    ]


def test_what_begins_again_within_a_second_never_ended() -> None:
    """A budget that is full a hundred times a second is one wait, and two events."""
    book = Book()
    for _ in range(100):
        book.waits.begin("budget", "full")
        book.now += 0.9
        book.waits.end("budget")
        book.now += 0.9
    book.waits.close()

    assert [event for event, _ in book.told] == ["held", "released"]
    assert book.told[1][1]["held_s"] == pytest.approx(100 * 1.8 - 0.9)


def test_what_begins_again_later_is_another_wait() -> None:
    """More than a second in between, and it is told as over before it is told anew."""
    book = Book()
    for _ in range(2):
        book.waits.begin("lane", "u1")
        book.now += 5
        book.waits.end("lane")
        book.now += 1.1
    book.waits.close()

    assert [event for event, _ in book.told] == ["held", "released"] * 2
    assert [fields["held_s"] for event, fields in book.told if event == "released"] == [5, 5]


def test_a_wait_that_goes_on_is_brought_up_to_date_without_an_event() -> None:
    """Its detail may change at every row; its beginning does not."""
    book = Book()
    for rows in range(1, 50):
        book.waits.begin("budget", f"{rows} rows wait", book.now + 3)
        book.now += 1
    (active,) = book.waits.active()

    assert (active.detail, active.since, active.until) == ("49 rows wait", 100.0, 151.0)
    assert len(book.told) == 1


def test_what_nobody_began_is_ended_in_silence() -> None:
    """Whoever lets go of what it does not hold does no harm."""
    book = Book()
    book.waits.end("pause")
    book.waits.close()

    assert book.told == []
    assert book.waits.active() == ()


def test_all_reasons_are_told_at_once() -> None:
    """One does not hide another; they come in the order in which they began."""
    book = Book()
    for reason in ("window", "health", "budget"):
        book.waits.begin(reason, "why")
        book.now += 1
    book.waits.end("health")

    assert [wait.reason for wait in book.waits.active()] == ["window", "budget"]


# ---------------------------------------------------------------------------------- each reason


class Story(NamedTuple):
    """How a reason comes up, and how it goes."""

    reason: str
    detail: str
    """A part of what is told."""
    settings: Callable[[Stage], dict[str, Any]] = lambda _: {}
    behavior: Behavior | None = None
    trip: Callable[[Stage], object] = lambda _: None
    """Done before the run begins."""
    clear: Callable[[Stage, Opened], Awaitable[object]] | None = None
    """Done once the reason was seen; None: it goes by itself."""
    until_known: bool = False
    holds_all: bool = True
    """Whether nothing at all is sent meanwhile."""
    speed: float = 1.0
    """How fast its time passes."""


def _soon(stage: Stage, seconds: float) -> datetime.datetime:
    wall_s = stage.clocks.wall() + seconds
    return datetime.datetime.fromtimestamp(wall_s, datetime.UTC)


def _flag(stage: Stage) -> Path:
    return stage.place / "runs" / "PAUSE"


def _pause(stage: Stage) -> None:
    _flag(stage).parent.mkdir()
    _flag(stage).write_text("freeze until Monday\nnot this line\n", encoding="utf-8")


async def _unpause(stage: Stage, _: Opened) -> None:
    _flag(stage).unlink()


def _window(stage: Stage) -> dict[str, Any]:
    opens, closes = _soon(stage, 2.5), _soon(stage, 3600)
    return {"window": f"{opens:%H:%M:%S}-{closes:%H:%M:%S}@UTC"}


def _sick(stage: Stage) -> None:
    (stage.place / "sick").touch()


async def _heal(stage: Stage, _: Opened) -> None:
    (stage.place / "sick").unlink()


async def _recover(stage: Stage, _: Opened) -> None:
    stage.sim.outage(None)


def _turn_away(*sync_ids: str) -> Callable[[Stage], None]:
    def trip(stage: Stage) -> None:
        for sync_id in sync_ids:
            stage.sim.script(sync_id, "PATCH", [Fault.HTTP_429])

    return trip


async def _approve(_: Stage, opened: Opened) -> None:
    order = Order(command="continue", reason="looks good")
    reply = await asyncio.to_thread(ask, opened.folder, order)
    assert (reply.done, reply.said) == (True, "the gate is passed")


WAVES = {"waves": "1,100%", "until": "resynced"}

STORIES = (
    Story("pause", "PAUSE is there: freeze until Monday", trip=_pause, clear=_unpause),
    Story(
        "start",
        "--start-at 2",
        settings=lambda stage: {"start_at": f"{_soon(stage, 2.5):%FT%TZ}"},
        until_known=True,
    ),
    Story("window", "opens at 2", settings=_window, until_known=True),
    Story(
        "health",
        "sh: ended with 7: not now",
        settings=lambda stage: {
            "health": f"sh -c 'test ! -e {stage.place}/sick || (echo not now; exit 7)'"
        },
        trip=_sick,
        clear=_heal,
    ),
    Story(
        "throttled",
        "429",
        trip=_turn_away("s3", "s4"),
        until_known=True,
    ),
    Story(
        "lane",
        "user u2 is turned away by a limit of their own",
        trip=_turn_away("s3"),
        until_known=True,
        holds_all=False,
    ),
    Story(
        "outage",
        "503",
        trip=lambda stage: stage.after(10, lambda: stage.sim.outage(OutageKind.UNAVAILABLE)),
        clear=_recover,
        until_known=True,
        holds_all=False,
        speed=10,
    ),
    Story(
        "backoff",
        "1 row waits before the next try",
        trip=lambda stage: stage.sim.script("s3", "PATCH", [Fault.HTTP_423] * 3),
        holds_all=False,
        speed=10,
    ),
    Story(
        "proof",
        "are accepted and looked at again",
        settings=lambda _: {"until": "resynced"},
        behavior=Behavior(resync_s=2),
        until_known=True,
        holds_all=False,
        speed=4,
    ),
    Story(
        "soak",
        "wave 1 has ended and is left alone",
        settings=lambda _: {**WAVES, "soak": "2s"},
        until_known=True,
        speed=4,
    ),
    Story(
        "approve",
        "the next one waits to be approved",
        settings=lambda _: {**WAVES, "approve": True},
        clear=_approve,
    ),
    Story(
        "budget",
        "1 of 1 re-syncs",
        settings=lambda _: {"max_resyncs": "1", "until": "resynced"},
        behavior=Behavior(resync_s=0.3),
        holds_all=False,
        speed=10,
    ),
    Story(
        "strict",
        "1 row is under way",
        settings=lambda _: {"strict": True, "max_failures": "0"},
        holds_all=False,
    ),
    Story(
        "spread",
        "",
        settings=lambda _: {"spread": "4s"},
        until_known=True,
        holds_all=False,
        speed=4,
    ),
)
_SEEN_ONLY = {"backoff", "proof", "disk"}
"""Reasons that are looked for twice a second: a short one may not be on record."""


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.reason)
def test_a_reason_is_told_while_it_lasts(story: Story, tmp_path: Path) -> None:
    """It is tripped, its name and detail are seen, it is cleared, it is gone, and on record."""
    with asyncio.Runner(loop_factory=lambda: HastyLoop(story.speed)) as runner:
        runner.run(_play(story, tmp_path))


async def _play(story: Story, tmp_path: Path) -> None:
    lives: list[Live] = []
    asked: set[int] = set()
    async with Stage(tmp_path, behavior=story.behavior, max_outage="60s") as stage:
        stage.plain(6, users=2)
        story.trip(stage)
        opened = stage.open(MIGRATE, **story.settings(stage))
        carrying = asyncio.create_task(stage.carry(opened, show=lives.append))

        def told() -> Wait | None:
            wait = _of(lives[0], story.reason) if lives else None
            return wait if wait is not None and story.detail in wait.detail else None

        def is_over() -> bool:
            requests = stage.sim.requests
            if carrying.done() or told() is None:
                return True
            asked.add(requests)
            return False

        await until(told)
        wait = told()
        assert wait is not None
        if story.holds_all:
            await until(lambda: not lives[0].in_flight)
        if story.clear is not None:
            # For some time, so that whoever might still send would do it now.
            await until(lambda: is_over() or len(asked) > 1 or _lasts(told(), 0.2))
            await story.clear(stage, opened)
        await until(is_over)
        run = await carrying

        assert (wait.left_s is not None) == story.until_known
        assert lives[0].waits() == ()
        assert run.counts == {"updated": 6}
        assert_on_record(run, story.reason)
        if story.holds_all:
            assert len(asked) == 1


def _lasts(wait: Wait | None, seconds: float) -> bool:
    return wait is not None and wait.for_s > seconds


def _of(live: Live, reason: str) -> Wait | None:
    return next((wait for wait in live.waits() if wait.reason == reason), None)


def assert_on_record(run: Run, reason: str) -> None:
    """The events tell when it began and ended, and the summary adds that up."""
    held, waited = run.held(reason), run.summary.waits.get(reason)
    if held or reason not in _SEEN_ONLY:
        assert len(held) == 1
        assert held[0]["detail"]
        assert waited is not None
        assert 0 < waited < 30


async def test_a_disk_that_takes_its_time_is_told(tmp_path: Path) -> None:
    """While nothing can be recorded nothing is sent, and that is the reason that is told."""
    lives: list[Live] = []
    seen: list[Wait] = []
    on_record: list[bool] = []
    async with Stage(tmp_path) as stage:
        stage.plain(8)

        def sync(fd: int) -> None:
            if stage.sim.requests > 3 and not on_record:
                gives_up_at = time.monotonic() + 20
                while not on_record and time.monotonic() < gives_up_at:
                    os.sched_yield()
            os.fdatasync(fd)

        async def look() -> None:
            await until(lambda: lives and _of(lives[0], "disk"))
            seen.extend(lives[0].waits())
            registry = lives[0]._waits
            assert registry is not None
            await until(lambda: any(wait.reason == "disk" for wait in registry.active()))
            on_record.append(True)

        looking = asyncio.create_task(look())
        run = await stage.carry(stage.open(), show=lives.append, sync=sync)
        await looking

        assert seen[0].detail == "the disk has not taken the last records"
        assert lives[0].waits() == ()
        assert_on_record(run, "disk")


async def test_reasons_are_told_all_at_once(tmp_path: Path) -> None:
    """A pause does not hide that the window is closed too, and each ends by itself."""
    lives: list[Live] = []
    async with Stage(tmp_path) as stage:
        stage.plain(4)
        _pause(stage)
        opened = stage.open(**_window(stage))
        carrying = asyncio.create_task(stage.carry(opened, show=lives.append))
        await until(lambda: lives and len(lives[0].waits()) == 2)
        both = {wait.reason for wait in lives[0].waits()}
        await until(lambda: len(lives[0].waits()) == 1)
        (left,) = lives[0].waits()
        asked = stage.sim.requests
        await _unpause(stage, opened)
        run = await carrying

        assert both == {"pause", "window"}
        assert left.reason == "pause"
        assert asked == 0
        assert run.counts == {"updated": 4}


async def test_a_run_that_was_killed_in_a_wait_has_waited_up_to_its_last_sign_of_life(
    tmp_path: Path,
) -> None:
    """What was expected of a wait's end counts for nothing: only a throttled one ends by itself."""
    async with Stage(tmp_path) as stage:
        stage.plain(2)
        run = await stage.run()
        lines = [
            {"event": "run.opened", "timestamp": "2026-11-27T12:00:00.000Z"},
            *(
                {
                    "event": "throttle.held",
                    "timestamp": "2026-11-27T12:00:10.000Z",
                    "reason": reason,
                    "until": "2026-11-27T12:00:20.000Z",
                }
                for reason in ("spread", "throttled")
            ),
            {"event": "control.received", "timestamp": "2026-11-27T12:00:40.000Z", "reason": ""},
        ]
        run._rewrite("events", lines)
        (session,) = read_sessions(
            run.path / "events.jsonl", started="2026-11-27T12:00:00.000Z", ended=None
        )

        assert session.waits == {"spread": 30.0, "throttled": 10.0}


@in_fast_motion(200)
async def test_what_was_read_before_a_long_wait_is_read_again(tmp_path: Path) -> None:
    """After hours outside a window nobody acts on what was true before: look, then touch."""
    lives: list[Live] = []
    async with Stage(tmp_path, faults=Faults(latency_s=0.5), concurrency=4) as stage:
        stage.plain(8)

        def hold() -> None:
            standstill().begin("window", "closed")

        def standstill() -> Standstill:
            live = lives[0]
            assert live._waits is not None
            return Standstill(live._turnstile, live._waits, stage.clocks.steady)

        stage.after(2, hold)
        carrying = asyncio.create_task(stage.carry(stage.open(), show=lives.append))
        await until(lambda: stage.sim.requests and lives[0].waits() and not lives[0].in_flight)
        read_before = set(stage.reads)
        for number in range(1, 9):
            stage.set(f"s{number}", credential_id=OTHER)
        await until(lambda: _lasts(_of(lives[0], "window"), 400))
        lives[0]._throttle.lift("window", now=stage.clocks.steady())
        lives[0]._turnstile.nudge()
        run = await carrying

        assert run.counts == {"updated": 8}
        assert read_before
        assert {stage.reads[sync_id] for sync_id in read_before} == {2}
        assert {line["before"]["credential_id"] for line in run.intents} == {OTHER}
        assert set(stage.patches.values()) == {1}
