"""Lets in who was given the address, and nobody whom a foreign page has sent."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OWN_SITE = {"same-origin", "none"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOBODY = "frame-ancestors 'none'"
"""The policy that every answer has: no page may show it within itself."""


class Gate(Protocol):
    """What stands before every handler."""

    def __call__(self, request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        """Let a request through, or turn it away."""
        ...


class Guard:
    """Says who may ask. What it turns away all gets the same answer, 403, and no word why."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        """Stands in the address; whoever knows it may look and give orders."""
        self.port = 0
        """Where the server listens; set before the first request."""

    def lets_in(self, request: web.Request) -> bool:
        """Whether *request* has the token, and comes from a page of ours or from no page."""
        token = f"{request.path}/".split("/")[1]
        known = secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode())
        # A name that was made to lead here, so that a foreign page may read what we say.
        host = request.headers.get("Host", "")
        hosts = {f"127.0.0.1:{self.port}", f"localhost:{self.port}"}
        # What changes something has to say where it comes from.
        default = None if request.method not in {"GET", "HEAD"} else f"http://{host}"
        origin = request.headers.get("Origin", default)
        site = request.headers.get("Sec-Fetch-Site", "none")
        return known and host in hosts and origin == f"http://{host}" and site in _OWN_SITE

    def middleware(self) -> Gate:
        """Return what stands before every handler."""

        @web.middleware
        async def stand(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self.lets_in(request):
                raise web.HTTPForbidden(text="403: not for you\n")
            return await handler(request)

        return stand


async def harden(_: web.Request, response: web.StreamResponse) -> None:
    """Give every answer the headers that keep other pages away from it."""
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Content-Security-Policy", NOBODY)
    response.headers.pop("Server", None)
