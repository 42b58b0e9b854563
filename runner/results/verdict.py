"""What a run as a whole came to, and the exit code that says so. Arguments in, values out."""

from __future__ import annotations

import enum

from runner.errors import RunStopped, SyncshiftError, UsageError


class RunVerdict(enum.StrEnum):
    """What a run came to."""

    SUCCEEDED = "succeeded"
    """Every row succeeded."""
    FAILED = "failed"
    """Every row ended, and some failed."""
    STOPPED = "stopped"
    """A limit or a fault of the whole run stopped it; rows remain."""
    INTERRUPTED = "interrupted"
    """A signal, a crash or a power cut ended it; rows remain, and it can be resumed."""
    REFUSED = "refused"
    """The input was refused before anything was sent."""


_EXIT_CODES = {
    RunVerdict.SUCCEEDED: 0,
    RunVerdict.FAILED: 3,
    RunVerdict.STOPPED: RunStopped.exit_code,
    RunVerdict.REFUSED: UsageError.exit_code,
}
_SIGNALED = 128
"""Shells add this to the number of the signal that ended a command."""


def verdict_of(
    state: str, *, failed: int, unprocessed: int, live: bool = False
) -> RunVerdict | None:
    """Return what a run in *state* (of ``run.json``) came to; None: it is at work, or only planned.

    *live* tells whether a process holds the run's lock: one that is `checking`
    or `running` without it was killed. Where no row remains there was nothing
    left to stop or to interrupt, so the rows alone decide.

    Raises `SyncshiftError` for a state that this version does not know.
    """
    if state == "planned":
        return None
    if state == "refused":
        return RunVerdict.REFUSED
    if state in ("checking", "running"):
        if live:
            return None
        # A run that was killed while it checked its input has settled nothing yet.
        return _ended(failed, unprocessed, RunVerdict.INTERRUPTED, counted=state == "running")
    if state == "interrupted":
        return _ended(failed, unprocessed, RunVerdict.INTERRUPTED)
    if state in ("stopped", "finished"):
        return _ended(failed, unprocessed, RunVerdict.STOPPED)
    raise SyncshiftError(
        f"run.json: state {state!r} is not known; use the version of Syncshift that made the run"
    )


def exit_code_of(verdict: RunVerdict | None, *, signal: int | None = None) -> int | None:
    """Return the exit code for *verdict*; *signal* is the one that interrupted the run.

    None for a run that is at work, and for one that was killed before it could
    give a code.
    """
    if verdict is RunVerdict.INTERRUPTED:
        return None if signal is None else _SIGNALED + signal
    return None if verdict is None else _EXIT_CODES[verdict]


def _ended(
    failed: int, unprocessed: int, otherwise: RunVerdict, *, counted: bool = True
) -> RunVerdict:
    if unprocessed or not counted:
        return otherwise
    return RunVerdict.FAILED if failed else RunVerdict.SUCCEEDED
