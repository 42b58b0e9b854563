"""What `run.json` says of a run."""

from __future__ import annotations

from typing import Literal

import msgspec

from runner.judged import GateJudged
from runner.settings import Settings
from runner.throttle import Learned
from runner.zones import Start


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """The input as the run knows it."""

    name: str
    """As it was given; ``-`` for standard input."""
    file: str
    """Where it is read from: a name in the run's directory, or an absolute path."""
    format: str
    compression: str | None = None
    bytes: int | None = None
    """Of the file as it is, compressed or not; None until it was read whole."""
    sha256: str | None = None
    """Likewise."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: what the run is, durable before anything else happens."""

    v: int = 1
    run_id: str
    job: str
    input: Input
    settings: Settings
    versions: dict[str, str]
    parent: str | None = None
    """The run that this one goes back to."""
    relation: Literal["retry", "rollback", "brake", "release"] | None = None
    """What this run is to its parent."""
    undoes: bool = False
    """It puts back what another run changed: a rollback, or a retry of one."""
    is_plan: bool = False
    """Begun by ``plan``: nothing is sent before ``apply``."""
    planned: str | None = None
    """When its plan was begun, if it was finished since."""
    applied: str | None = None
    """When ``apply`` took it up."""
    state: str = "checking"
    """checking, planned, running, stopped, interrupted, finished or refused."""
    rows: int | None = None
    """Rows of the input; None until it was checked."""
    users: int | None = None
    wave_rows: tuple[int, ...] = ()
    """Rows that each wave has; empty: they go all at once, or sending has not begun."""
    gates: tuple[GateJudged, ...] = ()
    """What the gates came to that were judged, in order. The run stands before the last one
    if nobody has passed it."""
    starts: tuple[Start, ...] = ()
    """When each zone of ``--at`` starts, the next one first. Worked out anew each time that it is
    opened, until sending has begun; from then on they stand."""
    created: str
    started: str | None = None
    """When sending began."""
    ended: str | None = None
    reason: str | None = None
    """Why it did not finish, in words."""
    exit_code: int | None = None
    learned: Learned | None = None
    """What its throttle had learned of the host in the end."""
