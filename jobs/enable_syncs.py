"""Start paused syncs again.

Each row names a sync and its user, and nothing else. A sync goes on where it
stopped, so this starts work in other people's systems again: each counts as a
re-sync, and is followed until it has run. One that is not paused is left alone;
one that is ERRORED is started, too. A column sync_state, as a rollback writes
it, may ask for disabled instead.
"""

from __future__ import annotations

from runner import SwitchJob


class EnableSyncs(SwitchJob):
    """Owns whether a sync is paused."""

    name = "enable-syncs"
    asks_for = "enabled"
