"""What a run adds up to: the index of its journals, its result files and its summary."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import json
import math
import os
import resource
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.errors import DiskFault, InputError, JournalDamaged, RunRefused, SyncshiftError
from runner.journal import Committer, Journal
from runner.log import journal_logger, stamp
from runner.model import (
    SUCCEEDED,
    ErrorClass,
    Intent,
    Outcome,
    OutcomeKind,
    Proof,
    State,
    encode_json,
)
from runner.results import (
    COLUMNS,
    FileWritten,
    Index,
    Outcomes,
    RunVerdict,
    Summary,
    encode_summary,
    exit_code_of,
    summarize,
    verdict_of,
    write_files,
    write_summary,
)
from runner.results.tally import Histogram

HEADER = ("sync_id", "note")
FILES = ("succeeded.csv", "failed.csv", "unprocessed.csv")
UPDATED, FAILED = OutcomeKind.UPDATED, OutcomeKind.REJECTED

OLD = {"credential_id": "11111111-1111-4111-8111-111111111111"}
NEW = {"credential_id": "22222222-2222-4222-8222-222222222222"}


class Told(NamedTuple):
    """An event of the run."""

    event: str
    fields: Mapping[str, Any] = MappingProxyType({})


class Accepted(NamedTuple):
    """The line of a row that goes on to be proved."""

    row: int


class Raw(NamedTuple):
    """A whole line that this version has no words for."""

    name: str
    content: Any


def write(directory: Path, *things: Intent | Outcome | Accepted | Told | Raw | float) -> None:
    """Write *things* down as a run does; a number sets the clock, in seconds since 1970."""
    asyncio.run(_write(directory, things))


async def _write(directory: Path, things: Iterable[Any]) -> None:
    now = 0.0
    journals = {n: Journal.open(directory / f"{n}.jsonl") for n in ("undo", "report", "events")}
    report, events = (
        journal_logger(journals[name].append, wall_clock=lambda: now)
        for name in ("report", "events")
    )
    committer = Committer(*journals.values())
    for thing in things:
        match thing:
            case Intent():
                journals["undo"].append(encode_json(thing))
            case Outcome():
                report.info("change.settled", **msgspec.structs.asdict(thing))
            case Accepted(row):
                at = stamp(now)
                report.info("change.accepted", row=row, accepted_at=at, http_status=200)
            case Told(event, fields):
                events.info(event, **fields)
            case Raw(name, content):
                journals[name].append(encode_json(content))
            case _:
                now = thing
    await committer.close()


def intent(row: int, before: State | None = OLD) -> Intent:
    """Return the intent of a row."""
    return Intent(
        row=row,
        line=row + 1,
        sync_id=f"sync-{row}",
        user_id="ann",
        before=before,
        seen=None,
        desired=NEW,
        timestamp=stamp(0),
    )


def outcome(row: int, kind: OutcomeKind = UPDATED, **fields: Any) -> Outcome:
    """Return the outcome of a row; one that was updated was sent and accepted."""
    if kind is UPDATED:
        fields = {"sent": True, "attempts": 1, "proof": Proof.ACCEPTED, "http_status": 200} | fields
    return Outcome(
        row=row, line=row + 1, sync_id=f"sync-{row}", user_id="ann", outcome=kind, **fields
    )


def index_of(directory: Path) -> Index:
    """Return the index of the run in *directory*."""
    return Index.read(undo=directory / "undo.jsonl", report=directory / "report.jsonl")


def numbered(rows: Sequence[Sequence[str]]) -> Iterator[tuple[int, int, Sequence[str]]]:
    """Return *rows* as an input gives them, one to a line."""
    return ((number, number + 1, cells) for number, cells in enumerate(rows, start=1))


def sort_out(
    directory: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER
) -> dict[str, FileWritten]:
    """Write the result files of the run in *directory*, whose input is *rows*."""
    return write_files(
        directory,
        header=header,
        records=numbered(rows),
        index=index_of(directory),
        rows=len(rows),
    )


def read(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, the header first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def sum_up(directory: Path, index: Index | None = None, **fields: Any) -> Summary:
    """Return the summary of the run in *directory*: one row and nothing special, unless said."""
    known: dict[str, Any] = {
        "events": directory / "events.jsonl",
        "run_id": "r1",
        "job": "migrate-credentials",
        "state": "finished",
        "started": stamp(0),
        "ended": None,
        "rows": 1,
        "limits": {},
        "files": {},
        "starts_resync": lambda desired, before: desired != before,
    }
    return summarize(index or index_of(directory), **known | fields)


# ---------------------------------------------------------------------------------------- index


def test_a_row_is_where_its_lines_say(tmp_path: Path) -> None:
    """Settled, in doubt, accepted, untouched: the journals tell each row's place, and counts."""
    write(
        tmp_path,
        *(intent(row) for row in (1, 3, 4, 5, 9)),
        outcome(1),
        outcome(2, OutcomeKind.UNCHANGED),
        Accepted(4),
        Accepted(5),
        outcome(5, FAILED),
        Accepted(7),
    )

    index = index_of(tmp_path)

    assert [index.outcome(row) for row in range(4)] == [None, UPDATED, OutcomeKind.UNCHANGED, None]
    assert [row for row in range(20) if index.settled(row)] == [1, 2, 5]
    assert [row for row in range(20) if index.intended(row)] == [1, 3, 4, 5, 9]
    assert [row for row in range(20) if index.accepted(row)] == [4, 5, 7]
    assert index.in_doubt() == [3, 9]
    assert index.to_follow() == [4, 7]
    assert index.offset(3) is None
    assert {kind for kind, n in index.counts.items() if n == 0} == set(OutcomeKind) - {
        UPDATED,
        OutcomeKind.UNCHANGED,
        FAILED,
    }
    assert (index.succeeded, index.failed, index.repeated) == (2, 1, 0)


