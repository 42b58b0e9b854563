"""Words in, exit code out. One file per group of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code. Never returns."""
    _fill_standard_streams()
    from runner.cli.commands import run_words

    sys.exit(run_words(sys.argv[1:] if words is None else words))


def _fill_standard_streams() -> None:
    """Open what the caller closed, or the next file to be opened would take its place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


__all__ = ["main"]
