"""Answers a browser: the list of runs, the page of each, how it goes, and orders for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from aiohttp import web

from runner.control import Order, ask, order_of
from runner.errors import NoSuchRun, RunRefused, SettingsError, SyncshiftError
from runner.folder import Folder
from runner.knobs import KNOBS, duration_s
from runner.lookout.guard import NOBODY, Guard, Handler, harden
from runner.lookout.sight import Sight
from runner.lookout.watcher import Watcher
from runner.page import PAGE, Kind, history_page, policy_of
from runner.roster import roster

_HOST = "127.0.0.1"
_LONGEST_BODY = 16 * 1024
_LISTENERS = 16
_GRACE_S = 1.0
_encode = msgspec.json.Encoder().encode


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order as a page sends it: values as a person types them."""

    command: str
    reason: str | None = None
    for_: str | None = msgspec.field(default=None, name="for")
    rate: str | None = None
    concurrency: str | None = None
    max_failures: str | None = None
    max_resyncs: str | None = None


class Lookout:
    """Serves the pages of the runs of a folder, or of one of them. Belongs to one event loop."""

    def __init__(self, runs_dir: Path, *, only: str | None = None) -> None:
        """*only* is the one run that is shown; None: all."""
        self.listeners = 0
        """How many pages follow a run right now."""
        self.asked_at = time.monotonic()
        """When somebody asked for something last, on the steady clock."""
        self._runs_dir = runs_dir
        self._only = only
        self._guard = Guard()
        self._watchers: dict[str, Watcher] = {}
        self._closing = asyncio.Event()
        self._list = b""
        self._listing = asyncio.Lock()

    @property
    def address(self) -> str:
        """Where a browser finds it: with the token, without which nothing is shown."""
        root = f"http://{_HOST}:{self._guard.port}/{self._guard.token}/"
        return root if self._only is None else f"{root}runs/{self._only}/"

    def app(self) -> web.Application:
        """Return what answers requests."""
        before = [self._guard.middleware(), self._note]
        app = web.Application(middlewares=before, client_max_size=_LONGEST_BODY)
        app.on_response_prepare.append(harden)
        app.add_routes(
            [
                web.get("/{token}/", self._runs),
                web.get("/{token}/runs/{run}/", self._page),
                web.get("/{token}/runs/{run}/events", self._events),
                web.get(f"/{{token}}/runs/{{run}}/{PAGE}", self._report),
                web.post("/{token}/runs/{run}/orders", self._orders),
            ]
        )
        return app

    def listen_at(self, port: int) -> None:
        """Note where it is to be found."""
        self._guard.port = port

    async def close(self) -> None:
        """End what follows a run."""
        self._closing.set()
        for watcher in self._watchers.values():
            await watcher.close()

    # ------------------------------------------------------------------------------ the answers

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that somebody asked; whose answer takes long has not left meanwhile."""
        self.asked_at = float("inf")
        try:
            return await handler(request)
        finally:
            self.asked_at = time.monotonic()

    async def _runs(self, request: web.Request) -> web.StreamResponse:
        if self._only is not None:
            raise web.HTTPFound(f"runs/{self._only}/")
        async with self._listing:
            return _html(await anyio.to_thread.run_sync(self._list_page), "list")

    def _list_page(self) -> bytes:
        left_out: list[str] = []
        entries = roster(Folder.all(self._runs_dir), warn=left_out.append)
        listed: list[dict[str, Any]] = [
            {
                **msgspec.structs.asdict(entry),
                "address": self._address_of(entry.run_id, entry.state),
            }
            for entry in entries
        ]
        return history_page(listed, folder=str(self._runs_dir.absolute()), left_out=left_out)

    def _address_of(self, run_id: str, state: str) -> str:
        has_page = (self._runs_dir / run_id / PAGE).is_file()
        at_work = Folder(self._runs_dir / run_id).is_locked()
        # What is at rest has a report, which tells more.
        rests = has_page and not at_work and state != "running"
        return f"runs/{run_id}/{PAGE}" if rests else f"runs/{run_id}/"

    async def _page(self, request: web.Request) -> web.StreamResponse:
        folder = self._folder(request)
        try:
            if folder.read().state == "planned" and (folder.path / PAGE).is_file():
                raise web.HTTPFound(PAGE)  # nothing goes on there
            return _html(await self._watcher(request).page(), "live")
        except SyncshiftError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from None

    async def _report(self, request: web.Request) -> web.StreamResponse:
        path = self._folder(request).path / PAGE
        if not path.is_file():
            raise web.HTTPNotFound(text="404: it has no report yet; `syncshift report` makes one\n")
        answer = web.FileResponse(path)
        answer.content_type, answer.charset = "text/html", "utf-8"
        # What it may do itself is written in it.
        answer.headers["Content-Security-Policy"] = NOBODY
        return answer

    async def _events(self, request: web.Request) -> web.StreamResponse:
        watcher = self._watcher(request)
        if self.listeners >= _LISTENERS:
            raise web.HTTPServiceUnavailable(text="503: so many pages follow a run already\n")
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await stream.prepare(request)
        self.listeners += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._cancel_at_closing, group.cancel_scope)
                # Whoever listened has left; or there is nothing to see, which the page will say.
                with contextlib.suppress(ConnectionError, SyncshiftError):
                    await _tell(stream, watcher)
                group.cancel_scope.cancel()
        finally:
            self.listeners -= 1
        return stream

    async def _cancel_at_closing(self, scope: anyio.CancelScope) -> None:
        await self._closing.wait()
        scope.cancel()

    async def _orders(self, request: web.Request) -> web.StreamResponse:
        folder = self._folder(request)
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="415: an order is JSON\n")
        try:
            order = order_given(await request.read())
            reply = await anyio.to_thread.run_sync(ask, folder, order)
        except (SettingsError, RunRefused) as refusal:
            return _said(str(refusal), done=False)
        except (msgspec.MsgspecError, ValueError) as error:
            return _said(f"this is no order: {error}", done=False, status=400)
        return _said(reply.said, done=reply.done)

    # ------------------------------------------------------------------------------ what is meant

    def _folder(self, request: web.Request) -> Folder:
        run_id = request.match_info["run"]
        if self._only not in {None, run_id}:
            raise web.HTTPNotFound(text="404: another run is shown here\n")
        try:
            return Folder.open(self._runs_dir, run_id)
        except NoSuchRun as error:
            raise web.HTTPNotFound(text=f"404: {error}\n") from None

    def _watcher(self, request: web.Request) -> Watcher:
        folder = self._folder(request)
        return self._watchers.setdefault(folder.run_id, Watcher(Sight(folder)))


async def _tell(stream: web.StreamResponse, watcher: Watcher) -> None:
    async for now, picture in watcher.follow():
        name = b"pulse" if now.at_work else b"ended"
        data = _encode({**msgspec.structs.asdict(now), "picture": picture})
        await stream.write(b"event: %b\ndata: %b\n\n" % (name, data))


def order_given(body: bytes) -> Order:
    """Return the order that a page has sent.

    Raises `SettingsError`, ValueError or a `msgspec.MsgspecError`, in words fit for a person.
    """
    given = msgspec.json.decode(body, type=_Given)
    if given.command not in {"pause", "continue", "set", "stop"}:
        raise SettingsError("an order is pause, continue, set or stop")
    values: dict[str, Any] = {}
    for name in ("rate", "concurrency", "max_failures", "max_resyncs"):
        text = getattr(given, name)
        if text is not None:
            try:
                values[name] = KNOBS[name.replace("_", "-")].read(text)
            except ValueError as error:
                raise SettingsError(f"{name.replace('_', '-')} {error}; got {text!r}") from None
    try:
        for_s = None if given.for_ is None else duration_s(given.for_)
    except ValueError as error:
        raise SettingsError(f"for {error}; got {given.for_!r}") from None
    command: Any = given.command
    return order_of(Order(command=command, reason=given.reason, for_s=for_s, **values))


@asynccontextmanager
async def open_lookout(runs_dir: Path, *, only: str | None = None) -> AsyncIterator[Lookout]:
    """Serve the runs of *runs_dir* on this machine alone while this is open, or one of them.

    The system chooses the port.
    """
    lookout = Lookout(runs_dir, only=only)
    runner = web.AppRunner(lookout.app(), access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, _HOST, 0)
        await site.start()
        lookout.listen_at(runner.addresses[0][1])
        yield lookout
    finally:
        await lookout.close()
        await runner.cleanup()


async def keep_up(lookout: Lookout, folder: Folder | None, *, patience_s: float) -> None:
    """Return once the run has ended, nobody follows it, and nobody has asked for *patience_s*.

    Without a *folder* never: then it goes on until it is canceled.
    """
    while True:
        await anyio.sleep(min(1.0, patience_s / 4))
        if folder is None or folder.is_locked() or lookout.listeners:
            lookout.asked_at = time.monotonic()
        elif time.monotonic() - lookout.asked_at >= patience_s:
            return


def _html(page: bytes, kind: Kind) -> web.Response:
    answer = web.Response(body=page, content_type="text/html", charset="utf-8")
    answer.headers["Content-Security-Policy"] = f"{policy_of(kind)}; {NOBODY}"
    return answer


def _said(text: str, *, done: bool, status: int = 200) -> web.Response:
    body = _encode({"done": done, "said": text})
    return web.Response(body=body, content_type="application/json", status=status)
