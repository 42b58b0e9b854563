"""`pause`, `continue`, `set`, `stop`: orders for a run that is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from runner.cli.completing import RunName
from runner.cli.elsewhere import Database, give_elsewhere
from runner.cli.flags import THE_RUN, Output
from runner.errors import RunRefused, SettingsError

if TYPE_CHECKING:
    from runner.control import Order

_WHY = Annotated[str | None, Parameter(group=THE_RUN, negative=(), show_default=False)]
_NEW = Parameter(group=THE_RUN, negative=(), show_default=False)


def pause(
    run: RunName,
    /,
    *,
    for_: Annotated[str | None, Parameter(name="--for", group=THE_RUN, negative=())] = None,
    reason: _WHY = None,
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """Have a run at work send nothing more, reads included; what is in flight lands.

    A pause does not outlive its process: a run that was killed and is resumed sends again.

    Example: syncshift pause friday --for 30m --reason "warehouse is being upgraded"

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    for_
        How long: 30m. Without it, until `syncshift continue`.
    reason
        Why; it stands in the run's events and is shown.
    """
    from runner.control import Order

    for_s = None if for_ is None else _duration_s(for_)
    return _give(run, Order(command="pause", reason=reason, for_s=for_s), database, output)


def go_on(
    run: RunName,
    /,
    *,
    reason: _WHY = None,
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """End the pause of a run; at a gate that waits for a person, say yes.

    Example: syncshift continue friday

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    reason
        Why; it stands in the run's events.
    """
    from runner.control import Order

    return _give(run, Order(command="continue", reason=reason), database, output)


def set_limits(
    run: RunName,
    /,
    *,
    rate: Annotated[str | None, _NEW] = None,
    concurrency: Annotated[str | None, _NEW] = None,
    max_resyncs: Annotated[str | None, _NEW] = None,
    max_failures: Annotated[str | None, _NEW] = None,
    reason: _WHY = None,
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """Change limits of a run at work, from now on; `resume` keeps them.

    Example: syncshift set friday --rate 10 --max-resyncs 5 --reason "quieter, please"

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    rate
        Most requests per second.
    concurrency
        Most requests in flight.
    max_resyncs
        Most re-syncs of this run that are unfinished at once, or none for any number.
    max_failures
        Stop when more than N rows, or P% of at least 20 ended rows, have failed.
    reason
        Why; it stands in the run's events.
    """
    from runner.control import Order
    from runner.knobs import KNOBS
    from runner.rollout import FailureLimit

    given = {
        "rate": rate,
        "concurrency": concurrency,
        "max-resyncs": max_resyncs,
        "max-failures": max_failures,
    }
    values = {}
    for name, text in given.items():
        if text is not None:
            try:
                values[name.replace("-", "_")] = KNOBS[name].read(text)
            except ValueError as error:
                raise SettingsError(f"--{name} {error}; got {text!r}") from None
    if max_failures is not None:
        FailureLimit.parse(max_failures)
    return _give(run, Order(command="set", reason=reason, **values), database, output)


def stop(
    run: RunName,
    /,
    *,
    reason: _WHY = None,
    database: Database = Database(),
    output: Output = Output(),
) -> int:
    """Have a run take no more rows; what is in flight lands, and it can be resumed.

    Returns as soon as the run has said so. The run itself ends with exit code 4.

    Example: syncshift stop friday --reason "wrong account"

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    reason
        Why; it stands in run.json and is told as the reason for the stop.
    """
    from runner.control import Order

    return _give(run, Order(command="stop", reason=reason), database, output)


def _duration_s(text: str) -> float:
    from runner.knobs import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise SettingsError(f"--for {error}; got {text!r}") from None


def _give(run: str, order: Order, database: Database, output: Output) -> int:
    """Give an order, and tell what the run says. Raises `RunRefused` when that is no."""
    from runner.cli import screen
    from runner.cli.looking import runs_dir_of
    from runner.control import ask, order_of
    from runner.folder import Folder

    order, folder = order_of(order), Folder(runs_dir_of(output) / run)
    reply = None if folder.is_locked() else give_elsewhere(run, order, database)
    if reply is None:
        reply = ask(Folder.open(folder.path.parent, run), order)
    if not reply.done:
        raise RunRefused(f"run {run}: {reply.said}")
    if output.json:
        screen.write_json(reply)
    elif not output.quiet:
        screen.data().print(screen.plain(f"{run} {reply.said}"), markup=False)
    return 0
