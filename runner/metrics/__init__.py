"""Tells Prometheus what a run is doing, at an address of this machine and while it goes."""

from runner.metrics.counts import BUCKETS_S, Counts
from runner.metrics.families import FAMILIES, Families, Family
from runner.metrics.serving import PATH, Metrics

__all__ = ["BUCKETS_S", "FAMILIES", "PATH", "Counts", "Families", "Family", "Metrics"]
