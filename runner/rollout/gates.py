"""The question that is asked after a wave: did it go well enough for the next one to begin.

Pure: it is handed how the rows of a wave ended and what a look at their syncs has shown,
and hands back the verdict. A condition that does not hold fails the gate. A gate is
inconclusive when too little was proved to say anything: fewer than half of the rows that
were changed came as far as they were to be proved, or none, or the record counts that a
condition speaks of could be compared for fewer than half of the syncs.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from fractions import Fraction

import msgspec

from runner.errors import SettingsError
from runner.judged import GateVerdict
from runner.model import Outcome, OutcomeKind, Proof

_COUNTED = ("failed", "errored", "unconfirmed")
_RECORDS = "records"
_HOW = (
    "--gate must be failed=, errored= or unconfirmed= with a number of rows or a percent of the "
    "wave, or records=- with a number or a percent, such as errored=0 or records=-20%"
)
_SAID = {
    "failed": "failed",
    "errored": "went into ERRORED",
    "unconfirmed": "were accepted and not seen in force",
}
_PERHAPS_CHANGED = frozenset(
    {OutcomeKind.UPDATED, OutcomeKind.UNCONFIRMED, OutcomeKind.ERRORED, OutcomeKind.EXHAUSTED}
)
_ORDER = tuple(Proof)


class Condition(msgspec.Struct, frozen=True):
    """What a wave may come to: so many, or such a share, and no more."""

    name: str
    amount: str
    """A number as text, for 0.1 is no exact number otherwise."""
    share: bool
    """Whether it is a percent: of the wave's rows or, of records, of what the sync had."""

    def __str__(self) -> str:
        sign = "-" if self.name == _RECORDS else ""
        return f"{self.name}={sign}{self.amount}{'%' if self.share else ''}"

    def allows(self, count: int, *, of: int) -> bool:
        """Tell whether *count*, of *of* in all, is no more than may be."""
        amount = Fraction(self.amount)
        return count * 100 <= amount * of if self.share else count <= amount


_USUAL = Condition("errored", "0", share=False)


class Gate(msgspec.Struct, frozen=True):
    """The conditions of every gate of a run."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, texts: Collection[str]) -> Gate:
        """Read conditions such as ``errored=0``; that one holds unless *texts* say otherwise.

        Raises `SettingsError`, naming the text that is wrong.
        """
        conditions = tuple(map(_condition, texts))
        names = [condition.name for condition in conditions]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"--gate names {name} twice; got {', '.join(texts)!r}")
        usual = () if _USUAL.name in names else (_USUAL,)
        return cls((*usual, *conditions))

    def __str__(self) -> str:
        return ", ".join(map(str, self.conditions))

    @property
    def counts_records(self) -> bool:
        """Whether it takes the syncs' record counts to judge."""
        return any(condition.name == _RECORDS for condition in self.conditions)

    def judge(self, came: Came) -> tuple[GateVerdict, str, Condition | None, Offender | None]:
        """Return the verdict on a wave, why in words, and the condition and row that decided."""
        for condition in self.conditions:
            if condition.name == _RECORDS:
                for lost in came.losses:
                    if not condition.allows(lost.lost, of=lost.before):
                        return "fail", f"{condition}: {lost}", condition, lost.offender
            elif not condition.allows(count := came.counts[condition.name], of=came.rows):
                first = came.first[condition.name]
                said = f"{count:,} of its {came.rows:,} rows {_SAID[condition.name]}"
                return "fail", f"{condition}: {said}, first {first}", condition, first
        if why := came.too_little(counts_records=self.counts_records):
            return "inconclusive", why, None, None
        return "pass", f"{self}: holds", None, None


def _condition(text: str) -> Condition:
    number = r"(\d{1,9}|\d{1,3}(?:\.\d{1,6})?(?=%))(%?)"
    found = re.fullmatch(rf"(?:({'|'.join(_COUNTED)})=|({_RECORDS})=-){number}", text, re.ASCII)
    if found is None or (found[4] and Fraction(found[3]) > 100):
        raise SettingsError(f"{_HOW}; got {text!r}")
    return Condition(found[1] or found[2], found[3], share=bool(found[4]))


