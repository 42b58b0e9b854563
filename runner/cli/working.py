"""`worker` and `engine`: carry runs of others, and make ready the database that they go by."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from runner.cli.carrying import in_a_loop, resolve_settings
from runner.cli.elsewhere import Database, must_have_dsn
from runner.cli.flags import THE_RUN, Host, Output
from runner.errors import EngineNotReady, SyncshiftError

if TYPE_CHECKING:
    from runner.postgres import Standing, Station

_FLAG = Parameter(group=THE_RUN, negative=(), show_default=False)
_SIGNALED = 128
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SLOW_MS = 20.0


def worker(
    *,
    max_outage: Annotated[str | None, _FLAG] = None,
    drain: Annotated[str | None, _FLAG] = None,
    database: Database = Database(),
    api: Host = Host(),
    output: Output = Output(),
) -> int:
    """Carry rows of runs that were begun with --engine postgres, anywhere, until told to leave.

    Any number of workers share the rows of a run; the limits of the run hold over all of them
    together. Each brings its own signing key, which is never sent. Ctrl-C or SIGTERM: take
    nothing more, let what is in flight land, leave the rest to others.

    Example: syncshift worker

    Parameters
    ----------
    max_outage
        How long PostgreSQL may be away before the worker ends (15m). Nothing is sent meanwhile.
    drain
        How long requests in flight may take to land when it is told to leave (30s).
    """
    from runner.authority import token_source
    from runner.cli import screen
    from runner.settings import resolve

    dsn = must_have_dsn(database, "a worker")
    resolved = resolve_settings(output, api)
    given = {"max-outage": max_outage, "drain": drain}
    if any(given.values()):
        import os
        from pathlib import Path

        from runner.cli.flags import told

        flags = told(output, api) | given
        resolved = resolve(flags, environment=os.environ, directory=Path.cwd())
    # A key that cannot be used is found out now, and not with the first shard.
    token_source(resolved.secrets, resolved.settings, warn=screen.warn).close()
    from runner.postgres import Station

    station = Station(dsn, resolved, warn=screen.warn)
    if not output.quiet:
        screen.errors().print(f"worker {station.name} is there", markup=False, highlight=False)
    return in_a_loop(lambda: _work(station))


def engine(
    what: Literal["init", "check"],
    /,
    *,
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """Make the database ready for runs, or see whether it is.

    Example: syncshift engine check

    Parameters
    ----------
    what
        init: make the tables, once; check: say how the database stands, and who works there.
    """
    from runner.cli import screen
    from runner.log import configure
    from runner.postgres import init, look, must_be_ready

    configure(output.log_level)
    dsn = must_have_dsn(database, f"engine {what}")
    if what == "init":
        made = init(dsn)
        if not (output.quiet or output.json):
            said = "is ready now" if made else "was ready already"
            screen.data().print(f"{look(dsn).place} {said}", markup=False, highlight=False)
        elif output.json:
            screen.write_json(look(dsn))
        return 0
    standing = look(dsn)
    if output.json:
        screen.write_json(standing)
    elif not output.quiet:
        screen.data().print(_picture(standing))
    must_be_ready(dsn)
    if not standing.durable:
        raise EngineNotReady(
            f"{standing.place}: fsync or synchronous_commit is off, so what was committed can be "
            "lost, and a change could be sent of which nothing is recorded; switch both on"
        )
    return 0


def _picture(standing: Standing) -> object:
    from runner.cli import screen

    made = "not there; make them: syncshift engine init"
    if standing.version is not None:
        made = f"version {standing.version}, queue by procrastinate {standing.queue}"
    slow = "; every row waits for that twice" if standing.delay_ms > _SLOW_MS else ""
    return screen.facts(
        {
            "database": standing.place,
            "server": f"PostgreSQL {standing.server}",
            "tables": made,
            "durable": "yes" if standing.durable else "no: fsync or synchronous_commit is off",
            "delay": f"{standing.delay_ms:g} ms there and back{slow}",
            "workers": f"{standing.workers:,}",
            "runs": f"{standing.runs:,}",
        }
    )


async def _work(station: Station) -> int:
    """Have *station* work until a signal comes; a second one ends this process at once."""
    import os

    import anyio

    code = 0

    async def heed() -> None:
        nonlocal code
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            async for number in signals:
                if code:
                    os._exit(_SIGNALED + number)
                code = _SIGNALED + number
                station.leave()

    refusal: SyncshiftError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(heed)
        try:
            await station.work()
        except SyncshiftError as error:
            refusal = error  # raised below as it is, not as one of a group
        group.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
    sys.stderr.flush()
    return code
