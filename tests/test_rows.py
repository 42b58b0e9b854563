"""Rows come out of CSV and JSONL exactly as they stand there, whatever the file is packed in."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from runner.job import CREDENTIAL, FREQUENCY
from runner.model import Field, Row
from runner.rows import (
    BadRow,
    Columns,
    InputFile,
    Record,
    Trace,
    files,
    inert,
    own_columns,
    read,
    recognise,
    records,
    shown,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BOTH = Columns(owned=(CREDENTIAL, FREQUENCY))
OFTEN = Columns(owned=(FREQUENCY,), foreign=(CREDENTIAL,))
UUID = "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1"
HEADER = b"sync_id,user_id,frequency,team\n"


def put(folder: Path, data: bytes | str, name: str = "in.csv") -> InputFile:
    """Write *data* to a file called *name*."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return recognise(path)


def packed(data: bytes, packing: str) -> bytes:
    """Return *data* as a file whose name ends in *packing* holds it."""
    if packing == ".gz":
        return gzip.compress(data)
    return zstd.compress(data) if packing == ".zst" else data


def rows_of(file: InputFile, columns: Columns = OFTEN) -> list[Row | BadRow]:
    """Return all rows of *file*."""
    return list(chain.from_iterable(read(file, columns)))


def cells_of(file: InputFile, columns: Columns = OFTEN) -> list[tuple[str, ...]]:
    """Return the cells of all records of *file*, as result files hold them."""
    found = chain.from_iterable(records(file, columns, own_columns(file)))
    return [record.cells for record in found]


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.csv", None, ("csv", None)),
        ("a.CSV", None, ("csv", None)),
        ("a.b.csv", None, ("csv", None)),
        ("a.jsonl", None, ("jsonl", None)),
        ("a.ndjson", None, ("jsonl", None)),
        ("a.csv.gz", None, ("csv", "gz")),
        ("a.jsonl.zst", None, ("jsonl", "zst")),
        ("a.txt", "csv", ("csv", None)),
        ("a.csv", "jsonl", ("jsonl", None)),
        ("a.gz", "csv", ("csv", "gz")),
        ("a", "jsonl", ("jsonl", None)),
        ("-", "csv", ("csv", None)),
    ],
)
def test_a_name_tells_format_and_packing(
    name: str, format: str | None, expected: tuple[str, str | None]
) -> None:
    """Extensions tell how a file is to be read; a format that is given goes before."""
    got = recognise(name, format)

    assert (got.format, got.compression) == expected
    assert got.path == Path(name)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_i3_every_kind_of_line_end_parses(tmp_path: Path, end: str, last: bool) -> None:
    """LF, CRLF and lone CR all part rows, also when the last line has no end."""
    text = end.join(["sync_id,user_id,frequency", "a,u,1h", "", "b,u,3h"]) + end * last

    got = rows_of(put(tmp_path, text))

    assert got == [
        Row(1, 2, {"sync_id": "a", "user_id": "u", "frequency": "1h"}),
        Row(2, 4, {"sync_id": "b", "user_id": "u", "frequency": "3h"}),
    ]


def test_i3_line_ends_inside_quotes_survive_byte_for_byte(tmp_path: Path) -> None:
    """A quoted cell keeps its CRLF, LF and CR, and later lines are counted with them."""
    file = put(tmp_path, HEADER + b'a,u,1h,"l1\r\nl2\nl3\rl4"\r\nb,u,1h,x\n')

    assert cells_of(file) == [("a", "u", "1h", "l1\r\nl2\nl3\rl4"), ("b", "u", "1h", "x")]
    assert [row.line for row in rows_of(file)] == [2, 6]


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_i3_nothing_is_lost_where_blocks_meet(tmp_path: Path, shift: int, packing: str) -> None:
    """A line end or a letter that two blocks share is put together again."""
    lines = [f"s{number},Zoë,1h,ü€\r\n" for number in range(40_000)]
    data = HEADER + b"x" * shift + "".join(lines).encode()
    file = put(tmp_path, packed(data, packing), f"in.csv{packing}")

    got = rows_of(file)

    assert [row.number for row in got] == list(range(1, 40_001))
    assert {type(row) for row in got} == {Row}
    assert got[-1] == Row(
        40_000, 40_001, {"frequency": "1h", "sync_id": "s39999", "user_id": "Zoë"}
    )