def test_every_kind_of_outcome_is_known(tmp_path: Path) -> None:
    """Each outcome that a run can write is read back as itself, and counted on the right side."""
    kinds = list(OutcomeKind)
    write(tmp_path, *(outcome(row, kind) for row, kind in enumerate(kinds, start=1)))

    index = index_of(tmp_path)

    assert [index.outcome(row) for row in range(1, len(kinds) + 1)] == kinds
    assert index.counts == dict.fromkeys(kinds, 1)
    assert (index.succeeded, index.failed) == (len(SUCCEEDED), len(kinds) - len(SUCCEEDED))


def test_of_two_outcomes_the_last_counts_and_the_repeat_is_told(tmp_path: Path) -> None:
    """A row that was settled twice counts once, as its last line says, and is not kept quiet."""
    write(tmp_path, outcome(1, FAILED, error="first"), outcome(1, attempts=2))

    index = index_of(tmp_path)
    sort_out(tmp_path, [["a", "b"]])

    assert index.outcome(1) is UPDATED
    assert (index.repeated, index.succeeded, index.failed) == (1, 1, 0)
    assert len(read(tmp_path / "succeeded.csv")) == 2
    assert sum_up(tmp_path).attempts == 2


def test_the_first_intent_of_a_row_in_doubt_is_given(tmp_path: Path) -> None:
    """A second intent of a row never hides the before-image that the first one recorded."""
    write(tmp_path, intent(1), intent(2, OLD), intent(3), intent(2, NEW))

    index = index_of(tmp_path)

    assert index.intents([2, 7]) == {2: intent(2, OLD)}
    assert index.intents({1, 2}) == {1: intent(1), 2: intent(2, OLD)}
    assert index.intents([]) == {}


def test_a_run_without_journals_has_no_outcome(tmp_path: Path) -> None:
    """A run that was killed before its journals were made is one of which nothing is known."""
    index = index_of(tmp_path)

    assert (index.in_doubt(), index.succeeded, index.failed) == ([], 0, 0)
    assert index.intents([1]) == {}
    assert sort_out(tmp_path, [["a", "b"]])["unprocessed.csv"].rows == 1
    assert sum_up(tmp_path, state="running").verdict is RunVerdict.INTERRUPTED


def test_a_live_run_is_followed_line_by_line(tmp_path: Path) -> None:
    """A line that is not whole yet is not seen, and is seen once it is; nothing counts twice."""
    write(tmp_path, intent(1), outcome(1), intent(2), outcome(2))
    report = tmp_path / "report.jsonl"
    whole = report.read_bytes()
    report.write_bytes(whole[:-10])
    index = index_of(tmp_path)
    before = (index.settled(1), index.in_doubt())
    report.write_bytes(whole)
    index.extend()
    write(tmp_path, intent(300), Accepted(300))
    index.extend()

    assert before == (True, [2])
    assert (index.succeeded, index.repeated, index.in_doubt()) == (2, 0, [])
    assert index.to_follow() == [300]


