"""What goes onto the wire, what comes back, and what every way of failing is called."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import os
import random
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

import aiohttp
import msgspec
import pytest
from aiohttp import client_exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from runner.address import encode_path
from runner.api import MAX_ANSWER, Api, fault_of
from runner.errors import Fault, FaultKind
from runner.model import Request, Response, Verdict
from runner.retry import judge
from tests.wire import CLOSE, SILENCE, Wire, says

READ = Request("GET", ("api", "syncs", "sync-1"))
WRITE = Request("PATCH", ("api", "syncs", "sync-1"), b'{"frequency":"1h"}')
CANARY = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2VjcmV0"
BEARER = f"Bearer {CANARY}"


def client(wire: Wire | str, *, timeout_s: float = 10.0, trust_env: bool = False) -> Api:
    """Return a client for a server."""
    return Api(
        base_url=wire if isinstance(wire, str) else wire.url,
        concurrency=40,
        timeout_s=timeout_s,
        version="1.2.3",
        trust_env=trust_env,
    )


def kind(result: Response | Fault) -> FaultKind:
    """Return what went wrong; nothing but our own words may be told of it."""
    assert isinstance(result, Fault)
    for text in (repr(result), str(result), msgspec.json.encode(result).decode()):
        assert CANARY not in text
        assert "Bearer" not in text
    return result.kind


# --- what is sent ---------------------------------------------------------------------------


async def test_a_request_is_what_was_asked_for() -> None:
    """Method, path, token and body arrive as they are, with our name and no more than needed."""
    async with Wire(says(200)).listening() as wire, client(wire) as api:
        await api.send(WRITE, BEARER)
        await api.send(READ, BEARER)
    write, read = wire.heard

    assert (write.method, write.target, write.body) == (
        "PATCH",
        "/api/syncs/sync-1",
        b'{"frequency":"1h"}',
    )
    assert write.headers == {
        "host": f"127.0.0.1:{wire.port}",
        "user-agent": write.headers["user-agent"],
        "accept": "application/json",
        "accept-encoding": "gzip, deflate",
        "authorization": BEARER,
        "content-type": "application/json",
        "content-length": "18",
    }
    assert re.fullmatch(r"syncshift/1\.2\.3 Python/[\d.a-z+]+", write.headers["user-agent"])
    assert (read.method, read.target, read.body) == ("GET", "/api/syncs/sync-1", b"")
    assert "content-type" not in read.headers


HOSTILE = (
    "..%2f",
    "../admin",
    "../../",
    "./x",
    "...",
    "%2e%2e",
    "%2E%2E/x",
    "a%2fb",
    "a%2Fb",
    "a/b",
    "/",
    "//evil.example/x",
    "\\\\evil\\x",
    "https://evil.example/x",
    "http:x",
    "a?x=1",
    "a?",
    "?",
    "a#f",
    "#",
    "a\r\nb",
    "a\r\nHost: evil.example\r\n\r\nGET / HTTP/1.1",
    "a\nb",
    "a\x00b",
    "a\tb",
    "a b",
    " ",
    "a;b=c",
    "a&b=c",
    "a=b",
    "a+b",
    "a@evil.example",
    "user:pw@h",
    "%",
    "%%30",
    "%0d%0a",
    "caf\u00e9",
    "\u202egnp.exe",
    "\U0001f600",
    "\u2025/\u2024",
    "a'b\"c",
    "<script>",
    "{id}",
    "[1]",
    "a|b^c`d~",
    "org:42",
    "x" * 256,
    "\x7f",
    "\ufeffid",
    "*",
    "$(id)",
)
"""Ids that mean something else to whatever does not take them whole."""


async def test_r1_hostile_ids_reach_one_path_and_are_read_back_whole() -> None:
    """Each of forty and more ids arrives as one opaque segment: exact after a single decode."""
    async with (
        Wire(says(200)).listening() as wire,
        Wire(says(200)).listening() as elsewhere,
        client(wire) as api,
    ):
        ids = [text.replace("evil.example", f"127.0.0.1:{elsewhere.port}") for text in HOSTILE]
        for sync_id in ids:
            await api.send(Request("PATCH", ("api", "syncs", sync_id), b"{}"), BEARER)

    assert len(HOSTILE) >= 40
    assert elsewhere.connections == 0
    assert len(wire.heard) == len(ids)
    for sync_id, heard in zip(ids, wire.heard, strict=True):
        assert re.fullmatch(r"/api/syncs/[A-Za-z0-9._~%-]+", heard.target)
        segment = heard.target.removeprefix("/api/syncs/")
        assert unquote_to_bytes(segment).decode() == sync_id
        assert heard.headers["host"] == f"127.0.0.1:{wire.port}"


@pytest.mark.parametrize("sync_id", ["", ".", ".."])
async def test_r1_an_id_that_no_encoding_protects_is_not_sent(sync_id: str) -> None:
    """Nothing leaves for an id that a server would take for a step in the path."""
    async with Wire(says(200)).listening() as wire, client(wire) as api:
        result = await api.send(Request("PATCH", ("api", "syncs", sync_id), b"{}"), BEARER)

    assert kind(result) is FaultKind.UNSENDABLE
    assert wire.connections == 0


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_r1_any_text_is_one_segment(text: str) -> None:
    """No text at all can end its segment, begin a query or be read back as another."""
    assume(text not in {".", ".."})
    path = encode_path(("api", text))

    assert re.fullmatch(r"/api/[A-Za-z0-9._~%-]+", path)
    assert unquote_to_bytes(path.removeprefix("/api/")).decode() == text


async def test_a_write_that_may_not_leave_any_more_does_not() -> None:
    """Asked for the last time when all is ready: nothing of it arrives, and it is no answer."""
    answers, wire = [True, False, True], Wire(says(200))
    async with (
        wire.listening(),
        Api(
            base_url=wire.url,
            concurrency=1,
            timeout_s=5.0,
            version="1.2.3",
            may_leave=lambda: answers.pop(0),
        ) as api,
    ):
        results = [await api.send(WRITE, BEARER) for _ in range(3)]

    assert [isinstance(result, Response) for result in results] == [True, False, True]
    assert [heard.method for heard in wire.heard] == ["PATCH", "PATCH"]


async def test_a_base_url_may_have_a_path() -> None:
    """What stands below a path of the host is asked for below it."""
    async with Wire(says(200)).listening() as wire, client(f"{wire.url}/eu/1") as api:
        await api.send(READ, BEARER)

    assert wire.heard[0].target == "/eu/1/api/syncs/sync-1"


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "a\rb"])
async def test_x4_a_header_cannot_be_broken_out_of(name: str) -> None:
    """A token with a line end is not sent at all, and told as something that cannot be sent."""
    async with Wire(says(200)).listening() as wire, client(wire) as api:
        result = await api.send(WRITE, f"Bearer {CANARY}{name}")

    assert kind(result) is FaultKind.UNSENDABLE
    assert wire.heard == []


async def test_an_id_that_is_no_text_cannot_be_sent() -> None:
    """Half of a surrogate pair cannot be spelled on the wire; only that row is told so."""
    async with Wire(says(200)).listening() as wire, client(wire) as api:
        result = await api.send(Request("GET", ("api", "syncs", "a\ud800")), BEARER)

    assert kind(result) is FaultKind.UNSENDABLE
    assert wire.heard == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("request_", [READ, WRITE], ids=["read", "write"])
async def test_r2_redirects_are_never_followed(status: int, request_: Request) -> None:
    """The other server hears nothing, neither token nor body, and the row sees the redirect."""
    async with Wire(says(200)).listening() as other:
        redirect = says(status, f"Location: {other.url}/api/syncs/sync-1")
        async with Wire(redirect).listening() as wire, client(wire) as api:
            result = await api.send(request_, BEARER)

    assert isinstance(result, Response)
    assert result.status == status
    assert (len(wire.heard), other.connections) == (1, 0)


async def test_r10_no_cookie_is_kept() -> None:
    """A session that one user was given is never shown with the token of another."""
    answer = says(200, "Set-Cookie: sid=ann; Path=/")
    async with Wire(answer).listening() as wire, client(wire) as api:
        for _ in range(3):
            await api.send(READ, BEARER)

    assert [heard.headers.get("cookie") for heard in wire.heard] == [None] * 3


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty netrc that the environment names, and no exception from any proxy."""
    path = tmp_path / "netrc"
    path.touch(mode=0o600)
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    return path


