"""How long ``syncshift --help`` takes, from the start of the process to its end."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.figures import Figure, Options

ROUNDS = 10
LIMIT_S = 0.4


def measure(options: Options) -> list[Figure]:
    """Return the median of the times."""
    taken = [_once() for _ in range(options.rounds or ROUNDS)]
    print("  " + "  ".join(f"{seconds:.2f}" for seconds in taken) + " s")
    return [Figure("syncshift --help", median(taken), "s", limit=LIMIT_S)]


def _once() -> float:
    began = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-m", "runner", "--help"], stdout=subprocess.PIPE, check=False
    )
    taken_s = time.perf_counter() - began
    if told.returncode:
        raise SystemExit("python -m runner --help failed; its own words stand above")
    return taken_s