def test_lines_of_another_kind_settle_nothing(tmp_path: Path) -> None:
    """A report may come to hold lines that this version need not know; no row ends by them."""
    write(tmp_path, Raw("report", {"event": "change.seen", "timestamp": stamp(0), "row": 1}))

    assert not index_of(tmp_path).settled(1)
    assert sum_up(tmp_path).counts["unprocessed"] == 1


def test_damage_is_not_read_over(tmp_path: Path) -> None:
    """A journal that was changed after it was written gives no index at all."""
    write(tmp_path, outcome(1, FAILED), outcome(2))
    report = tmp_path / "report.jsonl"
    report.write_bytes(report.read_bytes().replace(b'"rejected"', b'"updated"'))

    with pytest.raises(JournalDamaged, match="line 1"):
        index_of(tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (Raw("report", {"event": "change.settled", "row": 1, "outcome": "eaten"}), "'eaten'"),
        (Raw("report", {"event": "change.settled", "row": 1}), "None"),
        (Raw("report", {"event": "change.settled", "row": 0, "outcome": "updated"}), ">= 1"),
        (Raw("undo", {"row": "one"}), "`int`"),
    ],
    ids=["outcome", "no-outcome", "row-0", "intent"],
)
def test_what_another_version_wrote_is_refused(tmp_path: Path, line: Raw, reason: str) -> None:
    """A whole line that says something unknown is not guessed at: the version is named."""
    write(tmp_path, line)

    with pytest.raises(RunRefused, match=f"{line.name}.jsonl: line 1 .*{reason}.*version"):
        index_of(tmp_path)


def test_what_another_version_wrote_further_in_is_refused_too(tmp_path: Path) -> None:
    """Fields that the index passes over are looked at by whoever needs them, with the place."""
    write(tmp_path, Raw("undo", {"row": 2}))
    fields = {"event": "change.settled", "timestamp": stamp(0), "row": 1, "outcome": "updated"}
    write(tmp_path, Raw("report", fields | {"error_class": "gravity"}))

    with pytest.raises(RunRefused, match=r"report.jsonl: byte 0 .*gravity"):
        sort_out(tmp_path, [["a", "b"], ["c", "d"]])
    with pytest.raises(RunRefused, match=r"report.jsonl: line 1 .*gravity"):
        sum_up(tmp_path, rows=2)
    with pytest.raises(RunRefused, match=r"undo.jsonl: line 1 .*missing required"):
        index_of(tmp_path).intents([2])


def test_rows_of_another_input_are_named(tmp_path: Path) -> None:
    """When the journals name rows that the input has not, nothing is added up."""
    write(tmp_path, outcome(1), *(intent(row) for row in range(5, 17)))

    with pytest.raises(SyncshiftError, match=r"has 4 rows.*12 more \(row 5, .*, 14, …\)"):
        index_of(tmp_path).check(4)
    with pytest.raises(SyncshiftError, match=r"has 15 rows.*1 more \(row 16\)"):
        sum_up(tmp_path, rows=15)
    index_of(tmp_path).check(16)


# --------------------------------------------------------------------------------- result files


def test_the_result_files_read_as_documented(tmp_path: Path) -> None:
    """Own columns come first, then what became of the row; each row is in its file."""
    write(
        tmp_path,
        *(intent(row) for row in (1, 4, 5)),
        outcome(1, attempts=2),
        outcome(
            2,
            FAILED,
            http_status=404,
            error_class=ErrorClass.NOT_FOUND,
            error="=404, no such sync",
        ),
        Accepted(5),
    )

    written = sort_out(tmp_path, [["a", "=1+1"], ["b", "two\nlines"], ["c", ""], ["d"], ["e", "-"]])

    columns = "sync_id,note,syncshift_row,syncshift_line,syncshift_outcome,syncshift_proof,"
    columns += "syncshift_sent,syncshift_error_class,syncshift_error,syncshift_http_status,"
    columns += "syncshift_attempts\n"
    assert [(tmp_path / name).read_bytes().decode() for name in FILES] == [
        columns + "a,=1+1,1,2,updated,accepted,true,,,200,2\n",
        columns + 'b,"two\nlines",2,3,rejected,,false,not_found,"\'=404, no such sync",404,0\n',
        columns + "c,,3,4,,,no,,,,\nd,,4,5,,,unanswered,,,,\ne,-,5,6,,,accepted,,,,\n",
    ]
    assert written == {
        name: FileWritten(rows, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        for name, rows in zip(FILES, (1, 1, 3), strict=True)
    }
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in FILES} == {0o600}
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


