"""What a run told of itself besides outcomes: why it waited, and who steered it."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runner.journal import scan
from runner.results.history import Session

_KEPT = 400
"""Of each kind; the rest is counted. A run can tell of ten thousand holds."""


class _Event(msgspec.Struct, gc=False):
    """A line of the events, as far as it is shown. What a run does not tell stays empty."""

    event: str
    timestamp: str
    reason: str = ""
    detail: str = ""
    until: str | None = None
    held_s: float | None = None
    wave: Any = None
    rows: int | None = None
    verdict: str = ""
    condition: str | None = None
    figures: Any = None
    row: int | None = None
    sync_id: str | None = None
    by: str = ""
    limits: Any = None
    command: str = ""
    who: str = ""
    values: Any = None
    rate: float | None = None
    in_flight: Any = None
    why: str = ""


_DECODE = msgspec.json.Decoder(_Event, strict=False).decode


class Held(msgspec.Struct):
    """A wait, on the axis of time at work."""

    since_s: float
    until_s: float
    reason: str
    detail: str
    since: str

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.until_s - self.since_s


class Wave(msgspec.Struct):
    """A wave of rows, and how its gate was judged."""

    name: str
    rows: int | None
    started: str
    at_s: float
    verdict: str = ""
    why: str = ""
    offender: str = ""
    """The first row that speaks against going on."""
    passed_by: str = ""
    """Who went on past the gate, if a person did."""


class Happening(msgspec.Struct, frozen=True):
    """What somebody did to a run while it was at work."""

    at_s: float
    moment: str
    what: str
    who: str
    why: str


class Happenings:
    """The events of a run and its retries, on the axis of time at work."""

    def __init__(self) -> None:
        self.holds: list[Held] = []
        """The longest ones, in order."""
        self.held: Counter[str] = Counter()
        """How often it was held, by reason."""
        self.waves: list[Wave] = []
        self.steered: list[Happening] = []
        self.windows: list[tuple[float, float]] = []
        """From when on how many requests were allowed in flight."""
        self.budgets: list[tuple[float, float | None]] = []
        """From when on how many re-syncs were allowed at a time; None: any number."""
        self.lanes = 0
        """Users who got a lane of their own, because they were slowed down alone."""
        self._open: dict[str, Held] = {}

    def take(self, events: Path, placed: Sequence[tuple[Session, float]]) -> None:
        """Take in the events of one run, whose sessions are *placed* on the axis.

        Raises `JournalDamaged`.
        """
        at, number = placed[0], 0
        for line in scan(events) if events.exists() else ():
            event = _DECODE(line.data)
            if event.event == "run.opened":
                self._close_all(at)
                at = placed[min(number, len(placed) - 1)]
                number += 1
                self._limit(event.limits, at[1])
            self._note(event, at)
        self._close_all(at)
        self.holds.sort(key=lambda hold: hold.since_s)

    def _note(self, event: _Event, at: tuple[Session, float]) -> None:
        now_s = _at(event.timestamp, at)
        match event.event:
            case "throttle.held":
                self._hold(event, now_s, at)
            case "throttle.released":
                if hold := self._open.pop(event.reason, None):
                    hold.until_s = _over_s(hold, event.held_s, now_s)
                    self._keep(hold)
            case "throttle.narrowed":
                if isinstance(event.in_flight, int | float):
                    self._window(now_s, float(event.in_flight))
            case "lane.opened":
                self.lanes += 1
            case "wave.started":
                self._wave(event, now_s)
            case "gate.judged":
                self._judge(event)
            case "gate.passed":
                self._pass(event)
            case "control.received":
                self._steer(event, now_s)

    def _hold(self, event: _Event, now_s: float, at: tuple[Session, float]) -> None:
        until_s = _at(event.until, at) if event.until else float("inf")
        hold = self._open.get(event.reason)
        if hold is not None and now_s <= hold.until_s:
            hold.until_s = until_s
            return
        if hold is not None:
            self._keep(hold)
        self.held[event.reason] += 1
        self._open[event.reason] = Held(now_s, until_s, event.reason, event.detail, event.timestamp)

    def _close_all(self, at: tuple[Session, float]) -> None:
        end_s = at[1] + at[0].seconds
        for hold in self._open.values():
            hold.until_s = min(hold.until_s, end_s)
            self._keep(hold)
        self._open.clear()

    def _keep(self, hold: Held) -> None:
        self.holds.append(hold)
        if len(self.holds) > 2 * _KEPT:
            self.holds.sort(key=lambda one: -one.seconds)
            del self.holds[_KEPT:]

    def _window(self, now_s: float, value: float) -> None:
        self.windows.append((now_s, value))
        if len(self.windows) > 4 * _KEPT:
            # Every other one: what is drawn has fewer points than that.
            self.windows = self.windows[::2]

    def _wave(self, event: _Event, now_s: float) -> None:
        name = str(event.wave)
        if all(wave.name != name for wave in self.waves) and len(self.waves) < _KEPT:
            self.waves.append(Wave(name, event.rows, event.timestamp, now_s))

    def _judge(self, event: _Event) -> None:
        for wave in self.waves:
            if wave.name == str(event.wave):
                wave.verdict = event.verdict
                wave.why = event.why or event.condition or _figures(event.figures)
                if event.row is not None:
                    wave.offender = f"row {event.row:,}, {event.sync_id or ''}".strip(", ")

    def _pass(self, event: _Event) -> None:
        for wave in self.waves:
            if wave.name == str(event.wave):
                wave.passed_by = event.by

    def _steer(self, event: _Event, now_s: float) -> None:
        told = _figures(event.values)
        what = f"{event.command} {told}".strip()
        if len(self.steered) < _KEPT:
            self.steered.append(Happening(now_s, event.timestamp, what, event.who, event.reason))
        self._limit(event.values, now_s)

    def _limit(self, told: Any, now_s: float) -> None:
        """Note from when on limits hold: they are told with each beginning, and when one is set."""
        values = told if isinstance(told, dict) else {}
        if isinstance(values.get("concurrency"), int | float):
            self._window(now_s, float(values["concurrency"]))
        if "max_resyncs" in values:
            most = values["max_resyncs"]
            self.budgets.append((now_s, float(most) if isinstance(most, int | float) else None))


def _over_s(hold: Held, held_s: float | None, told_s: float) -> float:
    """Return when *hold* was over: before it was told, for one that flaps is one that goes on."""
    return told_s if held_s is None else min(told_s, hold.since_s + held_s)


def _figures(values: Any) -> str:
    if isinstance(values, dict):
        return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
    return "" if values is None else str(values)


def _at(stamp: str, at: tuple[Session, float]) -> float:
    session, begin_s = at
    opened = datetime.datetime.fromisoformat(session.opened)
    passed = (datetime.datetime.fromisoformat(stamp) - opened).total_seconds()
    return begin_s + min(max(0.0, passed), session.seconds)
