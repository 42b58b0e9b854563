"""The engine of many machines, as the one who leads a run has it.

It looks into the database ten times a second, and says there what holds. While the database is
away nothing is known of the workers but that they send nothing; it waits, as long as it may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import psycopg

from runner.engine import Event, Held, Progress, Reason, Shard
from runner.errors import DatabaseAway, SyncshiftError
from runner.folder import Folder
from runner.postgres.common import Common, Standing
from runner.postgres.database import GONE, Row, away, backoff_s, connected
from runner.postgres.lead import Lead, Wish
from runner.postgres.store import shards_into
from runner.postgres.submitting import defer
from runner.secret import Secret
from runner.waits import Waits

AWAY = "database"
_LOOK_EVERY_S = 0.1

_T = TypeVar("_T")


class Afar:
    """The engine of one run, led here. Belongs to one event loop; `run` has it work."""

    def __init__(
        self,
        dsn: Secret,
        lead: Lead,
        folder: Folder,
        common: Common,
        *,
        parts: Callable[[int], int],
        patience_s: float,
        waits: Waits,
        standing: Callable[[float], tuple[Held, ...]],
        clock: Callable[[], float],
        heed: Callable[[str, Event], None],
        on_fault: Callable[[SyncshiftError], None],
    ) -> None:
        """*parts* tells into how many shards so many rows are cut.

        *standing* tells why nobody moves, as people and the clock have it. *heed* takes what
        happened at a worker, and *on_fault* is told when the run cannot be led any more.
        """
        self._dsn = dsn
        self._lead = lead
        self._folder = folder
        self._common = common
        self.parts = parts
        self._patience_s = patience_s
        self._waits = waits
        self._standing = standing
        self._clock = clock
        self._heed = heed
        self._on_fault = on_fault
        self._connection: psycopg.Connection[Row] | None = None
        self._asking = anyio.Lock()
        self._wish = Wish()
        self._open = self._there = self._batch = self._gathered = 0
        self._over = anyio.Event()
        self._fault: SyncshiftError | None = None
        self.began = ""
        """When the run, or its wave, began to send."""

    # What the conductor asks for.

    @property
    def stop(self) -> Reason | None:
        """Why the run ends."""
        return self._common.sums.stop

    @property
    def left(self) -> Reason | None:
        """Why rows were left although the run went on to its end."""
        return self._common.sums.left

    async def submit(self, shards: Sequence[Shard]) -> None:
        """Have *shards* carried from now on. Returns once that is certain, or cannot be."""
        self._batch += 1
        self._over = anyio.Event()
        self._open = len(shards)
        manifest = self._folder.read()
        enter = partial(self._lead.enter, shards, self._batch, self.began, manifest)
        try:
            await self._ask(enter)
            await defer(self._dsn, self._lead.led, shards)
        except SyncshiftError as fault:
            self._fail(fault)

    async def over(self) -> Progress:
        """Return once every shard is over, or the run was canceled and all has landed."""
        await self._over.wait()
        return self.observe()

    def observe(self) -> Progress:
        """Return how far they are, as it was a moment ago."""
        progress = self._common.ledger.progress(workers=self._there)
        return msgspec.structs.replace(progress, left=self._open)

    def cancel(self, reason: SyncshiftError) -> None:
        """Let nobody take another row, or send anything more; what is in flight may land."""
        self._wish = msgspec.structs.replace(self._wish, stop=self._wish.stop or Reason.of(reason))

    async def gather(self) -> None:
        """Make what the shards have written part of the run's own journals, here.

        Raises `DatabaseAway`, `DiskFault`.
        """
        if self._gathered < self._batch and self._fault is None:
            batches, self._gathered = range(self._gathered + 1, self._batch + 1), self._batch
            run, path = self._lead.led.run, self._folder.path
            await self._ask(lambda known: shards_into(known, run, path, batches=batches))

    # What `set` changes.

    def set_rate(self, rate: float) -> None:
        """Lease departures at *rate* from now on."""
        self._wish = msgspec.structs.replace(self._wish, rate=rate)

    def set_concurrency(self, concurrency: int) -> None:
        """Have so many requests in flight at most, over all workers."""
        self._wish = msgspec.structs.replace(self._wish, concurrency=concurrency)

    def set_max_failures(self, text: str) -> None:
        """Have another failure limit hold."""
        self._wish = msgspec.structs.replace(self._wish, max_failures=text)

    def set_resyncs(self, most: int) -> None:
        """Have so many re-syncs unfinished at most, over all workers."""
        self._wish = msgspec.structs.replace(self._wish, resyncs=most)

    # Its life.

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Look and say until canceled, or until the run cannot be led any more."""
        task_status.started()
        try:
            while True:
                await self._turn()
                await anyio.sleep(_LOOK_EVERY_S)
        except SyncshiftError as fault:
            self._fail(fault)
        finally:
            if self._connection is not None:
                self._connection.close()

    def _fail(self, fault: SyncshiftError) -> None:
        self._fault = fault
        self._on_fault(fault)
        self._over.set()

    async def _turn(self) -> None:
        now = self._clock()
        wall = self._standing(now)
        standing = tuple(Standing(held.reason, held.detail, held.left_s) for held in wall)
        wish = msgspec.structs.replace(self._wish, standing=standing)
        batch = self._batch
        seen = await self._ask(partial(self._lead.turn, wish))
        self._common, self._open, self._there = seen.common, seen.open, seen.there
        for worker, event in seen.events:
            self._heed(worker, event)
        # A batch that was submitted meanwhile is not in what was seen.
        if not seen.open and batch == self._batch and batch == seen.batch:
            self._over.set()

    async def _ask(self, do: Callable[[psycopg.Connection[Row]], _T]) -> _T:
        """Do something in a thread, again and again while the database is away.

        Raises `DatabaseAway` when that lasts longer than --max-outage, and what *do* raises.
        """
        gone_at: float | None = None
        tries = 0
        async with self._asking:
            while True:
                try:
                    found = await anyio.to_thread.run_sync(self._do, do)
                except (DatabaseAway, *GONE) as error:
                    self._drop()
                    gone_at = self._clock() if gone_at is None else gone_at
                    self._waits.begin(AWAY, "PostgreSQL cannot be reached, and nobody sends")
                    if self._clock() - gone_at > self._patience_s:
                        self._waits.end(AWAY)
                        raise away(self._dsn, error) from None
                else:
                    self._waits.end(AWAY)
                    return found
                await anyio.sleep(backoff_s(tries))
                tries += 1

    def _do(self, do: Callable[[psycopg.Connection[Row]], _T]) -> _T:
        if self._connection is None:
            self._connection = psycopg.connect(self._dsn.reveal(), autocommit=True)
        return do(self._connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def hand_in(dsn: Secret, lead: Lead, folder: Folder) -> None:
    """Have the database know how a run ended, and let go of it. Raises `DatabaseAway`."""
    with connected(dsn) as connection:
        lead.hand_in(connection, folder.read())
