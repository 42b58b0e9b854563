"""Asks the re-sync budget on behalf of rows, and gives tickets back when re-syncs have ended.

A row that may start a re-sync takes its ticket before it is read, so that none is taken
between the read and the write. It gives it back when it ends without a re-sync; otherwise
whoever follows it does, once the re-sync has ended. Rows of an earlier session that may have
one under way are never blocked, and go first.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Hashable, Iterator

from runner.budget import ALL, Budget, Share
from runner.job import Job
from runner.rows import InputFile, told
from runner.settings import Settings
from runner.steps import Work

_INTEGRATION = "integration"
_USER = "user"


def budget_of(settings: Settings) -> Budget | None:
    """Return the budget of a run with these *settings*; None: it has none."""
    per = dict(share.split("=", 1) for share in settings.max_resyncs_per)
    limit = settings.resync_budget
    if limit is None and not per:
        return None
    return Budget(limit, per={key: int(most) for key, most in per.items()})


class Tickets:
    """The lock of rows that may start a re-sync. A row starts none without a ticket.

    One that was sent without an answer and then given up may have started a re-sync all
    the same: whoever follows rows keeps its ticket until a look shows that nothing is under
    way, or ``--resync-timeout`` is over. What ended so in an earlier session is settled, and
    holds no ticket.
    """

    reason = "budget"

    def __init__(self, budget: Budget, *, job: Job, file: InputFile) -> None:
        """*file* is the input: a column ``integration`` is read if the budget has such a key.

        Raises `InputError` when that can no longer be read.
        """
        self.budget = budget
        self._starts_resync = job.starts_resync
        self._per_user = _USER in budget.per
        self._integration = _integrations(file) if _INTEGRATION in budget.per else None

    def blocked_by(self, work: Work) -> Hashable | None:
        """Return the share in which there is no room for the re-sync of *work*."""
        change = work.change
        if change is None or not self._may_start(work):
            return None
        if change.row in self.budget or is_urgent(work):
            return None
        return self.budget.lacks(self._shares(work))

    def passed(self, work: Work) -> None:
        """Take a ticket for *work*, if it may start a re-sync."""
        if work.change is not None and self._may_start(work):
            self.budget.take(work.change.row, self._shares(work))

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say how many re-syncs are unfinished, and how many rows wait for one to end."""
        budget = self.budget
        waiting = "1 row waits" if rows == 1 else f"{rows:,} rows wait"
        if budget.lacks(()) == ALL or not budget.per:
            limit = "any number" if budget.limit is None else f"{budget.limit:,}"
            return f"{budget.unfinished:,} of {limit} re-syncs are unfinished; {waiting}", None
        keys = " or ".join(f"{most:,} a {key}" for key, most in budget.per.items())
        return f"{budget.unfinished:,} re-syncs are unfinished, at most {keys}; {waiting}", None

    def report_to(self, opened: Callable[[Hashable], None]) -> None:
        """Tell *opened* of each share that has room again."""
        self.budget.room = opened

    def _may_start(self, work: Work) -> bool:
        change, before = work.change, None
        if work.intent is not None:
            before = work.intent.before
        elif work.planned is not None:
            before = work.planned.before
        return change is not None and self._starts_resync(change, before)

    def _shares(self, work: Work) -> tuple[Share, ...]:
        change = work.change
        if change is None or not self.budget.per:
            return ()
        shares: tuple[Share, ...] = ((_USER, change.user_id),) if self._per_user else ()
        if self._integration is not None and (name := self._integration(change.row)):
            shares = (*shares, (_INTEGRATION, name))
        return shares


def is_urgent(work: Work) -> bool:
    """Whether an earlier session may have begun something for *work* that is still under way."""
    return work.intent is not None or work.accepted is not None


def urgent_first(
    passes: Callable[[], Iterator[list[Work]]], urgent: Collection[int]
) -> Iterator[list[Work]]:
    """Yield what a pass yields, but the rows of *urgent* before all others.

    With *urgent* rows that takes a second pass. They go first because nobody else may be
    let through while they hold tickets, and they may stand at the end of a long input.
    """
    if not urgent:
        yield from passes()
        return
    done = frozenset(urgent)
    left = set(urgent)
    for block in passes():
        found = [w for w in block if w.change is not None and w.change.row in left]
        if found:
            left.difference_update(w.change.row for w in found if w.change is not None)
            yield found
        if not left:
            break
    for block in passes():
        if rest := [w for w in block if w.change is None or w.change.row not in done]:
            yield rest


def _integrations(file: InputFile) -> Callable[[int], str | None]:
    """Return what tells the integration of a row, from four bytes for each."""
    numbers: dict[str, int] = {"": 0}
    rows = array("I", (numbers.setdefault(name, len(numbers)) for (name,) in _named(file)))
    names = list(numbers)

    def integration(row: int) -> str | None:
        return (names[rows[row - 1]] or None) if 0 < row <= len(rows) else None

    return integration


def _named(file: InputFile) -> Iterator[tuple[str, ...]]:
    return told(file, _INTEGRATION)
