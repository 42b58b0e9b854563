"""Tokens: minted when needed, renewed in time, many off the event loop, and never shown."""

from __future__ import annotations

import asyncio
import copy
import email.utils
import gc
import pickle
import random
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from runner.errors import SettingsError
from runner.secret import Secret
from runner.tokens import (
    ReadyToken,
    SigningKey,
    TokenChecker,
    Tokens,
    TokenSource,
    load_signing_key,
    make_demo_key,
)
from runner.tokens.minting import FEW

AUDIENCE = "useparagon.com/3f1c"
KEY = load_signing_key(make_demo_key(), origin="tests")
OTHER_KEY = load_signing_key(make_demo_key(), origin="tests")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_795_000_000.4) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def make_tokens(clock: Clock | None = None, **knobs: Any) -> Tokens:
    """Return tokens for the tests' audience, by *clock* where one is given."""
    knobs.setdefault("renew_ahead_s", 60)
    return Tokens(KEY, audience=AUDIENCE, now=clock or time.time, **knobs)


def make_checker(clock: Clock | None = None, *, ahead_s: float = 0) -> TokenChecker:
    """Return a server's check whose clock is *ahead_s* ahead of *clock*."""
    now = clock or time.time
    return TokenChecker(KEY.public_pem(), AUDIENCE, lambda: now() + ahead_s)


def bare(header: str | None) -> str:
    """Return the token in a header."""
    assert header is not None
    scheme, _, token = str(header).partition(" ")
    assert scheme == "Bearer"
    return token


def claims(header: str | None) -> dict[str, Any]:
    """Return what a header's token says."""
    return jwt.decode(bare(header), options={"verify_signature": False})


def date(moment: float) -> str:
    """Return *moment* as an HTTP date."""
    return email.utils.formatdate(moment, usegmt=True)


async def turns(count: int) -> None:
    """Let the event loop turn *count* times."""
    for _ in range(count):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    "user_id",
    ["org:42", "ann@example.com", "007", "Zoë 日本 🙂", " x ", "\ud800", "a" * 5000, '"\n\0'],
)
async def test_a_token_says_who_for_whom_and_when(user_id: str) -> None:
    """RS256; sub, aud, iat (30 s back) and exp, whole seconds, and nothing else."""
    clock = Clock(1_795_000_000.9)
    tokens = make_tokens(clock)
    header = await tokens.mint(user_id)

    assert claims(header) == {
        "sub": user_id,
        "aud": AUDIENCE,
        "iat": 1_794_999_970,
        "exp": 1_795_003_600,
    }
    assert jwt.get_unverified_header(bare(header)) == {"alg": "RS256", "typ": "JWT"}
    assert make_checker(clock)(bare(header)) == user_id
    assert tokens.header(user_id) == header
    assert tokens.header("someone else") is None


async def test_a2_a_token_is_that_users_own() -> None:
    """Many users, cancellations at random: whoever gets a header gets the own one."""
    dice = random.Random(7)
    tokens = make_tokens(capacity=50)
    checker = make_checker()
    users = [f"user {dice.randrange(120)}" for _ in range(400)]
    tasks = [asyncio.create_task(tokens.mint(user)) for user in users]
    for task in dice.sample(tasks, 100):
        await turns(dice.randrange(3))
        task.cancel()
    headers = await asyncio.gather(*tasks, return_exceptions=True)
    got = [(u, checker(bare(h))) for u, h in zip(users, headers, strict=True) if isinstance(h, str)]
    tokens.close()

    assert [user for user, _ in got] == [sub for _, sub in got]
    assert len(got) >= 300


# ------------------------------------------------------------------------------------ renewal


