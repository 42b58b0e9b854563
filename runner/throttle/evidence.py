"""Whether answers speak against the rate that is kept to.

A few isolated requests that are turned away are tolerated, for servers have bad moments.
More of them, or several in a row, speak against the rate; unless to send less has not
helped, for then it is the server's way, and more is tolerated. Of a share that is turned
away by chance (see `chance`) only what goes beyond it counts.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice

_TOLERATED = 3
_MOST_TOLERATED = 96
_PER_ANSWERS = 600
_NO_BETTER = 0.5
_TELLING_ANSWERS = 100
_IN_VAIN = 0.85
_START_OVER = ((3, 8), (10, 100))
"""So many turned away of so many answers end the start."""
_IN_A_ROW = 3
_ACCIDENT = 1e-4
"""So seldom a row of them is one by chance."""
_SOON_ANSWERS = 30
_SOON_AT_START = 12
_REMEMBERED = 600
_DEVIATIONS = 2.5


class Evidence:
    """Answers since the last cut, as far as they speak for or against the rate."""

    def __init__(self) -> None:
        self.in_a_row = 0
        """How many were turned away since one was not."""
        self._answers = self._since = 0
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)
        self._share = 0.0
        self._in_a_row = _IN_A_ROW
        self._tolerated = _TOLERATED
        self._suspect = -_PER_ANSWERS
        self._blamed_per_s = 0.0
        self._cut_after, self._share_before = 0, 0.0
        """After how many answers too many isolated ones were there, and their share."""

    @property
    def is_row(self) -> bool:
        """Whether so many in a row were turned away that it is no accident."""
        return self.in_a_row >= self._in_a_row

    @property
    def is_few(self) -> bool:
        """Whether no more were turned away lately than is tolerated."""
        recent = self._recent
        while recent and recent[0] <= self._answers - _PER_ANSWERS:
            recent.popleft()
        answers = min(self._answers - self._since, _PER_ANSWERS)
        return len(recent) <= self._tolerated + self._by_chance(answers)

    @property
    def ends_start(self) -> bool:
        """Whether so many were turned away lately that a rate that doubled is to blame."""
        recent, answers = self._recent, self._answers
        return self.is_row or any(
            len(recent) >= (most := count + self._by_chance(of)) and recent[-most] > answers - of
            for count, of in _START_OVER
        )

    def is_calm(self, *, starting: bool) -> bool:
        """Tell whether nobody was turned away just now, or no more than by chance."""
        soon = _SOON_AT_START if starting else _SOON_ANSWERS
        return self._answers - self._suspect > soon or (
            self._share > 0 and self._count(soon) <= self._by_chance(soon)
        )

    def passed(self) -> None:
        """Take in an answer that did not turn the request away."""
        self._answers += 1
        self.in_a_row = 0

    def ignore(self) -> None:
        """Take in one that did, but says nothing about the rate that is kept to now."""
        self._answers += 1

    def turned_away(self) -> None:
        """Take in one that did."""
        self._answers += 1
        self.in_a_row += 1
        self._recent.append(self._answers)

    def suspect(self) -> bool:
        """Note that the last one may be the rate's doing; tell whether one was a moment ago."""
        before, self._suspect = self._suspect, self._answers
        if self._share:
            return self._count(_SOON_ANSWERS) > 1 + self._by_chance(_SOON_ANSWERS)
        return self._answers - before <= _SOON_ANSWERS

    def is_in_vain(self, limit_per_s: float, *, now_per_s: float) -> float | None:
        """Return the limit that was wrongly blamed, if sending less than it has not helped.

        Fewer are to be sent, *limit_per_s* instead of *now_per_s*. If the share of those that
        are turned away does not fall with the rate, more of them are tolerated from then on.
        """
        answers, self._cut_after = self._answers - self._cut_after, self._answers
        share = len(self._recent) / max(answers, 1)
        if answers < _TELLING_ANSWERS or not share >= _NO_BETTER * self._share_before > 0:
            self._blamed_per_s, self._share_before = now_per_s, share
            return None
        if limit_per_s > _IN_VAIN * self._blamed_per_s:
            return None
        self._tolerated = min(2 * self._tolerated, _MOST_TOLERATED)
        self._share_before = 0.0
        self._recent.clear()
        return self._blamed_per_s

    def cut(self) -> None:
        """Begin anew, for the rate has become another."""
        self._recent.clear()
        self._since = self._answers

    def by_chance(self, share: float) -> None:
        """Take in how large a share of the requests is turned away at any rate."""
        if share != self._share:
            self._share = share
            row = math.ceil(math.log(_ACCIDENT) / math.log(share)) if share else 0
            self._in_a_row = max(_IN_A_ROW, row)

    def _count(self, answers: int) -> int:
        """Return how many of the last *answers* were turned away."""
        first = self._answers - answers
        return sum(number > first for number in islice(reversed(self._recent), answers))

    def _by_chance(self, answers: int) -> int:
        """Return how many of so many answers may well be turned away by chance."""
        usual = self._share * answers
        return math.ceil(usual + _DEVIATIONS * math.sqrt(usual))

    def kept(self) -> None:
        """Take in that a rate was kept for its time: what was tolerated may no longer be needed."""
        if len(self._recent) <= _TOLERATED:
            self._tolerated = _TOLERATED
