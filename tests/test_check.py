"""The check says everything that is wrong with an input, in one pass and in little memory."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.check import (
    INVALID_COLUMNS,
    Checked,
    changes,
    check,
    columns_of,
    repeats,
    write_invalid,
)
from runner.errors import InputError, InvalidRow, Problem
from runner.job import FREQUENCY, Job, SyncJob, find
from runner.model import Change, Field, Row
from runner.rows import read, recognise

SAMPLES = Path(__file__).parent.parent / "sample_inputs"
UUID = "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1"
OTHER_UUID = "7c63bb0a-70d7-5a5e-af1d-668bfd0dd737"


MISQUOTED = (
    'a quoted cell goes on after its closing quote; write a quote inside a quoted cell twice: ""'
)


class Careful(SyncJob):
    """A job of another package, which refuses what its own rules forbid."""

    name = "careful"
    owns: tuple[Field, ...] = (FREQUENCY,)

    def parse(self, row: Row) -> Change:
        """Refuse some rows, in each of the ways there are."""
        if row.fields["sync_id"] == "forbidden":
            raise InvalidRow("is not to be touched")
        if row.fields["sync_id"] == "strange":
            problem = Problem(0, "frequency", "1h\x1b", "is strange")
            raise InvalidRow("strange", (problem, Problem(7, "", "", "is odd")))
        return super().parse(row)


def checked(
    folder: Path, data: str | bytes, job: str | Job = "update-syncs", name: str = "in.csv"
) -> Checked:
    """Return what a file of *data* comes to."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    kind = find(job) if isinstance(job, str) else job
    return check(recognise(path), columns_of(kind), kind)


def often(*rows: str) -> str:
    """Return CSV of *rows*: sync, user, frequency, expected frequency."""
    return "\n".join(["sync_id,user_id,frequency,expected_frequency", *rows]) + "\n"


def clash(line: int) -> str:
    """Return what is said about a row that contradicts the one on *line*."""
    return (
        f"this sync stands on line {line} as well, with another user or another change; "
        "keep one of its rows"
    )


def numbers(got: Checked) -> dict[str, int]:
    """Return the counts that add up."""
    names = ("rows", "valid", "invalid", "duplicates", "users", "resyncs", "total_problems")
    return {name: getattr(got, name) for name in names}


