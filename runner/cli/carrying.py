"""From an opened run to its exit code: show what is about to happen, ask, carry, tell."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, Self, TypeAlias, TypeVar

from runner.cli.elsewhere import Workers, field_of, leave_to_workers, may_be_carried
from runner.cli.flags import Asking, Output, Telemetry, told
from runner.cli.intending import intention
from runner.errors import NotConfirmed, SettingsError, SyncshiftError

if TYPE_CHECKING:
    from runner.cli.measuring import Measuring
    from runner.live import Live
    from runner.opening import Opened
    from runner.results import Summary
    from runner.run import Crowd
    from runner.run.field import Field
    from runner.settings import Resolved

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class _Work(Protocol[_T_co]):
    """What takes a while, and is shown meanwhile."""

    def __call__(
        self, *, show: Callable[[Live], None], leave: Callable[[int], NoReturn]
    ) -> Awaitable[_T_co]: ...


_Opens: TypeAlias = "Callable[[Callable[[str], None]], Opened]"

_MANY_RESYNCS = 100
"""Above this many re-syncs a yes is not enough: the number is to be typed."""


def resolve_settings(output: Output, *groups: object) -> Resolved:
    """Work out every setting of a command. Raises `SettingsError`."""
    from runner.log import configure
    from runner.rollout import FailureLimit, Gate, Waves
    from runner.settings import resolve
    from runner.timetable import must_make_sense

    configure(output.log_level)
    flags = told(output, *groups)
    resolved = resolve(flags, environment=os.environ, directory=Path.cwd())
    if flags.get("start-at") is not None:
        _check_start(resolved.settings.start_at or "")
    FailureLimit.parse(resolved.settings.max_failures)
    Gate.parse(resolved.settings.gates)
    if resolved.settings.waves is not None:
        Waves.parse(resolved.settings.waves)
    if flags.get("zone-column") is not None and resolved.settings.at is None:
        raise SettingsError(
            "--zone-column says whose clock --at goes by, and there is no --at; add one, such as "
            "--at 02:00"
        )
    must_make_sense(resolved.settings)
    return resolved


def _check_start(start: str) -> None:
    from runner.schedule import check_start

    now = datetime.datetime.now(datetime.UTC)
    try:
        check_start(datetime.datetime.fromisoformat(start), now=now)
    except ValueError as error:
        raise SettingsError(f"--start-at {error}; got {start}") from None


def must_be_able_to_ask(asking: Asking, source: str = "") -> None:
    """Make sure that somebody can be asked, or need not be. Raises `NotConfirmed`.

    *source* is the input; one that is piped leaves nobody to be asked.
    """
    if asking.yes:
        return
    if source == "-":
        raise NotConfirmed("the input comes from standard input, so nobody can be asked; add --yes")
    if not _somebody_is_there():
        raise NotConfirmed("there is no terminal to ask at; add --yes to send without being asked")


def _somebody_is_there() -> bool:
    # An input that was piped is closed by now.
    return not sys.stdin.closed and sys.stdin.isatty() and sys.stderr.isatty()


def see_through(
    open_run: _Opens,
    *,
    asking: Asking,
    output: Output,
    telemetry: Telemetry = Telemetry(),
    workers: Workers = Workers(),
) -> int:
    """Open a run, ask, carry it to its end, tell what came of it; return the exit code.

    *open_run* is handed what prints a warning. Raises `SyncshiftError`.
    """
    from runner.cli.measuring import measured

    with measured(telemetry, quiet=output.quiet) as measuring:
        return _see_through(open_run, asking, output, measuring, workers)


def _see_through(
    open_run: _Opens, asking: Asking, output: Output, measuring: Measuring, workers: Workers
) -> int:
    from runner.cli import screen
    from runner.opening import give_up
    from runner.run import gather, may_be_shared

    opened = open_run(screen.warn)
    if opened.resumed and opened.manifest.state == "finished":
        return _tell_again(opened, output)
    try:
        watched = measuring.witness is not None
        may_be_carried(opened.settings, workers, watched=watched)
        may_be_shared(opened.settings, watched=watched)
        field = field_of(opened.settings, workers)
        _confirm(opened, asking, output)
    except KeyboardInterrupt:
        opened.tokens.close()
        opened.folder.unlock()
        run_id = opened.folder.run_id
        again = "apply" if opened.manifest.planned and not opened.manifest.applied else "resume"
        screen.warn(f"nothing was sent; go on whenever you like: syncshift {again} {run_id}")
        raise
    except SyncshiftError as refusal:
        give_up(opened, refusal)
        raise
    if workers.detach and opened.left:
        return leave_to_workers(opened, workers, quiet=output.quiet)
    # Before there is a thread, or an event loop: they do not go with a process that is forked.
    crowd = gather(opened, in_a_loop) if field is None else None
    if asking.ui:
        from runner.cli.watching import tell_of_page

        tell_of_page(opened.folder)
    summary = _carry(opened, measuring, crowd=crowd, field=field, quiet=output.quiet)
    _tell(opened, summary, output)
    code = summary.exit_code
    return 1 if code is None else code


def _confirm(opened: Opened, asking: Asking, output: Output) -> None:
    """Show what is about to happen, and have it confirmed. Raises `NotConfirmed`."""
    from runner.cli import screen

    most = opened.left - opened.following if opened.changes is None else opened.changes
    resyncs = opened.resyncs
    asks = most > 0 and not asking.yes
    if asks or not output.quiet:
        screen.errors().print(intention(opened))
    elif opened.irreversible:
        for remark in opened.remarks:
            screen.warn(remark)
    if asking.expect is not None and asking.expect != resyncs:
        raise NotConfirmed(
            f"--expect {asking.expect}, but up to {resyncs} re-syncs would start; nothing was sent"
        )
    if not asks:
        return
    if resyncs > _MANY_RESYNCS:
        question = f"Send up to {most:,} changes? Type the number of re-syncs to go on:"
        agreed = screen.ask_for(question) in {f"{resyncs}", f"{resyncs:,}"}
    else:
        agreed = screen.ask(f"Send up to {most:,} changes?")
    if not agreed:
        raise NotConfirmed("not confirmed; nothing was sent")


def _tell_again(opened: Opened, output: Output) -> int:
    """Show what a run came to that has nothing left, and leave it as it is."""
    from runner.account import add_up

    opened.tokens.close()
    opened.folder.unlock()
    summary = add_up(opened.folder, opened.manifest, opened.job, files=False)
    _tell(opened, summary, output)
    return summary.exit_code or 0


def _carry(
    opened: Opened,
    measuring: Measuring,
    *,
    crowd: Crowd | None,
    field: Field | None,
    quiet: bool,
) -> Summary:
    from runner.run import carry_out

    with _Stand(quiet=quiet, run_id=opened.folder.run_id) as stand:
        decide = stand.decide if _somebody_is_there() else None
        show = measuring.also(opened, stand.show)
        carrying = partial(carry_out, opened, show=show, leave=stand.leave, decide=decide)
        return in_a_loop(partial(carrying, crowd=crowd, field=field, witness=measuring.witness))


def shown(work: _Work[_T], *, quiet: bool) -> _T:
    """Do *work* in an event loop, show how it goes, and return what it returns.

    It is handed what shows its live figures, and what ends the process at once.
    """
    with _Stand(quiet=quiet) as stand:
        return in_a_loop(partial(work, show=stand.show, leave=stand.leave))


def in_a_loop(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do *work* in an event loop, and return what it returns."""
    import anyio

    async def main() -> _T:
        return await work()

    return anyio.run(main, backend_options={"use_uvloop": _has_uvloop()})


class _Stand:
    """What a person has of some work while it goes on: a picture, and a question at times."""

    def __init__(self, *, quiet: bool, run_id: str | None = None) -> None:
        """*run_id*: of the run that can be resumed when it is left."""
        self._quiet = quiet
        self._run_id = run_id
        self._live: Live | None = None
        self._pictures = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pictures.close()

    def show(self, live: Live) -> None:
        """Show how *live* goes, from now on."""
        from runner.cli import screen

        self._live = live
        self._pictures.enter_context(screen.progress(live, quiet=self._quiet))

    def leave(self, code: int) -> NoReturn:
        """End the process at once."""
        from runner.cli import screen

        self._pictures.close()
        if self._run_id is not None and not self._quiet:
            screen.warn(
                "left at once; what was in flight is looked at when the run goes on: "
                f"syncshift resume {self._run_id}"
            )
        os._exit(code)

    async def decide(self, question: str) -> bool:
        """Ask the person at the terminal, while the work goes on; the picture makes room."""
        from runner.cli import screen

        self._pictures.close()
        try:
            return await screen.ask_meanwhile(question)
        finally:
            if self._live is not None:
                self.show(self._live)


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
