"""`plan`, `apply` and `verify`: look, carry out what was seen, look again."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from runner.cli.carrying import must_be_able_to_ask, resolve_settings, see_through, shown
from runner.cli.completing import JobName, RunName
from runner.cli.elsewhere import Database, Workers, bring
from runner.cli.flags import (
    THE_RUN,
    Api,
    Asking,
    Hands,
    Host,
    Limits,
    Making,
    Output,
    Pace,
    Rollout,
    Telemetry,
)
from runner.errors import SettingsError

if TYPE_CHECKING:
    from runner.check import Checked
    from runner.rounds import Verified
    from runner.settings import Resolved

_INTERRUPTED = 130
_RUN = Parameter(group=THE_RUN, negative=(), show_default=False)


def plan(
    job: JobName,
    source: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True)],
    /,
    *,
    format: Annotated[str | None, _RUN] = None,
    run_id: Annotated[str | None, _RUN] = None,
    no_copy: Annotated[bool, _RUN] = False,
    offline: Annotated[bool, _RUN] = False,
    api: Api = Api(),
    limits: Limits = Limits(),
    making: Making = Making(),
    rollout: Rollout = Rollout(),
    output: Output = Output(),
) -> int:
    """Look at every sync of an input file, and show what a run would do. Sends no change.

    Makes a run that `syncshift apply` carries out, once, and only as it was shown.
    Exit code 0 once the plan is whole, whatever it says.

    Example: syncshift plan migrate-credentials moves.csv --run-id friday

    Parameters
    ----------
    job
        migrate-credentials, change-frequency, update-syncs, disable-syncs, enable-syncs, or a
        job of another package.
    source
        CSV or JSONL file, also .gz or .zst; - for standard input.
    format
        csv or jsonl, when the name does not tell.
    run_id
        Name of the run (time and a short random part).
    no_copy
        Leave the input where it is; otherwise it is copied into the run.
    offline
        Check the file alone: no request, no key, and no run that could be applied.
    """
    from runner.settings import check_run_id

    if run_id is not None:
        check_run_id(run_id)
    resolved = resolve_settings(output, api, limits, making, rollout)
    if resolved.settings.no_read:
        raise SettingsError("--no-read cannot be had with plan: a plan is what was read")
    if offline:
        return _plan_offline(job, source, resolved, format=format, output=output)
    return _plan(
        job, source, resolved, format=format, run_id=run_id, copies=not no_copy, output=output
    )


def apply(
    run: RunName,
    /,
    *,
    max_age: Annotated[str, _RUN] = "24h",
    asking: Asking = Asking(),
    api: Api = Api(),
    limits: Limits = Limits(),
    workers: Workers = Workers(),
    telemetry: Telemetry = Telemetry(),
    hands: Hands = Hands(),
    output: Output = Output(),
) -> int:
    """Carry out a planned run: once, and only what was planned.

    Each sync is read once more; one that is no longer as it was when it was planned
    is left alone and ends as conflicted. Settings are those of the plan; --rate,
    --concurrency, --timeout and --max-failures may be given anew. What is
    interrupted is gone on with by `syncshift resume`.

    Example: syncshift apply friday

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    max_age
        Refuse a plan that is older (24h).
    """
    from runner.revisit import open_planned

    max_age_s = _duration_s("--max-age", max_age)
    must_be_able_to_ask(asking)
    resolved = resolve_settings(output, api, limits, hands)
    bring(run, resolved.places.runs_dir, workers, to_change=True)
    return see_through(
        lambda warn: open_planned(run, resolved, max_age_s=max_age_s, now_s=time.time(), warn=warn),
        asking=asking,
        output=output,
        telemetry=telemetry,
        workers=workers,
    )


def verify(
    run: RunName,
    /,
    *,
    watch: Annotated[bool, _RUN] = False,
    every: Annotated[str, _RUN] = "30s",
    database: Database = Database(),
    api: Host = Host(),
    limits: Pace = Pace(),
    output: Output = Output(),
) -> int:
    """Read every sync that a run may have changed, and compare it with what was wanted.

    Changes nothing, and may be asked of a run that is at work, or was killed. Each
    finding is written to a verify-*.jsonl in the run's folder. Exit code 0 if all
    are in force, 3 if not.

    Example: syncshift verify friday

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    watch
        Look again and again until all are in force; Ctrl-C ends it.
    every
        With --watch, time between two looks (30s).
    """
    from runner.cli import screen
    from runner.cli.findings import proof_picture

    every_s = _duration_s("--every", every)
    resolved = resolve_settings(output, api, limits)
    bring(run, resolved.places.runs_dir, database, to_change=False)
    found = _look(run, resolved, output)
    code = None
    while watch and found.reason is None and found.exit_code:
        _tell_round(found, output)
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            code = _INTERRUPTED  # what the last round found is told all the same
            break
        found = _look(run, resolved, output)
    if output.json:
        screen.write_json(found)
    elif not output.quiet:
        screen.data().print(proof_picture(found))
    if found.reason and (output.json or output.quiet):
        screen.errors().print(screen.plain(found.reason), markup=False)
    return found.exit_code if code is None else code


def _duration_s(flag: str, text: str) -> float:
    from runner.knobs import duration_s

    try:
        seconds = duration_s(text)
    except ValueError as error:
        raise SettingsError(f"{flag} {error}; got {text!r}") from None
    if seconds <= 0:
        raise SettingsError(f"{flag} must be longer than nothing; got {text!r}")
    return seconds


def _plan(
    job: str,
    source: str,
    resolved: Resolved,
    *,
    format: str | None,
    run_id: str | None,
    copies: bool,
    output: Output,
) -> int:
    from runner.cli import screen
    from runner.cli.findings import plan_picture
    from runner.opening import open_new
    from runner.rounds import make_plan

    opened = open_new(
        job,
        source,
        resolved,
        run_id=run_id,
        format=format,
        copies=copies,
        is_plan=True,
        standard_input=sys.stdin.buffer,
        warn=screen.warn,
    )
    found = shown(partial(make_plan, opened), quiet=output.quiet)
    manifest = opened.folder.read()
    if output.json:
        screen.write_json(found)
    elif not output.quiet:
        screen.data().print(plan_picture(found, manifest))
    if manifest.reason and (output.json or output.quiet):
        screen.errors().print(screen.plain(manifest.reason), markup=False)
    return manifest.exit_code or 0


def _plan_offline(
    job: str, source: str, resolved: Resolved, *, format: str | None, output: Output
) -> int:
    from runner.cli import screen
    from runner.revisit import check_alone

    checked = check_alone(
        job,
        source,
        resolved.settings,
        format=format,
        ready_made=resolved.secrets.ready_made,
        standard_input=sys.stdin.buffer,
    )
    if output.json:
        screen.write_json(_facts_of(job, checked))
    elif not output.quiet:
        screen.data().print(
            screen.facts(
                {
                    "file": f"{source}: {checked.rows:,} rows, no fault found",
                    "rows": f"{checked.valid - checked.duplicates:,} to look at, "
                    f"{checked.duplicates:,} duplicates, {checked.invalid:,} invalid",
                    "users": f"{checked.users:,}",
                    "re-syncs": f"up to {checked.resyncs:,}, as far as the file tells",
                    "next": f"syncshift plan {job} {source}: this was the file alone, no sync was "
                    "looked at, and there is nothing to apply",
                }
            )
        )
    return 0


def _facts_of(job: str, checked: Checked) -> dict[str, object]:
    return {
        "job": job,
        "state": "checked",
        "rows": checked.rows,
        "valid": checked.valid,
        "duplicates": checked.duplicates,
        "invalid": checked.invalid,
        "users": checked.users,
        "resyncs": checked.resyncs,
        "problems": checked.problems,
    }


def _look(run: str, resolved: Resolved, output: Output) -> Verified:
    from runner.cli import screen
    from runner.revisit import visit
    from runner.rounds import verify as look_again

    found = visit(run, resolved, warn=screen.warn)
    return shown(partial(look_again, found), quiet=output.quiet)


def _tell_round(found: Verified, output: Output) -> None:
    from runner.cli import screen

    if output.quiet:
        return
    counts = "  ".join(f"{n:,} {k.replace('_', ' ')}" for k, n in found.findings.items() if n)
    screen.errors().print(f"{found.verified_at}  {counts}", markup=False)