ENDS: st.SearchStrategy[OutcomeKind | None] = st.sampled_from([None, *OutcomeKind])
CELLS = st.one_of(st.text(), st.text("=+-@\t\r\n'\", ;0a", min_size=1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(CELLS, max_size=4), ENDS, CELLS), max_size=12))
@example([(["a\rb", "\r"], None, ""), (["", "x", "surplus\r"], FAILED, "\r=x")])
def test_no_cell_is_lost_or_changed(
    rows: list[tuple[list[str], OutcomeKind | None, str]],
) -> None:
    """Whatever the cells hold and however rows end, the files joined and sorted are the input."""
    inputs = [cells for cells, _, _ in rows]
    ends = [end for _, end, _ in rows]
    errors = [error for _, _, error in rows]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(
            directory,
            *(
                outcome(row, end, error=error or None)
                for row, (end, error) in enumerate(zip(ends, errors, strict=True), start=1)
                if end is not None
            ),
        )
        sort_out(directory, inputs)
        found = {file: read(directory / file) for file in FILES}

    width = len(HEADER)
    behind = width + len(COLUMNS)
    joined = {int(row[width]): (file, row) for file, (_, *rows_) in found.items() for row in rows_}
    assert {tuple(header) for header, *_ in found.values()} == {(*HEADER, *COLUMNS)}
    assert sorted(joined) == list(range(1, len(rows) + 1))
    assert sum(len(rows_) - 1 for rows_ in found.values()) == len(rows)
    for number, (cells, end, error) in enumerate(zip(inputs, ends, errors, strict=True), start=1):
        file, row = joined[number]
        filled = cells + [""] * (width - len(cells))
        assert row[:width] + row[behind:] == filled
        assert file == FILES[2 if end is None else end not in SUCCEEDED]
        assert row[width + 2] == (end or "")
        assert row[width + 6].removeprefix("'") == ("" if end is None else error).removeprefix("'")


@pytest.mark.parametrize("start", [*"=+-@\t\r\n＝＋－＠"])  # noqa: RUF001  # full-width on purpose
def test_no_outcome_column_is_a_formula(tmp_path: Path, start: str) -> None:
    """What a server said is text to a spreadsheet; the input's own cells stay as they are."""
    write(tmp_path, outcome(1, FAILED, error=f"{start}HYPERLINK(1)"))

    sort_out(tmp_path, [["sync", f"{start}1"]])

    row = read(tmp_path / "failed.csv")[1]
    assert row[1] == f"{start}1"
    assert row[8] == f"'{start}HYPERLINK(1)"


def test_half_a_character_is_written_as_its_escape(tmp_path: Path) -> None:
    """What no encoding has does not keep the files from being written."""
    sort_out(tmp_path, [["\ud83d", "é"]])

    assert read(tmp_path / "unprocessed.csv")[1][:2] == [r"\ud83d", "é"]


@pytest.mark.parametrize("size", [1, 2_000, 4_096, 600_000])
def test_an_outcome_of_any_length_is_found(tmp_path: Path, size: int) -> None:
    """Lines are fetched whole, however long they are, in input order and not the report's."""
    write(tmp_path, *(outcome(row, FAILED, error=str(row) * size) for row in (3, 1, 2)))

    sort_out(tmp_path, [["a", ""], ["b", ""], ["c", ""]])

    with (tmp_path / "failed.csv").open(encoding="utf-8", newline="") as file:
        errors = [line.split(",")[8] for line in file][1:]
    assert errors == ["1" * size, "2" * size, "3" * size]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([1, 3], "row 3 after row 1"),
        ([1, 2, 2], "row 2 after row 2"),
        ([1, 2], "ended after row 2, but the run has 3 rows"),
        ([1, 2, 3, 4], "ended after row 4, but the run has 3 rows"),
    ],
    ids=["gap", "twice", "short", "long"],
)
def test_an_input_that_is_not_the_runs_is_refused(
    tmp_path: Path, records: list[int], message: str
) -> None:
    """Every row is given once and in order, or no file is written and the row is named."""
    with pytest.raises(SyncshiftError, match=message):
        write_files(
            tmp_path,
            header=HEADER,
            records=((row, row + 1, ["a", "b"]) for row in records),
            index=index_of(tmp_path),
            rows=3,
        )

    assert list(tmp_path.iterdir()) == []


