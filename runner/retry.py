"""What an answer or a fault means, and whether to ask again.

`judge` is the one place that decides; nobody else looks at a status. `Again`
asks again with tenacity, once a first try has failed: the good case does not
pay for it.
"""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import tenacity

from runner.errors import Fault, FaultKind
from runner.model import ErrorClass, Response, Verdict
from runner.secret import scrub

_T = TypeVar("_T")

MAX_ERROR_TEXT = 300
"""Characters of a server's words that are kept."""

_AUTH_USERS = 5
_FEW_ROWS = 3
_BROKEN_ROWS = 25
_MAX_DOUBLINGS = 30


class Ruling(msgspec.Struct, frozen=True):
    """What one attempt means, and what follows from it."""

    verdict: Verdict
    error_class: ErrorClass | None = None
    error: str | None = None
    """In words, for the report; holds no secret."""
    wait_s: float | None = None
    """How long the server asked to wait."""
    base_s: float = 0.25
    """Where backoff starts."""
    cap_s: float = 30.0
    """Where backoff ends."""
    limit: int | None = None
    """At most so many attempts, whatever --max-attempts says."""
    free: bool = False
    """Sent again at once, once, without counting: the connection had gone stale."""
    counts: bool = True
    """Whether it uses up an attempt of the row."""
    outage: bool = False
    """Only a server that is down, or a row that breaks it, answers like this."""
    halts_after: int = 0
    """So many rows in a row with this ruling are the run's fault, not theirs; 0: never."""
    over_users: int = 1
    """The rows must belong to so many users."""

    @property
    def final(self) -> bool:
        """Whether asking again is pointless."""
        return self.verdict in _FINAL


_FINAL = (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.AUTH)
_ACCEPTED = Ruling(Verdict.ACCEPTED)
GOOD = frozenset({200, 201, 202})
"""Statuses with which the API takes a request, if the answer speaks of it."""
_HALT_AT_ONCE = {
    101: "the host wants to switch protocols; it is not the Sync API",
    402: "the host asks for payment (402); look at the plan of the project",
    407: "the proxy asks for a login (407)",
    428: "the host asks for a precondition (428) that the Sync API does not document",
    501: "the host does not know this request (501); is --base-url the Sync API?",
}


_THROTTLED = Ruling(Verdict.THROTTLED, ErrorClass.THROTTLED, base_s=1.0, cap_s=60.0, counts=False)
_REFUSED = Ruling(Verdict.REJECTED, ErrorClass.BAD_REQUEST)
_REFUSED_ALIKE = Ruling(Verdict.REJECTED, ErrorClass.BAD_REQUEST, halts_after=_FEW_ROWS)
_STRANGE = Ruling(Verdict.REJECTED, ErrorClass.PROTOCOL, halts_after=_FEW_ROWS)
_HALT = Ruling(Verdict.REJECTED, ErrorClass.PROTOCOL, halts_after=1)
_GONE = Ruling(Verdict.REJECTED, ErrorClass.NOT_FOUND)
_CHANGED = Ruling(Verdict.REJECTED, ErrorClass.CONFLICT)
_BROKEN = Ruling(Verdict.AMBIGUOUS, ErrorClass.TRANSIENT, outage=True)
_TO_ORIGIN = Ruling(Verdict.AMBIGUOUS, ErrorClass.TRANSIENT, outage=True, halts_after=_FEW_ROWS)
_FULL = Ruling(Verdict.TRANSIENT, ErrorClass.TRANSIENT, base_s=30.0, cap_s=120.0, outage=True)

_STATUSES: dict[int, Ruling] = {
    401: Ruling(Verdict.AUTH, ErrorClass.AUTH, halts_after=_AUTH_USERS, over_users=_AUTH_USERS),
    403: Ruling(Verdict.REJECTED, ErrorClass.FORBIDDEN),
    404: _GONE,
    408: Ruling(Verdict.TRANSIENT, ErrorClass.TIMEOUT),
    409: Ruling(Verdict.TRANSIENT, ErrorClass.CONFLICT, base_s=1.0, limit=3),
    410: _GONE,
    412: _CHANGED,
    421: Ruling(Verdict.TRANSIENT, ErrorClass.CONNECTION, free=True),
    423: Ruling(Verdict.TRANSIENT, ErrorClass.TRANSIENT, base_s=5.0, cap_s=120.0),
    425: Ruling(Verdict.TRANSIENT, ErrorClass.TRANSIENT),
    503: Ruling(Verdict.TRANSIENT, ErrorClass.TRANSIENT, outage=True),
    507: _FULL,
    508: _FULL,
    525: _TO_ORIGIN,
    526: _TO_ORIGIN,
    **dict.fromkeys(
        (405, 406, 411, 413, 414, 415, 416, 417, 426, 431, 451, 505, 511), _REFUSED_ALIKE
    ),
    **dict.fromkeys(_HALT_AT_ONCE, _HALT),
}
"""What a status means; RFC 9110 where it says so."""