async def test_a3_no_attempt_carries_a_token_that_expires_on_the_way() -> None:
    """Asked before every attempt, a token still lives for the time to renew ahead."""
    clock = Clock()
    tokens = make_tokens(clock, lifetime_s=600, renew_ahead_s=60)
    at_arrival = make_checker(clock, ahead_s=59)
    waits = [0, 1, 300, 238, 1, 1, 1, 1200, 60, 539, 541, 3600]
    subs = []
    for wait_s in waits:
        clock.now += wait_s
        header = tokens.header("u") or await tokens.mint("u")
        subs.append(at_arrival(bare(header)))

    assert subs == ["u"] * len(waits)
    assert tokens.minted < len(waits)


async def test_a3_a_token_is_fresh_until_the_time_to_renew() -> None:
    """It is handed out up to that moment and not from then on; then a new one is."""
    clock = Clock(1_795_000_000)
    tokens = make_tokens(clock, lifetime_s=600, renew_ahead_s=60)
    first = await tokens.mint("u")
    clock.now += 539.9
    before = tokens.header("u")
    clock.now += 0.1

    assert before == first
    assert tokens.header("u") is None
    assert await tokens.mint("u") != first
    assert tokens.minted == 2


async def test_a3_a_clock_that_goes_back_brings_a_new_token() -> None:
    """A token from the future would be refused, so it is not handed out."""
    clock = Clock()
    tokens = make_tokens(clock)
    await tokens.mint("u")
    clock.now -= 3600

    assert tokens.header("u") is None
    assert make_checker(clock)(bare(await tokens.mint("u"))) == "u"


async def test_mint_returns_a_fresh_token_that_is_there() -> None:
    """Nothing is signed twice."""
    tokens = make_tokens()

    assert await tokens.mint("u") == await tokens.mint("u")
    assert tokens.minted == 1


def test_times_that_leave_no_fresh_token_are_refused() -> None:
    """A token that must be renewed before it is made is a fault of the settings."""
    with pytest.raises(SettingsError) as caught:
        make_tokens(lifetime_s=600, renew_ahead_s=600)

    assert str(caught.value) == (
        "a token lives 600 s and must be renewed 600 s before its end, "
        "so it would never be fresh. Shorten the time limit of a request"
    )


@pytest.mark.parametrize("knobs", [{"capacity": 0}, {"backdate_s": -1}])
def test_knobs_without_sense_are_refused(knobs: dict[str, Any]) -> None:
    """No room for a single token, or a token from the future, is a mistake of the caller."""
    with pytest.raises(ValueError, match="at least 1, and backdate_s not negative"):
        make_tokens(**knobs)


# ---------------------------------------------------------------------------------------- 401


async def test_a4_the_token_after_a_401_is_another_one() -> None:
    """Even within one second, however often; each is good, and none comes a second time."""
    clock = Clock()
    tokens, checker = make_tokens(clock), make_checker(clock)
    headers = []
    for _ in range(6):
        header = await tokens.mint("u")
        headers.append(header)
        tokens.discard("u", header)
        assert tokens.header("u") is None
    clock.now += 1
    later = await tokens.mint("u")

    assert len({*headers, later}) == 7
    assert [checker(bare(header)) for header in headers] == ["u"] * 6
    assert {claims(header)["exp"] for header in headers} == {claims(headers[0])["exp"]}
    assert claims(later)["iat"] == claims(headers[0])["iat"] + 1


async def test_a4_a_token_already_replaced_stays() -> None:
    """Two rows meet a 401 with one token: the second does not throw the new one away."""
    tokens = make_tokens()
    old = await tokens.mint("u")
    tokens.discard("u", old)
    new = await tokens.mint("u")
    tokens.discard("u", old)
    tokens.discard("nobody", old)

    assert tokens.header("u") == new
    assert tokens.minted == 2


async def test_a4_other_users_keep_theirs() -> None:
    """A discarded token is one user's matter."""
    tokens = make_tokens()
    ann, bob = await tokens.mint("ann"), await tokens.mint("bob")
    tokens.discard("ann", ann)
    tokens.discard("bob", ann)

    assert tokens.header("ann") is None
    assert tokens.header("bob") == bob


# --------------------------------------------------------------------------------------- skew


