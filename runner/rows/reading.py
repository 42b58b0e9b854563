"""Gives out a file's rows in blocks; made to be driven from a thread of its own."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import Any, TypeVar

import msgspec

from runner.errors import Problem
from runner.model import Row
from runner.rows.columns import DROPPED_PREFIX, Columns, Rule, resembled, rules_of, understand
from runner.rows.files import InputFile, Lost, Trace, refused
from runner.rows.lines import JsonRecord, cells_of, json_records, values_of
from runner.rows.plan import BadRow, Flaw, Plan
from runner.rows.table import CsvRecord, csv_records, unclosed
from runner.rows.text import encodable, shown

BLOCK_ROWS = 512
NAMES_LIMIT = 1000
"""Different keys that the objects of one file may have; this bounds memory."""
PLANS_LIMIT = 1000
"""Different sets of keys that are remembered at a time."""

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One input record as it stands in a result file: text for each of the input's columns."""

    number: int
    """1 for the first data row."""
    line: int
    cells: tuple[str, ...]


def read(
    file: InputFile, columns: Columns, *, from_row: int = 1, trace: Trace | None = None
) -> Iterator[list[Row | BadRow]]:
    """Yield the rows of *file* in order, in blocks; those before *from_row* are passed over.

    A record that makes no row comes as a `BadRow` with everything that is wrong
    with it, and reading goes on behind it. *trace* is filled on the way.

    Raises `InputError`, with all of them, for problems of the file: it cannot be
    opened, is of another kind, has a header that will not do, or no rows. When
    the file breaks off or a quote is never closed, the rows before that are
    given out first.
    """
    rows = _csv_rows if file.format == "csv" else _json_rows
    yield from rows(file, columns, trace or Trace(hashes=False), from_row)


def records(file: InputFile, columns: Columns, names: Sequence[str]) -> Iterator[list[Record]]:
    r"""Yield every record of *file* as text under *names* (see `own_columns`), in blocks.

    Equal cell for cell to the input after parsing. From JSONL, values that are not
    text come as the JSON they were, null for a known field as nothing. A record
    that is too short is filled up, one that is too long has the cells that are
    too much behind the others; one that could not be parsed stands whole in its first
    cell. A byte that is not UTF-8 becomes ``\xff``.

    Raises as `read` does, though no rows are no problem.
    """
    if file.format == "csv":
        yield from _in_blocks(file, _csv_cells(file, len(names)))
    else:
        yield from _in_blocks(file, _json_cells(file, rules_of(columns), names))


def told(file: InputFile, *names: str) -> Iterator[tuple[str, ...]]:
    """Yield what each record of *file* says under *names*, ``syncshift_*`` among them.

    Text, or what is not text as JSON; nothing where there is no such cell. Raises as `read` does.
    """
    cells = _csv_told if file.format == "csv" else _json_told
    return chain.from_iterable(_in_blocks(file, cells(file, names)))


def objects(file: InputFile) -> Iterator[list[dict[str, Any]]]:
    """Yield every record of a JSONL *file* as an object, in blocks, without ``syncshift_*`` keys.

    Values stand as they were written. One that is no sound object comes as an
    object that can become no change either. Raises as `read` does.
    """
    return _in_blocks(file, map(_object, json_records(file, Trace())))


def own_columns(file: InputFile) -> tuple[str, ...]:
    """Return the input's own columns: its header, or all keys in order of first appearance.

    Columns called ``syncshift_*`` are left out. Reads JSONL to its end.
    """
    trace = Trace()
    try:
        if file.format == "csv":
            for _, _, names, _ in islice(csv_records(file, trace), 1):
                _remember(names, trace)
        else:
            deque(_named(file, trace), maxlen=0)
    except Lost as lost:
        raise refused(file, _ending(lost)) from lost
    return tuple(trace.names)


def _in_blocks(file: InputFile, items: Iterator[T]) -> Iterator[list[T]]:
    block: list[T] = []
    try:
        while True:
            # What came before a fault stays in the list; one call is faster than a loop.
            block.extend(islice(items, BLOCK_ROWS))
            if not block:
                return
            yield block
            block = []
    except Lost as lost:
        if block:
            yield block
        raise refused(file, _ending(lost)) from lost