def test_one_outcome_is_fetched_whole(tmp_path: Path) -> None:
    """An outcome comes back as it was settled; a row without one is an error of the caller."""
    settled = outcome(2, before=OLD, desired=NEW, elapsed_ms=5, request_id="q")
    write(tmp_path, outcome(1), settled)

    with Outcomes(index_of(tmp_path)) as outcomes:
        assert outcomes.of(2) == settled
        with pytest.raises(KeyError, match="3"):
            outcomes.of(3)


@pytest.mark.parametrize("change", ["cut", "moved"])
def test_a_report_that_changes_meanwhile_is_refused(tmp_path: Path, change: str) -> None:
    """An outcome that is no longer where it was is not replaced by another one."""
    write(tmp_path, outcome(1), outcome(2))
    index = index_of(tmp_path)
    report = tmp_path / "report.jsonl"
    first, second = report.read_bytes().splitlines(keepends=True)
    report.write_bytes(first + second[:-40] if change == "cut" else second + first)

    with pytest.raises(RunRefused, match=r"row \d \(byte \d+\) is no longer what it was"):
        write_files(tmp_path, header=HEADER, records=numbered([["", ""]] * 2), index=index, rows=2)


def test_parts_of_a_process_that_was_killed_are_cleared_away(tmp_path: Path) -> None:
    """Whoever writes a file removes what the dead have left of it, and nothing of the living."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".{FILES[0]}.{dead.pid}.part"
    theirs = tmp_path / f".{FILES[0]}.{os.getppid()}.part"
    for part in (left, theirs):
        part.touch()

    sort_out(tmp_path, [["a", "b"]])

    assert not left.exists()
    assert theirs.exists()


def test_old_files_stay_until_the_new_ones_are_whole(tmp_path: Path) -> None:
    """An input that breaks off half-way leaves the files of the last time, and no parts."""
    sort_out(tmp_path, [["a", "b"]])
    old = {name: (tmp_path / name).read_bytes() for name in FILES}

    def broken() -> Iterator[tuple[int, int, Sequence[str]]]:
        yield 1, 2, ["c", "d"]
        raise InputError("the copy of the input cannot be read")

    with pytest.raises(InputError):
        write_files(tmp_path, header=HEADER, records=broken(), index=index_of(tmp_path), rows=2)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse every byte of a file beyond *size*, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    """When a file cannot be written, its name is told, the old ones stay, and no part is left."""
    sort_out(tmp_path, [["a", "b"]])
    old = {name: (tmp_path / name).read_bytes() for name in FILES}

    with largest_file(100_000), pytest.raises(DiskFault, match=r"unprocessed\.csv: cannot"):
        sort_out(tmp_path, [["x" * 60_000, ""]] * 10)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    """A folder that is gone, or a name that is taken by a folder, is named."""
    (tmp_path / "failed.csv").mkdir()
    (tmp_path / "failed.csv" / "x").touch()

    with pytest.raises(DiskFault, match=r"failed\.csv: cannot be written"):
        sort_out(tmp_path, [])
    with pytest.raises(DiskFault, match=r"succeeded\.csv: cannot .*No such file"):
        sort_out(tmp_path / "gone", [])
    assert not list(tmp_path.glob(".*"))


# -------------------------------------------------------------------------------------- summary


def test_the_summary_reads_as_documented(tmp_path: Path) -> None:
    """Every field of the contract is there, in order, and the same bytes come out each time."""
    write(
        tmp_path,
        1_000.0,
        Told("run.opened", {"run_id": "r1"}),
        1_001.0,
        Told("throttle.held", {"reason": "outage", "detail": "503", "until": None}),
        1_002.5,
        Told("throttle.released", {"reason": "outage", "held_s": 1.5}),
        *(intent(row) for row in (1, 2, 4)),
        outcome(1, before=OLD, desired=NEW, elapsed_ms=120),
        outcome(2, before=NEW, desired=NEW, elapsed_ms=80, attempts=3),
        outcome(3, FAILED, error_class=ErrorClass.INVALID),
        1_010.0,
        Told("run.closed", {}),
    )
    files = sort_out(tmp_path, [["a", ""]] * 5)
    arguments: dict[str, Any] = {
        "state": "interrupted",
        "signal": 2,
        "started": stamp(1_000),
        "ended": stamp(1_010),
        "rows": 5,
        "limits": {"max_failures": "10%", "rate": None},
        "files": files,
    }

    summary = sum_up(tmp_path, **arguments)
    path = tmp_path / "summary.json"
    write_summary(path, summary)

    assert path.read_bytes() == encode_summary(sum_up(tmp_path, **arguments))
    assert path.read_text(encoding="utf-8").startswith('{\n  "run_id": "r1",\n')
    assert list(json.loads(path.read_bytes()).items()) == [
        ("run_id", "r1"),
        ("job", "migrate-credentials"),
        ("state", "interrupted"),
        ("verdict", "interrupted"),
        ("exit_code", 130),
        ("started", "1970-01-01T00:16:40.000Z"),
        ("ended", "1970-01-01T00:16:50.000Z"),
        ("rows", 5),
        (
            "counts",
            dict.fromkeys(OutcomeKind, 0) | {"updated": 2, "rejected": 1, "unprocessed": 2},
        ),
        ("error_classes", {"invalid": 1}),
        ("attempts", 4),
        ("rate", 0.3),
        ("latency_ms", {"p50": 80, "p90": 120, "p99": 120, "max": 120}),
        ("waits", {"outage": 1.5}),
        ("resyncs", 1),
        ("limits", {"max_failures": "10%", "rate": None}),
        ("files", {name: {"rows": f.rows, "sha256": f.sha256} for name, f in files.items()}),
    ]


def test_files_that_are_not_the_indexs_own_are_told(tmp_path: Path) -> None:
    """Numbers of files and journals that differ never stand in one summary."""
    files = sort_out(tmp_path, [["a", "b"]])
    write(tmp_path, outcome(1))

    with pytest.raises(SyncshiftError, match=r"unprocessed\.csv has 1 rows, .* tell of 0"):
        sum_up(tmp_path, files={"unprocessed.csv": files["unprocessed.csv"]})


def test_only_what_the_index_knows_is_added_up(tmp_path: Path) -> None:
    """A run that goes on while it is added up gives the sums of one moment."""
    write(tmp_path, outcome(1))
    index = index_of(tmp_path)
    write(tmp_path, outcome(2, attempts=9))

    summary = sum_up(tmp_path, index, state="running", rows=2, live=True)

    assert (summary.counts["updated"], summary.counts["unprocessed"]) == (1, 1)
    assert (summary.attempts, summary.verdict, summary.exit_code) == (1, None, None)
    assert summary.rate is None


def test_rows_without_a_request_have_no_latency(tmp_path: Path) -> None:
    """A row that asked nothing of the server does not make the server look fast."""
    write(
        tmp_path,
        outcome(1, OutcomeKind.INVALID),
        outcome(2, OutcomeKind.DUPLICATE),
    )

    without = sum_up(tmp_path, rows=5).latency_ms
    write(
        tmp_path,
        outcome(3, OutcomeKind.UNCHANGED, elapsed_ms=7),
        outcome(4, FAILED, http_status=404),
        outcome(5, elapsed_ms=9),
    )
    with_some = sum_up(tmp_path, rows=5).latency_ms

    assert without is None
    assert with_some is not None
    assert msgspec.structs.astuple(with_some) == (7, 9, 9, 9)


@given(st.lists(st.integers(min_value=0, max_value=10**8), min_size=1))
def test_percentiles_are_nearly_exact(numbers: list[int]) -> None:
    """A percentile is at most 0.4 % off what sorting all numbers gives; the largest is exact."""
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)

    found = histogram.latency()

    assert found is not None
    assert found.max == max(numbers)
    for share, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        exact = sorted(numbers)[math.ceil(share * len(numbers)) - 1]
        assert abs(value - exact) <= exact / 256


HELD, RELEASED, OPENED, CLOSED = "throttle.held", "throttle.released", "run.opened", "run.closed"
THROTTLED = {"reason": "throttled"}
OUTAGE = {"reason": "outage", "until": None}


@pytest.mark.parametrize(
    ("things", "waits", "rate"),
    [
        pytest.param([], {}, None, id="nothing"),
        pytest.param([10.0, outcome(1)], {}, 0.1, id="no-events"),
        pytest.param(
            [5.0, Told(OPENED), 7.0, outcome(1), 9.0, Told(CLOSED)], {}, 0.25, id="one-session"
        ),
        pytest.param(
            [0.0, Told(OPENED), 2.0, outcome(1), 1_000.0, Told(OPENED), 1_002.0, Told(CLOSED)],
            {},
            0.25,
            id="killed-and-resumed",
        ),
        pytest.param(
            [0.0, Told(OPENED), 1.0, Told("wave.started"), 90.0, Told(OPENED), 93.0, outcome(1)],
            {},
            0.25,
            id="killed-twice",
        ),
        pytest.param(
            [0.0, Told(OPENED), 4.0, Told("wave.started"), 90.0, Told(OPENED), Told(OPENED)],
            {},
            0.0,
            id="killed-thrice",
        ),
        pytest.param(
            [0.0, Told(HELD, THROTTLED | {"until": stamp(3)}), 10.0, Told(CLOSED), outcome(1)],
            {"throttled": 3.0},
            0.1,
            id="ends-by-itself",
        ),
        pytest.param(
            [
                0.0,
                Told(HELD, THROTTLED | {"until": stamp(3)}),
                2.0,
                Told(HELD, THROTTLED | {"until": stamp(5)}),
                7.0,
                Told(HELD, THROTTLED | {"until": stamp(9)}),
                8.0,
                Told(CLOSED),
            ],
            {"throttled": 6.0},
            0.0,
            id="longer-and-again",
        ),
        pytest.param(
            [0.0, Told(HELD, OUTAGE), 1.0, Told(HELD, OUTAGE), 4.0, Told(CLOSED)],
            {"outage": 4.0},
            0.0,
            id="open-to-the-end",
        ),
        pytest.param(
            [
                0.0,
                Told(HELD, OUTAGE),
                1.0,
                Told(HELD, THROTTLED | {"until": stamp(2)}),
                3.0,
                Told(RELEASED, {"reason": "outage", "held_s": 2.998}),
                90.0,
                Told(OPENED),
                Told(HELD, OUTAGE),
                91.0,
                Told(CLOSED),
            ],
            {"outage": 3.998, "throttled": 1.0},
            0.0,
            id="two-reasons-two-sessions",
        ),
        pytest.param(
            [9.0, Told(OPENED), 8.0, Told(HELD, OUTAGE), 7.0, Told(CLOSED)],
            {"outage": 0.0},
            None,
            id="clock-set-back",
        ),
    ],
)
def test_time_is_that_of_work(
    tmp_path: Path, things: list[Any], waits: dict[str, float], rate: float | None
) -> None:
    """Waits and the rate count the time at work: no pause between sessions, no hold beyond one."""
    write(tmp_path, *things)

    summary = sum_up(tmp_path)

    assert (summary.waits, summary.rate) == (waits, rate)


@pytest.mark.parametrize(
    ("ended", "rate"), [(None, 0.5), (stamp(104), 0.25), (stamp(90), 0.5)], ids=str
)
def test_the_run_says_when_it_ended(tmp_path: Path, ended: str | None, rate: float) -> None:
    """The manifest's end is taken before the event of it is written; one from before is not."""
    write(tmp_path, 100.0, Told(OPENED), 102.0, outcome(1))

    assert sum_up(tmp_path, ended=ended).rate == rate


