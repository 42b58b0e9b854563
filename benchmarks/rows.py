"""Client CPU per row against a bare aiohttp loop.

Both send the same rows to the same server on the same kind of event loop, 64 in
flight, in turn, each in a process of its own. In: user and system time from the
start of sending to its end: reading the rows, a token for each of 500 users,
intents and outcomes on disk, every check of the answers. Out: imports, the check
of the input before sending, the result files after it. The bare loop (a semaphore,
PATCH, the answer read as JSON, nothing recorded) has its rows in memory, and what
it takes to sign the tokens that it sends is not counted as its own. Told beside
that: the ratio when it is counted, and the ratio of the whole processes.
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

ROUNDS = 9
ROWS = 20_000
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
        f"{who} {_own_s(sent) / rows * 1e6:5.0f} ({rows / sent.wall_s:6,.0f}/s) "
        for who, sent in (("bare", bare), ("ours", ours))
    )
    return f"  round {number}: {told} ratio {ours.cpu_s / _own_s(bare):.2f}"


def _own_s(sent: Sent) -> float:
    return sent.cpu_s - sent.minting_s


def _figures(loop: str, bare: list[Sent], ours: list[Sent]) -> list[Figure]:
    ours_s = [sent.cpu_s for sent in ours]
    return [
        Figure(
            f"CPU a row, ours / bare, {loop}", ratio_of(ours_s, list(map(_own_s, bare))), "", LIMIT
        ),
        Figure(
            f"  the same, tokens counted on both sides, {loop}",
            ratio_of(ours_s, [sent.cpu_s for sent in bare]),
        ),
        Figure(
            f"  the same, whole processes, {loop}",
            ratio_of([sent.gross_cpu_s for sent in ours], [sent.gross_cpu_s for sent in bare]),
        ),
    ]