@pytest.mark.parametrize("ahead_s", [-7200, -90, -31, 31, 90, 4000])
async def test_a6_tokens_go_by_the_servers_clock(ahead_s: float) -> None:
    """One Date that differs, and every token from then on is good by the server's clock."""
    clock = Clock(1_795_000_000)
    tokens, checker = make_tokens(clock), make_checker(clock, ahead_s=ahead_s)
    refused = await tokens.mint("u")
    await tokens.mint("v")
    learned = tokens.learn_server_time(date(clock.now + ahead_s))
    tokens.discard("u", refused)

    assert learned
    assert tokens.skew_s == ahead_s
    assert checker(bare(await tokens.mint("u"))) == "u"
    assert checker(bare(tokens.header("v") or await tokens.mint("v"))) == "v"
    clock.now += 3500
    assert checker(bare(tokens.header("u") or await tokens.mint("u"))) == "u"


@pytest.mark.parametrize("ahead_s", [-30, -29, 0, 29, 30])
async def test_a6_a_small_difference_changes_nothing(ahead_s: float) -> None:
    """Up to 30 s the clocks agree, and the backdated token is good for such a server."""
    clock = Clock(1_795_000_000)
    tokens, checker = make_tokens(clock), make_checker(clock, ahead_s=ahead_s)
    header = await tokens.mint("u")

    assert not tokens.learn_server_time(date(clock.now + ahead_s))
    assert tokens.skew_s == 0
    assert tokens.header("u") == header
    assert checker(bare(header)) == "u"


async def test_a6_wobbles_of_a_skewed_clock_move_nothing() -> None:
    """Around 30 s the assumed clock does not flap; it returns when the clocks agree again."""
    clock = Clock(1_795_000_000)
    tokens = make_tokens(clock)
    learned = [tokens.learn_server_time(date(clock.now + s)) for s in (31, 29, 33, 61, 2, 0, 5)]

    assert learned == [True, False, False, False, False, True, False]
    assert tokens.skew_s == 0


@pytest.mark.parametrize(
    "date_header",
    [
        "",
        "yesterday",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Thu, 31 Dec 9999 23:59:59 -2359",
        "Mon, 99 Nov 2026 00:00:00 GMT",
        "\0" * 1000,
    ],
)
def test_a6_a_date_that_is_none_is_passed_over(date_header: str) -> None:
    """Nonsense, and a clock more than a day off, change nothing and raise nothing."""
    tokens = make_tokens(Clock())

    assert not tokens.learn_server_time(date_header)
    assert tokens.skew_s == 0


def test_a6_a_date_without_a_zone_is_utc() -> None:
    """HTTP dates are UTC whatever they say of it, and so is this machine's reading of them."""
    clock = Clock(1_795_000_000)
    tokens = make_tokens(clock)

    assert tokens.learn_server_time(date(clock.now + 90).replace("GMT", "-0000"))
    assert tokens.skew_s == 90


def test_a6_the_same_date_is_read_once() -> None:
    """A Date that came already says nothing new: our clock went on, the server's did too."""
    clock = Clock(1_795_000_000)
    tokens = make_tokens(clock)
    tokens.learn_server_time(date(clock.now))
    clock.now += 100

    assert not tokens.learn_server_time(date(clock.now - 100))
    assert tokens.skew_s == 0


# ----------------------------------------------------------------------- bounded, single-flight


async def test_a7_fifty_callers_share_one_signature() -> None:
    """Fifty rows of one user ask at once: one token is signed, and all get it."""
    tokens = make_tokens()
    headers = await asyncio.gather(*(tokens.mint("u") for _ in range(50)))

    assert len(set(headers)) == 1
    assert tokens.minted == 1


async def test_a7_a_token_that_was_foreseen_is_at_hand() -> None:
    """One signature serves whoever foresees a token, however often, and whoever then asks."""
    tokens = make_tokens()
    tokens.foresee("u")
    tokens.foresee("u")
    header = await tokens.mint("u")
    tokens.foresee("u")

    assert tokens.header("u") == header
    assert tokens.minted == 1


