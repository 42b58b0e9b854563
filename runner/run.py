"""Sees a run through: puts its parts together, heeds signals, and adds it up."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import anyio
import anyio.to_thread
import msgspec

from runner.account import add_up, index_of, limits_of
from runner.asking import SIGNALED, Asker, Looker
from runner.attempt import Clocks
from runner.budget import Budget
from runner.crew import Crew
from runner.errors import DiskFault, Interrupted, NoSuchRun, SyncshiftError
from runner.exchange import Exchanger
from runner.folder import Manifest
from runner.following import Follower
from runner.gatekeeper import Decide, keeper_of
from runner.learned import learned_of
from runner.lineup import Lineup
from runner.live import Live
from runner.log import stamp
from runner.model import OutcomeKind
from runner.opening import Opened
from runner.page import leave_page
from runner.pipeline import Sink, Stop, workers_for
from runner.record import Record
from runner.relay import Relay
from runner.results import Index, Summary
from runner.rollout import FailureLimit, Suspicions
from runner.steering import helm
from runner.steps import Update
from runner.waits import Waits


def limit_of(opened: Opened) -> FailureLimit:
    """Return the run's failure limit. Raises `SettingsError`."""
    return FailureLimit.parse(opened.settings.max_failures)


async def carry_out(
    opened: Opened,
    *,
    show: Callable[[Live], None],
    leave: Callable[[int], NoReturn] = os._exit,
    decide: Decide | None = None,
    clocks: Clocks | None = None,
    sync: Callable[[int], None] = os.fdatasync,
) -> Summary:
    """Carry every row that is left, and return what the run adds up to.

    *show* is handed the live figures once sending begins. *leave* ends the
    process at once, with an exit code, when a second signal comes. *decide* puts a
    question to the person at the terminal; None: there is none. Raises
    `JournalDamaged`, and `DiskFault` when even the account could not be written.
    """
    clocks = clocks or Clocks(time.monotonic, time.time, random.random)
    limit = limit_of(opened)
    manifest = opened.folder.write(
        msgspec.structs.replace(
            opened.manifest,
            state="running",
            started=opened.manifest.started or stamp(clocks.wall()),
            # On disk before the first request, so that no plan is carried out twice.
            applied=_applied(opened.manifest, clocks.wall()),
            ended=None,
            reason=None,
            exit_code=None,
        )
    )
    asker = Asker(
        opened.settings,
        clocks=clocks,
        users=opened.checked.users,
        start=learned_of(opened.settings.base_url, opened.folder.path.parent),
    )
    refusal: SyncshiftError | None = None
    try:
        async with anyio.create_task_group() as group:
            carrying = anyio.CancelScope()
            group.start_soon(asker.heed_signals, carrying, leave)
            try:
                with carrying:
                    drain = partial(asker.drain, carrying)
                    await _carry(opened, manifest, asker, limit, show, decide, drain, sync)
                # In a thread, so that a second signal is still heard.
                summary = await anyio.to_thread.run_sync(
                    _account, opened, manifest, asker, clocks.wall()
                )
            except SyncshiftError as error:
                refusal = error
            group.cancel_scope.cancel()
    finally:
        opened.folder.unlock()
    if refusal is not None:
        raise refusal
    return summary


def _applied(manifest: Manifest, wall_s: float) -> str | None:
    return manifest.applied or (stamp(wall_s) if manifest.is_plan else None)


