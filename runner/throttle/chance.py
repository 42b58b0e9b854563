"""Whether requests are turned away by chance: as many of them, however few are sent.

A limit turns nobody away once less is sent than it takes. Where the rate was cut to what
was accepted, and clearly below what it was, and still as large a share is turned away, it is
no limit, and to send even less would only make the run slower and slower. So large a share
is then the server's way: it is waited for where the server says so, and teaches nothing.
"""

from __future__ import annotations

_TELLING = 8
"""So many turned away, at rates that a limit would have allowed, make their share telling."""
_CLEARLY_TELLING = 16
_SMALL = 0.05
"""A share below this may as well be what others take of the limit: more is needed to tell."""
_TELLING_AT_FIRST = 3
_LEAST_S = 1.0
_LEAST_ANSWERS = 20
_SAME = 0.7
"""A share that has not fallen below this part of what it was is the same."""
_FALLEN = 0.4
"""And one that has fallen below this part has fallen; in between it takes longer to tell."""
_RISEN = 2.0
"""One that has risen beyond this many times is no longer the same either."""
_NEARLY_TAKEN = 1.05
_CLEARLY_BELOW = 0.85
_LEAST = 0.006
"""A smaller share is tolerated in any case."""
_MOST = 0.5
"""Whoever turns away more than this share is full, whatever else may be the matter."""
_NO_LONGER = 0.5
_LOOK_AFTER = 600


class Chance:
    """The share that is turned away at any rate. Pure: time is an argument."""

    def __init__(self) -> None:
        self.share = 0.0
        """So large a share is turned away by chance; 0 for as long as nothing speaks for it."""
        # Since when, and at whatever rate.
        self._began_at: float | None = None
        self._answers = self._away = 0
        # What is to be explained: a rate, the share turned away at it, and what was taken then.
        self._blamed_per_s = self._blamed_share = 0.0
        self._allowed_per_s = 0.0
        """At this rate, clearly below what was blamed, a limit would turn away next to nobody."""
        self._allowed = self._allowed_away = 0
        self._since_known = self._away_since_known = 0

    def answered(self, now: float, *, away: bool, rate_per_s: float) -> None:
        """Take in an answer to a request that left at *rate_per_s*."""
        if self._began_at is None:
            self._began_at = now
        self._answers += 1
        self._away += away
        if rate_per_s <= self._allowed_per_s:
            self._allowed += 1
            self._allowed_away += away
        if self.share:
            self._since_known += 1
            self._away_since_known += away
            if self._since_known >= _LOOK_AFTER:
                self._look()

    def allows(self, rate_per_s: float) -> bool:
        """Tell whether a limit would turn away next to nobody at *rate_per_s*."""
        return rate_per_s <= self._allowed_per_s

    def explains(self, rate_per_s: float) -> float | None:
        """Tell whether as many are turned away at *rate_per_s* as before it was cut to that.

        Returns the rate that was wrongly blamed for it; None: cutting it may have helped.
        """
        away, before = self._allowed_away, self._blamed_share
        if away < _TELLING or not self.allows(rate_per_s):
            return None
        share, same = away / self._allowed, _SAME if away < _CLEARLY_TELLING else _FALLEN
        if share < _SMALL and away < _CLEARLY_TELLING:
            return None
        if not max(_LEAST, same * before) <= share <= min(_MOST, _RISEN * before):
            return None
        self.share = share
        self._since_known = self._away_since_known = 0
        blamed = self._blamed_per_s
        self._blame(0.0, 0.0, 0.0)
        return blamed

    def cut(self, now: float, *, rate_per_s: float, taken_per_s: float | None = None) -> None:
        """Take in that *rate_per_s* is blamed, and cut.

        *taken_per_s* is what was taken at it, where that was measured over whole cycles.
        """
        span_s = 0.0 if self._began_at is None else now - self._began_at
        answers, away = self._answers, self._away
        if self.allows(rate_per_s):
            # A limit would have allowed that already; it is to be seen what did not.
            answers, away = self._allowed, self._allowed_away
            usual = self._blamed_share * answers
            if away < _TELLING or _FALLEN * usual <= away <= _RISEN * usual:
                return
        if taken_per_s is None:
            if span_s < _LEAST_S or answers < _LEAST_ANSWERS:
                return
            taken_per_s = (answers - away) / span_s
        if away >= _TELLING_AT_FIRST:
            self._blame(rate_per_s, away / answers, taken_per_s)

    def restart(self) -> None:
        """Take in that the rate was raised: what was seen at another tells nothing of it."""
        self._blame(0.0, 0.0, 0.0)

    def _blame(self, blamed_per_s: float, share: float, taken_per_s: float) -> None:
        self._blamed_per_s, self._blamed_share = blamed_per_s, share
        self._allowed_per_s = min(_NEARLY_TAKEN * taken_per_s, _CLEARLY_BELOW * blamed_per_s)
        self._began_at = None
        self._answers = self._away = self._allowed = self._allowed_away = 0

    def _look(self) -> None:
        """See whether it is still the server's way."""
        share = self._away_since_known / self._since_known
        if share < _NO_LONGER * self.share:
            self.share = share if share >= _LEAST else 0.0
        self._since_known = self._away_since_known = 0
