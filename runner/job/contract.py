"""What a job must answer.

A job takes data and returns data. It never waits, never sends and keeps no
state, so every question may be asked any number of times, in any order.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from runner.model import Change, Field, Progress, Request, Response, Row, Sighting, State


@runtime_checkable
class Job(Protocol):
    """A kind of update: how to read, write, check and undo one thing."""

    name: str
    """What stands after ``syncshift run``: lower-case words joined by ``-``."""

    owns: tuple[Field, ...]
    """The fields this job may change. Every other known field is refused in its input."""

    implied: State
    """What a row asks for that gives no value itself; empty: it must give one."""

    def parse(self, row: Row) -> Change:
        """Return what *row* asks for. Its fields have passed their own rules.

        Raises `runner.errors.InvalidRow` when together they make no sense.
        """
        ...

    def read(self, change: Change) -> Request:
        """Return the request that shows the present state; it must change nothing."""
        ...

    def observe(self, response: Response) -> State | None:
        """Return the owned fields that a good answer to `read` tells.

        A field that the API does not tell is absent. None when the answer
        cannot be understood at all.
        """
        ...

    def sight(self, response: Response) -> Sighting:
        """Return what else a good answer to `read` tells."""
        ...

    def progress(self, response: Response) -> Progress:
        """Return what a good answer to `read` tells of the work that a change has set off."""
        ...

    def write(self, change: Change) -> Request:
        """Return the request that makes *change*. Sending it twice must do no more than once."""
        ...

    def echoes(self, change: Change, response: Response) -> bool:
        """Tell whether a good answer to `write` speaks of *change* and of nothing else."""
        ...

    def verify(self, change: Change, state: State) -> bool | None:
        """Tell whether *state* is what *change* desires; None: the API does not say."""
        ...

    def inverse(self, change: Change, before: State) -> Change | None:
        """Return the change that restores *before*; None: it cannot be restored."""
        ...

    def caution(self, change: Change, before: State, seen: Sighting) -> str | None:
        """Return what a person should know before *change* is made to a sync that is so."""
        ...

    def starts_resync(self, change: Change, before: State | None) -> bool:
        """Tell whether *change*, made to a sync in state *before*, may start a full re-sync.

        *before* is None when it was not read.
        """
        ...
