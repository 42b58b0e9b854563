"""A plausible present: syncs that could have been there for months."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TypeVar

from runner.simulator.chance import chance, digest
from runner.simulator.state import FREQUENCIES, REASON, SyncRecord, timestamp

_T = TypeVar("_T")

_KINDS = (
    ("googledrive", "files"),
    ("box", "files"),
    ("dropbox", "files"),
    ("sharepoint", "files"),
    ("salesforce", "contacts"),
    ("hubspot", "contacts"),
)
_STATUSES = ((0.95, "IDLE"), (0.97, "ACTIVE"), (0.99, "DISABLED"), (1.0, "ERRORED"))

# A fixed day, so that the same seed gives the same state whenever it is asked for.
_LAST_SYNC_S = 1_767_603_600.0
_DAY_S = 86_400.0


def invent(*, sync_id: str, user_id: str, seed: int) -> SyncRecord:
    """Return a sync that depends on *seed*, *sync_id* and *user_id* only.

    Most are ``IDLE``. One that is ``ACTIVE`` stays so until it is written to.
    """
    drawn = chance(seed, "status", sync_id)
    status = next(word for edge, word in _STATUSES if drawn < edge)
    integration, pipeline = _pick(_KINDS, chance(seed, "integration", sync_id))
    never_set = chance(seed, "unset", sync_id) < 0.4
    age_s = _DAY_S * chance(seed, "age", sync_id)
    return SyncRecord(
        id=sync_id,
        user=user_id,
        credential_id=_credential(seed, user_id, integration),
        frequency=None if never_set else _pick(FREQUENCIES, chance(seed, "frequency", sync_id)),
        integration=integration,
        pipeline=pipeline,
        status=status,
        # Most sources are small, a few are very large.
        total_records=int(10 ** (1 + 4 * chance(seed, "records", sync_id))),
        last_synced_at=timestamp(_LAST_SYNC_S - age_s),
        reason=REASON if status == "ERRORED" else None,
    )


def invent_many(*, n_syncs: int, n_users: int, seed: int) -> Iterator[SyncRecord]:
    """Yield *n_syncs* syncs shared out evenly over *n_users* users."""
    for number in range(n_syncs):
        sync_id = str(uuid.UUID(bytes=digest(seed, "sync", number), version=5))
        yield invent(sync_id=sync_id, user_id=f"user-{number % n_users + 1:05d}", seed=seed)


def _credential(seed: int, user_id: str, integration: str) -> str:
    return str(uuid.UUID(bytes=digest(seed, "credential", user_id, integration), version=4))


def _pick(choices: tuple[_T, ...], drawn: float) -> _T:
    return choices[int(drawn * len(choices))]
