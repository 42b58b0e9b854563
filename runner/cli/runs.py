"""`run` and `resume`: open, ask, carry, tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import Parameter

from runner.cli.flags import THE_RUN, Api, Limits, Making, Output, told
from runner.errors import NotConfirmed, SyncshiftError

if TYPE_CHECKING:
    from runner.live import Live
    from runner.opening import Opened
    from runner.results import Summary
    from runner.settings import Resolved

_RUN = Parameter(group=THE_RUN, negative=(), show_default=False)


def run(
    job: str,
    source: Annotated[str, Parameter(name="INPUT", allow_leading_hyphen=True)],
    /,
    *,
    format: Annotated[str | None, _RUN] = None,
    run_id: Annotated[str | None, _RUN] = None,
    no_copy: Annotated[bool, _RUN] = False,
    yes: Annotated[bool, _RUN] = False,
    api: Api = Api(),
    limits: Limits = Limits(),
    making: Making = Making(),
    output: Output = Output(),
) -> int:
    """Carry out every change of an input file, and record how each row ended.

    The whole file is checked before the first request. Each sync is read before
    it is changed, so one that is already so is left alone.

    Example: syncshift run migrate-credentials moves.csv --rate 20

    Parameters
    ----------
    job
        migrate-credentials, change-frequency, update-syncs, or a job of another package.
    source
        CSV or JSONL file, also .gz or .zst; - for standard input.
    format
        csv or jsonl, when the name does not tell.
    run_id
        Name of the run (time and a short random part).
    no_copy
        Leave the input where it is; otherwise it is copied into the run.
    yes
        Do not ask before sending. Required without a terminal.
    """
    from runner.opening import open_new
    from runner.settings import check_run_id

    _must_be_able_to_ask(yes, source)
    if run_id is not None:
        check_run_id(run_id)
    resolved = _resolve(output, api, limits, making)
    return _see_through(
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
        yes=yes,
        output=output,
    )


def resume(
    run: str,
    /,
    *,
    yes: Annotated[bool, _RUN] = False,
    api: Api = Api(),
    limits: Limits = Limits(),
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
    yes
        Do not ask before sending. Required without a terminal.
    """
    from runner.opening import reopen

    _must_be_able_to_ask(yes, "")
    resolved = _resolve(output, api, limits)
    return _see_through(lambda warn: reopen(run, resolved, warn=warn), yes=yes, output=output)


def _resolve(output: Output, *groups: object) -> Resolved:
    from runner.log import configure
    from runner.rollout import FailureLimit
    from runner.settings import resolve

    configure(output.log_level)
    resolved = resolve(told(output, *groups), environment=os.environ, directory=Path.cwd())
    FailureLimit.parse(resolved.settings.max_failures)
    return resolved


def _must_be_able_to_ask(yes: bool, source: str) -> None:
    if yes:
        return
    if source == "-":
        raise NotConfirmed("the input comes from standard input, so nobody can be asked; add --yes")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed("there is no terminal to ask at; add --yes to send without being asked")


def _see_through(
    open_run: Callable[[Callable[[str], None]], Opened], *, yes: bool, output: Output
) -> int:
    from runner.cli import screen
    from runner.opening import give_up

    opened = open_run(screen.warn)
    if opened.resumed and opened.manifest.state == "finished":
        return _tell_again(opened, output)
    try:
        left = opened.left
        asks = left > 0 and not yes
        if asks or not output.quiet:
            screen.errors().print(_intention(opened))
        if asks and not screen.ask(f"Send up to {left:,} changes?"):
            raise NotConfirmed("not confirmed; nothing was sent")
    except KeyboardInterrupt:
        opened.tokens.close()
        opened.folder.unlock()
        run_id = opened.folder.run_id
        screen.warn(f"nothing was sent; go on whenever you like: syncshift resume {run_id}")
        raise
    except SyncshiftError as refusal:
        give_up(opened, refusal)
        raise
    summary = _carry(opened, quiet=output.quiet)
    _tell(opened, summary, output)
    code = summary.exit_code
    return 1 if code is None else code


def _tell_again(opened: Opened, output: Output) -> int:
    """Show what a run came to that has nothing left, and leave it as it is."""
    from runner.account import add_up

    opened.tokens.close()
    opened.folder.unlock()
    summary = add_up(opened.folder, opened.manifest, opened.job, files=False)
    _tell(opened, summary, output)
    return summary.exit_code or 0


def _carry(opened: Opened, *, quiet: bool) -> Summary:
    import anyio

    from runner.cli import screen
    from runner.run import carry_out

    with ExitStack() as shown:

        def show(live: Live) -> None:
            shown.enter_context(screen.progress(live, quiet=quiet))

        def leave(code: int) -> NoReturn:
            shown.close()
            os._exit(code)

        async def main() -> Summary:
            return await carry_out(opened, show=show, leave=leave)

        return anyio.run(main, backend_options={"use_uvloop": _has_uvloop()})


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401  # there or not is the question
    except ImportError:
        return False
    return True


def _tell(opened: Opened, summary: Summary, output: Output) -> None:
    from runner.cli import screen

    reason = opened.folder.read().reason
    if output.json:
        screen.write_json(summary)
    elif not output.quiet:
        folder = str(opened.folder.path)
        screen.data().print(screen.result(summary, folder=folder, reason=reason))
    if reason and (output.json or output.quiet):
        # The summary does not tell it, and it is what a person needs to know.
        screen.errors().print(screen.plain(reason), markup=False)


def _intention(opened: Opened) -> Any:
    """Return what is about to happen, in numbers."""
    from rich.console import Group
    from rich.text import Text

    from runner.cli.screen import facts
    from runner.run import limit_of

    checked, settings = opened.checked, opened.settings
    left = opened.left
    rows = [f"{left:,} to carry"]
    if opened.resumed:
        rows.append(f"{checked.rows - left:,} ended before")
    if checked.duplicates:
        rows.append(f"{checked.duplicates:,} duplicates")
    if checked.invalid:
        rows.append(f"{checked.invalid:,} invalid, passed over")
    rate = f"{settings.rate:g} requests a second" if settings.rate else "no ceiling on the rate"
    limits = (
        f"{settings.concurrency} requests in flight, {rate}, {settings.max_attempts} attempts each"
    )
    failures = limit_of(opened).in_words(rows=left)
    resyncs = (
        f"up to {min(checked.resyncs, left):,}: a changed credential makes Paragon sync all anew"
        if checked.resyncs
        else "none"
    )
    head = Text.assemble((opened.job.name, "bold"), " on ", (settings.base_url, "bold"))
    known = {
        "run": f"{opened.folder.run_id} ({opened.folder.path})",
        "rows": ", ".join(rows),
    }
    if not left:
        return Group(head, facts(known))
    return Group(
        head,
        facts(
            {
                **known,
                "users": f"{checked.users:,}",
                "re-syncs": resyncs,
                "limits": limits,
                "failures": failures + (", counted afresh" if opened.resumed else ""),
                "proof": "accepted: Paragon took the request; whether it is in force is not read",
            }
        ),
    )
