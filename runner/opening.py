"""Opens a run: a new one, or one to go on with. Nothing is sent here.

A new run is on disk, as *checking*, before its input is read. Settings, key and
input are all judged before the first request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from runner.account import index_of, input_of, must_have_journals, same_input
from runner.admission import can_be_resumed, may_go_on
from runner.anew import merged
from runner.authority import speaks_for, token_source
from runner.check import Checked, check, columns_for, write_invalid
from runner.errors import (
    InputError,
    RunChanged,
    RunRefused,
    SettingsError,
    SyncshiftError,
    UsageError,
)
from runner.folder import Folder, Input, Manifest, Readable
from runner.forecast import PLAN
from runner.job import Job, find
from runner.lineage import hopeless_rows
from runner.log import stamp
from runner.results import Findings
from runner.rollout import Gate, seeded
from runner.rows import FileVersion, InputFile, file_version, recognise
from runner.settings import Resolved, Settings
from runner.timetable import Timetable, timetable_of
from runner.tokens import TokenSource
from runner.version import versions

INVALID = "invalid.csv"
_STANDARD_INPUT = "-"


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
    following: int = 0
    """Of the rows that are left, how many were accepted and are followed, not sent."""
    irreversible: int = 0
    """Rows of a rollback whose before-image cannot be restored."""
    changes: int | None = None
    """Of these, how many are planned to be changed; None: every one may be."""
    remarks: tuple[str, ...] = ()
    """What else a person should read before anything is sent."""
    past_gate: int | None = None
    """The wave whose gate a person goes past, although it did not pass."""
    timetable: Timetable | None = None
    """When each row starts, with ``--at``."""
    version: FileVersion | None
    """Of the input, from before it was checked: what is sent was checked."""
    resumed: bool = False

    @property
    def settings(self) -> Settings:
        """The settings it runs with."""
        return self.manifest.settings


def open_new(
    job_name: str,
    source: str,
    resolved: Resolved,
    *,
    run_id: str | None = None,
    format: str | None = None,
    copies: bool = True,
    is_plan: bool = False,
    standard_input: BinaryIO | None = None,
    warn: Callable[[str], None],
) -> Opened:
    """Make a run of *job_name* on *source*, and check its input.

    One that *is_plan* is sent by nobody before it is applied.

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
            versions=versions(),
            is_plan=is_plan,
            created=stamp(time.time()),
        )
        folder.write(manifest)
        try:
            if copies:
                size, sha256 = folder.take_in(stream, name)
                manifest = folder.write(_with_input(manifest, bytes=size, sha256=sha256))
            return _checked(folder, manifest, job, tokens)
        except UsageError as refusal:
            folder.refuse(refusal)
            raise


def open_child(
    parent: Manifest,
    source: Readable,
    resolved: Resolved,
    *,
    format: str,
    relation: Literal["retry", "rollback", "brake", "release"],
    undoes: bool,
    settings: Settings,
    job: str | None = None,
    run_id: str | None = None,
    warn: Callable[[str], None],
) -> Opened:
    """Make a run that goes back to *parent*, on the input that *source* gives, and check it.

    *settings* are all its own; without *job* it is *parent*'s. Raises `UsageError` (the run,
    if there is one by then, is *refused*), `RunExists`, `DiskFault`.
    """
    tokens = token_source(resolved.secrets, settings, warn=warn)
    folder = Folder.create(resolved.places.runs_dir, run_id, wall_clock_s=time.time())
    try:
        size, sha256 = folder.take_in(source, f"input.{format}")
    except SyncshiftError:
        # Without a manifest it is no run, and whoever wants its name may have it.
        folder.unlock()
        raise
    name = f"{relation} of {parent.run_id}"
    manifest = folder.write(
        Manifest(
            run_id=folder.run_id,
            job=job or parent.job,
            input=Input(
                name=name, file=f"input.{format}", format=format, bytes=size, sha256=sha256
            ),
            settings=settings,
            versions=versions(),
            parent=parent.run_id,
            relation=relation,
            undoes=undoes,
            created=stamp(time.time()),
        )
    )
    try:
        return _checked(folder, manifest, find(manifest.job), tokens)
    except UsageError as refusal:
        folder.refuse(refusal)
        raise