@pytest.mark.parametrize(
    ("job", "rows", "resyncs"),
    [
        ("migrate-credentials", 120, 120),
        ("change-frequency", 120, 0),
        ("update-syncs", 48, 32),
        ("disable-syncs", 24, 0),
        ("enable-syncs", 24, 24),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_samples_are_clean(job: str, rows: int, resyncs: int, ending: str) -> None:
    """Each sample fits its job without a word, in both formats."""
    kind = find(job)
    file = recognise(SAMPLES / f"{job}.{ending}")

    got = check(file, columns_of(kind), kind)

    assert numbers(got) == {
        "rows": rows,
        "valid": rows,
        "invalid": 0,
        "duplicates": 0,
        "users": 16,
        "resyncs": resyncs,
        "total_problems": 0,
    }
    assert got.refusal() is None
    assert got.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert got.size == file.path.stat().st_size
    assert "team" in got.names


@pytest.mark.parametrize("job", ["migrate-credentials", "change-frequency", "update-syncs"])
def test_samples_say_the_same_in_both_formats(job: str) -> None:
    """The rows of a CSV sample ask for what those of its JSONL twin ask for."""
    kind = find(job)
    table, lines = (
        list(chain.from_iterable(changes(read(recognise(path), columns_of(kind)), kind)))
        for path in (SAMPLES / f"{job}.csv", SAMPLES / f"{job}.jsonl")
    )

    assert [(c.sync_id, c.user_id) for c in table] == [(c.sync_id, c.user_id) for c in lines]
    assert [c.desired for c in table if isinstance(c, Change)] == [
        c.desired for c in lines if isinstance(c, Change)
    ]


def test_every_bad_row_of_the_sample_is_told() -> None:
    """The sample of bad rows gives exactly these problems; four rows of it are good."""
    kind = find("update-syncs")

    got = check(recognise(SAMPLES / "bad-rows.csv"), columns_of(kind), kind)

    assert [(p.line, p.row, p.column, p.value, p.reason) for p in got.problems] == [
        (3, 2, "sync_id", "", "is required"),
        (4, 3, "sync_id", "", "is required"),
        (5, 4, "user_id", "", "is required"),
        (6, 5, "sync_id", "", "is required"),
        (6, 5, "user_id", "", "is required"),
        (
            6,
            5,
            "credential_id",
            "not-a-uuid",
            "must be a UUID such as 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1",
        ),
        (6, 5, "frequency", "2h", "must be one of 1m 5m 10m 30m 1h 3h 6h 24h"),
        (6, 5, "expected_frequency", "often", "must be one of 1m 5m 10m 30m 1h 3h 6h 24h"),
        (7, 6, "sync_id", "..", "must not be . or .., which mean a folder in an address"),
        (8, 7, "sync_id", "a\\x1b[2Jb", "must not hold control characters; there is U+001B"),
        (9, 8, "sync_id", "two\\nlines", "must not hold control characters; there is U+000A"),
        (11, 9, "sync_id", "x" * 79 + "…", "must be at most 256 bytes of UTF-8; it has 257"),
        (12, 10, "user_id", "org:\\x0742", "must not hold control characters; there is U+0007"),
        (
            13,
            11,
            "credential_id",
            "0aea7d3a-b5f7-4488-890e",
            "must be a UUID such as 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1",
        ),
        (14, 12, "frequency", "1H", "must be one of 1m 5m 10m 30m 1h 3h 6h 24h"),
        (15, 13, "frequency", "60m", "must be one of 1m 5m 10m 30m 1h 3h 6h 24h"),
        (16, 14, "expected_frequency", "hourly", "must be one of 1m 5m 10m 30m 1h 3h 6h 24h"),
        (17, 15, "", "", "changes nothing; give a value for credential_id or frequency"),
        (18, 16, "", "", "has 5 cells, the header has 6"),
        (
            19,
            17,
            "",
            "",
            "has 7 cells, the header has 6; put double quotes around a cell that holds a comma",
        ),
        (
            20,
            18,
            "team",
            "caf\\xe9 in Latin-1",
            "is not UTF-8: byte 0xe9 at offset 1,658 of the file",
        ),
        (21, 19, "team", "a NUL\\x00 in a cell", "holds a NUL character"),
        (
            22,
            20,
            "",
            'afedf920-6997-5658-b16c-54e58e0cbaed,org:42,,1h,,"a quote" inside',
            MISQUOTED,
        ),
        (23, 21, "sync_id", "7c63bb0a-70d7-5a5e-af1d-668bfd0dd737", clash(24)),
        (24, 22, "sync_id", "7c63bb0a-70d7-5a5e-af1d-668bfd0dd737", clash(23)),
        (25, 23, "sync_id", "b34b55db-80a7-5be6-85a5-24cd2f66ca49", clash(26)),
        (26, 24, "sync_id", "b34b55db-80a7-5be6-85a5-24cd2f66ca49", clash(25)),
    ]
    assert numbers(got) == {
        "rows": 27,
        "valid": 4,
        "invalid": 23,
        "duplicates": 1,
        "users": 3,
        "resyncs": 2,
        "total_problems": 27,
    }
    assert str(got.refusal()) == (
        "bad-rows.csv: 23 of 27 rows cannot become a change; "
        "mend the file, or leave such rows out with --skip-invalid"
    )
    assert got.refusal(skip_invalid=True) is None


def test_a_later_row_that_asks_for_the_same_is_a_duplicate(tmp_path: Path) -> None:
    """Same sync, user, desired and expected: the later rows are no problem and not sent."""
    got = checked(
        tmp_path, often("a,u,1h,", "b,u,1h,3h", "a,u,1h,", '"c",u,1h,', "b,u,1h,3h", "a,u,1h,")
    )

    assert (got.valid, got.invalid, got.duplicates) == (6, 0, 3)
    assert [got.first_of(row) for row in range(8)] == [None, None, None, 1, None, 2, 1, None]
    assert got.duplicates_of(1) == ((3, 4), (6, 7))
    assert got.duplicates_of(2) == ((5, 6),)
    assert got.duplicates_of(3) == ()
    assert got.problems == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a,u,1h,", "a,v,1h,"),
        ("a,u,1h,", "a,u,3h,"),
        ("a,u,1h,", "a,u,1h,3h"),
        ("a,u,1h,3h", "a,u,1h,6h"),
    ],
)
def test_rows_that_contradict_each_other_are_both_invalid(
    tmp_path: Path, first: str, second: str
) -> None:
    """Each names the line of the other; rows between them are not touched."""
    got = checked(tmp_path, often(first, "b,u,1h,", second))

    assert [(p.line, p.row, p.column, p.value, p.reason) for p in got.problems] == [
        (2, 1, "sync_id", "a", clash(4)),
        (4, 3, "sync_id", "a", clash(2)),
    ]
    assert (got.valid, got.invalid, got.duplicates) == (1, 2, 0)


