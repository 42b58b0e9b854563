"""The nouns of a run. All are immutable: a change makes a new one."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

State: TypeAlias = Mapping[str, str]
"""The fields of a sync that a job owns, by the input's names; UUIDs lower-cased.

Comparable with ``==``. A field that the API did not tell is absent.
"""


class Field(msgspec.Struct, frozen=True, gc=False):
    """One field of a sync that a job may own, as it stands in an input and on the wire."""

    name: str
    """The input's name, for instance ``credential_id``."""
    api_name: str
    """The API's spelling, accepted in an input as well: ``credentialId``."""
    pattern: str
    """Regular expression that a whole value must match."""
    rule: str
    """The same in words, for an error message: "must be …"."""
    lower: bool = False
    """Whether letter case carries no meaning, so that values are compared lower-cased."""

    @property
    def expected_name(self) -> str:
        """The input column that holds the value the sync must have before."""
        return f"expected_{self.name}"

    def accepts(self, value: str) -> bool:
        """Tell whether *value* may stand in this field."""
        return re.fullmatch(self.pattern, value, re.ASCII) is not None

    def fold(self, value: str) -> str:
        """Return *value* in the form in which it is compared."""
        return value.lower() if self.lower else value


class Row(msgspec.Struct, frozen=True, gc=False):
    """One input record whose fields have each been checked on their own."""

    number: int
    """1 for the first data row."""
    line: int
    """The line of the file it starts on; the header is line 1."""
    fields: Mapping[str, str]
    """Known columns by the input's names, blank ones left out."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """Take this sync of this user to this state, optionally only from that one.

    Changes are absolute, never relative: retry and resume rest on this.
    """

    row: int
    line: int
    sync_id: str
    user_id: str
    """Empty when a ready-made user token is used and the input names no user."""
    desired: State
    expected: State | None = None
    """What the sync must hold before; None: whatever it holds."""


class Sighting(msgspec.Struct, frozen=True, gc=False):
    """What a read told besides the State. Any of it may be missing."""

    status: str | None = None
    """Upper-cased, for instance ``IDLE``; unknown words are kept as they are."""
    total_records: int | None = None
    last_synced_at: str | None = None


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What a read told of the work that a change has set off. Any of it may be missing."""

    status: str | None = None
    """Upper-cased; unknown words are kept as they are."""
    last_synced_at: str | None = None
    """RFC 3339: when its last run ended."""
    reason: str | None = None
    """Why it is ``ERRORED``, in the API's words."""
    backoff_s: float | None = None
    """How long the API asks its readers to wait before they look again."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One call to the API, without its token."""

    method: Literal["GET", "PATCH", "POST"]
    segments: tuple[str, ...]
    """Path segments after the base URL; each is percent-encoded whole."""
    body: bytes | None = None
    """JSON, encoded."""
    query: tuple[tuple[str, str], ...] = ()
    """Names and values behind the path; both are encoded."""
    most_bytes: int | None = None
    """How much of the answer is read; None: as much as one sync can need."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """An answer that was read to its end."""

    status: int
    body: bytes
    """At most the size limit, after decompression."""
    oversized: bool = False
    """The body was cut at the size limit."""
    retry_after: str | None = None
    date: str | None = None
    request_id: str | None = None
    ratelimit: str | None = None
    """The RateLimit field, as it came."""
    ratelimit_policy: str | None = None
    """Likewise RateLimit-Policy."""


class Verdict(enum.StrEnum):
    """What an answer or a fault means for the row."""

    ACCEPTED = "accepted"
    """The API took the request."""
    THROTTLED = "throttled"
    """The API asks us to slow down; not the row's fault, not an attempt."""
    TRANSIENT = "transient"
    """Not done, and may work if asked again."""
    AUTH = "auth"
    """The token was not accepted."""
    REJECTED = "rejected"
    """The API will never accept it."""
    AMBIGUOUS = "ambiguous"
    """The server may have acted, and we do not know."""


class OutcomeKind(enum.StrEnum):
    """How one row ended. No outcome means unprocessed."""

    UPDATED = "updated"
    """Accepted, and proved as far as ``proof`` says."""
    UNCHANGED = "unchanged"
    """It was already so; nothing sent."""
    DUPLICATE = "duplicate"
    """An earlier row made the same change and succeeded; nothing sent."""
    INVALID = "invalid"
    """Could not become a change. Mend the row and run it again."""
    CONFLICTED = "conflicted"
    """Not in the expected state, or the API does not tell; nothing sent."""
    REJECTED = "rejected"
    """The API will never accept it; ``error_class`` says why."""
    EXHAUSTED = "exhausted"
    """Attempts used up; if sent, it may or may not have landed."""
    UNCONFIRMED = "unconfirmed"
    """Accepted, but not seen in force in time."""
    ERRORED = "errored"
    """Accepted, and the sync then went into ``ERRORED``."""
    IRREVERSIBLE = "irreversible"
    """A row of a rollback whose before-image cannot be restored; nothing sent."""


