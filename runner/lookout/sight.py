"""One run, seen from outside: by its folder, and by what it says when it is asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from runner.account import holds_of, index_of
from runner.control import Glance, Standing, glance_at
from runner.folder import Folder
from runner.page import Now, Waiting, live_page
from runner.results import Index

_PATIENCE_S = 1.0
_LATELY_S = 10.0


class Sight:
    """What can be seen of one run. Changes nothing in its folder."""

    def __init__(
        self,
        folder: Folder,
        *,
        elsewhere: Callable[[], Glance] | None = None,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """*elsewhere* tells how it stands where it is led, if that is not on this machine."""
        self.folder = folder
        self._elsewhere = elsewhere
        self._steady = steady
        self._wall = wall
        self._index: Index | None = None
        self._holds: tuple[Waiting, ...] = ()
        self._lately: deque[tuple[float, int]] = deque()

    def now(self) -> Now:
        """Return how the run stands. Cheap. Raises `JournalDamaged`, `NoSuchRun`, `RunRefused`."""
        glance = self._glance()
        standing = glance.standing
        rows, settled = (standing.rows, standing.settled) if standing else self._counted()
        return Now(
            at_work=glance.at_work,
            heeds=standing is not None,
            rows=rows,
            settled=settled,
            rate=self._rate(settled),
            in_flight=standing.in_flight if standing else None,
            followed=standing.followed if standing else None,
            waiting=self._waiting(standing),
            limits=standing.limits if standing else None,
            stopping=standing.stopping if standing else None,
        )

    def counts(self) -> dict[str, int]:
        """Return the rows that have ended, by outcome, as far as they are here. Raises as `now`."""
        if self._elsewhere is not None and not self.folder.is_locked():
            return {}
        return {kind.value: count for kind, count in self._extended().counts.items()}

    def picture(self, now: Now, number: int) -> bytes:
        """Return the page of the run. It takes a while for one of many rows. Raises as `now`."""
        if now.at_work and not now.heeds:
            holds = holds_of(self.folder, now_s=self._wall())
            self._holds = tuple(Waiting(h.reason, h.detail, h.timestamp, h.until) for h in holds)
        return live_page(self.folder, now, wall_s=self._wall(), number=number)

    def _glance(self) -> Glance:
        if self._elsewhere is not None and not self.folder.is_locked():
            return self._elsewhere()
        return glance_at(self.folder, patience_s=_PATIENCE_S)

    def _counted(self) -> tuple[int, int]:
        """Return how many rows there are and how many have ended, by the run's own record."""
        index = self._extended()
        return self.folder.read().rows or 0, index.succeeded + index.failed

    def _extended(self) -> Index:
        if self._index is None:
            self._index = index_of(self.folder)
        else:
            self._index.extend()
        return self._index

    def _rate(self, settled: int) -> float | None:
        now = self._steady()
        self._lately.append((now, settled))
        while len(self._lately) > 2 and self._lately[0][0] < now - _LATELY_S:
            self._lately.popleft()
        since, before = self._lately[0]
        return round((settled - before) / (now - since), 2) if now > since else None

    def _waiting(self, standing: Standing | None) -> tuple[Waiting, ...]:
        if standing is None:
            return self._holds if self.folder.is_locked() else ()
        return tuple(Waiting(w.reason, w.detail, w.since, w.until) for w in standing.waiting)
