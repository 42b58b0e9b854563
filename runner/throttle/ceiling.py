"""Learns how many requests a second the server takes.

A ceiling is found, approached from below, kept for a while, and probed again. It has
three modes:

* *start*: the rate doubles for as long as it is used and nobody is turned away;
* *keep*: a little below the ceiling that was found, a little closer with time;
* *probe*: up a percent at a time; once it is clear that the limit has moved, faster.

An answer that turns a request away counts only if that request was sent after the
last cut: old news does not cut twice. A few isolated ones are tolerated, for servers
have bad moments.
"""

from __future__ import annotations

import math

from runner.throttle.evidence import Evidence
from runner.throttle.keeping import Keeping
from runner.throttle.meter import Meter
from runner.throttle.quotas import Closure, Quotas, Series
from runner.throttle.values import Mode

LOWEST_PER_S = 1 / 60
HIGHEST_PER_S = 100_000.0
START_PER_S = 60.0

# Start.
_QUICK_EPOCH_S, _EPOCH_S = 0.04, 1.0
_QUICK_ANSWERS = 8
_QUICK_IN_FLIGHT = 16
_EPOCH_SENDS = 5
_SURE_AFTER_S = 2.0
"""What was found sooner was measured over less than the second that a burst lasts."""
_SURE_AFTER_SENDS = 10
_LEAST_PER_S = 1.0
_MOST_STARTS = 3
_TELLING_S = 5.0
_TELLING_CYCLE_S = 10.0

# Keep.
_BELOW = 0.97
_CLOSE_BELOW = 0.995
_APPROACH_S = 5.0
_APPROACH_SENDS = 150
_LOOK_S = 0.25
_CYCLES = 12
_WORTH = 20
"""A rate is kept at least so many times as long as its last probe has cost."""

# Probe.
_STEP_S = 2.0
_STEP_SENDS = 20
_STEP = 0.01
_FIRST_STEP = 0.04
_MOST_STEP_NEAR = 0.05
_MOST_STEP = 0.25
_MOVED = 1.03
_MOVED_FAR = 1.25
_USED = 0.85
"""A rate of which less was used says nothing about the server, and is not raised."""

# Cuts.
_AT_ONCE = 0.9
_MEASURED_S = 1.0
_LONGEST_MEASURED_S = 10.0
_CUT_MEASURED_S = 2.0
_CUT_MEASURED_SENDS = 20
_BEFORE_S = 20.0
_CLEARLY_ABOVE = 1.2
_BELOW_COSTLY = 0.95
_NEARLY_SAME = 0.03


