"""Client CPU per row against a bare aiohttp loop.

Both send the same rows to the same server on the same kind of event loop, 64 in
flight, in turn, each in a process of its own. In: user and system time from the
start of sending to its end: reading the rows, one token for each of 500 users,
intents and outcomes on disk, every check of the answers. Out: imports, the check
of the input before sending, the result files after it; the gross ratio has these
in. The bare loop (a semaphore, PATCH, the answer read as JSON) has its rows in
memory and one ready-made token, and records nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figures import Figure, Options, ratio_of
from benchmarks.inputs import write_credentials
from benchmarks.loops import LOOPS
from benchmarks.sending import Sent, sent_by
from benchmarks.server import serving
from runner.tokens import make_demo_key

ROUNDS = 5
ROWS = 10_000
USERS = 500
LIMIT = 1.2


def measure(options: Options) -> list[Figure]:
    """Return the ratio of the medians' rounds for each event loop."""
    rounds, rows = options.rounds or ROUNDS, options.rows or ROWS
    figures = []
    key = make_demo_key().reveal()
    with tempfile.TemporaryDirectory(prefix="syncshift-rows-") as name, serving() as base_url:
        directory = Path(name)
        source = write_credentials(
            directory / "input.csv", rows=rows, rows_a_user=max(1, rows // USERS)
        )
        for loop in LOOPS:
            print(f"{loop}: {rows:,} rows a round; us of CPU a row (rows a second)")
            taken: dict[str, list[Sent]] = {"ours": [], "bare": []}
            for number in range(rounds):
                # Each goes first as often as the other: machines drift.
                for who in ("ours", "bare") if number % 2 else ("bare", "ours"):
                    sent = sent_by(
                        who,
                        loop=loop,
                        base_url=base_url,
                        source=source,
                        key=key,
                        directory=directory,
                    )
                    taken[who].append(sent)
                print(_round(number + 1, taken["bare"][-1], taken["ours"][-1], rows))
            figures += _figures(loop, taken["bare"], taken["ours"])
    return figures


def _round(number: int, bare: Sent, ours: Sent, rows: int) -> str:
    told = " ".join(
        f"{who} {sent.cpu_s / rows * 1e6:5.0f} ({rows / sent.wall_s:6,.0f}/s) "
        for who, sent in (("bare", bare), ("ours", ours))
    )
    return f"  round {number}: {told} ratio {ours.cpu_s / bare.cpu_s:.2f}"


def _figures(loop: str, bare: list[Sent], ours: list[Sent]) -> list[Figure]:
    return [
        Figure(
            f"CPU a row, ours / bare, {loop}",
            ratio_of([s.cpu_s for s in ours], [s.cpu_s for s in bare]),
            limit=LIMIT,
        ),
        Figure(
            f"  the same, whole processes, {loop}",
            ratio_of([s.gross_cpu_s for s in ours], [s.gross_cpu_s for s in bare]),
        ),
    ]
