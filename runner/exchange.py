"""One exchange with the API: ask, and ask again for as long as that makes sense.

A row that fails is asked again within its attempts and the run's retry budget.
A server that is down is waited for: everybody is held, one sync is read now and
then, and no row pays for it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable

import msgspec

from runner import retry
from runner.attempt import Attempt, Sender, patience_over
from runner.errors import RunFault
from runner.log import diagnostics
from runner.model import Change, Request, Response, Verdict
from runner.outage import RetryBudget
from runner.turnstile import Closing, SetAside
from runner.vigil import Vigil

_MAX_THROTTLED = 50
_METHODS = ("GET", "PATCH", "POST")
_RECONNECTS = 12
"""So many requests that found their connection gone are sent again at a time: enough to see
that the server is gone as well before all the others are."""
_BROKEN = 500
_SUSPICIOUS = 3
"""So many failures of one row, while nobody succeeds, are reason to ask for another's sync."""


class Doubt(enum.Enum):
    """What a look at a sync says about a request that may have landed."""

    LANDED = enum.auto()
    SEND_AGAIN = enum.auto()
    """It has not, or the API does not tell: the change is absolute and may be sent again."""
    UNKNOWN = enum.auto()
    """The look itself failed; nothing is sent blind."""


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """What a row's request came to in the end."""

    last: Attempt
    sends: int
    """Requests that left for the wire."""
    in_doubt: bool = False
    """Some attempt may have landed although it was not accepted."""
    landed: bool = False
    """A look in between showed that an attempt had landed; no more was sent."""

    @property
    def accepted(self) -> bool:
        """Whether the API took the request."""
        return self.last.accepted


class Policy(msgspec.Struct, frozen=True):
    """How long to insist."""

    max_attempts: int
    max_outage_s: float


class Exchanger:
    """Asks for many rows. Belongs to one event loop."""

    def __init__(
        self,
        sender: Sender,
        *,
        policy: Policy,
        budget: RetryBudget,
        probe_with: Callable[[Change], Request],
    ) -> None:
        """*probe_with* makes the read that tells whether the server is back."""
        self.sender = sender
        self.policy = policy
        self.budget = budget
        self.vigil = Vigil(
            sender, budget=budget, longest_s=policy.max_outage_s, probe_with=probe_with
        )
        self.reconnects = {method: asyncio.Semaphore(_RECONNECTS) for method in _METHODS}
        """By method, for a write may have to wait for a read, but no read for a write."""

    def foresee(self, change: Change) -> None:
        """Take in that something is asked for *change* soon: its user's token is made meanwhile."""
        self.sender.tokens.foresee(change.user_id)

    async def ask(
        self,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
        *,
        approached: bool = False,
        look_again: Callable[[], Awaitable[Doubt]] | None = None,
    ) -> Exchange:
        """Send *request* until it is accepted, refused, or the attempts are used up.

        *understands* tells whether a good answer speaks of what was asked.
        *look_again* is asked before a request that may have landed is sent
        again. Raises `Closing` when the run ends first.
        """
        used, first = await self.sender.send(request, change, understands, approached=approached)
        if first.ruling.verdict is Verdict.AUTH:
            first = await self.sender.renewed(used, first, request, change, understands)
        if first.ruling.final:
            if first.accepted:
                self.budget.clean_success(first.sent_at)
            return Exchange(first, first.sends)
        return await _Insistence(self, request, change, understands, look_again).go_on(first)


