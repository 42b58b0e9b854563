"""What may be asked of a run that is at work, and what it answers."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from runner.errors import SettingsError
from runner.knobs import KNOBS
from runner.secret import scrub

_LONGEST_REASON = 500
_LONGEST_S = 366 * 86_400.0
VALUES = ("max_failures", "max_resyncs", "rate", "concurrency")
"""What ``set`` can change, by the names of the settings; first the one that may be refused."""


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One order, or with ``status`` a question. A line of JSON on the socket."""

    command: Literal["pause", "continue", "set", "stop", "status"]
    reason: str | None = None
    """Why, in the words of whoever gives it."""
    for_s: float | None = None
    """Of a pause: for how long; None: until somebody continues the run."""
    rate: float | None = None
    concurrency: int | None = None
    max_failures: str | None = None
    max_resyncs: int | Literal["none"] | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What is to be set, by the names of the settings."""
        given = {name: getattr(self, name) for name in VALUES}
        return {name: value for name, value in given.items() if value is not None}


class Waiting(msgspec.Struct, frozen=True):
    """One reason why somebody waits, as others read it."""

    reason: str
    detail: str
    since: str
    """RFC 3339 in UTC."""
    until: str | None
    """Likewise; None when that is not known."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands at this moment."""

    rows: int
    settled: int
    """Rows that have ended."""
    in_flight: int
    followed: int
    """Rows that were accepted and are still to be proved."""
    waiting: tuple[Waiting, ...]
    limits: dict[str, Any]
    """The ceilings and limits in force, by the names of the settings."""
    stopping: str | None
    """Why it takes no more rows; None: it does."""


class Glance(msgspec.Struct, frozen=True):
    """What is to be seen of a run from outside."""

    at_work: bool
    """Whether a process holds it, or leads it elsewhere."""
    standing: Standing | None
    """Its own word; None: it says nothing just now."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the run says to an order."""

    run_id: str
    done: bool
    """Whether it did as it was told."""
    said: str
    """What it did, or why it did not, for a person."""
    state: Standing | None = None
    """How it stands afterwards."""


def order_of(order: Order) -> Order:
    """Return *order* with its values read as settings are. Raises `SettingsError`."""
    values = order.values
    if bool(values) != (order.command == "set"):
        flags = ", ".join(_flag(name) for name in VALUES)
        raise SettingsError(f"set takes at least one of {flags}, and no other command takes any")
    if order.for_s is not None:
        if order.command != "pause":
            raise SettingsError("--for belongs to pause, and to no other command")
        if not (0 < order.for_s <= _LONGEST_S and math.isfinite(order.for_s)):
            raise SettingsError("--for must be longer than nothing, and at most a year")
    for name, value in values.items():
        try:
            values[name] = KNOBS[name.replace("_", "-")].read(value)
        except ValueError as error:
            raise SettingsError(f"{_flag(name)} {error}; got {value!r}") from None
    return msgspec.structs.replace(order, reason=_on_one_line(order.reason), **values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _on_one_line(text: str | None) -> str | None:
    if text is None:
        return None
    shown = "".join(c if c.isprintable() else " " for c in scrub(text)).strip()
    return shown[:_LONGEST_REASON] or None
