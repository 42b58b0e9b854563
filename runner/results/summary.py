"""What a run adds up to, as one value: the content of ``summary.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from runner.errors import SyncshiftError
from runner.journal import write_file
from runner.judged import GateVerdict
from runner.model import ErrorClass, encode_json
from runner.results.family import FamilyIndex
from runner.results.files import FAILED_FILE, SUCCEEDED_FILE, UNPROCESSED_FILE, FileWritten
from runner.results.history import Session, read_sessions
from runner.results.index import Index
from runner.results.tally import Latency, StartsResync, Tally, add_up
from runner.results.verdict import RunVerdict, exit_code_of, verdict_of

UNPROCESSED = "unprocessed"


class Retry(msgspec.Struct, frozen=True):
    """One run of a family, as far as its history is added up."""

    run_id: str
    events: Path
    started: str
    ended: str | None


class WaveEnded(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one wave of a run."""

    wave: int
    """1 for the first."""
    rows: int
    verdict: GateVerdict | None = None
    """Of the gate behind it; None: it was not judged, or is the last."""
    passed_by: str | None = None
    """Who went on past that gate, if a person did."""


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run adds up to. The order of the fields is that of ``summary.json``.

    The last ones stand there only where there is something to tell.
    """

    run_id: str
    job: str
    state: str
    """As in ``run.json``."""
    verdict: RunVerdict | None
    """None while it is at work."""
    exit_code: int | None
    """None while it is at work, or when it was killed before it could give one."""
    started: str
    """RFC 3339 in UTC."""
    ended: str | None
    """Likewise; None while it is at work, or when it was killed."""
    rows: int
    """Rows of the input: succeeded + failed + unprocessed."""
    counts: dict[str, int]
    """Rows by outcome, every outcome named, and ``unprocessed``; they add up to `rows`."""
    error_classes: dict[str, int]
    """Rows by error class; only those that occur."""
    attempts: int
    """PATCHes sent for the rows that ended."""
    rate: float | None
    """Rows ended per second of work; time between sessions is left out. None without any time."""
    latency_ms: Latency | None
    """Of the rows that made a request; None when no row did."""
    waits: dict[str, float]
    """Seconds for which nobody moved, by reason."""
    resyncs: int
    """Rows updated whose change starts a full re-sync."""
    limits: dict[str, Any]
    """The limits under which it ran, as ``run.json`` has them."""
    files: dict[str, FileWritten]
    """The result files by name."""
    waves: tuple[WaveEnded, ...] = ()
    """The waves of the run, in order, when it has any."""
    family: tuple[str, ...] = ()
    """The run and its retries, oldest first, when the figures are those of all of them."""
    to_follow: int = 0
    """Unprocessed rows that were accepted: `resume` follows them, and does not send them again."""

    @property
    def resumed_by(self) -> str:
        """The command that goes on with what is left: past the gate it stands before, if any."""
        for wave in self.waves:
            if wave.verdict in {"fail", "inconclusive"} and wave.passed_by is None:
                return f"syncshift resume {self.run_id} --past-gate {wave.wave}"
        return f"syncshift resume {self.run_id}"


def summarize(
    index: Index | FamilyIndex,
    *,
    events: Path,
    run_id: str,
    job: str,
    state: str,
    started: str,
    ended: str | None,
    rows: int,
    limits: Mapping[str, Any],
    files: Mapping[str, FileWritten],
    starts_resync: StartsResync,
    waves: Sequence[WaveEnded] = (),
    live: bool = False,
    signal: int | None = None,
    retries: Sequence[Retry] = (),
) -> Summary:
    """Return what the run adds up to, from its files alone: the same each time it is asked.

    *live* and *signal* are those of `verdict_of` and `exit_code_of`; *files*
    may be empty, otherwise they were written from this *index*. *retries* are
    those that a `FamilyIndex` has behind its first run; every row then counts
    once, as it ended last, and *live* speaks of all of them.

    Raises `SyncshiftError` unless succeeded + failed + unprocessed = *rows*,
    in the journals and in the files; `JournalDamaged` and `RunRefused` as
    `Index.read` does.
    """
    index.check(rows)
    unprocessed = rows - index.succeeded - index.failed
    _check_files(files, index, unprocessed)
    sessions, tally = _history(
        index, (Retry(run_id, events, started, ended), *retries), starts_resync
    )
    work_s = sum(session.seconds for session in sessions)
    verdict = verdict_of(state, failed=index.failed, unprocessed=unprocessed, live=live)
    if live and retries:
        verdict = None
    return Summary(
        run_id=run_id,
        job=job,
        state=state,
        verdict=verdict,
        exit_code=exit_code_of(verdict, signal=signal),
        started=started,
        ended=_last_end((ended, *(retry.ended for retry in retries))),
        rows=rows,
        counts={**{kind.value: n for kind, n in index.counts.items()}, UNPROCESSED: unprocessed},
        to_follow=sum(len(each.to_follow()) for each in _indexes(index)),
        error_classes={c.value: n for c in ErrorClass if (n := tally.error_classes[c])},
        attempts=tally.attempts,
        rate=round((rows - unprocessed) / work_s, 3) if work_s else None,
        latency_ms=tally.elapsed_ms.latency(),
        waits=_waits(sessions),
        resyncs=tally.resyncs,
        limits=dict(limits),
        files=dict(files),
        waves=tuple(waves),
        family=(run_id, *(retry.run_id for retry in retries)) if retries else (),
    )


def _history(
    index: Index | FamilyIndex, runs: Sequence[Retry], starts_resync: StartsResync
) -> tuple[list[Session], Tally]:
    """Return when *runs* were at work, and the sums over their outcomes."""
    tally, every = Tally(), []
    for number, run in enumerate(runs):
        sessions = read_sessions(run.events, started=run.started, ended=run.ended)
        if isinstance(index, FamilyIndex):
            is_last = partial(index.is_last, number)
            add_up(index.indexes[number], sessions, starts_resync, tally=tally, is_last=is_last)
        else:
            add_up(index, sessions, starts_resync, tally=tally)
        every += sessions
    # Of a run that is carried in shards: each has a report of its own, and no events.
    for shard in _indexes(index)[len(runs) :]:
        add_up(shard, every, starts_resync, tally=tally)
    return every, tally


def _indexes(index: Index | FamilyIndex) -> Sequence[Index]:
    return index.indexes if isinstance(index, FamilyIndex) else (index,)


def _last_end(ends: Sequence[str | None]) -> str | None:
    """Return the last of *ends*; None when one of them has not come."""
    return None if None in ends else max(end for end in ends if end)


def encode_summary(summary: Summary) -> bytes:
    """Return *summary* as JSON for people and programs: indented by 2, the same bytes each time."""
    return msgspec.json.format(encode_json(summary), indent=2) + b"\n"


def write_summary(path: Path, summary: Summary) -> None:
    """Replace *path* by *summary*; a crash leaves the old file or the new one.

    Raises `DiskFault`.
    """
    write_file(path, encode_summary(summary))


def _waits(sessions: list[Session]) -> dict[str, float]:
    waits: dict[str, float] = {}
    for session in sessions:
        for reason, seconds in session.waits.items():
            waits[reason] = waits.get(reason, 0.0) + seconds
    return {reason: round(waits[reason], 3) for reason in sorted(waits)}


def _check_files(
    files: Mapping[str, FileWritten], index: Index | FamilyIndex, unprocessed: int
) -> None:
    told = {
        SUCCEEDED_FILE: index.succeeded,
        FAILED_FILE: index.failed,
        UNPROCESSED_FILE: unprocessed,
    }
    for name, file in files.items():
        if file.rows != told[name]:
            raise SyncshiftError(
                f"{name} has {file.rows} rows, and the journals tell of {told[name]}: the run went "
                "on after the file was written. Build the files again with `syncshift report`"
            )
