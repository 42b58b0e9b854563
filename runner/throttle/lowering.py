"""How far a rate is lowered, by what was accepted lately. Pure: time is an argument."""

from __future__ import annotations

from typing import Final

from runner.throttle.meter import Meter
from runner.throttle.quotas import Closure

BELOW: Final = 0.97
"""To keep a little below a limit, it is kept to this share of it."""
SURE_AFTER_S: Final = 2.0
"""What was found sooner was measured over less than the second that a burst lasts."""

_SURE_AFTER_SENDS = 10
_LEAST_PER_S = 1.0
_AT_ONCE = 0.9
_MEASURED_S = 1.0
_LONGEST_MEASURED_S = 10.0
_CUT_MEASURED_S = 2.0
_CUT_MEASURED_SENDS = 20
_SEVERAL_WAITS_S = 5.0
_BEFORE_S = 20.0
_CLEARLY_ABOVE = 1.2


def just_now(meter: Meter, now: float) -> float:
    """Return what was accepted in the last moments."""
    return meter.per_s(now, _MEASURED_S)


def sure_after_s(rate: float) -> float:
    """Return for how long *rate* has to be kept to until what is found of it is sure."""
    return max(SURE_AFTER_S, _SURE_AFTER_SENDS / rate)


def at_start(meter: Meter, now: float, rate: float, rtt_s: float, *, with_waits_s: float) -> float:
    """Return the ceiling that is found when *rate*, which was doubled, is too much.

    *with_waits_s*: for so long there were waits in between, of which too few would tell little.
    """
    least_s = max(_MEASURED_S, min(with_waits_s, _SEVERAL_WAITS_S))
    span_s = max(least_s, 2 * rtt_s, min(_SURE_AFTER_SENDS / rate, _LONGEST_MEASURED_S))
    return min(max(meter.per_s(now, span_s), _LEAST_PER_S), BELOW * rate)


def below(meter: Meter, now: float, *, rate: float, since_s: float) -> float:
    """Return a ceiling below *rate*, which was kept to for *since_s*."""
    measured = meter.per_s(now, max(_CUT_MEASURED_S, _CUT_MEASURED_SENDS / rate))
    share = BELOW if since_s > SURE_AFTER_S else _AT_ONCE
    return min(share * rate, max(measured, rate / 2))


def last_good(meter: Meter, now: float, limit: float, *, survived: float) -> float:
    """Return the ceiling to go back to from above *limit*, where *survived* did no harm."""
    survived = survived or limit
    if survived > _CLEARLY_ABOVE * limit:
        return survived
    # A burst that the server allows makes a step look survived that was not.
    return min(survived, max(limit, meter.per_s(now, _BEFORE_S)))


def before(meter: Meter, now: float, closure: Closure) -> float:
    """Return what was accepted before *closure*, a little while at most."""
    span_s = min(max(closure.sending_s, 1.0), _BEFORE_S)
    return meter.per_s(now - closure.closed_s, span_s)
