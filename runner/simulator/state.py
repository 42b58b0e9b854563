"""The syncs that the simulator serves, and how they change as time goes by.

Nothing runs in the background: a change that is due is applied when somebody looks.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable

import msgspec

from runner.simulator.chance import chance

TOLD = frozenset({"credentialId", "frequency", "summary"})
"""The parts of a GET that older versions of the API withhold."""

FREQUENCIES = ("1m", "5m", "10m", "30m", "1h", "3h", "6h", "24h")

REASON = "The credential is invalid or was deleted."
"""What an ``ERRORED`` sync says of itself, unless told otherwise."""

RATE_LIMIT_BACKOFF_MS = 30_000
"""What a sync in ``RATE_LIMITED`` asks its readers to wait."""


class SyncRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One sync as it is now. Comparable with ``==``."""

    id: str
    """Any text; the API does not promise a UUID."""
    user: str
    """The Connected User who owns it: the ``sub`` of the token that may touch it."""
    credential_id: str = "00000000-0000-4000-8000-000000000000"
    """Lower-cased UUID of the account in use."""
    frequency: str | None = None
    """None: never set, so GET does not tell one."""
    integration: str = "googledrive"
    pipeline: str = "files"
    status: str = "IDLE"
    """``INITIALIZING ACTIVE IDLE RATE_LIMITED DISABLED ERRORED``, or any other word."""
    total_records: int = 0
    last_synced_at: str | None = None
    """RFC 3339 in UTC with milliseconds."""
    reason: str | None = None
    """Why it is ``ERRORED``."""