def _ending(lost: Lost) -> Problem:
    return Problem(lost.line, lost.column, "", f"{lost.reason}. Reading stopped there")


def _remember(names: Sequence[str], trace: Trace) -> None:
    trace.names.update(dict.fromkeys(n for n in names if not n.startswith(DROPPED_PREFIX)))


def _csv_rows(
    file: InputFile, columns: Columns, trace: Trace, from_row: int
) -> Iterator[list[Row | BadRow]]:
    blocks = _in_blocks(file, csv_records(file, trace, skip=from_row - 1))
    first = next(blocks, [])
    plan = _csv_plan(file, columns, trace, first)
    done = trace.passed
    for block in chain([first[1:]] if len(first) > 1 else [], blocks):
        if done + len(block) >= from_row:
            rows, lost = _csv_block(file, plan, block, done + 1)
            if kept := rows[max(from_row - 1 - done, 0) :]:
                yield kept
            if lost:
                raise refused(file, _ending(lost))
        done += len(block)
    if not done:
        raise refused(file, Problem(0, "", "", "has a header, but no rows"))


def _csv_block(
    file: InputFile, plan: Plan, block: list[CsvRecord], number: int
) -> tuple[list[Row | BadRow], Lost | None]:
    """Return the rows of *block*, the first of which is *number*; maybe reading ends in it."""
    width = len(plan.header.names)
    starts, lasts, records, flaws = zip(*block, strict=True)
    if set(map(len, records)) == {width} and not any(flaws) and starts == lasts:
        fields = plan.accept(records)
        if fields is not None:
            return list(map(Row, count(number), starts, fields)), None
    rows: list[Row | BadRow] = []
    for start, last, cells, found in block:
        if start != last and plan.swallowed(cells):
            return rows, unclosed(file, start)
        ragged = () if found or len(cells) == width else (_ragged(len(cells), width),)
        rows.append(plan.judge(number + len(rows), start, cells, found or ragged))
    return rows, None


def _csv_plan(file: InputFile, columns: Columns, trace: Trace, first: list[CsvRecord]) -> Plan:
    """Return the plan for what follows the header, which comes *first*.

    Raises `InputError` with everything that is wrong with the header.
    """
    if not first:
        raise refused(file, Problem(0, "", "", "is empty"))
    line, _, names, flaws = first[0]
    rules = rules_of(columns)
    if reason := _other_kind(names, rules):
        raise refused(file, Problem(line, "", shown(",".join(names)), reason))
    header = understand(names, columns, rules)
    problems = [flaw.under(header.names) for flaw in flaws]
    if all(problem.column for problem in problems):
        problems += header.problems
        problems += [Problem(0, "", shown(",".join(names)), reason) for reason in header.missing]
    if problems:
        problems = [Problem(line, p.column, p.value, p.reason) for p in problems]
        raise refused(file, *problems)
    _remember(names, trace)
    return Plan(header, columns, keyed=False)


def _other_kind(names: Sequence[str], rules: dict[str, Rule]) -> str:
    """Tell what the file seems to be, when its first line is no header in CSV."""
    if names[0].lstrip().startswith(("{", "[")):
        return "the file seems to be JSON; use --format jsonl, with one object a line"
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        parts = [part.strip(' "') for name in names for part in name.split(separator)]
        if len(parts) > len(names) and any(
            part in rules or resembled(part, rules) for part in parts
        ):
            return f"cells are separated by {word}; save the file with commas"
    return ""


def _ragged(count: int, width: int) -> Flaw:
    cells = "cell" if count == 1 else "cells"
    hint = "; put double quotes around a cell that holds a comma" if count > width else ""
    return Flaw(f"has {count} {cells}, the header has {width}{hint}")


def _json_rows(
    file: InputFile, columns: Columns, trace: Trace, from_row: int
) -> Iterator[list[Row | BadRow]]:
    plans = _Plans(columns)
    done = 0
    for block in _in_blocks(file, _named(file, trace)):
        if done + len(block) >= from_row:
            yield _json_block(plans, block, done + 1)[max(from_row - 1 - done, 0) :]
        done += len(block)
    if not done:
        raise refused(file, Problem(0, "", "", "is empty"))


