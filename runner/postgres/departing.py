"""Departures at one host, leased to one worker of one run out of the row that all share."""

from __future__ import annotations

import anyio
import psycopg

from runner.engine import AHEAD_S, Lease
from runner.postgres.common import decode_line, encode
from runner.postgres.leasing import lease
from runner.secret import Secret

SILENT_MS = 1500
"""A transaction of which nothing is heard for so long is ended by the server."""
_PATIENCE_S = 3.0
_SOON_S = 0.02
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


class Departures:
    """The line of one host, as one worker has it. Belongs to one event loop."""

    def __init__(self, dsn: Secret, base_url: str, *, run: str, worker: str) -> None:
        self._dsn = dsn
        self._base_url = base_url
        self._run = run
        self._worker = worker

    async def open(self) -> None:
        """Connect. Raises what psycopg does."""
        self._connection = await psycopg.AsyncConnection.connect(
            self._dsn.reveal(), autocommit=True
        )
        await self._connection.execute(f"SET idle_in_transaction_session_timeout = {SILENT_MS}")
        # What a crash takes back was due before the server is there again.
        await self._connection.execute("SET synchronous_commit = off")

    async def close(self) -> None:
        """Let go of the connection."""
        await self._connection.close()

    async def lease(self, departures: int, rate: float) -> Lease:
        """Return departures, at most so many, as soon as any are free.

        Raises TimeoutError, and what psycopg does.
        """
        while True:
            with anyio.fail_after(_PATIENCE_S):
                leased = await self._lease(departures, rate)
            if leased.departures:
                return leased
            # Whoever has nothing leased is woken by nothing else.
            await anyio.sleep(max(_SOON_S, leased.begins_in_s - AHEAD_S))

    async def _lease(self, departures: int, rate: float) -> Lease:
        connection = self._connection
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO host (base_url, line) VALUES (%s, '') ON CONFLICT DO NOTHING",
                (self._base_url,),
            )
            found = await connection.execute(
                "SELECT line FROM host WHERE base_url = %s FOR UPDATE", (self._base_url,)
            )
            (kept,) = await found.fetchone() or (b"",)
            # The row may have been waited for: the clock is read once it is ours.
            found = await connection.execute(_NOW)
            (now,) = await found.fetchone() or (0.0,)
            line, leased = lease(
                decode_line(kept) if kept else None,
                run=self._run,
                worker=self._worker,
                rate=rate,
                departures=departures,
                now=now,
            )
            await connection.execute(
                "UPDATE host SET line = %s WHERE base_url = %s", (encode(line), self._base_url)
            )
        return leased
