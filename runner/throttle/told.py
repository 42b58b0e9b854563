"""What the server told of its limits, for as long as that holds. Never a permission."""

from __future__ import annotations

import math

from runner.throttle import fields


class Told:
    """The lowest of what is told. Times are seconds on any one steady clock."""

    def __init__(self) -> None:
        self._field: str | None = None
        self._policy = fields.Policy()
        self._clamp_per_s = math.inf
        self.until = math.inf
        """When to `forget`; infinite while there is nothing that ends."""

    @property
    def rate_per_s(self) -> float:
        """No more requests a second than this; infinite when nothing was told."""
        return min(self._policy.rate_per_s or math.inf, self._clamp_per_s)

    @property
    def in_flight(self) -> float:
        """No more requests in flight than this; infinite when nothing was told."""
        return self._policy.in_flight or math.inf

    def heed(
        self, now: float, *, policy: str | None, remaining: str | None, rate_per_s: float
    ) -> bool:
        """Take in the fields of one answer; tell whether they change anything at *rate_per_s*."""
        changed = False
        if policy is not None and policy != self._field:
            self._field, self._policy = policy, fields.policy(policy)
            changed = True
        left = fields.remaining(remaining) if remaining is not None else None
        if left is not None and left.rate_per_s < rate_per_s:
            self._clamp_per_s, self.until = left.rate_per_s, now + left.for_s
            changed = True
        return changed

    def forget(self) -> None:
        """Take in that the time for which something was told is over."""
        self._clamp_per_s = self.until = math.inf
