"""Runs that begin again and again, by a clock: kept in the database, begun by whichever worker.

A moment is worked out when the one before it has come. One that passed while no worker was there
is made up for once, however many they were.
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import psycopg
from cronsim import CronSim, CronSimError

from runner.errors import NoSuchRun, RunExists, SettingsError
from runner.postgres.database import connected
from runner.schedule import zone_of
from runner.secret import Secret

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", re.ASCII)
_DUE = """
SELECT name, cron, zone, next_at, clock_timestamp() FROM schedule
WHERE next_at <= clock_timestamp() ORDER BY next_at FOR UPDATE SKIP LOCKED
"""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """One of them."""

    name: str
    cron: str
    zone: str
    words: tuple[str, ...]
    """What is given to `run`: the job, and flags."""
    input: str
    """What its input was called when it was taken in."""
    next_at: str
    """RFC 3339 in UTC."""
    last_run: str | None = None


def next_moment(cron: str, zone: str, *, after: datetime.datetime) -> datetime.datetime:
    """Return the next moment, in UTC, at which clocks of *zone* show what *cron* says.

    Raises `SettingsError`.
    """
    try:
        clock = zone_of(zone)
    except ValueError as error:
        raise SettingsError(f"--zone {error}") from None
    try:
        return next(CronSim(cron, after.astimezone(clock))).astimezone(datetime.UTC)
    except (CronSimError, StopIteration):
        raise SettingsError(
            "--cron must be five fields, minute, hour, day, month, weekday, such as '0 18 * * 5' "
            f"for Fridays at 18:00; got {cron!r}"
        ) from None


def add(
    dsn: Secret, name: str, cron: str, zone: str, *, words: Sequence[str], source: str, data: bytes
) -> Schedule:
    """Keep a schedule; *data* is the input named *source*.

    Raises `SettingsError`, `RunExists` when there is one of that name, `DatabaseAway`.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            "the name of a schedule begins with a letter or digit and holds only letters, digits, "
            f"'.', '_' and '-', at most 41; got {name!r}"
        )
    with connected(dsn) as connection, connection.transaction():
        (now,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
        next_at = next_moment(cron, zone, after=now)
        done = connection.execute(
            "INSERT INTO schedule (name, cron, zone, words, input_name, input, next_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (name, cron, zone, msgspec.json.encode(words), source, zlib.compress(data), next_at),
        )
    if not done.rowcount:
        raise RunExists(
            f"there is a schedule {name} already; remove it first: syncshift schedule remove {name}"
        )
    return Schedule(
        name=name, cron=cron, zone=zone, words=tuple(words), input=source, next_at=_said(next_at)
    )


def schedules(dsn: Secret) -> list[Schedule]:
    """Return all of them, the next one first. Raises `DatabaseAway`."""
    with connected(dsn) as connection:
        found = connection.execute(
            "SELECT name, cron, zone, words, input_name, next_at, last_run FROM schedule"
            " ORDER BY next_at, name"
        ).fetchall()
    return [
        Schedule(
            name=name,
            cron=cron,
            zone=zone,
            words=msgspec.json.decode(words, type=tuple[str, ...]),
            input=source,
            next_at=_said(next_at),
            last_run=last_run,
        )
        for name, cron, zone, words, source, next_at, last_run in found
    ]


def remove(dsn: Secret, name: str) -> None:
    """Forget a schedule; runs that it has begun go on. Raises `NoSuchRun`, `DatabaseAway`."""
    with connected(dsn) as connection:
        if not connection.execute("DELETE FROM schedule WHERE name = %s", (name,)).rowcount:
            names = [name for (name,) in connection.execute("SELECT name FROM schedule")]
            there = f"there are: {', '.join(sorted(names))}" if names else "there are none"
            raise NoSuchRun(f"there is no schedule {name!r}; {there}")


class Due(msgspec.Struct, frozen=True):
    """What a worker needs to begin the run of a schedule."""

    words: tuple[str, ...]
    input: str
    data: bytes
    is_begun: bool
    """Somebody has begun it before, and was killed."""


def due_of(dsn: Secret, name: str, run: str) -> Due | None:
    """Return it; None: the schedule was removed meanwhile. Raises `DatabaseAway`."""
    with connected(dsn) as connection:
        row = connection.execute(
            "SELECT words, input_name, input, EXISTS (SELECT 1 FROM run WHERE id = %s)"
            " FROM schedule WHERE name = %s",
            (run, name),
        ).fetchone()
    if row is None:
        return None
    words = msgspec.json.decode(row[0], type=tuple[str, ...])
    return Due(words, row[1], zlib.decompress(row[2]), row[3])


async def begin_due(
    connection: psycopg.AsyncConnection[Any], begin: Callable[[str, str], Awaitable[None]]
) -> dict[str, SettingsError]:
    """Have *begin* begin, by schedule and run, what is due. Raises what both raise.

    Returns, by schedule, why it is left to other workers: its zone is not known on this machine.
    """
    left = {}
    async with connection.transaction():
        found = await (await connection.execute(_DUE.encode())).fetchall()
        for name, cron, zone, moment, now in found:
            try:
                next_at = next_moment(cron, zone, after=now)
            except SettingsError as error:
                left[name] = error
                continue
            run = f"{name}-{moment.astimezone(datetime.UTC):%Y%m%dT%H%M%SZ}"
            await begin(name, run)
            await connection.execute(
                "UPDATE schedule SET next_at = %s, last_run = %s WHERE name = %s",
                (next_at, run, name),
            )
    return left


def _said(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
