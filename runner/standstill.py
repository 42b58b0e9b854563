"""Holds everybody for what comes from outside: a pause, the clock, somebody else's word."""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from runner.attempt import Clocks
from runner.health import Check, check_of
from runner.schedule import Window, read_window
from runner.secret import scrub
from runner.settings import Settings
from runner.turnstile import Turnstile

PAUSE = "pause"
START = "start"
WINDOW = "window"
HEALTH = "health"

FLAG = "PAUSE"
"""A file of this name in the runs folder holds every run of that folder."""

_LOOK_EVERY_S = 0.5
_ASK_EVERY_S = 1.0
_MOST_OF_FLAG = 200
_NO_FLAG = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}


class Registry(Protocol):
    """Where waits are kept; `runner.waits.Waits` is the one there is."""

    def begin(self, reason: str, detail: str, until_s: float | None = None) -> None:
        """Note that somebody waits, or bring up to date why."""
        ...

    def end(self, reason: str) -> None:
        """Note that nobody waits for *reason* any more."""
        ...


class Standstill:
    """Lets nobody move while there is a reason for that. Belongs to one event loop."""

    def __init__(self, turnstile: Turnstile, waits: Registry, clock: Callable[[], float]) -> None:
        self._turnstile = turnstile
        self._waits = waits
        self._clock = clock
        self._reasons: set[str] = set()

    def begin(self, reason: str, detail: str, until_s: float | None = None) -> None:
        """Hold everybody for *reason* until it is ended; *until_s* is when that is expected.

        Of one that goes on, *detail* and *until_s* are brought up to date.
        """
        until = float("inf") if until_s is None else until_s
        self._waits.begin(reason, detail, until_s)
        self._turnstile.throttle.hold(reason, now=self._clock(), until=until, detail=detail)
        if reason not in self._reasons:
            self._reasons.add(reason)
            self._turnstile.nudge()

    def end(self, reason: str) -> None:
        """Let everybody move again, as far as *reason* goes."""
        if reason in self._reasons:
            self._reasons.discard(reason)
            self._turnstile.throttle.lift(reason, now=self._clock())
            self._turnstile.nudge()
            self._waits.end(reason)


class Pause:
    """A pause: by order, by a flag file, or both. It ends when the last of them has gone."""

    def __init__(self, standstill: Standstill, clock: Callable[[], float]) -> None:
        self._standstill = standstill
        self._clock = clock
        self._ordered: str | None = None
        self._until_s: float | None = None
        self.flag: str | None = None
        """What the flag file says, while it is there."""

    @property
    def ordered(self) -> bool:
        """Whether somebody ordered it, and nobody has taken that back."""
        return self._ordered is not None

    def order(self, detail: str, *, for_s: float | None) -> None:
        """Pause for *for_s*, or until `release`. The last order counts."""
        self._ordered = detail
        self._until_s = None if for_s is None else self._clock() + for_s
        self._weigh()

    def release(self) -> bool:
        """Take back what was ordered; tell whether anything was."""
        was, self._ordered = self.ordered, None
        self._weigh()
        return was

    def look(self, flag: str | None) -> float | None:
        """Take in what the flag file says, and the time; return when an order runs out."""
        self.flag = flag
        if self.ordered and self._until_s is not None and self._clock() >= self._until_s:
            self._ordered = None
        self._weigh()
        return self._until_s if self.ordered else None

    def _weigh(self) -> None:
        why = [detail for detail in (self._ordered, self.flag) if detail is not None]
        if why:
            until_s = self._until_s if self.flag is None else None
            self._standstill.begin(PAUSE, "; ".join(why), until_s)
        else:
            self._standstill.end(PAUSE)


class Watch:
    """Looks at the clock, the flag file and the outside check for as long as a run is at work."""

    def __init__(
        self,
        settings: Settings,
        *,
        standstill: Standstill,
        pause: Pause,
        flag: Path,
        clocks: Clocks,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """*also* is called at every look."""
        self._standstill = standstill
        self._pause = pause
        self._flag = flag
        self._clocks = clocks
        self._also = also
        self._check: Check | None = check_of(settings)
        self._window: Window | None = read_window(settings.window) if settings.window else None
        self._start = (
            datetime.datetime.fromisoformat(settings.start_at) if settings.start_at else None
        )

    async def begin(self) -> None:
        """Take a first look; nothing may be sent before that."""
        if self._check is not None:
            self._standstill.begin(HEALTH, "not asked yet")
        await self._look()

    async def run(self) -> None:
        """Go on looking until canceled."""
        async with anyio.create_task_group() as group:
            if self._check is not None:
                group.start_soon(self._ask, self._check)
            while True:
                pause_s = await self._look()
                await anyio.sleep(pause_s)

    async def _look(self) -> float:
        """Look once; return when to look again, in seconds."""
        nearest = [self._look_at_start(), self._look_at_window()]
        flag = await anyio.to_thread.run_sync(_read_flag, self._flag, abandon_on_cancel=True)
        nearest.append(self._pause.look(flag))
        self._also()
        now = self._clocks.steady()
        return min([_LOOK_EVERY_S, *(max(0.0, at - now) for at in nearest if at is not None)])

    def _look_at_start(self) -> float | None:
        """Hold, or hold no longer; return when that changes, on the steady clock."""
        if self._start is None:
            return None
        at = self._steady(self._start)
        if at <= self._clocks.steady():
            self._standstill.end(START)
            self._start = None
            return None
        self._standstill.begin(START, f"--start-at {self._start:%FT%TZ}", at)
        return at

    def _look_at_window(self) -> float | None:
        if self._window is None:
            return None
        now = datetime.datetime.fromtimestamp(self._clocks.wall(), datetime.UTC)
        is_open, change = self._window.next_change(now)
        at = self._steady(change)
        if is_open:
            self._standstill.end(WINDOW)
        else:
            opens = f"{change:%FT%TZ}"
            self._standstill.begin(WINDOW, f"--window {self._window} opens at {opens}", at)
        return at

    def _steady(self, moment: datetime.datetime) -> float:
        return self._clocks.steady() + moment.timestamp() - self._clocks.wall()

    async def _ask(self, check: Check) -> None:
        while True:
            try:
                seen = await check()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is no good answer
                seen = f"could not be asked ({type(error).__name__})"
            if seen is None:
                self._standstill.end(HEALTH)
            else:
                self._standstill.begin(HEALTH, seen)
            await anyio.sleep(_ASK_EVERY_S)


def _read_flag(path: Path) -> str | None:
    """Return what the flag file says; None when there is none. What cannot be told holds."""
    try:
        # Whatever lies there under that name must not keep anybody waiting.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            said = os.read(number, _MOST_OF_FLAG)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno in _NO_FLAG:
            return None
        return f"the file {path} is there and cannot be read ({error.strerror})"
    line = said.decode("utf-8", "replace").strip().partition("\n")[0]
    line = "".join(c if c.isprintable() else " " for c in scrub(line)).strip()
    return f"the file {path} is there" + (f": {line}" if line else "")
