"""Where the database is: read from the environment, a file, or a flag without a password."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.errors import SettingsError
from runner.secret import Secret

VARIABLE = "SYNCSHIFT_DSN"
SCHEMA = "syncshift"
"""Where all that belongs to the engine stands in the database."""
_USUAL = {
    "application_name": "syncshift",
    "connect_timeout": "3",
    # A server whose machine is gone says nothing; so it is noticed within seconds.
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "4000",
}


def find_dsn(
    *, flag: str | None, file: str | None, environment: Mapping[str, str]
) -> Secret | None:
    """Return where the database is; None: nobody says so. A flag goes before a variable.

    Raises `SettingsError`, also for a *flag* with a password: it stands in the list of processes.
    """
    if flag is not None and file is not None:
        raise SettingsError("--dsn and --dsn-file say the same thing; leave one of them out")
    if flag is not None:
        if "password" in _parts(flag, "--dsn"):
            raise SettingsError(
                "--dsn holds a password, which everybody on this machine could read in the list of "
                f"processes; put it into {VARIABLE}, or into a file and name that with --dsn-file"
            )
        return _usual(flag, "--dsn")
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"--dsn-file {file}: cannot be read ({error})") from None
        return _usual(text, f"--dsn-file {file}")
    text = environment.get(VARIABLE, "").strip()
    return _usual(text, VARIABLE) if text else None


def place_of(dsn: Secret) -> str:
    """Return which database that is, for a person: host, port and name alone."""
    parts = _parts(dsn.reveal(), VARIABLE)
    where = parts.get("host") or parts.get("hostaddr") or "this machine"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{parts.get('dbname') or parts.get('user') or 'postgres'} at {where}{port}"


def _parts(text: str, origin: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(text).items() if value}
    except psycopg.ProgrammingError:
        raise SettingsError(
            f"{origin} is no address of a PostgreSQL database; it looks like "
            "postgresql://user@host:5432/name"
        ) from None


def _usual(text: str, origin: str) -> Secret:
    given = _parts(text, origin)
    options = f"{given.get('options', '')} -c search_path={SCHEMA}".strip()
    return Secret(make_conninfo(text, **{**_USUAL, **given, "options": options}))