@pytest.fixture
def login(netrc: Path) -> None:
    """A netrc with a login for this machine."""
    netrc.write_text("machine 127.0.0.1 login evil password evil\n", encoding="utf-8")


@pytest.mark.usefixtures("login")
async def test_x3_no_proxy_and_no_netrc_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credentials come from our own code, and requests go where they are addressed to."""
    async with Wire(says(200)).listening() as proxy, Wire(says(200)).listening() as wire:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with client(wire) as api:
            await api.send(READ, BEARER)

    assert proxy.connections == 0
    assert wire.heard[0].headers["authorization"] == BEARER


@pytest.mark.usefixtures("netrc")
async def test_x3_a_proxy_is_used_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --trust-env the proxy is asked, and the token is still our own."""
    async with Wire(says(200)).listening() as proxy, Wire(says(200)).listening() as wire:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with client(wire, trust_env=True) as api:
            await api.send(READ, BEARER)

    assert wire.connections == 0
    assert proxy.heard[0].target == f"{wire.url}/api/syncs/sync-1"
    assert proxy.heard[0].headers["authorization"] == BEARER


@pytest.mark.usefixtures("netrc")
async def test_a_proxy_that_is_not_there_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy that refuses is not mistaken for the host."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with client("http://127.0.0.1:2", trust_env=True) as api:
        assert kind(await api.send(READ, BEARER)) is FaultKind.PROXY


