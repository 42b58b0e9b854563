"""Syncshift's engine. What a job needs stands here; everything else is internal."""

from runner.errors import InvalidRow, Problem
from runner.job import CREDENTIAL, FREQUENCY, SYNC_STATE, Job, SwitchJob, SyncJob
from runner.model import Change, Field, Progress, Request, Response, Row, Sighting, State
from runner.version import VERSION

__all__ = [
    "CREDENTIAL",
    "FREQUENCY",
    "SYNC_STATE",
    "Change",
    "Field",
    "InvalidRow",
    "Job",
    "Problem",
    "Progress",
    "Request",
    "Response",
    "Row",
    "Sighting",
    "State",
    "SwitchJob",
    "SyncJob",
]

__version__ = VERSION