def test_resyncs_are_counted_from_what_was_there_before(tmp_path: Path) -> None:
    """A change counts when the job says so of its desired and earlier state, and it was made."""
    write(
        tmp_path,
        outcome(1, before=OLD, desired=NEW),
        outcome(2, before=None, desired=NEW),
        outcome(3, before=NEW, desired=NEW),
        outcome(4, FAILED, before=OLD, desired=NEW, sent=True),
        outcome(5, OutcomeKind.UNCHANGED, before=OLD, desired=NEW),
    )

    assert sum_up(tmp_path, rows=5).resyncs == 2


@pytest.mark.parametrize(
    ("state", "failed", "unprocessed", "live", "verdict", "code"),
    [
        ("finished", 0, 0, False, "succeeded", 0),
        ("finished", 1, 0, False, "failed", 3),
        ("finished", 0, 1, False, "stopped", 4),
        ("stopped", 1, 1, False, "stopped", 4),
        ("stopped", 1, 0, False, "failed", 3),
        ("interrupted", 0, 1, False, "interrupted", 143),
        ("interrupted", 0, 0, False, "succeeded", 0),
        ("refused", 0, 9, False, "refused", 2),
        ("running", 0, 1, True, None, None),
        ("running", 0, 1, False, "interrupted", 143),
        ("running", 1, 0, False, "failed", 3),
        ("checking", 0, 0, True, None, None),
        ("checking", 0, 0, False, "interrupted", 143),
    ],
)
def test_verdict_and_exit_code_agree(
    state: str, failed: int, unprocessed: int, live: bool, verdict: str | None, code: int | None
) -> None:
    """Verdict and exit code follow from the state and the rows alone, each from the other."""
    found = verdict_of(state, failed=failed, unprocessed=unprocessed, live=live)

    assert found == verdict
    assert exit_code_of(found, signal=15) == code


