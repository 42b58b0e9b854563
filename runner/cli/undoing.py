"""`retry` and `rollback`: new runs that go back to an earlier one."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from runner.cli.carrying import must_be_able_to_ask, resolve_settings, see_through
from runner.cli.completing import RunName
from runner.cli.elsewhere import Workers, bring
from runner.cli.flags import THE_RUN, Api, Asking, Hands, Limits, Output, Rollout, Telemetry

_RUN = Parameter(group=THE_RUN, negative=(), show_default=False)


def retry(
    run: RunName,
    /,
    *,
    classes: Annotated[str | None, Parameter(name="--class", group=THE_RUN, negative=())] = None,
    run_id: Annotated[str | None, _RUN] = None,
    asking: Asking = Asking(),
    api: Api = Api(),
    limits: Limits = Limits(),
    hands: Hands = Hands(),
    rollout: Rollout = Rollout(),
    workers: Workers = Workers(),
    telemetry: Telemetry = Telemetry(),
    output: Output = Output(),
) -> int:
    """Send the failed and unprocessed rows of a run again, as a new run.

    A row that was retried before counts as it ended last, so none is in two
    retries. Settings are those of the run; limits and --until may be given anew.

    Example: syncshift retry 20261123-174214-6cd02e --class exhausted,unprocessed

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    classes
        Which rows: outcomes or error classes of failed.csv, or unprocessed, parted by commas
        (exhausted,conflicted,unconfirmed,errored,unprocessed).
    run_id
        Name of the new run (time and a short random part).
    """
    from runner.redo import classes_of, open_retry
    from runner.settings import check_run_id

    must_be_able_to_ask(asking)
    if run_id is not None:
        check_run_id(run_id)
    wanted = None if classes is None else classes_of(classes)
    resolved = resolve_settings(output, api, limits, hands, rollout)
    bring(run, resolved.places.runs_dir, workers, to_change=True)
    return see_through(
        lambda warn: open_retry(run, resolved, classes=wanted, run_id=run_id, warn=warn),
        asking=asking,
        output=output,
        telemetry=telemetry,
        workers=workers,
    )


def rollback(
    run: RunName,
    /,
    *,
    only: Annotated[bool, _RUN] = False,
    run_id: Annotated[str | None, _RUN] = None,
    asking: Asking = Asking(),
    api: Api = Api(),
    limits: Limits = Limits(),
    hands: Hands = Hands(),
    rollout: Rollout = Rollout(),
    workers: Workers = Workers(),
    telemetry: Telemetry = Telemetry(),
    output: Output = Output(),
) -> int:
    """Take every sync that a run may have changed back to what it was, as a new run.

    Only a sync that still holds what the run wrote is changed; any other ends
    conflicted, untouched. The retries of the run are taken back with it.

    Example: syncshift rollback 20261123-174214-6cd02e

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    only
        This run alone, without its retries.
    run_id
        Name of the new run (time and a short random part).
    """
    from runner.settings import check_run_id
    from runner.undo import open_rollback

    must_be_able_to_ask(asking)
    if run_id is not None:
        check_run_id(run_id)
    resolved = resolve_settings(output, api, limits, hands, rollout)
    bring(run, resolved.places.runs_dir, workers, to_change=True)
    return see_through(
        lambda warn: open_rollback(run, resolved, only=only, run_id=run_id, warn=warn),
        asking=asking,
        output=output,
        telemetry=telemetry,
        workers=workers,
    )
