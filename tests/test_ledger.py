"""The sums of all workers: who may start re-syncs, who holds whom, and when all must stop."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runner.engine import Held, Orders, Reason, Shard, Told
from runner.errors import Interrupted, LimitReached, OutageTooLong, RunFault
from runner.ledger import Ledger
from runner.rollout import FailureLimit


def _ledger(*numbers: int, limit: str = "10%", resyncs: int | None = None) -> Ledger:
    ledger = Ledger(limit=FailureLimit.parse(limit), resyncs=resyncs)
    for number in numbers:
        ledger.admit(Shard(number, number * 100, number * 100 + 99))
    return ledger


def _tell(ledger: Ledger, number: int, *, now: float = 0.0, fence: int = 1, **told: Any) -> Orders:
    ledger.take(Told(shard=number, fence=fence, **told), now=now)
    return ledger.orders(number, now=now)


class _Worker:
    """Has re-syncs under way, as many as it may; its word or the answer to it may be lost."""

    def __init__(self, number: int) -> None:
        self.number, self.fence = number, 1
        self.limit = self.unfinished = 0

    def word(self, wanted: int) -> Told:
        limit = max(self.limit, self.unfinished)
        return Told(
            shard=self.number,
            fence=self.fence,
            tickets=limit,
            unfinished=self.unfinished,
            wanted=wanted,
        )


@given(
    limit=st.integers(1, 12),
    steps=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["tell", "start", "end", "die", "unheard"]),
            st.integers(0, 20),
        ),
        max_size=200,
    ),
)
def test_unfinished_resyncs_are_never_more_than_the_budget(
    limit: int, steps: list[tuple[int, str, int]]
) -> None:
    """Whoever tells, starts, ends or dies, whatever is lost: the sum stays within the limit."""
    ledger = _ledger(0, 1, 2, 3, resyncs=limit)
    workers = [_Worker(number) for number in range(4)]
    for number, what, many in steps:
        worker = workers[number]
        if what in {"tell", "unheard"}:
            ledger.take(worker.word(many), now=0.0)
            orders = ledger.orders(number, now=0.0)
            if what == "unheard":
                # The answer never comes, for the worker dies; its re-syncs go on.
                worker.fence = ledger.again(number).fence
                worker.limit = 0
            else:
                worker.limit = orders.tickets or 0
        elif what == "start":
            worker.unfinished += max(0, min(many, worker.limit - worker.unfinished))
        elif what == "end":
            worker.unfinished -= min(many, worker.unfinished)
        else:
            worker.fence = ledger.again(number).fence
            worker.limit = 0
        assert sum(worker.unfinished for worker in workers) <= limit


def test_who_needs_tickets_gets_them_and_nobody_keeps_what_it_does_not_need() -> None:
    """One alone has the whole budget; when another wants some, it gets half as they come free."""
    ledger = _ledger(1, 2, resyncs=10)

    assert _tell(ledger, 1, wanted=50).tickets == 10
    assert _tell(ledger, 1, tickets=10, unfinished=10, wanted=40).tickets == 10
    assert _tell(ledger, 2, wanted=50).tickets == 0
    assert _tell(ledger, 1, tickets=10, unfinished=10, wanted=40).tickets == 10
    assert _tell(ledger, 1, tickets=10, unfinished=7, wanted=40).tickets == 7
    # Only its own word shows that it acts by that.
    assert _tell(ledger, 2, wanted=50).tickets == 0
    assert _tell(ledger, 1, tickets=7, unfinished=7, wanted=40).tickets == 7
    assert _tell(ledger, 2, wanted=50).tickets == 3
    assert _tell(ledger, 1, tickets=7, unfinished=2, wanted=40).tickets == 5
    assert _tell(ledger, 1, tickets=5, unfinished=5, wanted=37).tickets == 5
    assert _tell(ledger, 2, tickets=3, unfinished=3, wanted=40).tickets == 5


def test_a_hold_is_that_of_the_others_until_it_is_over() -> None:
    """Whoever met it is not told of it; it ends by itself, also when that worker has died."""
    ledger = _ledger(1, 2)
    held = Held("throttled", "429 with Retry-After: 5", 5.0)
    assert ledger.take(Told(shard=1, fence=1, held=held), now=100.0)

    assert ledger.orders(1, now=101.0).holds == ()
    (seen,) = ledger.orders(2, now=101.0).holds
    assert (seen.reason, seen.left_s) == ("throttled", 4.0)
    ledger.again(1)
    assert len(ledger.orders(2, now=104.9).holds) == 1
    assert ledger.orders(2, now=105.1).holds == ()
    # What is told back is no news, or it would go on for ever.
    assert not ledger.take(Told(shard=2, fence=1, held=Held("throttled", "", 0.5)), now=104.5)


def test_the_failure_limit_counts_the_sums() -> None:
    """No shard has failed too often by itself; those that are over count as well."""
    ledger = _ledger(1, 2, limit="5")
    _tell(ledger, 1, ended=50, failed=3, is_over=True, counts={"updated": 47, "rejected": 3})
    assert _tell(ledger, 2, ended=20, failed=2).stop is None

    stop = _tell(ledger, 2, ended=21, failed=3, in_flight=4).stop

    assert stop is not None
    assert isinstance(stop.error(), LimitReached)
    assert "6 rows failed" in stop.said
    assert "4 requests were in flight" in stop.said


def test_who_was_given_up_is_not_listened_to() -> None:
    """The word of an earlier fence changes nothing, and the next worker goes on with the sums."""
    ledger = _ledger(1)
    _tell(ledger, 1, ended=5, counts={"updated": 5}, in_flight=3)
    shard = ledger.again(1)

    _tell(ledger, 1, ended=9, counts={"updated": 9}, fault=Reason.of(RunFault("late")))

    assert shard.fence == 2
    assert ledger.stop is None
    progress = ledger.progress(workers=1)
    assert (progress.ended, progress.in_flight, progress.left) == (5, 0, 1)


def test_reasons_survive_being_sent() -> None:
    """An error comes out as it went in; one that this version does not know is the run's."""
    again = Reason.of(Interrupted("SIGTERM came", signal_number=15)).error()
    assert isinstance(again, Interrupted)
    assert again.signal_number == 15
    assert isinstance(Reason.of(OutageTooLong("away")).error(), OutageTooLong)
    for strange in ("NoSuchThing", "FaultKind", "msgspec"):
        assert type(Reason(strange, "said").error()) is RunFault
