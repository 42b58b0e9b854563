"""The one door for a job: what it must answer, what it gets for free, how it is found.

A job takes data and returns data. It never waits, never sends and keeps no
state, so every question may be asked any number of times, in any order.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import msgspec

from runner.errors import SettingsError
from runner.model import (
    Change,
    Field,
    Progress,
    Request,
    Response,
    Row,
    Sighting,
    State,
    encode_json,
)

ENTRY_POINT_GROUP = "syncshift.jobs"
"""Where another package names its jobs."""

HOME = "jobs"
"""The package whose modules are the jobs that come with Syncshift."""

CREDENTIAL = Field(
    name="credential_id",
    api_name="credentialId",
    pattern=r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    rule="must be a UUID such as 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1",
    lower=True,
)
"""The credential a sync uses. A change makes Paragon run a full re-sync."""

FREQUENCY = Field(
    name="frequency",
    api_name="incrementalAccumulatorFrequency",
    pattern=r"1m|5m|10m|30m|1h|3h|6h|24h",
    rule="must be one of 1m 5m 10m 30m 1h 3h 6h 24h",
)
"""How often a sync runs. A change counts from the next scheduled run."""


@runtime_checkable
class Job(Protocol):
    """A kind of update: how to read, write, check and undo one thing."""

    name: str
    """What stands after ``syncshift run``: lower-case words joined by ``-``."""

    owns: tuple[Field, ...]
    """The fields this job may change. Every other known field is refused in its input."""

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

    def starts_resync(self, change: Change, before: State | None) -> bool:
        """Tell whether *change*, made to a sync in state *before*, may start a full re-sync.

        *before* is None when it was not read.
        """
        ...


class _Accepted(msgspec.Struct):
    """The answer to a PATCH, as far as it is compared."""

    id: str
    data: dict[str, Any]


class _Status(msgspec.Struct):
    """The answer to a read, as far as it is not a job's own. Older versions leave much out."""

    status: Any = None
    summary: Any = None
    reason: Any = None
    rate_limit_backoff_ms: Any = msgspec.field(default=None, name="rateLimitBackoffMs")


_DECODE_ACCEPTED = msgspec.json.Decoder(_Accepted).decode
_DECODE_STATUS = msgspec.json.Decoder(_Status).decode
_DECODE_OBJECT = msgspec.json.Decoder(dict[str, Any]).decode


