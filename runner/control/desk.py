"""Where orders come in while a run is at work. Whatever comes in, the run goes on."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from runner.control.orders import Order, Reply, order_of
from runner.control.place import SOCKET, address_in
from runner.errors import SyncshiftError
from runner.log import diagnostics
from runner.model import encode_json

_LONGEST_LINE = 16 * 1024
_PATIENCE_S = 5.0
_AT_ONCE = 8
_FAREWELL_S = 2.0
_CREDENTIALS = "iII"

_decode = msgspec.json.Decoder(Order).decode


class Desk:
    """Takes orders for one run through a socket in its folder. Belongs to one event loop."""

    def __init__(self, directory: Path, act: Callable[[Order, str], Awaitable[Reply]]) -> None:
        """*act* carries out an order of somebody, and is never asked for two at once."""
        self._directory = directory
        self._run_id = directory.name
        self._act = act
        self._one_by_one = anyio.Lock()
        self._places = anyio.Semaphore(_AT_ONCE)
        self._is_open = False
        self._answering = 0
        self._answered = anyio.Event()

    async def serve(
        self, *, task_status: anyio.abc.TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take orders until canceled; say None once it does, or why there can be no socket.

        A socket that an earlier process left behind is replaced; at the end ours is removed.
        """
        try:
            with address_in(self._directory) as address:
                listener = await anyio.create_unix_listener(address, mode=0o600)
        except OSError as error:
            task_status.started(error.strerror or type(error).__name__)
            return
        try:
            async with listener, anyio.create_task_group() as group:
                self._is_open = True
                task_status.started(None)
                await self._welcome(listener, group)
        finally:
            self._remove()

    async def farewell(self) -> None:
        """Take no new order, and return once whoever has given one was answered, or soon."""
        self._remove()
        if self._answering:
            self._answered = anyio.Event()
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                await self._answered.wait()

    def _remove(self) -> None:
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(OSError):
                (self._directory / SOCKET).unlink(missing_ok=True)

    async def _welcome(
        self, listener: anyio.abc.SocketListener, group: anyio.abc.TaskGroup
    ) -> None:
        while True:
            await self._places.acquire()
            try:
                group.start_soon(self._hear, await listener.accept())
            except (OSError, anyio.BrokenResourceError) as error:
                # No more files for the moment, say: the run goes on, and so do we.
                self._places.release()
                diagnostics().warning("order.not_taken", error=type(error).__name__)
                await anyio.sleep(_PATIENCE_S)

    async def _hear(self, stream: anyio.abc.SocketStream) -> None:
        try:
            async with stream:
                peer = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  # not Django's
                heard = await self._listen(stream, *_who(peer))
                self._answering += 1
                try:
                    await self._answer(stream, heard)
                finally:
                    self._answering -= 1
                    if not self._answering:
                        self._answered.set()
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # whoever asked has left
        except Exception as error:  # noqa: BLE001  # an order that breaks us harms nobody but itself
            diagnostics().error("order.broke", error=type(error).__name__)
        finally:
            self._places.release()

    async def _listen(
        self, stream: anyio.abc.SocketStream, uid: int | None, who: str
    ) -> tuple[Order, str] | Reply:
        """Return the order that comes, and whose it is; or what is to be said instead."""
        try:
            # Heard in any case: with words left unread, a refusal may not arrive.
            with anyio.fail_after(_PATIENCE_S):
                line = await _line(stream)
            if uid not in {None, 0, os.getuid()}:
                return self._refusal("only the user who started the run may give it orders")
            return order_of(_decode(line)), who
        except TimeoutError:
            return self._refusal(f"no order came within {_PATIENCE_S:g} s")
        except (SyncshiftError, msgspec.MsgspecError, ValueError) as error:
            return self._refusal(f"this is no order: {error}")

    async def _answer(
        self, stream: anyio.abc.SocketStream, heard: tuple[Order, str] | Reply
    ) -> None:
        if isinstance(heard, Reply):
            reply = heard
        else:
            async with self._one_by_one:
                reply = await self._act(*heard)
        with anyio.move_on_after(_PATIENCE_S):
            await stream.send(encode_json(reply) + b"\n")

    def _refusal(self, why: str) -> Reply:
        return Reply(run_id=self._run_id, done=False, said=why)


async def _line(stream: anyio.abc.SocketStream) -> bytes:
    """Return what comes up to the end of a line. Raises ValueError when that is too long."""
    got = b""
    while b"\n" not in got:
        if len(got) > _LONGEST_LINE:
            raise ValueError(f"it is longer than {_LONGEST_LINE} bytes")
        try:
            got += await stream.receive(_LONGEST_LINE)
        except anyio.EndOfStream:
            raise ValueError("the line has no end") from None
    return got.partition(b"\n")[0]


def _who(peer: socket.socket) -> tuple[int | None, str]:
    """Return the user ID of *peer*, where the system tells it, and who that is for a person."""
    wanted = getattr(socket, "SO_PEERCRED", None)
    if wanted is None:
        return None, _name(os.getuid())
    size = struct.calcsize(_CREDENTIALS)
    pid, uid, _ = struct.unpack(_CREDENTIALS, peer.getsockopt(socket.SOL_SOCKET, wanted, size))
    return uid, f"{_name(uid)} (process {pid})"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
