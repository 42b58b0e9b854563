"""Words in, exit code out. One file per group of commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code. Never returns."""
    from runner.cli.commands import run_words

    sys.exit(run_words(sys.argv[1:] if words is None else words))


__all__ = ["main"]
