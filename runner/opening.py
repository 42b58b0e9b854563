"""Opens a run: a new one, or one to go on with. Nothing is sent here.

A new run is on disk, as *checking*, before its input is read. Settings, key and
input are all judged before the first request.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from runner.account import index_of, input_of, same_input
from runner.check import Checked, check, columns_of, write_invalid
from runner.errors import (
    InputError,
    RunChanged,
    RunRefused,
    SettingsError,
    SyncshiftError,
    UsageError,
)
from runner.folder import Folder, Input, Manifest
from runner.job import Job, find
from runner.log import stamp
from runner.rows import FileVersion, InputFile, file_version, recognise
from runner.settings import (
    SIGNING_KEY_VARIABLE,
    USER_TOKEN_VARIABLE,
    Resolved,
    Secrets,
    Settings,
)
from runner.tokens import (
    ReadyToken,
    Tokens,
    TokenSource,
    key_file_warning,
    load_signing_key,
    read_key_file,
)
from runner.version import VERSION

INVALID = "invalid.csv"
_STANDARD_INPUT = "-"
_ANEW = {"rate", "concurrency", "max_failures", "timeout_s"}
"""Settings that may be given anew when a run is resumed."""
_FIXED = ("base_url", "project_id", "audience", "until")
"""Settings that must be the run's own, and are checked because the environment may hold them."""


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is locked, checked and ready to go."""

    folder: Folder
    manifest: Manifest
    job: Job
    checked: Checked
    tokens: TokenSource
    left: int
    """Rows that are still to be carried."""
    resyncs: int
    """Full re-syncs that these may start, as far as is known."""
    irreversible: int = 0
    """Rows of a rollback whose before-image cannot be restored."""
    remarks: tuple[str, ...] = ()
    """What else a person should read before anything is sent."""
    version: FileVersion | None
    """Of the input, from before it was checked: what is sent was checked."""
    resumed: bool = False

    @property
    def settings(self) -> Settings:
        """The settings it runs with."""
        return self.manifest.settings


def token_source(
    secrets: Secrets, settings: Settings, *, warn: Callable[[str], None]
) -> TokenSource:
    """Return where tokens come from. Raises `SettingsError` when that cannot be."""
    if secrets.user_token is not None:
        ready = ReadyToken(secrets.user_token)
        if ready.expires_at is not None and ready.expires_at <= time.time():
            raise SettingsError(
                f"{USER_TOKEN_VARIABLE} expired at {stamp(ready.expires_at)}; get a new one"
            )
        return ready
    if secrets.signing_key is not None:
        key = load_signing_key(secrets.signing_key, origin=SIGNING_KEY_VARIABLE)
    elif secrets.signing_key_file is not None:
        text = read_key_file(secrets.signing_key_file)
        key = load_signing_key(text, origin=str(secrets.signing_key_file))
        if warning := key_file_warning(secrets.signing_key_file):
            warn(warning)
    else:
        raise SettingsError(
            "there is no key to make tokens with; name its file with --signing-key-file, put it "
            f"into {SIGNING_KEY_VARIABLE}, or a ready-made token into {USER_TOKEN_VARIABLE}"
        )
    if settings.audience is None:
        raise SettingsError(
            "a token needs its audience; give --project-id (PARAGON_PROJECT_ID), or --audience"
        )
    return Tokens(key, audience=settings.audience, renew_ahead_s=max(60.0, settings.timeout_s + 30))


def open_new(
    job_name: str,
    source: str,
    resolved: Resolved,
    *,
    run_id: str | None = None,
    format: str | None = None,
    copies: bool = True,
    standard_input: BinaryIO | None = None,
    warn: Callable[[str], None],
) -> Opened:
    """Make a run of *job_name* on *source*, and check its input.

    Raises `UsageError` (the run, if there is one by then, is *refused*),
    `RunExists`, `DiskFault`.
    """
    job = find(job_name)
    file = recognise(source, format)
    piped = source == _STANDARD_INPUT
    if piped and not copies:
        raise SettingsError("--no-copy cannot be had with standard input: it is read only once")
    tokens = token_source(resolved.secrets, resolved.settings, warn=warn)
    stream = standard_input if piped else _open(file.path)
    assert stream is not None  # noqa: S101  # whoever says "-" brings it along
    with stream:
        folder = Folder.create(resolved.places.runs_dir, run_id, wall_clock_s=time.time())
        name = _name_of_copy(file)
        manifest = Manifest(
            run_id=folder.run_id,
            job=job.name,
            input=Input(
                name=source,
                file=name if copies else str(file.path.absolute()),
                format=file.format,
                compression=file.compression,
            ),
            settings=resolved.settings,
            versions=_versions(),
            created=stamp(time.time()),
        )
        folder.write(manifest)
        try:
            if copies:
                size, sha256 = folder.take_in(stream, name)
                manifest = folder.write(_with_input(manifest, bytes=size, sha256=sha256))
            return _checked(folder, manifest, job, tokens)
        except UsageError as refusal:
            _refuse(folder, refusal)
            raise


def reopen(
    run_id: str,
    resolved: Resolved,
    *,
    warn: Callable[[str], None],
) -> Opened:
    """Open a run to go on with it. Its settings are its own, but for those that may change.

    Raises `NoSuchRun`, `RunLocked`, `RunChanged` when input, host, project or
    audience are others, `UsageError` when there is no key.
    """
    folder = Folder.open(resolved.places.runs_dir, run_id)
    folder.lock()
    try:
        manifest = folder.read()
        if manifest.state == "refused":
            raise RunRefused(
                f"run {run_id} was refused before anything was sent ({manifest.reason}); "
                "mend that and begin a new run"
            )
        job = find(manifest.job)
        settings = _merged(manifest.settings, resolved)
        manifest = msgspec.structs.replace(manifest, settings=settings)
        tokens = token_source(resolved.secrets, settings, warn=warn)
        manifest = _same_input(folder, manifest)
        opened = _checked(folder, manifest, job, tokens)
        return msgspec.structs.replace(opened, resumed=True)
    except SyncshiftError:
        folder.unlock()
        raise


def give_up(opened: Opened, refusal: SyncshiftError) -> None:
    """Let go of a run that will not be carried after all; a new one becomes *refused*."""
    opened.tokens.close()
    if opened.resumed or not isinstance(refusal, UsageError):
        opened.folder.unlock()
    else:
        _refuse(opened.folder, refusal)


def _checked(folder: Folder, manifest: Manifest, job: Job, tokens: TokenSource) -> Opened:
    settings = manifest.settings
    file = input_of(folder, manifest)
    columns = columns_of(
        job,
        user_required=tokens.renewable,
        expected_allowed=not settings.no_read,
        ignored=settings.ignore_columns,
    )
    version_of_input = file_version(file)
    checked = check(file, columns, job)
    if manifest.input.sha256 not in {None, checked.sha256}:
        raise RunChanged(f"{file.path}: the input changed while it was checked; begin again")
    manifest = _with_input(manifest, bytes=checked.size, sha256=checked.sha256)
    if not checked.file_problems:
        manifest = msgspec.structs.replace(manifest, rows=checked.rows, users=checked.users)
    folder.write(manifest)
    if checked.invalid or checked.file_problems:
        with os.fdopen(_private(folder.path / INVALID), "w", encoding="utf-8", newline="") as out:
            write_invalid(checked, out)
    given = manifest.input.name
    name = "standard input" if given == _STANDARD_INPUT else given
    if refusal := checked.refusal(name=name, skip_invalid=settings.skip_invalid):
        raise refusal
    index = index_of(folder)
    index.check(checked.rows)
    ended = index.succeeded + index.failed
    left = min(checked.valid - checked.duplicates, checked.rows - ended)
    if not tokens.renewable and checked.users > 1:
        raise SettingsError(
            f"the input names {checked.users:,} users, but {USER_TOKEN_VARIABLE} speaks for one; "
            "split the input by user, or use a signing key"
        )
    return Opened(
        folder=folder,
        manifest=manifest,
        job=job,
        checked=checked,
        version=version_of_input,
        tokens=tokens,
        left=left,
        resyncs=min(checked.resyncs, left),
    )


def _merged(own: Settings, resolved: Resolved) -> Settings:
    """Return a run's own settings with what may be given anew. Raises `RunChanged`."""
    told = resolved.settings
    if "project_id" in resolved.told and "audience" not in resolved.told:
        # The audience follows from the project; one difference is told once.
        told = msgspec.structs.replace(told, audience=own.audience)
    for name in _FIXED:
        if name in resolved.told and getattr(told, name) != getattr(own, name):
            raise RunChanged(
                f"the run was begun with --{name.replace('_', '-')} {getattr(own, name)}, and now "
                f"it is {getattr(told, name)}; leave that out, or begin a new run"
            )
    anew = {name: getattr(told, name) for name in _ANEW & resolved.told}
    return msgspec.structs.replace(own, **anew)


