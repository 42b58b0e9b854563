"""What jobs get for free that pause a sync or start it again, by a ``POST`` without a body."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec

from runner.job.fields import DISABLED, ENABLED, ERRORED, SYNC_STATE
from runner.job.patching import SyncJob
from runner.model import Change, Request, Response, Sighting, State

_ENDPOINTS = {DISABLED: "disable", ENABLED: "reenable"}
_STATES = {"DISABLED": DISABLED, "ERRORED": ERRORED}
"""What a status tells; every other one is that of a sync that is not paused."""

_DECODE = msgspec.json.Decoder(dict[str, Any]).decode


class SwitchJob(SyncJob):
    """Everything that jobs have in common which pause syncs, or start them again.

    Such a job names itself and what its rows ask for, and is done.
    """

    owns = (SYNC_STATE,)
    asks_for: str
    """``disabled`` or ``enabled``: what a row asks for that does not say itself."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.implied = MappingProxyType({SYNC_STATE.name: cls.asks_for})

    def observe(self, response: Response) -> State | None:
        """Take the state from the status. One that is ``ERRORED`` is neither of the two."""
        told = _object(response)
        if told is None:
            return None
        status = told.get("status")
        if not isinstance(status, str) or not status:
            return {}
        return {SYNC_STATE.name: _STATES.get(status.upper(), ENABLED)}

    def write(self, change: Change) -> Request:
        """Ask for the desired state, whatever the sync is now."""
        endpoint = _ENDPOINTS[change.desired[SYNC_STATE.name]]
        return Request("POST", ("api", "syncs", change.sync_id, endpoint))

    def echoes(self, change: Change, response: Response) -> bool:
        """An answer need not say anything; if it names a sync it must be this one."""
        if not response.body.strip():
            return True
        told = _object(response)
        return told is not None and told.get("id", change.sync_id) == change.sync_id

    def inverse(self, change: Change, before: State) -> Change | None:
        """Go back, unless the sync was ``ERRORED``: nobody can put it there again."""
        if before.get(SYNC_STATE.name) == ERRORED:
            return None
        return super().inverse(change, before)

    def starts_resync(self, change: Change, before: State | None) -> bool:
        """A sync that is started again goes on where it stopped; a pause starts nothing."""
        if change.desired.get(SYNC_STATE.name) != ENABLED:
            return False
        return before is None or before.get(SYNC_STATE.name) != ENABLED

    def caution(self, change: Change, before: State, seen: Sighting) -> str | None:
        """One that is started again after an error may meet the same error."""
        if seen.status != "ERRORED":
            return None
        if change.desired.get(SYNC_STATE.name) == ENABLED:
            return "is ERRORED: it errs again unless the cause is cured"
        return "is ERRORED: it does not run, and could not be put back there"


def _object(response: Response) -> dict[str, Any] | None:
    try:
        return _DECODE(response.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
