"""Carries shards of one run at one worker, from a copy of the run that it has fetched itself."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from runner.account import index_of
from runner.asking import Asker
from runner.attempt import Clocks
from runner.carrier import Carrier
from runner.engine import GivenUp, Shard
from runner.errors import DatabaseAway, LostTouch
from runner.folder import Manifest
from runner.opening import Opened, reopen
from runner.postgres.board import SqlBoard
from runner.postgres.database import GONE, connected
from runner.postgres.journals import Attempt, Keeper, Place, ends_of
from runner.postgres.store import fetch, shards_into
from runner.record import REPORT, UNDO, Record
from runner.results import Index
from runner.secret import Secret
from runner.settings import Places, Resolved
from runner.slicing import slice_up
from runner.throttle import LeasedPacer

_START_PER_S = 60.0
_PATIENCE_S = 5.0
_LOOK_EVERY_S = 0.02
_FAREWELL_S = 1.0
_ATTEMPTS = ".attempts"


class Hand:
    """One run at one worker. Enter it, have it carry shards, leave it; belongs to one loop."""

    def __init__(
        self,
        dsn: Secret,
        run: str,
        session: int,
        *,
        resolved: Resolved,
        scratch: Path,
        worker: str,
        on_read: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        """*resolved* has the worker's own key; the run's copy goes into *scratch*."""
        self._dsn = dsn
        self._run = run
        self._session = session
        self._resolved = msgspec.structs.replace(resolved, places=Places(scratch))
        self._worker = worker
        self._on_read = on_read
        self._warn = warn
        self._merging = anyio.Lock()
        self._merged = 1
        """The shards of the batches before this one are part of the copy's own journals."""
        self.busy = 0
        """Shards that it carries."""
        self.used_at = time.monotonic()

    async def __aenter__(self) -> Self:
        """Fetch the run, check its input, connect.

        Raises `SyncshiftError`, and what psycopg raises.
        """
        async with AsyncExitStack() as stack:
            self._opened = opened = await anyio.to_thread.run_sync(self._open)
            stack.callback(opened.folder.unlock)
            stack.callback(opened.tokens.close)
            settings = opened.settings
            self.board = await stack.enter_async_context(
                SqlBoard(
                    self._dsn,
                    self._run,
                    self._session,
                    worker=self._worker,
                    base_url=settings.base_url,
                    on_read=self._on_read,
                )
            )
            pacer = LeasedPacer(_START_PER_S)
            share = await self.board.join()
            self._asker = Asker(
                msgspec.structs.replace(settings, concurrency=share),
                clocks=Clocks(time.monotonic, time.time, random.random),
                users=opened.checked.users,
                pacer=pacer,
                alone=False,
                guard=self.board.is_fresh,
            )
            self._index = await anyio.to_thread.run_sync(index_of, opened.folder)
            self.carrier = Carrier(
                opened,
                self._asker,
                self.board,
                index=self._index,
                opens=self._opens,
                slices=await anyio.to_thread.run_sync(slice_up, opened),
                pacer=pacer,
            )
            asking = self._asker.asking(opened.job, opened.tokens, tell=self.carrier.tell)
            self._exchanger = await stack.enter_async_context(asking)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.push_async_callback(self._end, group)
            group.start_soon(self._lease)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _end(self, group: anyio.abc.TaskGroup) -> None:
        # Nobody may ask once there is no way to: whoever carries a shard ends first.
        self._asker.stop(LostTouch("this worker lets go of the run"))
        with anyio.move_on_after(_PATIENCE_S, shield=True):
            while self.busy:
                self.carrier.nudge()
                await anyio.sleep(_LOOK_EVERY_S)
        if not self.board.is_lost:
            with anyio.move_on_after(_FAREWELL_S, shield=True), contextlib.suppress(*GONE):
                await self.board.farewell()
        group.cancel_scope.cancel()

    @property
    def is_spent(self) -> bool:
        """Whether it can carry nothing any more: it lost touch, or the run was stopped."""
        return self.board.is_lost or self._asker.stop.reason is not None

    async def carry(self, number: int) -> None:
        """Carry what is left of a shard to its end; at once when nothing is.

        Raises `GivenUp` when that was not to be, and what psycopg raises.
        """
        batch = await self.board.batch_of(number)
        async with self._merging:
            if batch is not None and batch > self._merged:
                batches = range(self._merged, batch)
                await anyio.to_thread.run_sync(self._merge, batches)
                self._merged = batch
        begun = await self.board.begin(number)
        if begun is None:
            return
        self.busy += 1
        try:
            await self.carrier.carry(begun.shard, self._exchanger, began=begun.began)
        finally:
            self.busy -= 1
            self.board.done()
            self.used_at = time.monotonic()

    def leave(self) -> None:
        """Let what is in flight land, and leave the rest of every shard to others."""
        self.board.leave()
        self.carrier.nudge()

    async def _lease(self) -> None:
        try:
            await self.carrier.lease()
        except GivenUp:
            # Whoever carries shards hears of it from the board, with the next word.
            self._asker.stop(LostTouch("the database is away"))

    def _open(self) -> Opened:
        runs_dir = self._resolved.places.runs_dir
        fetch(self._dsn, runs_dir, self._run, shards=False)
        return reopen(self._run, self._resolved, admit=_any, warn=self._warn)

    def _merge(self, batches: range) -> None:
        with connected(self._dsn) as connection:
            shards_into(connection, self._run, self._opened.folder.path, batches=batches)
        self._index.extend()

    async def _opens(self, shard: Shard, tell: Callable[..., None]) -> tuple[Record, Index]:
        try:
            ends, index = await anyio.to_thread.run_sync(self._read, shard)
        except DatabaseAway:
            raise GivenUp from None
        attempt = Attempt(self._run, shard.number, shard.fence)
        keeper = Keeper(self._dsn, attempt, ends)
        here = self._opened.folder.path
        record = Record(here, clock=time.monotonic, wall_clock=time.time, tell=tell, store=keeper)
        return record, index

    def _read(self, shard: Shard) -> tuple[dict[str, Place], Index]:
        place = self._opened.folder.path / _ATTEMPTS / f"{shard.number}-{shard.fence}"
        with connected(self._dsn) as connection:
            ends = ends_of(connection, self._run, shard.number, place)
        return ends, Index.read(undo=place / UNDO, report=place / REPORT)


def _any(manifest: Manifest) -> None:
    """Let any run be carried: whoever leads it has seen to it that it may be."""