# --- what comes back ------------------------------------------------------------------------


async def test_an_answer_is_read_whole() -> None:
    """Status, body and the three headers that matter come back as they were sent."""
    answer = says(
        409, "Retry-After: 7", "Date: now", "X-Request-Id: r-1", "CF-Ray: c-1", body=b'{"a":1}'
    )
    async with Wire(answer).listening() as wire, client(wire) as api:
        result = await api.send(WRITE, BEARER)

    assert result == Response(409, b'{"a":1}', False, "7", "now", "r-1")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ((), None),
        (("CF-Ray: c-1",), "c-1"),
        (("Request-Id: a", "X-Correlation-Id: b"), "b"),
        (("X-Request-Id: " + "x" * 4000,), "x" * 128),
    ],
)
async def test_a_request_id_is_found_and_kept_short(
    headers: tuple[str, ...], told: str | None
) -> None:
    """The first of the known headers counts, cut to a length that fits into a line."""
    async with Wire(says(200, *headers)).listening() as wire, client(wire) as api:
        result = await api.send(READ, BEARER)

    assert isinstance(result, Response)
    assert result.request_id == told


@pytest.mark.parametrize("status", [204, 299, 404, 429, 500, 599, 600, 999])
async def test_any_status_is_an_answer(status: int) -> None:
    """A status that HTTP does not know is handed on like any other."""
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    async with Wire(answer).listening() as wire, client(wire) as api:
        result = await api.send(WRITE, BEARER)

    assert isinstance(result, Response)
    assert (result.status, result.body) == (status, b"")


@pytest.mark.parametrize(
    ("size", "oversized"),
    [
        (0, False),
        (MAX_ANSWER - 1, False),
        (MAX_ANSWER, False),
        (MAX_ANSWER + 1, True),
        (10**6, True),
    ],
)
async def test_r11_a_body_is_cut_at_its_limit(size: int, oversized: bool) -> None:
    """Up to 64 KiB are read; of what is longer the beginning is kept, and that it was longer."""
    body = random.Random(size).randbytes(size)
    async with Wire(says(200, body=body)).listening() as wire, client(wire) as api:
        result = await api.send(READ, BEARER)

    assert isinstance(result, Response)
    assert result.body == body[:MAX_ANSWER]
    assert result.oversized == oversized


