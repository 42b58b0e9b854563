"""What a run finds out of its pace, over a socket: it is told of, kept, and begun with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.simulator import Fault, Faults
from tests.stage import Run, Stage, in_fast_motion


def in_the_first_second(stage: Stage, since: int) -> int:
    """Return how many requests came within a second of the first after *since* others."""
    began = stage.audit[since].at_monotonic_s
    return sum(e.at_monotonic_s < began + 1 for e in stage.audit[since:])


async def started(stage: Stage, **settings: Any) -> tuple[Run, int]:
    """Carry a run to its end; return it, and how many requests its first second had."""
    since = stage.sim.requests
    run = await stage.run(**settings)
    return run, in_the_first_second(stage, since)


@pytest.mark.parametrize(
    ("for_s", "share"), [(15, 0.9), pytest.param(60, 0.95, marks=pytest.mark.long)]
)
async def test_h1_a_limit_that_nobody_told_of_is_found_over_a_socket(
    for_s: int, share: float, tmp_path: Path
) -> None:
    """H1: of a hidden limit of 100 a second 95 % are used after the start, and 2 % turned away."""
    limit_per_s, start_s = 100, 3
    faults = Faults(limit_per_s=limit_per_s, burst=limit_per_s, latency_s=0.02)
    async with Stage(tmp_path, faults=faults) as stage:
        stage.seed(limit_per_s * (for_s + 10) // 2, users=200)
        run = await stage.run()

        began = stage.audit[0].at_monotonic_s
        # What is left at the end is too little to fill the time.
        answers = [e for e in stage.audit if e.at_monotonic_s < began + for_s]
        # The server's first burst is no proof of a pace.
        then = [e.status for e in answers if e.at_monotonic_s >= began + start_s]
        assert run.counts == {"updated": len(run.outcomes)}
        assert then.count(200) >= share * limit_per_s * (for_s - start_s)
        assert sum(e.status == 429 for e in answers) <= 0.02 * len(answers)


@in_fast_motion(5)
async def test_what_a_run_has_learned_is_where_the_next_begins(tmp_path: Path) -> None:
    """A limit that one run paid for is known to the next on the same host, and to no other."""
    async with Stage(tmp_path, faults=Faults(limit_per_s=10, burst=10, latency_s=0.05)) as stage:
        stage.seed(60, users=20)
        first, unknowing = await started(stage)
        second, knowing = await started(stage)
        elsewhere = stage.sim.base_url.replace("127.0.0.1", "localhost")
        _, on_another_host = await started(stage, base_url=elsewhere)

        learned = first.opened.folder.read().learned
        assert learned is not None
        assert learned.is_limit
        assert learned.rate_per_s == pytest.approx(10, rel=0.25)
        cautious = learned.rate_per_s / 2 + 2
        assert knowing <= cautious
        assert unknowing > cautious
        assert on_another_host > cautious
        # What it has found is kept in turn.
        assert second.opened.folder.read().learned is not None


@in_fast_motion(5)
async def test_what_was_learned_is_no_permission(tmp_path: Path) -> None:
    """--rate and --concurrency are ceilings, whatever an earlier run has learned."""
    async with Stage(tmp_path, faults=Faults(latency_s=0.05)) as stage:
        stage.seed(40, users=20)
        first = await stage.run()
        _, begun_with = await started(stage, rate=5, concurrency=2)

        learned = first.opened.folder.read().learned
        assert learned is not None
        assert learned.rate_per_s > 2 * 5
        assert learned.in_flight > 2
        assert begun_with <= 5 + 1


@in_fast_motion(5)
async def test_a_limit_that_the_server_tells_of_is_kept_to(tmp_path: Path) -> None:
    """RateLimit-Policy and RateLimit come through the socket; what they allow is not exceeded."""
    # So many may come at once that nobody is turned away, however fast it goes.
    faults = Faults(limit_per_s=40, burst=400, latency_s=0.05, tells_limit=True)
    async with Stage(tmp_path, faults=faults) as stage:
        stage.seed(100, users=20)
        run = await stage.run()

        since = stage.audit[0].at_monotonic_s + 0.5
        rest = [e.at_monotonic_s for e in stage.audit if e.at_monotonic_s > since]
        assert run.counts == {"updated": 100}
        assert all(e.status == 200 for e in stage.audit)
        assert len(rest) <= 40 * (rest[-1] - since) + 2


@in_fast_motion(4)
async def test_a_lane_is_told_of_when_it_opens_and_when_it_closes(tmp_path: Path) -> None:
    """Whose requests went one at a time, and until when, stands in events.jsonl."""
    async with Stage(tmp_path, faults=Faults(retry_after_s=1)) as stage:
        # Enough of one user for a lane that had to slow down once to be found needless again.
        records = stage.seed(800, users=8)
        hot = [record for record in records if record.user == records[100].user]
        for record in hot[10:12]:
            stage.sim.script(record.id, "GET", [Fault.HTTP_429])
        run = await stage.run()

        told = [(e["event"], e["user"]) for e in run.events if e["event"].startswith("lane.")]
        assert run.counts == {"updated": 800}
        assert told == [("lane.opened", hot[0].user), ("lane.closed", hot[0].user)]