@pytest.mark.parametrize(("signal", "code"), [(1, 129), (2, 130), (15, 143), (None, None)])
def test_an_interruption_names_its_signal(signal: int | None, code: int | None) -> None:
    """The exit code is that of the signal; a run that was killed gave none."""
    assert exit_code_of(RunVerdict.INTERRUPTED, signal=signal) == code


def test_an_unknown_state_is_not_guessed_at() -> None:
    """A state of another version is refused by name."""
    with pytest.raises(SyncshiftError, match="'asleep' is not known"):
        verdict_of("asleep", failed=0, unprocessed=0)


# ----------------------------------------------------------------------------------------- size


def cells_of(row: int) -> list[str]:
    """Return the cells of one row of a large input."""
    return [f"sync-{row}", f'={row},\r\n"{"x" * (row % 50)}"']


def record_many(directory: Path, rows: int) -> None:
    """Write down a large run, in which rows end in every way and every fourth is in doubt."""
    directory.mkdir()
    kinds = [UPDATED, FAILED, OutcomeKind.UNCHANGED, None]
    ends = ((row, kinds[row % 4]) for row in range(1, rows + 1))
    things = ((intent(row), outcome(row, end, elapsed_ms=row) if end else 0.0) for row, end in ends)
    write(directory, *(thing for both in things for thing in both))