def test_each_of_many_rows_names_one_that_differs(tmp_path: Path) -> None:
    """A row that agrees with the first names the one that does not, and so does the first."""
    got = checked(tmp_path, often("a,u,1h,", "a,u,1h,", "a,u,3h,", "a,u,6h,", "a,u,1h,"))

    assert [(p.line, p.reason) for p in got.problems] == [
        (2, clash(4)),
        (3, clash(4)),
        (4, clash(2)),
        (5, clash(2)),
        (6, clash(4)),
    ]
    assert (got.duplicates, got.first_of(2), got.duplicates_of(1)) == (0, None, ())


def test_a_bad_row_contradicts_nobody(tmp_path: Path) -> None:
    """A row that is invalid for another reason leaves its sync's other row alone."""
    got = checked(tmp_path, often("a,u,1h,", "a,u,2h,"))

    assert (got.valid, got.invalid) == (1, 1)
    assert got.contradiction(Change(1, 2, "a", "u", {"frequency": "1h"})) is None


def test_upper_case_makes_no_other_credential(tmp_path: Path) -> None:
    """Two spellings of one UUID ask for the same."""
    head = "sync_id,user_id,credential_id\n"

    got = checked(tmp_path, f"{head}a,u,{UUID}\na,u,{UUID.upper()}\n")

    assert got.first_of(2) == 1


def test_only_rows_to_be_sent_count_as_resyncs(tmp_path: Path) -> None:
    """Duplicates and contradictions start nothing, and neither does a frequency."""
    rows = [
        f"a,u,{UUID},",
        f"a,u,{UUID},",
        f"b,u,{UUID},",
        f"b,v,{UUID},",
        "c,u,,1h",
        f"d,u,{UUID},",
    ]

    got = checked(tmp_path, "\n".join(["sync_id,user_id,credential_id,frequency", *rows]))

    assert (got.resyncs, got.valid, got.duplicates, got.users) == (2, 4, 1, 2)


def test_repeats_are_found_over_any_number_of_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few syncs a pass looks at, what is found is the same, in order."""
    rows = [f"s{n % 40},u,{'3h' if n == 57 else '1h'}," for n in range(100)]
    whole = checked(tmp_path, often(*rows))
    monkeypatch.setattr(repeats, "GROUPS_A_PASS", 3)
    parts = checked(tmp_path, often(*rows))

    assert numbers(parts) == numbers(whole)
    assert parts.problems == whole.problems
    assert [(p.line, p.value) for p in whole.problems] == [(19, "s17"), (59, "s17"), (99, "s17")]
    for row in range(1, 101):
        assert parts.first_of(row) == whole.first_of(row)
        assert parts.duplicates_of(row) == whole.duplicates_of(row)


def test_texts_of_one_fingerprint_are_told_apart() -> None:
    """What shares a fingerprint by chance is looked at exactly."""
    rows = [Change(n, n + 1, f"s{n}", "u", {"frequency": "1h"}) for n in (1, 2)]
    wanted = iter([hash("s1"), hash("s2")])

    got = repeats.find_repeats(wanted, lambda: iter(rows), find("change-frequency").starts_resync)

    assert (len(got.firsts), len(got.clashes)) == (0, 0)


def test_users_are_counted_beyond_what_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of users is right, also when there are too many to remember by name."""
    monkeypatch.setattr(repeats.Distinct, "LIMIT", 100)

    got = checked(tmp_path, often(*(f"s{n},u{n % 2_500},1h," for n in range(5_000))))

    assert got.users == 2_500


