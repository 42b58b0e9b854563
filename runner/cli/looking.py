"""`status` and `report`: what runs there are, how they go, and what they add up to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from runner.cli import screen
from runner.cli.completing import RunName
from runner.cli.elsewhere import Database, bring, glances_at, with_those_elsewhere
from runner.cli.flags import THE_RUN, Output, told
from runner.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.control import Glance, Standing
    from runner.folder import Folder, Manifest
    from runner.results import Summary

    Glances = Callable[[], Glance] | None

_RUN = Parameter(group=THE_RUN, negative=(), show_default=False)
_LOOK_EVERY_S = 0.5
_REST = 4
_PATIENCE_S = 2.0


def status(
    run: RunName | None = None,
    /,
    *,
    watch: Annotated[bool, _RUN] = False,
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """List all runs, or show one; of a run that is at work, live on a terminal.

    With --watch it follows the run to its end, also in a pipe: pace, why it waits, waves.
    Changes nothing; Ctrl-C ends the look, and not the run. Exit code 0 if it could answer.

    Example: syncshift status 20261123-174214-6cd02e

    Parameters
    ----------
    run
        Name of the run; without it, all runs of the folder, and of the database if it is known.
    watch
        Follow the run until it has ended, then show what it came to.
    """
    import msgspec

    from runner.folder import Folder
    from runner.roster import roster

    runs_dir = runs_dir_of(output)
    if watch and (run is None or output.json):
        raise SettingsError("--watch follows one run for a person: name it, and leave --json out")
    if run is None:
        entries = roster(Folder.all(runs_dir), warn=screen.warn)
        entries = with_those_elsewhere(entries, runs_dir, database)
        listed = [msgspec.to_builtins(entry) for entry in entries]
        if output.json:
            screen.write_json(listed)
        else:
            screen.data().print(_table(listed) if listed else Text(f"no runs in {runs_dir}"))
        return 0
    bring(run, runs_dir, database, to_change=False)
    folder = Folder.open(runs_dir, run)
    elsewhere = glances_at(run, runs_dir, database)
    console = screen.data()
    if not watch and console.is_terminal and not output.json and elsewhere is not None:
        watch = not folder.is_locked() and elsewhere().at_work
    if watch:
        from runner.cli.onlooking import look_on

        look_on(folder, console, elsewhere=elsewhere, quiet=output.quiet)
        bring(run, runs_dir, database, to_change=False)
        return _show(folder, output)
    if output.json or not console.is_terminal or not folder.is_locked():
        return _show(folder, output, elsewhere)
    from rich.live import Live as Painting

    with Painting(console=console, auto_refresh=False) as painting:
        while folder.is_locked():
            began = time.monotonic()
            painting.update(_picture(folder), refresh=True)
            # A long run takes a while to add up: look at it less often.
            time.sleep(max(_LOOK_EVERY_S, _REST * (time.monotonic() - began)))
        painting.update(_picture(folder), refresh=True)
    return 0


def report(run: RunName, /, *, database: Database = Database(), output: Output = Output()) -> int:
    """Rebuild the result files, the summary and the page of a run, however it ended.

    Works from the run's folder alone: journals and input. Exit code 0 if it
    could answer.

    Example: syncshift report 20261123-174214-6cd02e

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    """
    from runner.account import add_up
    from runner.folder import Folder
    from runner.job import find
    from runner.page import write_page

    runs_dir = runs_dir_of(output)
    bring(run, runs_dir, database, to_change=False)
    folder = Folder.open(runs_dir, run)
    if folder.is_locked():
        screen.warn("the run is at work; its files are written when it ends")
        return _show(folder, output)
    folder.lock()
    try:
        manifest = folder.read()
        job = find(manifest.job)
        summary = add_up(folder, manifest, job)
        write_page(folder, manifest, job, summary)
    finally:
        folder.unlock()
    _print(folder, summary, output)
    return 0


def runs_dir_of(output: Output) -> Path:
    """Return the folder of all runs. Raises `SettingsError`."""
    from runner.log import configure
    from runner.settings import resolve

    configure(output.log_level)
    resolved = resolve(told(output), environment=os.environ, directory=Path.cwd())
    return resolved.places.runs_dir


def _show(folder: Folder, output: Output, elsewhere: Glances = None) -> int:
    if output.json:
        screen.write_json(_as_data(folder, elsewhere))
    else:
        screen.data().print(_picture(folder, elsewhere=elsewhere))
    return 0


def _print(folder: Folder, summary: Summary, output: Output) -> None:
    if output.json:
        screen.write_json(summary)
    else:
        screen.data().print(_picture(folder, summary))


def _as_data(folder: Folder, elsewhere: Glances) -> dict[str, Any]:
    """Return the summary as it is now, why the run waits, and what it says of itself."""
    import msgspec

    glance = _glance(folder, elsewhere)
    live: Any = glance.standing
    summary = _summary(folder, live=glance.at_work)
    waiting = msgspec.to_builtins(_waiting(folder, live))
    if live is not None:
        live = msgspec.to_builtins(live)
        del live["waiting"]
    return {**msgspec.to_builtins(summary), "waiting": waiting, "live": live}


def _glance(folder: Folder, elsewhere: Glances) -> Glance:
    """Return whether the run is at work, here or elsewhere, and what it says of itself."""
    from runner.control import glance_at

    if elsewhere is not None and not folder.is_locked():
        return elsewhere()
    return glance_at(folder, patience_s=_PATIENCE_S)


def _waiting(folder: Folder, standing: Standing | None) -> list[Any]:
    """Return why the run waits: by its own word, or else by what it has written down."""
    from runner.account import holds_of
    from runner.control import Waiting

    if standing is not None:
        return list(standing.waiting)
    if not folder.is_locked():
        return []
    holds = holds_of(folder, now_s=time.time())
    return [Waiting(hold.reason, hold.detail, hold.timestamp, hold.until) for hold in holds]


def _picture(folder: Folder, summary: Summary | None = None, *, elsewhere: Glances = None) -> Any:
    from rich.console import Group

    manifest, glance = folder.read(), _glance(folder, elsewhere)
    standing = glance.standing
    summary = summary or _summary(folder, live=glance.at_work)
    known = {
        "run": f"{manifest.run_id} ({manifest.state})",
        "job": f"{manifest.job} on {manifest.settings.base_url}",
        "input": manifest.input.name,
        **_kin(manifest, summary),
        "started": summary.started,
    }
    if standing is not None:
        known["limits"] = screen.limits(standing.limits)
    waits = [
        f"{wait.reason}: {wait.detail}" + (f", until {wait.until}" if wait.until else "")
        for wait in _waiting(folder, standing)
    ]
    if waits:
        known["waiting"] = "; ".join(waits)
    if standing is not None and standing.stopping is not None:
        known["stopping"] = standing.stopping
    if manifest.is_plan and not manifest.applied:
        return Group(screen.facts(known), _plan_picture(folder, manifest))
    # Why the first run ended is no news once its retries have ended every row.
    reason = None if summary.family and not summary.counts["unprocessed"] else manifest.reason
    return Group(
        screen.facts(known), screen.result(summary, folder=str(folder.path), reason=reason)
    )


def _kin(manifest: Manifest, summary: Summary) -> dict[str, str]:
    """Return what is to be said of the runs that belong to this one."""
    if summary.family:
        retries = ", ".join(summary.family[1:])
        return {"family": f"added up with its retries: {retries}"}
    if manifest.parent is None:
        return {}
    whole = f"; with all of its retries: syncshift status {manifest.parent}"
    told = whole if manifest.relation == "retry" else ""
    return {"goes back to": f"{manifest.parent}, as its {manifest.relation}{told}"}


def _plan_picture(folder: Folder, manifest: Manifest) -> Any:
    from runner.cli.findings import plan_picture
    from runner.forecast import plan_of

    return plan_picture(plan_of(folder, manifest), manifest, live=folder.is_locked())


def _summary(folder: Folder, *, live: bool) -> Summary:
    """Return what the run has come to; *live*: it is at work somewhere."""
    from runner.account import add_up
    from runner.job import find

    manifest = folder.read()
    return add_up(folder, manifest, find(manifest.job), live=live, files=False)


def _table(listed: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "job", "verdict", "rows", "succeeded", "failed", "left", "created"):
        right = name in {"rows", "succeeded", "failed", "left"}
        # The name of a run has to be typed; whatever else there is makes room for it.
        least = max(len(run["run_id"]) for run in listed) if name == "run" else None
        table.add_column(name, justify="right" if right else "left", min_width=least)
    for run in listed:
        table.add_row(
            run["run_id"],
            run["job"] + (f" ({run['relation']})" if run["relation"] else ""),
            str(run["verdict"] or ("planned" if run["state"] == "planned" else "at work")),
            *(
                "" if run[name] is None else f"{run[name]:,}"
                for name in ("rows", "succeeded", "failed", "unprocessed")
            ),
            run["created"],
        )
    return table
