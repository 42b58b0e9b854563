"""How a job is found by its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any, cast

from runner.errors import SettingsError
from runner.job.contract import Job
from runner.model import Field

ENTRY_POINT_GROUP = "syncshift.jobs"
"""Where another package names its jobs."""

HOME = "jobs"
"""The package whose modules are the jobs that come with Syncshift."""


@cache
def available() -> dict[str, Job]:
    """Return every job by name: those of this package first, then those of others.

    Raises `SettingsError` when a job of another package cannot be loaded or
    takes a name that is taken.
    """
    found: dict[str, Job] = {}
    for module in pkgutil.iter_modules(importlib.import_module(HOME).__path__):
        own = _job_of(importlib.import_module(f"{HOME}.{module.name}"))
        found[own.name] = own
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            job: Any = entry.load()
            job = job() if inspect.isclass(job) else job
        except Exception as error:
            raise SettingsError(
                f"job {entry.name!r} of {entry.value!r} could not be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from error
        if not isinstance(job, Job) or job.name != entry.name or entry.name in found:
            raise SettingsError(
                f"job {entry.name!r} of {entry.value!r} is not a job of that name, or the name is "
                "taken; it must answer everything that runner.Job asks, under a name of its own"
            )
        found[entry.name] = job
    return found


def find(name: str) -> Job:
    """Return the job called *name*.

    Raises `SettingsError`, naming the jobs there are, when there is none.
    """
    jobs = available()
    if name not in jobs:
        raise SettingsError(f"there is no job {name!r}; there are: {', '.join(sorted(jobs))}")
    return jobs[name]


def help_text(job: Job) -> str:
    """Return what a person should know about *job*: the docstring of its module."""
    return inspect.getdoc(inspect.getmodule(type(job))) or ""


def foreign_fields(job: Job) -> tuple[Field, ...]:
    """Return the fields that only other jobs own."""
    own = {field.name for field in job.owns}
    others = {f.name: f for other in available().values() for f in other.owns}
    return tuple(field for name, field in sorted(others.items()) if name not in own)


def _job_of(module: Any) -> Job:
    """Return the one job that *module* defines."""
    kinds: list[Any] = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    (job,) = (kind() for kind in kinds if kind.__module__ == module.__name__)
    return cast("Job", job)
