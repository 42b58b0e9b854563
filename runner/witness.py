"""Looks on while a run goes: is told of each request, each row that ends, and each event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runner.model import Outcome, Verdict


class Witness(Protocol):
    """Looks on. Is called in the run's event loop; never waits, never raises."""

    def attempted(
        self,
        row: int | None,
        method: str,
        verdict: Verdict,
        status: int | None,
        *,
        began_s: float,
        ended_s: float,
    ) -> None:
        """Take in one request of *row*, from leaving to its answer, on the run's steady clock.

        Without a *row* it was made to see whether the server is back.
        """
        ...

    def settled(self, outcome: Outcome) -> None:
        """Take in how a row ended."""
        ...

    def told(self, event: str, fields: Mapping[str, Any]) -> None:
        """Take in one of the run's events."""
        ...


class Witnesses:
    """Several that look on, as one."""

    def __init__(self, several: Sequence[Witness]) -> None:
        self._several = tuple(several)

    def attempted(
        self,
        row: int | None,
        method: str,
        verdict: Verdict,
        status: int | None,
        *,
        began_s: float,
        ended_s: float,
    ) -> None:
        """Tell all of one request."""
        for one in self._several:
            one.attempted(row, method, verdict, status, began_s=began_s, ended_s=ended_s)

    def settled(self, outcome: Outcome) -> None:
        """Tell all how a row ended."""
        for one in self._several:
            one.settled(outcome)

    def told(self, event: str, fields: Mapping[str, Any]) -> None:
        """Tell all of one event."""
        for one in self._several:
            one.told(event, fields)
