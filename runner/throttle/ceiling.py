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

from runner.throttle import lowering
from runner.throttle.chance import Chance
from runner.throttle.epoch import Epoch
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
_MOST_STARTS = 3
_TELLING_S = 5.0
_TELLING_CYCLE_S = 10.0

# Keep.
_BELOW = lowering.BELOW
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

# Cuts.
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
        self._evidence, self._chance = Evidence(), Chance()
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
        self._epoch = Epoch()
        """Or step."""
        self.was_full = self._epoch.was_full

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
        self._epoch.departed()

    def accept(self, now: float, *, sent_at: float) -> None:
        """Take in an answer that does not turn the request away."""
        rtt_s = now - sent_at
        self.rtt_s += (rtt_s - self.rtt_s) / 8 if self.accepted else rtt_s
        self.accepted += 1
        self.passed(now)
        self._epoch.accept(sent_at=sent_at)
        if now >= self._epoch.look_at:
            self._look(now)

    def passed(self, now: float) -> None:
        """Take in an answer that came past all limits, though it is no good one."""
        self._evidence.passed()
        self._meter.note(now)
        self._weigh(now, away=False)

    def turned_away(self, now: float, *, sent_at: float, shuts: bool = False) -> bool:
        """Take in an answer that turns the request away; tell whether the rate was cut.

        *shuts*: everybody is, for a time that was named; what is taken after it tells more.
        """
        evidence = self._evidence
        if sent_at < self._cut_at:
            evidence.ignore()
            return False
        evidence.turned_away()
        if self._weigh(now, away=True):
            return False
        if self.mode is Mode.START:
            evidence.suspect()
            self._probed = False
            if evidence.ends_start:
                self._end_start(now, shuts=shuts)
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
            limit, survived = self.limit_per_s, self._survived_per_s
            self._cut(now, lowering.last_good(self._meter, now, limit, survived=survived))
            return True
        if shuts and not above:
            return False
        limit = lowering.below(self._meter, now, rate=self.rate_per_s, since_s=now - self._cut_at)
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
        self._epoch.look_at = math.inf

    def reopened(self, now: float, closure: Closure, *, by_limit: bool) -> None:
        """Take in that the server takes requests again after having turned everybody away.

        *by_limit*: it spoke of a limit, not of itself.
        """
        self._evidence.in_a_row = 0
        if self._chance.share and not self._was_cut:
            self._begin(now)  # it is the server's way
            return
        average = self._series.average_per_s(closure) if by_limit else None
        if average is not None and average < self.rate_per_s:
            self._cut(now, average, taken_per_s=average)
            return
        if closure.is_thin:  # several in a row would have told
            self._was_cut = False
            self._begin(now)
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
            self._cut(now, average, taken_per_s=average)
            self._keeping.extend(now, _CYCLES * closure.cycle_s)
        elif not self._was_cut:
            # So few were turned away, at a rate that was kept to before, that it proves nothing.
            self._begin(now)
        elif closure.sending_s < _TELLING_S and self._starts < _MOST_STARTS:
            self._cut(now, average, taken_per_s=average)
            self._start_again(now)
        else:
            before = lowering.before(self._meter, now, closure)
            limit = max(average, _BELOW_COSTLY * before)
            self._cut(now, limit, taken_per_s=average)
            if abs(limit - self._keeping.kept_per_s) <= _NEARLY_SAME * limit:
                self._keeping.extend(now, _WORTH * closure.closed_s)
        self._was_cut = False

    def _begin(self, now: float) -> None:
        """Begin another epoch, or step."""
        rtt_s, rate = self.rtt_s, self.rate_per_s
        if self.mode is Mode.START:
            # Quick only for as long as few would be under way when the first is turned away.
            self._is_quick = self._may_be_quick and rate * rtt_s < _QUICK_IN_FLIGHT
            least_s = _QUICK_EPOCH_S if self._is_quick else max(_EPOCH_S, _EPOCH_SENDS / rate)
            seconds = max(least_s, 2 * rtt_s)
        elif self.mode is Mode.KEEP:
            seconds = _LOOK_S
        else:
            seconds = max(_STEP_S, 4 * rtt_s, _STEP_SENDS / rate)
        self._epoch.begin(now, seconds)

    def _look(self, now: float) -> None:
        is_calm = self._evidence.is_calm(starting=self.mode is Mode.START)
        if self.mode is Mode.START:
            if self._is_quick and self._epoch.good < _QUICK_ANSWERS:
                return
            self._best_per_s = max(self._best_per_s, lowering.just_now(self._meter, now))
            if is_calm and self._epoch.used(now, self.rate_per_s):
                self._set(2 * self.rate_per_s)
                self._chance.restart()
        elif self.mode is Mode.KEEP:
            self._approach(now)
        elif is_calm and self._epoch.used(now, self.rate_per_s):
            self._climb()
        self._begin(now)

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

    def _end_start(self, now: float, *, shuts: bool) -> None:
        began, sure_after_s = now - self.seconds(now), lowering.sure_after_s(self.rate_per_s)
        early = now - max(began, self._cut_at) < sure_after_s
        self._survived_per_s = 0.0
        self._may_be_quick = False
        self._start_ended_at = now
        waits_s, rate = now - began if shuts else 0.0, self.rate_per_s
        limit = lowering.at_start(self._meter, now, rate, self.rtt_s, with_waits_s=waits_s)
        self._cut(now, limit, taken_per_s=limit if shuts else None)
        if early and self._starts < _MOST_STARTS:
            # Too short to tell: once more from there, in longer epochs.
            self._start_again(now)

    def _start_again(self, now: float) -> None:
        self._starts += 1
        self._may_be_quick = False
        self.mode = Mode.START
        self._begin(now)

    def _weigh(self, now: float, *, away: bool) -> bool:
        """Take in an answer at a rate that was kept to; tell whether a blamed one was cleared."""
        if self.mode is Mode.PROBE and not self._chance.allows(self.rate_per_s):
            return False
        self._chance.answered(now, away=away, rate_per_s=self.rate_per_s)
        blamed = self._chance.explains(self.rate_per_s) if away else None
        self._evidence.by_chance(self._chance.share)
        if blamed is None:
            return False
        self._evidence.cut()
        self.limit_per_s = math.inf
        self._was_cut = False
        self._set(blamed)
        self._start_again(now)
        return True

    def _cut(self, now: float, limit_per_s: float, *, taken_per_s: float | None = None) -> None:
        if self.mode is Mode.START and taken_per_s is None:
            self._chance.restart()
        elif self.mode is not Mode.PROBE:
            self._chance.cut(now, rate_per_s=self.rate_per_s, taken_per_s=taken_per_s)
        self.limit_per_s = min(max(limit_per_s, LOWEST_PER_S), HIGHEST_PER_S)
        self.mode = Mode.KEEP
        self._was_cut = True
        self._cut_at = now
        self._evidence.cut()
        self._set(_BELOW * self.limit_per_s)
        self._keep(now)
        self._begin(now)

    def _keep(self, now: float) -> None:
        early = now - self._start_ended_at <= lowering.SURE_AFTER_S
        self._keeping.begin(now, self.limit_per_s, rtt_s=self.rtt_s, early=early)

    def _set(self, rate_per_s: float) -> None:
        self.rate_per_s = min(max(rate_per_s, LOWEST_PER_S), HIGHEST_PER_S)
