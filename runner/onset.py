"""Holds each row until its time zone has started.

Rows come in the order of their starts, so the first that has to wait holds up the line. What
an earlier session may have begun goes at once, and so does what is overdue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from runner.attempt import Clocks
from runner.feed import LINE
from runner.steps import Work
from runner.timetable import Timetable
from runner.zones import Start

_SHORTEST_S = 0.001
_LONGEST_S = 1.0
"""A machine that sleeps stops the clock that timers go by, and not the one on the wall."""
_NAMED = 3


class Onset:
    """The lock that lets a row go once its zone has started. Belongs to one event loop."""

    reason = "zone"

    def __init__(self, timetable: Timetable, *, clocks: Clocks, tell: Callable[..., None]) -> None:
        """*tell* takes the events of the run."""
        self._timetable = timetable
        self._clocks = clocks
        self._tell = tell
        self._begun: set[float] = set()
        self._next_s = 0.0
        self._opened: Callable[[Hashable], None] = _nobody
        self._timer: asyncio.TimerHandle | None = None

    def due_s(self, work: Work) -> float:
        """Return when *work* may go, in seconds since the epoch."""
        change = work.change
        if change is None or work.intent is not None or work.accepted is not None:
            return 0.0
        return self._timetable.start_s(change.row)

    def blocked_by(self, work: Work) -> Hashable | None:
        """Hold up the line until the zone of *work* starts."""
        due_s = self.due_s(work)
        if due_s <= self._clocks.wall():
            return None
        self._next_s = due_s
        self._wait()
        return LINE

    def passed(self, work: Work) -> None:
        """Tell of the first row of each moment at which zones start."""
        due_s = self.due_s(work)
        if not due_s or due_s in self._begun:
            return
        self._begun.add(due_s)
        starts = self._timetable.at(due_s)
        self._tell(
            "zone.started",
            zones=[start.zone for start in starts],
            at=starts[0].at,
            rows=sum(start.rows for start in starts),
        )

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say which zone is next, and when it starts."""
        starts = self._timetable.at(self._next_s)
        until_s = self._clocks.steady() + self._next_s - self._clocks.wall()
        return f"next is {said(starts)}", until_s

    def report_to(self, opened: Callable[[Hashable], None]) -> None:
        """Tell *opened* when the next zone starts."""
        self._opened = opened

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = min(max(_SHORTEST_S, self._next_s - self._clocks.wall()), _LONGEST_S)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        if self._next_s <= self._clocks.wall():
            self._opened(LINE)
        else:
            self._wait()


def said(starts: tuple[Start, ...]) -> str:
    """Say in words which zones start at one moment, and when that is."""
    first = starts[0]
    zones = [start.zone for start in starts[:_NAMED]]
    if more := len(starts) - len(zones):
        zones.append(f"{more} more")
    *others, last = zones
    listed = f"{', '.join(others)} and {last}" if others else last
    rows = sum(start.rows for start in starts)
    count = "1 row" if rows == 1 else f"{rows:,} rows"
    days = sorted({start.date for start in starts})
    return f"{listed} ({count}) at {first.time} of {' or '.join(days)} there, {first.at}"


def _nobody(key: Hashable) -> None:
    """Tell nobody: no feed takes rows yet."""
