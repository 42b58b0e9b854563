"""Runs that never were: folders as a run leaves them, made at once and at any size.

What is in them is made up; the journals, the result files, the summary and the page are written by
the engine itself.
"""

from __future__ import annotations

import csv
import datetime
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from runner.account import add_up
from runner.folder import Folder, Input, Manifest
from runner.forecast import PLAN
from runner.job import find
from runner.journal import Journal
from runner.log import stamp
from runner.model import ErrorClass, FindingKind, OutcomeKind, Proof, encode_json
from runner.page import PAGE, write_page
from runner.record import EVENTS, REPORT, UNDO
from runner.results import Summary
from runner.rows import Trace
from runner.settings import Settings

OLD = "11111111-1111-4111-8111-111111111111"
NEW = "22222222-2222-4222-8222-222222222222"
BEGAN = datetime.datetime(2026, 11, 23, 18, 1, 3, tzinfo=datetime.UTC).timestamp()
FAILURES = (
    (OutcomeKind.INVALID, ErrorClass.INVALID, "credential_id must be a UUID; got 'abc'"),
    (OutcomeKind.CONFLICTED, ErrorClass.CONFLICT, f"credential_id is {NEW}, expected {OLD}"),
    (OutcomeKind.REJECTED, ErrorClass.NOT_FOUND, "404: no such sync of this user"),
    (OutcomeKind.REJECTED, ErrorClass.FORBIDDEN, "403: the credential belongs to another user"),
    (OutcomeKind.EXHAUSTED, ErrorClass.TIMEOUT, "no answer within 30 s, five times"),
    (OutcomeKind.UNCONFIRMED, ErrorClass.UNCONFIRMED, "not seen in force within 60 s"),
    (OutcomeKind.ERRORED, ErrorClass.ERRORED, "ERRORED: the token of the source has expired"),
    (OutcomeKind.IRREVERSIBLE, ErrorClass.IRREVERSIBLE, "what was there before was never told"),
)
"""Every way in which a row can fail, with a reason."""


