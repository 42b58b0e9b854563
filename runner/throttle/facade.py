"""The throttle as a whole: pace, requests in flight, gate, lanes and holds put together."""

from __future__ import annotations

import math
from collections.abc import Callable

from runner.throttle.careful import Careful
from runner.throttle.ceiling import LOWEST_PER_S, START_PER_S, Ceiling
from runner.throttle.gate import Gate
from runner.throttle.holds import OUTAGE, THROTTLED, Hold, Holds
from runner.throttle.inflight import FIRST, InFlight
from runner.throttle.lanes import Lane, LaneEnded, LaneOpened, Lanes
from runner.throttle.pacer import Pacer
from runner.throttle.told import Told
from runner.throttle.values import Charge, Learned, Mode, Narrowed

_HEAD_START = 3
"""So many requests may leave before the pace counts; a browser does more."""
_HEAD_START_S = 1.0
_START_SHARE = 0.5
_CLEARLY = 0.8
"""To this share of what it was a rate, or a limit, has to fall to be news."""
_LOST_PROBE = "the request that was to see whether it is over got no answer"

_TOLERATED = Charge()
_EVERYBODY = Charge(everybody=True)


class Throttle:
    """When the next request may leave. Times are seconds on any one steady clock."""

    def __init__(
        self,
        *,
        ceiling: int,
        rate_per_s: float | None = None,
        chance: Callable[[], float],
        start: Learned | None = None,
        many_users: bool = False,
        pacer: Pacer | None = None,
    ) -> None:
        """*ceiling* in flight and *rate_per_s* are never exceeded, whatever is learned.

        *chance* gives numbers from 0 to 1; it spreads the waits that we choose ourselves.
        *start* is what an earlier run has learned: half of it is where this one begins.
        *many_users*: requests of several users are to come. *pacer*: in place of the usual one.
        """
        rate, first = START_PER_S, FIRST
        if start is not None:
            least = LOWEST_PER_S if start.is_limit else START_PER_S
            rate = max(_START_SHARE * start.rate_per_s, least)
            first = max(FIRST, math.ceil(_START_SHARE * start.in_flight))
        self.in_flight = 0
        self.news: list[Narrowed | LaneOpened | LaneEnded] = []
        """What has happened since somebody looked; whoever tells of it takes it out."""
        self.lanes = Lanes(self.news.append, many_users=many_users)
        self.slow = self.lanes.of
        """Users who have a lane."""
        self.rate_ceiling_per_s = rate_per_s
        """The requests a second that are never exceeded, whatever is learned; None: any number."""
        limited = rate_per_s is not None or (start is not None and start.is_limit)
        self._head_start = 0 if limited else _HEAD_START
        self._rate = Ceiling(start_per_s=rate)
        self._room = InFlight(ceiling=ceiling, first=first)
        self._gate = Gate(chance=chance)
        self._holds = Holds()
        self._careful = Careful()
        self._told = Told()
        self._is_limit = True
        """Whether the gate was shut by an answer about a limit, not about the server itself."""
        self.pacer = pacer or Pacer(rate)
        self._answers = 0
        self._limit = 1
        self._widest_per_s, self._widest = 0.0, 0
        """The most that was let through since it was told of last."""
        self._apply()

    # What there is to know.

    @property
    def ceiling(self) -> int:
        """The most that may ever be in flight."""
        return self._room.ceiling

    @property
    def in_flight_limit(self) -> int:
        """The most that may be in flight now."""
        return self._limit

    @property
    def rate_per_s(self) -> float:
        """The requests a second that may leave now."""
        return self.pacer.rate_per_s

    def learned(self) -> Learned | None:
        """Return what is known of the server by now; None before it has taken much."""
        rate = self._rate
        known = rate.known_per_s
        is_limit = rate.limit_per_s < math.inf
        return Learned(round(known, 3), self._room.learned, is_limit) if known else None

    def set_ceilings(
        self, *, rate_per_s: float | None = None, in_flight: int | None = None
    ) -> None:
        """Replace the ceilings that are given, from now on."""
        if rate_per_s is not None:
            self.rate_ceiling_per_s = rate_per_s
        if in_flight is not None:
            self._room.set_ceiling(in_flight)
        self._apply()

    # Asking to leave.

    def take(self, now: float, *, user: str = "", probe: bool = False) -> float:
        """Ask to let one request of *user* leave.

        0.0: it leaves, and its slot is taken until `give_back`. A positive
        number: ask again after so many seconds. Infinite: ask again when a
        slot has come back or a hold was lifted. A *probe* passes an outage
        and a lane, and nothing else.
        """
        if self._holds:
            wait = self._holds.left_s(now, probe=probe)
            if wait > 0:
                return wait
        gate = self._gate
        if gate.is_shut and (wait := gate.wait_s(now)) > 0:
            return wait
        lane = None
        if self.lanes.of and not probe:
            lane = self.lanes.of.get(user)
            if lane is not None and (wait := lane.wait_s(now)) > 0:
                return wait
        if self.in_flight >= self._limit or (
            self._careful.is_on and self.in_flight >= self._careful.limit(now, self._limit)
        ):
            self._rate.was_full()
            return math.inf
        if now >= self._told.until:
            self._told.forget()
            self._apply()
        wait = self.pacer.wait_s(now)
        if wait > 0:
            if not self._head_start or self._rate.seconds(now) > _HEAD_START_S:
                return wait
            self._head_start -= 1
        self.pacer.depart(now)
        self._rate.departed(now)
        self.in_flight += 1
        if lane is not None:
            lane.depart(now)
        else:
            self.lanes.sent((user, now))
        gate.departed(now)
        return 0.0

    def give_back(self, lane: Lane | None = None) -> None:
        """Return the slot of a request that has ended, and its place in *lane*."""
        self.in_flight -= 1
        if lane is not None:
            lane.out -= 1
        if not self.in_flight:
            self._gate.nobody_is_out()

    # What comes back.

    def answered(
        self,
        now: float,
        *,
        sent_at: float,
        user: str = "",
        in_flight: int = 1,
        policy: str | None = None,
        remaining: str | None = None,
    ) -> None:
        """Take in an answer that did not turn the request away.

        *in_flight* counts the requests that were under way when it left, itself included;
        *policy* and *remaining* are its RateLimit-Policy and RateLimit fields.
        """
        self._answers += 1
        rate = self._rate
        before = rate.rate_per_s
        if self._careful.is_on:
            self._careful.answered(sent_at=sent_at)
        rate.accept(now, sent_at=sent_at)
        changed = self._room.accept(now, elapsed_s=now - sent_at, in_flight=in_flight)
        gate = self._gate
        if gate.is_shut and sent_at >= gate.until:
            closure = gate.open(now, accepted=rate.accepted)
            rate.reopened(now, closure, by_limit=self._is_limit)
        if self.lanes.of:
            self.lanes.answered(now, sent_at=sent_at, user=user, answer=self._answers)
        if policy is not None or remaining is not None:
            changed |= self._told.heed(
                now, policy=policy, remaining=remaining, rate_per_s=rate.rate_per_s
            )
        if changed or rate.rate_per_s != before:
            self._apply()

    def throttled(
        self,
        now: float,
        *,
        sent_at: float,
        user: str = "",
        in_flight: int = 1,
        wait_s: float | None = None,
        everybody: bool = False,
        detail: str = "",
    ) -> Charge:
        """Take in that the server turned a request away; say who waits for it.

        *wait_s* is the wait that the server named; 0 names none. *everybody*: it spoke of
        itself, not of the user.
        """
        self._answers += 1
        lanes = self.lanes
        lane = lanes.of.get(user)
        if lane is None or everybody or not lane.proved:
            others = lanes.others_too(user, answer=self._answers)
            alone = not everybody and not lanes.is_everybody(user)
            if lane is None and alone and (lanes.mostly(user) or (wait_s and not others)):
                proved = lanes.mostly(user)
                if not proved and not self._gate.is_shut:
                    # Until it is proved to be this user's limit it may as well be everybody's.
                    self._teach(now, sent_at=sent_at, in_flight=in_flight, detail=detail)
                lane = lanes.open(user, now=now, answer=self._answers, wait_s=wait_s, proved=proved)
                return Charge(lane=lane)
            if lane is None or not alone or others:
                self._is_limit = not everybody
                return self._charge_all(now, sent_at, in_flight, wait_s, detail)
        lanes.throttled(lane, now=now, sent_at=sent_at, wait_s=wait_s)
        return Charge(lane=lane)

    def failed(self, now: float, *, sent_at: float) -> None:
        """Take in an answer that says nothing about limits, because the server broke."""
        self._rate.passed(now)
        self._ask_again(now, sent_at)

    def lost(self, now: float, *, sent_at: float) -> None:
        """Take in a request without an answer: fewer may be in flight until a later one has one.

        Otherwise a server that goes away would be sent all that waits before anybody could know.
        """
        self._careful.lost(now)
        self._ask_again(now, sent_at)

    # Holds.

    def held_by_others(self, now: float, *, wait_s: float, detail: str) -> None:
        """Take in that somebody else was told to wait: we do so too, then one finds out."""
        if not self._gate.is_shut or self._gate.until < now + wait_s:
            self._shut(now, wait_s, detail)

    def hold(self, reason: str, *, now: float, until: float, detail: str) -> None:
        """Hold everybody for *reason* until it is lifted; at *until* it is looked at again."""
        self._holds.put(reason, now=now, until=until, detail=detail, stays=True)

    def lift(self, reason: str, *, now: float) -> None:
        """End the hold for *reason*. After an outage the limit in flight is climbed in steps."""
        if self._holds.lift(reason) and reason == OUTAGE:
            self._careful.is_back(now)

    def is_held(self, now: float) -> bool:
        """Tell whether nobody moves at *now*."""
        return bool(self._holds) and bool(self.holds(now))

    def holds(self, now: float) -> tuple[Hold, ...]:
        """Return every reason for which nobody moves at *now*."""
        return self._holds.active(now)

    def _ask_again(self, now: float, sent_at: float) -> None:
        if self._gate.is_shut and sent_at >= self._gate.until:
            self._shut(now, None, _LOST_PROBE)

    def _charge_all(
        self, now: float, sent_at: float, in_flight: int, wait_s: float | None, detail: str
    ) -> Charge:
        gate = self._gate
        if not gate.is_shut or (self._rate.mode is Mode.START and sent_at < gate.shut_at):
            # Whoever asks while it is shut has to, and teaches nothing.
            self._teach(
                now, sent_at=sent_at, in_flight=in_flight, detail=detail, shuts=bool(wait_s)
            )
        if wait_s:
            until = max(now + wait_s, self.lanes.merge(answer=self._answers))
            return self._shut(now, until - now, detail)
        if gate.is_shut:
            return self._shut(now, None, detail) if sent_at >= gate.until else _EVERYBODY
        return self._shut(now, None, detail) if self._rate.shuts else _TOLERATED

    def _shut(self, now: float, wait_s: float | None, detail: str) -> Charge:
        self._gate.shut(now, wait_s=wait_s)
        self._rate.pause()
        until = self._gate.until
        if not self._holds.put(THROTTLED, now=now, until=until, detail=detail, stays=False):
            return _EVERYBODY
        (hold,) = (hold for hold in self._holds.active(now) if hold.reason == THROTTLED)
        return Charge(everybody=True, hold=hold)

    def _teach(
        self, now: float, *, sent_at: float, in_flight: int, detail: str, shuts: bool = False
    ) -> None:
        # While the rate still doubles, whatever is too much comes with many in flight.
        steady = self._rate.mode is not Mode.START
        full = steady and self._room.turned_away(now, in_flight=in_flight)
        if full and not self._rate.doubted:
            self._narrow(detail)
        elif self._rate.turned_away(now, sent_at=sent_at, shuts=shuts):
            self._head_start = 0
            self._narrow(detail)

    def _narrow(self, why: str) -> None:
        self._apply()
        rate, limit = self.pacer.rate_per_s, self._limit
        if rate < _CLEARLY * self._widest_per_s or limit < _CLEARLY * self._widest:
            self._widest_per_s, self._widest = rate, limit
            self.news.append(Narrowed(rate, limit, why))

    def _apply(self) -> None:
        """Have pace and limit follow what was learned, told and asked for."""
        rate = min(self._rate.rate_per_s, self._told.rate_per_s)
        ceiling = self.rate_ceiling_per_s or math.inf
        self.pacer.set(min(rate, ceiling), strictly=ceiling <= rate)
        self._limit = int(min(self._room.limit, self._told.in_flight))
        self._widest_per_s = max(self._widest_per_s, self.pacer.rate_per_s)
        self._widest = max(self._widest, self._limit)
