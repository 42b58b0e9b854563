"""When the service says that it is too much: token buckets and outages."""

from __future__ import annotations

import math

from runner.simulator.faults import Faults, OutageKind


class Bucket:
    """A token bucket that starts full."""

    __slots__ = ("_at_s", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, *, rate_per_s: float, burst: int, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until a token is there; 0.0 when one is."""
        gained = (now_s - self._at_s) * self._rate_per_s
        self._tokens = min(self._burst, self._tokens + gained)
        self._at_s = now_s
        # A wait rounded to floats may end a hair short of a whole token.
        return max(0.0, (1.0 - 1e-9 - self._tokens) / self._rate_per_s)

    def fields(self, now_s: float) -> dict[str, str]:
        """Return what draft-ietf-httpapi-ratelimit-headers tells of such a bucket."""
        self.wait_s(now_s)
        full_in_s = math.ceil((self._burst - self._tokens) / self._rate_per_s)
        fill_s = math.ceil(self._burst / self._rate_per_s)
        return {
            "RateLimit-Policy": f'"all";q={int(self._rate_per_s * fill_s)};w={fill_s}',
            "RateLimit": f'"all";r={int(self._tokens)};t={max(full_in_s, 1)}',
        }

    def take(self) -> None:
        """Take the token that `wait_s` found."""
        self._tokens -= 1.0


class Limits:
    """The rate limits and planned outages of one set of faults.

    Outages count from *started_s*; the buckets are full at *now_s*.
    """

    def __init__(self, *, faults: Faults, started_s: float, now_s: float) -> None:
        self._faults = faults
        self._started_s = started_s
        self._of_user: dict[str, Bucket] = {}
        self._all = (
            Bucket(rate_per_s=faults.limit_per_s, burst=faults.burst, now_s=now_s)
            if faults.limit_per_s
            else None
        )

    def outage(self, now_s: float) -> OutageKind | None:
        """Return how the service is down at *now_s*, if it is."""
        for outage in self._faults.outages:
            begins_s = self._started_s + outage.start_s
            if begins_s <= now_s < begins_s + outage.duration_s:
                return outage.kind
        return None

    def fields(self, now_s: float) -> dict[str, str]:
        """Return the fields that tell of everybody's limit, where the faults say so."""
        if self._all is None or not self._faults.tells_limit:
            return {}
        return self._all.fields(now_s)

    def wait_s(self, *, user: str, now_s: float) -> float:
        """Take a token for one request of *user*; return 0.0, or the wait if there is none.

        A request that one bucket turns away costs nothing in the other.
        """
        buckets = [bucket for bucket in (self._all, self._bucket_of(user, now_s)) if bucket]
        wait_s = max((bucket.wait_s(now_s) for bucket in buckets), default=0.0)
        if not wait_s:
            for bucket in buckets:
                bucket.take()
        return wait_s

    def _bucket_of(self, user: str, now_s: float) -> Bucket | None:
        rate_per_s = self._faults.user_limit_per_s
        if not rate_per_s:
            return None
        if user not in self._of_user:
            self._of_user[user] = Bucket(
                rate_per_s=rate_per_s, burst=self._faults.user_burst, now_s=now_s
            )
        return self._of_user[user]
