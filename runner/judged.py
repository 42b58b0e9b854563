"""What the gate behind a wave came to, as it stands in ``run.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

GateVerdict: TypeAlias = Literal["pass", "fail", "inconclusive"]
"""What the gate behind a wave came to. Inconclusive: too little was proved to say anything."""


class GateJudged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to whether a wave went well enough for the next one; stands in ``run.json``."""

    wave: int
    """1 for the first."""
    verdict: GateVerdict
    why: str
    """In words."""
    figures: dict[str, int]
    """The wave in plain numbers: rows, changed, proved, failed, errored, unconfirmed."""
    judged_at: str
    """RFC 3339 in UTC."""
    condition: str | None = None
    """The one that does not hold, as it was given: ``errored=0``."""
    row: int | None = None
    """The first row that speaks against going on."""
    sync_id: str | None = None
    """The sync of that row."""
    passed_by: str | None = None
    """Who went on past it: it was approved, or did not pass by itself."""
    passed_at: str | None = None
    """RFC 3339 in UTC: when the next wave was free to begin."""

    @property
    def passed(self) -> bool:
        """Whether the next wave may begin."""
        return self.passed_at is not None


def standing(gates: Sequence[GateJudged]) -> GateJudged | None:
    """Return the gate that a run stands before, if nobody has passed it."""
    return gates[-1] if gates and not gates[-1].passed else None


def passing(gates: Sequence[GateJudged], *, by: str | None, at: str) -> tuple[GateJudged, ...]:
    """Return *gates* with the last one passed at a moment; by nobody if by itself."""
    return (*gates[:-1], msgspec.structs.replace(gates[-1], passed_by=by, passed_at=at))
