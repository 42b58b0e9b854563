"""What the one who leads sees of all who carry: figures, reasons to wait, events, the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import anyio

from runner.attempt import Clocks
from runner.engine import Engine, Event, Progress, Reason, Waited
from runner.live import IDLE, Live
from runner.pipeline import Stop, Tally
from runner.standstill import HEALTH, PAUSE, START, WINDOW
from runner.throttle import OUTAGE, THROTTLED
from runner.waits import Wait, Waits

_EVERY_S = 0.1
_OURS = frozenset({PAUSE, START, WINDOW, HEALTH})
"""Known here first: what a worker says of them is what it was told."""
_TOLD = frozenset({THROTTLED, OUTAGE})
"""Whoever meets them tells of them in events."""
_HELD, _RELEASED = "throttle.held", "throttle.released"


class Led(Engine, Protocol):
    """An engine that may end a run."""

    @property
    def stop(self) -> Reason | None:
        """Why the run ends, as the workers have it."""
        ...


class Mirror:
    """Keeps what is shown, and on record, of the run as all workers tell it."""

    def __init__(
        self,
        tally: Tally,
        waits: Waits,
        stop: Stop,
        *,
        clocks: Clocks,
        tell: Callable[..., None],
    ) -> None:
        self._tally = tally
        self._waits = waits
        self._stop = stop
        self._clocks = clocks
        self._tell = tell
        self._out: defaultdict[str, set[int | str]] = defaultdict(set)
        self._begun: set[str] = set()
        self._since: dict[str, float] = {}
        self.progress = Progress()

    async def run(self, engine: Led) -> None:
        """Look now and then until canceled; what ends the run on either side ends it on both."""
        told = False
        while True:
            self.look(engine)
            if self._stop.reason is not None and not told:
                told = True
                engine.cancel(self._stop.reason)
            await anyio.sleep(_EVERY_S)

    def look(self, engine: Led) -> None:
        """Take in how all of them stand."""
        self.progress = progress = engine.observe()
        tally, now = self._tally, self._clocks.steady()
        tally.counts = progress.counts
        tally.ended, tally.failed, tally.followed = (
            progress.ended,
            progress.failed,
            progress.followed,
        )
        again = progress.looks_again_in_s
        tally.looks_again_at = None if again is None else now + again
        found = {wait.reason: wait for wait in self._shared() if wait.reason not in _TOLD}
        for wait in found.values():
            until = None if wait.left_s is None else now + wait.left_s
            self._waits.begin(wait.reason, wait.detail, until)
        for reason in self._begun - set(found):
            self._waits.end(reason)
        self._begun = set(found)
        if engine.stop is not None and self._stop.reason is None:
            self._stop(engine.stop.error())

    def reasons(self) -> list[Wait]:
        """Return why workers wait, with moments on the run's clock."""
        now, found = self._clocks.steady(), self._shared()
        self._since = {w.reason: self._since.get(w.reason, now) for w in found}
        return [
            Wait(
                w.reason,
                w.detail,
                self._since[w.reason],
                None if w.left_s is None else now + w.left_s,
            )
            for w in found
        ]

    def heed(self, worker: int | str, event: Event) -> None:
        """Put on record what happened at a worker; an outage that several see is one."""
        reason = event.fields.get("reason")
        if reason == OUTAGE and event.name == _HELD:
            first = not self._out[OUTAGE]
            self._out[OUTAGE].add(worker)
            if not first:
                return
        elif reason == OUTAGE and event.name == _RELEASED:
            self._out[OUTAGE].discard(worker)
            if self._out[OUTAGE]:
                return
        fields: dict[str, Any] = event.fields
        self._tell(event.name, **fields)

    def lost(self, worker: int | str) -> None:
        """Put on record that a worker died; others go on with what it carried."""
        self._out[OUTAGE].discard(worker)
        self._tell("worker.lost", worker=worker)

    def _shared(self) -> list[Waited]:
        idle = not self.progress.in_flight
        return [
            wait
            for wait in self.progress.waits
            if wait.reason not in _OURS and (idle or wait.reason not in IDLE)
        ]


class LiveOfMany(Live):
    """What a run is doing right now that several carry."""

    def __init__(self, *, seen: Mirror, **parts: Any) -> None:
        super().__init__(**parts)
        self._seen = seen

    @property
    def in_flight(self) -> int:
        """Requests on their way, at whomever."""
        return self._seen.progress.in_flight + super().in_flight

    def reasons(self) -> tuple[Wait, ...]:
        """Return why anybody waits."""
        own = {wait.reason: wait for wait in super().reasons()}
        others = {wait.reason: wait for wait in self._seen.reasons()}
        return tuple((others | own).values())