async def test_a_body_that_comes_in_pieces_is_put_together() -> None:
    """Chunks of any size make one body."""
    chunks = [b"x" * n for n in (1, 5000, 1, 20_000)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with Wire(head + encoded).listening() as wire, client(wire) as api:
        result = await api.send(READ, BEARER)

    assert isinstance(result, Response)
    assert result.body == b"".join(chunks)


async def test_r11_a_compressed_flood_takes_no_memory() -> None:
    """Two hundred megabytes that come as two hundred kilobytes are not unpacked."""
    press = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    body = b"".join([*(press.compress(block) for _ in range(200)), press.flush()])
    assert len(body) < 300_000
    wire = Wire(says(400, "Content-Encoding: gzip", body=body))
    async with wire.listening(), client(wire) as api:
        await api.send(READ, BEARER)
        tracemalloc.start()
        try:
            result = await api.send(WRITE, BEARER)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert isinstance(result, Response)
    assert (result.status, len(result.body), result.oversized) == (400, MAX_ANSWER, True)
    assert peak < 5_000_000


async def test_a_compressed_answer_is_unpacked() -> None:
    """An ordinary body that was packed on the way is read as what it was."""
    body = zlib.compress(b'{"id":"sync-1"}', wbits=31)
    wire = Wire(says(200, "Content-Encoding: gzip", body=body))
    async with wire.listening(), client(wire) as api:
        result = await api.send(READ, BEARER)

    assert isinstance(result, Response)
    assert result.body == b'{"id":"sync-1"}'


# --- what goes wrong, for real --------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_r4_a_reply_that_breaks_off_is_no_answer(status: int) -> None:
    """A body shorter than it claims is a fault that remembers the status, never a success."""
    wire = Wire(says(status, body=b"abc", length=100), closes=True)
    async with wire.listening(), client(wire) as api:
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.TRUNCATED
    assert isinstance(result, Fault)
    assert (result.status, result.sent) == (status, True)


async def test_r4_a_body_that_is_not_what_it_says_is_no_answer() -> None:
    """What claims to be gzip and is not cannot be read."""
    wire = Wire(says(200, "Content-Encoding: gzip", body=b"this is not gzip"))
    async with wire.listening(), client(wire) as api:
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.TRUNCATED


@pytest.mark.parametrize(
    "garbage",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    ],
    ids=["words", "tls", "letters-for-digits", "endless-header", "broken-header"],
)
async def test_r5_garbage_is_not_a_status(garbage: bytes) -> None:
    """What is not HTTP may be asked again; the 400 that the parser invents is not believed."""
    wire = Wire(garbage, closes=True)
    async with wire.listening(), client(wire) as api:
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.GARBLED
    assert result.status is None
    assert judge(result, writes=True).verdict is Verdict.AMBIGUOUS


async def test_r6_no_reply_in_time_is_a_timeout() -> None:
    """A server that takes the request and says nothing may have acted."""
    wire = Wire(SILENCE)
    async with wire.listening(), client(wire, timeout_s=0.05) as api:
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.TIMEOUT
    assert isinstance(result, Fault)
    assert (result.status, result.sent) == (None, True)


async def test_r6_a_reply_that_stops_coming_is_a_timeout() -> None:
    """The time limit reaches to the last byte of the body, and the status is remembered."""
    wire = Wire(says(200, body=b"abc", length=100), SILENCE)
    async with wire.listening(), client(wire, timeout_s=0.5) as api:
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.TIMEOUT
    assert result.status == 200


@contextlib.contextmanager
def full_house() -> Iterator[str]:
    """Yield the address of a listener that takes no more connections and refuses none."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            guest = held.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_r6_no_connection_in_time_was_never_sent() -> None:
    """A host that does not take the connection cannot have acted."""
    with full_house() as url:
        async with client(url, timeout_s=0.05) as api:
            result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.CONNECT_TIMEOUT
    assert isinstance(result, Fault)
    assert not result.sent


async def test_r7_waiting_for_a_connection_does_not_consume_the_time_limit() -> None:
    """As many at once as the concurrency allows: none waits for another's connection."""
    begun = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        waiting.append(writer)
        if len(waiting) == 40:
            begun.set()
        # Nobody is answered before everybody has arrived.
        await begun.wait()
        writer.write(says(200))
        await writer.drain()
        writer.close()

    waiting: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(slowly, "127.0.0.1", 0, backlog=100)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with client(url, timeout_s=5) as api:
        results = await asyncio.gather(*(api.send(READ, BEARER) for _ in range(40)))
    listener.close()
    await asyncio.gather(*(writer.wait_closed() for writer in waiting))

    assert [result.status for result in results] == [200] * 40


