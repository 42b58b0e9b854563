"""Leads a run whose rows workers on any machine carry."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread
import msgspec

from runner.account import index_of
from runner.control import Order, Reply, ask
from runner.engine import Event, Held
from runner.errors import DatabaseAway, SettingsError, SyncshiftError
from runner.log import stamp
from runner.model import encode_json
from runner.onset import Onset, said
from runner.opening import Opened
from runner.postgres import (
    LOST,
    Afar,
    Common,
    Lead,
    hand_in,
    parts_of,
    publish,
)
from runner.proving import moment_s
from runner.record import EVENTS
from runner.results import Index
from runner.run.conducting import conduct, mirror_of, standing_of
from runner.run.mirror import Mirror
from runner.run.session import Session
from runner.secret import Secret
from runner.settings import Settings
from runner.slicing import slice_up
from runner.steering import Lever

_PATIENCE_S = 2.0


class Field:
    """One session of a run that workers carry: where it lies, and who leads it."""

    def __init__(self, dsn: Secret) -> None:
        self._dsn = dsn
        self._lead: Lead | None = None

    async def lead(self, session: Session) -> None:
        """Have what is left carried. Ends early with the reason in the stop.

        Raises `RunLocked`, `RunChanged`, `DatabaseAway` when it cannot be begun.
        """
        opened, asker = session.opened, session.asker
        folder, clocks = opened.folder, asker.clocks
        common = common_of(opened.settings, session.index)
        led = await anyio.to_thread.run_sync(publish, self._dsn, folder, folder.read(), common)
        self._lead = Lead(led, folder.path / EVENTS, partial(_give, opened))
        mirror, tally = mirror_of(session)
        afar = Afar(
            self._dsn,
            self._lead,
            folder,
            common,
            parts=parts_of(opened.settings.rate),
            patience_s=opened.settings.max_outage_s,
            waits=session.waits,
            standing=_Standing(session),
            clock=clocks.steady,
            heed=partial(_heed, mirror),
            on_fault=asker.stop,
        )
        await conduct(
            session,
            afar,
            mirror=mirror,
            tally=tally,
            index=session.index,
            slices=await anyio.to_thread.run_sync(slice_up, opened),
            levers=_levers(session, afar),
        )

    def hand_in(self, opened: Opened) -> None:
        """Put how the run ended where others find it. While the database is away that is left."""
        if self._lead is not None:
            with contextlib.suppress(DatabaseAway):
                hand_in(self._dsn, self._lead, opened.folder)


def hand_over(dsn: Secret, opened: Opened) -> None:
    """Put a run that is opened here where workers find it, and let go of it.

    Raises `RunLocked`, `RunChanged`, `RunExists`, `DatabaseAway`.
    """
    folder, manifest = opened.folder, opened.manifest
    applied = manifest.applied or (stamp(time.time()) if manifest.is_plan else None)
    manifest = msgspec.structs.replace(manifest, state="running", applied=applied)
    try:
        common = common_of(opened.settings, index_of(folder))
        publish(dsn, folder, manifest, common, leads=False)
        folder.write(manifest)
    finally:
        opened.tokens.close()
        folder.unlock()


def common_of(settings: Settings, index: Index) -> Common:
    """Return what holds for all workers when a session begins; *index* is of what has ended."""
    return Common(
        before={kind.value: count for kind, count in index.counts.items() if count},
        concurrency=settings.concurrency,
        rate=settings.rate,
        max_failures=settings.max_failures,
        resyncs=settings.resync_budget,
    )


def _heed(mirror: Mirror, worker: str, event: Event) -> None:
    if event.name == LOST:
        mirror.lost(worker)
    else:
        mirror.heed(worker, event)


class _Standing:
    """Tells why nobody moves; and which zone is waited for, and when it has started."""

    def __init__(self, session: Session) -> None:
        self._session = session
        timetable = session.opened.timetable
        self._timetable = timetable
        starts = {moment_s(start.at) or 0.0 for start in timetable.starts} if timetable else set()
        self._ahead = sorted(starts)

    def __call__(self, now: float) -> tuple[Held, ...]:
        session, timetable = self._session, self._timetable
        wall_s = session.asker.clocks.wall()
        while timetable is not None and self._ahead:
            next_s = self._ahead[0]
            starts = timetable.at(next_s)
            if next_s > wall_s:
                detail = f"next is {said(starts)}"
                session.waits.begin(Onset.reason, detail, now + next_s - wall_s)
                break
            self._ahead.pop(0)
            session.waits.end(Onset.reason)
            session.record.tell(
                "zone.started",
                zones=[start.zone for start in starts],
                at=starts[0].at,
                rows=sum(start.rows for start in starts),
            )
        return standing_of(session.asker.turnstile.throttle, now)


def _give(opened: Opened, who: str, said: bytes) -> bytes:
    """Give the run an order of somebody elsewhere, as if it were given here. Blocks."""
    try:
        order = msgspec.json.decode(said, type=Order)
        reason = f"{order.reason or 'ordered'} (by {who})"
        order = msgspec.structs.replace(order, reason=reason)
        reply = ask(opened.folder, order, wait_for_it_s=0, patience_s=_PATIENCE_S)
    except (SyncshiftError, msgspec.MsgspecError) as error:
        reply = Reply(run_id=opened.folder.run_id, done=False, said=str(error))
    return encode_json(reply)


def _levers(session: Session, afar: Afar) -> dict[str, Lever]:
    def set_rate(rate: float) -> None:
        session.asker.set_ceilings(rate=rate, concurrency=None)
        afar.set_rate(rate)

    def set_concurrency(most: int) -> None:
        session.asker.set_ceilings(rate=None, concurrency=most)
        afar.set_concurrency(most)

    def set_resyncs(most: object) -> None:
        if not isinstance(most, int):
            raise SettingsError("--max-resyncs none cannot be set while several workers share it")
        afar.set_resyncs(most)

    levers: dict[str, Callable[..., None]] = {
        "rate": set_rate,
        "concurrency": set_concurrency,
        "max_failures": afar.set_max_failures,
    }
    if session.opened.settings.resync_budget is not None:
        levers["max_resyncs"] = set_resyncs
    return dict(levers)
