"""In which order the rows of a run go, and what they have to wait for on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runner.attempt import Clocks
from runner.feed import Lock
from runner.onset import Onset
from runner.opening import Opened
from runner.proving import moment_s
from runner.results import Index, JoinedIndex
from runner.spread import Spread, in_order
from runner.steps import Work
from runner.tickets import Tickets, budget_of, urgent_first


class Lineup:
    """Puts the rows of one session in line. Belongs to one event loop."""

    def __init__(
        self,
        opened: Opened,
        index: Index | JoinedIndex,
        *,
        clocks: Clocks,
        ended: Callable[[], bool],
        tell: Callable[..., None],
    ) -> None:
        """*ended* tells whether the session is over; *tell* takes the run's events.

        Raises `InputError`.
        """
        self.budget = budget_of(opened.settings)
        """Who holds tickets for re-syncs; None: they are not counted."""
        self._tickets = (
            ()
            if self.budget is None
            else (Tickets(self.budget, job=opened.job, file=opened.checked.file),)
        )
        self._settings = opened.settings
        self._timetable = opened.timetable
        self._tell = tell
        self._index = index
        self._clocks = clocks
        self._ended = ended

    def line_up(
        self, passes: Callable[[], Iterator[list[Work]]], *, began: str
    ) -> tuple[Iterator[list[Work]], tuple[Lock, ...]]:
        """Return the rows of *passes* in the order in which they go, and the locks on their way.

        *passes* makes a pass over the input each time that it is called. *began* is the
        moment, RFC 3339, from which a spread is counted; no earlier than ``--start-at``.
        """
        settings, clocks, timetable = self._settings, self._clocks, self._timetable
        onset: tuple[Onset, ...] = ()
        if timetable is not None:
            onset = (Onset(timetable, clocks=clocks, tell=self._tell),)
        if settings.spread_s is None and onset:
            blocks = in_order(passes, onset[0].due_s, ended=self._ended)
            return blocks, (*onset, *self._tickets)
        if settings.spread_s is None:
            urgent: tuple[int, ...] = ()
            if self.budget is not None:
                urgent = (*self._index.in_doubt(), *self._index.to_follow())
            return urgent_first(passes, urgent), self._tickets
        now_s = clocks.wall()
        began_s = max(moment_s(began) or now_s, moment_s(settings.start_at) or 0.0)
        ahead_s = clocks.steady() - now_s
        spread = Spread(
            settings.spread_s,
            began_s=began_s + ahead_s,
            clock=clocks.steady,
            start_s=None if timetable is None else lambda row: timetable.start_s(row) + ahead_s,
        )
        blocks = in_order(passes, spread.due_s, ended=self._ended)
        return blocks, (*onset, spread, *self._tickets)
