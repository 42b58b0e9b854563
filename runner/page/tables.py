"""The table of rows: its columns, its first rows as they stand before the script takes over."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runner.page.course import Extra
from runner.page.listing import Listing, cells_of
from runner.page.words import duration
from runner.results import COLUMNS

STANDING = 25
"""Rows that are there without the script, and on paper."""
_CUT = 160
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # what a result file puts a quote before


class Column(msgspec.Struct, frozen=True):
    """One column of the table, which shows one or two cells of a line."""

    id: str
    title: str
    type: str
    """``number``, ``kind``, ``id``, ``why``, ``text`` or ``took``, which is in no line."""
    at: int | None = None
    """Place of its cell in a line."""
    also: int | None = None
    """Place of the cell that is shown below it."""


def columns_of_runs(listing: Listing) -> list[Column]:
    """Return the columns of a run's table."""
    if listing.columns is None:
        return []
    own = listing.columns.row
    at = {name.removeprefix("syncshift_"): own + n for n, name in enumerate(COLUMNS)}
    return [
        Column("row", "Row", "number", at["row"]),
        Column("kind", "Outcome", "kind", at["outcome"], at["proof"]),
        Column("sync", "Sync and user", "id", listing.columns.sync, listing.columns.user),
        Column("why", "Why", "why", at["error_class"], at["error"]),
        Column("status", "HTTP", "number", at["http_status"]),
        Column("attempts", "Sent", "number", at["attempts"]),
        Column("took", "Took", "took"),
    ]


def first_rows(
    listing: Listing,
    columns: list[Column],
    *,
    tones: Mapping[str, str],
    extras: Mapping[int, Extra] | None = None,
) -> list[list[dict[str, str]]]:
    """Return the first rows as cells; those that did not go well before all others."""
    kind = next((column.at for column in columns if column.type == "kind"), None)
    chosen: list[tuple[int, list[str]]] = []
    others: list[tuple[int, list[str]]] = []
    for row, raw in listing.lines.items():
        cells = cells_of(raw)
        well = kind is not None and tones.get(cells[kind]) == "good"
        if len(others if well else chosen) < STANDING:
            (others if well else chosen).append((row, cells))
        if len(chosen) == STANDING:
            break
    found = []
    for row, cells in chosen or others:
        extra = (extras or {}).get(row)
        found.append([_cell(column, cells, extra, tones) for column in columns])
    return found


def _cell(
    column: Column, cells: list[str], extra: Extra | None, tones: Mapping[str, str]
) -> dict[str, str]:
    text = "" if column.at is None else cells[column.at]
    small = "" if column.also is None else cells[column.also]
    if column.type == "took":
        text = duration(extra.elapsed_ms / 1000) if extra and extra.elapsed_ms else ""
    if column.type == "kind":
        text = text or "unprocessed"
    if small.startswith("'") and small[1:].startswith(_FORMULA):
        small = small[1:]
    return {
        "type": column.type,
        "title": column.title,
        "text": _cut(text),
        "small": _cut(small),
        "tone": tones.get(text, "left"),
    }


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else text[: _CUT - 1] + "…"
