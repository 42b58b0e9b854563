"""A server that takes every PATCH, at as little cost as can be: what is measured is the client.

It is no Sync API: it checks no token, keeps no state and knows no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import cast

from benchmarks.loops import FASTEST, runner_of

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: "
)
_MESSAGE = b',"message":"Update request accepted and is being processed"}'
_LENGTH = b"Content-Length:"
"""As aiohttp spells it, which both sides use."""


class _Echo(asyncio.Protocol):
    """Answers each request with the ID of its path and the body that came with it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's class.
        self._transport = cast("asyncio.WriteTransport", transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            start, length = end + 4, 0
            at = data.find(_LENGTH, 0, end)
            if at >= 0:
                length = int(data[at + len(_LENGTH) : data.index(b"\r", at)])
            if len(data) < start + length:
                break
            stop = data.index(b" HTTP/", 0, end)
            self._answer(data[data.rindex(b"/", 0, stop) + 1 : stop], data[start : start + length])
            data = data[start + length :]
        self._rest = data

    def _answer(self, sync_id: bytes, body: bytes) -> None:
        told = b'{"id":"%b","data":%b%b' % (sync_id, body, _MESSAGE)
        self._transport.write(b"%b%d\r\n\r\n%b" % (_HEAD, len(told), told))


@contextlib.contextmanager
def serving(*, taken: list[float] | None = None) -> Iterator[str]:
    """Run the server in a process of its own; yield its address.

    Its CPU seconds are added to *taken* at the end.
    """
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            # The end of its input is its sign to leave, also when we are killed.
            last, _ = child.communicate()
            if taken is not None:
                taken.append(float(last))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    print(time.process_time(), flush=True)


if __name__ == "__main__":
    runner_of(FASTEST)(_serve())
