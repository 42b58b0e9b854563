"""Sees a run through: puts its parts together, heeds signals, and adds it up."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import NoReturn

import anyio
import anyio.to_thread
import msgspec

from runner.account import add_up, index_of
from runner.api import Api
from runner.attempt import Clocks, Sender, Transport
from runner.errors import DiskFault, Interrupted, SyncshiftError
from runner.exchange import Exchanger, Policy
from runner.folder import Manifest
from runner.live import Live
from runner.log import stamp
from runner.opening import Opened
from runner.outage import Breaker, RetryBudget
from runner.pipeline import Sink, Stop, flow, workers_for
from runner.record import Record
from runner.remaining import work_left
from runner.results import Index, Summary
from runner.rollout import FailureLimit, Suspicions
from runner.steps import Update
from runner.throttle import Throttle
from runner.turnstile import Turnstile
from runner.version import VERSION

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALED = 128


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
    settings = opened.settings
    limit = limit_of(opened)
    manifest = opened.folder.write(
        msgspec.structs.replace(
            opened.manifest,
            state="running",
            started=opened.manifest.started or stamp(clocks.wall()),
            ended=None,
            reason=None,
            exit_code=None,
        )
    )
    throttle = Throttle(
        ceiling=settings.concurrency, rate_per_s=settings.rate, chance=clocks.chance
    )
    turnstile = Turnstile(throttle, clock=clocks.steady)
    stop = Stop(turnstile)
    refusal: SyncshiftError | None = None
    try:
        async with anyio.create_task_group() as group:
            carrying = anyio.CancelScope()
            group.start_soon(_heed_signals, stop, carrying, settings.drain_s, leave)
            try:
                with carrying:
                    await _carry(opened, turnstile, stop, limit, show, clocks, sync)
                # In a thread, so that a second signal is still heard.
                summary = await anyio.to_thread.run_sync(
                    _account, opened, manifest, stop.reason, clocks.wall()
                )
            except SyncshiftError as error:
                refusal = error
            group.cancel_scope.cancel()
    finally:
        opened.folder.unlock()
    if refusal is not None:
        raise refusal
    return summary


async def _carry(
    opened: Opened,
    turnstile: Turnstile,
    stop: Stop,
    limit: FailureLimit,
    show: Callable[[Live], None],
    clocks: Clocks,
    sync: Callable[[int], None],
) -> None:
    """Send what is left. Ends with every journal on disk, or with *stop* saying why not."""
    record = Record(opened.folder.path, clock=clocks.steady, wall_clock=clocks.wall, sync=sync)
    carried = False
    try:
        index = index_of(opened.folder)
        index.check(opened.checked.rows)
        settled = index.succeeded + index.failed
        sink = _sink(opened, record, stop, limit, index)
        record.tell(
            "run.opened",
            resumed=opened.resumed,
            rows=opened.checked.rows,
            settled=settled,
            in_doubt=len(index.in_doubt()),
        )
        show(
            Live(
                rows=opened.checked.rows,
                settled_before=settled,
                tally=sink.tally,
                turnstile=turnstile,
                record=record,
                clock=clocks.steady,
            )
        )
        settings = opened.settings
        async with Api(
            base_url=settings.base_url,
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
            version=VERSION,
            trust_env=settings.trust_env,
        ) as api:
            await flow(
                work_left(opened, index),
                _step(opened, api, record, turnstile, stop, clocks).carry,
                sink,
                workers=workers_for(concurrency=settings.concurrency, rows=opened.checked.rows),
                stop=stop,
            )
        carried = True
    finally:
        if carried or stop.reason is not None:
            _tell_end(record, stop)
        opened.tokens.close()
        # Whoever cancels the run still gets on record what was answered.
        with anyio.CancelScope(shield=True):
            try:
                await record.close()
            except DiskFault as fault:
                stop(fault)


def _sink(opened: Opened, record: Record, stop: Stop, limit: FailureLimit, index: Index) -> Sink:
    return Sink(
        settle=record.settle,
        commits=record.committer,
        stop=stop,
        limit=limit,
        suspicions=Suspicions(users=opened.checked.users),
        duplicates_of=opened.checked.duplicates_of,
        is_settled=index.settled,
    )


def _step(
    opened: Opened,
    transport: Transport,
    record: Record,
    turnstile: Turnstile,
    stop: Stop,
    clocks: Clocks,
) -> Update:
    settings = opened.settings
    sender = Sender(
        transport=transport,
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
    return Update(
        job=opened.job,
        exchanger=exchanger,
        turnstile=turnstile,
        record=record,
        reads=not settings.no_read,
        clock=clocks.steady,
        wall_clock=clocks.wall,
    )


def _account(
    opened: Opened, manifest: Manifest, reason: SyncshiftError | None, wall_s: float
) -> Summary:
    """Write down how the run ended, and what it adds up to. Raises `DiskFault`."""
    folder = opened.folder
    if reason is not None and not isinstance(reason, DiskFault):
        index = index_of(folder)
        if index.succeeded + index.failed == opened.checked.rows:
            reason = None  # it came when there was nothing left to stop
    manifest = msgspec.structs.replace(
        manifest,
        state=_state(reason),
        ended=stamp(wall_s),
        reason=None if reason is None else str(reason),
        exit_code=_exit_code(reason),
    )
    try:
        folder.write(manifest)
        summary = add_up(folder, manifest, opened.job)
        folder.write(msgspec.structs.replace(manifest, exit_code=summary.exit_code))
    except DiskFault:
        if isinstance(reason, DiskFault):
            # The first fault says more than what came of it.
            raise reason from None
        raise DiskFault(
            "the result files could not be written; the journals are whole. Make room, then "
            f"rebuild them: syncshift report {folder.run_id}"
        ) from None
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
        heeded = False
        async for number in signals:
            if heeded:
                leave(_SIGNALED + number)
            heeded = True
            stop(
                Interrupted(
                    f"{signal.Signals(number).name} came; what was in flight could land",
                    signal_number=number,
                )
            )
            carrying.deadline = anyio.current_time() + drain_s
