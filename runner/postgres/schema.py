"""What the database holds, and whether it is as it has to be.

Whatever belongs to a run hangs on its row in `run`, and goes with it. Journals are kept as the
bytes that a file would have: whole lines, in the order in which they were committed.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import msgspec
import psycopg
from procrastinate.schema import SchemaManager

from runner.errors import EngineNotReady
from runner.postgres.database import Row, connected
from runner.postgres.dsn import SCHEMA, place_of
from runner.secret import Secret

VERSION = 1
"""Of the tables below; `engine init` makes none other."""
_OLDEST_SERVER = 130_000
_LOCK = 7_946_013_211
"""Two who make the tables at once wait for each other by this number."""

_TABLES = """
CREATE TABLE meta (version int NOT NULL, queue text NOT NULL);
CREATE TABLE run (
    id text PRIMARY KEY,
    session int NOT NULL,
    lead int NOT NULL DEFAULT 0,
    led_at timestamptz,
    leader text NOT NULL DEFAULT '',
    manifest bytea NOT NULL,
    common bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE file (
    run text NOT NULL REFERENCES run ON DELETE CASCADE,
    name text NOT NULL,
    part int NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (run, name, part)
);
CREATE TABLE shard (
    run text NOT NULL REFERENCES run ON DELETE CASCADE,
    number int NOT NULL,
    batch int NOT NULL,
    first_row int NOT NULL,
    last_row int NOT NULL,
    wave int,
    starts_at text,
    fence int NOT NULL DEFAULT 0,
    worker text NOT NULL DEFAULT '',
    over boolean NOT NULL DEFAULT false,
    PRIMARY KEY (run, number)
);
CREATE TABLE journal (
    run text NOT NULL REFERENCES run ON DELETE CASCADE,
    shard int NOT NULL,
    name text NOT NULL,
    place int NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (run, shard, name, place)
);
CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run text NOT NULL REFERENCES run ON DELETE CASCADE,
    worker text NOT NULL,
    name text NOT NULL,
    fields bytea NOT NULL
);
CREATE INDEX event_of_run ON event (run, id);
CREATE TABLE host (base_url text PRIMARY KEY, line bytea NOT NULL);
CREATE TABLE schedule (
    name text PRIMARY KEY,
    cron text NOT NULL,
    zone text NOT NULL,
    words bytea NOT NULL,
    input_name text NOT NULL,
    input bytea NOT NULL,
    next_at timestamptz NOT NULL,
    last_run text
);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run text NOT NULL REFERENCES run ON DELETE CASCADE,
    who text NOT NULL,
    said bytea NOT NULL,
    reply bytea
);
"""


class Standing(msgspec.Struct, frozen=True):
    """What a look at the database has found."""

    place: str
    server: str
    """Its version."""
    version: int | None
    """Of our tables; None: there are none."""
    queue: str | None
    """Of the queue's tables: the release of procrastinate that made them."""
    durable: bool
    """Whether what was committed is on disk: ``fsync`` and ``synchronous_commit`` are on."""
    delay_ms: float
    """There and back."""
    workers: int
    """Those that were heard of within five seconds."""
    runs: int
    """Those whose data it holds."""


def init(dsn: Secret) -> bool:
    """Make what the engine needs, all or nothing; tell whether anything was to be made.

    Raises `DatabaseAway`, and `EngineNotReady` when another version is there or it may not.
    """
    with connected(dsn) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        found = _made_by(connection)
        if found is not None:
            _must_fit(dsn, *found)
            return False
        try:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(SchemaManager.get_schema().encode())
            connection.execute(_TABLES.encode())
            made = "INSERT INTO meta (version, queue) VALUES (%s, %s)"
            connection.execute(made, (VERSION, version("procrastinate")))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as e:
            raise EngineNotReady(
                f"{place_of(dsn)}: this user may make no schema there ({e.diag.message_primary}); "
                f"let its owner grant CREATE on the database, or run `syncshift engine init`"
            ) from None
    return True


def look(dsn: Secret) -> Standing:
    """Return how the database stands. Raises `DatabaseAway`."""
    with connected(dsn) as connection:
        found = _made_by(connection)
        row = connection.execute(
            "SELECT current_setting('server_version'), current_setting('fsync') = 'on'"
            " AND current_setting('synchronous_commit') <> 'off', clock_timestamp()"
        ).fetchone()
        assert row is not None  # noqa: S101  # it selects from nothing
        delays = [_delay_ms(connection) for _ in range(5)]
        workers = runs = 0
        if found is not None:
            counted = connection.execute(
                "SELECT (SELECT count(*) FROM procrastinate_workers"
                " WHERE last_heartbeat > now() - interval '5 seconds'), (SELECT count(*) FROM run)"
            ).fetchone()
            workers, runs = counted or (0, 0)
    version_, queue = found or (None, None)
    return Standing(
        place_of(dsn), row[0], version_, queue, row[1], round(min(delays), 2), workers, runs
    )


def must_be_ready(dsn: Secret) -> None:
    """Raise `EngineNotReady` when no run can be carried over that database, or `DatabaseAway`."""
    with connected(dsn) as connection:
        if connection.info.server_version < _OLDEST_SERVER:
            raise EngineNotReady(
                f"{place_of(dsn)}: is PostgreSQL {connection.info.server_version // 10_000}; 13 is "
                "the oldest that will do"
            )
        found = _made_by(connection)
        if found is None:
            raise EngineNotReady(
                f"{place_of(dsn)}: holds nothing for Syncshift; run `syncshift engine init` once"
            )
        _must_fit(dsn, *found)


def _made_by(connection: psycopg.Connection[Row]) -> tuple[int, str] | None:
    there = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.meta",)).fetchone()
    if there is None or there[0] is None:
        return None
    row = connection.execute("SELECT version, queue FROM meta").fetchone()
    return None if row is None else (row[0], row[1])


def _must_fit(dsn: Secret, made: int, queue: str) -> None:
    ours = version("procrastinate")
    if made != VERSION:
        raise EngineNotReady(
            f"{place_of(dsn)}: its tables are of version {made}, and this Syncshift needs version "
            f"{VERSION}; use the Syncshift that made them, or another database"
        )
    if queue.split(".", maxsplit=1)[0] != ours.split(".")[0]:
        raise EngineNotReady(
            f"{place_of(dsn)}: its queue was made by procrastinate {queue}, and here is {ours}; "
            "install that one, or use another database"
        )


def _delay_ms(connection: psycopg.Connection[Row]) -> float:
    began = time.perf_counter()
    connection.execute("SELECT 1")
    return (time.perf_counter() - began) * 1000