async def test_r8_a_kept_connection_that_is_closed_under_a_request_is_stale() -> None:
    """The second request on a connection that ends without a byte is told apart from a first."""
    async with Wire(says(200), CLOSE).listening() as wire, client(wire) as api:
        first = await api.send(WRITE, BEARER)
        second = await api.send(WRITE, BEARER)
        fresh = await api.send(WRITE, BEARER)

    assert isinstance(first, Response)
    assert kind(second) is FaultKind.STALE
    assert kind(fresh) is FaultKind.DISCONNECTED
    assert wire.connections == 2
    assert [judge(fault, writes=True).free for fault in (second, fresh)] == [True, False]


async def test_r8_a_request_that_goes_afresh_has_a_connection_of_its_own() -> None:
    """It takes none of the pool, and leaves none there."""
    async with Wire(says(200)).listening() as wire, client(wire) as api:
        made = []
        for afresh in (False, False, True, True, False):
            assert isinstance(await api.send(WRITE, BEARER, afresh=afresh), Response)
            made.append(wire.connections)

    assert made == [1, 1, 2, 3, 3]


async def test_r8_a_server_that_breaks_its_word_costs_a_retry_at_most() -> None:
    """It closes after each reply while saying keep-alive: two attempts a row, and all succeed."""
    wire, attempts = Wire(says(200, "Connection: keep-alive"), closes=True), []
    async with wire.listening(), client(wire) as api:
        for _ in range(200):
            result = await api.send(WRITE, BEARER)
            tries = 1
            while not isinstance(result, Response):
                assert kind(result) is FaultKind.STALE
                result = await api.send(WRITE, BEARER)
                tries += 1
            attempts.append(tries)

    assert max(attempts) <= 2
    assert len(attempts) == 200


async def test_r9_a_write_is_sent_once_each() -> None:
    """No request is repeated behind our back when a kept connection is gone."""
    async with Wire(says(200), CLOSE, says(200)).listening() as wire, client(wire) as api:
        for _ in range(3):
            await api.send(WRITE, BEARER)

    assert len(wire.heard) == 3


async def test_nobody_there_is_a_refusal() -> None:
    """A port on which nobody listens was not sent anything."""
    async with client("http://127.0.0.1:1") as api:
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.CONNECT


def certificate(folder: Path) -> ssl.SSLContext:
    """Return a server's side of TLS with a certificate that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


async def test_a_certificate_that_nobody_knows_is_not_accepted(tmp_path: Path) -> None:
    """A host that cannot show who it is hears no request and no token."""
    async with contextlib.AsyncExitStack() as stack:
        wire = await stack.enter_async_context(Wire(says(200)).listening(tls=certificate(tmp_path)))
        api = await stack.enter_async_context(client(wire.url.replace("http:", "https:")))
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.CERTIFICATE
    assert wire.heard == []


async def test_a_host_without_tls_is_told_as_such() -> None:
    """https to a host that speaks plain http ends in the handshake; nothing was sent."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with contextlib.AsyncExitStack() as stack:
        listener = await asyncio.start_server(plain, "127.0.0.1", 0)
        stack.callback(listener.close)
        port = listener.sockets[0].getsockname()[1]
        api = await stack.enter_async_context(client(f"https://127.0.0.1:{port}"))
        result = await api.send(WRITE, BEARER)

    assert kind(result) is FaultKind.TLS


async def test_no_file_descriptor_left_is_our_own_shortage() -> None:
    """When this machine can open no socket, the host is not blamed."""
    async with Wire(says(200)).listening() as wire, client(wire) as api:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            result = await api.send(WRITE, BEARER)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert kind(result) is FaultKind.RESOURCES
    assert wire.heard == []


async def test_after_the_end_nothing_is_sent() -> None:
    """A session that was closed says so; leaving one that was never entered does no harm."""
    async with Wire(says(200)).listening() as wire:
        api = client(wire)
        await api.__aexit__(None, None, None)
        async with api:
            await api.send(READ, BEARER)
        result = await api.send(READ, BEARER)

    assert kind(result) is FaultKind.CLOSED
    assert len(wire.heard) == 1


