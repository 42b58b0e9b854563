"""Turns the cells under one header into a row, or says everything that is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import contains, itemgetter
from typing import Any, TypeAlias

import msgspec

from runner.errors import Problem
from runner.model import Row, encode_json
from runner.rows.columns import SYNC_ID, USER_ID, Columns, Header, Place
from runner.rows.text import SHOWN_LIMIT, encodable, has_surrogate, is_blank, shown

Accept: TypeAlias = Callable[[Iterable[Any]], list[dict[str, str]] | None]

ID_SHOWN_LIMIT = 1024
"""Characters of an ID that a bad row carries; longer ones are cut."""


class BadRow(msgspec.Struct, frozen=True):
    """One input record that cannot become a row, and everything that is wrong with it."""

    number: int
    """1 for the first data row."""
    line: int
    """The line of the file it starts on."""
    sync_id: str
    """As far as it can be told; may be empty."""
    user_id: str
    """As far as it can be told; may be empty."""
    problems: tuple[Problem, ...]


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong with a record before anybody asks what it means."""

    reason: str
    value: str = ""
    index: int | None = None
    """The cell; None: the whole record, whose cells then mean nothing."""
    column: str = ""
    """The key, where cells have keys."""

    def under(self, names: Sequence[str]) -> Problem:
        """Return the problem that this is under a header of those *names*."""
        column = self.column if self.index is None else names[self.index]
        return Problem(0, shown(column), shown(self.value), self.reason)