def add_up(directory: Path, rows: int) -> Summary:
    """Do all that is done at the end of a run, its input taken from `cells_of`."""
    index = index_of(directory)
    records = ((row, row + 1, cells_of(row)) for row in range(1, rows + 1))
    files = write_files(directory, header=HEADER, records=records, index=index, rows=rows)
    return sum_up(directory, index, rows=rows, files=files)


def peak_of(directory: Path, rows: int) -> int:
    """Return the most memory that adding up a run of *rows* rows takes at once, in bytes."""
    record_many(directory, rows)
    tracemalloc.start()
    try:
        add_up(directory, rows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("small", "large"), [(5_000, 25_000), pytest.param(20_000, 200_000, marks=pytest.mark.long)]
)
def test_memory_grows_by_a_few_bytes_a_row(tmp_path: Path, small: int, large: int) -> None:
    """Adding up takes at most 12 bytes for each further row, whatever its line holds."""
    grown = peak_of(tmp_path / "large", large) - peak_of(tmp_path / "small", small)

    assert grown <= 12 * (large - small)


@pytest.mark.parametrize("rows", [40_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_a_large_run_loses_no_cell(tmp_path: Path, rows: int) -> None:
    """The files of many rows, joined and sorted by row, are the input cell for cell."""
    record_many(tmp_path / "run", rows)

    summary = add_up(tmp_path / "run", rows)

    joined = {}
    for name in FILES:
        with (tmp_path / "run" / name).open(encoding="utf-8", newline="") as file:
            found = csv.reader(file, strict=True)
            next(found)
            joined.update({int(row[2]): row[:2] for row in found})
    assert {name: file.rows for name, file in summary.files.items()} == dict(
        zip(FILES, (rows // 2, rows // 4, rows // 4), strict=True)
    )
    assert len(joined) == rows
    assert all(joined[row] == cells_of(row) for row in range(1, rows + 1))
