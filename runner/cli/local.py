"""`simulate` and `demo`: a Sync API on this machine, and the whole story against it."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from runner.cli import screen
from runner.errors import SettingsError

if TYPE_CHECKING:
    from runner.simulator import Faults, Simulator

_PROJECT = "simulated-project"


def simulate(
    *,
    port: int = 8787,
    source: Annotated[str | None, Parameter(name="--input")] = None,
    syncs: int = 1_000,
    users: int = 50,
    seed: int = 0,
    key_file: str = "simulator-key.pem",
    project_id: str = _PROJECT,
    audit_file: str | None = None,
    latency: str = "40ms",
    apply_after: str = "0s",
    resync: str = "10s",
    errored: str = "0%",
    fault: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    mixed: str = "0%",
    limit: float | None = None,
    retry_after: Literal["seconds", "date", "none"] = "seconds",
    outage: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> int:
    """Serve a Sync API on this machine: for rehearsals, without an account.

    Checks tokens, keeps state, re-syncs after a credential change, and fails on
    request. The same seed fails in the same places.

    Example: syncshift simulate --input moves.csv --fault http_503=5% --limit 50

    Parameters
    ----------
    port
        Port on 127.0.0.1; 0 takes a free one.
    source
        CSV or JSONL file whose syncs and users are to exist; otherwise they are made up.
    syncs
        How many syncs to make up.
    users
        How many users they belong to.
    seed
        Chooses the present state and the faults.
    key_file
        Signing key; made if it is not there.
    project_id
        Project that tokens must be for.
    audit_file
        Write every request to this file, one JSON object a line.
    latency
        Median time to an answer.
    apply_after
        Time from accepting a change to applying it.
    resync
        How long a re-sync takes.
    errored
        Share of syncs whose re-sync ends in ERRORED.
    fault
        NAME=SHARE of requests that meet this fault; may be repeated. Names: http_401 http_408
        http_409 http_423 http_429 http_500 http_502 http_503 http_503_wait http_504 drop_before
        drop_after truncated garbage not_json other_id other_data oversized gzip_bomb ignored slow
        close_after redirect revoked.
    mixed
        Share of syncs that meet one fault of any kind, on their first request.
    limit
        Requests a second above which 429 is answered.
    retry_after
        What a 429 says about when to come back.
    outage
        FROM+FOR, such as 10s+30s: 503 for everybody in that time; may be repeated.
    """
    import anyio

    from runner.secret import Secret
    from runner.simulator import Behavior, RetryAfter, Simulator
    from runner.tokens import TokenChecker, load_signing_key

    _check_numbers(port=port, syncs=syncs, users=users)
    if limit is not None and not 0 < limit < math.inf:
        raise SettingsError(f"--limit must be a number above 0; got {limit:g}")
    key = load_signing_key(Secret(_key_text(Path(key_file))), origin=key_file)
    audience = f"useparagon.com/{project_id}"
    simulator = Simulator(
        verify=TokenChecker(key.public_pem(), audience),
        seed=seed,
        faults=_faults(
            {
                "latency_s": _seconds("latency", latency),
                "limit_per_s": limit,
                "burst": max(1, round(limit or 1)),
                "retry_after": RetryAfter(retry_after),
                "outages": tuple(map(_outage, outage)),
            },
            named=fault,
            mixed=_share("mixed", mixed),
        ),
        behavior=Behavior(
            apply_after_s=_seconds("apply-after", apply_after),
            resync_s=_seconds("resync", resync),
            errored=_share("errored", errored),
        ),
        audit_file=_appendable(audit_file) if audit_file else None,
        keep_audit=False,
        port=port,
    )
    if source is None:
        simulator.seed(syncs, users)
    else:
        simulator.seed_from_rows(_owners(source))

    def started(base_url: str) -> None:
        console = screen.data()
        console.print(f"# serving {len(simulator.snapshot()):,} syncs; Ctrl-C ends it")
        for name, value in (
            ("PARAGON_SYNC_URL", base_url),
            ("PARAGON_PROJECT_ID", project_id),
            ("PARAGON_SIGNING_KEY_FILE", str(Path(key_file).absolute())),
        ):
            console.print(f"export {name}={shlex.quote(value)}", markup=False)

    anyio.run(_serve, simulator, started)
    return 0


def demo(*, keep: str | None = None) -> int:
    """Show the whole story in half a minute, against a simulator on this machine.

    Runs both jobs on the sample inputs, is interrupted once, resumes, and says
    where everything was written. Needs no account and sends nothing anywhere
    else.

    Example: syncshift demo --keep rehearsal

    Parameters
    ----------
    keep
        Folder for the runs (a new one in the temporary folder).
    """
    from runner.cli.demo import tell_story

    return tell_story(Path(keep) if keep else None)


def _check_numbers(*, port: int, syncs: int, users: int) -> None:
    for name, number, least, most in (
        ("port", port, 0, 65_535),
        ("syncs", syncs, 0, 1_000_000),
        ("users", users, 1, 1_000_000),
    ):
        if not least <= number <= most:
            raise SettingsError(f"--{name} must be from {least:,} to {most:,}; got {number}")


def _appendable(name: str) -> Path:
    path = Path(name)
    try:
        path.open("ab").close()
    except OSError as error:
        raise SettingsError(
            f"--audit-file {name}: cannot be written ({error.strerror}); choose another"
        ) from None
    return path


async def _serve(simulator: Simulator, started: Any) -> None:
    import signal

    import anyio

    async with anyio.create_task_group() as group:

        async def until_signaled() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    simulator.stop_serving()

        group.start_soon(until_signaled)
        refusal = None
        try:
            await simulator.serve_forever(started=started)
        except SettingsError as error:
            # Kept, for out of the group it would come wrapped into another one.
            refusal = error
        group.cancel_scope.cancel()
    if refusal is not None:
        raise refusal


def _key_text(path: Path) -> str:
    from runner.tokens import make_demo_key, read_key_file

    if path.exists():
        return read_key_file(path).reveal()
    text = make_demo_key().reveal()
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return text


def _owners(source: str) -> list[tuple[str, str]]:
    """Return who owns which sync, as *source* has it, whatever job it is for."""
    from runner.job import available
    from runner.model import Row
    from runner.rows import Columns, read, recognise

    fields = {field.name: field for job in available().values() for field in job.owns}
    columns = Columns(owned=tuple(fields.values()), user_required=False)
    return [
        (row.fields["sync_id"], row.fields.get("user_id", ""))
        for block in read(recognise(source), columns)
        for row in block
        if isinstance(row, Row)
    ]


def _faults(known: dict[str, Any], *, named: tuple[str, ...], mixed: float) -> Faults:
    import msgspec

    from runner.simulator import Fault, Faults

    if named and mixed:
        raise SettingsError("--fault and --mixed cannot be had together; choose one of them")
    if mixed:
        return msgspec.structs.replace(Faults.mixed(mixed), **known)
    shares: dict[str, Any] = {}
    for text in named:
        name, _, share = text.partition("=")
        if name not in set(Fault):
            raise SettingsError(
                f"--fault {text}: there is no fault {name!r}; there are {', '.join(Fault)}"
            )
        shares[name] = _share(f"fault {name}=SHARE", share)
    try:
        return Faults(**shares, **known)
    except ValueError as error:
        raise SettingsError(f"{error}") from None


def _outage(text: str) -> Any:
    from runner.simulator import Outage

    start, plus, length = text.partition("+")
    if not plus:
        raise SettingsError(f"--outage must say FROM+FOR, such as 10s+30s; got {text!r}")
    return Outage(start_s=_seconds("outage", start), duration_s=_seconds("outage", length))


def _seconds(name: str, text: str) -> float:
    from runner.knobs import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise SettingsError(f"--{name} {error}; got {text!r}") from None


def _share(name: str, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingsError(f"--{name} must be a share such as 5% or 0.05; got {text!r}")
    return share