def reopen(
    run_id: str,
    resolved: Resolved,
    *,
    admit: Callable[[Manifest], None] | None = None,
    past_gate: int | None = None,
    warn: Callable[[str], None],
) -> Opened:
    """Open a run to go on with it. Its settings are its own, but for those that may change.

    *admit* raises when this is not the run for it; by default a plan is not that
    was never applied. *past_gate* is the wave past whose gate it goes; without it a run is
    refused that stands before one. Raises `NoSuchRun`, `RunRefused`, `RunLocked`, `RunChanged`
    when input, host, project or audience are others, `UsageError` when there is no key.
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
        (admit or can_be_resumed)(manifest)
        may_go_on(manifest, past_gate=past_gate)
        job = find(manifest.job)
        settings = merged(manifest.settings, resolved)
        manifest = msgspec.structs.replace(manifest, settings=settings)
        tokens = token_source(resolved.secrets, settings, warn=warn)
        manifest = _same_input(folder, manifest)
        opened = _checked(folder, manifest, job, tokens)
        return msgspec.structs.replace(opened, resumed=True, past_gate=past_gate)
    except SyncshiftError:
        folder.unlock()
        raise


def give_up(opened: Opened, refusal: SyncshiftError) -> None:
    """Let go of a run that will not be carried after all; a new one becomes *refused*."""
    opened.tokens.close()
    planned = opened.manifest.planned is not None
    if opened.resumed or planned or not isinstance(refusal, UsageError):
        opened.folder.unlock()
    else:
        opened.folder.refuse(refusal)


def _checked(folder: Folder, manifest: Manifest, job: Job, tokens: TokenSource) -> Opened:
    settings = manifest.settings
    file = input_of(folder, manifest)
    columns = columns_for(job, settings, user_required=tokens.renewable, undoes=manifest.undoes)
    version_of_input = file_version(file)
    checked = check(file, columns, job)
    hopeless, remarks = hopeless_rows(file) if manifest.undoes else (0, ())
    if manifest.input.sha256 not in {None, checked.sha256}:
        raise RunChanged(f"{file.path}: the input changed while it was checked; begin again")
    Gate.parse(settings.gates)
    manifest = msgspec.structs.replace(
        _with_input(manifest, bytes=checked.size, sha256=checked.sha256),
        settings=seeded(settings, sha256=checked.sha256),
    )
    if not checked.file_problems:
        manifest = msgspec.structs.replace(manifest, rows=checked.rows, users=checked.users)
    folder.write(manifest)
    if checked.invalid > hopeless or checked.file_problems:
        with os.fdopen(_private(folder.path / INVALID), "w", encoding="utf-8", newline="") as out:
            write_invalid(checked, out)
    passed = settings.skip_invalid or 0 < checked.invalid <= hopeless
    name = "standard input" if (given := manifest.input.name) == _STANDARD_INPUT else given
    if refusal := checked.refusal(name=name, skip_invalid=passed):
        raise refusal
    timetable = timetable_of(manifest, checked, now_s=time.time())
    if timetable is not None and timetable.starts != manifest.starts:
        manifest = folder.write(msgspec.structs.replace(manifest, starts=timetable.starts))
    must_have_journals(folder)
    index = index_of(folder)
    index.check(checked.rows)
    ended = index.succeeded + index.failed
    left = min(checked.valid - checked.duplicates, checked.rows - ended)
    following = len(index.to_follow())
    speaks_for(tokens, checked.users)
    return Opened(
        folder=folder,
        manifest=manifest,
        job=job,
        checked=checked,
        version=version_of_input,
        tokens=tokens,
        left=left,
        following=following,
        resyncs=min(_resyncs(folder, manifest, checked), left - following),
        irreversible=hopeless,
        remarks=remarks,
        timetable=timetable,
    )


def _resyncs(folder: Folder, manifest: Manifest, checked: Checked) -> int:
    """Return how many re-syncs may start: as was planned, or as the input alone tells."""
    if manifest.planned is None:
        return checked.resyncs
    return Findings(folder.path / PLAN).resyncs


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
