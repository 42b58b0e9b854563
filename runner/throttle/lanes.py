"""Lanes: when one user is limited, that user waits, and not everybody else.

A user gets a lane when answers show that it is this user who is turned away: most of
those that were turned away lately are this user's, or the server named a wait for this
user and nobody else has been turned away since. In a lane one request is in flight at a
time, at an interval of its own that follows what the server takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import msgspec

LANE = "lane"
"""Some user's requests wait for that user's own limit."""

_RECENT_SENDS = 256
_RECENT_THROTTLES = 4
_OF_ONE = 3
_TELLING_SENDS = 40
_MOST = 0.5
"""A user who sends more than this share is everybody."""
_WITHIN_ANSWERS = 20
_SHARE = 0.7
_SLOWER = 1.5
_FASTER = 0.9
_CAREFULLY = 0.98
_NEAR = 1.3
"""Within this of an interval that was too short, it is shortened carefully."""
_QUIET_S = 60.0
_SHORTEST_S = 0.01
_LONGEST_S = 60.0
_FREE = 4.0
"""So many times as fast as where it began without being turned away: there is no limit."""


class Lane(msgspec.Struct):
    """One user who waits alone."""

    user: str
    interval_s: float
    first_interval_s: float
    opened_at: float
    evidence: int
    """The answer that opened it."""
    proved: bool
    """It is shown to be this user's limit; until then, somebody else may be turned away too."""
    too_short_s: float = 0.0
    """The interval at which the last request was turned away."""
    next_at: float = -math.inf
    """When the next request may leave."""
    until: float = -math.inf
    """The wait that the server named ends then."""
    cut_at: float = -math.inf
    throttled_at: float = -math.inf
    out: int = 0
    """Requests in flight."""

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next request may leave; infinite while one is out."""
        return math.inf if self.out else max(0.0, self.next_at - now, self.until - now)

    def depart(self, now: float) -> None:
        """Take in that a request leaves."""
        self.out += 1
        self.next_at = max(self.next_at, now - self.interval_s) + self.interval_s


class LaneOpened(msgspec.Struct, frozen=True):
    """A lane was shown to be needed."""

    user: str


class LaneEnded(msgspec.Struct, frozen=True):
    """A lane is no longer needed."""

    user: str


class Lanes:
    """The lanes of all users who have one, and the evidence for new ones."""

    def __init__(self, tell: Callable[[LaneOpened | LaneEnded], None], *, many_users: bool) -> None:
        """*tell* takes what comes of lanes. *many_users*: there are others, though none is seen."""
        self._many_users = many_users
        self.of: dict[str, Lane] = {}
        self._tell = tell
        self.on_end: Callable[[str], None] | None = None
        """Called with the user of each lane that ends."""
        self._sends: deque[tuple[str, float]] = deque(maxlen=_RECENT_SENDS)
        self._throttles: deque[tuple[str, int]] = deque(maxlen=_RECENT_THROTTLES)
        self.sent = self._sends.append
        """Take in that a request of a user leaves: (user, moment)."""

    def is_everybody(self, user: str) -> bool:
        """Tell whether what holds *user* holds nearly all there is to send."""
        sends = self._sends
        if not user or (self._many_users and len(sends) < _TELLING_SENDS):
            return not user
        return sum(sender == user for sender, _ in sends) > _MOST * len(sends)

    def others_too(self, user: str, *, answer: int) -> bool:
        """Note that *user* was turned away; tell whether somebody else was a moment ago."""
        throttles = self._throttles
        others = any(
            other != user and answer - number <= _WITHIN_ANSWERS for other, number in throttles
        )
        throttles.append((user, answer))
        return others

    def mostly(self, user: str) -> bool:
        """Tell whether most of those that were turned away lately are this user's."""
        return sum(other == user for other, _ in self._throttles) >= _OF_ONE

    def open(
        self, user: str, *, now: float, answer: int, wait_s: float | None, proved: bool
    ) -> Lane:
        """Return a new lane for *user*, shut for as long as the server said."""
        times = [moment for sender, moment in self._sends if sender == user]
        span_s = now - self._sends[0][1] if self._sends else 0.0
        interval_s = span_s / (_SHARE * len(times)) if times and span_s > 0 else _SHORTEST_S
        interval_s = min(max(interval_s, _SHORTEST_S), _LONGEST_S)
        lane = Lane(
            user=user,
            interval_s=interval_s,
            first_interval_s=interval_s,
            opened_at=now,
            evidence=answer,
            proved=proved,
            next_at=now + interval_s,
            until=now + (wait_s or 0.0),
            cut_at=now,
            throttled_at=now,
        )
        self.of[user] = lane
        if proved:
            self._tell(LaneOpened(user))
            kept = [entry for entry in self._throttles if entry[0] != user]
            self._throttles = deque(kept, maxlen=_RECENT_THROTTLES)
        return lane

    def throttled(self, lane: Lane, *, now: float, sent_at: float, wait_s: float | None) -> None:
        """Take in that a lane's request was turned away."""
        if wait_s:
            lane.until = max(lane.until, now + wait_s)
        if sent_at < lane.cut_at:
            return
        lane.cut_at = lane.throttled_at = now
        lane.too_short_s = lane.interval_s
        lane.interval_s = min(lane.interval_s * _SLOWER, _LONGEST_S)
        lane.next_at = now + lane.interval_s
        self.prove(lane)

    def answered(self, now: float, *, sent_at: float, user: str, answer: int) -> None:
        """Take in an answer that did not turn a request away."""
        lane = self.of.get(user)
        if lane is None:
            self._settle(answer)
        elif sent_at >= lane.cut_at:
            self._accepted(lane, now, answer)

    def _accepted(self, lane: Lane, now: float, answer: int) -> None:
        if not lane.proved and answer - lane.evidence <= _WITHIN_ANSWERS:
            # One wait, kept to, and all is well: there was nothing more to it.
            self._end(lane.user)
            return
        self.prove(lane)
        near = lane.interval_s < _NEAR * lane.too_short_s
        lane.interval_s *= _CAREFULLY if near else _FASTER
        free = lane.interval_s * _FREE <= lane.first_interval_s
        if free or now - lane.throttled_at >= _QUIET_S:
            self._end(lane.user)

    def prove(self, lane: Lane) -> None:
        """Take in that it is shown to be this user's own limit, or taken for that."""
        if not lane.proved:
            lane.proved = True
            self._tell(LaneOpened(lane.user))

    def _settle(self, answer: int) -> None:
        """Count those as proved since which nobody else was turned away for a while."""
        for lane in self.of.values():
            if not lane.proved and answer - lane.evidence > _WITHIN_ANSWERS:
                self.prove(lane)

    def merge(self, *, answer: int) -> float:
        """End the lanes of a moment ago, for it is everybody's limit; return their longest wait."""
        until = -math.inf
        for user, lane in list(self.of.items()):
            if not lane.proved and answer - lane.evidence <= _WITHIN_ANSWERS:
                until = max(until, lane.until)
                self._end(user)
        return until

    def _end(self, user: str) -> None:
        """Let *user* go on like everybody."""
        lane = self.of.pop(user)
        if lane.proved:
            self._tell(LaneEnded(user))
        if self.on_end is not None:
            self.on_end(user)
