"""Inputs of any length, the same each time."""

from __future__ import annotations

import csv
import uuid
from pathlib import Path

FREQUENCIES = ("1m", "5m", "10m", "30m", "1h", "3h", "6h", "24h")
_NAMESPACE = uuid.UUID(int=0)
NEW_CREDENTIAL = str(uuid.uuid5(_NAMESPACE, "new"))


def sync_id(row: int) -> str:
    """Return the sync that *row* is about."""
    return str(uuid.UUID(int=row << 64 | 0x9E3779B97F4A7C15 * row & 0xFFFFFFFFFFFFFFFF))


def write_credentials(path: Path, *, rows: int, rows_a_user: int) -> Path:
    """Write an input for ``migrate-credentials``; the rows of a user stand together."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("sync_id", "user_id", "credential_id"))
        for row in range(rows):
            writer.writerow((sync_id(row), f"user-{row // rows_a_user:06d}", NEW_CREDENTIAL))
    return path


def write_both(path: Path, *, rows: int, rows_a_user: int) -> Path:
    """Write an input for ``update-syncs`` with both fields, as `write_credentials` does."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("sync_id", "user_id", "credential_id", "frequency"))
        for row in range(rows):
            frequency = FREQUENCIES[row % len(FREQUENCIES)]
            user = f"user-{row // rows_a_user:06d}"
            writer.writerow((sync_id(row), user, sync_id(row + 1), frequency))
    return path