def test_i4_jsonl_is_split_at_line_feeds_only(tmp_path: Path) -> None:
    """What other tools take for line ends is data in JSONL."""
    odd = "a\u2028b\u2029c\u0085d"
    escaped = r"\u001c\u000b\f"
    line = f'{{"sync_id":"a","user_id":"u","frequency":"1h","note":"{odd}{escaped}"}}\r\n'
    file = put(tmp_path, line + "\n \n" + line.replace('"a"', '"b"'), "in.jsonl")

    assert [row.line for row in rows_of(file)] == [1, 4]
    assert [cells[3] for cells in cells_of(file)] == [odd + "\x1c\x0b\x0c"] * 2


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_i2_one_bad_byte_makes_one_bad_row(tmp_path: Path, bom: bytes) -> None:
    """The byte's offset in the file is told, and all other rows are good."""
    lines = [b"s%d,u,1h,t\n" % number for number in range(10_000)]
    lines[4_999] = b"s,\xc3\xa4\xffu,1h,t\n"
    data = bom + HEADER + b"".join(lines)

    got = rows_of(put(tmp_path, data))

    (bad,) = (row for row in got if isinstance(row, BadRow))
    offset = data.index(0xFF)
    assert (bad.number, bad.line, bad.sync_id, bad.user_id) == (5_000, 5_001, "s", "ä\\xffu")
    assert f"byte 0xff at offset {offset:,} of the file" in bad.problems[0].reason
    assert len(got) == 10_000


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_i2_a_byte_order_mark_is_eaten_once(tmp_path: Path, name: str) -> None:
    """A mark before the first column or object belongs to neither."""
    text = HEADER + b"a,u,1h,t\n"
    if name == "in.jsonl":
        text = b'{"sync_id":"a","user_id":"u","frequency":"1h"}\n'

    (got,) = rows_of(put(tmp_path, b"\xef\xbb\xbf" + text, name))

    assert isinstance(got, Row)
    assert got.fields["sync_id"] == "a"


@pytest.mark.parametrize(
    "text",
    [
        *("007", "00123", "1e5", "1.0", "12345678901234567890", "TRUE", "null", " x ", "=1"),
        *("../x", "a/b", "?", "%2f", "...", "\u00a0x", "\U0001d54a", "a\u2028b", "'", '"'),
        *("x" * 256, "€" * 85),
    ],
)
def test_i9_ids_are_text_exactly(tmp_path: Path, text: str) -> None:
    """Whatever an ID looks like, it is taken as it stands, from both formats."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["sync_id", "user_id", "frequency"], [text, text, "1h"]])
    line = json.dumps({"sync_id": text, "user_id": text, "frequency": "1h"})

    got = [rows_of(put(tmp_path, out.getvalue())), rows_of(put(tmp_path, line, "in.jsonl"))]

    expected = {"sync_id": text, "user_id": text, "frequency": "1h"}
    assert [[row.fields for row in rows if isinstance(row, Row)] for rows in got] == [
        [expected],
        [expected],
    ]


def test_a_row_holds_the_known_fields_that_are_given(tmp_path: Path) -> None:
    """Both spellings mean the same, UUIDs are lower-cased, and blank cells are left out."""
    text = (
        "team,syncId,incrementalAccumulatorFrequency,userId,credentialId,"
        "expected_credential_id,syncshift_outcome\n"
        f"t,a,1h,u,{UUID.upper()},{UUID.upper()},updated\n"
        f"t,b,,u,{UUID.upper()},,\n"
        f"t,c,3h,u, ,\t,x\n"
    )

    got = rows_of(put(tmp_path, text), BOTH)

    assert [row.fields for row in got if isinstance(row, Row)] == [
        {
            "sync_id": "a",
            "frequency": "1h",
            "user_id": "u",
            "credential_id": UUID,
            "expected_credential_id": UUID,
        },
        {"sync_id": "b", "user_id": "u", "credential_id": UUID},
        {"sync_id": "c", "user_id": "u", "frequency": "3h"},
    ]


def test_a_user_may_be_left_out_with_a_ready_made_token(tmp_path: Path) -> None:
    """Without need of a user, both a missing column and a blank cell will do."""
    columns = Columns(owned=(FREQUENCY,), user_required=False)
    without = rows_of(put(tmp_path, "sync_id,frequency\na,1h\n"), columns)
    blank = rows_of(put(tmp_path, "sync_id,user_id,frequency\na,,1h\nb, ,1h\n"), columns)

    assert [type(row) for row in without + blank] == [Row] * 3
    assert "user_id" not in blank[0].fields  # type: ignore[union-attr]  # all are rows


def test_an_ignored_column_is_carried_along(tmp_path: Path) -> None:
    """--ignore-column lets a name pass, near-miss or foreign."""
    columns = Columns((FREQUENCY,), (CREDENTIAL,), ignored=frozenset({"User ID", "credential_id"}))
    file = put(tmp_path, "sync_id,user_id,frequency,User ID,credential_id\na,u,1h,x,y\n")

    (got,) = rows_of(file, columns)

    assert isinstance(got, Row)
    assert got.fields == {"sync_id": "a", "user_id": "u", "frequency": "1h"}
    assert cells_of(file, columns) == [("a", "u", "1h", "x", "y")]


def test_rows_come_in_blocks_and_from_any_row_on(tmp_path: Path) -> None:
    """No block is empty or large, and what is passed over keeps its numbers."""
    text = HEADER + b"".join(b"s%d,u,1h,\n" % number for number in range(1_500))
    line = b'{"sync_id":"s%d","user_id":"u","frequency":"1h"}\n'
    lines = b"".join(line % number for number in range(1_500))
    for file in (put(tmp_path, text), put(tmp_path, lines, "in.jsonl")):
        for start in (1, 2, 511, 512, 513, 1_024, 1_500):
            blocks = list(read(file, OFTEN, from_row=start))

            assert [row.number for row in chain(*blocks)] == list(range(start, 1_501))
            assert all(1 <= len(block) <= 512 for block in blocks)
        assert list(read(file, OFTEN, from_row=1_501)) == []


_RECORDS = (
    b"a%d,u,1h,",
    b"b%d,u,1h,x",
    b'"c%d",u,1h,',
    b'd%d,u,1h,"two\nlines"',
    b"e%d,u",
    b" ",
    b"",
)
_ENDS = (b"\n", b"\n", b"\n", b"\r\n", b"\r")


@pytest.mark.parametrize("seed", range(60))
def test_what_is_passed_over_is_counted_as_it_would_be_read(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in front of a row, it has the number, line and cells of a whole reading."""
    chance = random.Random(seed)
    monkeypatch.setattr(files, "CHUNK_BYTES", chance.choice([40, 200, 3000]))
    monkeypatch.setattr(files, "HEAD_BYTES", 20)
    kinds = _RECORDS[: chance.randint(1, len(_RECORDS))]
    end = chance.choice(_ENDS)
    rows = [chance.choice(kinds) if chance.random() < 0.2 else kinds[0] for _ in range(120)]
    numbered = [row.replace(b"%d", b"%d" % number) for number, row in enumerate(rows)]
    text = HEADER.rstrip() + end + end.join(numbered) + chance.choice([end, b""])
    file = put(tmp_path, text)
    whole = rows_of(file)

    for start in (*range(1, 12), 60, len(whole), len(whole) + 1):
        assert list(chain(*read(file, OFTEN, from_row=start))) == whole[start - 1 :]


