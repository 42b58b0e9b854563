"""The sizing table of docs/past-one-machine.md follows from the figures that stand above it."""

from __future__ import annotations

from pathlib import Path

from tests.test_docs import section, tables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "past-one-machine.md"
ROWS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
REQUESTS_A_ROW = 2
SLOW, FAST = 20.0, 200.0
"""Requests a second of the two columns that are held by the API."""


def two_digits(number: float) -> str:
    """Return a number with two digits, or as a whole one where it has more."""
    return f"{number:.2g}" if number < 100 else f"{number:.0f}"


def span(seconds: float) -> str:
    """Return a time in its largest unit of which there are two, with two digits."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{two_digits(seconds / size)} {unit}"
    return f"{max(1.0, seconds):.0f} s"


def size(count: float) -> str:
    """Return a number of bytes in its largest unit, with two digits."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{two_digits(count / one)} {unit}"
    return f"{count / 1e3:.0f} kB"


def figures() -> dict[str, float]:
    """Return the figures that the page was made with, by their names."""
    rows = tables(section(PAGE.read_text(encoding="utf-8"), "What was measured"))["Figure"]
    return {row[0]: float(row[1].split()[0].replace(",", "")) for row in rows}


def sized(rows: int) -> list[str]:
    """Return the line of the sizing table for so many rows."""
    known = figures()
    return [
        f"{rows:,}",
        span(rows * known["check, CPU a row"] / 1e6),
        span(rows * REQUESTS_A_ROW / SLOW),
        span(rows * REQUESTS_A_ROW / FAST),
        span(rows * known["look and change, CPU a row"] / 1e3),
        span(rows * known["result files, CPU a row"] / 1e6),
        size(1e6 * known["memory of a run"] + rows * known["memory a row"]),
        size(rows * known["disk a row"]),
    ]


def test_the_sizing_table_is_its_own_arithmetic() -> None:
    """Each cell of the table is what the figures above it come to."""
    page = PAGE.read_text(encoding="utf-8")

    assert tables(section(page, "How long, how much"))["Rows"] == [sized(rows) for rows in ROWS]
