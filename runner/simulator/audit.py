"""What was asked of the simulator: one entry a request, without its token."""

from __future__ import annotations

import hashlib
import secrets
from array import array
from pathlib import Path
from typing import BinaryIO

import msgspec

from runner.model import encode_json

BODY_CHARACTERS = 4_096
"""Longer request bodies are cut to this length in an entry."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request, as it was judged when it had been read whole.

    What cannot be read as HTTP gets 400 from the server and has no entry.
    Whether the answer reached the client only the client knows.
    """

    number: int
    """1 for the first entry; the answer's ``X-Request-Id`` is ``sim-<number>``."""
    at_monotonic_s: float
    """When the request's head had arrived, by the simulator's clock."""
    wall: str
    """The same moment as a date of the service."""
    method: str
    path: str
    """As it stood on the wire, with its query."""
    sync_id: str | None
    """Decoded once; None when the path names no sync."""
    user: str | None
    """Whom the token speaks for; None when it was missing or not accepted."""
    status: int | None
    """Of the answer; None when there is no status line."""
    fault: str | None
    """A `Fault`, or ``outage``, ``rate_limit``, ``broken_request``; None: the right answer."""
    acted: bool
    """Whether a write was taken."""
    body: str | None
    in_flight: int
    """Requests being handled when this one came, itself included."""
    token_hash: str | None
    """Salted by the simulator: equal for equal tokens, and of no other use."""
    token_elsewhere: bool
    """Whether the token also stood in the path, the body or a recorded header."""
    had_cookie: bool
    user_agent: str | None
    content_type: str | None
    header_names: tuple[str, ...]
    """Every header the request carried, lower-cased, in order."""

    @property
    def status_or_fault(self) -> str:
        """The fault's name where there was one, else the status."""
        return self.fault or str(self.status)


class AuditLog:
    """Keeps entries in memory, and appends each to a file if one is given.

    A line is with the operating system before the answer leaves, so it can be read
    whatever happens to the client. Open it first, close it last.
    """

    def __init__(self, *, path: Path | None, keep: bool) -> None:
        self.entries: list[AuditEntry] = []
        self.count = 0
        self._keep = keep
        self._times = array("d")
        self._salt = secrets.token_bytes(16)
        self._path = path
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open the file, if there is one. Raises OSError when that cannot be done."""
        if self._path is not None:
            self._file = self._path.open("ab", buffering=0)

    def append(self, entry: AuditEntry) -> None:
        """Record one request."""
        self.count += 1
        self._times.append(entry.at_monotonic_s)
        if self._keep:
            self.entries.append(entry)
        if self._file is not None:
            self._file.write(encode_json(entry) + b"\n")

    def close(self) -> None:
        """Close the file; calling it twice does no harm."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def hash_token(self, token: str) -> str:
        """Return a text that is equal for equal tokens within this log."""
        data = token.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=self._salt, digest_size=12).hexdigest()

    def peak_rate(self, window_s: float = 1.0) -> float:
        """Return the most requests a second that came within any *window_s* seconds."""
        times = sorted(self._times)
        most, first = 0, 0
        for last, at_s in enumerate(times):
            while at_s - times[first] >= window_s:
                first += 1
            most = max(most, last - first + 1)
        return most / window_s


def printable(text: str) -> str:
    """Return *text* with bytes that were no UTF-8 written as escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