def test_at_most_fifty_problems_are_kept_and_all_are_written(tmp_path: Path) -> None:
    """Memory holds the first 50 in order; invalid.csv holds every one."""
    rows = [f"s{n},u,2h," for n in range(60)] + ["a,u,1h,", "a,u,3h,"]
    rows.insert(3, "a,u,1h,")
    out = io.StringIO(newline="")

    got = checked(tmp_path, often(*rows))
    write_invalid(got, out)

    written = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert (len(got.problems), got.total_problems) == (50, 63)
    assert [p.line for p in got.problems] == list(range(2, 52))
    assert tuple(written[0]) == INVALID_COLUMNS
    assert [int(line) for line, *_ in written[1:]] == list(range(2, 65))
    assert written[4] == ["5", "4", "sync_id", "a", clash(64)]


def test_the_first_fifty_of_plain_problems_are_kept(tmp_path: Path) -> None:
    """A row with several problems does not push the list over its limit."""
    got = checked(tmp_path, often(*[",,2h,"] * 400))

    assert (len(got.problems), got.total_problems, got.invalid) == (50, 1_200, 400)


def test_x6_no_cell_of_invalid_csv_is_a_formula(tmp_path: Path) -> None:
    """Whatever stands in the input, a spreadsheet that opens the list runs nothing."""
    out = io.StringIO(newline="")
    data = "sync_id,user_id,frequency\n=cmd,u,=1+1\na,u,@SUM(A1)\nb,u,-1h\n"

    write_invalid(checked(tmp_path, data), out)

    assert [row["value"] for row in csv.DictReader(io.StringIO(out.getvalue()))] == [
        "'=1+1",
        "'@SUM(A1)",
        "'-1h",
    ]


def test_problems_of_the_file_are_written_too(tmp_path: Path) -> None:
    """Where reading stopped stands behind the rows before; a bad header stands alone."""
    broken, header = io.StringIO(newline=""), io.StringIO(newline="")

    write_invalid(checked(tmp_path, often("a,u,2h,") + 'b,u,1h,"x\n'), broken)
    write_invalid(checked(tmp_path, ""), header)

    assert [line.split(",")[:3] for line in broken.getvalue().splitlines()[1:]] == [
        ["2", "1", "frequency"],
        ["3", "", ""],
    ]
    assert header.getvalue() == "line,row,column,value,reason\n,,,,is empty\n"


