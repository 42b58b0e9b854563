"""A server on this machine that puts exactly the bytes it is given on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple

CLOSE = b""
"""Close the connection in place of an answer."""
SILENCE = b"\x00"
"""Give no answer, and keep the connection open."""


class Heard(NamedTuple):
    """One request as it came."""

    method: str
    target: str
    """What stood between the method and the version, undecoded."""
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes


class Wire:
    """Answers requests in the order of a script, whose last line goes on for ever."""

    def __init__(self, *script: bytes, closes: bool = False) -> None:
        """*closes*: the connection ends after each answer, whatever the answer says of that."""
        self.script = list(script)
        self.closes = closes
        self.heard: list[Heard] = []
        self.connections = 0
        self.port = 0
        self.asked = asyncio.Event()
        """Set when a request has been heard."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, for plain http."""
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def listening(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
        """Listen on a free port until the end of the block, then let go of every connection."""
        listener = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=tls, backlog=1024)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            # Who listens lets go of a connection by canceling it.
            with contextlib.suppress(
                asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError
            ):
                while await self._answer(await _hear(reader), writer) and not self.closes:
                    pass
        finally:
            writer.close()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _answer(self, heard: Heard, writer: asyncio.StreamWriter) -> bool:
        self.heard.append(heard)
        self.asked.set()
        answer = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if answer == SILENCE:
            await asyncio.Event().wait()
        writer.write(answer)
        await writer.drain()
        return answer != CLOSE


async def _hear(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method, target, headers, body)


def says(status: int, *headers: str, body: bytes = b"{}", length: int | None = None) -> bytes:
    """Return an answer; *length* is what it claims to have, *body* what it has."""
    claimed = len(body) if length is None else length
    lines = (f"HTTP/1.1 {status} Some Words", f"Content-Length: {claimed}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