def _named(file: InputFile, trace: Trace) -> Iterator[JsonRecord]:
    """Yield the records of *file*, and note their keys in *trace*."""
    keys: dict[str, Any] = {}
    for number, record in enumerate(json_records(file, trace)):
        line, raw, value, _ = record
        if not number and (reason := _other_json(raw)):
            raise refused(file, Problem(line, "", shown(raw.decode("utf-8", "replace")), reason))
        if value.keys() != keys.keys():
            keys = value
            _remember(tuple(keys), trace)
            if len(trace.names) > NAMES_LIMIT:
                raise Lost(f"there are more than {NAMES_LIMIT:,} different keys", line)
        yield record


class _Plans:
    """The plan for each set of keys, in the order in which an object has them."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rules = rules_of(columns)
        self._plans: dict[tuple[str, ...], Plan] = {}

    def under(self, keys: tuple[str, ...]) -> Plan:
        plan = self._plans.get(keys)
        if plan is None:
            if len(self._plans) == PLANS_LIMIT:
                self._plans.clear()
            header = understand(keys, self._columns, self._rules)
            plan = self._plans[keys] = Plan(header, self._columns, keyed=True)
        return plan


def _json_block(plans: _Plans, block: list[JsonRecord], number: int) -> list[Row | BadRow]:
    """Return the rows of *block*, the first of which is *number*."""
    lines, _, records, flaws = zip(*block, strict=True)
    keys = set(map(tuple, records))
    if len(keys) == 1 and not any(flaws):
        fields = plans.under(*keys).accept(records)
        if fields is not None:
            return list(map(Row, count(number), lines, fields))
    return [
        plans.under(tuple(value)).judge(row, line, value, found)
        for row, (line, _, value, found) in enumerate(block, number)
    ]


def _other_json(line: bytes) -> str:
    """Tell what the file seems to be, when its first line starts no object on one line."""
    text = line.strip()
    if text == b"[" or text.startswith(b"[{"):
        return "the file is one JSON array; write one object a line, without brackets and commas"
    if text == b"{":
        return "the object spans several lines; write one object a line"
    if text[:1] not in (b"{", b"[") and re.search(rb"sync_?id.*,|,.*sync_?id", text, re.IGNORECASE):
        return "the file seems to be CSV; use --format csv"
    return ""


def _csv_cells(file: InputFile, width: int) -> Iterator[Record]:
    found = csv_records(file, Trace())
    _, _, names, _ = next(found, (0, [], [], ()))
    kept = [index for index, name in enumerate(names) if not name.startswith(DROPPED_PREFIX)]
    for number, (line, _, cells, _) in enumerate(found, 1):
        texts = [encodable(cells[index]) if index < len(cells) else "" for index in kept]
        surplus = map(encodable, cells[len(names) :])
        yield Record(number, line, (*texts[:width], *surplus))


def _csv_told(file: InputFile, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    found = csv_records(file, Trace())
    _, _, header, _ = next(found, (0, [], [], ()))
    places = [header.index(name) if name in header else len(header) for name in names]
    for _, _, cells, _ in found:
        within = cells[: len(header)]
        yield tuple(within[at] if at < len(within) else "" for at in places)


def _json_told(file: InputFile, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for _, raw, value, _ in json_records(file, Trace()):
        cells = cells_of(raw) if value else {}
        yield tuple(cells.get(name, "") for name in names)


def _object(record: JsonRecord) -> dict[str, Any]:
    _, raw, value, flaws = record
    if flaws or not value:
        return {"unreadable": raw.decode("utf-8", "backslashreplace")}
    return {key: v for key, v in values_of(raw).items() if not key.startswith(DROPPED_PREFIX)}


def _json_cells(file: InputFile, rules: dict[str, Rule], names: Sequence[str]) -> Iterator[Record]:
    for number, (line, raw, value, _) in enumerate(json_records(file, Trace()), 1):
        if value:
            cells = cells_of(raw)
            texts = [
                "" if name in rules and value.get(name) is None else cells.get(name, "")
                for name in names
            ]
        else:
            text = raw.decode("utf-8", "backslashreplace")
            texts = [text, *([""] * (len(names) - 1))]
        yield Record(number, line, tuple(texts))
