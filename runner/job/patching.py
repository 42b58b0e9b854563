"""What jobs get for free that change fields of a sync through ``PATCH``."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

import msgspec

from runner.job.fields import CREDENTIAL
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

_LAME = frozenset({"ERRORED", "DISABLED"})
"""States in which a sync does not run."""


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
    implied: State = MappingProxyType({})
    _wanted: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._wanted = tuple((f.name, f.expected_name) for f in getattr(cls, "owns", ()))

    def parse(self, row: Row) -> Change:
        """Take the desired and the expected state out of the row's fields."""
        fields = row.fields
        desired: dict[str, str] = {**self.implied}
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

    def caution(self, change: Change, before: State, seen: Sighting) -> str | None:
        """A sync that does not run stays so, whatever its settings are."""
        if seen.status not in _LAME:
            return None
        if not self.starts_resync(change, before):
            return f"is {seen.status}: it does not run, whatever its settings are"
        return f"is {seen.status}: a new credential may not revive it; it may have to be re-enabled"
