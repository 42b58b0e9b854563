"""``python -m benchmarks``: measures what is claimed; exits 1 when a limit is exceeded."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from benchmarks.figures import Figure, Options, in_words

BENCHMARKS = ("rows", "check", "resume", "memory", "processes", "help", "throttle")


def main() -> int:
    """Run the benchmarks that were asked for, then tell all figures with their limits."""
    options = _options()
    figures: list[Figure] = []
    failed = False
    for name in dict.fromkeys(options.names or BENCHMARKS):
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"{name}: {module.__doc__}", flush=True)
        began = time.perf_counter()
        try:
            figures += module.measure(options)
        except SystemExit as error:
            print(f"  not measured: {error}")
            failed = True
        print(f"  took {time.perf_counter() - began:.0f} s\n", flush=True)
    if figures:
        print(in_words(figures))
    return 1 if failed or not all(figure.held for figure in figures) else 0


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=f"Benchmarks: {', '.join(BENCHMARKS)}."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=(*BENCHMARKS, []), help="all, unless named"
    )
    parser.add_argument("--rounds", type=_count, help="rounds of each; more are steadier")
    parser.add_argument("--rows", type=_count, help="rows of each round")
    parser.add_argument(
        "--full", action="store_true", help="memory at 1,000,000 rows; takes some minutes"
    )
    return parser.parse_args(namespace=Options())


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())