async def _carry(
    opened: Opened,
    manifest: Manifest,
    asker: Asker,
    limit: FailureLimit,
    show: Callable[[Live], None],
    decide: Decide | None,
    drain: Callable[[SyncshiftError], None],
    sync: Callable[[int], None],
) -> None:
    """Send what is left. Ends with every journal on disk, or with a stop saying why not."""
    clocks, stop, rows = asker.clocks, asker.stop, opened.checked.rows
    record = Record(opened.folder.path, clock=clocks.steady, wall_clock=clocks.wall, sync=sync)
    waits = Waits(record.tell, clock=clocks.steady, wall=clocks.wall)
    carried = False
    try:
        index = index_of(opened.folder)
        index.check(rows)
        settled = index.succeeded + index.failed
        sink = _sink(opened, record, stop, limit, index)
        record.tell(
            "run.opened",
            resumed=opened.resumed,
            rows=rows,
            settled=settled,
            in_doubt=len(index.in_doubt()),
            limits=limits_of(opened.settings),
        )
        live = Live(
            rows=rows,
            settled_before=settled,
            tally=sink.tally,
            turnstile=asker.turnstile,
            committer=record.committer,
            clock=clocks.steady,
            waits=waits,
        )
        show(live)
        async with asker.asking(opened.job, opened.tokens, tell=record.tell) as exchanger:
            lineup = Lineup(opened, index, clocks=clocks, ended=lambda: stop.reason is not None)
            update = _update(opened, asker, exchanger, record, lineup.budget)
            follower = _follower(opened, asker, exchanger, record, sink, update, lineup.budget)
            keeper = keeper_of(
                opened,
                Looker(exchanger, opened.job).look,
                record=record,
                waits=waits,
                stop=stop,
                turnstile=asker.turnstile,
                clocks=clocks,
                pardoned=_pardoned(opened),
                decide=decide,
            )
            crew = Crew(workers_for(concurrency=opened.settings.concurrency, rows=rows))
            relay = Relay(
                opened=opened,
                index=index,
                line_up=lineup.line_up,
                update=update,
                follower=follower,
                sink=sink,
                record=record,
                stop=stop,
                waits=waits,
                keeper=keeper,
                crew=crew,
                turnstile=asker.turnstile,
                wall_clock=clocks.wall,
            )
            async with helm(
                opened,
                asker,
                live=live,
                waits=waits,
                sink=sink,
                budget=lineup.budget,
                crew=crew,
                drain=drain,
                approve=keeper.approve,
                tell=record.tell,
            ):
                await relay.carry(manifest.started or stamp(clocks.wall()))
        carried = True
    finally:
        waits.close()
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
        pardoned=_pardoned(opened),
        strict=opened.settings.strict,
    )


def _pardoned(opened: Opened) -> frozenset[OutcomeKind]:
    # Whoever changed a sync since has the last word; that is no sign of a fault.
    return frozenset({OutcomeKind.CONFLICTED} if opened.manifest.undoes else ())


def _update(
    opened: Opened, asker: Asker, exchanger: Exchanger, record: Record, budget: Budget | None
) -> Update:
    settings, clocks = opened.settings, asker.clocks
    return Update(
        job=opened.job,
        exchanger=exchanger,
        turnstile=asker.turnstile,
        record=record,
        reads=not settings.no_read,
        until=settings.until,
        budgeted=budget is not None,
        clock=clocks.steady,
        wall_clock=clocks.wall,
    )


def _follower(
    opened: Opened,
    asker: Asker,
    exchanger: Exchanger,
    record: Record,
    sink: Sink,
    update: Update,
    budget: Budget | None,
) -> Follower:
    settings, clocks = opened.settings, asker.clocks
    return Follower(
        update,
        job=opened.job,
        exchanger=exchanger,
        turnstile=asker.turnstile,
        record=record,
        sink=sink,
        stop=asker.stop,
        clocks=clocks,
        confirm_timeout_s=settings.confirm_timeout_s,
        resync_timeout_s=settings.resync_timeout_s,
        budget=budget,
    )


def _account(opened: Opened, manifest: Manifest, asker: Asker, wall_s: float) -> Summary:
    """Write down how the run ended, and what it adds up to. Raises `DiskFault`."""
    folder, reason = opened.folder, asker.stop.reason
    if reason is not None and not isinstance(reason, DiskFault):
        index = index_of(folder)
        if index.succeeded + index.failed == opened.checked.rows:
            reason = None  # it came when there was nothing left to stop
    with contextlib.suppress(NoSuchRun):
        manifest = folder.read()  # gates were judged since it began, and settings may be others
    manifest = msgspec.structs.replace(
        manifest,
        state=_state(reason),
        ended=stamp(wall_s),
        reason=None if reason is None else str(reason),
        exit_code=_exit_code(reason),
        learned=asker.turnstile.throttle.learned() or manifest.learned,
    )
    try:
        folder.write(manifest)
        summary = add_up(folder, manifest, opened.job)
        manifest = folder.write(msgspec.structs.replace(manifest, exit_code=summary.exit_code))
        leave_page(folder, manifest, opened.job, summary)
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
        return SIGNALED + reason.signal_number
    return None if reason is None else reason.exit_code
