"""Pause syncs.

Each row names a sync and its user, and nothing else. A sync that is paused
keeps its records and fetches nothing until it is enabled again, so what it is
doing now ends there. One that is paused already is left alone. A column
sync_state, as a rollback writes it, may ask for enabled instead.
"""

from __future__ import annotations

from runner import SwitchJob


class DisableSyncs(SwitchJob):
    """Owns whether a sync is paused."""

    name = "disable-syncs"
    asks_for = "disabled"
