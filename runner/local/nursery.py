"""Makes processes at any time, out of one that never had a thread or an event loop.

Forking a process that has threads can leave a lock locked for ever. So a child is forked before
there is any, which does nothing but wait and fork: what it was given at its birth, the checked
input and the keys, its own children have without any of it ever being sent or written.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They go to everybody at the terminal; the one who leads heeds them, and tells the others."""


class Nursery:
    """The process that forks workers. Make it before the first thread or event loop."""

    def __init__(self, work: Callable[[socket.socket], None]) -> None:
        """*work* is what each worker does with its end of a pair of sockets."""
        ours, theirs = socket.socketpair()
        gc.freeze()  # what is there now is shared for longer if nobody counts through it
        pid = os.fork()
        if not pid:
            ours.close()
            _rear(theirs, work)
        gc.unfreeze()
        theirs.close()
        self._socket = ours
        self._pid = pid

    def fork(self) -> socket.socket | None:
        """Make a worker, and return our end of the pair; None when the nursery is gone.

        The other end is closed when the worker is dead, whatever it died of.
        """
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._socket, [b"."], [theirs.fileno()])
        except OSError:
            ours.close()
            return None
        finally:
            theirs.close()
        return ours

    def close(self) -> None:
        """Make no more workers; those that are there go on. To be called once."""
        self._socket.close()
        os.waitpid(self._pid, 0)


def _rear(end: socket.socket, work: Callable[[socket.socket], None]) -> NoReturn:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _clear_away)
    while True:
        data, fds, _, _ = socket.recv_fds(end, 1, 1)
        if not data:
            _clear_away(options=0)
            os._exit(0)
        (fd,) = fds
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            end.close()
            _live(work, fd)
        os.close(fd)


def _clear_away(*_: object, options: int = os.WNOHANG) -> None:
    """Let go of children that are dead, or wait for all of them."""
    while True:
        try:
            pid, _status = os.waitpid(-1, options)
        except ChildProcessError:
            return
        if not pid:
            return


def _live(work: Callable[[socket.socket], None], fd: int) -> NoReturn:
    code = 1
    try:
        work(socket.socket(fileno=fd))
        code = 0
    finally:
        os._exit(code)