async def test_t2_a_cancellation_passes_through() -> None:
    """A request that is canceled is no fault: it leaves as canceled, and its connection closes."""
    async with Wire(SILENCE).listening() as wire, client(wire) as api:
        task = asyncio.create_task(api.send(WRITE, BEARER))
        await wire.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- what goes wrong, by name ---------------------------------------------------------------

NOWHERE = SimpleNamespace(host="h", port=1, ssl=True)
HEADERS = CIMultiDictProxy(CIMultiDict({"Authorization": BEARER}))
INFO = aiohttp.RequestInfo(URL(f"https://h/?{CANARY}"), "PATCH", HEADERS, URL("https://h/"))
BROKEN = OSError(errno.ECONNREFUSED, CANARY)


def named(name: str) -> Exception:
    """Return an exception of aiohttp's by its name, filled with a secret wherever one fits."""
    cls: Any = getattr(client_exceptions, name)
    if name == "ServerFingerprintMismatch":
        return cls(b"a", b"b", CANARY, 1)  # type: ignore[no-any-return]  # looked up by name
    if issubclass(cls, aiohttp.ClientConnectorCertificateError):
        return cls(NOWHERE, ssl.SSLCertVerificationError(CANARY))  # type: ignore[no-any-return]  # likewise
    if issubclass(cls, aiohttp.ClientConnectorError):
        return cls(NOWHERE, BROKEN)  # type: ignore[no-any-return]  # likewise
    if issubclass(cls, aiohttp.ClientResponseError):
        return cls(INFO, (), status=400, message=CANARY)  # type: ignore[no-any-return]  # likewise
    return cls(CANARY)  # type: ignore[no-any-return]  # likewise


NAMES = {
    "ClientError": FaultKind.OTHER,
    "ClientConnectionError": FaultKind.CLOSED,
    "ClientConnectionResetError": FaultKind.DISCONNECTED,
    "ClientOSError": FaultKind.DISCONNECTED,
    "ClientConnectorError": FaultKind.CONNECT,
    "ClientProxyConnectionError": FaultKind.PROXY,
    "ClientSSLError": FaultKind.TLS,
    "ClientConnectorDNSError": FaultKind.DNS,
    "ClientConnectorSSLError": FaultKind.TLS,
    "ClientConnectorCertificateError": FaultKind.CERTIFICATE,
    "ConnectionTimeoutError": FaultKind.CONNECT_TIMEOUT,
    "SocketTimeoutError": FaultKind.TIMEOUT,
    "ServerConnectionError": FaultKind.DISCONNECTED,
    "ServerTimeoutError": FaultKind.TIMEOUT,
    "ServerDisconnectedError": FaultKind.DISCONNECTED,
    "ServerFingerprintMismatch": FaultKind.CERTIFICATE,
    "ClientResponseError": FaultKind.GARBLED,
    "ClientHttpProxyError": FaultKind.PROXY,
    "WSServerHandshakeError": FaultKind.GARBLED,
    "ContentTypeError": FaultKind.GARBLED,
    "ClientPayloadError": FaultKind.TRUNCATED,
    "UploadAbortedError": FaultKind.OTHER,
    "InvalidURL": FaultKind.UNSENDABLE,
    "InvalidUrlClientError": FaultKind.UNSENDABLE,
    "RedirectClientError": FaultKind.REDIRECTED,
    "NonHttpUrlClientError": FaultKind.UNSENDABLE,
    "InvalidUrlRedirectClientError": FaultKind.REDIRECTED,
    "NonHttpUrlRedirectClientError": FaultKind.REDIRECTED,
    "WSMessageTypeError": FaultKind.INTERNAL,
}
"""What every exception of aiohttp's client means. A new one has to be entered here."""


