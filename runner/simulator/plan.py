"""Which request meets which fault, and when its answer leaves.

A planned fault depends on the seed, the method, the sync and how often that method
was called on that sync; never on the clock or on what other requests do. The same
seed therefore spoils the same requests however fast and in whatever order they come.
Rate limits and outages do depend on the clock; a request they turn away is not counted.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable

from runner.simulator.chance import chance
from runner.simulator.faults import PATCH_ONLY, Fault, Faults

_NORMAL = statistics.NormalDist()


class FaultPlan:
    """Says what the next request to a sync meets, and how long its answer takes."""

    def __init__(self, *, faults: Faults, seed: int) -> None:
        self._seed = seed
        self._attempts: dict[tuple[str, str], int] = {}
        self._met: dict[tuple[str, str], int] = {}
        self._scripts: dict[tuple[str, str], deque[Fault | None]] = {}
        self.use(faults)

    def use(self, faults: Faults) -> None:
        """Go by *faults* from now on. What was counted and scripted is kept."""
        self._faults = faults
        shares = [(getattr(faults, fault.value), fault) for fault in Fault]
        edges = itertools.accumulate(share for share, _ in shares)
        self._table = tuple(
            (edge, fault) for edge, (share, fault) in zip(edges, shares, strict=True) if share > 0.0
        )
        self._quiet = not (self._table or faults.poison or faults.latency_s)

    def script(self, *, method: str, sync_id: str, faults: Iterable[Fault | None]) -> None:
        """Let the next requests meet *faults*, in that order; None: the right answer.

        Raises ValueError for a fault that *method* cannot meet.
        """
        faults = tuple(faults)
        wrong = PATCH_ONLY.intersection(faults)
        if wrong and method != "PATCH":
            raise ValueError(f"{', '.join(sorted(wrong))} can be scripted for PATCH only")
        if not faults:
            return
        self._scripts.setdefault((method, sync_id), deque()).extend(faults)

    def pick(self, *, method: str, sync_id: str) -> tuple[Fault | None, float]:
        """Return what this request meets, and the seconds until its answer.

        A script goes before poison, and poison before chance. Every call counts as
        one more request of *method* to *sync_id*.
        """
        if self._quiet and not self._scripts:
            return None, 0.0
        key = (method, sync_id)
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        fault = self._fault(key, attempt)
        delay_s = self._latency_s(key, attempt)
        if fault is Fault.SLOW:
            delay_s += self._faults.slow_s
        return fault, delay_s

    def _fault(self, key: tuple[str, str], attempt: int) -> Fault | None:
        if key in self._scripts:
            script = self._scripts[key]
            fault = script.popleft()
            if not script:
                del self._scripts[key]
            return fault
        method, sync_id = key
        if sync_id in self._faults.poison:
            return Fault.HTTP_500
        if not self._table or self._spared(key):
            return None
        drawn = chance(self._seed, "fault", method, sync_id, attempt)
        fault = next((fault for edge, fault in self._table if drawn < edge), None)
        if fault is None or (fault in PATCH_ONLY and method != "PATCH"):
            return None
        self._met[key] = self._met.get(key, 0) + 1
        return fault

    def _spared(self, key: tuple[str, str]) -> bool:
        most, rows = self._faults.faults_per_row, self._faults.rows
        if most is not None and self._met.get(key, 0) >= most:
            return True
        return rows < 1.0 and chance(self._seed, "row", key[1]) >= rows

    def _latency_s(self, key: tuple[str, str], attempt: int) -> float:
        median_s, sigma = self._faults.latency_s, self._faults.latency_jitter
        if not median_s or not sigma:
            return median_s
        # The distribution is open at 0; half a step keeps out of its pole.
        drawn = chance(self._seed, "latency", *key, attempt) + 2.0**-54
        return median_s * math.exp(sigma * _NORMAL.inv_cdf(drawn))
