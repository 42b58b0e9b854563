"""Carries a run with several processes of this machine.

Whoever leads the run forks a `nursery` while it is still small, which makes `workers` whenever
they are needed; `processes` deals shards out to them over `wire`, and is their board.
"""

from runner.local.nursery import Nursery
from runner.local.processes import Processes
from runner.local.worker import Staff, employ

__all__ = ["Nursery", "Processes", "Staff", "employ"]