class Plan:
    """How to read every record that has the same header or the same keys."""

    def __init__(self, header: Header, columns: Columns, *, keyed: bool) -> None:
        """Prepare for cells in a list, or with *keyed* for values in a mapping."""
        self.header = header
        self._columns = columns
        self._keyed = keyed
        self._owned = [field.name for field in columns.owned]
        # Foreign ones and the zone come last: they are looked at, but not taken into the row.
        order = ("owned", "sync", "user", "expected", "foreign", "zone")
        self._places = sorted(header.places, key=lambda place: order.index(place.rule.role))
        self.accept = _later if header.problems or header.missing else self._quick()
        """Return the fields of all records, if each is right beyond doubt.

        None says nothing against any of them: ask `judge` about each. The number
        of cells must be right, and no cell, known or not, may hold NUL.
        """

    def _quick(self) -> Accept:
        """Return a function that looks at all known cells of a record with one match."""
        wanted = [place for place in self._places if place.rule.role not in ("foreign", "zone")]
        patterns = [self._pattern(place) for place in self._places]
        if not all(patterns):
            return _later
        owned = sum(place.rule.role == "owned" for place in wanted)
        # No cell holds NUL, so each part of the pattern sees its own cell and no other.
        some = rf"(?!\0{{{owned}}})" if self._columns.value_required else ""
        pattern = some + "\0".join(patterns)
        match = re.compile(pattern, re.ASCII).fullmatch
        pick = itemgetter(*map(self._at, self._places))
        names = tuple(place.rule.name for place in wanted)
        lowered = [index for index, place in enumerate(wanted) if place.rule.lower]

        def accept(records: Iterable[Any]) -> list[dict[str, str]] | None:
            values = list(map(pick, records))
            try:
                if not all(map(match, map("\0".join, values))):
                    return None
            except TypeError:
                return None  # a value that is no text
            # Foreign values and the zone, which are last, find no name and are left out.
            if any(map(contains, values, repeat(""))):
                given = (zip(names, cells, strict=False) for cells in values)
                fields = [{name: value for name, value in pairs if value} for pairs in given]
                for name in [names[index] for index in lowered]:
                    for each in fields:
                        if name in each:
                            each[name] = each[name].lower()
                return fields
            if any(map(_has_upper, repeat(values), lowered)):
                rows = list(zip(*values, strict=True))
                for index in lowered:
                    rows[index] = tuple(map(str.lower, rows[index]))
                values = list(zip(*rows, strict=True))
            return list(map(dict, map(zip, repeat(names), values)))

        return accept

    def _pattern(self, place: Place) -> str:
        """Return what a cell at *place* must match to be right beyond doubt."""
        rule = place.rule
        required = (
            rule.role == "sync"
            or (rule.role == "user" and self._columns.user_required)
            or (rule.role == "zone" and self._columns.zone_required)
        )
        return f"(?:{rule.pattern}{'' if required else '|'})" if rule.pattern else ""

    def judge(
        self,
        number: int,
        line: int,
        cells: Sequence[Any] | Mapping[str, Any],
        flaws: Sequence[Flaw],
    ) -> Row | BadRow:
        """Return the row that *cells* make, or every reason why they make none."""
        whole = any(flaw.index is None and not flaw.column for flaw in flaws)
        problems = [flaw.under(self.header.names) for flaw in flaws]
        fields: dict[str, str] = {}
        if not whole:
            problems += self.header.problems
            told = {problem.column for problem in problems} | self.header.alike
            for place in self._places:
                reason = self._take(place, cells, fields) if place.name not in told else ""
                if reason:
                    value = _text(cells[self._at(place)])  # type: ignore[index]  # place and cells are of one kind
                    problems.append(Problem(0, place.name, shown(value), reason))
            told |= {problem.column for problem in problems}
            problems += self._not_given(fields, told)
        fields.pop(self._columns.zone or "", None)
        if not problems:
            return Row(number, line, fields)
        order = self.header.names
        problems.sort(key=lambda p: order.index(p.column) if p.column in order else len(order))
        ids = (self._id_in(cells, SYNC_ID), self._id_in(cells, USER_ID)) if not whole else ("", "")
        placed = tuple(Problem(line, p.column, p.value, p.reason, number) for p in problems)
        return BadRow(number, line, *ids, placed)

    def swallowed(self, cells: Sequence[str]) -> bool:
        """Tell whether a cell holds lines that are rows: a quote was closed far too late."""
        width = len(self.header.names)
        inner = (line.split(",") for cell in cells for line in cell.splitlines()[1:])
        return any(len(parts) == width and self.accept([parts]) for parts in inner)

    def _take(self, place: Place, cells: Any, fields: dict[str, str]) -> str:
        """Put the value at *place* into *fields*, or return why it may not stand there."""
        value = cells[self._at(place)]
        if value is None:
            return ""
        if not isinstance(value, str):
            return _not_text(value, place)
        if is_blank(value) or has_surrogate(value):
            return ""
        if reason := place.rule.fault(value):
            return reason
        fields[place.rule.name] = value.lower() if place.rule.lower else value
        return ""

    def _not_given(self, fields: dict[str, str], told: set[str]) -> list[Problem]:
        """Return a problem for each thing that a row must have and *fields* lacks.

        Columns that were *told* about have their own problem already.
        """
        named = {place.rule.name: place.name for place in self._places}
        names = [SYNC_ID, USER_ID] if self._columns.user_required else [SYNC_ID]
        problems = [
            Problem(0, named.get(name, name), "", "is required")
            for name in names
            if name not in fields and named.get(name, name) not in told
        ]
        zone = self._columns.zone
        if zone and self._columns.zone_required and zone not in fields and zone not in told:
            reason = "is required; or name a zone for such rows, as in --at 02:00@Europe/Berlin"
            problems.append(Problem(0, zone, "", reason))
        given = any(name in fields or named.get(name, name) in told for name in self._owned)
        if self._columns.value_required and not given:
            what = " or ".join(named.get(name, name) for name in self._owned)
            problems.append(Problem(0, "", "", f"changes nothing; give a value for {what}"))
        return problems

    def _at(self, place: Place) -> int | str:
        return place.name if self._keyed else place.index

    def _id_in(self, cells: Any, name: str) -> str:
        for place in self._places:
            if place.rule.name == name:
                value = cells[self._at(place)]
                return encodable(value[:ID_SHOWN_LIMIT]) if isinstance(value, str) else ""
        return ""


def _later(records: Iterable[Any]) -> list[dict[str, str]] | None:
    """Leave every record to `judge`."""
    return None


def _has_upper(values: Iterable[Sequence[str]], index: int) -> bool:
    """Tell whether any value at *index* is changed by lower-casing."""
    text = "".join(map(itemgetter(index), values))
    return text != text.lower()


def _not_text(value: object, place: Place) -> str:
    if isinstance(value, bool):
        kind = "true or false"
    elif isinstance(value, dict):
        kind = "an object"
    elif isinstance(value, list):
        kind = "an array"
    else:
        kind = "a number"
        if place.rule.role in ("sync", "user"):
            kind += ", which may lose digits"
    return f"must be text in double quotes, not {kind}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return encode_json(value)[: 4 * SHOWN_LIMIT + 4].decode("utf-8", "ignore")
