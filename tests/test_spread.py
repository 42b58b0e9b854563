"""`--spread`: each sync at a moment of its own, always the same, however long the input is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from runner.model import Change, Intent, Outcome, OutcomeKind
from runner.spread import Spread, in_order, part_of
from runner.steps import Work
from tests.stage import NEW, Stage, in_fast_motion, until

_LATE_S = 45.0
"""In fast motion a busy machine is late by so much; it is never early."""


def work(row: int, *, begun: bool = False) -> Work:
    """Return a row that is to be carried."""
    change = Change(row, row + 1, f"s{row}", "u", {"credential_id": NEW})
    intent = None
    if begun:
        intent = Intent(
            row=row,
            line=row + 1,
            sync_id=f"s{row}",
            user_id="u",
            before=None,
            seen=None,
            desired={},
            timestamp="",
        )
    return Work(change=change, intent=intent)


def known(row: int) -> Work:
    """Return a row that need not be carried."""
    return Work(
        known=Outcome(row=row, line=1, sync_id="s", user_id="u", outcome=OutcomeKind.INVALID)
    )


def rows_of(blocks: Iterator[list[Work]]) -> list[int]:
    """Return the numbers of the rows that are to be carried, in their order."""
    return [work.change.row for work in chain.from_iterable(blocks) if work.change is not None]


def spread(over_s: float = 100.0, *, began_s: float = 0.0) -> Spread:
    """Return a spread on a clock that stands at its beginning."""
    return Spread(over_s, began_s=began_s, clock=lambda: began_s)


def test_a_sync_always_has_the_same_moment() -> None:
    """Its part of the spread depends on its ID and nothing else, now and in years."""
    part = 0.9291191961854466

    assert part_of("s1") == part
    assert spread(100).due_s(work(1)) == 100 * part
    assert spread(100, began_s=50).due_s(work(1)) == 50 + 100 * part
    assert spread(10).due_s(work(999)) == 10 * part_of("s999")


def test_moments_are_spread_evenly() -> None:
    """Of many syncs about as many fall into each part, and none outside."""
    parts = [part_of(f"sync-{n}") for n in range(10_000)]
    tenths = [sum(int(part * 10) == tenth for part in parts) for tenth in range(10)]

    assert sum(tenths) == 10_000
    assert all(900 < count < 1_100 for count in tenths)


@pytest.mark.parametrize("most", [1, 7, 100, 1_000])
def test_rows_come_in_the_order_of_their_moments(most: int) -> None:
    """However few are held at a time, each comes once, and a long input is read again."""
    rows, passes = 100, 0

    def pass_over() -> Iterator[list[Work]]:
        nonlocal passes
        passes += 1
        for first in range(1, rows + 1, 10):
            yield [known(first), *map(work, range(first, first + 10))]

    by_moment = spread()
    blocks = list(in_order(pass_over, by_moment.due_s, ended=lambda: False, most=most))
    order = rows_of(iter(blocks))
    ends = [work for work in chain.from_iterable(blocks) if work.change is None]

    assert order == sorted(range(1, rows + 1), key=lambda row: by_moment.due_s(work(row)))
    assert len(ends) == 10
    assert passes <= -(-rows // most) + 1


def test_what_was_begun_before_goes_first() -> None:
    """Whatever its moment is: a re-sync of it may be under way."""

    def pass_over() -> Iterator[list[Work]]:
        yield [work(row, begun=row in {30, 40}) for row in range(1, 51)]

    order = rows_of(in_order(pass_over, spread().due_s, ended=lambda: False, most=8))

    assert order[:2] == [30, 40]
    assert len(set(order)) == len(order) == 50


def test_a_pass_is_given_up_when_the_run_ends() -> None:
    """Nobody waits for a long input to be read to its end."""
    read = 0

    def pass_over() -> Iterator[list[Work]]:
        nonlocal read
        while True:
            read += 1
            yield [work(read)]

    assert list(in_order(pass_over, spread().due_s, ended=lambda: read > 5)) == []


async def test_the_line_is_held_until_the_next_row_is_due() -> None:
    """What is due passes; the rest opens by itself at its moment, and until then says when."""
    clock = asyncio.get_running_loop().time
    began_s = clock()
    lock = Spread(0.5, began_s=began_s, clock=clock)
    opened: list[object] = []
    lock.report_to(opened.append)

    assert lock.blocked_by(work(1, begun=True)) is None
    assert lock.blocked_by(known(1)) is None
    assert lock.blocked_by(work(1)) is not None
    detail, until_s = lock.why(0)
    assert detail == "rows are spread over 0.5 s, and none is due now"
    assert until_s == began_s + 0.5 * part_of("s1")
    await until(lambda: bool(opened))
    assert clock() >= until_s - 0.002


@in_fast_motion(30)
async def test_a_run_is_spread_over_its_time(tmp_path: Path) -> None:
    """Each row is asked for at its moment, counted from when the run was started; it says why."""
    async with Stage(tmp_path, spread="3m") as stage:
        stage.plain(30)
        began_s = stage.clocks.steady()
        run = await stage.run()

        assert run.counts == {"updated": 30}
        first: dict[str, float] = {}
        for entry in stage.audit:
            first.setdefault(entry.sync_id or "", entry.at_monotonic_s)
        for sync_id, at_s in first.items():
            assert 0 <= at_s - (began_s + 180 * part_of(sync_id)) < _LATE_S
        assert run.held("spread")
        assert run.summary.waits["spread"] > 60


@in_fast_motion(30)
async def test_a_resumed_run_keeps_its_places(tmp_path: Path) -> None:
    """The spread goes on counting while nobody is at work: what is overdue goes at once."""
    async with Stage(tmp_path, spread="3m") as stage:
        stage.plain(30)
        began_s = stage.clocks.steady()
        run = await stage.interrupted(after=12)
        await until(lambda: stage.clocks.steady() > began_s + 120)
        again_s = stage.clocks.steady()
        asked = len(stage.audit)
        run = await stage.resume(run)

        assert run.counts == {"updated": 30}
        for entry in stage.audit[asked:]:
            late_s = entry.at_monotonic_s - max(
                began_s + 180 * part_of(entry.sync_id or ""), again_s
            )
            assert 0 <= late_s < _LATE_S


@in_fast_motion(30)
async def test_a_stop_ends_a_spread_at_once(tmp_path: Path) -> None:
    """Whoever interrupts a run that is spread over hours does not wait for them."""
    async with Stage(tmp_path, spread="24h") as stage:
        stage.plain(20)
        began_s = stage.clocks.steady()
        opened = stage.open()
        lives: list[object] = []
        carrying = asyncio.create_task(stage.carry(opened, show=lives.append))
        await until(lambda: bool(lives))
        await until(lambda: (opened.folder.path / "events.jsonl").stat().st_size > 300)
        signal.raise_signal(signal.SIGTERM)
        run = await carrying

        assert run.summary.exit_code == 143
        assert run.counts.get("unprocessed", 0) >= 15
        assert stage.clocks.steady() - began_s < 300


@in_fast_motion(60)
async def test_a_spread_and_a_budget_hold_together(tmp_path: Path) -> None:
    """A row that is due and has no ticket waits for one, and lets the next ones be due."""
    async with Stage(tmp_path, spread="2m", max_resyncs=2, until=None) as stage:
        stage.plain(20, last_synced_at="2026-01-05T08:30:22.990Z")
        run = await stage.run()

        assert run.counts == {"updated": 20}
