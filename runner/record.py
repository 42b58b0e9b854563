"""What a run, or a shard of one, writes down: intents before, outcomes after, events meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import anyio

from runner.journal import Committer, Journal
from runner.log import journal_logger
from runner.model import Acceptance, Intent, Outcome, encode_json
from runner.witness import Witness

UNDO = "undo.jsonl"
REPORT = "report.jsonl"
EVENTS = "events.jsonl"


class Store(Protocol):
    """Where journals are kept that lie in no folder."""

    def open(self, name: str) -> Journal:
        """Return the journal of that name, behind its last line."""
        ...

    def committer(self, *journals: Journal) -> Committer:
        """Return what makes lines of these journals durable."""
        ...


class Record:
    """The three journals of one run, written by one group commit. Belongs to one event loop.

    A shard has no events of its own: they are told to whoever leads the run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        wall_clock: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        sync: Callable[[int], None] = os.fdatasync,
        tell: Callable[..., None] | None = None,
        witness: Witness | None = None,
        store: Store | None = None,
    ) -> None:
        """Open the journals of *directory*, cutting torn tails, or those of *store*.

        *tell* takes the events; None: they have a journal as well. *witness* looks on. Raises
        `JournalDamaged`, or `DiskFault` when the disk refuses.
        """
        self._witness = witness
        open_journal = store.open if store else lambda name: Journal.open(directory / name)
        self._undo = open_journal(UNDO)
        report = open_journal(REPORT)
        self._report = journal_logger(report.append, wall_clock=wall_clock)
        journals = [self._undo, report]
        if tell is None:
            events = open_journal(EVENTS)
            tell = journal_logger(events.append, wall_clock=wall_clock).info
            journals.append(events)
        self._tell: Callable[..., None] = tell
        self.committer = (
            store.committer(*journals) if store else Committer(*journals, sync=sync, clock=clock)
        )
        self.durable: Callable[[], asyncio.Future[None]] = self.committer.durable
        """Returns a future that ends once all that was written down is on disk."""

    def intend(self, intent: Intent) -> None:
        """Write down what is about to be sent. It may leave once `durable` says so."""
        self._undo.append(encode_json(intent))

    def accept(self, acceptance: Acceptance) -> None:
        """Write down that the API took a row, whose effect is still to be proved."""
        self._report.info("change.accepted", of=acceptance)

    def settle(self, outcome: Outcome) -> None:
        """Write down how a row ended."""
        self._report.info("change.settled", of=outcome)
        if self._witness is not None:
            self._witness.settled(outcome)

    def tell(self, event: str, **fields: Any) -> None:
        """Write down what the run did; on disk soon, for whoever looks at the run meanwhile."""
        self._tell(event, **fields)
        if self._witness is not None:
            self._witness.told(event, fields)
        # While everybody is held nobody else asks for a commit. If this one fails, the next
        # one that somebody waits for fails alike.
        self.durable().add_done_callback(_let_be)

    async def close(self) -> None:
        """Commit what is left and close the files, even when canceled meanwhile.

        Raises `DiskFault` when that failed.
        """
        with anyio.CancelScope(shield=True):
            await self.committer.close()


def _let_be(commit: asyncio.Future[None]) -> None:
    if not commit.cancelled():
        commit.exception()
