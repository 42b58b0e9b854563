"""What a session of a run goes by, however many carry its rows."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runner.asking import Asker
from runner.errors import SyncshiftError
from runner.gatekeeper import Decide
from runner.live import Live
from runner.opening import Opened
from runner.record import Record
from runner.results import Index
from runner.waits import Waits
from runner.witness import Witness


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a run. Belongs to one event loop."""

    opened: Opened
    asker: Asker
    record: Record
    waits: Waits
    index: Index
    """How far each row had come when it began."""
    began: str
    """When the run began to send, RFC 3339."""
    show: Callable[[Live], None]
    drain: Callable[[SyncshiftError], None]
    """Ends it; what is carried may land."""
    decide: Decide | None
    witness: Witness | None
    """Who looks on, if anybody does."""
