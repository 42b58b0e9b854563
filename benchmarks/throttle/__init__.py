"""The throttle against servers that do not say what they take, in virtual time.

Each line is the worst of all seeds, beside what it may be. ``used`` is the share of what
the server would have taken, ``429`` the share of answers that turned a request away, both
once the limit had time to be found; ``after`` is how long it takes until a new limit is
used, or an old one let go of; ``429s`` counts them in the first minute.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.figures import Figure, Options
from benchmarks.throttle.measuring import SCENARIOS, Found
from benchmarks.throttle.measuring import measure as found_in

SEEDS = 20


def measure(options: Options) -> list[Figure]:
    """Print the table; return how many of its figures are beyond their limits."""
    seeds = range(options.rounds or SEEDS)
    beyond = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for scenario, found in zip(
            SCENARIOS,
            pool.map(partial(_found_by_number, seeds), range(len(SCENARIOS))),
            strict=True,
        ):
            beyond += sum(not one.held for one in found)
            print(f"  {scenario.name:<34}{'  '.join(map(in_words, found))}", flush=True)
    return [Figure(f"throttle: beyond a limit, {len(seeds)} seeds", beyond, limit=0)]


def in_words(found: Found) -> str:
    """Return one figure with its limit: ``used 98.7 % (>= 97 %)``."""
    unit = f" {found.unit}".rstrip()
    sign = ">=" if found.at_least else "<="
    scale = {"%": 100.0, "ms": 1000.0}.get(found.unit, 1.0)
    worst, mean, limit = (scale * value for value in (found.worst, found.mean, found.limit))
    mark = "" if found.held else "  EXCEEDED"
    digits = 2 if found.what == "429" else 1 if found.unit == "%" else 0
    return (
        f"{found.what} {worst:.{digits}f}{unit} "
        f"(mean {mean:.{digits}f}, {sign} {limit:g}{unit}){mark}"
    )


def _found_by_number(seeds: range, number: int) -> list[Found]:
    # Scenarios hold functions, which cannot be sent to another process; their number can.
    return found_in(SCENARIOS[number], seeds)
