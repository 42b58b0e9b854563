"""Words in, exit code out. One file per group of commands."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

_FEWEST_COLUMNS = 20
"""Rich folds a table into fewer for minutes, and takes all there is of memory."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code. Never returns."""
    _fill_standard_streams()
    _have_room()
    from runner.cli.commands import run_words

    sys.exit(run_words(sys.argv[1:] if words is None else words))


def _fill_standard_streams() -> None:
    """Open what the caller closed, or the next file to be opened would take its place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8")


def _have_room() -> None:
    """Let nobody believe in a terminal that has no room for a word, or none at all."""
    columns = shutil.get_terminal_size().columns
    if columns < _FEWEST_COLUMNS or os.environ.get("COLUMNS", "").strip() == "0":
        os.environ["COLUMNS"] = str(max(columns, _FEWEST_COLUMNS))


__all__ = ["main"]
