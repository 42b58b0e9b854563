"""Gives an order to a run that is at work, and returns what it says."""

from __future__ import annotations

import errno
import socket
import time

import msgspec

from runner.control.orders import Glance, Order, Reply
from runner.control.place import address_in
from runner.errors import RunRefused
from runner.folder import Folder
from runner.model import encode_json

_BLOCK = 65_536
_LOOK_EVERY_S = 0.05
_NOT_THERE = {errno.ENOENT, errno.ECONNREFUSED}

_decode = msgspec.json.Decoder(Reply).decode


def ask(
    folder: Folder, order: Order, *, wait_for_it_s: float = 2.0, patience_s: float = 10.0
) -> Reply:
    """Give *order* to the run of *folder*, and return its answer, which may be a no.

    A run that is about to begin is given *wait_for_it_s* to listen, and *patience_s* to
    answer. Raises `RunRefused` when it is not at work, or cannot be reached.
    """
    gives_up_at = time.monotonic() + wait_for_it_s
    while True:
        try:
            return _decode(_exchange(folder, encode_json(order) + b"\n", patience_s))
        except msgspec.MsgspecError:
            # It ended, or was killed, with the order in its hands.
            why = "it ended before it could answer"
        except OSError as error:
            why = error.strerror or type(error).__name__
            if isinstance(error, TimeoutError):
                why = "it does not answer"
            elif error.errno in _NOT_THERE:
                why = "it checks its input, waits for a yes, or only looks"
        if not folder.is_locked():
            raise RunRefused(_not_at_work(folder))
        if time.monotonic() >= gives_up_at:
            raise RunRefused(
                f"run {folder.run_id} is at work, but takes no orders now: {why}. Try again; "
                "SIGTERM to its process lets what is in flight land and ends it"
            )
        time.sleep(_LOOK_EVERY_S)


def glance_at(folder: Folder, *, patience_s: float) -> Glance:
    """Return whether the run of *folder* is at work on this machine, and what it says of itself."""
    if not folder.is_locked():
        return Glance(False, None)
    try:
        order = Order(command="status")
        standing = ask(folder, order, wait_for_it_s=0, patience_s=patience_s).state
    except RunRefused:
        standing = None
    return Glance(folder.is_locked(), standing)


def _exchange(folder: Folder, line: bytes, patience_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as speaker:
        speaker.settimeout(patience_s)
        with address_in(folder.path) as address:
            speaker.connect(address)
        speaker.sendall(line)
        answer = b""
        while not answer.endswith(b"\n") and (block := speaker.recv(_BLOCK)):
            answer += block
        return answer


def _not_at_work(folder: Folder) -> str:
    manifest, run_id = folder.read(), folder.run_id
    if manifest.state in {"running", "checking"}:
        how = f"it was killed; go on with it: syncshift resume {run_id}"
    elif manifest.state == "planned":
        how = f"it is planned; carry it out: syncshift apply {run_id}"
    else:
        ended = f" at {manifest.ended}" if manifest.ended else ""
        how = f"it is {manifest.state}{ended}" + (f": {manifest.reason}" if manifest.reason else "")
    return f"run {run_id} is not at work, so it takes no orders; {how}"
