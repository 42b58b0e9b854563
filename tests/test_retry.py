"""One function says what an answer means, and asking again is never left to chance."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections import Counter
from collections.abc import Awaitable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.errors import NOT_SENT, Fault, FaultKind
from runner.model import ErrorClass, Response, Verdict
from runner.retry import (
    GOOD,
    MAX_ERROR_TEXT,
    Ruling,
    again,
    backoff_s,
    judge,
    retry_after,
    told,
)

NOON = 784_123_200.0
"""Sunday, 6 November 1994, 12:00 UTC."""

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

ACCEPTED, THROTTLED, TRANSIENT, AUTH, REJECTED, AMBIGUOUS = Verdict


def statuses(*given: int | range) -> list[int]:
    """Return the statuses of ranges and single numbers."""
    return [s for g in given for s in (g if isinstance(g, range) else (g,))]


MEANINGS: dict[Verdict, list[int]] = {
    ACCEPTED: statuses(200, 201, 202),
    THROTTLED: [429],
    AUTH: [401],
    TRANSIENT: statuses(range(100, 101), range(102, 200), 408, 409, 421, 423, 425, 503, 507, 508),
    AMBIGUOUS: statuses(
        range(203, 300), 500, 502, 504, 506, 509, 510, range(512, 600), range(100), range(600, 1000)
    ),
}
"""What each status means for a PATCH; every other one is a refusal."""


@pytest.mark.parametrize("hundred", range(10))
def test_t1_every_status_has_its_meaning(hundred: int) -> None:
    """The classifier is total: 100 to 599, and what HTTP does not even know."""
    for status in range(100 * hundred, 100 * hundred + 100):
        meant = next((v for v, group in MEANINGS.items() if status in group), REJECTED)
        ruling = judge(Response(status, b"{}"), writes=True)
        reading = judge(Response(status, b"{}"), writes=False)

        assert ruling.verdict is meant
        assert reading.verdict is (TRANSIENT if meant is AMBIGUOUS else meant)
        assert (ruling.error_class is None) == (ruling.error is None) == (meant is ACCEPTED)
        assert ruling.final == (meant in {ACCEPTED, AUTH, REJECTED})
        assert ruling.counts == (meant is not THROTTLED)


@pytest.mark.parametrize(
    ("status", "outage", "halts_after", "error_class"),
    [
        (101, False, 1, ErrorClass.PROTOCOL),
        (204, False, 3, ErrorClass.PROTOCOL),
        (302, False, 3, ErrorClass.PROTOCOL),
        (304, False, 3, ErrorClass.PROTOCOL),
        (400, False, 0, ErrorClass.BAD_REQUEST),
        (401, False, 5, ErrorClass.AUTH),
        (402, False, 1, ErrorClass.PROTOCOL),
        (403, False, 0, ErrorClass.FORBIDDEN),
        (404, False, 0, ErrorClass.NOT_FOUND),
        (405, False, 3, ErrorClass.BAD_REQUEST),
        (407, False, 1, ErrorClass.PROTOCOL),
        (408, False, 0, ErrorClass.TIMEOUT),
        (409, False, 0, ErrorClass.CONFLICT),
        (412, False, 0, ErrorClass.CONFLICT),
        (422, False, 0, ErrorClass.BAD_REQUEST),
        (428, False, 1, ErrorClass.PROTOCOL),
        (429, False, 0, ErrorClass.THROTTLED),
        (500, True, 0, ErrorClass.TRANSIENT),
        (501, False, 1, ErrorClass.PROTOCOL),
        (503, True, 0, ErrorClass.TRANSIENT),
        (507, True, 0, ErrorClass.TRANSIENT),
        (526, True, 3, ErrorClass.TRANSIENT),
        (999, True, 0, ErrorClass.TRANSIENT),
    ],
)
def test_what_follows_from_a_status(
    status: int, outage: bool, halts_after: int, error_class: ErrorClass
) -> None:
    """Whether the server is to blame, and how many rows in a row show a fault of the run."""
    ruling = judge(Response(status, b"{}"), writes=True)

    assert (ruling.outage, ruling.halts_after, ruling.error_class) == (
        outage,
        halts_after,
        error_class,
    )
    assert str(status) in (ruling.error or "")


def test_five_users_must_be_refused_before_the_key_is_blamed() -> None:
    """A 401 halts only when it meets several users; every other ruling looks at rows alone."""
    assert judge(Response(401, b""), writes=True).over_users == 5
    assert judge(Response(405, b""), writes=True).over_users == 1


@pytest.mark.parametrize("status", sorted(GOOD))
@pytest.mark.parametrize("spoiled", ["not understood", "oversized"])
def test_r3_a_good_status_alone_is_no_success(status: int, spoiled: str) -> None:
    """A 2xx that does not speak of what was asked is in doubt for a write, and read again."""
    answer = Response(status, b'{"id":"other"}', oversized=spoiled == "oversized")
    understood = spoiled != "not understood"
    writing = judge(answer, writes=True, understood=understood)
    reading = judge(answer, writes=False, understood=understood)

    assert (writing.verdict, reading.verdict) == (AMBIGUOUS, TRANSIENT)
    assert "does not speak of what was asked" in (writing.error or "")
    assert writing.halts_after == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_r2_a_redirect_is_no_success(status: int) -> None:
    """A redirect is told as what it is, and three of them stop the run."""
    ruling = judge(Response(status, b"<html>Moved</html>"), writes=True)

    assert ruling.verdict is REJECTED
    assert ruling.halts_after == 3
    assert "no redirect is followed; check --base-url" in (ruling.error or "")


@pytest.mark.parametrize(
    ("status", "header", "verdict"),
    [
        (403, "5", THROTTLED),
        (403, None, REJECTED),
        (403, "soon", REJECTED),
        (429, None, THROTTLED),
        (429, "soon", THROTTLED),
        (503, "5", THROTTLED),
        (503, "soon", TRANSIENT),
        (500, "5", AMBIGUOUS),
        (409, "5", TRANSIENT),
    ],
)
def test_a_wait_makes_some_answers_a_request_to_slow_down(
    status: int, header: str | None, verdict: Verdict
) -> None:
    """403 and 503 with a valid wait are a throttle; a nonsense one counts as absent."""
    ruling = judge(Response(status, b"", retry_after=header), writes=True)

    assert ruling.verdict is verdict
    assert ruling.wait_s == (5.0 if header == "5" else None)


FAULTS: dict[FaultKind, tuple[Verdict, ErrorClass]] = {
    FaultKind.DNS: (TRANSIENT, ErrorClass.CONNECTION),
    FaultKind.CONNECT: (TRANSIENT, ErrorClass.CONNECTION),
    FaultKind.CONNECT_TIMEOUT: (TRANSIENT, ErrorClass.CONNECTION),
    FaultKind.CERTIFICATE: (REJECTED, ErrorClass.CONNECTION),
    FaultKind.TLS: (TRANSIENT, ErrorClass.CONNECTION),
    FaultKind.PROXY: (TRANSIENT, ErrorClass.CONNECTION),
    FaultKind.RESOURCES: (TRANSIENT, ErrorClass.CONNECTION),
    FaultKind.UNSENDABLE: (REJECTED, ErrorClass.INVALID),
    FaultKind.CLOSED: (REJECTED, ErrorClass.CONNECTION),
    FaultKind.STALE: (AMBIGUOUS, ErrorClass.CONNECTION),
    FaultKind.DISCONNECTED: (AMBIGUOUS, ErrorClass.CONNECTION),
    FaultKind.TIMEOUT: (AMBIGUOUS, ErrorClass.TIMEOUT),
    FaultKind.TRUNCATED: (AMBIGUOUS, ErrorClass.PROTOCOL),
    FaultKind.GARBLED: (AMBIGUOUS, ErrorClass.PROTOCOL),
    FaultKind.REDIRECTED: (REJECTED, ErrorClass.CONNECTION),
    FaultKind.OTHER: (AMBIGUOUS, ErrorClass.PROTOCOL),
    FaultKind.INTERNAL: (REJECTED, ErrorClass.INTERNAL),
}


@pytest.mark.parametrize("kind", FaultKind)
def test_t1_every_fault_has_its_meaning(kind: FaultKind) -> None:
    """No fault is left unjudged, and one that was never sent is never in doubt."""
    fault = Fault(kind, "SomeError")
    ruling = judge(fault, writes=True)

    assert (ruling.verdict, ruling.error_class) == FAULTS[kind]
    assert ruling.error is not None
    assert ruling.error.endswith("(SomeError)")
    assert fault.sent == (kind not in NOT_SENT)
    assert ruling.verdict is not AMBIGUOUS or fault.sent


@pytest.mark.parametrize("kind", [FaultKind.TRUNCATED, FaultKind.TIMEOUT])
@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, AMBIGUOUS),
        (202, AMBIGUOUS),
        (401, AUTH),
        (404, REJECTED),
        (429, THROTTLED),
        (503, TRANSIENT),
    ],
)
def test_r4_an_answer_that_broke_off_counts_by_its_status_unless_that_was_good(
    kind: FaultKind, status: int, verdict: Verdict
) -> None:
    """A refusal is one though its words are lost; a success without its body is in doubt."""
    assert judge(Fault(kind, "x", status), writes=True).verdict is verdict


def test_r8_a_stale_connection_costs_one_free_retry() -> None:
    """Only what a kept-alive connection or a wrong host (421) did is sent again for nothing."""
    free = {kind for kind in FaultKind if judge(Fault(kind, ""), writes=True).free}
    statuses_free = {s for s in range(100, 600) if judge(Response(s, b""), writes=True).free}

    assert free == {FaultKind.STALE}
    assert statuses_free == {421}


@pytest.mark.parametrize(
    ("spelling", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120\t", 120.0),
        ("999999999", 999_999_999.0),
        ("Sun, 06 Nov 1994 12:01:00 GMT", 60.0),
        ("Sunday, 06-Nov-94 12:01:00 GMT", 60.0),
        ("Sun Nov  6 12:01:00 1994", 60.0),
        ("Sun, 06 Nov 1994 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("\uff11\uff12", None),
        ("1_000", None),
        ("+5", None),
        ("5, 10", None),
        ("1e20", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        (None, None),
        ("9999999999", None),
        ("soon", None),
        ("1994-11-06T12:01:00Z", None),
        ("Sun, 06 Nov 1994 99:01:00 GMT", None),
        ("Sun, 06 Nov 1994 12:01:00 +9999999999999999999", None),
        ("Sun, 06 Nov 99999 12:01:00 GMT", None),
        ("S\u00fcn, 06 Nov 1994 12:01:00 GMT", None),
        ("Sun, 06 Nov 1994 14:01:00 +0200", 60.0),
    ],
)
def test_t7_retry_after_in_every_spelling(spelling: str | None, seconds: float | None) -> None:
    """Whole seconds and the three forms of a date are read; all else counts as absent."""
    assert retry_after(spelling, now_s=NOON) == seconds


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(
            r"[A-Za-z]{3}, [0-9]{1,4} [A-Za-z]{3} [0-9]{1,20} [0-9:]{1,12} [+-]?[0-9A-Z]{1,25}"
        ),
    )
)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example(", ")
def test_t7_no_spelling_is_an_error(spelling: str) -> None:
    """Whatever a server writes there, it is a number of seconds or nothing."""
    wait_s = retry_after(spelling, now_s=NOON)

    assert wait_s is None or wait_s >= 0


@settings(max_examples=200, deadline=None)
@given(
    chance=st.floats(0, 1),
    wait_s=st.one_of(st.none(), st.floats(0, 1e6)),
    retries=st.integers(0, 5000),
)
def test_t7_a_named_wait_is_never_undercut(
    chance: float, wait_s: float | None, retries: int
) -> None:
    """However the dice fall: at least what was asked, at most a second or the formula more."""
    pause = backoff_s(Ruling(TRANSIENT, wait_s=wait_s), retries=retries, chance=chance)

    assert pause >= (wait_s or 0.0)
    assert pause <= max(30.0, (wait_s or 0.0) + 1.0)


def test_backoff_doubles_to_its_cap_before_the_jitter() -> None:
    """The ceiling of the pause is 0.25, 0.5, 1 … 30 s, and stays there for ever."""
    most = [backoff_s(Ruling(TRANSIENT), retries=n, chance=1.0) for n in (*range(9), 5000)]

    assert most == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("retries", [0, 3, 9])
def test_t6_backoff_is_jittered_over_its_whole_width(retries: int) -> None:
    """A thousand rows that fail at once come back evenly spread (Kolmogorov-Smirnov, p > 0.01)."""
    dice, width = random.Random(retries), min(30.0, 0.25 * 2**retries)
    pauses = sorted(
        backoff_s(Ruling(TRANSIENT), retries=retries, chance=dice.random()) for _ in range(1000)
    )
    n = len(pauses)
    distance = max(
        max((i + 1) / n - pause / width, pause / width - i / n) for i, pause in enumerate(pauses)
    )
    buckets = Counter(int(pause / width * 20) for pause in pauses)

    assert pauses[0] >= 0
    assert pauses[-1] <= width
    assert distance < 1.63 / n**0.5
    assert max(buckets.values()) <= 3 * n / 20


def test_t6_those_who_were_told_the_same_second_do_not_return_in_it() -> None:
    """A wait named by the server is spread by two hundredths of it, and by a second at most."""

    def pause(wait_s: float, chance: float) -> float:
        return backoff_s(Ruling(THROTTLED, wait_s=wait_s), retries=0, chance=chance)

    assert [pause(10, 0.0), pause(10, 1.0)] == [10.0, 10.2]
    assert [pause(600, 0.0), pause(600, 0.5), pause(600, 1.0)] == [600.0, 600.5, 601.0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message":"no such sync","error":"Not Found"}', "no such sync"),
        (b'{"error":"Not Found","code":7}', "Not Found"),
        (b'{"message":["a must be b","c is wrong"]}', "a must be b; c is wrong"),
        (b'{"message":{"a":1}}', "{'a': 1}"),
        (b'{"message":""}', "{'message': ''}"),
        (b"{}", "{}"),
        (b"[]", "(the answer is empty)"),
        (b"", "(the answer is empty)"),
        (b" \n\t ", "(the answer is empty)"),
        (b"<html>  <b>Bad\ngateway</b></html>", "<html> <b>Bad gateway</b></html>"),
        (b'"just text"', "just text"),
        (b"404 page not found", "404 page not found"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"message":"caf\xc3\xa9"}', "caf\u00e9"),
    ],
)
def test_the_server_is_quoted(body: bytes, words: str) -> None:
    """`message`, then `error`, then the text itself, on one line."""
    assert told(Response(400, body)) == words


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x1b[2J\x1b]0;title\x07 gone", id="ansi"),
        pytest.param(b'{"message":"a\\u001b[31mb\\u0000c\\u202ed\\u2028e\\nf"}', id="in-json"),
        pytest.param(b'ok\n{"v":1,"event":"change.settled","row":7}\n', id="a-line-of-a-journal"),
        pytest.param(b"A\n" * 32_768, id="as-long-as-it-may-be"),
        pytest.param(b"[" * 30_000 + b"]" * 30_000, id="deep"),
        pytest.param(b'{"message":' + b"9" * 5000 + b"}", id="a-long-number"),
        pytest.param(b'{"message":1e999}', id="infinite"),
        pytest.param("\u200d\u202e\ud7ff".encode(), id="invisible"),
    ],
)
def test_x5_the_servers_words_are_harmless(body: bytes) -> None:
    """One line, printable, short: neither terminal, log nor report can be steered by it."""
    words = told(Response(500, body))

    assert words.isprintable()
    assert len(words) <= MAX_ERROR_TEXT + 2
    assert "  " not in words.removesuffix(" …")
    assert judge(Response(500, body), writes=True).verdict is AMBIGUOUS


@pytest.mark.parametrize(
    "body",
    [
        f'{{"message":"jwt {TOKEN} expired"}}'.encode(),
        f"Authorization: Bearer {TOKEN}".encode(),
        b"sent " + b"x" * 250 + b" " + TOKEN.encode() + b" " + b"y" * 250,
        f'{{"error":["{TOKEN}"]}}'.encode(),
    ],
)
def test_x1_a_server_that_echoes_the_token_is_not_quoted_on_it(body: bytes) -> None:
    """What looks like a token is starred out before the text is cut, so no part of it is left."""
    words = judge(Response(401, body), writes=True).error or ""

    assert "eyJ" not in words
    assert "c2lnbmF0" not in words


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_body_is_an_error(body: bytes) -> None:
    """Any bytes at all can be quoted."""
    assert told(Response(500, body)).isprintable()


async def no_sleep(seconds: float) -> None:
    """Let time pass at once."""


async def test_it_asks_until_told_to_stop() -> None:
    """Each result is shown to who decides; the pauses it asks for are slept, in order."""
    results, slept = iter([3, 2, 1, 0]), list[float]()

    async def go() -> int:
        return next(results)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    last = await again(go, goes_on=lambda n: n > 0, pause_s=lambda n: n / 10, sleep=sleep)

    assert last == 0
    assert slept == [0.3, 0.2, 0.1]


async def test_a_first_result_that_will_do_is_asked_for_once() -> None:
    """Nothing is slept and nothing asked again when the first answer settles it."""
    calls = []

    async def go() -> str:
        calls.append(1)
        return "good"

    assert (
        await again(go, goes_on=lambda _: False, pause_s=lambda _: 1 / 0, sleep=no_sleep) == "good"
    )
    assert len(calls) == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("y"), TimeoutError()])
async def test_an_exception_is_never_retried(error: Exception) -> None:
    """Only results are looked at: whatever is raised leaves as it is, after one call."""
    calls = []

    async def go() -> int:
        calls.append(1)
        raise error

    with pytest.raises(type(error)) as raised:
        await again(go, goes_on=lambda _: True, pause_s=lambda _: 0.0, sleep=no_sleep)

    assert raised.value is error
    assert len(calls) == 1


@pytest.mark.parametrize("where", ["attempt", "pause"])
async def test_t2_cancellation_is_never_retried(where: str) -> None:
    """Canceled during an attempt or a pause: one attempt, and out within a turn of the loop."""
    calls, inside = [], asyncio.Event()

    async def wait(_: float = 0.0) -> None:
        inside.set()
        await asyncio.Event().wait()

    async def go() -> int:
        calls.append(1)
        if where == "attempt":
            await wait()
        return 0

    task = asyncio.create_task(
        again(go, goes_on=lambda _: True, pause_s=lambda _: 3600.0, sleep=wait)
    )
    await inside.wait()
    task.cancel()
    await asyncio.sleep(0)

    assert task.cancelled()
    assert calls == [1]


async def test_t3_no_row_shares_a_count_with_another() -> None:
    """Twenty rows at once make three attempts each, and each ends with its own answer."""
    attempts: Counter[int] = Counter()

    def row(number: int) -> Awaitable[tuple[int, int]]:
        async def go() -> tuple[int, int]:
            attempts[number] += 1
            await asyncio.sleep(0)
            return number, attempts[number]

        return again(
            go,
            goes_on=lambda result: result[1] < 3,
            pause_s=lambda result: 0.001 * (result[0] % 3),
            sleep=asyncio.sleep,
        )

    ended = await asyncio.gather(*(row(number) for number in range(20)))

    assert ended == [(number, 3) for number in range(20)]


async def test_t3_no_row_raises_the_exception_of_another() -> None:
    """Rows that break in different ways at the same time each break in their own."""

    def row(number: int) -> Awaitable[int]:
        tries = iter([0, 1])

        async def go() -> int:
            await asyncio.sleep(0)
            if next(tries):
                raise LookupError(number)
            return number

        return again(go, goes_on=lambda _: True, pause_s=lambda _: 0.0, sleep=asyncio.sleep)

    ended = await asyncio.gather(*(row(number) for number in range(20)), return_exceptions=True)

    assert [end.args for end in ended if isinstance(end, LookupError)] == [(n,) for n in range(20)]


def test_a_date_of_our_own_is_read_back() -> None:
    """Dates as this machine writes them are understood to the second."""
    now_s = float(int(time.time()))
    spelled = email.utils.formatdate(now_s + 90, usegmt=True)

    assert retry_after(spelled, now_s=now_s) == 90.0
