"""Keeps every reason why somebody waits, since when and until when; tells the run's events.

Whatever makes rows or requests wait begins its wait here and ends it here. A reason that
flaps is one wait: what ends and begins again within a second never ended.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runner.log import stamp

_ONE_WAIT_S = 1.0
"""What begins again so soon after its end has gone on all the time."""


def expected(moment_s: float) -> str:
    """Return when a wait is expected to end, as RFC 3339 in UTC.

    To a tenth of a second: *moment_s*, taken from two clocks, would make 21:59:59.998 of 22:00.
    """
    return stamp(round(moment_s, 1))


class Wait(msgspec.Struct, frozen=True, gc=False):
    """One reason why somebody waits."""

    reason: str
    """One word: ``pause``, ``budget``."""
    detail: str
    """For a person: "50 of 50 re-syncs are unfinished; 120 rows wait"."""
    since: float
    """Seconds on the run's steady clock."""
    until: float | None
    """Likewise: when it ends; None when that is not known."""


class Waits:
    """All waits of one run. Belongs to one event loop; `active` may be read by any thread."""

    def __init__(
        self,
        tell: Callable[..., None],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """*tell* takes the events; *clock* is steady, *wall* gives seconds since the epoch."""
        self._tell = tell
        self._clock = clock
        self._wall = wall
        self._active: dict[str, Wait] = {}
        self._over: dict[str, tuple[Wait, float]] = {}
        """Waits that have just ended, and when: they may still go on."""

    def begin(self, reason: str, detail: str, until_s: float | None = None) -> None:
        """Note that somebody waits for *reason*, until *until_s* on the steady clock if known.

        Of a wait that goes on, *detail* and *until_s* are brought up to date; its beginning
        stays. Costs next to nothing then, so call it as often as you like.
        """
        present = self._active.get(reason)
        if present is not None:
            if present.detail != detail or present.until != until_s:
                self._active[reason] = Wait(reason, detail, present.since, until_s)
            return
        self.sweep()
        now = self._clock()
        lately = self._over.pop(reason, None)
        if lately is None:
            until = None if until_s is None else expected(self._wall() + until_s - now)
            self._tell("throttle.held", reason=reason, detail=detail, until=until)
        since = now if lately is None else lately[0].since
        self._active[reason] = Wait(reason, detail, since, until_s)

    def end(self, reason: str) -> None:
        """Note that nobody waits for *reason* any more; nothing when nobody did."""
        wait = self._active.pop(reason, None)
        if wait is not None:
            self._over[reason] = (wait, self._clock())

    def active(self) -> tuple[Wait, ...]:
        """Return every wait that goes on now, in the order in which they began."""
        return tuple(self._active.values())

    def sweep(self) -> None:
        """Tell of waits that have been over for so long that they are. Call it now and then."""
        if self._over:
            self._release(before=self._clock() - _ONE_WAIT_S)

    def close(self) -> None:
        """End every wait and tell of it: nothing begins any more."""
        for reason in list(self._active):
            self.end(reason)
        self._release(before=float("inf"))

    def _release(self, *, before: float) -> None:
        for reason, (wait, ended) in list(self._over.items()):
            if ended <= before:
                del self._over[reason]
                held_s = round(ended - wait.since, 3)
                self._tell("throttle.released", reason=reason, held_s=held_s)
