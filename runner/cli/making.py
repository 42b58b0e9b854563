"""`input`: build the file that the jobs take, out of a list of users."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from runner.cli.carrying import resolve_settings, shown
from runner.cli.flags import Host, Output, Pace
from runner.errors import SettingsError

if TYPE_CHECKING:
    from runner.gathering import Gathered
    from runner.users import Wish

_API = Group("Which API, and as whom", sort_key=2)
_SYNCS = Group("Which syncs, and what for", sort_key=1)
_FLAG = Parameter(group=_SYNCS, negative=(), show_default=False)
_WORD = Parameter(group=_SYNCS, negative=(), show_default=False, allow_leading_hyphen=True)
_NAMED = 5


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reach(Host):
    """Likewise, and which way."""

    allow_http: Annotated[bool | None, Parameter(group=_API, negative=(), show_default=False)] = (
        None
    )
    """Send tokens over plain http to another machine."""
    trust_env: Annotated[bool | None, Parameter(group=_API, negative=(), show_default=False)] = None
    """Use the proxy that the environment names (HTTPS_PROXY, NO_PROXY)."""


def make_input(
    *,
    users: Annotated[str, _WORD],
    from_credential: Annotated[str | None, _FLAG] = None,
    to_credential: Annotated[str | None, _FLAG] = None,
    frequency: Annotated[str | None, _FLAG] = None,
    integration: Annotated[str | None, _FLAG] = None,
    out: Annotated[
        str | None,
        Parameter(
            name=["--output", "-o"],
            group=_SYNCS,
            negative=(),
            show_default=False,
            allow_leading_hyphen=True,
        ),
    ] = None,
    api: Reach = Reach(),
    limits: Pace = Pace(),
    output: Output = Output(),
) -> int:
    """Build an input file: list the syncs of each user, and write a row for each that is meant.

    Changes nothing. A user whose syncs could not be listed is told with the reason, and
    stands in FILE.unlisted.csv, which --users takes. Exit code 0 if all were listed, 3 if not.

    Example: syncshift input --users users.csv --frequency 1h -o hourly.csv

    Parameters
    ----------
    users
        File with one user ID a line, or CSV or JSONL with a user_id; there each user may have a
        credential_id, an expected_credential_id and a frequency of its own.
    from_credential
        Only syncs that use this credential now.
    to_credential
        The credential that they are to use.
    frequency
        How often they are to run: 1m 5m 10m 30m 1h 3h 6h 24h.
    integration
        Only syncs of this integration, such as googledrive.
    out
        Where to write the rows (standard output, also -). A file that is there is left alone.
    """
    from runner.authority import speaks_for, token_source
    from runner.cli import screen
    from runner.gathering import gather
    from runner.users import check_users

    if out == "-":
        out = None
    if output.json and out is None:
        raise SettingsError("--json and the rows would share standard output; add --output FILE")
    wish = _wish(from_credential, to_credential, frequency)
    resolved = resolve_settings(output, api, limits)
    checked = check_users(users, for_all=wish, any_integration=integration is None)
    tokens = token_source(resolved.secrets, resolved.settings, warn=screen.warn)
    speaks_for(tokens, checked.count)
    found = shown(
        partial(
            gather,
            checked,
            resolved.settings,
            tokens,
            integration=integration,
            output=None if out is None else Path(out),
            standard_output=sys.stdout,
        ),
        quiet=output.quiet,
    )
    _tell(found, output)
    return found.exit_code


def _wish(bound_to: str | None, credential_id: str | None, frequency: str | None) -> Wish:
    """Return what was asked for every user. Raises `SettingsError`."""
    from runner.job import CREDENTIAL, FREQUENCY
    from runner.users import Wish

    for flag, field, value in (
        ("from-credential", CREDENTIAL, bound_to),
        ("to-credential", CREDENTIAL, credential_id),
        ("frequency", FREQUENCY, frequency),
    ):
        if value is not None and not field.accepts(value):
            raise SettingsError(f"--{flag} {field.rule}; got {value!r}")
    return Wish(
        bound_to=bound_to and bound_to.lower(),
        credential_id=credential_id and credential_id.lower(),
        frequency=frequency,
    )


def _tell(found: Gathered, output: Output) -> None:
    from runner.cli import screen

    if output.json:
        screen.write_json(found)
    elif not output.quiet:
        screen.errors().print(_picture(found))
    if found.unlisted and (output.json or output.quiet):
        why = found.reason or f"{found.unlisted:,} users could not be listed"
        screen.errors().print(screen.plain(why), markup=False)


def _without(found: Gathered) -> str:
    count, named = found.without_syncs, ", ".join(found.without[:_NAMED])
    more = f" and {count - _NAMED:,} more" if count > _NAMED else ""
    who = "1 user has" if count == 1 else f"{count:,} users have"
    return f"{who} no sync that is meant: {named}{more}"


def _picture(found: Gathered) -> Any:
    from rich.console import Group as Together
    from rich.text import Text

    from runner.cli import screen

    head = Text.assemble(
        ("made", "bold green") if not found.unlisted else ("not whole", "bold red"),
        f": {found.syncs:,} rows, the syncs of {found.listed:,} of {found.users:,} users",
    )
    known = {"why": found.reason} if found.reason else {}
    if found.unlisted:
        known["missing"] = f"{found.unlisted:,} users, who could not be listed"
    if found.unlisted_file:
        known["again"] = f"syncshift input --users {found.unlisted_file} … with another --output"
    if found.file:
        known["file"] = found.file
    if found.file and found.syncs:
        known["next"] = f"syncshift plan {found.job} {found.file}"
    if found.without_syncs:
        known["mind"] = _without(found)
    if not found.syncs:
        known["mind"] = "no sync is meant; look at the credential, the integration and the users"
    lines = [
        Text(screen.plain(f"    line {p.line}, {p.user_id}: {p.reason}"))
        for p in (() if found.reason else found.problems)
    ]
    first = [Text("  first who are missing:", style="dim")] if lines else []
    return Together(head, screen.facts(known), *first, *lines)
