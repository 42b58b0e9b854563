"""One token per user, kept until shortly before it expires; many are signed off the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, NoReturn, SupportsIndex, final

import msgspec

from runner.errors import SettingsError
from runner.secret import STARS, HiddenStr
from runner.tokens.clock import ServerClock
from runner.tokens.keys import SigningKey

# Signing leaves the interpreter to others for most of its time, so two threads do nearly twice
# the work of one; they are our own, because name look-ups wait in the loop's default ones.
THREADS: Final = 2

CHUNK: Final = 16
"""Tokens signed in one hop: some 8 ms of work, so nobody waits long for others' tokens."""


FEW: Final = 2
"""So few that are wanted at a time are signed in the event loop, one in a turn of it: to hand the
interpreter to a thread and back, in the midst of sending, takes as long as the signature."""

QUICK_BITS: Final = 2048
"""A signature with a longer key takes several times as long: too long for the event loop."""


class _Claims(NamedTuple):
    """Everything a token says, by the names it says it with."""

    sub: str
    aud: str
    iat: int
    exp: int


class _Ready(msgspec.Struct, frozen=True, gc=False):
    """The last token of a user."""

    header: HiddenStr | None
    """None: the API refused it."""
    iat: int
    exp: int


@final
class Tokens:
    """Bearer tokens of any number of users, minted from one signing key.

    A token says ``sub``, ``aud``, ``iat`` and ``exp`` and nothing else. ``iat`` lies
    *backdate_s* in the past, so that a server whose clock is a little slow takes it. A token
    is fresh while more than *renew_ahead_s* of its *lifetime_s* is left: give at least the
    longest time between asking for a header and the server's looking at it. The *capacity*
    users minted for last are kept.

    Tokens go by the server's clock where that differs from ours (`learn_server_time`). The
    same claims make the same signature, so a token minted in the second of a refused one
    would be the refused one: its ``iat`` is put one second further back, which no server
    minds, and its ``exp`` stays as it is.

    Use it from one event loop. Raises `SettingsError` for times that leave no fresh token.
    """

    __slots__ = (
        "_audience",
        "_backdate_s",
        "_capacity",
        "_chunks_out",
        "_clock",
        "_closed",
        "_key",
        "_lifetime_s",
        "_minted",
        "_queue",
        "_ready",
        "_renew_ahead_s",
        "_scheduled",
        "_threads",
        "_waiting",
    )

    def __init__(
        self,
        key: SigningKey,
        *,
        audience: str,
        lifetime_s: float = 3600,
        renew_ahead_s: float,
        backdate_s: float = 30,
        capacity: int = 10_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        # One second, because claims count whole ones.
        if lifetime_s < renew_ahead_s + 1:
            raise SettingsError(
                f"a token lives {lifetime_s:g} s and must be renewed {renew_ahead_s:g} s before "
                "its end, so it would never be fresh. Shorten the time limit of a request"
            )
        if capacity < 1 or backdate_s < 0:
            raise ValueError("capacity must be at least 1, and backdate_s not negative")
        self._key = key
        self._audience = audience
        self._lifetime_s = lifetime_s
        self._renew_ahead_s = renew_ahead_s
        self._backdate_s = backdate_s
        self._capacity = capacity
        self._clock = ServerClock(now)
        self._ready: OrderedDict[str, _Ready] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Future[HiddenStr]]] = {}
        self._queue: deque[str] = deque()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="syncshift-sign")
        self._chunks_out = 0
        self._scheduled = False
        self._closed = False
        self._minted = 0

    @property
    def renewable(self) -> bool:
        """True: a discarded token is followed by another one."""
        return True

    @property
    def minted(self) -> int:
        """Number of tokens signed so far."""
        return self._minted

    @property
    def skew_s(self) -> float:
        """The server's clock less ours, in seconds; 0 while they agree within 30 s."""
        return self._clock.skew_s

    def learn_server_time(self, date_header: str) -> bool:
        """Take in the ``Date`` of an answer that came just now; tell if `skew_s` changed by it.

        Tokens that do not fit the server's clock are not handed out any more.
        """
        return self._clock.learn(date_header)

    def header(self, user_id: str) -> str | None:
        """Return ``Bearer …`` for *user_id* if a fresh token is at hand, else None."""
        ready = self._ready.get(user_id)
        if ready is None:
            return None
        moment = self._clock.now()
        # Before its iat: the clock went back, or the server's turned out to be behind ours.
        if ready.iat <= moment < ready.exp - self._renew_ahead_s:
            return ready.header
        return None

    def foresee(self, user_id: str) -> None:
        """Begin to sign a token for *user_id* unless a fresh one is at hand or under way."""
        if not self._closed and user_id not in self._waiting and self.header(user_id) is None:
            self._waiter(user_id).add_done_callback(_let_be)

    async def mint(self, user_id: str) -> str:
        """Return ``Bearer …`` for *user_id*, fresh. Callers that overlap share one signature.

        Cancelling one caller harms no other. Raises `RuntimeError` once `close` was called.
        """
        if self._closed:
            raise RuntimeError("no token can be minted any more: the tokens are closed")
        ready = self.header(user_id)
        if ready is not None:
            return ready
        return await self._waiter(user_id)

    def discard(self, user_id: str, header: str) -> None:
        """Drop *header*, which the API refused; the next token differs. A newer one stays."""
        ready = self._ready.get(user_id)
        if ready is not None and ready.header == header:
            self._ready[user_id] = _Ready(None, ready.iat, ready.exp)

    def close(self) -> None:
        """Forget every token and stop signing. Whoever waits for one gets a `RuntimeError`."""
        self._closed = True
        self._ready.clear()
        self._queue.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        waiting, self._waiting = self._waiting, {}
        for waiter in (waiter for waiters in waiting.values() for waiter in waiters):
            if not waiter.done():
                waiter.set_exception(RuntimeError("the tokens were closed while one was minted"))

    def __repr__(self) -> str:
        return f"Tokens({STARS}, users={len(self._ready)}, minted={self._minted})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("Tokens cannot be pickled or copied")

    def _waiter(self, user_id: str) -> asyncio.Future[HiddenStr]:
        """Have a token signed for *user_id*; return a future of it."""
        loop = asyncio.get_running_loop()
        # A future for each caller: a shared one would be cancelled with its first waiter.
        waiter: asyncio.Future[HiddenStr] = loop.create_future()
        waiters = self._waiting.setdefault(user_id, [])
        waiters.append(waiter)
        if len(waiters) == 1:
            self._queue.append(user_id)
        self._schedule(loop)
        return waiter

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue and not self._scheduled:
            # Later in this turn of the loop, when everyone who is about to ask has asked.
            self._scheduled = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give every idle thread a chunk of what is queued, or sign one of few here."""
        self._scheduled = False
        if not self._chunks_out and len(self._queue) <= FEW and self._key.bits <= QUICK_BITS:
            if chunk := self._next_chunk(most=1):
                self._hand_out(chunk, _signed(self._key, chunk))
                self._schedule(loop)
            return
        while self._chunks_out < THREADS and (chunk := self._next_chunk()):
            self._chunks_out += 1
            signed = loop.run_in_executor(self._threads, _signed, self._key, chunk)
            signed.add_done_callback(partial(self._deliver, loop, chunk))

    def _next_chunk(self, *, most: int = CHUNK) -> list[_Claims]:
        chunk: list[_Claims] = []
        while self._queue and len(chunk) < most:
            user_id = self._queue.popleft()
            if all(waiter.done() for waiter in self._waiting[user_id]):
                # Everyone who asked was cancelled meanwhile.
                del self._waiting[user_id]
            else:
                chunk.append(self._claims(user_id))
        return chunk

    def _claims(self, user_id: str) -> _Claims:
        moment = self._clock.now()
        iat = math.floor(moment - self._backdate_s)
        exp = math.floor(moment + self._lifetime_s)
        last = self._ready.get(user_id)
        if last is not None and last.header is None and exp <= last.exp:
            iat = min(iat, last.iat - 1)
        return _Claims(sub=user_id, aud=self._audience, iat=iat, exp=exp)

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        chunk: Sequence[_Claims],
        signed: asyncio.Future[list[HiddenStr] | Exception],
    ) -> None:
        self._chunks_out -= 1
        if not self._closed:
            self._hand_out(chunk, signed.result())
            self._dispatch(loop)

    def _hand_out(self, chunk: Sequence[_Claims], signed: list[HiddenStr] | Exception) -> None:
        if isinstance(signed, Exception):
            for claims in chunk:
                for waiter in self._waiting.pop(claims.sub):
                    if not waiter.done():
                        waiter.set_exception(signed)
            return
        self._minted += len(chunk)
        for claims, header in zip(chunk, signed, strict=True):
            self._keep(claims, header)
            for waiter in self._waiting.pop(claims.sub):
                if not waiter.done():
                    waiter.set_result(header)

    def _keep(self, claims: _Claims, header: HiddenStr) -> None:
        self._ready[claims.sub] = _Ready(header, claims.iat, claims.exp)
        self._ready.move_to_end(claims.sub)
        if len(self._ready) > self._capacity:
            self._ready.popitem(last=False)


def _let_be(token: asyncio.Future[HiddenStr]) -> None:
    # Whoever mints it learns why it failed.
    if not token.cancelled():
        token.exception()


def _signed(key: SigningKey, chunk: Sequence[_Claims]) -> list[HiddenStr] | Exception:
    """Return the headers of *chunk*, or why they cannot be had."""
    headers = []
    try:
        for claims in chunk:
            headers.append(HiddenStr("Bearer " + key.sign(claims._asdict())))
            if len(chunk) > 1:
                # Lets the event loop in between two signatures, not only after its patience.
                time.sleep(0)
    except Exception as error:  # noqa: BLE001  # told to whoever waits for one of them
        return error
    return headers
