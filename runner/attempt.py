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
from runner.throttle import Charge, LaneEnded, LaneOpened, Narrowed
from runner.tokens import TokenSource
from runner.turnstile import Closing, Turnstile
from runner.witness import Witness

_UNAVAILABLE = 503
_TOLD_NOTHING = Response(0, b"")
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

    async def send(
        self, request: Request, authorization: str, *, afresh: bool = False
    ) -> Response | Fault:
        """Send *request*; return the answer or what came instead. Never raises for the network.

        *afresh*: over a connection that nobody used before.
        """
        ...


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request and what came of it."""

    result: Response | Fault
    ruling: Ruling
    sent_at: float
    """Seconds on the run's steady clock."""
    sends: int = 1
    """Requests that left for the wire: two when a token was replaced, none when none could."""
    waits_alone: bool = False
    """It was turned away, and nobody but its own row has to wait because of that."""

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
        witness: Witness | None = None,
    ) -> None:
        """A server that asks to wait longer than *longest_wait_s* ends the run through *stop*.

        *witness* is told of each request.
        """
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
        self.tokens = tokens
        self._longest_wait_s = longest_wait_s
        self._witness = witness

    async def attempt(
        self,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
        *,
        approached: bool = False,
        afresh: bool = False,
    ) -> Attempt:
        """Make one attempt; a token that was not accepted is replaced once.

        *understands* tells whether a good answer speaks of what was asked, *afresh* asks for
        a connection that nobody used before.
        Raises `Closing` when the run ends before it can be sent.
        """
        used, attempt = await self.send(
            request, change, understands, approached=approached, afresh=afresh
        )
        if attempt.ruling.verdict is Verdict.AUTH:
            return await self.renewed(used, attempt, request, change, understands)
        return attempt

    async def renewed(
        self,
        used: str,
        attempt: Attempt,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
    ) -> Attempt:
        """Follow up on *attempt*, whose token *used* was refused: once, with another, if any."""
        if isinstance(attempt.result, Response):
            self.tokens.learn_server_time(attempt.result.date or "")
        self.tokens.discard(change.user_id, used)
        if not self.tokens.renewable:
            return attempt
        _, second = await self.send(request, change, understands)
        return msgspec.structs.replace(second, sends=attempt.sends + second.sends)

    async def send(
        self,
        request: Request,
        change: Change,
        understands: Callable[[Response], bool],
        *,
        approached: bool = False,
        afresh: bool = False,
        probe: bool = False,
    ) -> tuple[str, Attempt]:
        """Send *request* once; return the header used and the attempt. Raises `Closing`."""
        user = change.user_id
        if self.tokens.header(user) is None:
            await self.tokens.mint(user)
        while True:
            lane = await self.turnstile.enter(user, approached=approached, probe=probe)
            header = self.tokens.header(user)
            if header is not None:
                break
            # The wait for this turn outlived the token.
            self.turnstile.leave(lane)
            approached = False
            await self.tokens.mint(user)
        in_flight = self._throttle.in_flight
        sent_at = self.clocks.steady()
        try:
            result = await self._transport.send(request, header, afresh=afresh)
            result, understood, ruling = self._judge(request, change, result, understands)
            charge = self._learn(result, ruling, sent_at=sent_at, user=user, in_flight=in_flight)
        finally:
            # Only now: whoever leaves next does so by what this answer has taught.
            self.turnstile.leave(lane)
        sends = 1 if isinstance(result, Response) or result.sent else 0
        alone = charge is not None and charge.row_alone
        attempt = Attempt(result, ruling, sent_at, sends, alone)
        if self._witness is not None:
            row, ended_at = None if probe else change.row, self.clocks.steady()
            self._witness.attempted(
                row,
                request.method,
                ruling.verdict,
                result.status,
                began_s=sent_at,
                ended_s=ended_at,
            )
        if charge is not None:
            self._heed(charge, ruling)
        elif not ruling.outage:
            self.breaker.succeeded(sent_at)
            if ruling.final and isinstance(result, Response):
                # Even if it was refused: as good as any to see whether the server is there.
                self.known_good = change
        if self._throttle.news:
            self._tell_news()
        if ruling.verdict is Verdict.ACCEPTED:
            self._strange_rows = None
        elif not understood and self._strange_rows is not None:
            self._suspect_host(change, ruling)
        return header, attempt

    def _judge(
        self,
        request: Request,
        change: Change,
        result: Response | Fault,
        understands: Callable[[Response], bool],
    ) -> tuple[Response | Fault, bool, Ruling]:
        """Return what came of a request, whether it speaks of what was asked, and its meaning."""
        understood = not (isinstance(result, Fault) and result.kind is FaultKind.GARBLED)
        if isinstance(result, Response) and result.status in retry.GOOD:
            try:
                understood = understands(result)
            except Exception as error:  # noqa: BLE001  # a row that breaks us harms itself only
                diagnostics().error("row.broke", row=change.row, error=type(error).__name__)
                result = Fault(FaultKind.INTERNAL, type(error).__name__, result.status)
        writes, now_s = request.method != "GET", self.clocks.wall()
        ruling = retry.judge(result, writes=writes, understood=understood, now_s=now_s)
        return result, understood, ruling

    def _learn(
        self,
        result: Response | Fault,
        ruling: Ruling,
        *,
        sent_at: float,
        user: str,
        in_flight: int,
    ) -> Charge | None:
        """Have the throttle learn from an answer; return who waits if it turned us away."""
        throttle, now = self._throttle, self.clocks.steady()
        if ruling.verdict is Verdict.THROTTLED:
            wait_s = ruling.wait_s
            if wait_s is not None:
                # All clients that were told the same second would return in it.
                wait_s += self.clocks.chance() * min(1.0, 0.02 * wait_s)
            return throttle.throttled(
                now,
                sent_at=sent_at,
                user=user,
                in_flight=in_flight,
                wait_s=wait_s,
                everybody=result.status == _UNAVAILABLE,
                detail=ruling.error or "",
            )
        if ruling.outage:
            heard = throttle.lost if isinstance(result, Fault) else throttle.failed
            heard(now, sent_at=sent_at)
        else:
            told = result if isinstance(result, Response) else _TOLD_NOTHING
            throttle.answered(
                now,
                sent_at=sent_at,
                user=user,
                in_flight=in_flight,
                policy=told.ratelimit_policy,
                remaining=told.ratelimit,
            )
        return None

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

    def _heed(self, charge: Charge, ruling: Ruling) -> None:
        """Tell of a hold; stop the run if it asks for more patience than there is."""
        wait_s, wall_s = ruling.wait_s, self.clocks.wall()
        if charge.everybody and wait_s is not None and wait_s > self._longest_wait_s:
            back = stamp(wall_s + wait_s)
            self.stop(
                OutageTooLong(
                    f"the server asks to wait {wait_s:,.0f} s, until {back}, which is longer than "
                    f"--max-outage {self._longest_wait_s:,.0f}s. Resume the run after that"
                )
            )
            raise Closing
        if charge.hold is not None:
            hold = charge.hold
            until = stamp(wall_s + hold.until - self.clocks.steady())
            self.tell("throttle.held", reason=hold.reason, detail=hold.detail, until=until)

    def _tell_news(self) -> None:
        news, self._throttle.news[:] = list(self._throttle.news), []
        for one in news:
            match one:
                case Narrowed():
                    rate = round(one.rate_per_s, 3)
                    self.tell("throttle.narrowed", rate=rate, in_flight=one.in_flight, why=one.why)
                case LaneOpened():
                    self.tell("lane.opened", user=one.user)
                case LaneEnded():
                    self.tell("lane.closed", user=one.user)


def patience_over(turnstile: Turnstile, clocks: Clocks) -> OutageTooLong:
    """Say which users are turned away for longer than the run waits, and when to come back."""
    aside = turnstile.lanes.set_aside
    users = f"user {next(iter(aside))}" if len(aside) == 1 else f"{len(aside):,} users"
    back = stamp(clocks.wall() + max(aside.values()) - clocks.steady())
    return OutageTooLong(
        f"the server turns {users} away until {back}, which is longer than --max-outage; all that "
        "could go on has ended. Resume the run after that"
    )
