"""`schedule`: runs that workers begin again and again, by a clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from runner.cli.carrying import resolve_settings
from runner.cli.elsewhere import Database, must_have_dsn
from runner.cli.flags import THE_RUN, Limits, Making, Output, Rollout, told
from runner.errors import InputError, SettingsError

if TYPE_CHECKING:
    from runner.postgres import Schedule

_FLAG = Parameter(group=THE_RUN, negative=(), show_default=False)


def schedule(
    what: Literal["add", "list", "remove"],
    name: str | None = None,
    job: str | None = None,
    source: Annotated[str | None, Parameter(name="INPUT")] = None,
    /,
    *,
    cron: Annotated[str | None, _FLAG] = None,
    zone: Annotated[str, _FLAG] = "UTC",
    limits: Limits = Limits(),
    making: Making = Making(),
    rollout: Rollout = Rollout(),
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """Have workers begin a run again and again: keep one, list them, or remove one.

    The input is taken in when the schedule is added. Each run is called by the name and its
    moment, and is asked about like any other. Nobody is asked before it sends.

    Example: syncshift schedule list

    Parameters
    ----------
    what
        add, list or remove.
    name
        What it is called; with list, left out.
    job
        With add: the job, as for `run`.
    source
        With add: CSV or JSONL file.
    cron
        With add: minute, hour, day, month and weekday, such as '0 18 * * 5' for Fridays at 18:00.
    zone
        Whose clock that goes by (UTC).
    """
    from runner.cli import screen
    from runner.postgres import remove, schedules

    dsn = must_have_dsn(database, "a schedule")
    if what == "list":
        found = schedules(dsn)
        if output.json:
            screen.write_json(found)
        else:
            for one in found:
                screen.data().print(_line(one), markup=False, highlight=False)
        return 0
    if name is None:
        raise SettingsError(f"schedule {what} needs a name: syncshift schedule {what} NAME")
    if what == "remove":
        remove(dsn, name)
        return 0
    if job is None or source is None or cron is None:
        raise SettingsError(
            "schedule add needs a name, a job, an input and --cron, such as: syncshift schedule "
            "add weekend change-frequency slow.csv --cron '0 18 * * 5'"
        )
    resolve_settings(output, limits, making, rollout)
    added = _add(dsn, name, job, source, cron, zone, _words(limits, making, rollout))
    if output.json:
        screen.write_json(added)
    elif not output.quiet:
        screen.data().print(_line(added), markup=False, highlight=False)
    return 0


def _add(
    dsn: Any, name: str, job: str, source: str, cron: str, zone: str, words: list[str]
) -> Schedule:
    from runner.job import find
    from runner.postgres import add
    from runner.rows import recognise

    find(job)
    path = recognise(source, None).path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from None
    return add(dsn, name, cron, zone, words=[job, *words], source=Path(path).name, data=data)


def _words(*groups: object) -> list[str]:
    """Return the flags that were given as they would be typed."""
    words: list[str] = []
    for name, value in told(*groups).items():
        values = value if isinstance(value, tuple) else (value,)
        for one in values:
            if one is True:
                words.append(f"--{name}")
            elif one is not None and one is not False:
                words += [f"--{name}", str(one)]
    return words


def _line(one: Schedule) -> str:
    last = f", last {one.last_run}" if one.last_run else ""
    return f"{one.name}: {' '.join(one.words)} {one.input}, next {one.next_at}{last}"
