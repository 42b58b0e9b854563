"""Syncshift's engine. What a job needs stands here; everything else is internal."""

from runner.errors import InvalidRow, Problem
from runner.job import CREDENTIAL, FREQUENCY, Job, SyncJob
from runner.model import Change, Field, Progress, Request, Response, Row, Sighting, State
from runner.version import VERSION

__all__ = [
    "CREDENTIAL",
    "FREQUENCY",
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
    "SyncJob",
]

__version__ = VERSION
