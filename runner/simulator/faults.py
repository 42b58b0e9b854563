"""What can go wrong with a request, and how often it shall."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection

import msgspec


class Fault(enum.StrEnum):
    """What a request meets. "Acted" means that a write was taken before it went wrong."""

    HTTP_401 = "http_401"
    """401 once, whatever the token; the next request is fine. Not acted."""
    REVOKED = "revoked"
    """401 to this very token on every request from now on; another one is fine. Not acted."""
    HTTP_408 = "http_408"
    """Not acted."""
    HTTP_409 = "http_409"
    """Not acted."""
    HTTP_423 = "http_423"
    """Not acted."""
    HTTP_429 = "http_429"
    """With Retry-After in the form that `Faults.retry_after` names. Not acted."""
    HTTP_500 = "http_500"
    """Not acted."""
    HTTP_502 = "http_502"
    """An HTML page from a gateway. Not acted."""
    HTTP_503 = "http_503"
    """Without Retry-After. Not acted."""
    HTTP_503_WAIT = "http_503_wait"
    """With Retry-After in the form that `Faults.retry_after` names. Not acted."""
    HTTP_504 = "http_504"
    """An HTML page from a gateway that gave up waiting. Acted."""
    DROP_BEFORE = "drop_before"
    """The connection is closed without an answer. Not acted."""
    DROP_AFTER = "drop_after"
    """The connection is closed without an answer. Acted."""
    TRUNCATED = "truncated"
    """The answer breaks off in the middle of its body. Acted."""
    GARBAGE = "garbage"
    """The answer is not HTTP. Acted."""
    NOT_JSON = "not_json"
    """200 with an HTML page. Acted."""
    OTHER_ID = "other_id"
    """200 to a PATCH that names another sync. Acted."""
    OTHER_DATA = "other_data"
    """200 to a PATCH that repeats other values than were asked for. Acted."""
    OVERSIZED = "oversized"
    """The answer is padded by `Faults.oversized_bytes`. Acted."""
    GZIP_BOMB = "gzip_bomb"
    """A small gzip answer that unpacks to `Faults.bomb_bytes` of blanks. Acted."""
    IGNORED = "ignored"
    """The right answer to a PATCH, and nothing comes of it. Not acted."""
    SLOW = "slow"
    """The right answer, `Faults.slow_s` later. Acted."""
    CLOSE_AFTER = "close_after"
    """The right answer, saying keep-alive, and then the connection is closed. Acted."""
    REDIRECT = "redirect"
    """307 to `Faults.redirect_to`. Not acted."""


NOT_ACTED = frozenset(
    {
        Fault.HTTP_401,
        Fault.REVOKED,
        Fault.HTTP_408,
        Fault.HTTP_409,
        Fault.HTTP_423,
        Fault.HTTP_429,
        Fault.HTTP_500,
        Fault.HTTP_502,
        Fault.HTTP_503,
        Fault.HTTP_503_WAIT,
        Fault.DROP_BEFORE,
        Fault.IGNORED,
        Fault.REDIRECT,
    }
)
"""Faults after which nothing was changed."""

PATCH_ONLY = frozenset({Fault.OTHER_ID, Fault.OTHER_DATA, Fault.IGNORED})
"""Faults that only the answer to a PATCH can show; elsewhere the answer stays right."""

PASSING = tuple(
    fault for fault in Fault if fault not in (Fault.REDIRECT, Fault.REVOKED, Fault.IGNORED)
)
"""Faults that concern one request, and show. Of the others one shows in no answer, and two show
that the whole set-up is wrong."""


class RetryAfter(enum.StrEnum):
    """How a 429 or 503 tells the wait."""

    SECONDS = "seconds"
    DATE = "date"
    NONE = "none"


class OutageKind(enum.StrEnum):
    """How the service is down."""

    UNAVAILABLE = "unavailable"
    """Every request gets 503."""
    DROP = "drop"
    """Every connection is closed without an answer."""


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which the service is down, counted from the simulator's start."""

    start_s: float
    duration_s: float
    kind: OutageKind = OutageKind.UNAVAILABLE


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that goes wrong, and how often. By default nothing does.

    The fields named like a `Fault` are shares (0..1) of the requests to a sync; together
    they are at most 1. Raises ValueError when a share is not one.
    """

    http_401: float = 0.0
    revoked: float = 0.0
    http_408: float = 0.0
    http_409: float = 0.0
    http_423: float = 0.0
    http_429: float = 0.0
    http_500: float = 0.0
    http_502: float = 0.0
    http_503: float = 0.0
    http_503_wait: float = 0.0
    http_504: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    truncated: float = 0.0
    garbage: float = 0.0
    not_json: float = 0.0
    other_id: float = 0.0
    other_data: float = 0.0
    oversized: float = 0.0
    gzip_bomb: float = 0.0
    ignored: float = 0.0
    slow: float = 0.0
    close_after: float = 0.0
    redirect: float = 0.0

    rows: float = 1.0
    """Share (0..1) of the syncs that meet the shares above at all."""
    faults_per_row: int | None = None
    """At most so many planned faults for each method of a sync; None: no limit."""
    poison: frozenset[str] = frozenset()
    """Syncs that answer 500 to everything, without limit."""

    latency_s: float = 0.0
    """Median time to an answer."""
    latency_jitter: float = 0.25
    """Sigma of the lognormal spread around `latency_s`; 0: none."""
    slow_s: float = 5.0
    oversized_bytes: int = 8 << 20
    bomb_bytes: int = 32 << 20
    redirect_to: str = "https://elsewhere.invalid"
    """Scheme and host of a redirect; the request's own path is appended."""
    set_cookie: bool = False
    """Whether each answer sets a session cookie."""

    limit_per_s: float | None = None
    """Requests a second for everybody together, above which 429 is answered."""
    burst: int = 1
    """How many requests may come at once under `limit_per_s`."""
    tells_limit: bool = False
    """Whether answers carry RateLimit-Policy and RateLimit, as `limit_per_s` stands."""
    user_limit_per_s: float | None = None
    """The same for each user."""
    user_burst: int = 1
    retry_after: RetryAfter = RetryAfter.SECONDS
    retry_after_s: float = 1.0
    """The wait that a planned 429 or 503 tells. A rate limit tells its own."""

    outages: tuple[Outage, ...] = ()
    outage_tells_wait: bool = False
    """Whether the 503 of an outage carries Retry-After."""

    def __post_init__(self) -> None:
        for name in (*(fault.value for fault in Fault), "rows"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a share from 0 to 1; got {share!r}")
        total = math.fsum(getattr(self, fault.value) for fault in Fault)
        if total > 1.0 + 1e-9:
            raise ValueError(f"the shares of all faults are at most 1 together; got {total:g}")
        for name in ("limit_per_s", "user_limit_per_s", "burst", "user_burst"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} must be above 0; got {limit!r}")

    @classmethod
    def mixed(
        cls,
        share: float,
        *,
        faults_per_row: int = 1,
        kinds: Collection[Fault] = PASSING,
        slow_s: float = 0.5,
    ) -> Faults:
        """Return faults of every kind, evenly, for *share* of the syncs.

        Each of those syncs is met on its first *faults_per_row* requests of each method.
        Raises ValueError when *kinds* is empty.
        """
        if not kinds:
            raise ValueError("kinds must name at least one fault")
        each = {kind.value: 1.0 / len(kinds) for kind in kinds}
        return msgspec.convert(
            {**each, "rows": share, "faults_per_row": faults_per_row, "slow_s": slow_s}, cls
        )
