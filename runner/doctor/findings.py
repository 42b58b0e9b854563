"""What a check is: what was seen, and what to mend."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Status(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    """A run can be begun, but look at it."""
    FAIL = "fail"
    """No run can go well like this."""


class Check(msgspec.Struct, frozen=True):
    """One check. Holds no secret."""

    name: str
    status: Status
    seen: str
    mend: str | None = None
    """What to do about it; None: nothing."""


def ok(name: str, seen: str) -> Check:
    """Return a check that came out well."""
    return Check(name, Status.OK, seen)


def warn(name: str, seen: str, mend: str) -> Check:
    """Return a check that somebody should look at."""
    return Check(name, Status.WARN, seen, mend)


def fail(name: str, seen: str, mend: str) -> Check:
    """Return a check that keeps a run from going well."""
    return Check(name, Status.FAIL, seen, mend)


def worst(checks: Iterable[Check]) -> Status:
    """Return the worst of what was found."""
    found = {check.status for check in checks}
    return next((s for s in (Status.FAIL, Status.WARN) if s in found), Status.OK)
