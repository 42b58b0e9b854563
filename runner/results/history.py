"""When a run was at work, and for how long it waited and why: read from its events."""

from __future__ import annotations

import datetime
from collections import defaultdict
from pathlib import Path

import msgspec

from runner.journal import scan
from runner.throttle import THROTTLED

_OPENED = "run.opened"
_CLOSED = "run.closed"
_HELD = "throttle.held"
_RELEASED = "throttle.released"

ENDS_BY_ITSELF = frozenset({THROTTLED})
"""Reasons whose end is told when they begin. Others are told of as released, whatever was
expected of their end."""


class Event(msgspec.Struct, gc=False):
    """A line of the events, as far as it tells of time."""

    event: str
    timestamp: str
    reason: str = ""
    until: str | None = None
    held_s: float = 0.0


class _Hold(msgspec.Struct):
    """A wait that has begun."""

    since: str
    until: str | None
    """When it ends by itself; None: when it is released."""


_DECODE_EVENT = msgspec.json.Decoder(Event).decode


class Session:
    """One stretch of work on a run, from being opened to being closed or killed."""

    def __init__(self, opened: str) -> None:
        self.opened = opened
        """RFC 3339 in UTC, like every moment here; such texts compare as their moments do."""
        self.closed: str | None = None
        """None: it was killed, or is at work."""
        self.last = opened
        """The last sign of life."""
        self._waits: dict[str, float] = defaultdict(float)
        self._holds: dict[str, _Hold] = {}

    @property
    def seconds(self) -> float:
        """How long it lasted; of one that was killed, to its last sign of life."""
        return _between(self.opened, self._end)

    @property
    def waits(self) -> dict[str, float]:
        """Seconds for which nobody moved, by reason. What was not released lasts to the end."""
        waits = dict(self._waits)
        for reason, hold in self._holds.items():
            end = min(hold.until or self._end, self._end)
            waits[reason] = waits.get(reason, 0.0) + _between(hold.since, end)
        return waits

    def alive(self, moment: str) -> None:
        """Note a sign of life."""
        self.last = max(self.last, moment)

    def note(self, event: Event) -> None:
        """Take in one event."""
        now = event.timestamp
        self.alive(now)
        if event.event == _CLOSED:
            self.closed = now
        elif event.event == _HELD:
            self._hold(event)
        elif event.event == _RELEASED:
            self._holds.pop(event.reason, None)
            self._waits[event.reason] += event.held_s

    def _hold(self, event: Event) -> None:
        until = event.until if event.reason in ENDS_BY_ITSELF else None
        hold = self._holds.get(event.reason)
        if hold is None:
            self._holds[event.reason] = _Hold(event.timestamp, until)
        elif hold.until is None or event.timestamp <= hold.until:
            hold.until = until
        else:
            # The one before ended by itself; such an end is no event.
            self._waits[event.reason] += _between(hold.since, hold.until)
            self._holds[event.reason] = _Hold(event.timestamp, until)

    @property
    def _end(self) -> str:
        return self.closed or self.last


def read_sessions(events: Path, *, started: str, ended: str | None) -> list[Session]:
    """Return the stretches of work on a run, in order; at least one.

    *ended* is the run's own word for when its last session ended; one from
    before that session was opened tells nothing. A file that is not there
    counts as empty: then there is one session from *started* on. Raises `JournalDamaged`.
    """
    sessions: list[Session] = []
    for line in scan(events) if events.exists() else ():
        event = _DECODE_EVENT(line.data)
        if event.event == _OPENED or not sessions:
            sessions.append(Session(event.timestamp))
        sessions[-1].note(event)
    if not sessions:
        sessions.append(Session(started))
    if ended is not None and ended >= sessions[-1].opened:
        sessions[-1].closed = ended
    return sessions


def _between(since: str, until: str) -> float:
    """Return the seconds from *since* to *until*; 0 when the clock was set back meanwhile."""
    begin, end = map(datetime.datetime.fromisoformat, (since, until))
    return max(0.0, (end - begin).total_seconds())
