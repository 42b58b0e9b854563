"""Connections to the database, and what it means when there is none.

A connection that breaks is not mended: whoever held it lets go of all that went by it, and begins
anew with another one. Only whoever leads a run, or looks at one, waits here for the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from runner.errors import DatabaseAway, EngineNotReady
from runner.postgres.dsn import place_of
from runner.secret import Secret

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0

Row = tuple[Any, ...]
GONE = (psycopg.OperationalError, psycopg.InterfaceError)
"""What is raised when the server, or the way to it, is gone."""


def backoff_s(tries: int) -> float:
    """Return how long to wait after so many tries that came to nothing."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(tries, 10))


@contextmanager
def connected(dsn: Secret) -> Iterator[psycopg.Connection[Row]]:
    """Yield a connection that commits each statement. Raises `DatabaseAway`."""
    try:
        with psycopg.connect(dsn.reveal(), autocommit=True) as connection:
            yield connection
    except GONE as error:
        raise away(dsn, error) from None
    except psycopg.errors.UndefinedTable:
        raise EngineNotReady(
            f"{place_of(dsn)}: holds nothing for Syncshift yet; run `syncshift engine init` once"
        ) from None


def away(dsn: Secret, error: BaseException) -> DatabaseAway:
    """Return the error that tells of a database that cannot be reached."""
    said = str(error.__cause__ or error).strip().splitlines()
    why = said[-1].strip() if said else type(error).__name__
    return DatabaseAway(
        f"{place_of(dsn)}: cannot be reached ({why}); what was committed is kept. See that it is "
        "there, then try again, or resume the run"
    )