class Offender(msgspec.Struct, frozen=True):
    """A row that speaks against going on."""

    row: int
    sync_id: str
    error: str

    def __str__(self) -> str:
        why = f" ({self.error})" if self.error else ""
        return f"row {self.row:,}, sync {self.sync_id}{why}"


class Loss(msgspec.Struct, frozen=True):
    """A sync that has fewer records than before."""

    offender: Offender
    before: int
    now: int

    @property
    def lost(self) -> int:
        """How many fewer."""
        return self.before - self.now

    @property
    def share(self) -> Fraction:
        """Which part of what it had."""
        return Fraction(self.lost, self.before)

    def __str__(self) -> str:
        return (
            f"{self.offender} had {self.before:,} records and now has {self.now:,} "
            f"(-{float(100 * self.share):.4g}%)"
        )


class Came:
    """What a wave came to, row by row."""

    def __init__(self, *, pardoned: Collection[OutcomeKind] = ()) -> None:
        """Rows that end in a way that is *pardoned* did not fail."""
        self._pardoned = pardoned
        self.rows = 0
        self.changed = 0
        """Rows whose sync was changed, or may have been."""
        self.proved = 0
        """Of these, how many came as far as they were to be proved."""
        self.asked = 0
        """Syncs that were looked at for their record count."""
        self.compared = 0
        """Of these, how many told it, now and before."""
        self.counts = dict.fromkeys(_COUNTED, 0)
        """Rows that speak against going on, by condition; those that failed are all of them."""
        self.first: dict[str, Offender] = {}
        """The first of each."""
        self._most: Loss | None = None
        self._largest: Loss | None = None

    def add(self, outcome: Outcome, target: Proof) -> None:
        """Take in how a row of the wave ended that was to be proved as far as *target*."""
        self.rows += 1
        kind = outcome.outcome
        if outcome.sent and kind in _PERHAPS_CHANGED:
            self.changed += 1
            if kind is OutcomeKind.UPDATED and _reaches(outcome.proof, target):
                self.proved += 1
        if outcome.succeeded or kind in self._pardoned:
            return
        offender = Offender(outcome.row, outcome.sync_id, outcome.error or "")
        for name in ("failed", kind.value):
            self._count(name, offender)

    def errored_since(self, outcome: Outcome, reason: str) -> None:
        """Take in that a row ended well, and that its sync went into ``ERRORED`` after that."""
        error = f"ERRORED since it was proved: {reason}"
        offender = Offender(outcome.row, outcome.sync_id, error)
        for name in ("failed", "errored"):
            self._count(name, offender)

    def counted(self, outcome: Outcome, *, before: int | None, now: int | None) -> None:
        """Take in how many records a sync had, and has; None: not told."""
        self.asked += 1
        if before is None or now is None:
            return
        self.compared += 1
        if now < before:
            loss = Loss(Offender(outcome.row, outcome.sync_id, ""), before, now)
            if self._most is None or loss.lost > self._most.lost:
                self._most = loss
            if self._largest is None or loss.share > self._largest.share:
                self._largest = loss

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The worst losses of records: by share, and in numbers."""
        return tuple(loss for loss in (self._largest, self._most) if loss is not None)

    def too_little(self, *, counts_records: bool) -> str | None:
        """Say why nothing can be said about the wave, if that is so."""
        if not self.changed:
            return f"none of its {self.rows:,} rows was changed, so nothing was shown"
        if not self.proved or 2 * self.proved < self.changed:
            return (
                f"{self.proved:,} of the {self.changed:,} rows that were changed could be proved "
                "as far as they were to be"
            )
        if counts_records and (2 * self.compared < self.asked or not self.compared):
            return f"{self.compared:,} of {self.asked:,} syncs told their record count twice"
        return None

    @property
    def figures(self) -> dict[str, int]:
        """The wave in plain numbers."""
        return {"rows": self.rows, "changed": self.changed, "proved": self.proved, **self.counts}

    def _count(self, name: str, offender: Offender) -> None:
        if name in self.counts:
            self.counts[name] += 1
            self.first.setdefault(name, offender)


def _reaches(proof: Proof | None, target: Proof) -> bool:
    return proof is not None and _ORDER.index(proof) >= _ORDER.index(target)
