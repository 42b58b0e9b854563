"""What goes to and fro between the process that leads a run and one that carries shards."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Generic, Self, TypeVar

import msgspec

from runner.engine import Lease, Orders, Shard, Told

_LENGTH = struct.Struct("!I")


class Hello(msgspec.Struct, tag=True, frozen=True):
    """A worker's first word."""

    pid: int


class Says(msgspec.Struct, tag=True, frozen=True):
    """A worker tells of a shard; answered by `Ordered`."""

    number: int
    """The answer has the same."""
    told: Told


class Wants(msgspec.Struct, tag=True, frozen=True):
    """A worker wants departures; answered by `Leased`."""

    number: int
    departures: int


class Ordered(msgspec.Struct, tag=True, frozen=True):
    """The answer to `Says`."""

    number: int
    orders: Orders


class Leased(msgspec.Struct, tag=True, frozen=True):
    """The answer to `Wants`."""

    number: int
    lease: Lease | None


class Carry(msgspec.Struct, tag=True, frozen=True):
    """A shard is to be carried."""

    shard: Shard
    began: str
    """When the run, or its wave, began to send."""
    merges: int
    """How often shards became part of the run's own journals: these are to be read on then."""


class Nudge(msgspec.Struct, tag=True, frozen=True):
    """Say a word about every shard now."""


class Leave(msgspec.Struct, tag=True, frozen=True):
    """There is nothing more to do."""


FromWorker = Hello | Says | Wants
ToWorker = Ordered | Leased | Carry | Nudge | Leave

_T = TypeVar("_T")


class Wire(Generic[_T]):
    """One end of a pair of sockets. Belongs to one event loop."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[_T],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decode = decoder.decode
        self._encode = msgspec.msgpack.Encoder().encode

    @classmethod
    async def of(cls, end: socket.socket, decoder: msgspec.msgpack.Decoder[_T]) -> Self:
        """Return the wire whose end *end* is; it takes that over."""
        return cls(*await asyncio.open_connection(sock=end), decoder)

    def send(self, message: msgspec.Struct) -> None:
        """Send *message*. To one who has left nothing is sent."""
        data = self._encode(message)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> _T | None:
        """Return what came next; None: the other one has left, or died."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return self._decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Let go of it."""
        self._writer.close()
