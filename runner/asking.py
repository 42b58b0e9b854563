"""What asks the API on behalf of one command: throttle, turnstile, sender, exchanger, put together.

Whoever sends, plans or verifies takes the same parts, so all of them are paced,
held, retried and stopped alike. A command that only looks gets a transport that
passes reads and nothing else; what it is held for goes to the diagnostics, for the
events of a run are those of its own work.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import anyio

from runner.api import Api
from runner.attempt import Clocks, Sender, Transport, patience_over
from runner.errors import Fault, FaultKind, Interrupted, SyncshiftError
from runner.exchange import Exchange, Exchanger, Policy
from runner.job import Job
from runner.log import diagnostics
from runner.model import Change, Request, Response
from runner.outage import Breaker, RetryBudget
from runner.pipeline import Stop
from runner.settings import Settings
from runner.throttle import Learned, Pacer, Throttle
from runner.tokens import TokenSource
from runner.turnstile import Closing, Turnstile
from runner.version import VERSION
from runner.witness import Witness

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALED = 128
"""Shells add this to the number of the signal that ended a command."""


class ReadsOnly:
    """A transport that passes reads; what could change anything never reaches the wire."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(
        self, request: Request, authorization: str, *, afresh: bool = False
    ) -> Response | Fault:
        """Send *request* if it is a GET without a body."""
        if request.method != "GET" or request.body is not None:
            return Fault(FaultKind.UNSENDABLE, "only reads may be sent now")
        return await self._transport.send(request, authorization, afresh=afresh)


class Guarded:
    """A transport that passes nothing once somebody else may be at work on the same rows."""

    def __init__(self, transport: Transport, guard: Callable[[], bool]) -> None:
        """*guard* tells whether a request may still leave; *transport* asks it as well."""
        self._transport = transport
        self._guard = guard

    async def send(
        self, request: Request, authorization: str, *, afresh: bool = False
    ) -> Response | Fault:
        """Send *request* if it may leave. Raises `Closing` otherwise."""
        if not self._guard():
            raise Closing
        result = await self._transport.send(request, authorization, afresh=afresh)
        if isinstance(result, Fault) and not self._guard():
            raise Closing  # whether it has left or not, its row is somebody else's by now
        return result


class Looker:
    """Looks at syncs, asking again for as long as that makes sense. Cannot change any."""

    def __init__(self, exchanger: Exchanger, job: Job) -> None:
        self._ask = exchanger.ask
        self._job = job

    async def look(self, change: Change) -> Exchange:
        """Read the sync of *change*. Raises `Closing` when the command ends first."""
        job = self._job
        return await self._ask(
            job.read(change), change, lambda answer: job.observe(answer) is not None
        )


class Asker:
    """The parts that ask the API, at one command's limits. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        clocks: Clocks,
        users: int = 1,
        start: Learned | None = None,
        pacer: Pacer | None = None,
        alone: bool = True,
        guard: Callable[[], bool] | None = None,
    ) -> None:
        """*users*: how many there are; *start* is what an earlier run has learned of the host.

        *pacer* is where a rate is kept that others share. One that is not *alone* at the run
        does not end it when all that is left to it are rows that were set aside. *guard* is
        asked before each request whether it may leave.
        """
        self._guard = guard
        self.settings = settings
        self.clocks = clocks
        self.turnstile = Turnstile(
            Throttle(
                ceiling=settings.concurrency,
                rate_per_s=settings.rate,
                chance=clocks.chance,
                start=start,
                many_users=users > 1,
                pacer=pacer,
            ),
            clock=clocks.steady,
            longest_wait_s=settings.max_outage_s,
        )
        self._retries = RetryBudget(concurrency=settings.concurrency)
        self.patience_over = partial(patience_over, self.turnstile, clocks)
        """Says why rows that were set aside are left."""
        self.stop = Stop(self.turnstile, patience_over=self.patience_over if alone else None)

    @asynccontextmanager
    async def asking(
        self,
        job: Job,
        tokens: TokenSource,
        *,
        tell: Callable[..., None],
        witness: Witness | None = None,
    ) -> AsyncIterator[Exchanger]:
        """Connect, and yield what asks; *tell* takes the events, and *witness* looks on.

        Nothing is sent after the end.
        """
        async with self._connected() as api:
            yield self._exchanger(api, job, tokens, tell, witness)

    @asynccontextmanager
    async def looking(self, job: Job, tokens: TokenSource) -> AsyncIterator[Looker]:
        """Connect, and yield what can look at syncs and change none."""
        async with self._connected() as api:
            tell = diagnostics().info
            yield Looker(self._exchanger(ReadsOnly(api), job, tokens, tell), job)

    def _connected(self) -> Api:
        settings = self.settings
        return Api(
            base_url=settings.base_url,
            # Any number: the throttle alone says how many, and that can be changed.
            concurrency=0,
            timeout_s=settings.timeout_s,
            version=VERSION,
            trust_env=settings.trust_env,
            may_leave=self._guard,
        )

    def _exchanger(
        self,
        transport: Transport,
        job: Job,
        tokens: TokenSource,
        tell: Callable[..., None],
        witness: Witness | None = None,
    ) -> Exchanger:
        settings = self.settings
        if self._guard is not None:
            transport = Guarded(transport, self._guard)
        sender = Sender(
            transport=transport,
            turnstile=self.turnstile,
            tokens=tokens,
            breaker=Breaker(chance=self.clocks.chance),
            longest_wait_s=settings.max_outage_s,
            stop=self.stop,
            tell=tell,
            clocks=self.clocks,
            witness=witness,
        )
        return Exchanger(
            sender,
            policy=Policy(settings.max_attempts, settings.max_outage_s),
            budget=self._retries,
            probe_with=job.read,
        )

    def set_ceilings(self, *, rate: float | None, concurrency: int | None) -> None:
        """Replace the ceilings that are given, from now on."""
        self.turnstile.throttle.set_ceilings(rate_per_s=rate, in_flight=concurrency)
        if concurrency is not None:
            self._retries.set_concurrency(concurrency)
        self.turnstile.nudge()

    def drain(self, carrying: anyio.CancelScope, reason: SyncshiftError) -> None:
        """Take no more rows because of *reason*; what is carried may land, for a while."""
        self.stop(reason)
        carrying.deadline = anyio.current_time() + self.settings.drain_s

    async def heed_signals(
        self, carrying: anyio.CancelScope, leave: Callable[[int], NoReturn]
    ) -> None:
        """On the first signal let what is in flight land, for a while; on the second leave."""
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            heeded = False
            async for number in signals:
                if heeded:
                    leave(SIGNALED + number)
                heeded = True
                self.drain(
                    carrying,
                    Interrupted(
                        f"{signal.Signals(number).name} came; what was in flight could land",
                        signal_number=number,
                    ),
                )
