"""Decides when the next request may leave. Never sends one, never sleeps, has no clock.

One throttle serves first tries, retries and reads alike. It learns from every answer how
many requests a second the server takes and how many in flight (see `ceiling` and
`inflight`), holds everybody when the server asks for it (`gate`), or one user where it is
that user's limit (`lanes`); whatever is learned or told never lets more through than the
ceilings that were given.
"""

from runner.throttle.facade import Throttle
from runner.throttle.holds import OUTAGE, THROTTLED, Hold
from runner.throttle.lanes import LANE, Lane, LaneEnded, LaneOpened
from runner.throttle.leased import LeasedPacer
from runner.throttle.pacer import Pacer
from runner.throttle.values import Charge, Learned, Narrowed

__all__ = [
    "LANE",
    "OUTAGE",
    "THROTTLED",
    "Charge",
    "Hold",
    "Lane",
    "LaneEnded",
    "LaneOpened",
    "Learned",
    "LeasedPacer",
    "Narrowed",
    "Pacer",
    "Throttle",
]
