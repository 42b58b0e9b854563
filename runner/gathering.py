"""Makes an input: asks for the syncs of many users, and writes a row for each that is meant."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn, TextIO, cast

import anyio
import msgspec

from runner.asking import SIGNALED, Asker
from runner.attempt import Clocks
from runner.desk import LISTED, Desk, Unlisted, question_of
from runner.errors import DiskFault, Interrupted, SyncshiftError
from runner.journal import Committer
from runner.listing import Lister, Listing
from runner.live import Live
from runner.pipeline import flow, workers_for
from runner.settings import Settings
from runner.steps import Work
from runner.tokens import TokenSource
from runner.users import Users

_BLOCK = 256
_FAILED = 3


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; the order of the fields is that of ``input --json``."""

    job: str
    """The job that the file is fit for."""
    users: int
    listed: int
    """Users whose syncs were told."""
    unlisted: int
    syncs: int
    """Rows that were written."""
    without_syncs: int
    """Users who were listed, and have no sync that is meant: it may be somebody else's ID."""
    file: str | None
    """None: standard output, or no file could be made."""
    unlisted_file: str | None
    """The users whose syncs were not told, fit for ``--users``; None: no such file was made."""
    problems: tuple[Unlisted, ...]
    """The first of them."""
    without: tuple[str, ...]
    """The first of those without syncs."""
    exit_code: int
    reason: str | None = None
    """Why it ended before every user was asked for."""


def job_for(users: Users) -> str:
    """Return the name of the job that can do what *users* asks for."""
    if "frequency" not in users.asks:
        return "migrate-credentials"
    return "update-syncs" if users.asks & {"credential_id", "bound_to"} else "change-frequency"


async def gather(
    users: Users,
    settings: Settings,
    tokens: TokenSource,
    *,
    integration: str | None,
    output: Path | None,
    standard_output: TextIO,
    show: Callable[[Live], None],
    leave: Callable[[int], NoReturn] = os._exit,
    clocks: Clocks | None = None,
) -> Gathered:
    """Ask for every user's syncs and write the file; change nothing.

    *output* None writes to *standard_output*. Whatever ends it, the file is whole as far as it
    goes, and the users that are missing in it are written beside it. *leave* ends the process
    when a second signal comes. Raises `SettingsError` when *output* is there or cannot be made.
    """
    asker = Asker(settings, clocks=clocks or Clocks(time.monotonic, time.time, random.random))
    desk = Desk(users, output, standard_output, stop=asker.stop)
    show(
        Live(
            rows=users.count,
            settled_before=0,
            tally=desk.tally,
            turnstile=asker.turnstile,
            # There is no journal that a disk could be slow with.
            committer=cast("Committer", _Swift()),
            clock=asker.clocks.steady,
        )
    )
    try:
        await _ask_for_all(users, asker, tokens, desk, integration=integration, leave=leave)
    finally:
        tokens.close()
        desk.close(_cause(asker, desk, users))
    reason = _cause(asker, desk, users)
    return Gathered(
        job=job_for(users),
        users=users.count,
        listed=desk.tally.counts[LISTED],
        unlisted=users.count - desk.tally.counts[LISTED],
        syncs=desk.syncs,
        without_syncs=desk.without_syncs,
        file=desk.file,
        unlisted_file=desk.beside,
        problems=tuple(desk.problems),
        without=tuple(desk.without),
        exit_code=_exit_code(desk, users, reason),
        reason=None if reason is None else str(reason),
    )


def _cause(asker: Asker, desk: Desk, users: Users) -> SyncshiftError | None:
    """Return why not all was done; None too for what came when there was nothing left to do."""
    reason = asker.stop.reason
    all_told = desk.tally.ended == users.count
    return None if all_told and not isinstance(reason, DiskFault) else reason


def _exit_code(desk: Desk, users: Users, reason: SyncshiftError | None) -> int:
    if isinstance(reason, Interrupted):
        return SIGNALED + reason.signal_number
    if reason is not None:
        return reason.exit_code
    return 0 if desk.tally.counts[LISTED] == users.count else _FAILED


async def _ask_for_all(
    users: Users,
    asker: Asker,
    tokens: TokenSource,
    desk: Desk,
    *,
    integration: str | None,
    leave: Callable[[int], NoReturn],
) -> None:
    listing = Listing()
    async with anyio.create_task_group() as group:
        carrying = anyio.CancelScope()
        group.start_soon(asker.heed_signals, carrying, leave)
        with carrying:
            async with asker.looking(listing, tokens) as looks:
                await flow(
                    _blocks(users),
                    Lister(looks, integration=integration).carry,
                    desk,
                    workers=workers_for(concurrency=asker.settings.concurrency, rows=users.count),
                    stop=asker.stop,
                )
        group.cancel_scope.cancel()


class _Swift:
    """What stands for a disk that is never waited for."""

    def slow_since(self, now: float) -> None:
        """Return None: it is not slow."""


def _blocks(users: Users) -> Iterator[list[Work]]:
    rest = iter(users)
    while block := [Work(question_of(user)) for user in islice(rest, _BLOCK)]:
        yield block