def test_t1_the_table_of_names_is_complete() -> None:
    """A class that a new aiohttp brings breaks this test, not a run."""
    assert set(NAMES) == set(client_exceptions.__all__)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_t1_every_exception_of_aiohttp_has_its_meaning(name: str) -> None:
    """Each is told by our own words, and can be judged; none lets a secret out."""
    error = named(name)
    fault = fault_of(error)

    assert kind(fault) is NAMES[name]
    assert fault.detail == name
    assert judge(fault, writes=True).error
    assert CANARY not in (judge(fault, writes=True).error or "")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(CANARY), FaultKind.TIMEOUT),
        (aiohttp.TooManyRedirects(INFO, ()), FaultKind.REDIRECTED),
        (ConnectionResetError(CANARY), FaultKind.DISCONNECTED),
        (BrokenPipeError(CANARY), FaultKind.DISCONNECTED),
        (OSError(errno.EMFILE, CANARY), FaultKind.RESOURCES),
        (OSError(errno.ENFILE, CANARY), FaultKind.RESOURCES),
        (aiohttp.ClientOSError(errno.EMFILE, CANARY), FaultKind.RESOURCES),
        (OSError(errno.EHOSTUNREACH, CANARY), FaultKind.DISCONNECTED),
        (ssl.SSLError(CANARY), FaultKind.TLS),
        (ssl.SSLCertVerificationError(CANARY), FaultKind.TLS),
        (UnicodeError(CANARY), FaultKind.UNSENDABLE),
        (ValueError(CANARY), FaultKind.UNSENDABLE),
        (RuntimeError(f"Session is closed {CANARY}"), FaultKind.CLOSED),
        (RuntimeError(CANARY), FaultKind.INTERNAL),
        (KeyError(CANARY), FaultKind.INTERNAL),
        (RecursionError(CANARY), FaultKind.INTERNAL),
        (MemoryError(CANARY), FaultKind.INTERNAL),
    ],
)
def test_t1_what_is_not_aiohttps_has_its_meaning_too(error: Exception, expected: FaultKind) -> None:
    """The system, TLS, text and our own mistakes: none is left without a name."""
    assert kind(fault_of(error)) is expected


@pytest.mark.parametrize("name", sorted(NAMES))
def test_t1_once_a_status_was_read_the_answer_broke_off(name: str) -> None:
    """Whatever happens while a body is read leaves the status known, and the rest in doubt."""
    fault = fault_of(named(name), status=200)
    late = NAMES[name] in {FaultKind.TIMEOUT, FaultKind.CONNECT_TIMEOUT}

    if name == "WSMessageTypeError":
        assert kind(fault) is FaultKind.INTERNAL
    else:
        assert kind(fault) is (FaultKind.TIMEOUT if late else FaultKind.TRUNCATED)
        assert fault.status == 200
    assert fault.sent


@pytest.mark.parametrize("name", sorted(NAMES))
def test_r6_without_a_connection_nothing_was_sent_in_time(name: str) -> None:
    """A time limit that ran out before there was a connection is no ambiguity."""
    fault = fault_of(named(name), connected=False)

    if NAMES[name] is FaultKind.TIMEOUT:
        assert fault.kind is FaultKind.CONNECT_TIMEOUT
    else:
        assert fault.kind is NAMES[name]


def test_r8_only_a_lost_connection_can_be_stale() -> None:
    """That a connection was used before explains a disconnection and nothing else."""
    stale = {name for name in NAMES if fault_of(named(name), reused=True).kind is FaultKind.STALE}

    assert stale == {name for name, kind in NAMES.items() if kind is FaultKind.DISCONNECTED}


def test_x1_the_premise_holds() -> None:
    """An exception of aiohttp does hold the token; that is why none is ever shown."""
    assert CANARY in repr(named("ClientResponseError"))


@pytest.mark.long
def test_r8_ten_thousand_rows_against_a_server_that_breaks_its_word() -> None:
    """At full size, in a process of its own: nobody fails, and no row needs a third attempt."""
    code = (
        "import asyncio\n"
        "from runner.api import Api\n"
        "from runner.model import Request, Response\n"
        "from tests.wire import Wire, says\n"
        "async def main():\n"
        "    wire, most = Wire(says(200, 'Connection: keep-alive'), closes=True), 0\n"
        "    write = Request('PATCH', ('api', 'syncs', 'a'), b'{}')\n"
        "    async with wire.listening(), Api(base_url=wire.url, concurrency=1, timeout_s=9,\n"
        "                                     version='0') as api:\n"
        "        for _ in range(10_000):\n"
        "            tries = 1\n"
        "            while not isinstance(await api.send(write, 'Bearer a'), Response):\n"
        "                tries += 1\n"
        "            most = max(most, tries)\n"
        "    print(most)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).resolve().parents[1]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root
    )

    assert int(done.stdout) <= 2
    assert time.monotonic() - began < 300
