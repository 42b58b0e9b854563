"""A stage for runs over PostgreSQL: a database of its own, and workers as processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from runner.postgres import find_dsn, init
from tests.commands import Command, Stage, until
from tests.servers import Server

RUN = ("run", "migrate-credentials")
AFAR = ("--engine", "postgres", "--yes", "--run-id", "x")


class FieldStage(Stage):
    """Where commands are run over a database. Use it with ``with``."""

    def __init__(self, home: Path, server: Server, **knobs: Any) -> None:
        super().__init__(home, **knobs)
        self.server = server
        self.dsn = server.database()
        self._workers: list[Command] = []
        dsn = find_dsn(flag=self.dsn, file=None, environment={})
        assert dsn is not None
        init(dsn)

    def __enter__(self) -> FieldStage:
        super().__enter__()
        self.environment["SYNCSHIFT_DSN"] = self.dsn
        return self

    def __exit__(self, *error: Any) -> None:
        # Told to leave, they take those with them that lead for them.
        stop_all(self._workers)
        super().__exit__(*error)

    def workers(self, count: int, *, env: Mapping[str, str | None] | None = None) -> list[Command]:
        """Start so many workers, and return them once all are there."""
        before = self.counted("procrastinate_workers")
        there = {"SYNCSHIFT_RUNS": str(self.home / "elsewhere"), **(env or {})}
        started = [self.start("worker", "--quiet", env=there) for _ in range(count)]
        # Each takes part with four: shards, shards of dead workers, leading, the queue itself.
        until(
            lambda: self.counted("procrastinate_workers") >= before + 4 * count,
            "workers are there",
        )
        self._workers += started
        return started

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what the database says to *query*."""
        options = "-c search_path=syncshift"
        with psycopg.connect(self.dsn, options=options, autocommit=True) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def manifest_there(self, run_id: str) -> dict[str, Any]:
        """Return a run's manifest as the database has it."""
        found: dict[str, Any] = json.loads(
            bytes(self.ask("SELECT manifest FROM run WHERE id = %s", run_id)[0][0])
        )
        return found

    def counted(self, table: str) -> int:
        """Return how many rows a table of the engine has."""
        return int(self.ask(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608  # our own words


def stop_all(commands: list[Command], number: int = signal.SIGTERM) -> None:
    """Have workers leave, and return once they have."""
    for command in commands:
        if command.code is None:
            os.kill(command.pid, number)
    for command in commands:
        command.wait()
