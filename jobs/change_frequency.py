"""Change how often syncs run.

Each row names a sync, its user, and the frequency it is to have: 1m 5m 10m 30m
1h 3h 6h or 24h. No re-sync is started; the new frequency counts from the next
scheduled run. With expected_frequency a row is changed only if the sync still
has that one. A frequency that was never set explicitly is not told by the API.
"""

from __future__ import annotations

from runner import FREQUENCY, SyncJob


class ChangeFrequency(SyncJob):
    """Owns the frequency of a sync."""

    name = "change-frequency"
    owns = (FREQUENCY,)
