"""Deals the rows of an input out over the waves of its run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat

import msgspec

from runner.check import changes
from runner.forecast import PLAN
from runner.judged import GateJudged
from runner.model import Change, FindingKind
from runner.opening import Opened
from runner.results import Findings
from runner.rollout import Draw, Waves
from runner.rows import read, told

INTEGRATION = "integration"
"""The column of an input that says to which integration a sync belongs, where it has one."""


class Wave(msgspec.Struct, frozen=True):
    """One slice of a run."""

    number: int
    """1 for the first."""
    rows: int
    """How many it has, whether they have ended or not."""
    is_last: bool


class Slices:
    """The waves of one run, and which row is in which; a byte a row."""

    def __init__(self, sizes: tuple[int, ...], of_row: bytes) -> None:
        """*of_row* has the wave of each row, at the place of its number; 0: none."""
        self._of_row = of_row
        self.waves = tuple(
            Wave(number, rows, number == len(sizes)) for number, rows in enumerate(sizes, 1)
        )

    def takes(self, wave: Wave) -> Callable[[int], bool]:
        """Return what tells whether a row is carried with *wave*.

        Rows that are in no wave, for nothing is to be sent for them, go with any.
        """
        of_row, carried = self._of_row, (0, wave.number)
        return lambda row: of_row[row] in carried

    def rows_of(self, wave: Wave) -> array[int]:
        """Return the rows of *wave*, in input order: four bytes each."""
        rows, of_row, number = array("I"), self._of_row, bytes((wave.number,))
        row = of_row.find(number)
        while row >= 0:
            rows.append(row)
            row = of_row.find(number, row + 1)
        return rows

    def ahead(self, gates: Sequence[GateJudged]) -> tuple[Wave, ...]:
        """Return the waves that are not behind a gate which was passed, in order."""
        return self.waves[sum(gate.passed for gate in gates) :]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many rows each wave has."""
        return tuple(wave.rows for wave in self.waves)


def sizes_of(opened: Opened) -> tuple[int, ...]:
    """Return how many rows each wave of a run will have; one for a run without waves.

    Of a run that was planned, rows that it will not change are all in the last one.
    Raises `SettingsError`.
    """
    checked, waves = opened.checked, opened.settings.waves
    rows = checked.valid - checked.duplicates
    if waves is None:
        return (rows,)
    drawn = rows
    if opened.manifest.planned is not None:
        found = Findings(opened.folder.path / PLAN).counts
        drawn = min(rows, found[FindingKind.CHANGE])
    *first, last = Waves.parse(waves).sizes(drawn) or (0,)
    return (*first, last + rows - drawn)


def slice_up(opened: Opened) -> Slices | None:
    """Return the waves of a run; None: it has none, or all its rows are in one.

    Reads the input; raises as `runner.rows.read` does.
    """
    sizes = sizes_of(opened)
    if len(sizes) == 1:
        return None
    checked, plan = opened.checked, _planned(opened)
    draw = Draw(seed=opened.settings.seed or "", rows=checked.rows)
    others = array("I")
    integrations: Iterator[tuple[str, ...]] = repeat(("",))
    if INTEGRATION in checked.names:
        integrations = told(checked.file, INTEGRATION)
    items = chain.from_iterable(changes(read(checked.file, checked.columns), opened.job))
    for item, (integration,) in zip(items, integrations, strict=False):
        if (
            not isinstance(item, Change)
            or checked.first_of(item.row)
            or checked.contradiction(item)
        ):
            continue
        if plan is None or plan.kind(item.row) is FindingKind.CHANGE:
            draw.add(item.row, user_id=item.user_id, integration=integration)
        else:
            others.append(item.row)
    *first, last = sizes
    of_row = bytearray(draw.deal((*first, last - len(others))))
    for row in others:
        of_row[row] = len(sizes)
    return Slices(sizes, bytes(of_row))


def _planned(opened: Opened) -> Findings | None:
    return None if opened.manifest.planned is None else Findings(opened.folder.path / PLAN)
