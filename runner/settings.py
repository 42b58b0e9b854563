"""The knobs of a run: flags over environment over `syncshift.toml` over defaults.

A setting has one name everywhere: ``--max-outage`` on the command line,
``max-outage`` in the file, `max_outage_s` here. Secrets have no flag and no
place in the file; they come from the environment or from files of their own.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from runner.address import DEFAULT_BASE_URL, base_url
from runner.errors import SettingsError
from runner.knobs import KNOBS, Unsayable
from runner.secret import Secret

FILE_NAME = "syncshift.toml"
SIGNING_KEY_VARIABLE = "PARAGON_SIGNING_KEY"
USER_TOKEN_VARIABLE = "PARAGON_USER_TOKEN"  # noqa: S105  # the name of a variable

DEFAULT_RESYNCS = 50
"""Unfinished re-syncs of one run at once, unless somebody wants it otherwise."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked to do, less its secrets; stands in `run.json`."""

    base_url: str = DEFAULT_BASE_URL
    """Scheme and host, and a path without ``/api`` if the API lives below one."""
    project_id: str | None = None
    audience: str | None = None
    """The ``aud`` of the tokens that are minted."""
    trust_env: bool = False
    """Whether the proxy that the environment names is used."""
    allow_http: bool = False
    concurrency: int = 32
    """Ceiling of requests in flight."""
    rate: float | None = None
    """Ceiling of requests per second; None: no ceiling."""
    processes: int = 1
    """How many carry the rows, on this machine."""
    engine: Literal["local", "postgres"] = "local"
    """Who carries the rows: this machine, or workers over PostgreSQL."""
    max_attempts: int = 5
    """Attempts a request."""
    timeout_s: float = 30.0
    """An attempt, from connecting to the last byte of the answer."""
    max_outage_s: float = 900.0
    """How long to wait for a server that is down."""
    until: str | None = None
    """How far each row is carried; None: rows that start a re-sync until it has ended, others
    until they are accepted."""
    confirm_timeout_s: float = 60.0
    """How long an accepted change may take to be in force."""
    resync_timeout_s: float = 21_600.0
    """How long a re-sync may take."""
    no_read: bool = False
    """Send without reading first."""
    skip_invalid: bool = False
    ignore_columns: tuple[str, ...] = ()
    """Columns that are carried along although their names look like known ones."""
    max_failures: str = "10%"
    strict: bool = False
    """Whether no more rows are under way than may still fail."""
    max_resyncs: int | Literal["none"] | None = None
    """Unfinished re-syncs of this run at once; None: `DEFAULT_RESYNCS` where rows are followed."""
    max_resyncs_per: tuple[str, ...] = ()
    """``KEY=N``: likewise for each value of a key, ``user`` or ``integration``."""
    waves: str | None = None
    """Slices of the rows, one after the other: ``1,1%,10%,100%``. None: one."""
    seed: str | None = None
    """By it rows are spread over the waves; None: by the input."""
    soak_s: float = 0.0
    """How long to wait after a wave before its gate is judged."""
    gates: tuple[str, ...] = ()
    """Conditions of every gate: ``errored=0``, ``records=-20%``."""
    approve: bool = False
    """Whether a person is asked at each gate."""
    start_at: str | None = None
    """RFC 3339 in UTC: nothing is sent before."""
    at: str | None = None
    """``HH:MM`` or ``HH:MM@ZONE``: rows start when it is that late in their zone."""
    zone_column: str | None = None
    """The column of the input that names it; None: all rows go by the zone in `at`."""
    window: str | None = None
    """``HH:MM-HH:MM@ZONE``: nothing is sent outside."""
    spread_s: float | None = None
    """Over how long the rows are spread."""
    health: str | None = None
    """URL or command that is asked whether sending may go on."""
    drain_s: float = 30.0
    """How long requests in flight may take to land when the run is interrupted."""

    @property
    def resync_budget(self) -> int | None:
        """How many re-syncs of the run may be unfinished at once; None: any number."""
        if self.max_resyncs == "none":
            return None
        if self.max_resyncs is None:
            return DEFAULT_RESYNCS if self.until in {None, "resynced"} else None
        return self.max_resyncs


class Secrets(msgspec.Struct, frozen=True):
    """What is used and never written. One of the two is set."""

    signing_key: Secret | None = None
    signing_key_file: Path | None = None
    user_token: Secret | None = None

    @property
    def ready_made(self) -> bool:
        """Whether a ready-made user token is used instead of a signing key."""
        return self.user_token is not None


class Places(msgspec.Struct, frozen=True):
    """Where runs live."""

    runs_dir: Path = Path("runs")


_SECRET_NAMES = {"signing-key": SIGNING_KEY_VARIABLE, "user-token": USER_TOKEN_VARIABLE}


class Resolved(msgspec.Struct, frozen=True):
    """Every setting, and where secrets and runs are."""

    settings: Settings
    secrets: Secrets
    places: Places
    told: frozenset[str] = frozenset()
    """The fields of `settings` that somebody gave, in whatever way."""


