"""One line of departures for each host, whoever sends there and for whichever run.

Pure: it is told what time it is, by the database's clock.
"""

from __future__ import annotations

from runner.departures import Line
from runner.engine import Lease
from runner.postgres.common import SILENT_S, HostLine


def lease(
    kept: HostLine | None, *, run: str, worker: str, rate: float, departures: int, now: float
) -> tuple[HostLine, Lease]:
    """Return the line as it is afterwards, and the departures that *worker* gets for *run*.

    Of several runs at one host the lowest rate holds, for all of them together.
    """
    kept = kept or HostLine(rate_per_s=rate, lanes=[now])
    rates = {name: asked for name, asked in kept.rates.items() if asked[1] > now - SILENT_S}
    rates[run] = (rate, now)
    lowest = min(rate for rate, _ in rates.values())
    workers = {name: seen for name, seen in kept.workers.items() if seen > now - SILENT_S}
    workers[worker] = now
    line = Line(kept.rate_per_s, list(kept.lanes))
    if len(workers) != len(line.lanes) or list(workers) != list(kept.workers):
        # As many lanes as there are workers: otherwise some have to wait for what others leave.
        begins = max(now, *(lane - line.interval_s for lane in line.lanes)) + 1.0 / lowest
        line = Line.of(lowest, lanes=len(workers), now=begins)
    elif lowest != line.rate_per_s:
        line.set_rate(lowest, now=now)
    first, count = line.lease(now, departures, lane=list(workers).index(worker))
    after = HostLine(rate_per_s=line.rate_per_s, lanes=line.lanes, workers=workers, rates=rates)
    return after, Lease(first - now, line.interval_s, count)
