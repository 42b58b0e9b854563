"""The flags that several commands share. None always means: not given here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

_API = Group("Which API, and as whom", sort_key=2)
_LIMITS = Group("Limits", sort_key=3)
_ROWS = Group("Rows", sort_key=4)
_ROLLOUT = Group("Rollout", sort_key=5)
THE_RUN = Group("The run", sort_key=1)
_OUTPUT = Group("Output", sort_key=6)


def _flag(group: Group) -> Parameter:
    return Parameter(group=group, negative=(), show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed, and where runs live."""

    runs_dir: Annotated[str | None, _flag(THE_RUN)] = None
    """Folder of all runs (./runs; SYNCSHIFT_RUNS)."""
    json: Annotated[bool, _flag(_OUTPUT)] = False
    """Print the summary as JSON, and nothing else, on standard output."""
    quiet: Annotated[bool, _flag(_OUTPUT)] = False
    """Print errors only."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _flag(_OUTPUT)] = "warning"
    """Diagnostics on standard error from this level on (warning)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a person takes part: is asked before anything is sent, and may watch."""

    yes: Annotated[bool, _flag(THE_RUN)] = False
    """Do not ask before sending. Required without a terminal."""
    expect: Annotated[int | None, _flag(THE_RUN)] = None
    """Refuse unless exactly so many re-syncs would start."""
    ui: Annotated[bool, _flag(THE_RUN)] = False
    """Serve a page on this machine that follows the run and steers it, and print its address."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Who else is told what the run is doing."""

    metrics_port: Annotated[int | None, _flag(THE_RUN)] = None
    """Serve metrics for Prometheus at this port while the run goes; 0 for any that is free."""
    metrics_host: Annotated[str | None, _flag(THE_RUN)] = None
    """At which address of this machine (127.0.0.1); 0.0.0.0 in a container."""
    traces: Annotated[str | None, _flag(THE_RUN)] = None
    """Send traces of so many of the rows, such as 1% or 100%, to OTEL_EXPORTER_OTLP_ENDPOINT."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Host:
    """Which API, and as whom."""

    base_url: Annotated[str | None, _flag(_API)] = None
    """Address of the API (https://sync.useparagon.com; PARAGON_SYNC_URL)."""
    project_id: Annotated[str | None, _flag(_API)] = None
    """Paragon project (PARAGON_PROJECT_ID)."""
    signing_key_file: Annotated[str | None, _flag(_API)] = None
    """PEM file with the signing key (PARAGON_SIGNING_KEY_FILE; the key itself can stand in
    PARAGON_SIGNING_KEY, or a ready-made token of one user in PARAGON_USER_TOKEN)."""
    audience: Annotated[str | None, _flag(_API)] = None
    """Audience of tokens (useparagon.com/PROJECT-ID; PARAGON_AUDIENCE)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Api(Host):
    """Likewise, and how far to carry each row."""

    until: Annotated[Literal["accepted", "confirmed", "resynced"] | None, _flag(_ROWS)] = None
    """How far to carry each row (resynced for rows that start a re-sync, accepted for others)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Pace:
    """How hard to push."""

    concurrency: Annotated[str | None, _flag(_LIMITS)] = None
    """Most requests in flight (32)."""
    rate: Annotated[str | None, _flag(_LIMITS)] = None
    """Most requests per second, evenly spread (no ceiling)."""
    timeout: Annotated[str | None, _flag(_LIMITS)] = None
    """Time for one attempt (30s)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Limits(Pace):
    """Likewise, and when to stop."""

    max_failures: Annotated[str | None, _flag(_LIMITS)] = None
    """Stop when more than N rows, or P% of at least 20 ended rows, have failed (10%)."""
    max_resyncs: Annotated[str | None, _flag(_LIMITS)] = None
    """Most re-syncs of this run that are unfinished at once, or none for any number (50)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Hands:
    """How many carry the rows."""

    processes: Annotated[str | None, _flag(_LIMITS)] = None
    """Carry the rows with so many processes of this machine; every limit is that of all (1)."""
    engine: Annotated[Literal["local", "postgres"] | None, _flag(_LIMITS)] = None
    """Who carries the rows: this machine (local), or `syncshift worker` anywhere, over
    PostgreSQL (local)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Rollout:
    """In which slices, and when."""

    waves: Annotated[str | None, _flag(_ROLLOUT)] = None
    """Slices of the rows, each proved before the next, such as 1,1%,10%,100%: a number adds rows,
    a percent counts from the start (one wave)."""
    gate: Annotated[tuple[str, ...] | None, _flag(_ROLLOUT)] = None
    """What a wave may come to before the next: failed=N|P%, errored=, unconfirmed=, records=-P%
    (errored=0)."""
    soak: Annotated[str | None, _flag(_ROLLOUT)] = None
    """How long to wait after a wave before its gate is judged (no wait)."""
    approve: Annotated[bool | None, _flag(_ROLLOUT)] = None
    """Ask a person at each gate."""
    seed: Annotated[str | None, _flag(_ROLLOUT)] = None
    """Spread the rows over the waves by this text; the same text, the same waves (the input)."""
    strict: Annotated[bool | None, _flag(_LIMITS)] = None
    """Have no more rows under way than may still fail."""
    max_resyncs_per: Annotated[tuple[str, ...] | None, _flag(_LIMITS)] = None
    """Likewise for each user or integration: user=N, integration=N (any number)."""
    start_at: Annotated[str | None, _flag(_ROLLOUT)] = None
    """Send nothing before: 2026-11-27T22:00:00+01:00, or 22:00 of today or tomorrow (at once)."""
    at: Annotated[str | None, _flag(_ROLLOUT)] = None
    """Start each row when it is that late in its time zone: 02:00, or 02:00@Europe/Berlin for
    rows that name none (at once)."""
    zone_column: Annotated[str | None, _flag(_ROLLOUT)] = None
    """The column of the input that names the time zone --at goes by, such as time_zone (none)."""
    window: Annotated[str | None, _flag(_ROLLOUT)] = None
    """Send only between these times of day: 22:00-06:00@Europe/Berlin (always)."""
    spread: Annotated[str | None, _flag(_ROLLOUT)] = None
    """Spread the rows over this time, each sync at a moment of its own: 6h (at once)."""
    health: Annotated[str | None, _flag(_ROLLOUT)] = None
    """URL or command that is asked every second whether sending may go on."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Making:
    """What a new run is, and what may not be changed later."""

    max_attempts: Annotated[str | None, _flag(_LIMITS)] = None
    """Attempts a request (5). Waits that the server asks for are not counted."""
    max_outage: Annotated[str | None, _flag(_LIMITS)] = None
    """How long to wait for a server that is down before the run stops (15m)."""
    confirm_timeout: Annotated[str | None, _flag(_LIMITS)] = None
    """How long an accepted change may take to be in force (60s)."""
    resync_timeout: Annotated[str | None, _flag(_LIMITS)] = None
    """How long a re-sync may take (6h)."""
    drain: Annotated[str | None, _flag(_LIMITS)] = None
    """How long requests in flight may take to land after Ctrl-C (30s)."""
    allow_http: Annotated[bool | None, _flag(_API)] = None
    """Send tokens over plain http to another machine."""
    trust_env: Annotated[bool | None, _flag(_API)] = None
    """Use the proxy that the environment names (HTTPS_PROXY, NO_PROXY)."""
    no_read: Annotated[bool | None, _flag(_ROWS)] = None
    """Send without looking first: rows that are already so are sent again, and nothing can
    be undone that was not read."""
    skip_invalid: Annotated[bool | None, _flag(_ROWS)] = None
    """Pass over rows that cannot become a change, instead of refusing the file."""
    ignore_column: Annotated[tuple[str, ...] | None, _flag(_ROWS)] = None
    """Carry this column along although its name looks like a known one; may be repeated."""


def told(*groups: object) -> dict[str, Any]:
    """Return what was given on the command line, by the flags' names without dashes."""
    given: dict[str, Any] = {}
    for group in groups:
        for field in fields(group):  # type: ignore[arg-type]  # each group is a dataclass
            if field.name not in {"json", "quiet", "log_level"}:
                given[field.name.replace("_", "-")] = getattr(group, field.name)
    return given
