"""How long a resume takes until it sends, with nearly every row settled.

``index`` reads the journals alone, every line checked against its CRC. ``start``
is all of it: the run's folder opened, its input checked again, the journals read
for appending and for the index, up to the moment at which sending would begin.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.child import measured, tell
from benchmarks.figures import Figure, Options
from benchmarks.inputs import NEW_CREDENTIAL, sync_id, write_credentials
from runner.tokens import make_demo_key

ROUNDS = 3
ROWS = 100_000
ROWS_A_USER = 20
RUN_ID = "benchmark"
BATCH = 1000


class _Taken(msgspec.Struct, frozen=True):
    """Seconds of each round."""

    index: list[float]
    start: list[float]


class _Begun(Exception):
    """Sending would begin now."""


def measure(options: Options) -> list[Figure]:
    """Return the times; nothing is claimed about them."""
    rounds, rows = options.rounds or ROUNDS, options.rows or ROWS
    with tempfile.TemporaryDirectory(prefix="syncshift-resume-") as name:
        key = {"PARAGON_SIGNING_KEY": make_demo_key().reveal()}
        taken = measured("resume", name, rows, rounds, kind=_Taken, environment=key)
    for number, (index, start) in enumerate(zip(taken.index, taken.start, strict=True), start=1):
        print(f"  round {number}: index {index:.2f} s  start {start:.2f} s")
    return [
        Figure(f"index of {rows:,} settled rows", median(taken.index), "s"),
        Figure(f"start of a resume, {rows:,} rows", median(taken.start), "s"),
    ]


def _main(directory: Path, rows: int, rounds: int) -> None:
    from runner.account import index_of
    from runner.live import Live
    from runner.opening import open_new, reopen
    from runner.run import carry_out
    from runner.settings import resolve

    def begun(_: Live) -> None:
        raise _Begun

    flags = {
        "base-url": "http://127.0.0.1:9",
        "project-id": "benchmark",
        "runs-dir": str(directory),
        "no-read": True,
    }
    resolved = resolve(flags, environment=os.environ, directory=directory)
    source = write_credentials(directory / "input.csv", rows=rows, rows_a_user=ROWS_A_USER)
    opened = open_new("migrate-credentials", str(source), resolved, run_id=RUN_ID, warn=print)
    asyncio.run(_settle(opened.folder.path, rows - 1))
    opened.folder.unlock()
    taken = _Taken([], [])
    for _ in range(rounds):
        began = time.perf_counter()
        index = index_of(opened.folder)
        taken.index.append(time.perf_counter() - began)
        assert index.settled(rows - 1)
        assert not index.settled(rows)
        began = time.perf_counter()
        again = reopen(RUN_ID, resolved, warn=print)
        try:
            asyncio.run(carry_out(again, show=begun))
        except* _Begun:
            taken.start.append(time.perf_counter() - began)
        again.folder.unlock()
    tell(taken)


async def _settle(path: Path, rows: int) -> None:
    """Fill the journals of the run in *path* as if so many of its rows had been carried."""
    from runner.model import Intent, Outcome, OutcomeKind, Proof
    from runner.record import Record

    record = Record(path, wall_clock=time.time)
    desired = {"credential_id": NEW_CREDENTIAL}
    for row in range(1, rows + 1):
        name, user = sync_id(row - 1), f"user-{(row - 1) // ROWS_A_USER:06d}"
        record.intend(
            Intent(
                row=row,
                line=row + 1,
                sync_id=name,
                user_id=user,
                before=None,
                seen=None,
                desired=desired,
                timestamp="2024-01-01T00:00:00.000Z",
            )
        )
        record.settle(
            Outcome(
                row=row,
                line=row + 1,
                sync_id=name,
                user_id=user,
                outcome=OutcomeKind.UPDATED,
                proof=Proof.ACCEPTED,
                sent=True,
                desired=desired,
                http_status=200,
                attempts=1,
                elapsed_ms=12,
            )
        )
        if not row % BATCH:
            await record.durable()
    await record.close()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
