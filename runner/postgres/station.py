"""A worker: carries shards of any run, leads runs that nobody follows, looks after the queue.

While the database is away it lets go of everything, sends nothing, and waits. What it had taken
is put back by whoever is there first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException

from runner.errors import DatabaseAway, SyncshiftError
from runner.log import diagnostics
from runner.postgres.board import CHANNEL
from runner.postgres.crew import Crews
from runner.postgres.database import GONE, away, backoff_s
from runner.postgres.errands import Errands
from runner.postgres.scheduling import begin_due, due_of
from runner.postgres.schema import must_be_ready
from runner.postgres.slots import Slot, Slots
from runner.postgres.tasks import (
    BEGIN,
    LEADING,
    LET_GO_S,
    RETURNED,
    SHARDS,
    SLOT,
    STATION,
    UPKEEP,
    Taker,
    carrying,
    connector_to,
    keeping,
    taker,
)
from runner.postgres.upkeep import return_stalled
from runner.secret import Secret
from runner.settings import Resolved

_LED_AT_ONCE = 20
_LOOK_EVERY_S = 1.0
_RETURNED_AT_ONCE = 8


class Station:
    """One worker process. Belongs to one event loop."""

    def __init__(self, dsn: Secret, resolved: Resolved, *, warn: Callable[[str], None]) -> None:
        """*resolved* has the worker's own key, and the folder for what it fetches."""
        self._dsn = dsn
        self._patience_s = resolved.settings.max_outage_s
        self._drain_s = resolved.settings.drain_s
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._scratch = resolved.places.runs_dir / f".worker-{os.getpid()}-{secrets.token_hex(3)}"
        self._errands = Errands(dsn, self._scratch / "led")
        self._crews = Crews(
            dsn,
            resolved,
            scratch=self._scratch,
            worker=self.name,
            on_read=self._read,
            warn=warn,
        )
        self._slots: Slots | None = None
        self._keepers: list[Taker] = []
        self._told: set[str] = set()
        """Schedules of which it was said that they are left to others."""
        self._leaving = False

    async def work(self) -> None:
        """Carry what comes until told to leave.

        Raises `EngineNotReady`, and `DatabaseAway` when the database was away for longer than
        --max-outage.
        """
        for name in ("procrastinate", "psycopg"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        asyncio.get_running_loop().set_exception_handler(_complain)
        there_at, tries = time.monotonic(), 0
        try:
            while not self._leaving:
                try:
                    await anyio.to_thread.run_sync(must_be_ready, self._dsn)
                    tries = 0
                    await self._attend()
                except DatabaseAway as error:
                    there_at = there_at if tries else time.monotonic()
                    if time.monotonic() - there_at > self._patience_s:
                        raise
                    if not tries:
                        diagnostics().warning("database.away", why=str(error))
                    await anyio.sleep(backoff_s(tries))
                    tries += 1
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def leave(self) -> None:
        """Take nothing more, let what is in flight land, and leave the rest to others."""
        self._leaving = True
        self._errands.leave()
        self._crews.leave()
        if self._slots is not None:
            self._slots.close(self._drain_s + LET_GO_S)
        for worker in self._keepers:
            worker.shutdown_graceful_timeout = self._drain_s
            worker.stop()

    # What its tasks ask for.

    async def carry(self, slot: Any, run: str, session: int, number: int) -> None:
        """Carry a shard. Raises when that was not to be, and the shard is for another try."""
        slots = self._slots if isinstance(slot, Slot) else None
        if slots is not None:
            slots.take(slot, number)
        try:
            await self._crews.carry(run, session, number)
        finally:
            if slots is not None:
                slots.done(slot)

    async def lead(self, run: str) -> None:
        """Lead a run to its end, by a process of its own. Raises `Killed`."""
        await self._errands.run(["resume", run, "--yes", "--quiet"], run=run)

    async def begin(self, schedule: str, run: str) -> None:
        """Begin the run of a schedule and lead it, by a process of its own. Raises `Killed`."""
        due = await anyio.to_thread.run_sync(due_of, self._dsn, schedule, run)
        if due is None:
            return
        if due.is_begun:
            await self.lead(run)
            return
        job, *words = due.words
        place = self._scratch / "inputs" / run
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = place / due.input
        await anyio.to_thread.run_sync(path.write_bytes, due.data)
        usual = ["--engine", "postgres", "--run-id", run, "--yes", "--quiet"]
        await self._errands.run(["run", job, str(path), *usual, *words], run=run)

    async def return_stalled(self) -> None:
        """Put back what dead workers had taken."""
        await return_stalled(self._app)

    # Its life, from a connection to the loss of it.

    async def _attend(self) -> None:
        """Work until the database is lost, or told to leave. Raises `DatabaseAway`."""
        connector, lost = connector_to(self._dsn), None
        try:
            async with AsyncExitStack() as stack:
                self._app = stack.enter_context(keeping.replace_connector(connector))
                shards = stack.enter_context(carrying.replace_connector(connector))
                await stack.enter_async_context(self._app.open_async())
                group = await stack.enter_async_context(anyio.create_task_group())
                self._slots = Slots(lambda: self._slot(shards))
                group.start_soon(self._crews.run)
                group.start_soon(self._listen)
                group.start_soon(self._look_at_schedules)
                group.start_soon(self._keep, self._app, UPKEEP, 1)
                group.start_soon(self._keep, self._app, LEADING, _LED_AT_ONCE)
                group.start_soon(self._keep, shards, RETURNED, _RETURNED_AT_ONCE)
                await self._slots.run()
                group.cancel_scope.cancel()
        except* (ConnectorException, *GONE) as errors:
            lost = _first(errors)  # Python 3.11.2 would raise what is raised here in a group
        finally:
            self._slots = None
        if lost is not None:
            raise away(self._dsn, lost) from None

    def _slot(self, shards: procrastinate.App) -> Slot:
        slot = Slot()
        slot.worker = self._taker(shards, SHARDS, slot=slot)
        return slot

    async def _keep(self, app: procrastinate.App, queue: str, many: int) -> None:
        while not self._leaving:
            worker = self._taker(app, queue, many=many)
            self._keepers.append(worker)
            try:
                await worker.run()
            finally:
                self._keepers.remove(worker)

    def _taker(
        self, app: procrastinate.App, queue: str, *, many: int = 1, slot: Slot | None = None
    ) -> Taker:
        context = {STATION: self, SLOT: slot}
        return taker(app, queue, many=many, name=self.name, context=context)

    async def _listen(self) -> None:
        """Have every shard of a run say a word when the run has news for all."""
        connection = await psycopg.AsyncConnection.connect(self._dsn.reveal(), autocommit=True)
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}".encode())
            async for notice in connection.notifies():
                self._crews.nudge(notice.payload)

    async def _look_at_schedules(self) -> None:
        async def begin(name: str, run: str) -> None:
            deferrer = self._app.configure_task(BEGIN, queue=LEADING)
            await deferrer.defer_async(schedule=name, run=run)

        connection = await psycopg.AsyncConnection.connect(self._dsn.reveal(), autocommit=True)
        async with connection:
            while True:
                for name, error in (await begin_due(connection, begin)).items():
                    if name not in self._told:
                        self._told.add(name)
                        diagnostics().warning("schedule.left", schedule=name, error=str(error))
                await anyio.sleep(_LOOK_EVERY_S)

    def _read(self, number: int) -> None:
        if self._slots is not None:
            self._slots.read(number)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of what went wrong in a task nobody waits for.

    A task of the queue that was put back meanwhile cannot be ended any more: that is as it
    should be, and so is one that could not be ended because the database is away.
    """
    error = context.get("exception")
    if not isinstance(error, (ConnectorException, SyncshiftError, asyncio.CancelledError)):
        loop.default_exception_handler(context)
