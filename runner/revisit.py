"""Comes back to what is there already: a plan to carry out, a run to verify, a file to check."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from runner.account import index_of
from runner.admission import not_whole
from runner.anew import merged
from runner.authority import speaks_for, token_source
from runner.check import Checked, check, columns_for
from runner.errors import RunRefused
from runner.folder import Folder, Manifest
from runner.forecast import plan_of
from runner.job import Job, find
from runner.journal import scan
from runner.log import stamp
from runner.model import Change, FindingKind, Intent
from runner.opening import Opened, reopen
from runner.record import UNDO
from runner.results import Index
from runner.rows import recognise
from runner.settings import Resolved, Settings
from runner.steps import Work
from runner.tokens import TokenSource

_STANDARD_INPUT = "-"
_BLOCK = 256
_DECODE_INTENT = msgspec.json.Decoder(Intent).decode


def open_planned(
    run_id: str,
    resolved: Resolved,
    *,
    max_age_s: float,
    now_s: float,
    warn: Callable[[str], None],
) -> Opened:
    """Open a planned run to carry it out.

    Raises `RunRefused` when it is no plan, is not whole, was applied before, or is
    older than *max_age_s* at *now_s* (since the epoch), and all that `reopen` raises.
    """
    admit = partial(_can_be_applied, max_age_s=max_age_s, now_s=now_s)
    opened = reopen(run_id, resolved, admit=admit, warn=warn)
    plan = plan_of(opened.folder, opened.manifest)
    if not plan.whole:
        opened.tokens.close()
        opened.folder.unlock()
        raise RunRefused(
            f"{plan.file}: has {sum(plan.findings.values()):,} of {plan.rows:,} rows, but was "
            "whole when the run was planned; restore the run folder from a copy, or plan again"
        )
    changes = plan.findings[FindingKind.CHANGE]
    remarks = [f"planned at {opened.manifest.planned}; what has moved since is left alone"]
    if others := opened.left - changes:
        remarks.append(f"{others:,} rows are only read: the plan does not change them")
    if plan.warnings:
        remarks.append(f"{plan.warnings:,} of the syncs to be changed are ERRORED or DISABLED")
    return msgspec.structs.replace(
        opened, resumed=False, changes=changes, remarks=(*opened.remarks, *remarks)
    )


def _can_be_applied(manifest: Manifest, *, max_age_s: float, now_s: float) -> None:
    run_id = manifest.run_id
    if not manifest.is_plan:
        raise RunRefused(
            f"run {run_id} is no plan; make one with `syncshift plan`, or go on with the run: "
            f"syncshift resume {run_id}"
        )
    if manifest.applied is not None:
        raise RunRefused(
            f"the plan of run {run_id} was applied at {manifest.applied}, and is applied once; go "
            f"on with it: syncshift resume {run_id}"
        )
    if manifest.planned is None:
        raise RunRefused(not_whole(manifest))
    oldest = stamp(max(0.0, now_s - max_age_s))
    if manifest.planned < oldest:
        raise RunRefused(
            f"the plan of run {run_id} was made at {manifest.planned}, and --max-age allows none "
            f"from before {oldest}; plan again: syncshift plan {manifest.job} "
            f"{manifest.input.name}"
        )


def check_alone(
    job_name: str,
    source: str,
    settings: Settings,
    *,
    format: str | None,
    ready_made: bool,
    standard_input: BinaryIO,
) -> Checked:
    """Check an input and leave nothing behind; no key is needed.

    *ready_made*: a ready-made user token will be used. Raises `InputError`, `SettingsError`.
    """
    job = find(job_name)
    file = recognise(source, format)
    columns = columns_for(job, settings, user_required=not ready_made, undoes=False)
    with tempfile.TemporaryDirectory(prefix="syncshift-") as place:
        if source == _STANDARD_INPUT:
            spooled = Path(place) / "input"
            with spooled.open("wb") as out:
                shutil.copyfileobj(standard_input, out)
            file = msgspec.structs.replace(file, path=spooled)
        checked = check(file, columns, job)
    name = "standard input" if source == _STANDARD_INPUT else source
    if refusal := checked.refusal(name=name, skip_invalid=settings.skip_invalid):
        raise refusal
    return checked


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is looked at, whoever is at work on it meanwhile."""

    folder: Folder
    manifest: Manifest
    settings: Settings
    job: Job
    tokens: TokenSource
    index: Index
    touched: int
    """Rows with an intent on record, so that their sync may have been changed."""


def visit(run_id: str, resolved: Resolved, *, warn: Callable[[str], None]) -> Visit:
    """Return a run to be verified. Takes no lock and changes nothing.

    Raises `NoSuchRun`, `RunChanged` when host, project or audience are others,
    `SettingsError` when there is no key, `JournalDamaged`.
    """
    folder = Folder.open(resolved.places.runs_dir, run_id)
    manifest = folder.read()
    job = find(manifest.job)
    settings = merged(manifest.settings, resolved)
    index = index_of(folder)
    index.check(manifest.rows or 0)
    rows = range(1, (manifest.rows or 0) + 1)
    tokens = token_source(resolved.secrets, settings, warn=warn)
    speaks_for(tokens, manifest.users or 0)
    return Visit(
        folder=folder,
        manifest=manifest,
        settings=settings,
        job=job,
        tokens=tokens,
        index=index,
        touched=sum(map(index.intended, rows)),
    )


def touched(of: Visit) -> Iterator[list[Work]]:
    """Yield what the run of *of* set out to do to each sync, once a row; needs a byte a row.

    Rows that the run has begun since *of* was made are left out. Runs in the reader's thread.
    """
    undo, index = of.folder.path / UNDO, of.index
    seen = bytearray((of.manifest.rows or 0) + 1)
    block: list[Work] = []
    for line in scan(undo) if of.touched else ():
        intent = _DECODE_INTENT(line.data)
        row = intent.row
        if seen[row] or not index.intended(row):
            continue
        seen[row] = 1
        change = Change(row, intent.line, intent.sync_id, intent.user_id, intent.desired)
        block.append(Work(change=change, intent=intent))
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block
