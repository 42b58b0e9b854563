"""What only the host can tell: whether it is there, is the Sync API, and takes our tokens."""

from __future__ import annotations

import asyncio
import ssl
import time
from urllib.parse import urlsplit

import msgspec

from runner.api import Api
from runner.doctor.findings import Check, fail, ok, warn
from runner.errors import Fault
from runner.job import CREDENTIAL, FREQUENCY, SyncJob
from runner.listing import MOST_BYTES, syncs_of
from runner.log import stamp
from runner.model import Change, Field, Request, Response, Verdict
from runner.retry import judge, told
from runner.settings import Settings
from runner.tokens import Tokens, TokenSource
from runner.tokens.clock import MAX_SKEW_S, TOLERANCE_S, seconds_of

_LIST = Request("GET", ("api", "syncs"), most_bytes=MOST_BYTES)
_NO_TOKEN = "Bearer none"  # noqa: S105  # that it is none is the point
_LOGGED_OUT = frozenset({401, 403})
_SOON_S = 14 * 86_400.0


class _Look(SyncJob):
    name = "look"
    owns: tuple[Field, ...] = (CREDENTIAL, FREQUENCY)


async def host(api: Api, settings: Settings) -> tuple[Check, Response | Fault]:
    """Ask for a list without a token: the Sync API refuses that, and in its own words."""
    where = settings.base_url
    answer = await api.send(_LIST, _NO_TOKEN)
    if isinstance(answer, Fault):
        error = judge(answer, writes=False).error or answer.detail
        mend = "--base-url (PARAGON_SYNC_URL) names the host; a proxy is used with --trust-env only"
        return fail("host", f"{where}: {error}", mend), answer
    if answer.status in _LOGGED_OUT and _is_json(answer):
        return ok("host", f"{where} answers, and asks for a token ({answer.status})"), answer
    if answer.status == 429 or answer.status >= 500:
        seen = f"{where} is there, but answers {answer.status}: {told(answer)}"
        return warn("host", seen, "try again later; a run would wait for it"), answer
    seen = f"{where} does not speak the Sync API: {answer.status} without a token, {told(answer)}"
    return fail("host", seen, "check --base-url (PARAGON_SYNC_URL)"), answer


async def tls(settings: Settings) -> Check:
    """Tell how the connection is protected, and for how long its certificate is good."""
    parts = urlsplit(settings.base_url)
    name, port = parts.hostname or "", parts.port
    if parts.scheme == "http":
        if settings.allow_http:
            seen = "plain http: tokens travel in the clear"
            return warn("tls", seen, "use https, unless nobody else is on the way")
        return ok("tls", "plain http, within this machine")
    if settings.trust_env:
        return ok("tls", "not looked at: the way may lead through a proxy (--trust-env)")
    try:
        async with asyncio.timeout(settings.timeout_s):
            _, writer = await asyncio.open_connection(
                name, port or 443, ssl=ssl.create_default_context()
            )
    except ssl.SSLCertVerificationError as error:
        mend = "check --base-url; for a certificate of your own, SSL_CERT_FILE names whom to trust"
        return fail("tls", f"the certificate is not accepted: {error.verify_message}", mend)
    except (OSError, TimeoutError) as error:
        said = type(error).__name__
        return fail("tls", f"no TLS connection to {name} ({said})", "check --base-url")
    try:
        secured = writer.get_extra_info("ssl_object")
        ends = ssl.cert_time_to_seconds(secured.getpeercert()["notAfter"])
        seen = f"{secured.version()}, certificate good until {stamp(ends)[:10]}"
    finally:
        writer.close()
    if ends - time.time() < _SOON_S:
        return warn("tls", seen, "have the certificate renewed before a run that takes longer")
    return ok("tls", seen)


def clock(answer: Response, *, now_s: float) -> Check:
    """Compare our clock with the ``Date`` of *answer*, which came at *now_s*."""
    theirs = seconds_of(answer.date or "")
    if theirs is None:
        return warn("clock", "the host told no time", "see that this machine's clock is right")
    skew_s = now_s - theirs
    # The header has whole seconds.
    seen = f"{abs(skew_s):,.0f} s {'ahead of' if skew_s > 0 else 'behind'} the host's"
    if abs(skew_s) < 2:
        return ok("clock", "as the host's")
    if abs(skew_s) <= TOLERANCE_S:
        return ok("clock", seen)
    mend = f"set this machine's clock (NTP); it is {stamp(now_s)} here"
    if abs(skew_s) > MAX_SKEW_S:
        return fail("clock", seen, mend)
    return warn("clock", f"{seen}; tokens go by the host's clock after a first 401", mend)


async def read(
    api: Api, tokens: TokenSource, *, user: str | None, sync: str | None, date: str | None
) -> Check:
    """Read one user's syncs, or one sync, as a run would."""
    if user is None and tokens.renewable:
        mend = "give --user ID, one of your own user IDs, and --sync ID if you have one"
        return warn("read", "not tried: whether the host takes the key shows with a user", mend)
    tokens.learn_server_time(date or "")
    header = await tokens.mint(user or "")
    change = Change(1, 1, sync or "", user or "", {})
    look = _Look()
    answer = await api.send(look.read(change) if sync else _LIST, header)
    whose = "the token's user" if user is None else f"user {user!r}"
    understood = (
        isinstance(answer, Response)
        and (look.observe(answer) if sync else syncs_of(answer)) is not None
    )
    ruling = judge(answer, writes=False, understood=understood)
    if ruling.verdict is Verdict.ACCEPTED and isinstance(answer, Response):
        return _list_of(answer, whose) if sync is None else _status_of(answer, sync, look)
    if ruling.verdict is Verdict.AUTH:
        mend = (
            "is the key of this project, and still the newest? is --audience right for this host?"
        )
        if not isinstance(tokens, Tokens):
            mend = "get a new token; is it one of this project?"
        return fail("read", f"the token of {whose} is not accepted: {ruling.error}", mend)
    if sync and isinstance(answer, Response) and answer.status in {404, 410}:
        seen = f"{whose} has no sync {sync!r}"
        return fail("read", seen, "check --sync and --user: a sync belongs to one user")
    what = f"the sync {sync!r} of {whose}" if sync else f"the syncs of {whose}"
    return fail("read", f"{what} could not be read: {ruling.error}", "try again, then ask Paragon")


def _list_of(answer: Response, whose: str) -> Check:
    syncs = syncs_of(answer)
    count = len(syncs.items) if syncs else 0
    if not count:
        return warn("read", f"{whose} has no syncs", "is it a user ID of this project?")
    more = "" if syncs is None or syncs.cursor is None else " and more"
    return ok("read", f"{whose} has {count:,} sync{'' if count == 1 else 's'}{more}")


def _status_of(answer: Response, sync: str, look: _Look) -> Check:
    state, seen = look.observe(answer) or {}, look.sight(answer)
    told_of = f"sync {sync!r} is {seen.status or 'of no status'}"
    untold = [field.name for field in look.owns if field.name not in state]
    if CREDENTIAL.name in untold:
        mend = "this version of the API tells less: changes can be proved only as accepted"
        return warn("read", f"{told_of}; its credential is not told", mend)
    frequency = f", frequency {state[FREQUENCY.name]}" if FREQUENCY.name in state else ""
    return ok("read", f"{told_of}, credential {state[CREDENTIAL.name]}{frequency}")


def _is_json(answer: Response) -> bool:
    try:
        msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return True