def test_a_broken_file_is_refused_and_still_hashed(tmp_path: Path) -> None:
    """The refusal tells the file's problem first, and the fingerprint is of the whole file."""
    data = gzip.compress(often("a,u,2h,", "b,u,1h,", "b,u,3h,").encode())[:-4]

    got = checked(tmp_path, data, name="in.csv.gz")
    refusal = got.refusal(skip_invalid=True)

    assert isinstance(refusal, InputError)
    assert str(refusal) == (
        "in.csv.gz: line 5: the gz file is truncated; fetch it again. Reading stopped there"
    )
    assert [p.line for p in refusal.problems] == [2, 3, 4, 5]
    assert refusal.total == 4
    assert (got.sha256, got.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_a_header_with_several_problems_is_refused_with_their_number(tmp_path: Path) -> None:
    """The message names the first problem and says how many more there are."""
    refusal = checked(tmp_path, "sync_id,User_id,team,team\n").refusal()

    assert str(refusal) == (
        "in.csv: line 1, column User_id: looks like user_id; rename it, "
        "or let it pass with --ignore-column User_id (and 2 more)"
    )


def test_one_row_is_told_in_the_singular(tmp_path: Path) -> None:
    """A message reads well for a file of one row."""
    assert "1 of 1 row cannot" in str(checked(tmp_path, often("a,u,2h,")).refusal())


def test_a_job_may_refuse_rows(tmp_path: Path) -> None:
    """What a job says about a row is told with that row's line and number."""
    rows = ["a,u,1h,", "forbidden,u,1h,", "strange,u,1h,", "b,u,1h,"]

    got = checked(tmp_path, often(*rows), Careful())

    assert got.problems == (
        Problem(3, "", "", "is not to be touched", 2),
        Problem(4, "frequency", "1h\\x1b", "is strange", 3),
        Problem(4, "", "", "is odd", 3),
    )
    assert (got.rows, got.valid, got.invalid, got.total_problems) == (4, 2, 2, 3)
    assert [(bad.number, bad.sync_id, bad.user_id) for bad in got.invalid_rows()] == [
        (2, "forbidden", "u"),
        (3, "strange", "u"),
    ]


def test_columns_follow_the_job() -> None:
    """What a job does not own is foreign to it, and knobs are passed on."""
    kind = find("change-frequency")

    got = columns_of(kind, user_required=False, expected_allowed=False, ignored=["x"])

    assert [field.name for field in got.owned] == ["frequency"]
    assert [field.name for field in got.foreign] == ["credential_id", "sync_state"]
    assert (got.user_required, got.expected_allowed) == (False, False)
    assert got.ignored == frozenset({"x"})


@pytest.mark.parametrize("rows", ["a,u", "a,u,"])
def test_a_job_may_ask_for_something_that_no_row_says(tmp_path: Path, rows: str) -> None:
    """To pause a sync its ID and its user are enough; a column that says so may be blank."""
    head = "sync_id,user_id" if rows == "a,u" else "sync_id,user_id,sync_state"

    got = checked(tmp_path, f"{head}\n{rows}\n", "disable-syncs")
    none = checked(tmp_path, "team\nx\n", "disable-syncs")
    blank = checked(tmp_path, "sync_id,user_id,sync_state\na,u,\n,u,\n", "disable-syncs")

    assert (got.valid, got.invalid, got.file_problems) == (1, 0, ())
    assert [p.reason for p in none.problems] == [
        "the first line must name the columns: sync_id, user_id"
    ]
    assert [(p.line, p.column, p.reason) for p in blank.problems] == [(3, "sync_id", "is required")]


def test_a_rollback_asks_for_nothing_that_it_does_not_say(tmp_path: Path) -> None:
    """A row without a value is one that cannot be restored, whatever the job is for."""
    path = tmp_path / "in.csv"
    path.write_text("sync_id,user_id,sync_state\na,u,enabled\nb,u,\n", encoding="utf-8")
    kind = find("disable-syncs")

    got = check(recognise(path), columns_of(kind, undoes=True), kind)

    assert (got.valid, got.invalid) == (1, 1)


def test_i12_a_bad_row_at_the_very_end_is_found(tmp_path: Path) -> None:
    """The whole file is read before anything can be sent."""
    rows = [f"s{n},u,1h," for n in range(20_000)]

    got = checked(tmp_path, often(*rows, "last,u,2h,"))

    assert [p.line for p in got.problems] == [20_002]
    assert got.refusal() is not None


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.sampled_from(["u", "v", ""]),
        st.sampled_from(["1h", "3h", "2h"]),
        st.sampled_from(["", "6h"]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, lines=st.booleans())
def test_i13_counts_reconcile(rows: list[tuple[str, str, str, str]], lines: bool) -> None:
    """Every row is valid or invalid, and repeats are what a plain look at all rows finds."""
    names = ("sync_id", "user_id", "frequency", "expected_frequency")
    text = often(*(",".join(row) for row in rows))
    if lines:
        text = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    groups: dict[str, dict[int, Any]] = defaultdict(dict)
    for number, (sync, *rest) in enumerate(rows, 1):
        if rest[0] and rest[1] != "2h":
            groups[sync][number] = rest
    alike = [group for group in groups.values() if len({*map(tuple, group.values())}) == 1]
    firsts = {number: min(group) for group in alike for number in group if number > min(group)}
    valid = sum(map(len, alike))

    with tempfile.TemporaryDirectory() as folder:
        got = checked(Path(folder), text, name="in.jsonl" if lines else "in.csv")
        invalid = [bad.number for bad in got.invalid_rows()]

    assert (got.rows, got.valid, got.invalid) == (len(rows), valid, len(rows) - valid)
    assert sorted({*range(1, len(rows) + 1)} - {n for group in alike for n in group}) == invalid
    assert {n: got.first_of(n) for n in range(1, len(rows) + 1) if got.first_of(n)} == firsts


MEASURE = """
import re, sys
from pathlib import Path
from runner.check import check, columns_of
from runner.job import find
from runner.rows import recognise
job = find("change-frequency")
assert check(recognise(sys.argv[1]), columns_of(job), job).valid == int(sys.argv[2])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_i1_memory_grows_by_a_few_bytes_a_row(tmp_path: Path) -> None:
    """Ten times the rows need hardly more memory: at most 8 MiB for 150,000 more."""
    peaks = []
    for rows in (15_000, 165_000):
        path = tmp_path / f"{rows}.csv"
        path.write_text(often(*(f"{n:036},org:{n % 500},1h," for n in range(rows))))
        command = [sys.executable, "-c", MEASURE, str(path), str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout))

    assert peaks[1] - peaks[0] < 8 * 1024