async def test_a7_a_foreseen_token_that_cannot_be_signed_is_nobodys_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told to whoever asks for it, and to nobody else."""
    tokens = make_tokens()
    odd = cast("str", b"not text")
    tokens.foresee(odd)
    with pytest.raises(TypeError):
        await tokens.mint(odd)
    gc.collect()

    assert not caplog.records


@pytest.mark.parametrize("begun", [1, 2])
async def test_a7_one_cancelled_caller_harms_no_other(begun: int) -> None:
    """The first of fifty is cancelled, before or while its token is signed; 49 get it."""
    tokens = make_tokens()
    tasks = [asyncio.create_task(tokens.mint("u")) for _ in range(50)]
    await turns(begun)
    tasks[0].cancel()
    headers = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(headers[0], asyncio.CancelledError)
    assert set(headers[1:]) == {tokens.header("u")}
    assert tokens.minted == 1


async def test_a7_nothing_is_signed_when_all_were_cancelled() -> None:
    """Work that nobody waits for is not begun, and the next caller is served."""
    tokens = make_tokens()
    tasks = [asyncio.create_task(tokens.mint("u")) for _ in range(5)]
    await turns(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await turns(2)
    before = tokens.minted

    assert before == 0
    assert make_checker()(bare(await tokens.mint("u"))) == "u"


async def test_a7_a_caller_who_comes_while_others_leave_is_served() -> None:
    """A user whose callers were cancelled in the queue may be asked for again at once."""
    tokens = make_tokens()
    first = asyncio.create_task(tokens.mint("u"))
    await turns(1)
    first.cancel()

    assert make_checker()(bare(await tokens.mint("u"))) == "u"
    assert tokens.minted == 1


async def test_a7_the_cache_is_bounded() -> None:
    """The users minted for last are kept, discarded ones count too, the rest is forgotten."""
    tokens = make_tokens(capacity=20)
    for number in range(60):
        header = await tokens.mint(f"user {number}")
        if number % 2:
            tokens.discard(f"user {number}", header)
    kept = [number for number in range(60) if tokens.header(f"user {number}")]

    assert kept == list(range(40, 60, 2))
    assert repr(tokens) == "Tokens(***, users=20, minted=60)"


async def test_a7_a_token_minted_again_is_kept_longer() -> None:
    """Least recently minted goes first, not least recently seen."""
    clock = Clock()
    tokens = make_tokens(clock, capacity=2)
    ann = await tokens.mint("ann")
    await tokens.mint("bob")
    tokens.discard("ann", ann)
    ann = await tokens.mint("ann")
    await tokens.mint("cid")

    assert tokens.header("ann") == ann
    assert tokens.header("bob") is None


# ------------------------------------------------------------------------------- off the loop


class Counting(ThreadPoolExecutor):
    """The loop's default executor, counting what it is given."""

    given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Count, then submit."""
        self.given += 1
        return super().submit(*args, **kwargs)


async def test_a8_signing_does_not_block_the_loop() -> None:
    """300 mints at once: no turn of the loop takes 50 ms, two threads at most, our own."""
    tokens = make_tokens()
    default = Counting(max_workers=1)
    asyncio.get_running_loop().set_default_executor(default)
    lags = []
    threads = set()
    minting = asyncio.gather(*(tokens.mint(f"user {number}") for number in range(300)))
    while not minting.done():
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - begin - 0.001)
        threads |= {t.name for t in threading.enumerate() if t.name.startswith("syncshift-sign")}
    await minting

    assert max(lags) < 0.05
    assert 1 <= len(threads) <= 2
    assert default.given == 0
    assert tokens.minted == 300


async def signers_after(tokens: Tokens, users: int) -> int:
    """Return how many threads of *tokens* there are once so many users have theirs."""
    await asyncio.gather(*(tokens.mint(f"user {number}") for number in range(users)))
    assert tokens.minted == users
    return len(tokens._threads._threads)


@pytest.mark.parametrize(("users", "threads"), [(1, 0), (FEW, 0), (FEW + 1, 1)])
async def test_few_are_signed_without_a_thread(users: int, threads: int) -> None:
    """A hop would take as long as the signature; of many, none is signed in the loop."""
    assert await signers_after(make_tokens(), users) == threads


async def test_few_are_signed_one_in_a_turn_of_the_loop() -> None:
    """So the loop is never blocked for longer than one signature takes."""
    tokens = make_tokens()
    first, second = (asyncio.ensure_future(tokens.mint(user)) for user in ("a", "b"))
    await turns(2)
    minted = [tokens.minted]
    await turns(1)
    minted.append(tokens.minted)
    await asyncio.gather(first, second)

    assert minted == [1, 2]


async def test_a_long_key_signs_in_a_thread() -> None:
    """A signature of 4,096 bits takes too long for the event loop."""
    key = SigningKey(rsa.generate_private_key(65537, 4096))
    tokens = Tokens(key, audience=AUDIENCE, renew_ahead_s=60)

    assert await signers_after(tokens, 1) == 1


async def test_a8_the_first_of_many_does_not_wait_for_the_last() -> None:
    """Tokens are handed out chunk by chunk, in the order in which they were asked for."""
    tokens = make_tokens()
    tasks = [asyncio.create_task(tokens.mint(f"user {number}")) for number in range(300)]
    await tasks[0]
    minted_by_then = tokens.minted
    await asyncio.gather(*tasks)

    assert minted_by_then <= 150


async def test_a_failure_to_sign_is_told_to_whoever_waits() -> None:
    """Nobody is left waiting, and tokens can be minted afterwards."""
    tokens = make_tokens()
    odd = cast("str", b"not text")
    tasks = [asyncio.create_task(tokens.mint(odd)) for _ in range(3)]
    await turns(2)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results] == [asyncio.CancelledError, TypeError, TypeError]
    assert tokens.minted == 0
    assert make_checker()(bare(await tokens.mint("u"))) == "u"


# ---------------------------------------------------------------------------------------- end


def await_end(threads: set[threading.Thread]) -> None:
    """Wait until *threads* have ended."""
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.parametrize("begun", [1, 2])
async def test_closing_leaves_nobody_waiting(begun: int) -> None:
    """Who waits is told, cached tokens are gone, threads end, and closing twice is no matter."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    before = set(threading.enumerate())
    tokens = make_tokens()
    cached = await tokens.mint("cached")
    tasks = [asyncio.create_task(tokens.mint(f"user {number}")) for number in range(40)]
    await turns(begun)
    tasks[0].cancel()
    tokens.close()
    tokens.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    # What was being signed is delivered to nobody, in a later turn of the loop.
    await_end(set(threading.enumerate()) - before)
    await turns(3)

    assert complaints == []
    assert cached is not None
    assert isinstance(results[0], asyncio.CancelledError)
    assert {str(result) for result in results[1:]} == {
        "the tokens were closed while one was minted"
    }
    assert tokens.header("cached") is None
    with pytest.raises(RuntimeError, match="the tokens are closed"):
        await tokens.mint("cached")


