"""Adds a run up: result files and summary, from what lies in its folder and nothing else."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from runner import rows as reading
from runner.check import columns_of
from runner.errors import JournalDamaged, RunChanged
from runner.folder import Folder, Manifest
from runner.job import Job
from runner.journal import SHARDS, scan
from runner.lineage import ROW, Member, with_retries
from runner.log import stamp
from runner.model import Change, State
from runner.record import EVENTS, REPORT, UNDO
from runner.results import (
    ENDS_BY_ITSELF,
    FamilyIndex,
    Index,
    Retry,
    Summary,
    WaveEnded,
    summarize,
    write_files,
    write_summary,
)
from runner.rows import Columns, InputFile, Trace
from runner.settings import Settings

SUMMARY = "summary.json"
_SIGNALED = 128


def input_of(folder: Folder, manifest: Manifest) -> InputFile:
    """Return the input from which *manifest*'s run reads."""
    told = manifest.input
    # An absolute name stays what it is: the input of a run without a copy.
    return msgspec.convert(
        {"path": folder.path / told.file, "format": told.format, "compression": told.compression},
        InputFile,
    )


def same_input(file: InputFile, manifest: Manifest) -> None:
    """Make sure that *file* is what the run began with. Raises `RunChanged`."""
    known = manifest.input.sha256
    trace = Trace()
    try:
        trace.whole(file.path)
    except OSError as error:
        raise RunChanged(
            f"{file.path}: the input of the run cannot be read ({error.strerror}); put it back"
        ) from None
    if known is not None and trace.sha256 != known:
        raise RunChanged(
            f"{file.path}: is not the input that the run began with (SHA-256 "
            f"{trace.sha256[:12]}…, was {known[:12]}…); put the old file back, or begin a new run"
        )


def index_of(folder: Folder) -> Index:
    """Return how far each row of the run has come. Raises `JournalDamaged`."""
    return Index.read(undo=folder.path / UNDO, report=folder.path / REPORT)


def must_have_journals(folder: Folder) -> None:
    """Make sure that no journal of *folder*, which nobody is at work on, was taken away.

    They are made together, before the first line. Raises `JournalDamaged`.
    """
    journals = [folder.path / name for name in (UNDO, REPORT)]
    gone = [path for path in journals if not path.exists()]
    if len(gone) == 1 and any(path.exists() and path.stat().st_size for path in journals):
        raise JournalDamaged(
            f"{gone[0]}: is gone, and what the run did cannot be known without it; restore the "
            "run folder from a copy. Nothing was sent"
        )


def index_now(folder: Folder, rows: int) -> Index | FamilyIndex:
    """Return the same of a run of *rows* rows that may be carried in shards at this moment.

    Such a run is read like one with retries: of each row the last line counts.
    """
    shards = sorted((folder.path / SHARDS).glob("[0-9]*"))
    # The shards first: what is made part of the run's own journals meanwhile is then seen twice.
    found = [Index.read(undo=path / UNDO, report=path / REPORT) for path in shards]
    own = index_of(folder)
    return FamilyIndex([own, *found], [range(1, rows + 1)] * len(found), rows) if found else own


def family_of(folder: Folder, manifest: Manifest) -> tuple[Member, ...]:
    """Return the runs that count together: the root of a family first; another run by itself."""
    if manifest.relation == "retry" or manifest.rows is None:
        return (Member(folder, manifest),)
    return with_retries(folder, manifest)


def standing_of(family: Sequence[Member]) -> Index | FamilyIndex:
    """Return how far each row of the first of *family* has come, its retries included.

    Raises `JournalDamaged`, and `InputError` when the input of a retry is gone.
    """
    first, *retries = family
    if not retries:
        return index_now(first.folder, first.manifest.rows or 0)
    indexes = [index_of(member.folder) for member in family]
    origins = [origins_of(member) for member in retries]
    return FamilyIndex(indexes, origins, first.manifest.rows or 0)


def origins_of(member: Member) -> array[int]:
    """Return which row of the root each row of a retry is."""
    cells = reading.told(input_of(member.folder, member.manifest), ROW)
    # What is no number is row 0, which there is not.
    return array("I", (int(row) if row.isdecimal() else 0 for (row,) in cells))


