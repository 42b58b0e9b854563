"""What a benchmark hands back, and how it is told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One measured value beside what it may be at most."""

    what: str
    value: float
    unit: str = ""
    limit: float | None = None
    """None: nothing is claimed; the figure is there to be known."""

    @property
    def held(self) -> bool:
        """Whether the value is within its limit."""
        return self.limit is None or self.value <= self.limit


class Options(argparse.Namespace):
    """What was asked for on the command line; None: the benchmark's own default."""

    names: list[str]
    rounds: int | None
    rows: int | None
    full: bool


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios, each of two values measured in the same round."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def in_words(figures: Sequence[Figure]) -> str:
    """Return *figures* as a table with limit and verdict."""
    lines = [("", "measured", "limit", "")]
    for figure in figures:
        limit = "-" if figure.limit is None else _number(figure.limit, figure.unit)
        verdict = "" if figure.limit is None else "held" if figure.held else "EXCEEDED"
        lines.append((figure.what, _number(figure.value, figure.unit), limit, verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{what:<{widths[0]}}  {value:>{widths[1]}}  {limit:>{widths[2]}}  {verdict}".rstrip()
        for what, value, limit, verdict in lines
    )


def _number(value: float, unit: str) -> str:
    digits = 0 if unit in {"MB", "us"} else 2
    return f"{value:,.{digits}f} {unit}".rstrip()