_CLASSES = {
    1: Ruling(Verdict.TRANSIENT, ErrorClass.PROTOCOL),
    2: Ruling(Verdict.AMBIGUOUS, ErrorClass.PROTOCOL, halts_after=_FEW_ROWS),
    3: _STRANGE,
    4: _REFUSED,
    5: _BROKEN,
}
"""What every other status means, by its first digit. A 500 may have acted before it failed.

One that HTTP does not know counts as a 5xx (RFC 9110, 15).
"""


def judge(
    result: Response | Fault, *, writes: bool, understood: bool = True, now_s: float = 0.0
) -> Ruling:
    """Say what *result* means: total over every status and every fault.

    *writes* tells a PATCH from a read; *understood* whether a good answer
    speaks of what was asked; *now_s*, seconds since the epoch, turns a
    ``Retry-After`` date into a wait.
    """
    if isinstance(result, Fault):
        if result.status is not None and result.status not in GOOD and result.kind in _BROKE_OFF:
            return _judge_status(Response(result.status, b""), writes=writes, now_s=now_s)
        return _judge_fault(result)
    if result.status in GOOD and understood and not result.oversized:
        return _ACCEPTED
    return _judge_status(result, writes=writes, now_s=now_s)


_BROKE_OFF = frozenset({FaultKind.TRUNCATED, FaultKind.TIMEOUT})