def test_a_loop_may_end_while_a_token_is_signed(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving in the middle of signing logs nothing, whichever is gone first."""
    before = set(threading.enumerate())
    tokens = make_tokens()

    async def leave() -> None:
        tasks = [asyncio.create_task(tokens.mint(f"user {number}")) for number in range(40)]
        await turns(2)
        tokens.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave())
    await_end(set(threading.enumerate()) - before)

    assert caplog.records == []


# ------------------------------------------------------------------------------- ready-made


def ready(text: str) -> ReadyToken:
    """Return a ready-made token from *text*."""
    return ReadyToken(Secret(text))


def signed(key: SigningKey = KEY, **changes: Any) -> str:
    """Return a token's text, good by default, with claims changed, or left out by None."""
    given = {"sub": "u", "aud": AUDIENCE, "iat": 1_795_000_000, "exp": 1_795_000_600} | changes
    return str(key.sign({name: value for name, value in given.items() if value is not None}))


@pytest.mark.parametrize(
    "around", ["{}", "Bearer {}", "bearer\t{}", "  {}\r\n", '"{}"', "'Bearer {}'\n", "\ufeff{}"]
)
async def test_a_ready_token_is_every_users(around: str) -> None:
    """Blanks, quotes and "Bearer" around it fall away; minting returns it; 401 is final."""
    token = signed()
    source: TokenSource = ready(around.format(token))
    source.discard("ann", f"Bearer {token}")

    assert source.header("ann") == f"Bearer {token}"
    assert await source.mint("bob") == f"Bearer {token}"
    assert source.renewable is False
    assert source.learn_server_time(date(0)) is False
    source.close()
    assert source.header("ann") == f"Bearer {token}"


def test_tokens_of_a_key_are_a_source_that_renews() -> None:
    """Both kinds answer to the same names."""
    source: TokenSource = make_tokens()

    assert source.renewable is True


BRING = "Put one Paragon User Token there, or unset it and give a signing key."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty."),
        (" \n", "is empty."),
        ("Bearer ", "is empty."),
        ("Bearer", "is empty."),
        ('""', "is empty."),
        ("c4n4ry\nc4n4ry", "holds several lines, but a token is one."),
        ("c4n4ry\rc4n4ry", "holds several lines, but a token is one."),
        ("c4n4ry\0c4n4ry", "holds a control character, which no token has."),
        ("c4n4ry\x1b[31m", "holds a control character, which no token has."),
        ("c4n4ry\tc4n4ry", "holds a control character, which no token has."),
        ("c4n4ry\x7f", "holds a control character, which no token has."),
        ("c4n4ryé", "holds a character that is not ASCII, which no token has."),
        ("c4n4ry\udcff", "holds a character that is not ASCII, which no token has."),
        ("c4n4ry c4n4ry", "holds a blank inside, which no token has."),
        ("Authorization: Bearer c4n4ry", "holds a blank inside, which no token has."),
        (
            "c4n4ry,c4n4ry",
            "holds a sign that no token has: letters, digits and -._~+/= only.",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nc4n4ry",
            "holds a key, not a token. A key belongs in PARAGON_SIGNING_KEY.",
        ),
    ],
)
def test_x1_a_ready_token_that_is_none(text: str, message: str) -> None:
    """Its own text for each mistake, and nothing of the token in error or traceback."""
    secret = Secret(text)

    with pytest.raises(SettingsError) as caught:
        ReadyToken(secret)
    below = caught.tb.tb_next
    whole = traceback.TracebackException(caught.type, caught.value, below, capture_locals=True)

    assert str(caught.value) == f"PARAGON_USER_TOKEN {message} {BRING}"
    assert "c4n4ry" not in "".join(whole.format())
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("token", "expires_at"),
    [
        (signed(), 1_795_000_600.0),
        (signed(exp=1.5), 1.5),
        (signed(OTHER_KEY), 1_795_000_600.0),
        (signed(aud=None, sub=None), 1_795_000_600.0),
        (signed(exp=None), None),
        (signed(exp=True), None),
        (signed(exp="soon"), None),
        (signed(exp=-1), None),
        (signed(exp=10**400), None),
        ("opaque-token", None),
        ("eyJ.eyJ.x", None),
        ("a.b.c.d.e", None),
    ],
)
def test_a_ready_token_may_tell_when_it_ends(token: str, expires_at: float | None) -> None:
    """Whoever signed it; None when it is no JWT or its exp makes no sense."""
    assert ready(token).expires_at == expires_at


