"""Puts an answer on the wire, whole or spoiled."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import gzip
import http
import math

import msgspec
from aiohttp import web

from runner.model import encode_json
from runner.simulator.endpoints import Answer
from runner.simulator.faults import Fault, Faults, RetryAfter

Headers = dict[str, str]

_HTML_TYPE = "text/html; charset=utf-8"
_PAGE = "<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
_GARBAGE = b"\x16\x03\x01\x02\x00\x01 this is not HTTP\r\n\r\n"

_STATUSES = {
    Fault.HTTP_401: 401,
    Fault.REVOKED: 401,
    Fault.HTTP_408: 408,
    Fault.HTTP_409: 409,
    Fault.HTTP_423: 423,
    Fault.HTTP_429: 429,
    Fault.HTTP_500: 500,
    Fault.HTTP_502: 502,
    Fault.HTTP_503: 503,
    Fault.HTTP_503_WAIT: 503,
    Fault.HTTP_504: 504,
    Fault.REDIRECT: 307,
    Fault.NOT_JSON: 200,
    Fault.OVERSIZED: 200,
    Fault.GZIP_BOMB: 200,
}
_NO_STATUS = frozenset({Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.GARBAGE})
_TELL_WAIT = frozenset({Fault.HTTP_429, Fault.HTTP_503_WAIT})
_HTML = frozenset({Fault.HTTP_502, Fault.HTTP_504, Fault.NOT_JSON})


def status_of(fault: Fault | None, honest_status: int) -> int | None:
    """Return the status that goes out under *fault*; None: no status line."""
    if fault is None:
        return honest_status
    if fault in _NO_STATUS:
        return None
    return _STATUSES.get(fault, honest_status)


def spoil(honest: Answer, *, fault: Fault, faults: Faults) -> Answer:
    """Return what *fault* makes of the body and the status of *honest*."""
    status = status_of(fault, honest.status) or honest.status
    if fault in _HTML:
        title = f"{status} {http.HTTPStatus(status).phrase}"
        page = _PAGE.format(title=title).encode()
        return Answer(status, page, honest.acted, _HTML_TYPE)
    if fault is Fault.OVERSIZED:
        body = honest.body + b" " * faults.oversized_bytes
        return Answer(status, body, honest.acted)
    if fault is Fault.GZIP_BOMB:
        return Answer(status, _bomb(faults.bomb_bytes), honest.acted)
    if fault in (Fault.OTHER_ID, Fault.OTHER_DATA) and status == 200:
        return Answer(200, _altered(honest.body, fault), honest.acted)
    return honest


def wait_headers(wait_s: float, *, form: RetryAfter, wall_s: float) -> Headers:
    """Return the header that asks for a wait of *wait_s*, rounded up to whole seconds."""
    if form is RetryAfter.NONE:
        return {}
    if form is RetryAfter.SECONDS:
        return {"Retry-After": str(math.ceil(wait_s))}
    return {"Retry-After": http_date(math.ceil(wall_s + wait_s))}


def fault_headers(fault: Fault, *, faults: Faults, path: str, wall_s: float) -> Headers:
    """Return the headers that *fault* adds to an answer."""
    if fault in _TELL_WAIT:
        return wait_headers(faults.retry_after_s, form=faults.retry_after, wall_s=wall_s)
    if fault is Fault.REDIRECT:
        return {"Location": faults.redirect_to + path}
    if fault is Fault.GZIP_BOMB:
        return {"Content-Encoding": "gzip"}
    return {}


def deliver(
    transport: asyncio.Transport, *, given: Answer, headers: Headers, fault: Fault | None
) -> web.StreamResponse:
    """Return the response to send, having used or closed *transport* where *fault* says so."""
    headers["Content-Type"] = given.content_type
    if fault in (Fault.DROP_BEFORE, Fault.DROP_AFTER):
        transport.abort()
    elif fault is Fault.GARBAGE:
        transport.write(_GARBAGE)
        transport.close()
    elif fault is Fault.TRUNCATED:
        whole = _raw(given, headers)
        transport.write(whole[: len(whole) - len(given.body) // 2 - 1])
        transport.close()
    elif fault is Fault.CLOSE_AFTER:
        transport.write(_raw(given, headers))
        transport.close()
    return web.Response(status=given.status, body=given.body, headers=headers)


@functools.lru_cache(maxsize=4)
def http_date(wall_s: int) -> str:
    """Return a moment in whole seconds since the epoch as HTTP writes it."""
    return email.utils.formatdate(wall_s, usegmt=True)


@functools.lru_cache(maxsize=2)
def _bomb(size: int) -> bytes:
    return gzip.compress(b" " * size, compresslevel=6, mtime=0)


def _altered(body: bytes, fault: Fault) -> bytes:
    echo = msgspec.json.decode(body)
    if fault is Fault.OTHER_ID:
        return encode_json({**echo, "id": echo["id"] + "-other"})
    other = {
        "credentialId": "ffffffff-ffff-4fff-8fff-ffffffffffff",
        "incrementalAccumulatorFrequency": "24h",
    }
    if other["incrementalAccumulatorFrequency"] == echo["data"].get(
        "incrementalAccumulatorFrequency"
    ):
        other["incrementalAccumulatorFrequency"] = "1m"
    return encode_json({**echo, "data": {name: other[name] for name in echo["data"]}})


def _raw(given: Answer, headers: Headers) -> bytes:
    lines = [f"HTTP/1.1 {given.status} {http.HTTPStatus(given.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(given.body)}", "Connection: keep-alive", "", ""]
    return "\r\n".join(lines).encode() + given.body
