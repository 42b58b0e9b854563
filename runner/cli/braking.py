"""`brake`: pauses the syncs that a run has set going, and starts them again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from runner.cli.carrying import must_be_able_to_ask, resolve_settings, see_through
from runner.cli.completing import RunName
from runner.cli.elsewhere import Workers, bring
from runner.cli.flags import THE_RUN, Api, Asking, Limits, Output

_RUN = Parameter(group=THE_RUN, negative=(), show_default=False)


def brake(
    run: RunName,
    /,
    *,
    release: Annotated[bool, _RUN] = False,
    run_id: Annotated[str | None, _RUN] = None,
    asking: Asking = Asking(),
    api: Api = Api(),
    limits: Limits = Limits(),
    workers: Workers = Workers(),
    output: Output = Output(),
) -> int:
    """Pause the syncs whose re-sync a run has started and that are still going, as a new run.

    A run that is at work is told to pause first, and stays paused. A release starts
    exactly those syncs again that were paused so: they go on with their re-syncs.

    Example: syncshift brake 20261123-174214-6cd02e

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    release
        Start the syncs again that brakes of this run have paused.
    run_id
        Name of the new run (time and a short random part).
    """
    from runner.brake import open_brake, open_release
    from runner.settings import check_run_id

    must_be_able_to_ask(asking)
    if run_id is not None:
        check_run_id(run_id)
    resolved = resolve_settings(output, api, limits)
    bring(run, resolved.places.runs_dir, workers, to_change=True)
    opens = open_release if release else open_brake
    return see_through(
        lambda warn: opens(run, resolved, run_id=run_id, warn=warn),
        asking=asking,
        output=output,
        workers=workers,
    )
