"""How each setting is read: its name, its rule, and where else it may be given."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from runner.model import Proof
from runner.schedule import read_at, read_start, read_window

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Unsayable(ValueError):
    """What was given is wrong, and may hold a secret: it must not be repeated."""


def duration_s(text: str) -> float:
    """Read ``90``, ``30s``, ``15m``, ``6h``, ``2d`` or ``500ms`` as seconds.

    Raises ValueError, in words fit for a person.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?", text.strip(), re.ASCII)
    if found is None:
        raise ValueError("must be a duration such as 30s, 15m or 6h")
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def _duration(value: Any) -> float:
    return duration_s(str(value))


def _positive_duration(value: Any) -> float:
    seconds = duration_s(str(value))
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    return seconds


def _count(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,6}", str(value), re.ASCII):
        raise ValueError("must be a whole number from 1 to 100000")
    if not 1 <= int(value) <= 100_000:
        raise ValueError("must be a whole number from 1 to 100000")
    return int(value)


def _processes(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]?", str(value), re.ASCII):
        raise ValueError("must be a whole number from 1 to 99")
    return int(value)


def _engine(value: Any) -> str:
    if value not in ["local", "postgres"]:
        raise ValueError("must be local or postgres")
    return str(value)


def _count_or_none(value: Any) -> int | Literal["none"]:
    if value == "none":
        return "none"
    try:
        return _count(value)
    except ValueError as error:
        raise ValueError(f"{error}, or none") from None


def _rate(value: Any) -> float:
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = 0.0
    if isinstance(value, bool) or not 0.001 <= rate <= 1_000_000:
        raise ValueError(
            "must be a number of requests per second, at least 0.001 and at most 1,000,000"
        )
    return rate


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def _text(value: Any) -> str:
    text = str(value)
    if not text.strip():
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must be a text without control characters")
    return text.strip()


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list of column names")  # told to a person as one
    return tuple(_text(name) for name in value)


def _listed(value: Any, *, example: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise ValueError(f"must be a text or a list of texts such as {example}")  # as above
    return tuple(part.strip() for text in texts for part in _text(text).split(","))


def _shares(value: Any) -> tuple[str, ...]:
    shares = _listed(value, example="user=2")
    for share in shares:
        if not re.fullmatch(r"(user|integration)=[1-9][0-9]{0,4}", share, re.ASCII):
            raise ValueError("must be user=N or integration=N, N from 1 to 99999")
    if len({share.partition("=")[0] for share in shares}) < len(shares):
        raise ValueError("must name each key once")
    return shares


def _conditions(value: Any) -> tuple[str, ...]:
    return _listed(value, example="errored=0")


def _start(value: Any) -> str:
    now = datetime.datetime.now(datetime.UTC)
    return read_start(str(value), now=now).isoformat().replace("+00:00", "Z")


def _window(value: Any) -> str:
    return str(read_window(str(value)))


def _at(value: Any) -> str:
    return str(read_at(str(value)))


def _health(value: Any) -> str:
    text = _text(value)
    if not re.match(r"https?:", text, re.IGNORECASE):
        try:
            shlex.split(text)
        except ValueError:
            raise ValueError("must be a URL or a command whose quotes are closed") from None
        return text
    try:
        parts = urlsplit(text)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not text.isascii() or re.search(r"[\s\\]", text):
        raise ValueError("must be a URL such as https://status.example.com/ok, or a command")
    if "@" in parts.netloc:
        raise Unsayable("must hold no user and no password: a run keeps its settings in plain")
    return text


def _until(value: Any) -> str:
    if value not in [proof.value for proof in Proof]:
        raise ValueError("must be accepted, confirmed or resynced")
    return str(value)


class Knob(msgspec.Struct, frozen=True):
    """One setting: what it is called, and how it is read."""

    name: str
    """As on the command line, without the dashes."""
    read: Callable[[Any], Any]
    """Raises ValueError, in words that follow the name."""
    field: str
    """In `Settings`, or the name of a place or a file."""
    variable: str | None = None
    """In the environment."""


KNOBS = {
    knob.name: knob
    for knob in (
        Knob("base-url", _text, "base_url", "PARAGON_SYNC_URL"),
        Knob("project-id", _text, "project_id", "PARAGON_PROJECT_ID"),
        Knob("signing-key-file", _text, "signing_key_file", "PARAGON_SIGNING_KEY_FILE"),
        Knob("audience", _text, "audience", "PARAGON_AUDIENCE"),
        Knob("trust-env", _truth, "trust_env"),
        Knob("allow-http", _truth, "allow_http"),
        Knob("concurrency", _count, "concurrency"),
        Knob("rate", _rate, "rate"),
        Knob("processes", _processes, "processes"),
        Knob("engine", _engine, "engine"),
        Knob("max-attempts", _count, "max_attempts"),
        Knob("timeout", _positive_duration, "timeout_s"),
        Knob("max-outage", _positive_duration, "max_outage_s"),
        Knob("until", _until, "until"),
        Knob("confirm-timeout", _positive_duration, "confirm_timeout_s"),
        Knob("resync-timeout", _positive_duration, "resync_timeout_s"),
        Knob("no-read", _truth, "no_read"),
        Knob("skip-invalid", _truth, "skip_invalid"),
        Knob("ignore-column", _names, "ignore_columns"),
        Knob("max-failures", _text, "max_failures"),
        Knob("strict", _truth, "strict"),
        Knob("max-resyncs", _count_or_none, "max_resyncs"),
        Knob("max-resyncs-per", _shares, "max_resyncs_per"),
        Knob("waves", _text, "waves"),
        Knob("seed", _text, "seed"),
        Knob("soak", _duration, "soak_s"),
        Knob("gate", _conditions, "gates"),
        Knob("approve", _truth, "approve"),
        Knob("start-at", _start, "start_at"),
        Knob("at", _at, "at"),
        Knob("zone-column", _text, "zone_column"),
        Knob("window", _window, "window"),
        Knob("spread", _positive_duration, "spread_s"),
        Knob("health", _health, "health"),
        Knob("drain", _positive_duration, "drain_s"),
        Knob("runs-dir", _text, "runs_dir", "SYNCSHIFT_RUNS"),
    )
}
