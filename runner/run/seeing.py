"""Sees a run through: puts its parts together, heeds signals, and adds it up."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import anyio
import anyio.to_thread
import msgspec

from runner.account import add_up, index_of, limits_of
from runner.asking import SIGNALED, Asker
from runner.attempt import Clocks
from runner.errors import DiskFault, Interrupted, NoSuchRun, SyncshiftError
from runner.folder import Manifest
from runner.gatekeeper import Decide
from runner.learned import learned_of
from runner.live import Live
from runner.log import stamp
from runner.opening import Opened
from runner.page import leave_page
from runner.pipeline import Stop
from runner.record import Record
from runner.results import Summary
from runner.rig import limit_of
from runner.run.alone import carry_alone
from runner.run.leading import Crowd, lead
from runner.run.session import Session
from runner.waits import Waits
from runner.witness import Witness

if TYPE_CHECKING:
    from runner.run.field import Field

_LEAVE_S = 5.0


async def carry_out(
    opened: Opened,
    *,
    show: Callable[[Live], None],
    leave: Callable[[int], NoReturn] = os._exit,
    decide: Decide | None = None,
    clocks: Clocks | None = None,
    sync: Callable[[int], None] = os.fdatasync,
    crowd: Crowd | None = None,
    field: Field | None = None,
    witness: Witness | None = None,
) -> Summary:
    """Carry every row that is left, and return what the run adds up to.

    *show* is handed the live figures once sending begins. *leave* ends the
    process at once, with an exit code, when a second signal comes. *decide* puts a
    question to the person at the terminal; None: there is none. *crowd* are the processes
    that carry it, *field* is where workers find it; without either this process does.
    *witness* looks on at a run that is carried alone.
    Raises `JournalDamaged`, and `DiskFault` when even the account could not be written.
    """
    clocks = clocks or Clocks(time.monotonic, time.time, random.random)
    limit_of(opened)
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
    settings = opened.settings
    if crowd is not None or field is not None:
        # Each process lets its own requests land in that time, and then closes its journals.
        settings = msgspec.structs.replace(settings, drain_s=settings.drain_s + _LEAVE_S)
    asker = Asker(
        settings,
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
                    hooks = (show, decide, drain, sync, crowd, field, witness)
                    await _carry(opened, manifest, asker, *hooks)
                # In a thread, so that a second signal is still heard.
                account = partial(_account, learns=crowd is None and field is None)
                summary = await anyio.to_thread.run_sync(
                    account, opened, manifest, asker, clocks.wall()
                )
                if field is not None:
                    await anyio.to_thread.run_sync(field.hand_in, opened)
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
    show: Callable[[Live], None],
    decide: Decide | None,
    drain: Callable[[SyncshiftError], None],
    sync: Callable[[int], None],
    crowd: Crowd | None,
    field: Field | None,
    witness: Witness | None,
) -> None:
    """Send what is left. Ends with every journal on disk, or with a stop saying why not."""
    clocks, stop, rows = asker.clocks, asker.stop, opened.checked.rows
    path, wall = opened.folder.path, clocks.wall
    record = Record(path, clock=clocks.steady, wall_clock=wall, sync=sync, witness=witness)
    waits = Waits(record.tell, clock=clocks.steady, wall=clocks.wall)
    carried = False
    try:
        index = index_of(opened.folder) if crowd is None else crowd.staff.index
        index.check(rows)
        record.tell(
            "run.opened",
            resumed=opened.resumed,
            rows=rows,
            settled=index.succeeded + index.failed,
            in_doubt=len(index.in_doubt()),
            limits=limits_of(opened.settings),
        )
        session = Session(
            opened=opened,
            asker=asker,
            record=record,
            waits=waits,
            index=index,
            began=manifest.started or stamp(clocks.wall()),
            show=show,
            drain=drain,
            decide=decide,
            witness=witness,
        )
        if field is not None:
            await field.lead(session)
        else:
            await (carry_alone(session) if crowd is None else lead(session, crowd))
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


def _account(
    opened: Opened, manifest: Manifest, asker: Asker, wall_s: float, *, learns: bool
) -> Summary:
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
        learned=(asker.turnstile.throttle.learned() if learns else None) or manifest.learned,
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
