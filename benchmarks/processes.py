"""Rows a second with one process and with two, against a server that costs next to nothing.

The same input, `run migrate-credentials --no-read --until accepted`, from the run's being opened
to its being closed, as its summary has it: journals, processes that are begun, shards that are
made one. The server is uvloop and a few lines that read a request, in a process of its own. What
it costs is told beside that, for on two cores it takes from what the second process could have;
and so is the CPU that a row costs with several, for on a machine that is busy nothing else tells
what several could do on one that is not.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.figures import Figure, Options, ratio_of
from benchmarks.inputs import write_credentials
from benchmarks.server import serving
from runner.tokens import make_demo_key

ROUNDS = 3
ROWS = 200_000
USERS = 500
MANY = 2
SLOWEST = 1 / 1.6
"""What `MANY` may take at most of the time of one, given as many cores."""
SERVER = 0.25
"""What the server may cost at most of a request's CPU at the client."""


class _Taken(msgspec.Struct, frozen=True):
    """One run."""

    per_s: float
    """Rows."""
    client_s: float
    """CPU of all processes of the command."""
    server_s: float


def measure(options: Options) -> list[Figure]:
    """Return how long several take compared with one, and what the server costs."""
    rounds, rows = options.rounds or ROUNDS, options.rows or ROWS
    taken: dict[int, list[_Taken]] = {1: [], MANY: []}
    with tempfile.TemporaryDirectory(prefix="syncshift-processes-") as name:
        directory = Path(name)
        key = make_demo_key().reveal()
        source = write_credentials(
            directory / "input.csv", rows=rows, rows_a_user=max(1, rows // USERS)
        )
        for number in range(rounds):
            # Each goes first as often as the other: machines drift.
            for many in (1, MANY) if number % 2 else (MANY, 1):
                taken[many].append(_run(directory, source, key, many=many, rows=rows))
            one, two = taken[1][-1], taken[MANY][-1]
            print(
                f"  round {number + 1}: 1 process {one.per_s:,.0f} rows/s, {MANY} processes "
                f"{two.per_s:,.0f} rows/s, {two.per_s / one.per_s:.2f} times as many"
            )
    times = ratio_of([t.per_s for t in taken[1]], [t.per_s for t in taken[MANY]])
    cost = ratio_of([t.server_s for t in taken[1]], [t.client_s for t in taken[1]])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    enough = (cores or 1) >= MANY
    return [
        Figure(
            f"time of {MANY} processes, of one ({cores} cores)",
            times,
            "",
            SLOWEST if enough else None,
        ),
        Figure(
            f"  CPU a row of {MANY} processes, of one",
            ratio_of([t.client_s for t in taken[MANY]], [t.client_s for t in taken[1]]),
        ),
        Figure("  CPU of the server, of the client's", cost, "", SERVER),
    ]


def _run(directory: Path, source: Path, key: str, *, many: int, rows: int) -> _Taken:
    server: list[float] = []
    before = _children_s()
    command = [sys.executable, "-m", "runner", "run", "migrate-credentials"]
    with serving(taken=server) as base_url:
        flags = {
            "--base-url": base_url,
            "--project-id": "benchmark",
            "--runs-dir": directory / "runs",
            "--concurrency": 64,
            "--until": "accepted",
            "--processes": many,
        }
        words = [str(word) for flag in flags.items() for word in flag]
        told = subprocess.run(
            [*command, str(source), *words, "--no-read", "--no-copy", "--yes", "--json"],
            env={**os.environ, "PARAGON_SIGNING_KEY": key},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    if told.returncode:
        raise SystemExit(f"the run with --processes {many} ended with {told.returncode}")
    summary = json.loads(told.stdout)
    assert summary["counts"]["updated"] == rows
    return _Taken(summary["rate"], _children_s() - before - server[0], server[0])


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
