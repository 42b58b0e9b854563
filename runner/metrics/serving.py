"""Serves the metrics of a run from threads of its own: a scrape costs the run one snapshot."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runner.errors import SettingsError
from runner.live import Live
from runner.metrics.counts import Counts, Snapshot
from runner.metrics.families import FAMILIES, Families

PATH = "/metrics"
_LOOP_ANSWERS_S = 2.0
"""An event loop that does not answer for so long is not well; a scrape then fails."""
_CLIENT_S = 5.0
_LOOPBACK = "127.0.0.1"

_Answer = Callable[[str], tuple[bytes, str]]
"""Takes what a client accepts; returns the body and its type. Raises `_Unanswered`."""


class _Unanswered(Exception):
    """The run does not answer: it has ended, or is stuck."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: _Answer

    def server_bind(self) -> None:
        # Not that of `HTTPServer`, which looks for this machine's name in the network.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves is none of the run's business."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "syncshift"
    sys_version = ""
    timeout = _CLIENT_S

    def do_GET(self) -> None:
        """Answer one scrape."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}")
            return
        try:
            body, kind = self.server.answer(self.headers.get("Accept", ""))
        except _Unanswered as why:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, str(why))
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: standard error is the run's."""


class Metrics:
    """The metrics of one session. Holds its port from when it is made to `close`."""

    def __init__(self, port: int, *, host: str = _LOOPBACK) -> None:
        """*port* 0: any that is free. Raises `SettingsError` when it is taken, or cannot be had."""
        try:
            import prometheus_client  # noqa: F401  # there or not is the question
        except ImportError:
            raise SettingsError(
                "--metrics-port needs the extra `metrics`: install syncshift[metrics], or "
                "prometheus-client beside it"
            ) from None
        if not 0 <= port <= 65_535:
            raise SettingsError(f"--metrics-port must be a number from 0 to 65535; got {port}")
        kind = type("Server", (_Server,), {"address_family": _family_of(host)})
        try:
            self._server: _Server = kind((host, port), _Handler)
        except OSError as error:
            raise SettingsError(
                f"--metrics-port {port}: {host} cannot be listened at "
                f"({error.strerror or error}); choose another port, or 0 for any that is free"
            ) from None
        self._thread: threading.Thread | None = None
        self.counts = Counts()
        """Hand it to the run as a witness."""

    @property
    def address(self) -> str:
        """Where the metrics are."""
        host, port = self._server.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{name}:{port}{PATH}"

    def begin(self, live: Live, *, run_id: str, job: str) -> None:
        """Answer from now on. Call it in the event loop of the run that *live* shows."""
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        loop = asyncio.get_running_loop()
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)

        def now() -> Snapshot:
            return _in_loop(loop, lambda: self.counts.snapshot(live))

        def answer(accepts: str) -> tuple[bytes, str]:
            encode, kind = choose_encoder(accepts)
            return encode(registry), kind

        registry.register(Families(run_id=run_id, job=job, now=now, families=FAMILIES))
        self._server.answer = answer
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer no more, and give the port back."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _in_loop(loop: asyncio.AbstractEventLoop, look: Callable[[], Snapshot]) -> Snapshot:
    """Return what *look* does, called in *loop* between two of its steps."""
    found: concurrent.futures.Future[Snapshot] = concurrent.futures.Future()

    def step() -> None:
        try:
            found.set_result(look())
        except Exception as error:  # noqa: BLE001  # it is the scrape's, and not the run's
            found.set_exception(error)

    try:
        loop.call_soon_threadsafe(step)
    except RuntimeError:
        raise _Unanswered("the run has ended") from None
    try:
        return found.result(_LOOP_ANSWERS_S)
    except TimeoutError:
        raise _Unanswered(f"the run does not answer within {_LOOP_ANSWERS_S:g} s") from None
