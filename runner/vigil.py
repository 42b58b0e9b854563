"""Keeps watch over a server that is down: holds everybody, and sees when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runner.attempt import Attempt, Sender
from runner.errors import Fault, FaultKind, OutageTooLong, RunFault, SyncshiftError
from runner.log import diagnostics
from runner.model import Change, Request
from runner.outage import RetryBudget
from runner.throttle import OUTAGE
from runner.turnstile import Closing

_NEVER_REACHED_S = 30.0
"""A host that never answered is given no more than this: it is probably the wrong one."""


class Vigil:
    """One for a run, whoever finds the server down. Belongs to one event loop."""

    def __init__(
        self,
        sender: Sender,
        *,
        budget: RetryBudget,
        longest_s: float,
        probe_with: Callable[[Change], Request],
    ) -> None:
        """*longest_s*: how long to wait; *probe_with* makes the read that asks the server."""
        self._sender = sender
        self._budget = budget
        self._longest_s = longest_s
        self._probe_with = probe_with
        self._judged = asyncio.Event()
        self._judged.set()

    async def wait_out(self, change: Change, attempt: Attempt) -> None:
        """Hold everybody, and ask for one sync now and then, until the server answers again.

        Raises `Closing`, after having stopped the run, when that takes too long.
        """
        sender, breaker = self._sender, self._sender.breaker
        throttle, now = sender.turnstile.throttle, sender.clocks.steady
        target = sender.known_good or change
        probe = self._probe_with(target)
        patience_s = self._patience_s(attempt)
        detail = attempt.ruling.error or ""
        opened_at = breaker.opened_at or now()
        give_up_at = opened_at + patience_s
        last = attempt
        sender.tell("throttle.held", reason=OUTAGE, detail=detail, until=None)
        self._judged.clear()
        try:
            while True:
                next_at = min(breaker.next_probe_at, give_up_at)
                throttle.hold(OUTAGE, now=now(), until=next_at, detail=detail)
                await sender.turnstile.sleep(next_at - now())
                _, last = await sender.send(probe, target, lambda _: True, probe=True)
                answered = not last.ruling.outage
                diagnostics().debug("outage.probed", answered=answered, http_status=last.status)
                if breaker.probed(now(), answered=answered):
                    break
                if not answered and (now() >= give_up_at or self.names_no_host(last)):
                    sender.stop(self._too_long(last, waited_s=now() - opened_at))
                    raise Closing
        finally:
            self._judged.set()
            throttle.lift(OUTAGE, now=now())
            sender.turnstile.nudge()
        # What was spent on a server that was away says nothing about one that is back.
        self._budget.low_since = None
        sender.tell("throttle.released", reason=OUTAGE, held_s=round(now() - opened_at, 3))

    async def verdict(self) -> None:
        """Return once it is known whether the server is down. Raises `Closing`."""
        await self._judged.wait()
        if self._sender.turnstile.closed:
            raise Closing

    def names_no_host(self, attempt: Attempt) -> bool:
        """Tell whether --base-url has no address, and never had one during this run."""
        return (
            isinstance(attempt.result, Fault)
            and attempt.result.kind is FaultKind.DNS
            and not self._sender.breaker.ever_succeeded
        )

    def _patience_s(self, attempt: Attempt) -> float:
        if self._sender.breaker.ever_succeeded or attempt.status is not None:
            return self._longest_s
        return min(self._longest_s, _NEVER_REACHED_S)

    def _too_long(self, last: Attempt, *, waited_s: float) -> SyncshiftError:
        said = last.ruling.error or ""
        if self._sender.breaker.ever_succeeded or last.status is not None:
            return OutageTooLong(
                f"the server has been down for {waited_s:,.0f} s (--max-outage): {said}. "
                "Resume the run when it is back"
            )
        return RunFault(
            f"the host did not answer once in {waited_s:,.0f} s: {said}. "
            "Check --base-url, then resume the run"
        )
