"""Leads a run whose rows several processes of this machine carry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from runner.account import index_of
from runner.errors import SettingsError
from runner.journal import merge
from runner.ledger import Ledger
from runner.local import Nursery, Processes, Staff, employ
from runner.opening import Opened
from runner.rig import limit_of
from runner.rollout import FailureLimit
from runner.run.conducting import conduct, mirror_of, standing_of
from runner.run.session import Session
from runner.settings import Settings
from runner.slicing import slice_up
from runner.steering import Lever


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
    opened, asker = session.opened, session.asker
    settings, clocks = opened.settings, asker.clocks
    ledger = Ledger(limit=limit_of(opened), resyncs=settings.resync_budget)
    mirror, tally = mirror_of(session)
    processes = Processes(
        crowd.nursery,
        ledger,
        processes=crowd.staff.processes,
        concurrency=settings.concurrency,
        rate=settings.rate,
        clock=clocks.steady,
        standing=lambda now: standing_of(asker.turnstile.throttle, now),
        heed=mirror.heed,
        lost=mirror.lost,
        merge=partial(merge, opened.folder.path),
    )
    await conduct(
        session,
        processes,
        mirror=mirror,
        tally=tally,
        index=crowd.staff.index,
        slices=crowd.staff.slices,
        levers=_levers(session, ledger, processes),
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
