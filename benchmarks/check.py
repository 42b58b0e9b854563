"""Checking an input against the plainest reader that validates.

The check: every rule of the input, duplicates and contradictions included. The
plain reader: `csv.DictReader` and one `msgspec.convert` a row into a struct with
the same four fields and the same patterns. Both in one process, in turn.
"""

from __future__ import annotations

import csv
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from benchmarks.child import measured, tell
from benchmarks.figures import Figure, Options, ratio_of
from benchmarks.inputs import write_both

ROUNDS = 3
ROWS = 1_000_000
ROWS_A_USER = 20
LIMIT = 1.5


class _Taken(msgspec.Struct, frozen=True):
    """Seconds of each round."""

    ours: list[float]
    plain: list[float]


class _Plain(msgspec.Struct):
    """A row, as somebody would write it down who wants no more than this file."""

    sync_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    credential_id: Annotated[
        str, msgspec.Meta(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")
    ]
    frequency: Literal["1m", "5m", "10m", "30m", "1h", "3h", "6h", "24h"]


def measure(options: Options) -> list[Figure]:
    """Return the ratio of the two times."""
    rounds, rows = options.rounds or ROUNDS, options.rows or ROWS
    with tempfile.TemporaryDirectory(prefix="syncshift-check-") as name:
        source = write_both(Path(name) / "input.csv", rows=rows, rows_a_user=ROWS_A_USER)
        taken = measured("check", source, rows, rounds, kind=_Taken)
    for number, (ours, plain) in enumerate(zip(taken.ours, taken.plain, strict=True), start=1):
        print(f"  round {number}: plain {plain:.2f} s  check {ours:.2f} s  {ours / plain:.2f}")
    return [
        Figure(
            f"check / plain reader, {rows:,} rows", ratio_of(taken.ours, taken.plain), limit=LIMIT
        )
    ]


def _check(source: Path) -> int:
    from runner.check import check, columns_of
    from runner.job import find
    from runner.rows import recognise

    job = find("update-syncs")
    checked = check(recognise(str(source), None), columns_of(job), job)
    assert not checked.total_problems, checked.problems
    return checked.valid


def _plain(source: Path) -> int:
    rows = 0
    with source.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            msgspec.convert(row, _Plain)
            rows += 1
    return rows


def _seconds(read: Callable[[Path], int], source: Path, rows: int) -> float:
    gc.collect()
    began = time.perf_counter()
    found = read(source)
    taken_s = time.perf_counter() - began
    assert found == rows, f"{found} of {rows} rows were read"
    return taken_s


def _main(source: Path, rows: int, rounds: int) -> None:
    taken = _Taken([], [])
    for number in range(rounds):
        turns = [(_check, taken.ours), (_plain, taken.plain)]
        for read, times in turns if number % 2 else turns[::-1]:
            times.append(_seconds(read, source, rows))
    tell(taken)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