class _Insistence:
    """The second and later attempts of one request."""

    def __init__(
        self,
        exchanger: Exchanger,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
        look_again: Callable[[], Awaitable[Doubt]] | None,
    ) -> None:
        self._exchanger = exchanger
        self._sender = exchanger.sender
        self._most = exchanger.policy.max_attempts
        self._request = request
        self._change = change
        self._understands = understands
        self._look_again = look_again
        self._pending: Attempt | None = None
        self._failed_at: list[float] = []
        self._sends = 0
        self._counted = 0
        self._retries = 0
        self._throttled = 0
        self._spoke_in = -1
        self._went_stale = False
        self._resend_free = False
        self._in_doubt = False
        self._landed = False
        self._ended = False

    async def go_on(self, first: Attempt) -> Exchange:
        """Follow up on *first*, which did not settle the matter."""
        self._pending = self._last = first
        try:
            last = await retry.again(
                self._next,
                goes_on=self._goes_on,
                pause_s=self._pause_s,
                sleep=self._sender.turnstile.sleep,
            )
        except SetAside:
            if self._in_doubt:
                # It may have set something off that nobody would count or follow.
                self._sender.stop(patience_over(self._sender.turnstile, self._sender.clocks))
            raise
        if last.accepted and self._retries:
            self._exchanger.budget.pay_back(last.sent_at)
        return Exchange(last, self._sends, self._in_doubt and not last.accepted, self._landed)

    async def _next(self) -> Attempt:
        if self._pending is not None:
            attempt, self._pending = self._pending, None
        elif self._resend_free:
            async with self._exchanger.reconnects[self._request.method]:
                attempt = await self._resend()
        else:
            attempt = await self._resend()
        if self._ended:
            return attempt
        self._last = attempt
        self._sends += attempt.sends
        self._in_doubt |= attempt.ruling.verdict is Verdict.AMBIGUOUS
        await self._weigh(attempt)
        return attempt

    async def _resend(self) -> Attempt:
        """Make another attempt, unless a look shows that there is no need, or fails."""
        if self._in_doubt and self._look_again is not None:
            found = await self._look_again()
            if found is not Doubt.SEND_AGAIN:
                self._ended = True
                self._landed = found is Doubt.LANDED
                return self._last
        # Many connections die together: the next one of the pool may be as dead as the first.
        return await self._sender.attempt(
            self._request, self._change, self._understands, afresh=self._resend_free
        )

    async def _weigh(self, attempt: Attempt) -> None:
        """Count the attempt, unless it was the server that failed and not the row."""
        ruling = attempt.ruling
        self._resend_free = ruling.free and not self._went_stale
        if ruling.verdict is Verdict.THROTTLED:
            self._throttled += 1
        elif self._resend_free:
            self._went_stale = True
        elif not ruling.final:
            self._counted += 1
            if ruling.outage:
                await self._blame(attempt)

    async def _blame(self, attempt: Attempt) -> None:
        """Find out whether the server is down; if so wait for it, and count no such attempt."""
        breaker = self._sender.breaker
        self._failed_at.append(self._sender.clocks.steady())
        if self._counted > 1 and self._exchanger.vigil.names_no_host(attempt):
            self._sender.stop(
                RunFault(f"{attempt.ruling.error}. Nothing was sent; mend it, then resume the run")
            )
            raise Closing
        if self._opens_breaker(attempt):
            await self._exchanger.vigil.wait_out(self._change, attempt)
        elif self._counted >= self._most:
            await self._exchanger.vigil.verdict()
        own = [moment for moment in self._failed_at if not breaker.was_down(moment)]
        self._counted -= len(self._failed_at) - len(own)
        self._failed_at = own

    def _opens_breaker(self, attempt: Attempt) -> bool:
        breaker, now = self._sender.breaker, self._sender.clocks.steady()
        never_arrived = not attempt.sends
        # A row that breaks the server breaks it each time: only its first failure since
        # the last outage speaks of the server. One that never arrived always does.
        speaks = never_arrived or self._spoke_in != breaker.outages
        self._spoke_in = breaker.outages
        if speaks and breaker.failed(now):
            return True
        if breaker.is_open:
            return False
        used_up = self._counted >= self._most
        if never_arrived and used_up:
            breaker.open(now)
            return True
        recent = self._failed_at[-_SUSPICIOUS:]
        often = used_up or len(recent) == _SUSPICIOUS
        nobody_else = often and breaker.last_success_at < recent[0]
        if attempt.status == _BROKEN and self._sender.known_good is None:
            # A 500 speaks of the request, unlike 502 to 504, and there is no other sync to ask.
            nobody_else = False
        if nobody_else or self._exchanger.budget.starved(now):
            # This row failed again and again while nobody succeeded, or retries have been
            # rationed for long: a sync that is known to be good tells whether it is the
            # rows or the server.
            breaker.open(now, ask_at_once=True)
            return True
        return False

    def _goes_on(self, attempt: Attempt) -> bool:
        ruling = attempt.ruling
        if ruling.final or self._ended:
            return False
        if ruling.verdict is Verdict.THROTTLED:
            return self._throttled < _MAX_THROTTLED
        return self._counted < min(self._most, ruling.limit or self._most)

    def _pause_s(self, attempt: Attempt) -> float:
        ruling, clocks = attempt.ruling, self._sender.clocks
        if ruling.verdict is Verdict.THROTTLED and attempt.waits_alone:
            tries = self._throttled - 1
            return retry.backoff_s(ruling, retries=tries, chance=clocks.chance())
        if ruling.verdict is Verdict.THROTTLED or self._resend_free:
            return 0.0  # everybody waits, or the user's lane does
        pause_s = max(
            retry.backoff_s(ruling, retries=self._retries, chance=clocks.chance()),
            self._exchanger.budget.take(clocks.steady()),
        )
        self._retries += 1
        diagnostics().debug(
            "attempt.retry_scheduled",
            row=self._change.row,
            http_status=attempt.status,
            error_class=ruling.error_class,
            wait_s=round(pause_s, 3),
        )
        return pause_s
