"""What the throttle says: what it is at, what it has learned, that it became slower, who waits."""

from __future__ import annotations

import enum

import msgspec

from runner.throttle.holds import Hold
from runner.throttle.lanes import Lane


class Mode(enum.Enum):
    """What the ceiling is at."""

    START = enum.auto()
    KEEP = enum.auto()
    PROBE = enum.auto()


class Learned(msgspec.Struct, frozen=True):
    """What a run has learned of a server: where the next one begins, never a permission."""

    rate_per_s: float
    """Requests a second that the server is known to take."""
    in_flight: int
    """Requests in flight at which it was about as fast as with few."""
    is_limit: bool = True
    """Whether it took no more; else nobody has tried."""


class Narrowed(msgspec.Struct, frozen=True):
    """The throttle has become slower."""

    rate_per_s: float
    in_flight: int
    why: str


class Charge(msgspec.Struct, frozen=True):
    """Who waits because a request was turned away."""

    everybody: bool = False
    hold: Hold | None = None
    """Everybody, and that is news."""
    lane: Lane | None = None
    """The requests of one user."""

    @property
    def row_alone(self) -> bool:
        """Whether it is tolerated: the row that met it tries again later, nobody else waits."""
        return not self.everybody and self.lane is None