def _judge_status(answer: Response, *, writes: bool, now_s: float) -> Ruling:
    status = answer.status
    said = f"{status}: {told(answer)}"
    wait_s = retry_after(answer.retry_after, now_s=now_s)
    if status == 429 or (status in {403, 503} and wait_s is not None):
        return msgspec.structs.replace(_THROTTLED, error=said, wait_s=wait_s)
    if 200 <= status < 300:
        said = f"{status}, but the answer does not speak of what was asked: {told(answer)}"
    elif status in _HALT_AT_ONCE:
        said = f"{_HALT_AT_ONCE[status]}. {said}"
    elif 300 <= status < 400:
        said = f"{status}: the host redirects, and no redirect is followed; check --base-url"
    ruling = _STATUSES.get(status) or _CLASSES.get(status // 100, _BROKEN)
    if ruling is _GONE and answer.body.lstrip()[:1] == b"<":
        # A gone sync is told in JSON, or in words; a page is what a web server has for any path.
        ruling = _STRANGE
        said = f"{status} with a web page: the host does not speak the Sync API; check --base-url"
    verdict = ruling.verdict
    if verdict is Verdict.AMBIGUOUS and not writes:
        verdict = Verdict.TRANSIENT
    return msgspec.structs.replace(ruling, verdict=verdict, error=said, wait_s=wait_s)


def _judge_fault(fault: Fault) -> Ruling:
    said = f"{_IN_WORDS[fault.kind]} ({fault.detail})"
    return msgspec.structs.replace(_FAULTS[fault.kind], error=said)


_NO_CONNECTION = Ruling(Verdict.TRANSIENT, ErrorClass.CONNECTION, outage=True)
_LOST_ANSWER = Ruling(Verdict.AMBIGUOUS, ErrorClass.PROTOCOL, halts_after=_BROKEN_ROWS)
_NO_USE = Ruling(Verdict.REJECTED, ErrorClass.CONNECTION, halts_after=1)

_FAULTS: dict[FaultKind, Ruling] = {
    FaultKind.DNS: _NO_CONNECTION,
    FaultKind.CONNECT: _NO_CONNECTION,
    FaultKind.CONNECT_TIMEOUT: _NO_CONNECTION,
    FaultKind.PROXY: _NO_CONNECTION,
    FaultKind.CERTIFICATE: _NO_USE,
    FaultKind.CLOSED: _NO_USE,
    FaultKind.REDIRECTED: _NO_USE,
    FaultKind.TLS: Ruling(Verdict.TRANSIENT, ErrorClass.CONNECTION, limit=2, halts_after=1),
    FaultKind.RESOURCES: Ruling(Verdict.TRANSIENT, ErrorClass.CONNECTION, base_s=1.0, outage=True),
    FaultKind.UNSENDABLE: Ruling(Verdict.REJECTED, ErrorClass.INVALID),
    FaultKind.STALE: Ruling(Verdict.AMBIGUOUS, ErrorClass.CONNECTION, free=True, outage=True),
    FaultKind.DISCONNECTED: Ruling(Verdict.AMBIGUOUS, ErrorClass.CONNECTION, outage=True),
    FaultKind.TIMEOUT: Ruling(Verdict.AMBIGUOUS, ErrorClass.TIMEOUT, outage=True),
    FaultKind.TRUNCATED: _LOST_ANSWER,
    FaultKind.GARBLED: _LOST_ANSWER,
    FaultKind.OTHER: _LOST_ANSWER,
    FaultKind.INTERNAL: Ruling(Verdict.REJECTED, ErrorClass.INTERNAL, halts_after=_BROKEN_ROWS),
}
"""What a fault means."""

_IN_WORDS = {
    FaultKind.DNS: "the host's name did not resolve; check --base-url and the network",
    FaultKind.CONNECT: "the host refused the connection or cannot be reached",
    FaultKind.CONNECT_TIMEOUT: "no connection to the host in time",
    FaultKind.CERTIFICATE: "the host's certificate was not accepted; check --base-url",
    FaultKind.TLS: "the TLS handshake failed; check --base-url",
    FaultKind.PROXY: "the proxy refused the connection",
    FaultKind.RESOURCES: "this machine has no file descriptors left; raise `ulimit -n`",
    FaultKind.UNSENDABLE: "the request cannot be sent as it is",
    FaultKind.CLOSED: "the session was closed while rows were left",
    FaultKind.STALE: "the host closed a kept-alive connection under the request",
    FaultKind.DISCONNECTED: "the connection broke before an answer",
    FaultKind.TIMEOUT: "no answer within the time limit",
    FaultKind.TRUNCATED: "the answer broke off",
    FaultKind.GARBLED: "what came back is not HTTP",
    FaultKind.REDIRECTED: "a redirect was followed",
    FaultKind.OTHER: "the exchange failed",
    FaultKind.INTERNAL: "Syncshift itself failed on this row",
}

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def retry_after(value: str | None, *, now_s: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for; None when it says nothing valid.

    Whole seconds or an HTTP date (RFC 9110, 10.2.3 and 5.6.7); a date that has
    passed is 0. Anything else counts as absent.
    """
    if value is None:
        return None
    value = value.strip(" \t")
    if _SECONDS.fullmatch(value):
        return float(value)
    if not value.isascii() or ("," not in value and " " not in value):
        return None
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, moment.timestamp() - now_s)


def told(answer: Response) -> str:
    """Return the server's words about an error in one short, harmless line.

    Takes ``message``, then ``error``, then the text itself: no schema is
    documented.
    """
    try:
        body: Any = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        body = answer.body.decode("utf-8", errors="replace")
    if isinstance(body, dict):
        body = body.get("message") or body.get("error") or body
    if isinstance(body, list):
        body = "; ".join(map(str, body))
    return in_one_line(str(body)) or "(the answer is empty)"


def in_one_line(said: str) -> str:
    """Return the server's words in one short line that holds no secret and steers no terminal."""
    text = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    text = scrub(text)
    return text if len(text) <= MAX_ERROR_TEXT else text[:MAX_ERROR_TEXT] + " …"


def backoff_s(ruling: Ruling, *, retries: int, chance: float) -> float:
    """Return the pause before the next retry, after *retries* of them.

    Full jitter, and never less than the server asks:
    ``U(0, min(cap, base * 2**retries))``, the cap before the jitter, as AWS
    publishes it; *chance* is from 0 to 1.
    """
    ours = chance * min(ruling.cap_s, ruling.base_s * 2.0 ** min(retries, _MAX_DOUBLINGS))
    if ruling.wait_s is None:
        return ours
    return max(ours, ruling.wait_s + chance * min(1.0, 0.02 * ruling.wait_s))


async def again(
    go: Callable[[], Awaitable[_T]],
    *,
    goes_on: Callable[[_T], bool],
    pause_s: Callable[[_T], float],
    sleep: Callable[[float], Awaitable[None]],
) -> _T:
    """Call *go* until *goes_on* says no to what it returned; sleep *pause_s* in between.

    Only results are looked at, so a cancellation is never retried; the object
    that tenacity keeps its count in is made anew for each call, so rows never
    share one.
    """

    def last(state: tenacity.RetryCallState) -> Any:
        assert state.outcome is not None  # noqa: S101  # tenacity waits only after an outcome
        return state.outcome.result()

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(goes_on),
        wait=lambda state: pause_s(last(state)),
        sleep=sleep,
    )
    return await retrying(go)
