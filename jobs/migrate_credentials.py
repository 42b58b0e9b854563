"""Move syncs to another credential.

Each row names a sync, its user, and the credential_id it is to use from now on.
Paragon answers a changed credential with a full re-sync of that sync, so a sync
that already uses the credential is left alone. With expected_credential_id a
row is changed only if the sync still uses that one.
"""

from __future__ import annotations

from runner import CREDENTIAL, SyncJob


class MigrateCredentials(SyncJob):
    """Owns the credential of a sync."""

    name = "migrate-credentials"
    owns = (CREDENTIAL,)
