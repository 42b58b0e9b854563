"""`run` and `resume`: begin a run, or go on with one."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from runner.cli.carrying import must_be_able_to_ask, resolve_settings, see_through
from runner.cli.completing import JobName, RunName
from runner.cli.elsewhere import Workers, bring
from runner.cli.flags import (
    THE_RUN,
    Api,
    Asking,
    Hands,
    Limits,
    Making,
    Output,
    Rollout,
    Telemetry,
)

_RUN = Parameter(group=THE_RUN, negative=(), show_default=False)


def run(
    job: JobName,
    source: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True)],
    /,
    *,
    format: Annotated[str | None, _RUN] = None,
    run_id: Annotated[str | None, _RUN] = None,
    no_copy: Annotated[bool, _RUN] = False,
    asking: Asking = Asking(),
    api: Api = Api(),
    limits: Limits = Limits(),
    hands: Hands = Hands(),
    making: Making = Making(),
    rollout: Rollout = Rollout(),
    workers: Workers = Workers(),
    telemetry: Telemetry = Telemetry(),
    output: Output = Output(),
) -> int:
    """Carry out every change of an input file, and record how each row ended.

    The whole file is checked before the first request. Each sync is read before
    it is changed, so one that is already so is left alone.

    Example: syncshift run migrate-credentials moves.csv --rate 20

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
    """
    from runner.opening import open_new
    from runner.settings import check_run_id

    must_be_able_to_ask(asking, source)
    if run_id is not None:
        check_run_id(run_id)
    resolved = resolve_settings(output, api, limits, hands, making, rollout)
    return see_through(
        lambda warn: open_new(
            job,
            source,
            resolved,
            run_id=run_id,
            format=format,
            copies=not no_copy,
            standard_input=sys.stdin.buffer,
            warn=warn,
        ),
        asking=asking,
        output=output,
        telemetry=telemetry,
        workers=workers,
    )


def resume(
    run: RunName,
    /,
    *,
    past_gate: Annotated[int | None, _RUN] = None,
    asking: Asking = Asking(),
    api: Api = Api(),
    limits: Limits = Limits(),
    hands: Hands = Hands(),
    workers: Workers = Workers(),
    telemetry: Telemetry = Telemetry(),
    output: Output = Output(),
) -> int:
    """Go on with a run that was stopped, interrupted or killed.

    Rows that have ended are passed over. A row that may have been sent is read
    first, and sent only if it did not land. Settings are the run's own; --rate,
    --concurrency, --timeout and --max-failures may be given anew. The failure
    limit counts afresh.

    Example: syncshift resume 20261123-174214-6cd02e

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    past_gate
        Go past the gate of this wave, which failed or was inconclusive.
    """
    from runner.opening import reopen

    must_be_able_to_ask(asking)
    resolved = resolve_settings(output, api, limits, hands)
    bring(run, resolved.places.runs_dir, workers, to_change=True)
    return see_through(
        lambda warn: reopen(run, resolved, past_gate=past_gate, warn=warn),
        asking=asking,
        output=output,
        telemetry=telemetry,
        workers=workers,
    )
