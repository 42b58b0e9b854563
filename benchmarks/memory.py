"""Peak memory of a whole run, many rows against 10,000.

Each run is a process of its own, from its start through the check of the input
to the result files; the figure is what the system says was the most it held
(``ru_maxrss``). There are 20 rows a user, so users and tokens grow as rows do.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figures import Figure, Options
from benchmarks.inputs import write_credentials
from benchmarks.loops import FASTEST
from benchmarks.sending import sent_by
from benchmarks.server import serving
from runner.tokens import make_demo_key

FEW_ROWS = 10_000
ROWS = 200_000
FULL_ROWS = 1_000_000
ROWS_A_USER = 20
LIMIT_MB = 60.0


def measure(options: Options) -> list[Figure]:
    """Return how much more memory the larger run took; with ``--full``, of a million rows."""
    many = options.rows or (FULL_ROWS if options.full else ROWS)
    key = make_demo_key().reveal()
    peaks = []
    for rows in (FEW_ROWS, many):
        with (
            tempfile.TemporaryDirectory(prefix="syncshift-memory-") as name,
            serving() as base_url,
        ):
            directory = Path(name)
            sent = sent_by(
                "ours",
                loop=FASTEST,
                base_url=base_url,
                source=write_credentials(
                    directory / "input.csv", rows=rows, rows_a_user=ROWS_A_USER
                ),
                key=key,
                directory=directory,
            )
        peaks.append(sent.peak_mb)
        print(f"  {rows:,} rows: peak {sent.peak_mb:.1f} MB, {sent.wall_s:.0f} s of sending")
    few, most = peaks
    return [
        Figure(f"memory at {many:,} rows less at {FEW_ROWS:,}", most - few, "MB", limit=LIMIT_MB),
    ]