def test_plain_rows_are_passed_over_unread(tmp_path: Path) -> None:
    """All but those of the block in which the first one that is wanted stands."""
    file = put(tmp_path, HEADER + b"".join(b"s%d,u,1h,\n" % number for number in range(300_000)))
    trace = Trace()

    (last,) = chain(*read(file, OFTEN, from_row=300_000, trace=trace))

    assert (last.number, last.line) == (300_000, 300_001)
    assert trace.passed > 200_000


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.csv.zst", "in.jsonl.gz"])
def test_the_file_is_hashed_as_it_lies_on_disk(tmp_path: Path, name: str) -> None:
    """Size and SHA-256 are those of the packed file; a file of several members is read whole."""
    first, second = HEADER + b"a,u,1h,t\n", b"b,u,1h,t\n"
    if name.startswith("in.jsonl"):
        first = b'{"sync_id":"a","user_id":"u","frequency":"1h"}\n'
        second = first.replace(b'"a"', b'"b"')
    packing = Path(name).suffix
    data = packed(first, packing) + packed(second, packing)
    trace = Trace()

    got = list(chain.from_iterable(read(put(tmp_path, data, name), OFTEN, trace=trace)))

    assert [row.number for row in got] == [1, 2]
    assert (trace.size, trace.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_trailing_zeros_of_a_gzip_file_are_padding(tmp_path: Path) -> None:
    """What tapes add behind a gzip file is no damage."""
    data = gzip.compress(HEADER + b"a,u,1h,t\n") + bytes(512)

    assert len(rows_of(put(tmp_path, data, "in.csv.gz"))) == 1


def test_bad_records_are_kept_as_they_were(tmp_path: Path) -> None:
    """Whatever is wrong with a record, a result file can hold what it had."""
    text = (
        b"sync_id,user_id,frequency,syncshift_row,team\n"
        b"a\n"
        b"b,u,1h,9,x,y,z\n"
        b"c\xff,u,1h,9,n\0\n"
        b'd,u,1h,9,"x"y\n'
    )
    file = put(tmp_path, text)

    assert own_columns(file) == ("sync_id", "user_id", "frequency", "team")
    assert cells_of(file) == [
        ("a", "", "", ""),
        ("b", "u", "1h", "x", "y", "z"),
        ("c\\xff", "u", "1h", "n\0"),
        ("d", "u", "1h", "xy"),
    ]
    assert [row.number for row in rows_of(file)] == [1, 2, 3, 4]


def test_a_cell_beyond_all_bounds_is_kept_with_its_line(tmp_path: Path) -> None:
    """A line that the parser gives up stands whole in its first cell."""
    line = "a,u,1h," + "x" * 140_000

    assert cells_of(put(tmp_path, HEADER.decode() + line + "\n")) == [(line, "", "", "")]


def test_values_of_jsonl_that_are_no_text_are_kept_as_json(tmp_path: Path) -> None:
    """Numbers keep their digits; null is nothing in a known field; keys come as they appear."""
    lines = (
        '{"sync_id":"a","user_id":"u","frequency":null,"n":1e5,"syncshift_row":1}\n'
        '{"x":{"y": [1, 2]},"sync_id":7,"big":12345678901234567890123,"no":null}\n'
        "[1]\n"
        '{"n":"1e5","t":true,"q":"\\"\\u00e9"}\n'
        '{"sync_id":"\xff'
    )
    file = put(tmp_path, lines.encode("latin-1"), "in.jsonl")

    names = own_columns(file)

    assert names == ("sync_id", "user_id", "frequency", "n", "x", "big", "no", "t", "q")
    assert cells_of(file) == [
        ("a", "u", "", "1e5", "", "", "", "", ""),
        ("7", "", "", "", '{"y": [1, 2]}', "12345678901234567890123", "null", "", ""),
        ("[1]", *[""] * 8),
        ("", "", "", "1e5", "", "", "", "true", '"é'),
        ('{"sync_id":"\\xff', *[""] * 8),
    ]


def test_records_and_columns_of_a_broken_file_are_refused(tmp_path: Path) -> None:
    """A file that breaks off is refused by whoever reads it, after what could be read."""
    broken = put(tmp_path, gzip.compress(HEADER + b"a,u,1h,t\n")[:-4], "in.csv.gz")
    wide = put(tmp_path, b"\n".join(b'{"k%d":1}' % n for n in range(1_001)), "in.jsonl")
    found = records(broken, OFTEN, ("sync_id",))

    assert next(found) == [Record(1, 2, ("a",))]
    with pytest.raises(InputError, match=r"truncated; fetch it again\. Reading stopped there"):
        next(found)
    with pytest.raises(InputError, match="more than 1,000 different keys"):
        own_columns(wide)


def test_i5_a_quote_is_found_though_the_file_breaks_off_behind_it(tmp_path: Path) -> None:
    """Looking for the quote that swallowed rows does not stumble over a later fault."""
    text = HEADER + b'a,u,1h,t\nb,u,1h,"' + (b"y" * 999 + b"\n") * 600
    file = put(tmp_path, gzip.compress(text)[:-4], "in.csv.gz")
    blocks = read(file, OFTEN)

    assert [row.number for row in next(blocks)] == [1]
    with pytest.raises(InputError, match="line 3: a quote that opens here is not closed"):
        next(blocks)


def test_i5_a_first_row_that_swallows_others_is_refused(tmp_path: Path) -> None:
    """A quote that is closed rows later is refused, even before any row was good."""
    file = put(tmp_path, HEADER + b'a,u,1h,"t\nb,u,1h,t\nc,u,1h,t"\n')

    with pytest.raises(InputError, match="line 2: a quote that opens here is not closed"):
        next(read(file, OFTEN))


def test_i8_an_empty_line_beside_a_nul_is_no_row(tmp_path: Path) -> None:
    """A row with NUL is bad, and empty lines around it are still none."""
    got = rows_of(put(tmp_path, HEADER + b"a,u,1h,t\n\nb,u,1h,\0\n\nc,u,1h,t\n"))

    assert [(type(row), row.number, row.line) for row in got] == [
        (Row, 1, 2),
        (BadRow, 2, 4),
        (Row, 3, 6),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file whose first byte fails")
def test_a_file_that_cannot_be_read_is_refused() -> None:
    """A fault of the disk is told as such."""
    with pytest.raises(InputError, match=r"cannot be read any further \(Input/output error\)"):
        rows_of(recognise("/proc/self/mem", "csv"))


def test_the_columns_of_an_empty_file_are_none(tmp_path: Path) -> None:
    """A file without a header has no columns and no records."""
    file = put(tmp_path, "")

    assert own_columns(file) == ()
    assert cells_of(file) == []


@pytest.mark.parametrize("pattern", [r"(?=.*z)[a-z]+", r"(a|b)\1", r"(?i:x)", r"[ab]*|[ab]+z"])
def test_a_pattern_sees_its_own_cell_only(tmp_path: Path, pattern: str) -> None:
    """A field of any job is judged by its own pattern, however that is written."""
    field = Field("letters", "lettersOf", pattern, "must be as asked")
    columns = Columns(owned=(field,), user_required=False)
    texts = ["aa", "ab", "az", "z", "x", "X", "b"]
    text = "letters,sync_id\n" + "".join(f"{text},z{n}\n" for n, text in enumerate(texts))

    got = [isinstance(row, Row) for row in rows_of(put(tmp_path, text), columns)]

    assert got == [field.accepts(text) for text in texts]


def test_objects_may_have_any_number_of_different_sets_of_keys(tmp_path: Path) -> None:
    """What is remembered about keys is bounded, and nothing is lost by that."""
    extras = [[f"k{bit}" for bit in range(11) if number >> bit & 1] for number in range(2_048)]
    lines = (
        json.dumps({"sync_id": f"s{n}", "user_id": "u", "frequency": "1h"} | dict.fromkeys(keys, 1))
        for n, keys in enumerate(extras)
    )

    got = rows_of(put(tmp_path, "\n".join(lines), "in.jsonl"))

    assert len(got) == 2_048
    assert {type(row) for row in got} == {Row}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("é€", "é€"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\t\r", "a\\nb\\t\\r"),
        ("\u202e", "\\u202e"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("\x85", "\\x85"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("\0" * 50, "\\x00" * 19 + "\\x0…"),
    ],
)
def test_what_is_shown_is_short_and_does_nothing(value: str, expected: str) -> None:
    """A value in a message is cut at 80 characters, and nothing in it acts on a terminal."""
    assert shown(value) == expected


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_x6_a_cell_that_a_spreadsheet_would_run_is_quoted(first: str) -> None:
    """A leading apostrophe keeps a formula from running; other cells are left alone."""
    assert inert(f"{first}1") == f"'{first}1"
    assert inert(f"a{first}") == f"a{first}"


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
) | st.sampled_from(["", " ", '"', '""', ",", "\r\n", "\r", "\n", "007", "1e5", "\ufeff", "null"])


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20),
    # With less quoting the writer itself leaves a line end bare that is not its own.
    style=st.sampled_from(
        [("\r\n", csv.QUOTE_MINIMAL)] + [(end, csv.QUOTE_ALL) for end in ("\n", "\r\n", "\r")]
    ),
    bom=st.booleans(),
)
def test_i9_what_is_written_as_csv_reads_back_cell_for_cell(
    rows: list[tuple[str, str]], style: tuple[str, Literal[0, 1]], bom: bool
) -> None:
    """Any record written by the standard library comes back as it was."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=style[0], quoting=style[1])
    writer.writerow(["sync_id", "user_id", "frequency", "one", "two"])
    writer.writerows([f"s{n}", "u", "1h", *row] for n, row in enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        file = put(Path(folder), ("\ufeff" * bom) + out.getvalue())

        assert [cells[3:] for cells in cells_of(file)] == rows
        assert [row.number for row in rows_of(file)] == list(range(1, len(rows) + 1))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries({}, optional={"one": TEXTS, "two": VALUES, "three": TEXTS}),
        min_size=1,
        max_size=20,
    ),
    ascii_only=st.booleans(),
)
def test_i9_what_is_written_as_jsonl_reads_back_value_for_value(
    rows: list[dict[str, object]], ascii_only: bool
) -> None:
    """Texts come back as they were, other values as JSON of the same value."""
    lines = [
        json.dumps(
            {"sync_id": f"s{n}", "user_id": "u", "frequency": "1h"} | row, ensure_ascii=ascii_only
        )
        for n, row in enumerate(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = put(Path(folder), "\n".join(lines), "in.jsonl")
        names = own_columns(file)
        got = [dict(zip(names, cells, strict=True)) for cells in cells_of(file)]

    for row, cells in zip(rows, got, strict=True):
        for name in names[3:]:
            value = row.get(name, "")
            assert (cells[name] if isinstance(value, str) else json.loads(cells[name])) == value
