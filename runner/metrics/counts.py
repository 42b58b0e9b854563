"""Counts what a run does not count by itself, and takes the rest from what it knows."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from runner.live import Live
from runner.log import stamp
from runner.model import Outcome, Verdict
from runner.results import Event, Session

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of requests; the last bucket has none."""

Latency: TypeAlias = tuple[tuple[int, ...], float]
"""Requests by bucket, and the sum of their seconds."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is doing at one moment."""

    rows: int
    left: int
    carried: int
    followed: int
    outcomes: dict[str, int]
    attempts: dict[tuple[str, str], int]
    """By method and verdict."""
    latency: dict[str, Latency]
    """By method."""
    in_flight: int
    in_flight_limit: int
    rate_per_s: float
    rate_ceiling_per_s: float | None
    waiting: frozenset[str]
    """Reasons why somebody waits now."""
    waited_s: dict[str, float]
    """Seconds that were waited so far, by reason."""
    resyncs: tuple[int, int | None] | None
    """How many are unfinished, and how many may be; None: they are not counted."""
    closing: bool


class Counts:
    """Counts requests and waits of one session; a witness. Belongs to one event loop."""

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        """*wall* gives seconds since the epoch."""
        self._wall = wall
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._session = Session(stamp(wall()))
        self._waited: dict[str, float] = {}

    def attempted(
        self,
        row: int | None,
        method: str,
        verdict: Verdict,
        status: int | None,
        *,
        began_s: float,
        ended_s: float,
    ) -> None:
        """Count one request."""
        self._attempts[method, verdict] += 1
        buckets = self._buckets.get(method)
        if buckets is None:
            buckets = self._buckets[method] = [0] * (len(BUCKETS_S) + 1)
        took_s = ended_s - began_s
        buckets[bisect_left(BUCKETS_S, took_s)] += 1
        self._seconds[method] += took_s

    def settled(self, outcome: Outcome) -> None:
        """Do nothing: the run itself counts its rows."""

    def told(self, event: str, fields: Mapping[str, Any]) -> None:
        """Take in when a wait begins and ends, as whoever adds the run up does."""
        self._session.note(
            Event(
                event,
                stamp(self._wall()),
                fields.get("reason", ""),
                fields.get("until"),
                fields.get("held_s", 0.0),
            )
        )

    def snapshot(self, live: Live) -> Snapshot:
        """Return what the run that *live* shows is doing now. Call it in the run's event loop."""
        tally = live.tally
        return Snapshot(
            rows=live.rows,
            left=live.rows - live.settled,
            carried=tally.carried,
            followed=tally.followed,
            outcomes=dict(tally.counts),
            attempts=dict(self._attempts),
            latency={
                method: (tuple(buckets), self._seconds[method])
                for method, buckets in self._buckets.items()
            },
            in_flight=live.in_flight,
            in_flight_limit=live.in_flight_limit,
            rate_per_s=live.rate_per_s,
            rate_ceiling_per_s=live.rate_ceiling_per_s,
            waiting=frozenset(wait.reason for wait in live.reasons()),
            waited_s=self.waits(),
            resyncs=live.resyncs,
            closing=live.closing,
        )

    def waits(self) -> dict[str, float]:
        """Return the seconds that were waited so far, by reason."""
        self._session.alive(stamp(self._wall()))
        for reason, seconds in self._session.waits.items():
            # That a wait is over is told a moment later; what was told before is not taken back.
            self._waited[reason] = max(seconds, self._waited.get(reason, 0.0))
        return dict(self._waited)
