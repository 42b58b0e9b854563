"""Reads what a server tells of its limits: the fields RateLimit-Policy and RateLimit.

They follow draft-ietf-httpapi-ratelimit-headers. What is malformed is ignored, as the
draft asks; what remains is never a permission, only a reason to be slower.
"""

from __future__ import annotations

from typing import Any

import http_sf
import msgspec

_LONGEST_S = 3600
"""A quota over more than an hour says how much may be done, not how fast."""
_BELOW = 0.99
_REQUESTS = "requests"
_IN_FLIGHT = "concurrent-requests"


class Policy(msgspec.Struct, frozen=True):
    """What RateLimit-Policy names; the lowest of all its policies."""

    rate_per_s: float | None = None
    in_flight: int | None = None


class Remaining(msgspec.Struct, frozen=True):
    """What RateLimit tells: no more than *requests* in the next *for_s* seconds."""

    requests: int
    for_s: float

    @property
    def rate_per_s(self) -> float:
        """The rate at which it lasts until it is renewed; of one request when there is none."""
        return max(self.requests, 1) / self.for_s


def policy(field: str) -> Policy:
    """Return what a RateLimit-Policy field says; nothing where it is malformed."""
    rates: list[float] = []
    in_flight: list[int] = []
    for told in _items(field):
        quota: Any = told.get("q")
        window: Any = told.get("w")
        unit = told.get("qu", _REQUESTS)
        if "pk" in told or not _is_count(quota) or quota < 1:
            continue
        if unit == _IN_FLIGHT:
            in_flight.append(quota)
        elif unit == _REQUESTS and _is_count(window) and 1 <= window <= _LONGEST_S:
            rates.append(_BELOW * quota / window)
    return Policy(min(rates, default=None), min(in_flight, default=None))


def remaining(field: str) -> Remaining | None:
    """Return the tightest of what a RateLimit field tells; None where it is malformed."""
    found = [
        Remaining(told["r"], float(told["t"]))
        for told in _items(field)
        if "pk" not in told
        and _is_count(told.get("r"))
        and _is_count(told.get("t"))
        and 1 <= told["t"] <= _LONGEST_S
    ]
    return min(found, key=lambda one: one.rate_per_s, default=None)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _items(field: str) -> list[dict[str, Any]]:
    """Return the parameters of each member of a list; none of it where it is malformed."""
    try:
        members: Any = http_sf.parse(field.encode("ascii"), tltype="list")
    except (ValueError, RecursionError):
        return []
    return [told for _, told in members if isinstance(told, dict)]
