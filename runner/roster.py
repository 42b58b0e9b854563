"""Tells of each run of a folder in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from runner.account import index_now
from runner.errors import SyncshiftError
from runner.folder import Folder, Manifest
from runner.results import RunVerdict, verdict_of


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as a list of runs shows it."""

    run_id: str
    job: str
    state: str
    """As in ``run.json``."""
    verdict: RunVerdict | None
    """None while it is at work, or only planned."""
    rows: int | None
    """None: the input was not taken in."""
    succeeded: int
    failed: int
    unprocessed: int
    parent: str | None
    relation: str | None
    """What it is of its parent: a retry, a rollback, a brake."""
    created: str
    """RFC 3339 in UTC."""
    ended: str | None
    """Likewise."""


def entry_from(manifest: Manifest, *, succeeded: int, failed: int, live: bool) -> Entry:
    """Return what is to be told of a run of which so many rows have ended; *live*: it is at work.

    Raises `SyncshiftError` for a state that this version does not know.
    """
    left = (manifest.rows or 0) - succeeded - failed
    return Entry(
        run_id=manifest.run_id,
        job=manifest.job,
        state=manifest.state,
        verdict=verdict_of(manifest.state, failed=failed, unprocessed=left, live=live),
        rows=manifest.rows,
        succeeded=succeeded,
        failed=failed,
        unprocessed=left,
        parent=manifest.parent,
        relation=manifest.relation,
        created=manifest.created,
        ended=manifest.ended,
    )


def entry_of(folder: Folder) -> Entry:
    """Return what is to be told of one run. Raises `NoSuchRun`, `JournalDamaged`, `RunRefused`."""
    manifest = folder.read()
    index = index_now(folder, manifest.rows or 0)
    live = folder.is_locked()
    return entry_from(manifest, succeeded=index.succeeded, failed=index.failed, live=live)


def roster(folders: Sequence[Folder], *, warn: Callable[[str], None]) -> list[Entry]:
    """Return an entry for each run; one that cannot be read hides no other, and is told of."""
    entries = []
    for folder in folders:
        try:
            entries.append(entry_of(folder))
        except SyncshiftError as error:
            warn(f"run {folder.run_id} is left out: {error}")
    return entries
