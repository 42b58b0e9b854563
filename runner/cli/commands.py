"""The table of commands, and the one switch from errors to exit codes."""

from __future__ import annotations

import difflib
import errno
import re
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from runner.cli import (
    braking,
    completing,
    controls,
    doctoring,
    local,
    looking,
    making,
    plans,
    runs,
    scheduling,
    undoing,
    watching,
    working,
)
from runner.errors import SettingsError, SyncshiftError
from runner.version import VERSION

_INTERRUPTED = 130
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_CLOSE = 0.6
"""How alike two words must be for one to be meant by the other."""

app = App(
    name="syncshift",
    version=VERSION,
    suppress_keyboard_interrupt=False,
    help="Moves thousands of Paragon Syncs to new settings, and proves what happened row by row.",
    help_epilogue=(
        "Exit codes: 0 every row succeeded, 1 unexpected error, 2 refused before anything was "
        "sent, 3 finished with failed rows, 4 stopped with rows left, 5 the run cannot be opened, "
        "129/130/143 interrupted."
    ),
)
for _command in (
    plans.plan,
    plans.apply,
    runs.run,
    runs.resume,
    plans.verify,
    undoing.retry,
    undoing.rollback,
    braking.brake,
    looking.status,
    looking.report,
    watching.watch,
    watching.ui,
    local.simulate,
    local.demo,
):
    app.command(_command)
app.command(controls.pause)
app.command(controls.go_on, name="continue")
app.command(controls.set_limits, name="set")
app.command(controls.stop)
app.command(making.make_input, name="input")
app.command(doctoring.doctor)
app.command(doctoring.config)
app.command(completing.completion)
app.command(working.worker)
app.command(working.engine)
app.command(scheduling.schedule)


def run_words(words: Sequence[str]) -> int:
    """Carry out one command line and return its exit code."""
    as_json = "--json" in words
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _refuse(SettingsError(_in_our_words(error)), as_json=as_json)
    except SyncshiftError as error:
        return _refuse(error, as_json=as_json)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit:
        # The reader of a help page left before its end; rich can tell it in no other way.
        return 0
    except OSError as error:
        # Files are read and written in our own words; what has no name is a stream.
        if error.filename is None and error.errno in _NO_ROOM:
            from runner.cli.streams import lost_output

            return _refuse(lost_output(error), as_json=False)
        return _own_up(error)
    except Exception as error:  # noqa: BLE001  # the last line of defense: no secret in a traceback
        return _own_up(error)
    return code if isinstance(code, int) else 0


def _in_our_words(error: CycloptsError) -> str:
    """Return what the parser found, without a suggestion that is far from what was typed."""
    said = str(error)
    guess = re.search(r'"?([\w-]+)"?\. (Did you mean "?([\w-]+)"?\?)', said)
    if guess is not None:
        typed, meant = guess[1].strip("-"), guess[3].strip("-")
        if not difflib.get_close_matches(typed, [meant], cutoff=_CLOSE):
            said = said.replace(guess[2], "").strip()
    return f"{said} See `syncshift --help`."


def _refuse(error: SyncshiftError, *, as_json: bool) -> int:
    from runner.cli import screen

    screen.tell_error(error, as_json=as_json)
    return error.exit_code


def _own_up(error: Exception) -> int:
    """Tell of a fault of our own: where, but no values, for they could be anything."""
    from runner.cli import screen

    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    screen.errors().print(
        screen.plain(
            f"unexpected error: {type(error).__name__}\n{where}\n"
            "This is a fault of Syncshift. The run's folder is whole and can be resumed."
        ),
        markup=False,
    )
    return SyncshiftError.exit_code
