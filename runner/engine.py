"""The seam between whoever leads a run and whoever carries its rows, on this machine or on many.

A run that is carried by several workers is cut into shards. The *conductor* submits them to an
`Engine`, one wave after the other, watches what they come to, judges gates and holds the
limits. A *worker* carries the rows of a shard through the same pipeline as ever, and asks its
`Board` for all that the workers of a run share: when to send, who holds everybody, how many
re-syncs may be unfinished.

A worker tells, and is told in return; nothing is ordered in any other way. So an order that
was lost was never given, and the next word of the worker says by which one it acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from runner import errors
from runner.errors import Interrupted, RunFault, SyncshiftError

TELL_EVERY_S = 0.25
"""A worker tells at least so often, and at once when something happened that concerns others."""
LONGEST_LEASE_S = 0.5
"""So far ahead departures are leased at most: what a stop, or a death, can waste."""
AHEAD_S = 0.25
"""What begins later than this is not leased yet."""
MOST_LEASED = 100
"""Departures in one lease."""


class Shard(msgspec.Struct, frozen=True):
    """A contiguous range of rows, for one worker at a time."""

    number: int
    """1 for the first of the run; its journals go by it."""
    first_row: int
    last_row: int
    """The last one that belongs to it."""
    wave: int | None = None
    """Only rows of this wave are carried; None: all of the range."""
    fence: int = 1
    """Counts the attempts. Whoever carries an earlier one has been given up, and may send and
    record nothing more."""
    starts_at: str | None = None
    """Only rows that start at this moment, RFC 3339, are carried; None: all of the range."""

    def again(self) -> Shard:
        """Return the shard as its next worker gets it, when the present one was given up."""
        return msgspec.structs.replace(self, fence=self.fence + 1)


class Reason(msgspec.Struct, frozen=True):
    """An error of our own tree that can be sent: why a run ends early."""

    kind: str
    """The name of its class."""
    said: str
    signal_number: int | None = None

    @classmethod
    def of(cls, error: SyncshiftError) -> Reason:
        """Return *error* as it is sent."""
        number = error.signal_number if isinstance(error, Interrupted) else None
        return cls(type(error).__name__, str(error), number)

    def error(self) -> SyncshiftError:
        """Return the error again; one of an unknown kind is a fault of the run."""
        if self.signal_number is not None:
            return Interrupted(self.said, signal_number=self.signal_number)
        kind = getattr(errors, self.kind, RunFault)
        known = isinstance(kind, type) and issubclass(kind, SyncshiftError)
        return kind(self.said) if known else RunFault(self.said)


class Held(msgspec.Struct, frozen=True):
    """Why nobody moves, as one tells it another; clocks are not shared, so times are left."""

    reason: str
    """One word, as a wait is called."""
    detail: str
    """For a person."""
    left_s: float | None = None
    """How much longer it lasts; None: until it is no longer told."""


class Waited(msgspec.Struct, frozen=True):
    """One reason why somebody waits at a worker."""

    reason: str
    detail: str
    left_s: float | None = None
    """Until it ends; None: not known."""


class Event(msgspec.Struct, frozen=True):
    """What a worker did that belongs into the run's events."""

    name: str
    fields: dict[str, Any] = {}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells of one shard. Its last word counts, so nothing is lost with a word."""

    shard: int
    fence: int
    counts: dict[str, int] = {}
    """Rows by how they ended, since the shard was submitted, whoever carried it."""
    ended: int = 0
    failed: int = 0
    """Likewise, as the failure limit counts them."""
    in_flight: int = 0
    """Requests on their way."""
    followed: int = 0
    """Rows that were accepted and are still to be proved."""
    looks_again_in_s: float | None = None
    """When the next of these is looked at."""
    tickets: int = 0
    """Re-syncs that may be unfinished here without asking: at least those that are."""
    unfinished: int = 0
    """Those that are."""
    wanted: int = 0
    """How many more it could start now."""
    held: Held | None = None
    """The server asked everybody to wait: others do so as well."""
    waits: tuple[Waited, ...] = ()
    events: tuple[Event, ...] = ()
    """Those that were not told before."""
    is_read: bool = False
    """All rows of the shard were taken: what is left is under way, or asleep."""
    is_over: bool = False
    """Nothing of the shard is under way any more, and its journals are closed."""
    left: Reason | None = None
    """It is over, and these rows of it were left for whoever resumes, for this reason."""
    fault: Reason | None = None
    """What ends the whole run."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a worker from now on."""

    stop: Reason | None = None
    """Take no more rows and send nothing more; what is in flight may land."""
    holds: tuple[Held, ...] = ()
    """Nobody moves for these: a pause, the clock, somebody else's 429. One that is told no
    longer has ended."""
    concurrency: int | None = None
    """Requests in flight at most; None: as before."""
    rate: float | None = None
    """The ceiling of all workers together, for which departures are leased; None: there is none."""
    tickets: int | None = None
    """Re-syncs that may be unfinished here; those that are above it go on. None: any number."""


class Lease(msgspec.Struct, frozen=True):
    """Departures that nobody else has. Unused ones are dropped, never saved up."""

    begins_in_s: float
    """The first one, counted from now."""
    interval_s: float
    """From one to the next."""
    departures: int
    """None, where nothing is free: ask again when somebody still has to wait."""


class Board(Protocol):
    """What the workers of one run share, as a worker sees it."""

    async def lease(self, departures: int) -> Lease | None:
        """Return departures for this worker, at most so many; None: there is no ``--rate``.

        No departure is leased twice, and all leases together are at the rate, evenly, whoever
        asks. Called before the last lease has run out, and now and then while somebody has to
        wait for a departure. Raises `GivenUp`.
        """
        ...

    async def tell(self, told: Told) -> Orders:
        """Take in what a worker tells, and return what holds for it from now on.

        Never called for two words of one shard at once. `Told.tickets` counts for the shard
        until it says less, whatever becomes of its worker. Raises `GivenUp`.
        """
        ...


class GivenUp(Exception):
    """The shard was given to another worker: send and record nothing more for it."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What all shards of a run have come to so far, in this session."""

    counts: dict[str, int] = {}
    ended: int = 0
    failed: int = 0
    in_flight: int = 0
    followed: int = 0
    looks_again_in_s: float | None = None
    waits: tuple[Waited, ...] = ()
    """One for each reason, the most telling."""
    left: int = 0
    """Shards that are not over."""
    workers: int = 0
    """Workers that are there."""


class Engine(Protocol):
    """What carries the shards of one run, as the conductor sees it."""

    async def submit(self, shards: Sequence[Shard]) -> None:
        """Have *shards*, all of one wave, carried from now on. Returns once that is certain.

        The shards of the wave before are over by then.
        """
        ...

    async def over(self) -> Progress:
        """Return once every shard that was submitted is over.

        Also of a run that was canceled: then all that was in flight has landed. Nothing is
        sent after that before the next `submit`.
        """
        ...

    def observe(self) -> Progress:
        """Return how far they are, as far as it is known here."""
        ...

    def cancel(self, reason: SyncshiftError) -> None:
        """Let nobody take another row, or send anything more; what is in flight may land.

        The first reason stands.
        """
        ...
