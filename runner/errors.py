"""Every way a run can go wrong, as one tree, and the faults a request can meet.

::

    SyncshiftError
    |-- UsageError             refused before anything was sent           exit 2
    |   |-- SettingsError        a flag, a variable or a file is wrong
    |   |   `-- SigningKeyError    the signing key cannot be used
    |   |-- InputError           the input cannot be read as it is
    |   `-- NotConfirmed         nobody said yes
    |-- RunRefused             this run cannot be opened like this        exit 5
    |   |-- NoSuchRun
    |   |-- RunExists
    |   |-- RunLocked
    |   |-- RunChanged           input, host, project or audience differ
    |   |-- JournalDamaged       a line in the middle of a journal is bad
    |   `-- EngineNotReady       the database has no place for runs, or one of another version
    `-- RunStopped             rows remain; the run can be resumed        exit 4
        |-- LimitReached         too many rows failed
        |-- GateFailed           a wave did not go well enough for the next
        |-- GateInconclusive     too little of a wave was proved to say so
        |-- NotApproved          a person did not let the next wave begin
        |-- StoppedByHand        somebody ordered it to stop
        |-- RunFault             a fault of the whole run: key, host, TLS
        |-- OutageTooLong        the server stayed away
        |-- DiskFault            what cannot be recorded is not sent
        |   `-- LostTouch        a worker was given up, or has lost the database
        |-- DatabaseAway         PostgreSQL stayed away
        `-- Interrupted          a signal ended it                        exit 129, 130, 143

Catch by branch: the exit code belongs to the branch, not to the leaf.
A `Fault` is no exception: it is what a request met instead of an answer.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec


class SyncshiftError(Exception):
    """Something Syncshift can name. Its text says what, where, and what to do now."""

    exit_code: ClassVar[int] = 1


class UsageError(SyncshiftError):
    """Refused before anything was sent."""

    exit_code = 2


class SettingsError(UsageError):
    """A flag, an environment variable or a settings file is wrong."""


class SigningKeyError(SettingsError):
    """The signing key cannot be used; the text says why and how to mend it."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with the input, and where it stands."""

    line: int
    """Line of the file on which the row starts; 0 for the file as a whole."""
    column: str
    """The column's name, or an empty text when the whole row or file is meant."""
    value: str
    """What stands there, escaped, and cut to 80 characters; secrets never stand in an input."""
    reason: str
    """What is wrong, and what would be right."""
    row: int = 0
    """Number of the row, 1 for the first; 0 for the file as a whole."""

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "the file"
        if self.column:
            where += f", column {self.column}"
        value = f" (found '{self.value}')" if self.value else ""
        return f"{where}: {self.reason}{value}"


class InputError(UsageError):
    """The input was refused. `problems` holds the first ones, `total` counts all."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = (), total: int = 0) -> None:
        super().__init__(message)
        self.problems = problems
        self.total = total or len(problems)


class InvalidRow(InputError):
    """One row cannot become a change; raised by a job's `parse`."""


class NotConfirmed(UsageError):
    """Nobody said yes, so nothing was sent."""


class RunRefused(SyncshiftError):
    """This run cannot be opened like this; nothing was sent."""

    exit_code = 5


class NoSuchRun(RunRefused):
    """There is no run of that name in the runs folder."""


class RunExists(RunRefused):
    """A run of that name exists already."""


class RunLocked(RunRefused):
    """Another process is at work on this run."""


class RunChanged(RunRefused):
    """The input, the host, the project or the audience is not the run's own."""


class JournalDamaged(RunRefused):
    """A line before the end of a journal is not what was written."""


class EngineNotReady(RunRefused):
    """The database is there, and cannot carry a run as it is."""


class RunStopped(SyncshiftError):
    """The run stopped with rows left. Mend the cause, then resume."""

    exit_code = 4


class LimitReached(RunStopped):
    """More rows failed than --max-failures allows."""


class GateFailed(RunStopped):
    """A wave came to something that a condition of its gate does not allow."""


class GateInconclusive(RunStopped):
    """Too few rows of a wave could be proved to let the next one begin."""


class NotApproved(RunStopped):
    """A person was asked at a gate, and did not say yes."""


class StoppedByHand(RunStopped):
    """Somebody ordered the run to stop; the text says who, and why."""


class RunFault(RunStopped):
    """Every row would fail alike: wrong key, wrong host, TLS, a redirect."""


class OutageTooLong(RunStopped):
    """The server stayed away longer than --max-outage, or asked to wait longer."""


class DiskFault(RunStopped):
    """A journal could not be written or synced."""


class LostTouch(DiskFault):
    """A worker may record nothing more for a shard; others go on with it, and the run too."""


class DatabaseAway(RunStopped):
    """PostgreSQL could not be reached for longer than --max-outage."""


class Interrupted(RunStopped):
    """A signal ended the run; the exit code is 128 and the signal's number."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class FaultKind(enum.StrEnum):
    """What a request met instead of an answer that can be read."""

    DNS = "dns"
    """The host's name did not resolve. Not sent."""
    CONNECT = "connect"
    """Refused or unreachable. Not sent."""
    CONNECT_TIMEOUT = "connect_timeout"
    """No connection in time. Not sent."""
    CERTIFICATE = "certificate"
    """The host's certificate was not accepted. Not sent."""
    TLS = "tls"
    """The TLS handshake failed. Not sent."""
    PROXY = "proxy"
    """The proxy refused. Not sent."""
    RESOURCES = "resources"
    """This machine is out of file descriptors. Not sent."""
    UNSENDABLE = "unsendable"
    """The request cannot be put on the wire as it is. Not sent."""
    CLOSED = "closed"
    """Our own session was closed. Not sent."""
    STALE = "stale"
    """A kept-alive connection was closed under the request, before any byte of a reply."""
    DISCONNECTED = "disconnected"
    """The connection broke before a reply."""
    TIMEOUT = "timeout"
    """No reply within the attempt's time limit."""
    TRUNCATED = "truncated"
    """A reply began and broke off."""
    GARBLED = "garbled"
    """What came back is not HTTP."""
    REDIRECTED = "redirected"
    """A redirect was followed; cannot happen while redirects are off."""
    OTHER = "other"
    """A client error of a kind not known by name."""
    INTERNAL = "internal"
    """Our own code failed while handling this row."""


NOT_SENT = frozenset(
    {
        FaultKind.DNS,
        FaultKind.CONNECT,
        FaultKind.CONNECT_TIMEOUT,
        FaultKind.CERTIFICATE,
        FaultKind.TLS,
        FaultKind.PROXY,
        FaultKind.RESOURCES,
        FaultKind.UNSENDABLE,
        FaultKind.CLOSED,
    }
)
"""Kinds after which the server cannot have acted."""


class Fault(msgspec.Struct, frozen=True):
    """A request that got no answer, and why. Never holds a token or a header."""

    kind: FaultKind
    detail: str
    """Our own words or an exception's class name; never an exception's text."""
    status: int | None = None
    """The status line's code where one was read before the reply broke."""

    @property
    def sent(self) -> bool:
        """Whether the server may have acted on it."""
        return self.kind not in NOT_SENT
