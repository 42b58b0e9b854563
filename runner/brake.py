"""Opens a brake on a run, and its release: runs that pause syncs, and start those again.

A brake pauses the syncs whose re-sync a run has started and not seen end. Its input is made
out of that run's journals, so it is checked, confirmed, paced and recorded like every other
run; the run itself, if it is at work, is told to pause first. A release starts exactly
those again that brakes of the run have paused, and that no release has started since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from runner.account import index_of
from runner.anew import handed_down
from runner.control import Order, ask
from runner.errors import RunRefused, SettingsError, SyncshiftError
from runner.folder import Folder, Manifest
from runner.job import find
from runner.journal import scan
from runner.lineage import ROW, Member, holding, with_retries
from runner.model import Change, Intent, OutcomeKind
from runner.opening import Opened, open_child
from runner.record import REPORT
from runner.settings import Resolved, Settings
from runner.streams import Pieces, csv_line

BRAKE: Final = "brake"
RELEASE: Final = "release"
_JOBS = {BRAKE: "disable-syncs", RELEASE: "enable-syncs"}
_DONE: dict[str, frozenset[OutcomeKind]] = {
    BRAKE: frozenset({OutcomeKind.UPDATED}),
    RELEASE: frozenset({OutcomeKind.UPDATED, OutcomeKind.UNCHANGED, OutcomeKind.ERRORED}),
}
"""How a row ends that has paused its sync, or after which that is not paused any more."""
_LANDS_IN_S = 10.0
"""For so long requests in flight are given to land, once the run was told to pause."""
_LOOK_EVERY_S = 0.05


class _Settled(msgspec.Struct, gc=False):
    """A line of a report, as far as it is needed here."""

    event: str
    outcome: str = ""
    sync_id: str = ""
    user_id: str = ""


_DECODE = msgspec.json.Decoder(_Settled).decode


def open_brake(
    parent: str, resolved: Resolved, *, run_id: str | None = None, warn: Callable[[str], None]
) -> Opened:
    """Make a run that pauses every sync whose re-sync *parent* has started and not seen end.

    Whoever is at work on *parent* is told to pause, and stays so; nothing else about it is
    changed. Raises `NoSuchRun`, and `UsageError` when there is nothing to pause.
    """
    folder = Folder.open(resolved.places.runs_dir, parent)
    manifest = folder.read()
    remarks = _pause(folder)
    going = _going(folder, manifest)
    if not going:
        said = "".join(f"; {remark}" for remark in remarks)
        raise SettingsError(f"run {parent} has nothing to brake: {_nothing(manifest)}{said}")
    in_doubt = len(index_of(folder).in_doubt()) if not folder.is_locked() else 0
    if in_doubt:
        doubt = f"{in_doubt:,} more rows of run {parent} are in doubt: they may have started"
        remarks += (f"{doubt} a re-sync, and are not paused",)
    opened = _open(
        manifest,
        ((intent.sync_id, intent.user_id, "", intent.row) for intent in going),
        resolved,
        relation=BRAKE,
        settings=_at_once(handed_down(manifest.settings, resolved), resolved),
        run_id=run_id,
        warn=warn,
    )
    return msgspec.structs.replace(opened, remarks=(*opened.remarks, *remarks))


def open_release(
    parent: str, resolved: Resolved, *, run_id: str | None = None, warn: Callable[[str], None]
) -> Opened:
    """Make a run that starts every sync again which brakes of *parent* have paused since.

    One that somebody else has started meanwhile is left alone. Raises `NoSuchRun`,
    `RunLocked` while a brake or a release is at work, `UsageError` when nothing is paused.
    """
    folder = Folder.open(resolved.places.runs_dir, parent)
    manifest = folder.read()
    members = sorted(_brakes_of(folder), key=_age)
    with holding([member for _, member in members]):
        paused: dict[tuple[str, str], None] = {}
        for relation, member in members:
            for sync in _ended(member.folder.path / REPORT, _DONE[relation]):
                if relation == BRAKE:
                    paused[sync] = None
                else:
                    paused.pop(sync, None)
        if not paused:
            raise SettingsError(
                f"run {parent} has nothing to release: no brake of it has paused a sync that "
                "was not started again"
            )
        return _open(
            manifest,
            ((*sync, "disabled", "") for sync in paused),
            resolved,
            relation=RELEASE,
            settings=handed_down(manifest.settings, resolved),
            run_id=run_id,
            warn=warn,
        )


def _open(
    parent: Manifest,
    rows: Iterable[tuple[object, ...]],
    resolved: Resolved,
    *,
    relation: Literal["brake", "release"],
    settings: Settings,
    run_id: str | None,
    warn: Callable[[str], None],
) -> Opened:
    """Make a run of *rows*: sync, user, the state it must be in, row of *parent*."""
    if resolved.settings.no_read:
        raise SettingsError(
            f"--no-read cannot be had with {relation}: what others changed since must be seen; "
            "leave it out"
        )
    # Before the folder is made: a job that is not there makes no run.
    job = find(_JOBS[relation])
    return open_child(
        parent,
        Pieces(_input(rows)),
        resolved,
        format="csv",
        relation=relation,
        job=job.name,
        undoes=False,
        settings=msgspec.structs.replace(
            settings, no_read=False, skip_invalid=False, ignore_columns=()
        ),
        run_id=run_id,
        warn=warn,
    )


def _input(rows: Iterable[tuple[object, ...]]) -> Iterator[bytes]:
    yield csv_line(("sync_id", "user_id", "expected_sync_state", ROW))
    yield from map(csv_line, rows)


def _at_once(settings: Settings, resolved: Resolved) -> Settings:
    """Return the settings of a brake: nothing delays or stops it that nobody asked for now."""
    usual = {"until": "confirmed", "window": None, "health": None, "max_failures": "100%"}
    left = {name: value for name, value in usual.items() if name not in resolved.told}
    return msgspec.structs.replace(settings, strict=False, **left)


def _pause(folder: Folder) -> tuple[str, ...]:
    """Have the run paused if it is at work, and its requests land; return what to mind."""
    if not folder.is_locked():
        return ()
    run_id = folder.run_id
    try:
        reply = ask(folder, Order(command="pause", reason="brake"))
        gives_up_at = time.monotonic() + _LANDS_IN_S
        while reply.done and reply.state is not None and reply.state.in_flight:
            if time.monotonic() >= gives_up_at:
                break
            time.sleep(_LOOK_EVERY_S)
            reply = ask(folder, Order(command="status"))
    except RunRefused as refusal:
        return () if not folder.is_locked() else (f"run {run_id} was not paused: {refusal}",)
    if not reply.done:
        return (f"run {run_id} was not paused: {reply.said}",)
    return (f"run {run_id} is paused; to let it go on: syncshift continue {run_id}",)


def _going(folder: Folder, manifest: Manifest) -> list[Intent]:
    """Return what the run set out to do to each sync whose re-sync it has not seen end."""
    index = index_of(folder)
    job = find(manifest.job)
    intents = index.intents(index.to_follow())
    return [intents[row] for row in sorted(intents) if _starts(job.starts_resync, intents[row])]


def _starts(starts_resync: Callable[..., bool], intent: Intent) -> bool:
    change = Change(intent.row, intent.line, intent.sync_id, intent.user_id, intent.desired)
    return starts_resync(change, intent.before)


def _nothing(manifest: Manifest) -> str:
    if manifest.is_plan and not manifest.applied:
        return "it is a plan that was never applied"
    if manifest.settings.until in {"accepted", "confirmed"}:
        return (
            f"with --until {manifest.settings.until} it does not follow re-syncs, so nobody "
            "knows which of them are going"
        )
    return "none of the re-syncs that it started is going"


def _brakes_of(folder: Folder) -> Iterator[tuple[str, Member]]:
    """Yield every brake and release of a run, and their retries, each with what it was."""
    for other in Folder.all(folder.path.parent):
        try:
            manifest = other.read()
        except SyncshiftError:
            continue  # of no run that can be known
        if manifest.parent == folder.run_id and manifest.relation in {BRAKE, RELEASE}:
            for member in with_retries(other, manifest):
                yield manifest.relation, member


def _age(found: tuple[str, Member]) -> tuple[str, str]:
    manifest = found[1].manifest
    return manifest.started or manifest.created, manifest.run_id


def _ended(report: Path, kinds: Collection[OutcomeKind]) -> Iterator[tuple[str, str]]:
    """Yield sync and user of each row of a run that ended as one of *kinds*."""
    for line in scan(report) if report.exists() else ():
        settled = _DECODE(line.data)
        if settled.event == "change.settled" and settled.outcome in kinds:
            yield settled.sync_id, settled.user_id
