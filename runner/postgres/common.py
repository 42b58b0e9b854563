"""What all workers of a run share, as one value that lies in the run's row.

Whoever reads it to change it holds the row; so each sees what the one before has left. Pure:
moments are seconds of the database's clock, which is the one clock that all of them have.
"""

from __future__ import annotations

import msgspec

from runner.engine import Held, Orders, Reason, Shard, Told
from runner.ledger import Ledger, Sums
from runner.rollout import FailureLimit

SILENT_S = 5.0
"""Whoever has not been heard of for so long is no worker of the run any more."""
LEADERLESS_S = 10.0
"""So long a run goes on by itself. Then nobody sends before somebody leads it again."""
LEADER = "leader"


class Member(msgspec.Struct):
    """One worker of the run."""

    seen: float
    granted: int
    """Requests that it may have in flight."""


class Standing(msgspec.Struct, frozen=True):
    """Why nobody moves, as the one who leads has it."""

    reason: str
    detail: str
    until: float | None


class Common(msgspec.Struct, kw_only=True):
    """The state of one session of a run."""

    concurrency: int
    rate: float | None
    max_failures: str
    resyncs: int | None
    before: dict[str, int] = {}
    """Rows that had ended when it began, by outcome."""
    began: str = ""
    """When the run, or its wave, began to send."""
    sums: Sums = msgspec.field(default_factory=Sums)
    crew: dict[str, Member] = {}
    standing: tuple[Standing, ...] = ()

    @property
    def ledger(self) -> Ledger:
        """The sums, and what follows from them."""
        limit = FailureLimit.parse(self.max_failures)
        return Ledger(limit=limit, resyncs=self.resyncs, sums=self.sums)

    def begin(self, shard: Shard) -> None:
        """Take in that a worker has begun with *shard*, or with what another has left of it."""
        if shard.number in self.sums.accounts:
            self.ledger.again(shard.number)
            self.sums.accounts[shard.number].shard = shard
        else:
            self.ledger.admit(shard)

    def take(self, worker: str, told: Told, *, now: float) -> bool:
        """Take in what a worker tells; tell whether it concerns the others at once."""
        self.crew.setdefault(worker, Member(now, 0)).seen = now
        return self.ledger.take(told, now=now)

    def orders(self, worker: str, shard: int, *, now: float, led_s: float | None) -> Orders:
        """Return what holds for a worker; *led_s* ago somebody who leads was heard of."""
        orders = self.ledger.orders(shard, now=now)
        held = [_held(one, now) for one in self.standing if one.until is None or one.until > now]
        if led_s is None or led_s > LEADERLESS_S:
            held.append(
                Held(LEADER, "nobody leads the run any more; resume it, and it goes on at once")
            )
        return msgspec.structs.replace(
            orders,
            holds=(*orders.holds, *held),
            concurrency=self._share(worker, now),
            rate=self.rate,
        )

    def end(self, reason: Reason) -> None:
        """End the run; the first reason stands."""
        self.ledger.end(reason)

    def join(self, worker: str, *, now: float) -> tuple[int, bool]:
        """Have *worker* be one of the crew; return its share, and whether others have let go."""
        self.crew.setdefault(worker, Member(now, 0)).seen = now
        share = self._share(worker, now)
        return share, share >= self.concurrency // len(self.crew)

    def there(self, now: float) -> int:
        """Return how many workers carry something."""
        return sum(member.seen > now - SILENT_S for member in self.crew.values())

    def _share(self, worker: str, now: float) -> int:
        """Return how many requests a worker may have in flight: its part, once others let go."""
        for name, member in list(self.crew.items()):
            if member.seen <= now - SILENT_S:
                del self.crew[name]
        members = sorted(self.crew)
        mine = self.crew.get(worker)
        if mine is None:
            return 1
        share, more = divmod(self.concurrency, len(members))
        fair = share + (members.index(worker) < more)
        others = sum(member.granted for name, member in self.crew.items() if name != worker)
        mine.granted = max(1, min(fair, self.concurrency - others))
        return mine.granted


class HostLine(msgspec.Struct, kw_only=True):
    """Departures at one host, over all workers and runs. Lanes go to workers, see `Line`."""

    rate_per_s: float
    lanes: list[float]
    workers: dict[str, float] = {}
    """By lane; when each was last heard of."""
    rates: dict[str, tuple[float, float]] = {}
    """Of each run that sends there: its rate, and when it last asked."""


def encode(value: msgspec.Struct) -> bytes:
    """Return *value* as it lies in the database."""
    return msgspec.msgpack.encode(value)


decode_common = msgspec.msgpack.Decoder(Common).decode
decode_line = msgspec.msgpack.Decoder(HostLine).decode


def _held(standing: Standing, now: float) -> Held:
    left_s = None if standing.until is None else standing.until - now
    return Held(standing.reason, standing.detail, left_s)
