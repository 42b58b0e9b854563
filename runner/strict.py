"""Keeps no more rows under way than may still fail: what ``--strict`` asks for."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from runner.feed import LINE
from runner.pipeline import Sink
from runner.steps import Work


class Strict:
    """A lock of the feed that holds everybody while all rows under way would use up the limit.

    A row is under way from when it is handed out until its outcome is on record, however
    long it is followed. One may always be, so a limit of N stops at N + 1 failed rows and
    never later; a share stops with nothing else under way.
    """

    reason = "strict"

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._carried = 0
        self._opened: Callable[[Hashable], None] = _nobody
        sink.on_end = self._ended

    def blocked_by(self, work: Work) -> Hashable | None:
        """Hold the line for a row that could be one failure too many.

        One that was accepted in an earlier session is under way already.
        """
        return None if work.accepted is not None or self._has_room() else LINE

    def passed(self, work: Work) -> None:
        """Count *work* as under way."""
        self._carried += 1

    def why(self, rows: int) -> tuple[str, float | None]:
        """Say what is waited for."""
        under_way = self._carried + self._sink.kept_back
        rows_are = "1 row is" if under_way == 1 else f"{under_way:,} rows are"
        return f"{rows_are} under way, and {self._may_fail():,} may still fail", None

    def report_to(self, opened: Callable[[Hashable], None]) -> None:
        """Call *opened* each time that a row has ended and another may begin."""
        self._opened = opened

    def _ended(self) -> None:
        self._carried -= 1
        if self._has_room():
            self._opened(LINE)

    def _has_room(self) -> bool:
        # A row that is kept back ends when others have ended, so one may always be under way.
        if not self._carried:
            return True
        return self._carried + self._sink.kept_back < self._may_fail()

    def _may_fail(self) -> int:
        tally = self._sink.tally
        return self._sink.limit.may_still_fail(failed=tally.failed, ended=tally.ended)


def _nobody(key: Hashable) -> None:
    """Tell nobody: no feed takes rows yet."""
