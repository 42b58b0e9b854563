"""The lock of rows whose user has a lane: they wait in the feed, not in a worker's hands.

One row of such a user waits in the lane, and the next one is handed out when that has left.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from runner.steps import Work
from runner.throttle import LANE
from runner.turnstile import Turnstile


class Detour:
    """Keeps the rows of slowed users out of the way of the others. Belongs to one event loop."""

    reason = LANE

    def __init__(self, turnstile: Turnstile) -> None:
        self._lanes = turnstile.lanes
        self._slow = turnstile.throttle.slow
        self._clock = turnstile.clock
        self._opened: Callable[[Hashable], None] = _nobody
        turnstile.lanes.on_room = self._room_for

    def blocked_by(self, work: Work) -> Hashable | None:
        """Return the lane of the row's user if somebody waits in it already."""
        change = work.change
        if not self._slow or change is None or work.accepted is not None:
            return None
        is_slow = self._lanes.is_slow(change.user_id, self._clock())
        return (LANE, change.user_id) if is_slow else None

    def passed(self, work: Work) -> None:
        """Take in that a row is handed out, and will soon stand in its user's lane."""
        if self._slow and work.change is not None and work.accepted is None:
            self._lanes.expect(work.change.user_id)

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say how many users are turned away, and until when the next one of them is."""
        return self._lanes.why(rows, self._clock())

    def report_to(self, opened: Callable[[Hashable], None]) -> None:
        """Call *opened* with the lane of a user for whom one more row may go."""
        self._opened = opened

    def _room_for(self, user: str) -> None:
        self._opened((LANE, user))


def _nobody(key: Hashable) -> None:
    pass
