"""Writes down every row that cannot become a change."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain
from typing import TextIO

from runner.check.checking import Checked
from runner.errors import Problem
from runner.rows import inert

INVALID_COLUMNS = ("line", "row", "column", "value", "reason")
"""The columns of ``invalid.csv``."""


def write_invalid(checked: Checked, out: TextIO) -> None:
    """Write a line to *out* for every problem of the input, in the order of the file.

    Reads the input again and keeps nothing. *out* is a text file opened with
    ``newline=""``; no cell in it is run by a spreadsheet as a formula.
    """
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(INVALID_COLUMNS)
    of_rows = chain.from_iterable(row.problems for row in checked.invalid_rows())
    writer.writerows(map(_cells, chain(of_rows, checked.file_problems)))


def _cells(problem: Problem) -> Iterable[str | int]:
    return (
        problem.line or "",
        problem.row or "",
        inert(problem.column),
        inert(problem.value),
        inert(problem.reason),
    )
