"""The metrics by name, and how each is made of what a run is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from runner.metrics.counts import BUCKETS_S, Latency, Snapshot
from runner.version import VERSION

if TYPE_CHECKING:
    from prometheus_client.metrics_core import HistogramMetricFamily, Metric


class Family(msgspec.Struct, frozen=True):
    """One metric as Prometheus knows it."""

    name: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    labels: tuple[str, ...] = ()


FAMILIES = (
    Family(
        "syncshift_run_info",
        "gauge",
        "Always 1; the labels say which run this is",
        ("run", "job", "version"),
    ),
    Family("syncshift_input_rows", "gauge", "Rows of the input"),
    Family("syncshift_rows_left", "gauge", "Rows that have not ended yet"),
    Family("syncshift_rows_carried", "gauge", "Rows in the hands of a worker"),
    Family("syncshift_rows_followed", "gauge", "Rows that were accepted and are not proved yet"),
    Family("syncshift_rows_total", "counter", "Rows that ended in this process", ("outcome",)),
    Family(
        "syncshift_attempts_total",
        "counter",
        "Requests by what came of them",
        ("method", "verdict"),
    ),
    Family(
        "syncshift_request_duration_seconds",
        "histogram",
        "From when a request left to the last byte of its answer",
        ("method",),
    ),
    Family("syncshift_requests_in_flight", "gauge", "Requests on their way"),
    Family("syncshift_requests_in_flight_limit", "gauge", "The most that may be on their way now"),
    Family(
        "syncshift_rate_limit_per_second", "gauge", "Requests a second that may leave at present"
    ),
    Family(
        "syncshift_rate_ceiling_per_second", "gauge", "Requests a second that were allowed at most"
    ),
    Family("syncshift_waiting", "gauge", "1 while somebody waits for this reason", ("reason",)),
    Family(
        "syncshift_wait_seconds_total",
        "counter",
        "Seconds for which somebody waited for this reason",
        ("reason",),
    ),
    Family("syncshift_resyncs_unfinished", "gauge", "Re-syncs of the run that have not ended"),
    Family("syncshift_resyncs_limit", "gauge", "The most of them that may be unfinished at once"),
    Family(
        "syncshift_closing", "gauge", "1 once no more rows are taken and what is in flight may land"
    ),
)
"""Every metric there is, in the order in which they are told."""

_Samples = Sequence[tuple[tuple[str, ...], float]]


class Families:
    """What a registry of Prometheus collects: the metrics of one run."""

    def __init__(
        self, *, run_id: str, job: str, now: Callable[[], Snapshot], families: Sequence[Family]
    ) -> None:
        """*now* is asked at each scrape; what it raises, `collect` raises."""
        self._labels = (run_id, job, VERSION)
        self._now = now
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that there is something to say of."""
        from prometheus_client.metrics_core import HistogramMetricFamily, Metric

        now = self._now()
        plain = self._plain(now)
        for family in self._families:
            name = family.name
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
                _fill(histogram, now.latency)
                yield histogram
            elif plain[name]:
                metric = Metric(name.removesuffix("_total"), family.help, family.kind)
                for labels, value in plain[name]:
                    metric.add_sample(name, dict(zip(family.labels, labels, strict=True)), value)
                yield metric

    def _plain(self, now: Snapshot) -> dict[str, _Samples]:
        """Return the samples of each metric but for histograms, with the values of its labels."""
        unfinished, limit = now.resyncs or (None, None)
        reasons = sorted({*now.waiting, *now.waited_s})
        return {
            "syncshift_run_info": [(self._labels, 1)],
            "syncshift_input_rows": _one(now.rows),
            "syncshift_rows_left": _one(now.left),
            "syncshift_rows_carried": _one(now.carried),
            "syncshift_rows_followed": _one(now.followed),
            "syncshift_rows_total": _by_label(now.outcomes.items()),
            "syncshift_attempts_total": sorted(now.attempts.items()),
            "syncshift_requests_in_flight": _one(now.in_flight),
            "syncshift_requests_in_flight_limit": _one(now.in_flight_limit),
            "syncshift_rate_limit_per_second": _one(now.rate_per_s),
            "syncshift_rate_ceiling_per_second": _one(now.rate_ceiling_per_s),
            "syncshift_waiting": _by_label((why, why in now.waiting) for why in reasons),
            "syncshift_wait_seconds_total": _by_label(
                (why, now.waited_s.get(why, 0.0)) for why in reasons
            ),
            "syncshift_resyncs_unfinished": _one(unfinished),
            "syncshift_resyncs_limit": _one(limit),
            "syncshift_closing": _one(now.closing),
        }


def _one(value: float | None) -> _Samples:
    return [] if value is None else [((), float(value))]


def _by_label(values: Iterable[tuple[str, float]]) -> _Samples:
    return [((str(label),), float(value)) for label, value in values]


def _fill(metric: HistogramMetricFamily, latency: dict[str, Latency]) -> None:
    for method, (buckets, sum_s) in sorted(latency.items()):
        bounds = (*(str(bound) for bound in BUCKETS_S), "+Inf")
        reached = list(zip(bounds, map(float, accumulate(buckets)), strict=True))
        metric.add_metric([method], buckets=reached, sum_value=sum_s)
