"""How far each row has come, read from the journals: nine bytes a row, however long a line is."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec

from runner.errors import RunRefused, SyncshiftError
from runner.journal import Line, Tail, scan
from runner.model import SUCCEEDED, Acceptance, Intent, OutcomeKind

_SETTLED = "change.settled"
_ACCEPTED = "change.accepted"

_KINDS = tuple(OutcomeKind)
_CODES = {kind.value: code for code, kind in enumerate(_KINDS, start=1)}
_CODE = 0x3F
_INTENT_SEEN = 0x40
_ACCEPTED_SEEN = 0x80

_NAMED = 10
"""How many rows an error message names at most."""


class _Reported(msgspec.Struct, gc=False):
    """A line of the report, as far as the index needs it."""

    event: str
    row: Annotated[int, msgspec.Meta(ge=1)]
    outcome: str | None = None


class _Intended(msgspec.Struct, gc=False):
    """A line of the undo log, likewise."""

    row: Annotated[int, msgspec.Meta(ge=1)]


_DECODE_REPORTED = msgspec.json.Decoder(_Reported).decode
_DECODE_INTENDED = msgspec.json.Decoder(_Intended).decode
_DECODE_INTENT = msgspec.json.Decoder(Intent).decode
_DECODE_ACCEPTANCE = msgspec.json.Decoder(Acceptance).decode


class Index:
    """How far each row has come, as the journals have it. Rows are counted from 1.

    Reads only, so it may look at a run that is at work: what it shows is then
    true of one moment during `read` or `extend`. When either raised, throw the
    index away.
    """

    def __init__(self, *, undo: Path, report: Path) -> None:
        """Know of no row yet; `read` makes an index that does."""
        self.undo = undo
        self.report = report
        self.repeated = 0
        """Outcome lines beyond the first of their row; 0 unless a promise was broken."""
        self._marks = bytearray(1)
        self._offsets = array("Q", (0,))
        self._counts = [0] * (len(_KINDS) + 1)
        self._undo_tail = Tail()
        self._report_tail = Tail()

    @classmethod
    def read(cls, *, undo: Path, report: Path) -> Index:
        """Return the index of a run's journals. One that is not there yet counts as empty.

        Raises `JournalDamaged` for a bad line, `RunRefused` for one that this
        version does not understand.
        """
        index = cls(undo=undo, report=report)
        index.extend()
        return index

    def extend(self) -> None:
        """Take in what was written since the last look. Raises as `read` does."""
        # The undo log first: an outcome that lands in between then finds its intent known or
        # missing, and no row that is settled can look as if it were in doubt.
        if self.undo.exists():
            self._extend_undo()
        if self.report.exists():
            self._extend_report()

    def outcome(self, row: int) -> OutcomeKind | None:
        """Return how *row* ended; None: it has not. The last line of a row counts."""
        code = self._mark(row) & _CODE
        return _KINDS[code - 1] if code else None

    def settled(self, row: int) -> bool:
        """Whether *row* has an outcome."""
        return self._mark(row) & _CODE != 0

    def intended(self, row: int) -> bool:
        """Whether an intent of *row* is on record, so that a PATCH may have left."""
        return self._mark(row) & _INTENT_SEEN != 0

    def accepted(self, row: int) -> bool:
        """Whether *row* is on record as accepted and to be proved further."""
        return self._mark(row) & _ACCEPTED_SEEN != 0

    def offset(self, row: int) -> int | None:
        """Return the byte of the report at which the outcome of *row* starts, or None."""
        return self._offsets[row] if self.settled(row) else None

    def in_doubt(self) -> list[int]:
        """Return the rows with an intent that are neither settled nor accepted, in order."""
        return self._rows_marked(_INTENT_SEEN)

    def to_follow(self) -> list[int]:
        """Return the rows that were accepted and are not settled, in order."""
        return sorted(
            self._rows_marked(_ACCEPTED_SEEN) + self._rows_marked(_ACCEPTED_SEEN | _INTENT_SEEN)
        )

    def intents(self, rows: Collection[int]) -> dict[int, Intent]:
        """Return the *first* intent of each of *rows*: its before-image is the true one.

        Memory grows with *rows* alone. Raises as `read` does.
        """
        wanted = set(rows)
        found: dict[int, Intent] = {}
        if not wanted or not self.undo.exists():
            return found
        for line in scan(self.undo):
            try:
                row = _DECODE_INTENDED(line.data).row
                if row in wanted:
                    wanted.remove(row)
                    found[row] = _DECODE_INTENT(line.data)
            except msgspec.MsgspecError as error:
                raise not_understood(self.undo, f"line {line.seq}", error) from error
            if not wanted:
                break
        return found

    def acceptances(self, rows: Collection[int]) -> dict[int, Acceptance]:
        """Return the first acceptance of each of *rows*, as the report has it.

        Memory grows with *rows* alone. Raises as `read` does.
        """
        wanted = set(rows)
        found: dict[int, Acceptance] = {}
        if not wanted or not self.report.exists():
            return found
        for line in scan(self.report):
            try:
                told = _DECODE_REPORTED(line.data)
                if told.event == _ACCEPTED and told.row in wanted:
                    wanted.remove(told.row)
                    found[told.row] = _DECODE_ACCEPTANCE(line.data)
            except msgspec.MsgspecError as error:
                raise not_understood(self.report, f"line {line.seq}", error) from error
            if not wanted:
                break
        return found

    @property
    def counts(self) -> dict[OutcomeKind, int]:
        """How many rows ended in each way; every way is there, also with 0."""
        return dict(zip(_KINDS, self._counts[1:], strict=True))

    @property
    def succeeded(self) -> int:
        """How many rows count as succeeded."""
        return sum(n for kind, n in self.counts.items() if kind in SUCCEEDED)

    @property
    def failed(self) -> int:
        """How many rows count as failed."""
        return sum(n for kind, n in self.counts.items() if kind not in SUCCEEDED)

    def check(self, rows: int) -> None:
        """Raise `SyncshiftError` when the journals name rows that an input of *rows* has not."""
        beyond = [row for row in range(rows + 1, len(self._marks)) if self._marks[row]]
        if beyond:
            named = ", ".join(map(str, beyond[:_NAMED])) + (", …" if beyond[_NAMED:] else "")
            raise SyncshiftError(
                f"{self.report}: the input has {rows} rows, and the journals name {len(beyond)} "
                f"more (row {named}). They belong to another input; restore the run folder from "
                "a copy"
            )

    def _mark(self, row: int) -> int:
        return self._marks[row] if 0 < row < len(self._marks) else 0

    def _rows_marked(self, mark: int) -> list[int]:
        rows = []
        row = self._marks.find(mark)
        while row >= 0:
            rows.append(row)
            row = self._marks.find(mark, row + 1)
        return rows

    def _extend_undo(self) -> None:
        marks = self._marks
        line = None
        for line in scan(self.undo, start=self._undo_tail):
            try:
                row = _DECODE_INTENDED(line.data).row
            except msgspec.MsgspecError as error:
                raise not_understood(self.undo, f"line {line.seq}", error) from error
            if row >= len(marks):
                self._grow(row)
            marks[row] |= _INTENT_SEEN
        self._undo_tail = _behind(line, self._undo_tail)

    def _extend_report(self) -> None:
        marks, offsets, counts = self._marks, self._offsets, self._counts
        line = None
        for line in scan(self.report, start=self._report_tail):
            try:
                found = _DECODE_REPORTED(line.data)
            except msgspec.MsgspecError as error:
                raise not_understood(self.report, f"line {line.seq}", error) from error
            row = found.row
            if row >= len(marks):
                self._grow(row)
            if found.event == _SETTLED:
                code = _CODES.get(found.outcome or "")
                if code is None:
                    raise not_understood(
                        self.report, f"line {line.seq}", f"outcome {found.outcome!r}"
                    )
                mark = marks[row]
                if mark & _CODE:
                    self.repeated += 1
                    counts[mark & _CODE] -= 1
                marks[row] = mark & ~_CODE | code
                offsets[row] = line.offset
                counts[code] += 1
            elif found.event == _ACCEPTED:
                marks[row] |= _ACCEPTED_SEEN
        self._report_tail = _behind(line, self._report_tail)

    def _grow(self, row: int) -> None:
        # In steps of an eighth: rows come nearly in order, and growing for each would copy often.
        more = max(row + 1, len(self._marks) * 9 // 8) - len(self._marks)
        self._marks.extend(bytes(more))
        self._offsets.frombytes(bytes(more * self._offsets.itemsize))


def _behind(line: Line | None, tail: Tail) -> Tail:
    return tail if line is None else Tail(line.seq, line.offset + len(line.data) + 1)


def not_understood(path: Path, where: str, what: object) -> RunRefused:
    """Return the error for a line that is whole but strange to this version."""
    return RunRefused(
        f"{path}: {where} says what this version of Syncshift does not know ({what}). "
        "Use the version that made the run; run.json names it"
    )
