"""The simulator as a server: takes a request, judges it, records it, answers it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from runner.errors import SettingsError
from runner.simulator import delivery
from runner.simulator.audit import AuditEntry, AuditLog
from runner.simulator.control import PREFIX, control
from runner.simulator.faults import Fault, Faults, OutageKind
from runner.simulator.seeding import invent, invent_many
from runner.simulator.service import Call, Service
from runner.simulator.state import Behavior, SyncRecord

_GRACE_S = 0.2
_BACKLOG = 1024


class Simulator:
    """A Sync API on this machine. Use it with ``async with``; then `base_url` is set.

    *verify* turns a token's text into the user it speaks for, or None when the token is
    not valid. *now* is a monotonic clock and *wall* the seconds since the epoch: state,
    limits and outages go by them, only the wait before an answer is real. A request is
    judged, carried out and recorded the moment it has been read whole; latency follows.

    It may be entered again after it was left: state and audit go on where they stood.
    With *control* the side door of `runner.simulator.control` is open. Raises
    SettingsError when that is asked for on an address that is not loopback.
    """

    def __init__(
        self,
        *,
        verify: Callable[[str], str | None],
        seed: int = 0,
        faults: Faults | None = None,
        behavior: Behavior | None = None,
        audit_file: Path | None = None,
        keep_audit: bool = True,
        control: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if control and not _is_loopback(host):
            raise SettingsError(
                f"the control surface is open to whoever reaches it, so it is served on a "
                f"loopback address only; got {host!r}: use 127.0.0.1, or leave control off"
            )
        self.base_url = ""
        """``http://host:port`` once it serves."""
        self.in_flight = 0
        """Requests being handled now."""
        self.max_in_flight = 0
        """The most that were ever handled at once."""
        self._control, self._host, self._port = control, host, port
        self._seed, self._now = seed, now
        self._log = AuditLog(path=audit_file, keep=keep_audit)
        self._service = Service(
            verify=verify,
            seed=seed,
            faults=faults or Faults(),
            behavior=behavior or Behavior(),
            log=self._log,
            now=now,
            wall=wall,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    @property
    def audit(self) -> list[AuditEntry]:
        """Every request to the API so far, in the order in which they were judged."""
        return self._log.entries

    @property
    def requests(self) -> int:
        """How many requests to the API were audited, kept in memory or not."""
        return self._log.count

    @property
    def faults(self) -> Faults:
        """What goes wrong. Set it to change that from the next request on."""
        return self._service.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._service.use(faults)

    @property
    def behavior(self) -> Behavior:
        """What the service does with a change. Set it to change that from now on."""
        return self._service.syncs.behavior

    @behavior.setter
    def behavior(self, behavior: Behavior) -> None:
        self._service.syncs.behavior = behavior

    def add(self, *records: SyncRecord) -> None:
        """Take in syncs. Raises ValueError when an ID is taken."""
        for record in records:
            self._service.syncs.add(record)

    def seed(self, n_syncs: int, n_users: int, seed: int | None = None) -> list[SyncRecord]:
        """Invent syncs, shared out evenly over the users, and return them.

        The same seed invents the same syncs; None: the simulator's own.
        """
        chosen = self._seed if seed is None else seed
        records = list(invent_many(n_syncs=n_syncs, n_users=n_users, seed=chosen))
        self.add(*records)
        return records

    def seed_from_rows(
        self, rows: Iterable[tuple[str, str]], seed: int | None = None
    ) -> list[SyncRecord]:
        """Invent a present state for each (sync ID, user ID) and return those taken in.

        A sync that is there already stays as it is. The order of *rows* makes no
        difference unless they give one sync to two users: the first one gets it.
        """
        chosen = self._seed if seed is None else seed
        records = []
        for sync_id, user_id in rows:
            if sync_id not in self._service.syncs:
                records.append(invent(sync_id=sync_id, user_id=user_id, seed=chosen))
                self._service.syncs.add(records[-1])
        return records

    def snapshot(self) -> dict[str, SyncRecord]:
        """Return every sync as it is now, by ID."""
        return self._service.syncs.snapshot()

    def script(self, sync_id: str, method: str, faults: Iterable[Fault | None]) -> None:
        """Let the next *method* requests to *sync_id* meet *faults*; None: a right answer.

        The list of a user's syncs is scripted by method ``LIST`` and the user's ID.
        Raises ValueError for a fault that *method* cannot meet.
        """
        self._service.plan.script(method=method, sync_id=sync_id, faults=faults)

    def outage(self, kind: OutageKind | None) -> None:
        """Be down in this way from now on; None: be up again.

        ``DROP`` also closes every connection that is open now. Planned outages go on.
        """
        self._service.down = kind
        if kind is OutageKind.DROP and self.base_url:
            for transport in self._transports():
                transport.abort()

    def peak_rate(self, window_s: float = 1.0) -> float:
        """Return the most requests a second that came within any *window_s* seconds."""
        return self._log.peak_rate(window_s)

    async def __aenter__(self) -> Self:
        self._log.open()
        self._service.start()
        self._stopping.clear()
        self._server = web.Server(self._handle, access_log=None)
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._server, self._host, self._port, backlog=_BACKLOG
            )
        except OSError as error:
            self._log.close()
            raise SettingsError(
                f"cannot listen on {self._host} port {self._port} ({error.strerror}); "
                "give another port, or 0 for any free one"
            ) from error
        port = self._listener.sockets[0].getsockname()[1]
        self.base_url = _base_url(self._host, port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_serving()
        self._listener.close()
        transports = self._transports()
        await self._server.shutdown(timeout=_GRACE_S)
        # A client that does not read would keep its closed connection open for ever.
        for transport in transports:
            transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE_S)
        await self._listener.wait_closed()
        self._log.close()
        self.base_url = ""

    async def serve_forever(
        self, port: int | None = None, *, started: Callable[[str], None] | None = None
    ) -> None:
        """Serve on *port* until `stop_serving`, or until cancelled.

        *started* is called with the base URL once requests are taken. Raises
        SettingsError when the port cannot be had.
        """
        if port is not None:
            self._port = port
        async with self:
            if started is not None:
                started(self.base_url)
            await self._stopping.wait()

    def stop_serving(self) -> None:
        """Let `serve_forever` return. Answers that wait for their time leave at once."""
        self._stopping.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._control and request.raw_path.startswith(PREFIX):
            body = await request.read()
            return control(self, method=request.method, raw_path=request.raw_path, body=body)
        self._track(request.task)
        at_s = self._now()
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            verdict = self._service.handle(await _read(request, at_s, self.in_flight))
            if verdict.delay_s > 0.0:
                await self._pause(verdict.delay_s)
        finally:
            self.in_flight -= 1
        transport = request.transport
        if transport is None:
            # The client has gone; there is nobody to answer.
            return web.Response()
        return delivery.deliver(
            transport, given=verdict.given, headers=verdict.headers, fault=verdict.fault
        )

    def _transports(self) -> list[asyncio.Transport]:
        handlers = self._server.connections
        return [handler.transport for handler in handlers if handler.transport is not None]

    def _track(self, task: asyncio.Task[None]) -> None:
        # A client that leaves makes aiohttp forget the task; we still wait for it.
        if task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()


async def _read(request: web.BaseRequest, at_s: float, in_flight: int) -> Call:
    body: bytes | None = b""
    too_large = False
    if request.can_read_body:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            body, too_large = None, True
        except (web.RequestPayloadError, ConnectionError):
            body = None
    return Call(
        method=request.method,
        raw_path=request.raw_path,
        headers=request.headers,
        body=body,
        too_large=too_large,
        at_s=at_s,
        in_flight=in_flight,
    )


def _base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
