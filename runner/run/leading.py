"""Leads a run whose rows several processes carry: deals them out, judges gates, adds up.

Shards are submitted wave by wave. Behind each wave their journals become part of the run's own,
so that a gate, and whoever looks at the run later, finds them as if one process had carried all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from runner.account import index_of
from runner.asking import Looker
from runner.engine import Held, Shard
from runner.errors import DiskFault, SettingsError
from runner.gatekeeper import Gatekeeper, go_past, keeper_of
from runner.journal import merge
from runner.ledger import Ledger
from runner.local import Nursery, Processes, Staff, employ
from runner.model import Proof
from runner.opening import Opened
from runner.pipeline import Tally
from runner.results import Index
from runner.rig import limit_of, pardoned_in, update_of
from runner.rollout import FailureLimit
from runner.run.mirror import LiveOfMany, Mirror
from runner.run.session import Session
from runner.settings import Settings
from runner.slicing import Slices, Wave, slice_up
from runner.standstill import HEALTH, PAUSE, START, WINDOW
from runner.steering import Lever, helm
from runner.steps import Update
from runner.throttle import Throttle
from runner.turnstile import Closing

_SHARDS_EACH = 4
"""So many for each process: the last ones end at about the same time."""
_FEWEST_ROWS = 50
"""In a shard, as long as there is one for each process."""
_OURS = (PAUSE, START, WINDOW, HEALTH)
_LOOK_EVERY_S = 0.1


class Crowd(msgspec.Struct, frozen=True):
    """The processes that carry a run, before any is there."""

    staff: Staff
    nursery: Nursery


def gather(opened: Opened, run: Callable[[Callable[[], Awaitable[None]]], None]) -> Crowd | None:
    """Return what carries *opened* in several processes; None: one is what was asked for.

    *run* sees a coroutine through in an event loop. Call it before there is one, or a thread.
    """
    settings = opened.settings
    if settings.processes == 1 or not opened.left:
        return None
    # Each may have one request in flight at least.
    many = min(settings.processes, settings.concurrency, opened.left)
    staff = Staff(opened, slice_up(opened), index_of(opened.folder), many)
    return Crowd(staff, employ(staff, run))


def may_be_shared(settings: Settings, *, watched: bool = False) -> None:
    """Raise `SettingsError` for what cannot be had with several processes.

    *watched*: somebody looks on at requests and outcomes.
    """
    if settings.processes == 1:
        return
    if watched:
        raise SettingsError(
            f"--metrics-port and --traces cannot be had with --processes {settings.processes}: "
            "they look into one process; leave one of the two out"
        )
    if settings.at is not None:
        raise SettingsError(
            f"--at cannot be had with --processes {settings.processes}: each process has rows of "
            "some zones only, and would wait for them; leave one of the two out"
        )
    for name, given in (
        ("strict", settings.strict),
        ("max-resyncs-per", bool(settings.max_resyncs_per)),
    ):
        if given:
            raise SettingsError(
                f"--{name} cannot be had with --processes {settings.processes}: no process knows "
                "what the others have under way; leave one of the two out"
            )


async def lead(session: Session, crowd: Crowd) -> None:
    """Have what is left carried. Ends early with the reason in the stop."""
    opened, asker, record = session.opened, session.asker, session.record
    settings, clocks, stop = opened.settings, asker.clocks, asker.stop
    ledger = Ledger(limit=limit_of(opened), resyncs=settings.resync_budget)
    tally = Tally(counts={})
    mirror = Mirror(ledger, tally, session.waits, stop, clocks=clocks, tell=record.tell)
    processes = Processes(
        crowd.nursery,
        ledger,
        processes=crowd.staff.processes,
        concurrency=settings.concurrency,
        rate=settings.rate,
        clock=clocks.steady,
        standing=lambda now: _standing(asker.turnstile.throttle, now),
        heed=mirror.heed,
        lost=mirror.lost,
    )
    live = LiveOfMany(
        rows=opened.checked.rows,
        settled_before=session.index.succeeded + session.index.failed,
        tally=tally,
        turnstile=asker.turnstile,
        committer=record.committer,
        clock=clocks.steady,
        waits=session.waits,
        seen=mirror,
    )
    session.show(live)
    async with asker.asking(opened.job, opened.tokens, tell=record.tell) as exchanger:
        update = update_of(
            opened,
            exchanger,
            record,
            turnstile=asker.turnstile,
            clocks=clocks,
            budgeted=settings.resync_budget is not None,
        )
        keeper = keeper_of(
            opened,
            Looker(exchanger, opened.job).look,
            record=record,
            waits=session.waits,
            stop=stop,
            turnstile=asker.turnstile,
            clocks=clocks,
            pardoned=pardoned_in(opened),
            decide=session.decide,
        )
        try:
            async with (
                helm(
                    opened,
                    asker,
                    live=live,
                    waits=session.waits,
                    levers=_levers(session, ledger, processes),
                    drain=session.drain,
                    approve=keeper.approve,
                    tell=record.tell,
                ),
                anyio.create_task_group() as group,
            ):
                await group.start(processes.run)
                group.start_soon(mirror.run, processes)
                await _Conductor(session, crowd.staff, processes, keeper, update).carry()
                mirror.look(processes)
                group.cancel_scope.cancel()
        finally:
            # Nobody writes to them any more, whatever ended this.
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(merge, opened.folder.path)
                except DiskFault as fault:
                    stop(fault)
    if ledger.left is not None:
        stop(ledger.left.error())


class _Conductor:
    """Submits shards, one wave after the other, and has gates judged in between."""

    def __init__(
        self,
        session: Session,
        staff: Staff,
        processes: Processes,
        keeper: Gatekeeper,
        update: Update,
    ) -> None:
        self._session = session
        self._opened = session.opened
        self._stop = session.asker.stop
        self._index = staff.index
        self._slices = staff.slices
        self._processes = processes
        self._keeper = keeper
        self._update = update
        self._number = 0

    async def carry(self) -> None:
        """Have every row carried that is left, or those in front of a gate nobody passes."""
        opened, slices, session = self._opened, self._slices, self._session
        if opened.past_gate is not None:
            wall_s = session.asker.clocks.wall()
            go_past(opened.folder, opened.past_gate, session.record, wall_s=wall_s)
        if slices is None:
            await self._flow(None, session.began)
            return
        manifest, began = opened.folder.read(), session.began
        if manifest.wave_rows != slices.sizes:
            opened.folder.amend(wave_rows=slices.sizes)
        for gate in manifest.gates:
            began = gate.passed_at or began
        for wave in slices.ahead(manifest.gates):
            session.record.tell("wave.started", wave=wave.number, rows=wave.rows)
            await self._flow(wave, began)
            if wave.is_last or self._stop.reason is not None:
                return
            if not await self._lets_through(slices, wave):
                return
            began = opened.folder.read().gates[-1].passed_at or began

    async def _flow(self, wave: Wave | None, began: str) -> None:
        processes, rows = self._processes, self._opened.checked.rows
        shards = list(self._shards(wave, rows))
        if not shards or self._stop.reason is not None:
            return
        processes.began = began
        await processes.submit(shards)
        await processes.over()
        await anyio.to_thread.run_sync(merge, self._opened.folder.path)
        processes.merges += 1
        await anyio.to_thread.run_sync(self._index.extend)

    async def _lets_through(self, slices: Slices, wave: Wave) -> bool:
        update = self._update
        if self._opened.settings.until is None:
            update.until = Proof.RESYNCED
        rows = slices.rows_of(wave)
        try:
            return await self._keeper.lets_through(wave.number, rows, self._index, update.target)
        except Closing:
            return False

    def _shards(self, wave: Wave | None, rows: int) -> Iterator[Shard]:
        """Yield the ranges of which something is left."""
        takes = None if wave is None or self._slices is None else self._slices.takes(wave)
        many = self._processes.processes
        number = max(many, min(_SHARDS_EACH * many, rows // _FEWEST_ROWS))
        for part in range(number):
            first, last = rows * part // number + 1, rows * (part + 1) // number
            if _has_left(self._index, first, last, takes):
                self._number += 1
                yield Shard(self._number, first, last, None if wave is None else wave.number)


def _has_left(index: Index, first: int, last: int, takes: Callable[[int], bool] | None) -> bool:
    return any(
        not index.settled(row) and (takes is None or takes(row)) for row in range(first, last + 1)
    )


def _standing(throttle: Throttle, now: float) -> tuple[Held, ...]:
    """Return why nobody moves, as people, the clock and the outside check have it."""
    return tuple(
        Held(hold.reason, hold.detail, hold.until - now if hold.until < float("inf") else None)
        for hold in throttle.holds(now)
        if hold.reason in _OURS
    )


def _levers(session: Session, ledger: Ledger, processes: Processes) -> dict[str, Lever]:
    def set_rate(rate: float) -> None:
        session.asker.set_ceilings(rate=rate, concurrency=None)
        processes.set_rate(rate)

    def set_concurrency(most: int) -> None:
        if most < processes.processes:
            raise SettingsError(
                f"--concurrency {most} is less than one request for each of the "
                f"{processes.processes} processes of this run; stop it, and resume it with fewer"
            )
        session.asker.set_ceilings(rate=None, concurrency=most)
        processes.set_concurrency(most)

    def set_limit(text: str) -> None:
        ledger.limit = FailureLimit.parse(text)

    def set_resyncs(most: object) -> None:
        if not isinstance(most, int):
            raise SettingsError("--max-resyncs none cannot be set while several processes share it")
        ledger.resyncs = most

    levers: dict[str, Lever] = {
        "rate": set_rate,
        "concurrency": set_concurrency,
        "max_failures": set_limit,
    }
    if ledger.resyncs is not None:
        levers["max_resyncs"] = set_resyncs
    return levers
