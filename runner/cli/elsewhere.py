"""Runs that workers carry: where their database is, and what of them is fetched from there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from runner.cli.flags import THE_RUN
from runner.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.control import Glance, Order, Reply
    from runner.opening import Opened
    from runner.roster import Entry
    from runner.run.field import Field
    from runner.secret import Secret
    from runner.settings import Settings

_VARIABLE = "SYNCSHIFT_DSN"
_FLAG = Parameter(group=THE_RUN, negative=(), show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Database:
    """Where runs are that workers carry."""

    dsn_file: Annotated[str | None, _FLAG] = None
    """File with the address of the PostgreSQL database over which workers carry runs
    (SYNCSHIFT_DSN holds the address itself)."""
    dsn: Annotated[str | None, _FLAG] = None
    """Likewise the address itself, if there is no password in it."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Workers(Database):
    """Likewise, and whether anybody follows."""

    detach: Annotated[bool, _FLAG] = False
    """With --engine postgres: leave the run to the workers, and return at once."""


def dsn_of(database: Database) -> Secret | None:
    """Return where the database is; None: nobody says so. Raises `SettingsError`."""
    given = database.dsn or database.dsn_file or os.environ.get(_VARIABLE, "").strip()
    if not given:
        return None
    _must_be_installed()
    from runner.postgres import find_dsn

    return find_dsn(flag=database.dsn, file=database.dsn_file, environment=os.environ)


def must_have_dsn(database: Database, why: str) -> Secret:
    """Return where the database is. Raises `SettingsError`, saying *why* it is needed."""
    dsn = dsn_of(database)
    if dsn is None:
        _must_be_installed()
        raise SettingsError(
            f"{why} needs to know where the PostgreSQL database is: put its address into "
            f"{_VARIABLE}, or into a file and name that with --dsn-file"
        )
    return dsn


def may_be_carried(settings: Settings, workers: Workers, *, watched: bool) -> None:
    """Raise `SettingsError` for what cannot be had with workers, or only with them.

    *watched*: somebody looks on at requests and outcomes.
    """
    if settings.engine == "local":
        if workers.detach:
            raise SettingsError(
                "--detach leaves a run to workers, and so needs --engine postgres; add that, or "
                "leave --detach out"
            )
        return
    refused = {
        "--processes": settings.processes > 1,
        "--metrics-port and --traces": watched,
        "--strict": settings.strict,
        "--max-resyncs-per": bool(settings.max_resyncs_per),
        "--spread with --at": settings.at is not None and settings.spread_s is not None,
    }
    for flag, given in refused.items():
        if given:
            raise SettingsError(
                f"{flag} cannot be had with --engine postgres: no worker knows what the others "
                "have under way; leave one of the two out"
            )
    if workers.detach and settings.approve:
        raise SettingsError(
            "--approve asks a person at each gate, and with --detach nobody is there; leave one of "
            "the two out"
        )


def field_of(settings: Settings, workers: Workers) -> Field | None:
    """Return where workers find a run; None: this machine carries it.

    Raises `SettingsError`, `DatabaseAway`, `EngineNotReady`.
    """
    if settings.engine == "local":
        return None
    dsn = must_have_dsn(workers, "--engine postgres")
    from runner.postgres import must_be_ready
    from runner.run.field import Field

    must_be_ready(dsn)
    return Field(dsn)


def bring(run: str, runs_dir: Path, database: Database, *, to_change: bool) -> None:
    """Bring the folder of a run up to date, if workers carry it or have carried it.

    *to_change*: somebody is about to go on with it, or to go back to it. Raises `SettingsError`
    when it is then not known where its rows are, `RunLocked`, `DatabaseAway`.
    """
    from runner.cli import screen
    from runner.settings import check_run_id

    dsn = dsn_of(database)
    if dsn is None:
        if _is_elsewhere(run, runs_dir):
            told = f"the rows of run {run} are in PostgreSQL"
            if to_change:
                must_have_dsn(database, told)
            screen.warn(f"{told}, and {_VARIABLE} is not set: this is what is known here")
        return
    from runner.postgres import fetch

    if not (runs_dir / run).exists() or _is_elsewhere(run, runs_dir):
        fetch(dsn, runs_dir, check_run_id(run), to_change=to_change)


def give_elsewhere(run: str, order: Order, database: Database) -> Reply | None:
    """Give an order to a run that is led elsewhere; None: it is not known that it is.

    Raises `RunRefused` when nobody takes it there, `DatabaseAway`.
    """
    dsn = dsn_of(database)
    if dsn is None:
        return None
    from runner.postgres import order as give

    return give(dsn, run, order)


def with_those_elsewhere(listed: list[Entry], runs_dir: Path, database: Database) -> list[Entry]:
    """Return the runs of this machine and those in the database, oldest first.

    A database that cannot be asked is told of, and hides nothing. Raises `SettingsError`.
    """
    from runner.cli import screen
    from runner.errors import SyncshiftError

    dsn = dsn_of(database)
    if dsn is None:
        return listed
    from runner.postgres import entries

    try:
        there = entries(dsn)
    except SyncshiftError as error:
        screen.warn(f"runs that workers carry are left out: {error}")
        return listed
    # A folder that is a copy of what lies there knows no more, and often less.
    ours = [entry for entry in listed if not _is_elsewhere(entry.run_id, runs_dir)]
    names = {entry.run_id for entry in ours}
    both = [*ours, *(entry for entry in there if entry.run_id not in names)]
    return sorted(both, key=lambda entry: entry.created)


def glances_at(run: str, runs_dir: Path, database: Database) -> Callable[[], Glance] | None:
    """Return what tells how a run stands that is led elsewhere; None: it never was.

    That raises `DatabaseAway`.
    """
    from runner.control import Glance, Order
    from runner.errors import RunRefused

    dsn = dsn_of(database)
    if dsn is None or not _is_elsewhere(run, runs_dir):
        return None
    from runner.postgres import is_led
    from runner.postgres import order as give

    def glance() -> Glance:
        try:
            reply = give(dsn, run, Order(command="status"))
        except RunRefused:
            reply = None
        if reply is not None and reply.state is not None:
            return Glance(True, reply.state)
        return Glance(is_led(dsn, run), None)

    return glance


def leave_to_workers(opened: Opened, workers: Workers, *, quiet: bool) -> int:
    """Put a run into the database, have a worker lead it, and return the exit code."""
    import anyio

    from runner.cli import screen
    from runner.postgres import defer_lead
    from runner.run.field import hand_over

    dsn = must_have_dsn(workers, "--detach")
    hand_over(dsn, opened)
    anyio.run(defer_lead, dsn, opened.folder.run_id)
    if not quiet:
        run_id = opened.folder.run_id
        screen.data().print(
            f"run {run_id} is left to the workers; see how it goes: syncshift status {run_id}",
            markup=False,
        )
    return 0


def _is_elsewhere(run: str, runs_dir: Path) -> bool:
    """Tell whether the folder of the run is a copy of what lies in the database."""
    from runner.folder import SESSION

    return (runs_dir / run / SESSION).exists()


def _must_be_installed() -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("cronsim", "procrastinate", "psycopg")):
        raise SettingsError(
            "workers over PostgreSQL need the extra `postgres`: install syncshift[postgres]"
        )
