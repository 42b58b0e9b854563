"""The only module that knows aiohttp's client; turns its exceptions into our faults.

One session for a run. No redirect is followed, no cookie is kept, no netrc is
read, a proxy is used only if asked for, and what went wrong is told in our own words:
the text and the ``repr`` of an aiohttp exception can hold the bearer token.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import platform
import ssl
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from runner.address import encode_path
from runner.errors import Fault, FaultKind
from runner.model import Request, Response
from runner.secret import scrub

MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read, after decompression; the Sync API's have a few hundred."""

_CONNECT_TIMEOUT_S = 5.0
_DNS_CACHE_S = 30
_REQUEST_ID_HEADERS = ("X-Request-Id", "X-Correlation-Id", "Request-Id", "CF-Ray")
_MAX_REQUEST_ID = 128

_reused: contextvars.ContextVar[bool | None] = contextvars.ContextVar("reused", default=None)


class _Connector(aiohttp.TCPConnector):
    """Tells, in the task that asked, whether its connection had served a request before.

    None: there was no connection yet.
    """

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109  # aiohttp's signature
        _reused.set(None)
        connection = await super().connect(req, traces, timeout)
        protocol: Any = connection.protocol
        _reused.set(getattr(protocol, "has_served", False))
        protocol.has_served = True
        return connection


class _Body(aiohttp.BytesPayload):
    """A body that asks once more whether it may leave, with nothing but the socket before it."""

    def __init__(self, body: bytes, may_leave: Callable[[], bool]) -> None:
        super().__init__(body)
        self._may_leave = may_leave

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        # Head and body go out together, so nothing of the request has left so far.
        if not self._may_leave():
            raise ConnectionAbortedError
        await super().write_with_length(writer, content_length)


class Api:
    """Sends one request and returns what came of it. Use as an async context manager."""

    def __init__(
        self,
        *,
        base_url: str,
        concurrency: int,
        timeout_s: float,
        version: str,
        trust_env: bool = False,
        may_leave: Callable[[], bool] | None = None,
    ) -> None:
        """*base_url* ends without a slash; *timeout_s* reaches from connecting to the last byte.

        *concurrency*: most connections at once; 0 for any number. *may_leave* is asked of each
        request with a body, right before it is written; where it says no, nothing is.
        """
        self._base = URL(base_url, encoded=True)
        self._prefix = self._base.raw_path.rstrip("/")
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._trust_env = trust_env
        self._may_leave = may_leave
        self._user_agent = f"syncshift/{version} Python/{platform.python_version()}"
        self._session: aiohttp.ClientSession | None = None
        self._afresh: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # As many as the throttle lets out: a request that waited in the pool
        # would spend its own time limit there.
        self._session = self._opened(
            _Connector(limit=self._concurrency, ttl_dns_cache=_DNS_CACHE_S, keepalive_timeout=15.0)
        )
        self._afresh = self._opened(
            _Connector(limit=self._concurrency, ttl_dns_cache=_DNS_CACHE_S, force_close=True)
        )
        return self

    def _opened(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": self._user_agent,
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
            },
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
            proxy=_proxy_for(self._base) if self._trust_env else None,
            raise_for_status=False,
        )
        # aiohttp would send a read that was cut off once more by itself: past the
        # throttle, and into an outage.
        session._retry_connection = False
        return session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with contextlib.AsyncExitStack() as closing:
            # Each, even when canceled in the middle of it.
            for session in filter(None, (self._session, self._afresh)):
                closing.push_async_callback(session.close)

    async def send(
        self, request: Request, authorization: str, *, afresh: bool = False
    ) -> Response | Fault:
        """Send *request* with *authorization* as its Authorization header.

        *afresh*: over a connection of its own, which nobody used before and nobody will again.
        Never raises for what the network or the server did. Cancellation
        passes through.
        """
        session = self._afresh if afresh else self._session
        assert session is not None  # noqa: S101  # entered by whoever made it
        headers: dict[str, str] = {hdrs.AUTHORIZATION: authorization}
        body: bytes | _Body | None = request.body
        if request.body is not None:
            headers[hdrs.CONTENT_TYPE] = "application/json"
            if self._may_leave is not None:
                body = _Body(request.body, self._may_leave)
        status: int | None = None
        _reused.set(None)
        try:
            # Made from the base, it need not be taken apart to find the host again.
            url = self._base.with_path(self._prefix + encode_path(request.segments), encoded=True)
            # Not as a context manager: an answer that was read to its end gives its connection
            # back by itself, and what ends early is closed below.
            answer = await session.request(
                request.method,
                url.with_query(request.query) if request.query else url,
                data=body,
                headers=headers,
                allow_redirects=False,
            )
            try:
                status = answer.status
                read, oversized = await _read(answer, request.most_bytes or MAX_ANSWER)
            except BaseException:
                answer.close()
                raise
            told = answer.headers
            return Response(
                status,
                read,
                oversized,
                told.get(hdrs.RETRY_AFTER),
                told.get(hdrs.DATE),
                _request_id(told),
                told.get("RateLimit"),
                told.get("RateLimit-Policy"),
            )
        except Exception as error:  # noqa: BLE001  # the enumeration below is the point of this module
            reused = _reused.get()
            return fault_of(
                error, status=status, reused=reused is True, connected=reused is not None
            )


