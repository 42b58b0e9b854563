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
_IS_LED = "SELECT led_at > clock_timestamp() - make_interval(secs => %s) FROM run WHERE id = %s"
_ANSWER = """
SELECT o.reply, r.led_at > clock_timestamp() - make_interval(secs => %s)
FROM orders o JOIN run r ON r.id = o.run WHERE o.id = %s
"""


def is_led(dsn: Secret, run: str) -> bool:
    """Tell whether somebody leads *run*. Raises `DatabaseAway`."""
    with connected(dsn) as connection:
        known = connection.execute(_IS_LED, (_SILENT_S, run)).fetchone()
    return bool(known and known[0])


def order(dsn: Secret, run: str, said: Order) -> Reply | None:
    """Give an order to whoever leads *run*, and return the answer; None: it is not there.

    Raises `RunRefused` when nobody leads it or answers, `DatabaseAway`.
    """
    who = f"{getpass.getuser()} on {socket.gethostname()}"
    with connected(dsn) as connection:
        known = connection.execute(_IS_LED, (_SILENT_S, run)).fetchone()
        if known is None:
            return None
        is_led = known[0]
        (number,) = connection.execute(
            "INSERT INTO orders (run, who, said) VALUES (%s, %s, %s) RETURNING id",
            (run, who, encode_json(said)),
        ).fetchone() or (0,)
        gives_up_at = time.monotonic() + _PATIENCE_S
        while is_led and time.monotonic() < gives_up_at:
            # In one look: what was answered by a leader who has left since is an answer.
            reply, is_led = connection.execute(_ANSWER, (_SILENT_S, number)).fetchone() or (None, 0)
            if reply is not None:
                if said.command == "status":  # a question leaves no trace
                    connection.execute("DELETE FROM orders WHERE id = %s", (number,))
                return msgspec.json.decode(reply, type=Reply)
            time.sleep(_LOOK_EVERY_S)
        connection.execute("DELETE FROM orders WHERE id = %s AND reply IS NULL", (number,))
    if not is_led:
        raise RunRefused(
            f"run {run} is not at work: nobody leads it; go on with it: syncshift resume {run}"
        )
    raise RunRefused(f"run {run} does not answer; see how it stands: syncshift status {run}")
