"""Gives orders to a run that is led on another machine."""

from __future__ import annotations

import getpass
import socket
import time

import msgspec

from runner.control import Order, Reply
from runner.errors import RunRefused
from runner.model import encode_json
from runner.postgres.database import connected
from runner.secret import Secret

_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.1
_SILENT_S = 5.0


def order(dsn: Secret, run: str, said: Order) -> Reply | None:
    """Give an order to whoever leads *run*, and return the answer; None: it is not there.

    Raises `RunRefused` when nobody leads it or answers, `DatabaseAway`.
    """
    who = f"{getpass.getuser()} on {socket.gethostname()}"
    with connected(dsn) as connection:
        row = connection.execute(
            "SELECT led_at > clock_timestamp() - make_interval(secs => %s) FROM run WHERE id = %s",
            (_SILENT_S, run),
        ).fetchone()
        if row is None:
            return None
        if not row[0]:
            raise RunRefused(
                f"run {run} is not at work: nobody leads it; go on with it: syncshift resume {run}"
            )
        given = connection.execute(
            "INSERT INTO orders (run, who, said) VALUES (%s, %s, %s) RETURNING id",
            (run, who, encode_json(said)),
        ).fetchone()
        gives_up_at = time.monotonic() + _PATIENCE_S
        while given is not None and time.monotonic() < gives_up_at:
            answer = connection.execute("SELECT reply FROM orders WHERE id = %s", given).fetchone()
            if answer is not None and answer[0] is not None:
                return msgspec.json.decode(answer[0], type=Reply)
            time.sleep(_LOOK_EVERY_S)
        connection.execute("DELETE FROM orders WHERE id = %s AND reply IS NULL", given)
    raise RunRefused(f"run {run} does not answer; see how it stands: syncshift status {run}")