# ----------------------------------------------------------------------------- the other side


@pytest.mark.parametrize(
    ("token", "sub"),
    [
        (signed(), "u"),
        (signed(sub="007"), "007"),
        (signed(aud=["x", AUDIENCE]), "u"),
        (signed(OTHER_KEY), None),
        (signed(aud="useparagon.com/other"), None),
        (signed(aud=None), None),
        (signed(sub=None), None),
        (signed(sub=""), None),
        (signed(sub=7), None),
        (signed(iat=None), None),
        (signed(exp=None), None),
        (signed(exp=1_795_000_300), None),
        (signed(exp=1_795_000_301), "u"),
        (signed(iat=1_795_000_300), "u"),
        (signed(iat=1_795_000_301), None),
        (signed(exp="2000000000"), None),
        (signed(iat=True), None),
        (signed()[:-3], None),
        (jwt.encode({"sub": "u", "aud": AUDIENCE, "iat": 1, "exp": 2e9}, "", "none"), None),
        (jwt.encode({"sub": "u", "aud": AUDIENCE, "iat": 1, "exp": 2e9}, "k" * 32, "HS256"), None),
        ("", None),
        ("é\udcff", None),
    ],
)
def test_the_checker_takes_good_tokens_only(token: str, sub: str | None) -> None:
    """The right key, algorithm and audience, all four claims, and the time between them."""
    checker = TokenChecker(KEY.public_pem(), AUDIENCE, Clock(1_795_000_300))

    assert checker(token) == sub
    assert checker(token) == sub


