"""Tells of each run in the database in one line, without fetching any."""

from __future__ import annotations

from collections import Counter

import msgspec

from runner.folder import Manifest
from runner.model import SUCCEEDED
from runner.postgres.common import SILENT_S, decode_common
from runner.postgres.database import connected
from runner.postgres.schema import must_be_ready
from runner.roster import Entry, entry_from
from runner.secret import Secret

_RUNS = """
SELECT manifest, common, coalesce(led_at > clock_timestamp() - make_interval(secs => %s), false)
FROM run ORDER BY id
"""
_decode_manifest = msgspec.json.Decoder(Manifest).decode


def entries(dsn: Secret) -> list[Entry]:
    """Return an entry for each run, by name. Raises `EngineNotReady`, `DatabaseAway`."""
    must_be_ready(dsn)
    with connected(dsn) as connection:
        found = connection.execute(_RUNS, (SILENT_S,)).fetchall()
    return [_entry(bytes(manifest), bytes(common), live=live) for manifest, common, live in found]


def _entry(manifest: bytes, common: bytes, *, live: bool) -> Entry:
    known = decode_common(common)
    counts = Counter(known.before)
    counts.update(known.ledger.progress(workers=0).counts)
    succeeded = sum(counts[kind.value] for kind in SUCCEEDED)
    failed = counts.total() - succeeded
    return entry_from(_decode_manifest(manifest), succeeded=succeeded, failed=failed, live=live)
