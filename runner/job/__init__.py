"""The one door for a job: what it must answer, what it gets for free, how it is found."""

from __future__ import annotations

from runner.job.contract import Job
from runner.job.fields import CREDENTIAL, FREQUENCY, SYNC_STATE
from runner.job.lookup import (
    ENTRY_POINT_GROUP,
    HOME,
    available,
    find,
    foreign_fields,
    help_text,
)
from runner.job.patching import SyncJob
from runner.job.switching import SwitchJob

__all__ = [
    "CREDENTIAL",
    "ENTRY_POINT_GROUP",
    "FREQUENCY",
    "HOME",
    "SYNC_STATE",
    "Job",
    "SwitchJob",
    "SyncJob",
    "available",
    "find",
    "foreign_fields",
    "help_text",
]