class Made:
    """A run's folder, filled by hand."""

    def __init__(self, runs_dir: Path, run_id: str = "run-1", **manifest: Any) -> None:
        self.folder = Folder(runs_dir / run_id)
        self.path = self.folder.path
        self.path.mkdir(parents=True)
        self._told = {"job": "migrate-credentials", "state": "finished", **manifest}
        self.rows = 0
        self.ended_s = 0.0
        """When it ended, seconds from its beginning."""
        self._journals = {name: _Writer(self.path / name) for name in (UNDO, REPORT, EVENTS)}

    def write_input(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write the input."""
        with (self.path / "input.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row in rows:
                writer.writerow(row)
                self.rows += 1

    def tell(self, event: str, at_s: float, **fields: Any) -> None:
        """Write down an event, at so many seconds from the beginning."""
        line = {"v": 1, "event": event, "level": "info", "timestamp": moment(at_s), **fields}
        self._journals[EVENTS].add(line)

    def settle(self, row: int, at_s: float, outcome: OutcomeKind, **fields: Any) -> None:
        """Write down how a row ended."""
        told = {
            "v": 1,
            "event": "change.settled",
            "level": "info",
            "timestamp": moment(at_s),
            "row": row,
            "line": row + 1,
            "sync_id": f"s{row}",
            "user_id": f"u{row % 97}",
            "outcome": outcome,
            "proof": Proof.RESYNCED if outcome is OutcomeKind.UPDATED else None,
            "sent": False,
            "before": {"credential_id": OLD},
            "desired": {"credential_id": NEW},
            "http_status": 200,
            "error_class": None,
            "error": None,
            "attempts": 1 if outcome is OutcomeKind.UPDATED else 0,
            "elapsed_ms": 120,
            "request_id": f"req-{row}",
        }
        self._journals[REPORT].add(told | fields)

    def accept(self, row: int, at_s: float) -> None:
        """Write down that a row was accepted, and is followed."""
        self._journals[REPORT].add(
            {
                "v": 1,
                "event": "change.accepted",
                "level": "info",
                "timestamp": moment(at_s),
                "row": row,
                "accepted_at": moment(at_s),
                "http_status": 200,
                "request_id": None,
                "attempts": 1,
            }
        )

    def intend(self, row: int, at_s: float) -> None:
        """Write down that a row is about to be sent."""
        self._journals[UNDO].add(
            {
                "v": 1,
                "row": row,
                "line": row + 1,
                "sync_id": f"s{row}",
                "user_id": f"u{row % 97}",
                "before": {"credential_id": OLD},
                "seen": None,
                "desired": {"credential_id": NEW},
                "timestamp": moment(at_s),
            }
        )

    def plan(self, findings: Mapping[int, FindingKind]) -> None:
        """Write down what a plan found of each row."""
        journal = _Writer(self.path / PLAN)
        for row, kind in findings.items():
            journal.add(
                {
                    "v": 1,
                    "row": row,
                    "line": row + 1,
                    "sync_id": f"s{row}",
                    "user_id": f"u{row % 97}",
                    "finding": kind,
                    "before": {"credential_id": OLD},
                    "seen": None,
                    "desired": {"credential_id": NEW},
                    "resync": kind is FindingKind.CHANGE,
                    "http_status": 200,
                    "error_class": None,
                    "error": None if kind is FindingKind.CHANGE else f"it is {kind}",
                    "timestamp": moment(row / 100),
                }
            )
        journal.close()

    def finish(self, ended_s: float | None, **changes: Any) -> Summary:
        """Write the manifest, and have the engine add the run up and make its page."""
        manifest = self.manifest(ended_s, **changes)
        summary = add_up(self.folder, manifest, find(manifest.job))
        self.folder.write(msgspec.structs.replace(manifest, exit_code=summary.exit_code))
        return summary

    def page(self, summary: Summary | None) -> str:
        """Write the page and return it."""
        manifest = self.folder.read()
        path = write_page(self.folder, manifest, find(manifest.job), summary)
        assert path == self.path / PAGE
        return path.read_text(encoding="utf-8")

    def manifest(self, ended_s: float | None, **changes: Any) -> Manifest:
        """Write the manifest, and return it."""
        for journal in self._journals.values():
            journal.close()
        trace = Trace()
        source = self.path / "input.csv"
        trace.whole(source)
        told: dict[str, Any] = {
            "run_id": self.folder.run_id,
            "input": Input(
                name="moves.csv",
                file="input.csv",
                format="csv",
                bytes=source.stat().st_size,
                sha256=trace.sha256,
            ),
            "settings": Settings(project_id="p1"),
            "versions": {"syncshift": "0.1.0"},
            "rows": self.rows,
            "users": min(97, self.rows),
            "created": moment(-2),
            "started": moment(0),
            "ended": None if ended_s is None else moment(ended_s),
        }
        return self.folder.write(Manifest(**(told | self._told | changes)))


class _Writer:
    """A journal that is written without being synced."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, -1, 0)
        self._file = path.open("wb")
        self._lines = 0

    def add(self, line: dict[str, Any]) -> None:
        self._journal.append(encode_json(line))
        self._lines += 1
        if self._lines % 1000 == 0:
            self._file.write(self._journal.take())

    def close(self) -> None:
        self._file.write(self._journal.take())
        self._file.close()


def moment(at_s: float) -> str:
    """Return the moment so many seconds after runs of this file begin."""
    return stamp(BEGAN + at_s)


def eventful(runs_dir: Path, *, rows: int = 5000, seed: int = 7, run_id: str = "run-1") -> Made:
    """Return a run with every kind of outcome, two sessions and a night between them.

    It waited for two reasons, went in waves, followed re-syncs, was steered by somebody, and
    leaves rows behind. Its manifest is still to be written.
    """
    made = Made(runs_dir, run_id, state="interrupted", reason="interrupted by SIGTERM")
    dice = random.Random(seed)
    made.write_input(
        ("sync_id", "user_id", "credential_id", "integration", "note"), _inputs(rows, dice)
    )
    carried = rows - rows // 50
    pace = max(1.0, rows / 250)
    made.tell("run.opened", 0, resumed=False, rows=rows, settled=0, in_doubt=0)
    made.tell("wave.started", 0, wave=1, rows=rows // 100)
    at_s = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = []
    for row in range(1, carried + 1):
        # Slower at first.
        at_s += dice.expovariate(pace) * (3 if row < rows / 20 else 1)
        if row == rows // 100:
            made.tell("gate.judged", at_s, wave=1, verdict="pass", condition="errored=0")
            made.tell("wave.started", at_s, wave=2, rows=rows - rows // 100)
        elif row == rows // 4:
            until = moment(at_s + 12)
            made.tell("throttle.held", at_s, reason="throttled", detail="429", until=until)
            made.tell("throttle.narrowed", at_s, rate=None, in_flight=12, why="429")
            at_s += 12
        elif row == rows // 2:
            made.tell("throttle.held", at_s, reason="outage", detail="10 failures in a row")
            made.tell("throttle.released", at_s + 31, reason="outage", held_s=31.0)
            made.tell("throttle.narrowed", at_s + 31, rate=None, in_flight=20, why="outage")
            at_s += 31
        elif row == rows * 3 // 4:
            made.tell("run.closed", at_s, state="interrupted", reason="SIGINT", in_flight=9)
            at_s += 9 * 3600
            made.tell("run.opened", at_s, resumed=True, rows=rows, settled=row - 1, in_doubt=4)
            made.tell(
                *("control.received", at_s + 1),
                command="set",
                who="night-shift",
                reason="the API team asked for it",
                values={"concurrency": 16},
            )
        due.append((at_s, row, partial(_end, made, row, at_s, dice, due)))
        while due and min(due)[0] <= at_s:
            _, _, end = due.pop(due.index(min(due)))
            end()
    while due:
        last, _, end = due.pop(due.index(min(due)))
        end()
        at_s = max(at_s, last)
    made.tell("run.closed", at_s + 1, state="interrupted", reason="SIGTERM", in_flight=3)
    made.ended_s = at_s + 1
    return made


def _end(
    made: Made,
    row: int,
    at_s: float,
    dice: random.Random,
    due: list[tuple[float, int, Callable[[], None]]],
) -> None:
    lucky = dice.random()
    if lucky < 0.8:
        made.intend(row, at_s - 0.1)
        tries = 1 if lucky < 0.72 else dice.choice((2, 2, 3, 4))
        took_s = dice.lognormvariate(5.0, 0.7) * tries / 1000
        lasts_s = 0.0
        if lucky < 0.3:
            made.accept(row, at_s)
            lasts_s = dice.uniform(2, 14)
        settle = partial(
            made.settle,
            row,
            at_s + lasts_s,
            OutcomeKind.UPDATED,
            sent=True,
            attempts=tries,
            elapsed_ms=round(1000 * (took_s + lasts_s)),
        )
        if lasts_s:
            due.append((at_s + lasts_s, row, settle))
        else:
            settle()
    elif lucky < 0.88:
        made.settle(row, at_s, OutcomeKind.UNCHANGED)
    elif lucky < 0.9:
        made.settle(row, at_s, OutcomeKind.DUPLICATE, http_status=None, elapsed_ms=0)
    else:
        outcome, error_class, error = FAILURES[min(7, int(dice.expovariate(0.4)))]
        made.settle(
            *(row, at_s, outcome),
            error_class=error_class,
            error=error,
            attempts=5 if outcome is OutcomeKind.EXHAUSTED else 0,
            http_status={"not_found": 404, "forbidden": 403}.get(error_class),
        )


def _inputs(rows: int, dice: random.Random) -> Iterator[tuple[str, ...]]:
    names = ("salesforce", "hubspot", "googledrive", "zendesk", "notion")
    for row in range(1, rows + 1):
        yield f"s{row}", f"u{row % 97}", NEW, dice.choice(names), ""


def varied(runs_dir: Path, *, rows: int = 5000, hostile: Sequence[str] = ()) -> Made:
    """Return a run with every kind of outcome, some rows left; *hostile* values in the first ones.

    They stand wherever a value from outside can: in IDs, in cells that are carried along, in what
    the API said.
    """
    made = Made(runs_dir, state="stopped", reason=" ".join(hostile[:3]) or "too many failures")
    made.write_input(
        ("sync_id", "user_id", "credential_id", "integration", "note"),
        (
            (
                *(_of(hostile, row, f"s{row}"), _of(hostile, row, f"u{row % 97}"), NEW),
                *(_of(hostile, row, "salesforce"), _of(hostile, row, 'a "note", and\nmore')),
            )
            for row in range(1, rows + 1)
        ),
    )
    made.tell("run.opened", 0, resumed=False, rows=rows, settled=0, in_doubt=0)
    if hostile:
        made.tell("throttle.held", 0.1, reason=hostile[0], detail=hostile[1])
    kinds = tuple(OutcomeKind)
    failures = {kind: (error_class, error) for kind, error_class, error in FAILURES}
    for row in range(1, rows - rows // 50 + 1):
        kind = kinds[(row - 1) % len(kinds)]
        error_class, error = failures.get(kind, (None, None))
        told = _of(hostile, row, error or "") or None
        ids = {name: _of(hostile, row, f"{name}{row}") for name in ("sync_id", "user_id")}
        made.settle(row, row / 100, kind, error_class=error_class, error=told, **ids)
    made.ended_s = rows / 100
    made.tell("run.closed", made.ended_s, state="stopped", reason="", in_flight=0)
    return made


def _of(hostile: Sequence[str], row: int, otherwise: str) -> str:
    # Twice as many rows as outcomes have each value, so that rows of every kind do.
    place = (row - 1) // (2 * len(OutcomeKind))
    return hostile[place] if place < len(hostile) else otherwise
