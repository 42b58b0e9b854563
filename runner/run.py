"""Sees a run through: works out what is left of it, carries that, and adds it up."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import anyio
import msgspec

from runner.account import add_up, index_of
from runner.api import Api
from runner.attempt import Clocks, Sender
from runner.check import changes
from runner.errors import DiskFault, Interrupted, Problem, SyncshiftError
from runner.exchange import Exchanger, Policy
from runner.log import stamp
from runner.model import Change, ErrorClass, Outcome, OutcomeKind
from runner.opening import Opened
from runner.outage import Breaker, RetryBudget
from runner.pipeline import Sink, Stop, Tally, Work, duplicate, flow, workers_for
from runner.record import Record
from runner.results import Index, Outcomes, Summary
from runner.rollout import FailureLimit, Suspicions
from runner.rows import BadRow, read
from runner.steps import Update
from runner.throttle import Throttle
from runner.turnstile import Turnstile
from runner.version import VERSION

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALED = 128


class Wait(msgspec.Struct, frozen=True):
    """One reason why nothing is sent at the moment."""

    reason: str
    detail: str
    for_s: float
    """For how long already."""
    left_s: float | None
    """How much longer; None when that is not known."""


class Live:
    """What a run is doing right now, for whoever shows it. Reading it costs the run nothing."""

    def __init__(
        self,
        *,
        opened: Opened,
        index: Index,
        tally: Tally,
        turnstile: Turnstile,
        record: Record,
        clock: Callable[[], float],
    ) -> None:
        self.rows = opened.checked.rows
        """Rows of the input."""
        self.settled_before = index.succeeded + index.failed
        """Rows that had ended when this process began."""
        self.tally = tally
        self.began_at = clock()
        self._throttle = turnstile.throttle
        self._turnstile = turnstile
        self._record = record
        self._clock = clock

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return self._throttle.in_flight

    @property
    def settled(self) -> int:
        """Rows that have ended, in this process or before."""
        return self.settled_before + sum(self.tally.counts.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since this process began to send."""
        return self._clock() - self.began_at

    def waits(self) -> tuple[Wait, ...]:
        """Return every reason why nothing is sent now."""
        now = self._clock()
        waits = [
            Wait(hold.reason, hold.detail, now - hold.since, max(0.0, hold.until - now))
            for hold in self._throttle.holds(now)
        ]
        slow_since = self._record.committer.slow_since(now)
        if slow_since is not None:
            waits.append(
                Wait("disk", "the disk has not taken the last records", now - slow_since, None)
            )
        asleep = self._turnstile.sleeping
        if not waits and asleep and not self.in_flight and not self._turnstile.waiting:
            rows = "1 row waits" if asleep == 1 else f"{asleep:,} rows wait"
            waits.append(Wait("backoff", f"{rows} before the next try", 0.0, None))
        return tuple(waits)


def limit_of(opened: Opened) -> FailureLimit:
    """Return the run's failure limit. Raises `SettingsError`."""
    return FailureLimit.parse(opened.settings.max_failures)