class Behavior(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulated service does with a change, where the real one leaves us to guess."""

    apply_after_s: float = 0.0
    """Seconds between a 200 to a PATCH and the change being in force; 0: at once."""
    resync_s: float = 0.0
    """Seconds that a re-sync stays ``ACTIVE``."""
    errored: float = 0.0
    """Share (0..1) of the syncs whose runs end in ``ERRORED``, chosen by seed and ID."""
    errored_ids: frozenset[str] = frozenset()
    """Syncs whose runs end in ``ERRORED``, besides that share."""
    reason: str = REASON
    """Told with ``ERRORED``."""
    same_credential_resyncs: bool = True
    """Whether setting the credential that is in use already starts a re-sync."""
    patch_revives_errored: bool = True
    """Whether a new credential starts an ``ERRORED`` sync; otherwise only reenable does."""
    tells: frozenset[str] = TOLD
    """The parts of `TOLD` that GET tells."""
    list_tells_credential: bool = False
    """Whether an item of a user's list names the credential in use."""
    list_ignores_credential: bool = False
    """Whether a list asked for by credential has all of the user's syncs all the same."""
    list_page: int | None = None
    """How many syncs a page of a list has at most; None: a list is one page."""
    clock_skew_s: float = 0.0
    """How far the service's clock (``Date``, ``lastSyncedAt``) is ahead of ours."""

    def __post_init__(self) -> None:
        if unknown := self.tells - TOLD:
            raise ValueError(f"tells knows {sorted(TOLD)}; got {sorted(unknown)}")
        if not 0.0 <= self.errored <= 1.0:
            raise ValueError(f"errored is a share from 0 to 1; got {self.errored!r}")


class Update(msgspec.Struct, frozen=True, gc=False):
    """What a PATCH asks for; None: leave as it is."""

    credential_id: str | None = None
    frequency: str | None = None


class Sync:
    """One sync with what is still to happen to it."""

    __slots__ = ("next_s", "pending", "record", "run_ends_s", "run_started_s")

    def __init__(self, record: SyncRecord) -> None:
        self.record = record
        self.pending: list[tuple[float, Update]] = []
        self.run_started_s = 0.0
        self.run_ends_s = math.inf
        self.next_s = math.inf

    def plan_next(self) -> None:
        """Work out when something happens to this sync by itself."""
        due_s = self.pending[0][0] if self.pending else math.inf
        self.next_s = min(due_s, self.run_ends_s)

    def synced_records(self, now_s: float) -> int:
        """Return how many records a reader is told at *now_s*."""
        total = self.record.total_records
        if math.isinf(self.run_ends_s):
            return total
        whole_s = self.run_ends_s - self.run_started_s
        return int(total * (now_s - self.run_started_s) / whole_s)


class Syncs:
    """All syncs, by ID. *wall_at* turns a moment of the monotonic clock into a date."""

    def __init__(
        self,
        *,
        seed: int,
        behavior: Behavior,
        now: Callable[[], float],
        wall_at: Callable[[float], float],
    ) -> None:
        self.behavior = behavior
        self._seed = seed
        self._now = now
        self._wall_at = wall_at
        self._syncs: dict[str, Sync] = {}
        self._of_user: dict[str, list[Sync]] = {}

    def __contains__(self, sync_id: str) -> bool:
        return sync_id in self._syncs

    def add(self, record: SyncRecord) -> None:
        """Take in one sync. Raises ValueError when its ID is taken."""
        if record.id in self._syncs:
            raise ValueError(f"sync {record.id!r} exists already; give each sync its own ID")
        sync = self._syncs[record.id] = Sync(record)
        self._of_user.setdefault(record.user, []).append(sync)

    def find(self, *, user: str, sync_id: str) -> Sync | None:
        """Return the sync as it is now; None when there is none or it is another user's."""
        sync = self._syncs.get(sync_id)
        if sync is None or sync.record.user != user:
            return None
        self._settle(sync)
        return sync

    def of_user(self, user: str) -> list[Sync]:
        """Return the user's syncs as they are now, oldest first."""
        found = self._of_user.get(user, [])
        for sync in found:
            self._settle(sync)
        return found

    def snapshot(self) -> dict[str, SyncRecord]:
        """Return every sync as it is now."""
        for sync in self._syncs.values():
            self._settle(sync)
        return {sync_id: sync.record for sync_id, sync in self._syncs.items()}

    def patch(self, sync: Sync, update: Update) -> None:
        """Put *update* in force after the delay that `Behavior` names."""
        due_s = self._now() + self.behavior.apply_after_s
        sync.pending.append((due_s, update))
        # The delay may have been shortened since the last one was accepted.
        sync.pending.sort(key=_due)
        sync.plan_next()
        self._settle(sync)

    def disable(self, sync: Sync) -> None:
        """Pause the sync at once; a run in progress is given up."""
        sync.record = msgspec.structs.replace(sync.record, status="DISABLED", reason=None)
        sync.run_ends_s = math.inf
        sync.plan_next()

    def reenable(self, sync: Sync) -> None:
        """Start a run if the sync is paused or in error; otherwise change nothing."""
        if sync.record.status in ("DISABLED", "ERRORED"):
            self._start_run(sync, at_s=self._now())
            sync.plan_next()
            self._settle(sync)

    def _settle(self, sync: Sync) -> None:
        now_s = self._now()
        while sync.next_s <= now_s:
            if sync.run_ends_s <= sync.next_s:
                self._finish_run(sync)
            else:
                due_s, update = sync.pending.pop(0)
                self._apply(sync, update, at_s=due_s)
            sync.plan_next()

    def _apply(self, sync: Sync, update: Update, *, at_s: float) -> None:
        before = sync.record
        credential_id = update.credential_id or before.credential_id
        sync.record = msgspec.structs.replace(
            before, credential_id=credential_id, frequency=update.frequency or before.frequency
        )
        if update.credential_id is None or before.status == "DISABLED":
            return
        if before.status == "ERRORED" and not self.behavior.patch_revives_errored:
            return
        if credential_id != before.credential_id or self.behavior.same_credential_resyncs:
            self._start_run(sync, at_s=at_s)

    def _start_run(self, sync: Sync, *, at_s: float) -> None:
        sync.record = msgspec.structs.replace(sync.record, status="ACTIVE", reason=None)
        sync.run_started_s = at_s
        sync.run_ends_s = at_s + self.behavior.resync_s

    def _finish_run(self, sync: Sync) -> None:
        if self._errs(sync.record.id):
            sync.record = msgspec.structs.replace(
                sync.record, status="ERRORED", reason=self.behavior.reason
            )
        else:
            sync.record = msgspec.structs.replace(
                sync.record,
                status="IDLE",
                last_synced_at=timestamp(self._wall_at(sync.run_ends_s)),
            )
        sync.run_ends_s = math.inf

    def _errs(self, sync_id: str) -> bool:
        if sync_id in self.behavior.errored_ids:
            return True
        share = self.behavior.errored
        return share > 0.0 and chance(self._seed, "errored", sync_id) < share


def timestamp(wall_s: float) -> str:
    """Return *wall_s* (seconds since the epoch) as the API writes a moment."""
    moment = datetime.datetime.fromtimestamp(wall_s, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _due(entry: tuple[float, Update]) -> float:
    return entry[0]