def test_the_checker_notices_the_end_of_a_token_it_knows() -> None:
    """A token checked before is not good for ever; leeway is given where it is asked for."""
    clock = Clock(1_795_000_599)
    strict = TokenChecker(KEY.public_pem(), AUDIENCE, clock)
    lenient = TokenChecker(KEY.public_pem(), AUDIENCE, clock, leeway_s=30)
    before = strict(signed()), lenient(signed())
    clock.now += 1

    assert before == ("u", "u")
    assert strict(signed()) is None
    assert lenient(signed()) == "u"


def test_the_checker_needs_an_rsa_key() -> None:
    """A public key of another kind is a mistake of whoever set the server up."""
    pem = (
        b"-----BEGIN PUBLIC KEY-----\n"
        b"MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
        b"-----END PUBLIC KEY-----\n"
    )

    with pytest.raises(ValueError, match="public_pem is not an RSA public key"):
        TokenChecker(pem, AUDIENCE)


# ------------------------------------------------------------------------------------- hidden


async def test_x1_no_object_shows_a_token() -> None:
    """Neither sources, headers, tasks and futures nor their containers show one."""
    tokens = make_tokens()
    task = asyncio.create_task(tokens.mint("u"))
    header = await task
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result(header)
    shown = [
        *(repr(thing) for thing in (tokens, ready(bare(header)), make_checker(), KEY)),
        *(str(thing) for thing in (tokens, ready(bare(header)), make_checker(), KEY)),
        repr(header),
        repr({"Authorization": header}),
        f"{header}",
        repr(task),
        repr(future),
        repr(copy.copy(header)),
    ]

    assert [text for text in shown if "***" not in text] == []
    assert [text for text in shown if bare(header)[:20] in text or "eyJ" in text] == []


async def test_x1_a_traceback_beside_tokens_shows_none() -> None:
    """Every frame from a failing caller down to the signing thread prints stars."""
    tokens = make_tokens()
    await tokens.mint("u")

    async def send(source: Tokens) -> None:
        header = source.header("u")
        headers = {"Authorization": header}
        await source.mint(cast("str", b"not text"))
        raise AssertionError(headers)

    with pytest.raises(TypeError) as caught:
        await send(tokens)
    whole = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(whole.format())

    assert "headers = {'Authorization': '***'}" in shown
    assert bare(tokens.header("u"))[-40:] not in shown
    assert "eyJ" not in shown


@pytest.mark.parametrize("kind", ["tokens", "ready", "checker"])
def test_x1_nothing_that_holds_tokens_can_be_pickled(kind: str) -> None:
    """Nor does it have a dictionary that would list what it holds."""
    things = {"tokens": make_tokens(), "ready": ready("opaque"), "checker": make_checker()}
    thing = things[kind]

    assert not hasattr(thing, "__dict__")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(thing)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.deepcopy(thing)
