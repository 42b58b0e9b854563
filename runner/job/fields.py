"""The fields of a sync that jobs may own."""

from __future__ import annotations

from runner.model import Field

CREDENTIAL = Field(
    name="credential_id",
    api_name="credentialId",
    pattern=r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    rule="must be a UUID such as 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1",
    lower=True,
)
"""The credential a sync uses. A change makes Paragon run a full re-sync."""

FREQUENCY = Field(
    name="frequency",
    api_name="incrementalAccumulatorFrequency",
    pattern=r"1m|5m|10m|30m|1h|3h|6h|24h",
    rule="must be one of 1m 5m 10m 30m 1h 3h 6h 24h",
)
"""How often a sync runs. A change counts from the next scheduled run."""

DISABLED, ENABLED, ERRORED = "disabled", "enabled", "errored"
"""What a sync can be: paused, not paused, or suspended after an error."""

SYNC_STATE = Field(
    name="sync_state",
    api_name="syncState",
    pattern=f"{DISABLED}|{ENABLED}",
    rule=f"must be {DISABLED} or {ENABLED}",
)
"""Whether a sync is paused. It is told as part of its status, and changed by a request of its
own."""