class Ceiling:
    """The rate at which requests may leave, learned from answers. Pure: time is an argument."""

    def __init__(self, *, start_per_s: float = START_PER_S) -> None:
        self.rate_per_s = start_per_s
        """What the pacer is to keep to."""
        self.mode = Mode.START
        self.limit_per_s = math.inf
        """The ceiling, once one was found."""
        self.rtt_s = 0.0
        """Smoothed time to an answer."""
        self.accepted = 0
        """Answers, so far, that did not turn the request away."""
        self._meter = Meter()
        self._quotas, self._series = Quotas(), Series()
        self._evidence = Evidence()
        self._began_at: float | None = None
        self._starts = 0
        self._may_be_quick = self._is_quick = True
        self._best_per_s = 0.0
        self._survived_per_s = 0.0
        """The last rate that was used for a whole step without harm."""
        self._keeping, self._step = Keeping(), _STEP
        self._start_ended_at = self._cut_at = -math.inf
        self._was_cut = False
        """Since the server turned everybody away for the last time."""
        self._probed = False
        """Whether the first of those turned away was sent at more than the known ceiling."""
        # The epoch, or step, that is under way.
        self._since = self._look_at = math.inf
        self._sent = self._full = self._good = 0

    @property
    def known_per_s(self) -> float:
        """The rate that the server is known to take; 0 before it has taken anything."""
        return self.limit_per_s if self.limit_per_s < math.inf else self._best_per_s

    @property
    def doubted(self) -> bool:
        """Whether the last answer was one that turned a request away."""
        return self._evidence.in_a_row > 0

    @property
    def shuts(self) -> bool:
        """Whether so many in a row were turned away that asking on makes no sense."""
        return self._evidence.is_row

    def seconds(self, now: float) -> float:
        """Return for how long requests have been sent."""
        return 0.0 if self._began_at is None else now - self._began_at

    def departed(self, now: float) -> None:
        """Take in that a request leaves."""
        if self._began_at is None:
            self._began_at = now
            self._begin(now)
        self._sent += 1

    def was_full(self) -> None:
        """Take in that a request waits for a slot, not for the pace."""
        self._full += 1

    def accept(self, now: float, *, sent_at: float) -> None:
        """Take in an answer that does not turn the request away."""
        rtt_s = now - sent_at
        self.rtt_s += (rtt_s - self.rtt_s) / 8 if self.accepted else rtt_s
        self.accepted += 1
        self.passed(now)
        if sent_at >= self._since:
            self._good += 1
        if now >= self._look_at:
            self._look(now)

    def passed(self, now: float) -> None:
        """Take in an answer that came past all limits, though it is no good one."""
        self._evidence.passed()
        self._meter.note(now)

    def turned_away(self, now: float, *, sent_at: float) -> bool:
        """Take in an answer that turns the request away; tell whether the rate was cut."""
        evidence = self._evidence
        if sent_at < self._cut_at:
            evidence.ignore()
            return False
        evidence.turned_away()
        if self.mode is Mode.START:
            evidence.suspect()
            self._probed = False
            if evidence.ends_start:
                self._end_start(now)
                return True
            return False
        above = self.rate_per_s > self.limit_per_s
        if evidence.in_a_row == 1:
            self._probed = above
        few = evidence.is_few
        # Above the ceiling a second one soon after tells that it was no accident.
        if few and not evidence.is_row and not (evidence.suspect() and above):
            return False
        if above and few:
            self._cut(now, self._last_good(now))
            return True
        limit = self._lower(now)
        if not (few or above or evidence.is_row):
            blamed = evidence.is_in_vain(limit, now_per_s=self.limit_per_s)
            if blamed is not None:
                self.limit_per_s = blamed
                self._set(_BELOW * blamed)
                return False
        self._cut(now, limit)
        return True

    def pause(self) -> None:
        """Take in that everybody is turned away: until it is over, nothing is learned."""
        self._look_at = math.inf

    def reopened(self, now: float, closure: Closure, *, by_limit: bool) -> None:
        """Take in that the server takes requests again after having turned everybody away.

        *by_limit*: it spoke of a limit, not of itself.
        """
        self._evidence.in_a_row = 0
        average = self._series.average_per_s(closure) if by_limit else None
        if average is not None and average < self.rate_per_s:
            self._cut(now, average)
            return
        if closure.is_brief:
            if closure.cycle_s >= _TELLING_CYCLE_S and closure.average_per_s > self.limit_per_s:
                # What was taken over a whole cycle can be taken again.
                self.limit_per_s = closure.average_per_s
                self._keep(now)
            self._begin(now)
            return
        average = closure.average_per_s
        if self._quotas.recognise(closure, probed=self._probed):
            self._cut(now, average)
            self._keeping.extend(now, _CYCLES * closure.cycle_s)
        elif not self._was_cut:
            # So few were turned away, at a rate that was kept to before, that it proves nothing.
            self._begin(now)
        elif closure.sending_s < _TELLING_S and self._starts < _MOST_STARTS:
            self._cut(now, average)
            self._start_again(now)
        else:
            span_s = min(max(closure.sending_s, 1.0), _BEFORE_S)
            before = self._meter.per_s(now - closure.closed_s, span_s)
            limit = max(average, _BELOW_COSTLY * before)
            self._cut(now, limit)
            if abs(limit - self._keeping.kept_per_s) <= _NEARLY_SAME * limit:
                self._keeping.extend(now, _WORTH * closure.closed_s)
        self._was_cut = False

    def _begin(self, now: float) -> None:
        """Begin another epoch, or step."""
        self._since, self._sent, self._full, self._good = now, 0, 0, 0
        rtt_s, rate = self.rtt_s, self.rate_per_s
        if self.mode is Mode.START:
            # Quick only for as long as few would be under way when the first is turned away.
            self._is_quick = self._may_be_quick and rate * rtt_s < _QUICK_IN_FLIGHT
            least_s = _QUICK_EPOCH_S if self._is_quick else max(_EPOCH_S, _EPOCH_SENDS / rate)
            self._look_at = now + max(least_s, 2 * rtt_s)
        elif self.mode is Mode.KEEP:
            self._look_at = now + _LOOK_S
        else:
            self._look_at = now + max(_STEP_S, 4 * rtt_s, _STEP_SENDS / rate)

    def _look(self, now: float) -> None:
        is_calm = self._evidence.is_calm(starting=self.mode is Mode.START)
        if self.mode is Mode.START:
            if self._is_quick and self._good < _QUICK_ANSWERS:
                return
            self._best_per_s = max(self._best_per_s, self._meter.per_s(now, _MEASURED_S))
            if is_calm and self._was_used(now):
                self._set(2 * self.rate_per_s)
        elif self.mode is Mode.KEEP:
            self._approach(now)
        elif is_calm and self._was_used(now):
            self._climb()
        self._begin(now)

    def _was_used(self, now: float) -> bool:
        span_s = now - self._since
        return self._sent >= _USED * self.rate_per_s * span_s and 2 * self._full < self._sent

    def _approach(self, now: float) -> None:
        limit = self.limit_per_s
        share = min(1.0, (now - self._cut_at) / max(_APPROACH_S, _APPROACH_SENDS / limit))
        self._set(limit * (_BELOW + (_CLOSE_BELOW - _BELOW) * share))
        is_first = not self._keeping.kept_per_s
        if self._keeping.ends(now, limit):
            self.mode = Mode.PROBE
            self._evidence.kept()
            # What was found at the start may be far off.
            self._step = _FIRST_STEP if is_first else _STEP

    def _climb(self) -> None:
        rate, limit = self.rate_per_s, self.limit_per_s
        self._survived_per_s = rate
        if rate > _MOVED * limit:
            most = _MOST_STEP if rate > _MOVED_FAR * limit else _MOST_STEP_NEAR
            self._step = min(2 * self._step, most)
        self._set(rate * (1 + self._step))

    def _end_start(self, now: float) -> None:
        rate, began = self.rate_per_s, now - self.seconds(now)
        sure_after_s = max(_SURE_AFTER_S, _SURE_AFTER_SENDS / rate)
        early = now - max(began, self._cut_at) < sure_after_s
        span_s = max(
            _MEASURED_S, 2 * self.rtt_s, min(_SURE_AFTER_SENDS / rate, _LONGEST_MEASURED_S)
        )
        self._survived_per_s = 0.0
        self._may_be_quick = False
        self._start_ended_at = now
        self._cut(now, min(max(self._meter.per_s(now, span_s), _LEAST_PER_S), _BELOW * rate))
        if early and self._starts < _MOST_STARTS:
            # Too short to tell: once more from there, in longer epochs.
            self._start_again(now)

    def _start_again(self, now: float) -> None:
        self._starts += 1
        self._may_be_quick = False
        self.mode = Mode.START
        self._begin(now)

    def _last_good(self, now: float) -> float:
        """Return the ceiling to go back to from above it."""
        old, survived = self.limit_per_s, self._survived_per_s or self.limit_per_s
        if survived > _CLEARLY_ABOVE * old:
            return survived
        # A burst that the server allows makes a step look survived that was not.
        return min(survived, max(old, self._meter.per_s(now, _BEFORE_S)))

    def _lower(self, now: float) -> float:
        """Return a ceiling below the one that was kept to."""
        rate = self.rate_per_s
        measured = self._meter.per_s(now, max(_CUT_MEASURED_S, _CUT_MEASURED_SENDS / rate))
        share = _BELOW if now - self._cut_at > _SURE_AFTER_S else _AT_ONCE
        return min(share * rate, max(measured, rate / 2))

    def _cut(self, now: float, limit_per_s: float) -> None:
        self.limit_per_s = min(max(limit_per_s, LOWEST_PER_S), HIGHEST_PER_S)
        self.mode = Mode.KEEP
        self._was_cut = True
        self._cut_at = now
        self._evidence.cut()
        self._set(_BELOW * self.limit_per_s)
        self._keep(now)
        self._begin(now)

    def _keep(self, now: float) -> None:
        early = now - self._start_ended_at <= _SURE_AFTER_S
        self._keeping.begin(now, self.limit_per_s, rtt_s=self.rtt_s, early=early)

    def _set(self, rate_per_s: float) -> None:
        self.rate_per_s = min(max(rate_per_s, LOWEST_PER_S), HIGHEST_PER_S)