async def ask_outside(
    address: str, *, timeout_s: float, version: str, trust_env: bool = False
) -> int | Fault:
    """Ask *address*, which is none of the API's, once; return the status of its answer.

    Goes without a token, follows no redirect and reads no body. Never raises for what the
    network or the server did. Cancellation passes through.
    """
    try:
        url = URL(address)
        async with (
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"syncshift/{version}"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                proxy=_proxy_for(url) if trust_env else None,
                raise_for_status=False,
            ) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            return answer.status
    except Exception as error:  # noqa: BLE001  # as in `Api.send`
        return fault_of(error)


def _proxy_for(base: URL) -> str | None:
    """Return the proxy that the environment names for *base*.

    Asked once, and without netrc: what a host may be told is the token, and nothing else.
    """
    host = base.host or ""
    return (
        None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(base.scheme)
    )


def fault_of(
    error: Exception, *, status: int | None = None, reused: bool = False, connected: bool = True
) -> Fault:
    """Say what *error* means, without a word of its text.

    *status* is the answer's where one had begun; *reused* tells whether the
    connection had served before, *connected* whether there was one. Every name
    in ``aiohttp.client_exceptions`` has its place here; a test holds that.
    """
    if status is not None and isinstance(
        error, (aiohttp.ClientError, TimeoutError, OSError, ValueError)
    ):
        kind = FaultKind.TIMEOUT if isinstance(error, TimeoutError) else FaultKind.TRUNCATED
        return Fault(kind, f"the answer broke off ({type(error).__name__})", status)
    return Fault(_kind_of(error, reused=reused, connected=connected), type(error).__name__)


_KINDS: tuple[tuple[tuple[type[BaseException], ...], FaultKind], ...] = (
    ((aiohttp.ClientConnectorDNSError,), FaultKind.DNS),
    (
        (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch),
        FaultKind.CERTIFICATE,
    ),
    ((aiohttp.ClientSSLError,), FaultKind.TLS),
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), FaultKind.PROXY),
    ((aiohttp.ConnectionTimeoutError,), FaultKind.CONNECT_TIMEOUT),
    ((TimeoutError,), FaultKind.TIMEOUT),
    ((aiohttp.ClientConnectorError,), FaultKind.CONNECT),
    (
        (
            aiohttp.ServerConnectionError,
            aiohttp.ClientOSError,
            aiohttp.ClientConnectionResetError,
        ),
        FaultKind.DISCONNECTED,
    ),
    ((aiohttp.TooManyRedirects, aiohttp.RedirectClientError), FaultKind.REDIRECTED),
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), FaultKind.UNSENDABLE),
    ((aiohttp.ClientPayloadError,), FaultKind.TRUNCATED),
    # The parser invents a status of 400 for what is not HTTP at all.
    ((aiohttp.ClientResponseError,), FaultKind.GARBLED),
    ((aiohttp.ClientConnectionError,), FaultKind.CLOSED),
    ((aiohttp.ClientError,), FaultKind.OTHER),
    ((ssl.SSLError,), FaultKind.TLS),
    ((OSError,), FaultKind.DISCONNECTED),
    ((ValueError,), FaultKind.UNSENDABLE),
)
"""The first entry that fits says what an exception means."""


def _kind_of(error: Exception, *, reused: bool, connected: bool) -> FaultKind:
    if _errno_of(error) in _OUT_OF_FILES:
        return FaultKind.RESOURCES
    if isinstance(error, RuntimeError) and "closed" in str(error).lower():
        return FaultKind.CLOSED
    kind = next((kind for types, kind in _KINDS if isinstance(error, types)), FaultKind.INTERNAL)
    if kind is FaultKind.DISCONNECTED and reused:
        return FaultKind.STALE
    if kind is FaultKind.TIMEOUT and not connected:
        return FaultKind.CONNECT_TIMEOUT
    return kind


_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


def _errno_of(error: Exception) -> int | None:
    cause = getattr(error, "os_error", error)
    return cause.errno if isinstance(cause, OSError) else None


async def _read(answer: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """Read at most so many bytes; tell whether there were more."""
    content = answer.content
    body = await content.read(most + 1)
    while len(body) <= most and not content.at_eof():
        body += await content.read(most + 1 - len(body))
    if len(body) > most:
        answer.close()
        return body[:most], True
    return body, False


def _request_id(told: Any) -> str | None:
    for name in _REQUEST_ID_HEADERS:
        value: str | None = told.get(name)
        if value is not None:
            # The server's words: cut, on one line, and without a token it may repeat.
            text = scrub(value)
            text = text if text.isprintable() else ascii(text)[1:-1]
            return text[:_MAX_REQUEST_ID]
    return None
