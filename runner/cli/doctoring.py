"""`doctor` and `config`: is everything there that a run needs, and which settings would hold."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from cyclopts import Group, Parameter

from runner.cli.carrying import resolve_settings
from runner.cli.flags import Api, Limits, Making, Output, Pace, Rollout, told
from runner.cli.making import Reach
from runner.errors import SettingsError

if TYPE_CHECKING:
    from runner.doctor import Check
    from runner.settings import Settings

_READ = Parameter(group=Group("What to read", sort_key=1), negative=(), show_default=False)
_STYLES = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}
_UNWELL = 2


class Setting(msgspec.Struct, frozen=True):
    """One setting, what it is, and where that comes from."""

    name: str
    """As on the command line, without the dashes."""
    value: Any
    """None: not set. Of a secret nothing but whether it is set."""
    origin: str
    """``flag``, the name of a variable, ``syncshift.toml``, ``default``, or the setting that it
    was made from."""
    unit: str | None
    """``s`` for seconds."""


def doctor(
    *,
    user: Annotated[str | None, _READ] = None,
    sync: Annotated[str | None, _READ] = None,
    api: Reach = Reach(),
    limits: Pace = Pace(),
    output: Output = Output(),
) -> int:
    """Check key, project, host, clock, folder and limits, and say what to mend.

    Changes nothing, here or at Paragon. Without --user it cannot tell whether the key
    is the project's. Exit code 0 if nothing fails, else 2.

    Example: syncshift doctor --user 42

    Parameters
    ----------
    user
        Read the syncs of this Connected User: one of your own user IDs.
    sync
        Read this sync of the user.
    """
    import anyio

    from runner.cli import screen
    from runner.doctor import Patient, Status, examine, worst

    if sync is not None and user is None and not os.environ.get("PARAGON_USER_TOKEN", "").strip():
        raise SettingsError("--sync needs --user: a sync can be read only as the user who owns it")
    patient = Patient(
        resolve=partial(resolve_settings, output, api, limits),
        directory=Path.cwd(),
        user=user,
        sync=sync,
    )

    async def look() -> list[Check]:
        checks = []
        async for check in examine(patient):
            checks.append(check)
            if not output.json and (not output.quiet or check.status is Status.FAIL):
                screen.data().print(_line(check))
        return checks

    checks = anyio.run(look)
    found = worst(checks)
    code = _UNWELL if found is Status.FAIL else 0
    if output.json:
        screen.write_json({"verdict": found, "exit_code": code, "checks": checks})
    return code


def config(
    what: Literal["show"],
    /,
    *,
    api: Api = Api(),
    limits: Limits = Limits(),
    making: Making = Making(),
    rollout: Rollout = Rollout(),
    output: Output = Output(),
) -> int:
    """Show every setting, and where its value comes from.

    Flags go before environment variables, these before syncshift.toml in the present
    folder, and that before defaults. Of a secret only whether it is set is shown.

    Example: syncshift config show

    Parameters
    ----------
    what
        show: the settings as a run begun here and now would have them.
    """
    from runner.cli import screen
    from runner.settings import origins

    groups = (api, limits, making, rollout)
    resolved = resolve_settings(output, *groups)
    given = told(output, *groups)
    found = [
        _setting(name, *known, settings=resolved.settings)
        for name, known in origins(
            resolved, given, environment=os.environ, directory=Path.cwd()
        ).items()
    ]
    if output.json:
        screen.write_json(found)
    else:
        screen.data().print(_table(found))
    return 0


def _line(check: Check) -> Any:
    from rich.table import Table
    from rich.text import Text

    from runner.cli import screen

    said = Text(screen.plain(check.seen))
    if check.mend is not None:
        said.append(f"\n{screen.plain(check.mend)}", style="bold")
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(min_width=4)
    line.add_column(min_width=11)
    line.add_column(overflow="fold")
    line.add_row(Text(check.status, style=_STYLES[check.status]), check.name, said)
    return line


def _setting(name: str, field: str, value: Any, origin: str, *, settings: Settings) -> Setting:
    if field == "audience" and origin == "default" and value is not None:
        origin = "project-id"
    if field == "max_resyncs" and value is None:
        # Its default goes by how far rows are carried.
        value = "none" if settings.resync_budget is None else settings.resync_budget
    text = str(value) if isinstance(value, Path) else value
    return Setting(name, text, origin, "s" if field.endswith("_s") else None)


def _table(found: list[Setting]) -> Any:
    from rich.table import Table

    from runner.cli import screen

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("setting", "value", "from"):
        table.add_column(name, overflow="fold")
    for setting in found:
        table.add_row(setting.name, screen.plain(_shown(setting)), setting.origin)
    return table


def _shown(setting: Setting) -> str:
    """Return the value as it would be typed."""
    value = setting.value
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if not isinstance(value, float):
        return str(value)
    unit = setting.unit or ""
    if unit == "s" and value:
        for longer, name in ((3600, "h"), (60, "m")):
            if value % longer == 0:
                value, unit = value / longer, name
                break
    return f"{value:g}{unit}"