class SyncJob:
    """Everything that jobs on fields of a sync have in common.

    A job that changes fields through ``PATCH /api/syncs/{syncId}`` names itself
    and what it owns, and is done.
    """

    name: str
    owns: tuple[Field, ...]
    _wanted: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._wanted = tuple((f.name, f.expected_name) for f in getattr(cls, "owns", ()))

    def parse(self, row: Row) -> Change:
        """Take the desired and the expected state out of the row's fields."""
        fields = row.fields
        desired: dict[str, str] = {}
        expected: dict[str, str] = {}
        for name, expected_name in self._wanted:
            if name in fields:
                desired[name] = fields[name]
            if expected_name in fields:
                expected[name] = fields[expected_name]
        return Change(
            row.number,
            row.line,
            fields["sync_id"],
            fields.get("user_id", ""),
            desired,
            expected or None,
        )

    def read(self, change: Change) -> Request:
        """Ask for the status of the sync."""
        return Request("GET", ("api", "syncs", change.sync_id))

    def observe(self, response: Response) -> State | None:
        """Pick the owned fields out of the status, folded for comparison."""
        try:
            told = _DECODE_OBJECT(response.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        state: dict[str, str] = {}
        for field in self.owns:
            value = told.get(field.api_name)
            if isinstance(value, str) and value:
                state[field.name] = field.fold(value)
        return state

    def sight(self, response: Response) -> Sighting:
        """Pick status, record count and last sync out of the status."""
        told = _DECODE_STATUS(response.body)
        summary = told.summary if isinstance(told.summary, dict) else {}
        total = summary.get("totalRecords")
        last = summary.get("lastSyncedAt")
        return Sighting(
            status=told.status.upper() if isinstance(told.status, str) else None,
            total_records=total if type(total) is int else None,
            last_synced_at=last if isinstance(last, str) else None,
        )

    def progress(self, response: Response) -> Progress:
        """Pick status, last sync, reason and backoff out of the status."""
        told = _DECODE_STATUS(response.body)
        seen = self.sight(response)
        backoff_ms = told.rate_limit_backoff_ms
        asks = type(backoff_ms) in {int, float} and backoff_ms > 0
        return Progress(
            status=seen.status,
            last_synced_at=seen.last_synced_at,
            reason=told.reason if isinstance(told.reason, str) and told.reason else None,
            backoff_s=backoff_ms / 1000 if asks else None,
        )

    def write(self, change: Change) -> Request:
        """Ask for the desired fields, and no others."""
        body = {f.api_name: change.desired[f.name] for f in self.owns if f.name in change.desired}
        return Request("PATCH", ("api", "syncs", change.sync_id), encode_json(body))

    def echoes(self, change: Change, response: Response) -> bool:
        """Compare the answer's ``id``, and what its ``data`` tells, with what was asked."""
        try:
            told = _DECODE_ACCEPTED(response.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return False
        if told.id != change.sync_id:
            return False
        for field in self.owns:
            echoed = told.data.get(field.api_name)
            if echoed is None or field.name not in change.desired:
                continue
            if not isinstance(echoed, str) or field.fold(echoed) != change.desired[field.name]:
                return False
        return True

    def verify(self, change: Change, state: State) -> bool | None:
        """Compare every desired field; one that differs outweighs one that is not told."""
        told = [state.get(name) == value for name, value in change.desired.items() if name in state]
        if not all(told):
            return False
        return True if len(told) == len(change.desired) else None

    def inverse(self, change: Change, before: State) -> Change | None:
        """Go back to *before*, but only from what *change* wrote."""
        if any(name not in before for name in change.desired):
            return None
        return Change(
            change.row,
            change.line,
            change.sync_id,
            change.user_id,
            {name: before[name] for name in change.desired},
            change.desired,
        )

    def starts_resync(self, change: Change, before: State | None) -> bool:
        """A new credential does; when the present one is not known, it may."""
        wanted = change.desired.get(CREDENTIAL.name)
        if wanted is None:
            return False
        return before is None or before.get(CREDENTIAL.name) != wanted


@cache
def available() -> dict[str, Job]:
    """Return every job by name: those of this package first, then those of others.

    Raises `SettingsError` when a job of another package cannot be loaded or
    takes a name that is taken.
    """
    found: dict[str, Job] = {}
    for module in pkgutil.iter_modules(importlib.import_module(HOME).__path__):
        own = _job_of(importlib.import_module(f"{HOME}.{module.name}"))
        found[own.name] = own
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            job: Any = entry.load()
            job = job() if inspect.isclass(job) else job
        except Exception as error:
            raise SettingsError(
                f"job {entry.name!r} of {entry.value!r} could not be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from error
        if not isinstance(job, Job) or job.name != entry.name or entry.name in found:
            raise SettingsError(
                f"job {entry.name!r} of {entry.value!r} is not a job of that name, or the name is "
                "taken; it must answer everything that runner.Job asks, under a name of its own"
            )
        found[entry.name] = job
    return found


def find(name: str) -> Job:
    """Return the job called *name*.

    Raises `SettingsError`, naming the jobs there are, when there is none.
    """
    jobs = available()
    if name not in jobs:
        raise SettingsError(f"there is no job {name!r}; there are: {', '.join(sorted(jobs))}")
    return jobs[name]


def help_text(job: Job) -> str:
    """Return what a person should know about *job*: the docstring of its module."""
    return inspect.getdoc(inspect.getmodule(type(job))) or ""


def foreign_fields(job: Job) -> tuple[Field, ...]:
    """Return the fields that only other jobs own."""
    own = {field.name for field in job.owns}
    others = {f.name: f for other in available().values() for f in other.owns}
    return tuple(field for name, field in sorted(others.items()) if name not in own)


def _job_of(module: Any) -> Job:
    """Return the one job that *module* defines."""
    kinds: list[Any] = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    (job,) = (kind() for kind in kinds if kind.__module__ == module.__name__)
    return cast("Job", job)
