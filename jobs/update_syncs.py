"""Change the credential of syncs, or their frequency, or both, in one file.

Each row names a sync, its user, and at least one of credential_id and
frequency; a blank cell leaves that field as it is. A changed credential starts
a full re-sync, a changed frequency does not. Of the two, only a field that
differs from the present state is sent.
"""

from __future__ import annotations

from runner import CREDENTIAL, FREQUENCY, SyncJob


class UpdateSyncs(SyncJob):
    """Owns both the credential and the frequency of a sync."""

    name = "update-syncs"
    owns = (CREDENTIAL, FREQUENCY)