SUCCEEDED = frozenset({OutcomeKind.UPDATED, OutcomeKind.UNCHANGED, OutcomeKind.DUPLICATE})
"""Outcomes that count as succeeded; every other one counts as failed."""


class Proof(enum.StrEnum):
    """How far the effect of an accepted change is shown."""

    ACCEPTED = "accepted"
    """The API said that it will act."""
    CONFIRMED = "confirmed"
    """A read shows the desired state."""
    RESYNCED = "resynced"
    """The re-sync that the change started has ended."""


class ErrorClass(enum.StrEnum):
    """Why a row failed, in one word."""

    INVALID = "invalid"
    DUPLICATE_OF_FAILED = "duplicate_of_failed"
    CONFLICT = "conflict"
    UNKNOWN_STATE = "unknown_state"
    AUTH = "auth"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    BAD_REQUEST = "bad_request"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    PROTOCOL = "protocol"
    UNCONFIRMED = "unconfirmed"
    ERRORED = "errored"
    IRREVERSIBLE = "irreversible"
    INTERNAL = "internal"


class Intent(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """ "About to take this from *before* to *desired*": one line of the undo log."""

    v: int = 1
    row: int
    line: int
    sync_id: str
    user_id: str
    before: State | None
    """What a read showed; None: not read."""
    seen: Sighting | None
    desired: State
    timestamp: str


class Acceptance(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The API took a row's request, and its effect is to be proved: a line of the report."""

    row: int
    accepted_at: str
    """RFC 3339 in UTC, by the server's clock (``Date``) where it told one, else by ours."""
    http_status: int | None = None
    """None: no answer came, and a later read showed the change in force."""
    request_id: str | None = None
    attempts: int = 0
    """PATCHes sent."""
    timestamp: str | msgspec.UnsetType = msgspec.UNSET
    """When it was written down, by our clock; known only of one that was read back."""


class Outcome(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How one row ended: one line of the report."""

    row: int
    line: int
    sync_id: str
    user_id: str
    outcome: OutcomeKind
    proof: Proof | None = None
    sent: bool = False
    """False when no PATCH left."""
    before: State | None = None
    desired: State | None = None
    http_status: int | None = None
    """Of the last answer."""
    error_class: ErrorClass | None = None
    error: str | None = None
    attempts: int = 0
    """PATCHes sent."""
    elapsed_ms: int = 0
    """From when the row was taken up to its outcome, waits included."""
    request_id: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the row counts as succeeded."""
        return self.outcome in SUCCEEDED


class FindingKind(enum.StrEnum):
    """What a look at one sync told, compared with what is wanted of it."""

    CHANGE = "change"
    """It is not so yet, and can be changed."""
    UNCHANGED = "unchanged"
    """It is so already."""
    CONFLICTED = "conflicted"
    """It is not in the state from which alone the row may change it."""
    BLOCKED = "blocked"
    """The API refuses the row: no such sync of this user, or the token is not accepted."""
    UNKNOWN = "unknown"
    """The API does not tell, or could not be asked."""
    INVALID = "invalid"
    """Could not become a change."""
    DUPLICATE = "duplicate"
    """An earlier row asks for the same."""
    IN_FORCE = "in_force"
    """It is as the run left it."""
    DRIFTED = "drifted"
    """It is something else by now."""
    GONE = "gone"
    """There is no such sync of this user any more."""
    NOT_TOLD = "not_told"
    """The API does not tell, or could not be asked."""


class Finding(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a look at one row's sync told: one line of ``plan.jsonl`` or ``verify-*.jsonl``."""

    v: int = 1
    row: int
    line: int
    sync_id: str
    user_id: str
    finding: FindingKind
    before: State | None = None
    """What the look showed; None: nothing was told."""
    seen: Sighting | None = None
    desired: State | None = None
    resync: bool = False
    """Whether the change would start a full re-sync."""
    http_status: int | None = None
    error_class: ErrorClass | None = None
    error: str | None = None
    """Why it is so, or what to mind although it is."""
    timestamp: str = ""


def encode_json(value: Any) -> bytes:
    """Return *value* as compact JSON in UTF-8."""
    return _ENCODER.encode(value)


_ENCODER = msgspec.json.Encoder()
