"""One attempt: a token, a turn, a request, a ruling.

Every attempt, first or not, read or write, passes the same turnstile; what the
throttle and the breaker learn, they learn here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from runner import retry
from runner.errors import Fault, FaultKind, OutageTooLong, RunFault, SyncshiftError
from runner.log import diagnostics, stamp
from runner.model import Change, Request, Response, Verdict
from runner.outage import Breaker
from runner.retry import Ruling
from runner.throttle import THROTTLED
from runner.tokens import TokenSource
from runner.turnstile import Closing, Turnstile

_STRANGE_ROWS = 5
"""So many rows that meet strange answers, before any met another, are no accident."""


class Clocks(msgspec.Struct, frozen=True):
    """Time and chance, as they come in from outside."""

    steady: Callable[[], float]
    """Seconds on a clock that never goes back."""
    wall: Callable[[], float]
    """Seconds since the epoch."""
    chance: Callable[[], float]
    """A number from 0 to 1."""


class Transport(Protocol):
    """What sends one request; `runner.api.Api` is the one there is."""

    async def send(self, request: Request, authorization: str) -> Response | Fault:
        """Send *request*; return the answer or what came instead. Never raises for the network."""
        ...


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request and what came of it."""

    result: Response | Fault
    ruling: Ruling
    sent_at: float
    """Seconds on the run's steady clock."""
    sends: int = 1
    """Requests that left for the wire: two when a token was replaced, none when none could."""

    @property
    def status(self) -> int | None:
        """The answer's status, where one came."""
        return self.result.status

    @property
    def accepted(self) -> bool:
        """Whether the API took the request."""
        return self.ruling.verdict is Verdict.ACCEPTED


class Sender:
    """Makes single attempts for many rows over one transport. Belongs to one event loop."""

    def __init__(
        self,
        *,
        transport: Transport,
        turnstile: Turnstile,
        tokens: TokenSource,
        breaker: Breaker,
        longest_wait_s: float,
        stop: Callable[[SyncshiftError], None],
        tell: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        """A server that asks to wait longer than *longest_wait_s* ends the run through *stop*."""
        self.turnstile = turnstile
        self.breaker = breaker
        self.stop = stop
        self.tell = tell
        self.clocks = clocks
        self.known_good: Change | None = None
        """A row whose sync answered; a probe asks for it."""
        self._strange_rows: set[int] | None = set()
        """Rows whose answer was not the Sync API's; None once an answer was."""
        self._transport = transport
        self._throttle = turnstile.throttle
        self._tokens = tokens
        self._longest_wait_s = longest_wait_s

    async def attempt(
        self,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
        *,
        approached: bool = False,
    ) -> Attempt:
        """Make one attempt; a token that was not accepted is replaced once.

        *understands* tells whether a good answer speaks of what was asked.
        Raises `Closing` when the run ends before it can be sent.
        """
        used, attempt = await self.send(request, change, understands, approached=approached)
        if attempt.ruling.verdict is Verdict.AUTH:
            if isinstance(attempt.result, Response):
                self._tokens.learn_server_time(attempt.result.date or "")
            self._tokens.discard(change.user_id, used)
            if self._tokens.renewable:
                _, second = await self.send(request, change, understands)
                attempt = msgspec.structs.replace(second, sends=attempt.sends + second.sends)
        return attempt

    async def send(
        self,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
        *,
        approached: bool = False,
        probe: bool = False,
    ) -> tuple[str, Attempt]:
        """Send *request* once; return the header used and the attempt. Raises `Closing`."""
        user = change.user_id
        if self._tokens.header(user) is None:
            await self._tokens.mint(user)
        while True:
            await self.turnstile.enter(approached=approached, probe=probe)
            header = self._tokens.header(user)
            if header is not None:
                break
            # The wait for this turn outlived the token.
            self.turnstile.leave()
            approached = False
            await self._tokens.mint(user)
        sent_at = self.clocks.steady()
        try:
            result = await self._transport.send(request, header)
        finally:
            self.turnstile.leave()
        understood = True
        if isinstance(result, Response) and result.status in retry.GOOD:
            try:
                understood = understands(result)
            except Exception as error:  # noqa: BLE001  # a row that breaks us harms itself only
                diagnostics().error("row.broke", row=change.row, error=type(error).__name__)
                result = Fault(FaultKind.INTERNAL, type(error).__name__, result.status)
        ruling = retry.judge(
            result,
            writes=request.method != "GET",
            understood=understood,
            now_s=self.clocks.wall(),
        )
        sends = 1 if isinstance(result, Response) or result.sent else 0
        attempt = Attempt(result, ruling, sent_at, sends)
        if ruling.verdict is Verdict.ACCEPTED:
            self.known_good = change
            self._strange_rows = None
            self.breaker.succeeded(sent_at)
            self._throttle.answered(sent_at=sent_at)
        elif ruling.verdict is Verdict.THROTTLED:
            self._hold(attempt)
        elif not ruling.outage:
            if ruling.final and isinstance(result, Response):
                # Refused, but answered: as good as any to see whether the server is there.
                self.known_good = change
            self.breaker.succeeded(sent_at)
            self._throttle.answered(sent_at=sent_at)
        elif isinstance(result, Fault):
            self._throttle.lost(self.clocks.steady())
        if not understood and self._strange_rows is not None:
            self._suspect_host(change, ruling)
        return header, attempt

    def _suspect_host(self, change: Change, ruling: Ruling) -> None:
        """Stop the run when several rows, and no other, met answers that are not the Sync API's."""
        assert self._strange_rows is not None  # noqa: S101  # the caller has looked
        self._strange_rows.add(change.row)
        if len(self._strange_rows) >= _STRANGE_ROWS:
            self.stop(
                RunFault(
                    f"the host does not speak the Sync API: {ruling.error}. Check --base-url, "
                    "then resume the run"
                )
            )
            raise Closing

    def _hold(self, attempt: Attempt) -> None:
        ruling, now = attempt.ruling, self.clocks.steady()
        wait_s = ruling.wait_s
        if wait_s is not None and wait_s > self._longest_wait_s:
            back = stamp(self.clocks.wall() + wait_s)
            self.stop(
                OutageTooLong(
                    f"the server asks to wait {wait_s:,.0f} s, until {back}, which is longer than "
                    f"--max-outage {self._longest_wait_s:,.0f}s. Resume the run after that"
                )
            )
            raise Closing
        detail = ruling.error or ""
        if wait_s is not None:
            # All clients that were told the same second would return in it.
            wait_s += self.clocks.chance() * min(1.0, 0.02 * wait_s)
        if self._throttle.throttled(now, sent_at=attempt.sent_at, wait_s=wait_s, detail=detail):
            (hold,) = (h for h in self._throttle.holds(now) if h.reason == THROTTLED)
            until = stamp(self.clocks.wall() + hold.until - now)
            self.tell("throttle.held", reason=hold.reason, detail=detail, until=until)
