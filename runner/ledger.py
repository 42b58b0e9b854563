"""Adds up what all workers of a run tell, and says what holds for each of them from now on.

Pure: time is an argument, nothing waits here. So the same sums can be kept by a process or in
a table. What a worker may have done without our hearing of it is taken as done: a ticket that
was granted counts until its shard says that it holds fewer, whoever carries it by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from runner.engine import Held, Orders, Progress, Reason, Shard, Told, Waited
from runner.rollout import FailureLimit
from runner.throttle import THROTTLED


class Account(msgspec.Struct):
    """What is known of one shard."""

    shard: Shard
    told: Told
    granted: int = 0
    """Tickets that it may have taken."""
    held_until: float = 0.0
    held: Held | None = None


class Sums(msgspec.Struct):
    """All that a ledger knows: it can be kept, and gone on with by somebody else."""

    accounts: dict[int, Account] = {}
    """Of the shards that are not over, by their numbers."""
    counts: dict[str, int] = {}
    """What those came to that are over, as in `Told`."""
    ended: int = 0
    failed: int = 0
    stop: Reason | None = None
    left: Reason | None = None


class Ledger:
    """The sums of one run. Moments are seconds on any one steady clock."""

    def __init__(
        self, *, limit: FailureLimit, resyncs: int | None, sums: Sums | None = None
    ) -> None:
        """*resyncs*: how many may be unfinished at once; None: any number, nobody asks.

        With *sums* it goes on from there, and keeps them up to date.
        """
        self.limit = limit
        """May be replaced at any time."""
        self.resyncs = resyncs
        """Likewise, where it is a number."""
        self.sums = Sums() if sums is None else sums
        self._accounts = self.sums.accounts

    @property
    def stop(self) -> Reason | None:
        """Why the run ends; the first reason stands."""
        return self.sums.stop

    @property
    def left(self) -> Reason | None:
        """Why rows were left although the run went on to its end."""
        return self.sums.left

    def admit(self, shard: Shard) -> None:
        """Take in that *shard* is to be carried."""
        self._accounts[shard.number] = Account(shard, Told(shard=shard.number, fence=shard.fence))

    def again(self, number: int) -> Shard:
        """Take in that whoever carried a shard is gone; return it as its next worker gets it."""
        account = self._accounts[number]
        account.shard = account.shard.again()
        account.told = msgspec.structs.replace(
            account.told, in_flight=0, waits=(), events=(), is_read=False
        )
        return account.shard

    def end(self, reason: Reason) -> None:
        """End the run; the first reason stands."""
        if self.stop is None:
            self.sums.stop = reason

    def take(self, told: Told, *, now: float) -> bool:
        """Take in what a worker tells; tell whether it concerns the others at once.

        One who was given up is not listened to.
        """
        account = self._accounts.get(told.shard)
        if account is None or account.shard.fence != told.fence:
            return False
        stopped, held_until = self.stop, self._held_until(now)
        account.told = told
        account.granted = told.tickets
        account.held = told.held
        account.held_until = now + (told.held.left_s or 0.0) if told.held else 0.0
        if told.fault is not None:
            self.end(told.fault)
        if told.left is not None:
            self.sums.left = self.left or told.left
        failed, ended = self._sum("failed"), self._sum("ended")
        if self.stop is None and failed and self.limit.exceeded(failed=failed, ended=ended):
            flying = self._sum("in_flight")
            self.end(Reason.of(self.limit.reached(failed=failed, ended=ended, in_flight=flying)))
        if told.is_over:
            self._close(account)
        return self.stop is not stopped or self._held_until(now) > held_until + 0.01

    def orders(self, number: int, *, now: float) -> Orders:
        """Return what holds for the worker of shard *number*; tickets are granted by it."""
        account = self._accounts.get(number)
        tickets = None
        if self.resyncs is not None and account is not None:
            tickets = self._tickets(account)
            account.granted = max(account.told.tickets, tickets)
        held = max(
            (a for a in self._accounts.values() if a.held is not None and a is not account),
            key=lambda a: a.held_until,
            default=None,
        )
        holds: tuple[Held, ...] = ()
        if held is not None and held.held is not None and held.held_until > now:
            holds = (Held(THROTTLED, held.held.detail, held.held_until - now),)
        return Orders(stop=self.stop, holds=holds, tickets=tickets)

    @property
    def open(self) -> int:
        """Shards that are not over."""
        return len(self._accounts)

    def progress(self, *, workers: int) -> Progress:
        """Return what all of them have come to."""
        told = [account.told for account in self._accounts.values()]
        counts = Counter(self.sums.counts)
        for one in told:
            counts.update(one.counts)
        nearest = (one.looks_again_in_s for one in told if one.looks_again_in_s is not None)
        return Progress(
            counts=dict(counts),
            ended=self._sum("ended"),
            failed=self._sum("failed"),
            in_flight=self._sum("in_flight"),
            followed=self._sum("followed"),
            looks_again_in_s=min(nearest, default=None),
            waits=_one_each(wait for one in told for wait in one.waits),
            left=len(told),
            workers=workers,
        )

    def _tickets(self, account: Account) -> int:
        """Return how many tickets a shard may hold from now on: its fair part of what is needed."""
        assert self.resyncs is not None  # noqa: S101  # the caller has looked
        needs = {n: _need(a.told) for n, a in self._accounts.items()}
        told = account.told
        fair = _fair(needs, self.resyncs)[told.shard]
        if fair <= told.tickets:
            return max(told.unfinished, fair)
        others = sum(a.granted for a in self._accounts.values() if a is not account)
        return max(told.tickets, min(fair, self.resyncs - others))

    def _held_until(self, now: float) -> float:
        return max([now, *(account.held_until for account in self._accounts.values())])

    def _close(self, account: Account) -> None:
        told = account.told
        self.sums.counts = dict(Counter(self.sums.counts) + Counter(told.counts))
        self.sums.ended += told.ended
        self.sums.failed += told.failed
        del self._accounts[told.shard]

    def _sum(self, name: str) -> int:
        over = {"ended": self.sums.ended, "failed": self.sums.failed}.get(name, 0)
        told = (account.told for account in self._accounts.values())
        return over + sum(int(getattr(one, name)) for one in told)


def _need(told: Told) -> int:
    return told.unfinished + told.wanted


def _fair(needs: dict[int, int], limit: int) -> dict[int, int]:
    """Deal *limit* out: nobody gets more than it needs, and nobody less than another who does."""
    dealt, left = {}, limit
    for place, (number, need) in enumerate(sorted(needs.items(), key=lambda item: item[1])):
        dealt[number] = min(need, -(-left // (len(needs) - place)))
        left -= dealt[number]
    return dealt


def _one_each(waits: Iterable[Waited]) -> tuple[Waited, ...]:
    """Return for each reason the wait that lasts longest."""
    found: dict[str, Waited] = {}
    for wait in waits:
        known = found.get(wait.reason)
        if known is None or (known.left_s or 0.0) < (wait.left_s or 0.0):
            found[wait.reason] = wait
    return tuple(found.values())
