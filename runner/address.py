"""Where the API is: an address that is safe to send tokens to, and the paths below it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

from runner.errors import SettingsError

DEFAULT_BASE_URL = "https://sync.useparagon.com"
"""Paragon's cloud."""


def base_url(text: str, *, allow_http: bool = False) -> str:
    """Return *text* as scheme, host and path, without ``/api`` and trailing slashes.

    Raises `SettingsError`: only https, or http to this machine, or any http
    with *allow_http*; no user, query or fragment; no host that is an
    address in disguise.
    """

    def refuse(why: str) -> SettingsError:
        return SettingsError(f"--base-url {why}; got {text!r}")

    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise refuse(f"must be an address such as {DEFAULT_BASE_URL}") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise refuse(f"must be an address such as {DEFAULT_BASE_URL}")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("--base-url must not hold a user or a password")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise refuse("must not hold a query or a fragment")
    if not text.isascii() or not text.strip().isprintable() or re.search(r"[\s\\%]", text.strip()):
        raise refuse("must be plain ASCII without blanks, backslashes or percent signs")
    if any(part in {".", ".."} for part in parts.path.split("/")):
        raise refuse("must not hold . or .. in its path")
    if port == 0:
        raise refuse("must name a port from 1 to 65535, or none")
    address = _address(host)
    if address is None and re.fullmatch(r"[0-9.]+|0x[0-9a-f.x]*", host, re.IGNORECASE):
        raise refuse("must name its host in the usual way, not as a bare number")
    if address is not None and address.is_link_local:
        raise refuse("must not be a link-local address")
    loopback = host == "localhost" or (address is not None and address.is_loopback)
    if parts.scheme == "http" and not (loopback or allow_http):
        raise refuse(
            "must be https, for tokens travel with every request; "
            "--allow-http sends them in the clear"
        )
    path = re.sub(r"/+$", "", parts.path)
    path = re.sub(r"/+$", "", path.removesuffix("/api"))
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{path}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def encode_path(segments: tuple[str, ...]) -> str:
    """Return the path of *segments*, each percent-encoded whole.

    Nothing in a segment can end it, begin a query or leave the path. Raises
    ValueError for one that is empty, ``.`` or ``..``: no encoding protects them.
    """
    if not _STEPS.isdisjoint(segments):
        raise ValueError("a path segment must not be empty, . or ..")
    return "".join(["/" + (part if _PLAIN(part) else quote(part, safe="")) for part in segments])


_STEPS = frozenset({"", ".", ".."})
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+", re.ASCII).fullmatch
"""Whether `quote` would change nothing; nearly always so, and asked in half the time."""