def _retry(member: Member) -> Retry:
    manifest = member.manifest
    events = member.folder.path / EVENTS
    return Retry(member.run_id, events, manifest.started or manifest.created, manifest.ended)


def waves_of(manifest: Manifest) -> list[WaveEnded]:
    """Return what became of each wave of a run; of one without waves nothing."""
    gates = {gate.wave: gate for gate in manifest.gates}
    waves = []
    for wave, rows in enumerate(manifest.wave_rows, 1):
        gate = gates.get(wave)
        verdict, by = (gate.verdict, gate.passed_by) if gate else (None, None)
        waves.append(WaveEnded(wave, rows, verdict, by))
    return waves


def limits_of(settings: Settings) -> dict[str, Any]:
    """Return the limits of a run, as they stand in its summary."""
    return {
        "concurrency": settings.concurrency,
        "rate": settings.rate,
        "max_attempts": settings.max_attempts,
        "timeout_s": settings.timeout_s,
        "max_outage_s": settings.max_outage_s,
        "max_failures": settings.max_failures,
        "strict": settings.strict,
        "max_resyncs": settings.resync_budget,
    }


def add_up(
    folder: Folder, manifest: Manifest, job: Job, *, live: bool = False, files: bool = True
) -> Summary:
    """Return what the run adds up to; with *files*, write its result files and summary as well.

    The root of a family is added up with its retries: every row once, as it ended last.
    The same bytes each time, for a run that is at rest. Raises `JournalDamaged`,
    `InputError` when the input is gone, `DiskFault`.
    """
    rows = manifest.rows or 0
    family = family_of(folder, manifest)
    index = standing_of(family)
    written = {}
    if files and manifest.rows is not None:
        columns = columns_of(job, ignored=manifest.settings.ignore_columns)
        source = input_of(folder, manifest)
        same_input(source, manifest)
        names = reading.own_columns(source)
        written = write_files(
            folder.path,
            header=names,
            records=_records(source, columns, names),
            index=index,
            rows=rows,
        )
    code = manifest.exit_code or 0
    summary = summarize(
        index,
        events=folder.path / EVENTS,
        run_id=manifest.run_id,
        job=manifest.job,
        state=manifest.state,
        started=manifest.started or manifest.created,
        ended=manifest.ended,
        rows=rows,
        limits=limits_of(manifest.settings),
        files=written,
        starts_resync=_starts_resync(job),
        live=live or any(member.folder.is_locked() for member in family[1:]),
        retries=[_retry(member) for member in family[1:]],
        waves=waves_of(manifest),
        signal=code - _SIGNALED if code > _SIGNALED else None,
    )
    if files:
        write_summary(folder.path / SUMMARY, summary)
    return summary


def _starts_resync(job: Job) -> Any:
    def starts_resync(desired: State, before: State | None) -> bool:
        return job.starts_resync(Change(0, 0, "", "", desired), before)

    return starts_resync


def _records(
    source: InputFile, columns: Columns, names: tuple[str, ...]
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    for block in reading.records(source, columns, names):
        for record in block:
            yield record.number, record.line, record.cells


class HoldSeen(msgspec.Struct, frozen=True):
    """A hold as the events tell of it."""

    event: str
    reason: str = ""
    detail: str = ""
    timestamp: str = ""
    until: str | None = None
    """When it ends by itself; None: when it is released."""


def holds_of(folder: Folder, *, now_s: float) -> tuple[HoldSeen, ...]:
    """Return why a run that is at work sends nothing at *now_s*, seconds since the epoch."""
    events = folder.path / EVENTS
    holds: dict[str, HoldSeen] = {}
    for line in scan(events) if events.exists() else ():
        seen = _DECODE_HOLD(line.data)
        if seen.event == "run.opened":
            holds.clear()
        elif seen.event == "throttle.held":
            holds[seen.reason] = seen
        elif seen.event == "throttle.released":
            holds.pop(seen.reason, None)
    now = stamp(now_s)
    return tuple(
        hold
        for hold in holds.values()
        if hold.reason not in ENDS_BY_ITSELF or hold.until is None or hold.until > now
    )


_DECODE_HOLD = msgspec.json.Decoder(HoldSeen).decode