async def carry_out(
    opened: Opened,
    *,
    show: Callable[[Live], None],
    leave: Callable[[int], NoReturn] = os._exit,
    clocks: Clocks | None = None,
    sync: Callable[[int], None] = os.fdatasync,
) -> Summary:
    """Carry every row that is left, and return what the run adds up to.

    *show* is handed the live figures once sending begins. *leave* ends the
    process at once, with an exit code, when a second signal comes. Raises
    `JournalDamaged`, and `DiskFault` when even the account could not be written.
    """
    clocks = clocks or Clocks(time.monotonic, time.time, random.random)
    folder, settings = opened.folder, opened.settings
    limit = limit_of(opened)
    manifest = folder.write(
        msgspec.structs.replace(
            opened.manifest,
            state="running",
            started=opened.manifest.started or stamp(clocks.wall()),
            ended=None,
            reason=None,
            exit_code=None,
        )
    )
    record = Record(folder.path, clock=clocks.steady, wall_clock=clocks.wall, sync=sync)
    throttle = Throttle(
        ceiling=settings.concurrency, rate_per_s=settings.rate, chance=clocks.chance
    )
    turnstile = Turnstile(throttle, clock=clocks.steady)
    stop = Stop(turnstile)
    try:
        index = index_of(folder)
        index.check(opened.checked.rows)
        sink = Sink(
            settle=record.settle,
            durable=record.durable,
            stop=stop,
            limit=limit,
            suspicions=Suspicions(users=opened.checked.users),
            duplicates_of=opened.checked.duplicates_of,
            is_settled=index.settled,
        )
        record.tell(
            "run.opened",
            resumed=opened.resumed,
            rows=opened.checked.rows,
            settled=index.succeeded + index.failed,
            in_doubt=len(index.in_doubt()),
        )
        live = Live(
            opened=opened,
            index=index,
            tally=sink.tally,
            turnstile=turnstile,
            record=record,
            clock=clocks.steady,
        )
        show(live)
        async with (
            Api(
                base_url=settings.base_url,
                concurrency=settings.concurrency,
                timeout_s=settings.timeout_s,
                version=VERSION,
                trust_env=settings.trust_env,
            ) as api,
            anyio.create_task_group() as group,
        ):
            sender = Sender(
                transport=api,
                turnstile=turnstile,
                tokens=opened.tokens,
                breaker=Breaker(chance=clocks.chance),
                longest_wait_s=settings.max_outage_s,
                stop=stop,
                tell=record.tell,
                clocks=clocks,
            )
            exchanger = Exchanger(
                sender,
                policy=Policy(settings.max_attempts, settings.max_outage_s),
                budget=RetryBudget(concurrency=settings.concurrency),
                probe_with=opened.job.read,
            )
            step = Update(
                job=opened.job,
                exchanger=exchanger,
                turnstile=turnstile,
                record=record,
                reads=not settings.no_read,
                clock=clocks.steady,
                wall_clock=clocks.wall,
            )
            with anyio.CancelScope() as carrying:
                group.start_soon(_heed_signals, stop, carrying, settings.drain_s, leave)
                await flow(
                    _work_left(opened, index),
                    step.carry,
                    sink,
                    workers=workers_for(concurrency=settings.concurrency, rows=opened.checked.rows),
                    stop=stop,
                )
            group.cancel_scope.cancel()
        _tell_end(record, stop)
    finally:
        opened.tokens.close()
        try:
            await record.close()
        except DiskFault as fault:
            stop(fault)
    reason = stop.reason
    manifest = msgspec.structs.replace(
        manifest,
        state=_state(reason),
        ended=stamp(clocks.wall()),
        reason=None if reason is None else str(reason),
        exit_code=_exit_code(reason),
    )
    try:
        folder.write(manifest)
        summary = add_up(folder, manifest, opened.job)
        folder.write(msgspec.structs.replace(manifest, exit_code=summary.exit_code))
    except DiskFault:
        # The first fault says more than what came of it.
        raise (
            reason
            if isinstance(reason, DiskFault)
            else DiskFault(
                "the result files could not be written; the journals are whole. Make room, then "
                f"rebuild them: syncshift report {folder.run_id}"
            )
        ) from None
    finally:
        folder.unlock()
    return summary


def _tell_end(record: Record, stop: Stop) -> None:
    if not isinstance(stop.reason, DiskFault):
        record.tell(
            "run.closed",
            state=_state(stop.reason),
            reason="" if stop.reason is None else str(stop.reason),
            in_flight=stop.in_flight,
        )


def _state(reason: SyncshiftError | None) -> str:
    if reason is None:
        return "finished"
    return "interrupted" if isinstance(reason, Interrupted) else "stopped"


def _exit_code(reason: SyncshiftError | None) -> int | None:
    if isinstance(reason, Interrupted):
        return _SIGNALED + reason.signal_number
    return None if reason is None else reason.exit_code


async def _heed_signals(
    stop: Stop, carrying: anyio.CancelScope, drain_s: float, leave: Callable[[int], NoReturn]
) -> None:
    """On the first signal let what is in flight land, *drain_s* at most; on the second leave."""
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        async for number in signals:
            if stop.reason is not None:
                leave(_SIGNALED + number)
            stop(
                Interrupted(
                    f"{signal.Signals(number).name} came; what was in flight could land",
                    signal_number=number,
                )
            )
            carrying.deadline = anyio.current_time() + drain_s


def _work_left(opened: Opened, index: Index) -> Iterator[list[Work]]:
    """Yield what is still to do, in input order. Runs in the reader's thread."""
    checked = opened.checked
    intents = index.intents(index.in_doubt())
    with Outcomes(index) as outcomes:
        for block in changes(read(checked.file, checked.columns), opened.job):
            work = []
            for item in block:
                number = item.number if isinstance(item, BadRow) else item.row
                if index.settled(number):
                    continue
                if isinstance(item, BadRow):
                    work.append(Work(known=_invalid(item)))
                elif problem := checked.contradiction(item):
                    work.append(Work(known=_invalid(_bad(item, problem))))
                elif (first := checked.first_of(number)) is None:
                    work.append(Work(change=item, intent=intents.get(number)))
                elif index.settled(first):
                    known = duplicate(outcomes.of(first), row=number, line=item.line)
                    work.append(Work(known=known))
                # Otherwise it ends when the row ends that asked for the same.
            if work:
                yield work


def _bad(change: Change, problem: Problem) -> BadRow:
    return BadRow(change.row, change.line, change.sync_id, change.user_id, (problem,))


def _invalid(row: BadRow) -> Outcome:
    return Outcome(
        row=row.number,
        line=row.line,
        sync_id=row.sync_id,
        user_id=row.user_id,
        outcome=OutcomeKind.INVALID,
        error_class=ErrorClass.INVALID,
        error="; ".join(map(str, row.problems)),
    )