def _same_input(folder: Folder, manifest: Manifest) -> Manifest:
    """Make sure that the input is the one the run began with. Raises `RunChanged`."""
    told = manifest.input
    file = input_of(folder, manifest)
    if told.sha256 is None and told.file == _name_of_copy(file) and told.name == _STANDARD_INPUT:
        raise RunRefused(
            f"run {folder.run_id} ended while standard input was read, and that is gone; "
            "nothing was sent. Begin a new run"
        )
    if told.sha256 is None:
        if Path(told.file).is_absolute():
            return manifest
        with _open(Path(told.name)) as stream:
            size, sha256 = folder.take_in(stream, told.file)
        return folder.write(_with_input(manifest, bytes=size, sha256=sha256))
    same_input(file, manifest)
    return manifest


def _refuse(folder: Folder, refusal: UsageError) -> None:
    manifest = folder.read()
    folder.write(
        msgspec.structs.replace(
            manifest,
            state="refused",
            reason=str(refusal),
            ended=stamp(time.time()),
            exit_code=refusal.exit_code,
        )
    )
    folder.unlock()


def _with_input(manifest: Manifest, **known: Any) -> Manifest:
    return msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, **known))


def _name_of_copy(file: InputFile) -> str:
    return f"input.{file.format}" + (f".{file.compression}" if file.compression else "")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from None


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _versions() -> dict[str, str]:
    names = ("aiohttp", "anyio", "msgspec", "structlog", "tenacity")
    ours = {"syncshift": VERSION, "python": platform.python_version()}
    return ours | {name: version(name) for name in names}