def resolve(
    flags: Mapping[str, Any], *, environment: Mapping[str, str], directory: Path
) -> Resolved:
    """Work out every setting.

    *flags* holds what was given on the command line, by the flags' names
    without dashes; None means not given. The file is looked for in
    *directory*. Raises `SettingsError`, which tells all that is wrong at once.
    """
    told = _from_file(directory / FILE_NAME)
    origin = dict.fromkeys(told, f"{FILE_NAME}:")
    for knob in KNOBS.values():
        if knob.variable and environment.get(knob.variable, "").strip():
            told[knob.name] = environment[knob.variable]
            origin[knob.name] = f"{knob.variable}:"
    for name, value in flags.items():
        if value is not None:
            told[name] = value
            origin[name] = ""
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in told.items():
        try:
            values[KNOBS[name].field] = KNOBS[name].read(value)
        except ValueError as error:
            got = "" if isinstance(error, Unsayable) else f"; got {value!r}"
            wrong.append(f"{origin[name]} --{name} {error}{got}".strip())
    try:
        allow_http = values.get("allow_http", False)
        values["base_url"] = base_url(
            values.get("base_url", DEFAULT_BASE_URL), allow_http=allow_http
        )
    except SettingsError as error:
        wrong.append(f"{origin.get('base-url', '')} {error}".strip())
    if wrong:
        raise SettingsError("\n".join(wrong))
    key_file = values.pop("signing_key_file", None)
    runs_dir = Path(values.pop("runs_dir", "runs"))
    by_flag = flags.get("signing-key-file") is not None
    secrets = _secrets(environment, key_file, by_flag=by_flag)
    settings = Settings(**values)
    if settings.audience is None and settings.project_id is not None:
        audience = f"useparagon.com/{settings.project_id}"
        settings = msgspec.structs.replace(settings, audience=audience)
    fields = {KNOBS[name].field for name in told}
    return Resolved(settings, secrets, Places(runs_dir), frozenset(fields & set(values)))


def check_run_id(text: str) -> str:
    """Return *text* if a run may be called that. Raises `SettingsError`."""
    if not _RUN_ID.fullmatch(text):
        raise SettingsError(
            "--run-id must begin with a letter or digit and hold only letters, digits, "
            f"'.', '_' and '-', at most 64; got {text!r}"
        )
    return text


def _from_file(path: Path) -> dict[str, Any]:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read as TOML ({error})") from None
    for name in told:
        if name in _SECRET_NAMES:
            raise SettingsError(
                f"{path}: {name} must not stand in a file that is shared; "
                f"set {_SECRET_NAMES[name]} instead"
            )
        if name not in KNOBS:
            near = difflib.get_close_matches(name, KNOBS, n=1)
            hint = f"; is {near[0]} meant?" if near else f"; there are: {', '.join(KNOBS)}"
            raise SettingsError(f"{path}: there is no setting {name!r}{hint}")
    return told


def _secrets(environment: Mapping[str, str], key_file: str | None, *, by_flag: bool) -> Secrets:
    # A flag goes before a variable, also where the two have different names.
    key = "" if by_flag else environment.get(SIGNING_KEY_VARIABLE, "")
    token = environment.get(USER_TOKEN_VARIABLE, "")
    has_key = bool(key.strip()) or key_file is not None
    if has_key and token.strip():
        given = SIGNING_KEY_VARIABLE if key.strip() else "--signing-key-file"
        raise SettingsError(
            f"both {USER_TOKEN_VARIABLE} and a signing key ({given}) are given; "
            "unset one of them, so that it is clear as whom requests are sent"
        )
    if key.strip() and key_file is not None:
        raise SettingsError(
            f"both {SIGNING_KEY_VARIABLE} and --signing-key-file are given; unset one of them"
        )
    return Secrets(
        signing_key=Secret(key) if key.strip() else None,
        signing_key_file=Path(key_file) if key_file is not None else None,
        user_token=Secret(token) if token.strip() else None,
    )


def origins(
    resolved: Resolved, flags: Mapping[str, Any], *, environment: Mapping[str, str], directory: Path
) -> dict[str, tuple[str, Any, str]]:
    """Return each setting's field, value and origin, by its name; *resolved* is of the same three.

    An origin is ``flag``, the name of a variable, the file's name, or ``default``. Of a secret
    only ``set`` or None is told.
    """
    in_file = _from_file(directory / FILE_NAME)
    found: dict[str, tuple[str, Any, str]] = {}
    for name, knob in KNOBS.items():
        origin = FILE_NAME if name in in_file else "default"
        if knob.variable and environment.get(knob.variable, "").strip():
            origin = knob.variable
        holders: tuple[Any, ...] = (resolved.settings, resolved.places, resolved.secrets)
        (value,) = (getattr(h, knob.field) for h in holders if hasattr(h, knob.field))
        found[name] = (knob.field, value, "flag" if flags.get(name) is not None else origin)
    for name, variable in _SECRET_NAMES.items():
        given = getattr(resolved.secrets, name.replace("-", "_")) is not None
        found[name] = (name, "set" if given else None, variable if given else "default")
    return found
