"""Every bad input has its own exact message: a table of them, and what surrounds them is kept."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from runner.check import Checked, check, columns_of
from runner.errors import Problem, SettingsError
from runner.job import find
from runner.rows import recognise

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Case: TypeAlias = tuple[Any, ...]
"""The bad thing, then column, value and reason of each problem."""

HEADER = b"sync_id,user_id,credential_id,frequency,expected_frequency,team\n"
CSV_BEFORE = HEADER + b"ok,u,,1h,,\n"
CSV_AFTER = b"\nok2,u,,1h,,\n"
JSON_BEFORE = b'{"sync_id":"ok","user_id":"u","frequency":"1h"}\n'
JSON_AFTER = b'\n{"sync_id":"ok2","user_id":"u","frequency":"1h"}\n'
GOOD = b'{"sync_id":"a","user_id":"u","frequency":"1h"'
SHOWN = GOOD.decode()
UUID = b"0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1"
EURO = "€".encode()

REQUIRED = "is required"
FOLDER = "must not be . or .., which mean a folder in an address"
NOT_UUID = "must be a UUID such as 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1"
NOT_FREQUENCY = "must be one of 1m 5m 10m 30m 1h 3h 6h 24h"
NOTHING = "changes nothing; give a value for credential_id or frequency"
NUL = "holds a NUL character"
FEW = ""
MANY = "; put double quotes around a cell that holds a comma"
MISQUOTED = (
    'a quoted cell goes on after its closing quote; write a quote inside a quoted cell twice: ""'
)
TWICE = "stands twice in the header; keep one"
NO_SYNC_ID = "there is no column sync_id, which says what to change; add it"
NO_USER_ID = "there is no column user_id, which says as whom to change it; add it"
NO_FIELD = "there is no column credential_id or frequency, so nothing would change; add it"
NO_HEADER = "the first line must name the columns: sync_id, user_id, and credential_id or frequency"
TWICE_IN_OBJECT = "stands twice in the object; keep one"
NUMBER_AS_ID = "must be text in double quotes, not a number, which may lose digits"
HALF_PAIR = "holds half of a surrogate pair, which is no character"
TOO_LARGE = "holds a number that is too large"
UNCLOSED = (
    "a quote that opens here is not closed within its row; "
    'close it, or write a quote inside a quoted cell twice: "". Reading stopped there'
)
LONG_LINE = "the line is longer than 1 MiB. Reading stopped there"
FOREIGN = (
    "this job does not change frequency; empty the cell, take the job that does, "
    "or let it pass with --ignore-column"
)
NO_READ = "cannot be compared with --no-read; remove the column, or read first"


def control(code: str) -> str:
    """Return what is said about a control character in an ID."""
    return f"must not hold control characters; there is {code}"


def too_long(limit: str, size: str) -> str:
    """Return what is said about an ID that is too long."""
    return f"must be at most {limit} bytes of UTF-8; it has {size}"


def over_long(size: str) -> str:
    """Return what is said about a cell that is too long."""
    return f"is longer than 65,536 characters; it has {size}"


def ragged(count: str, hint: str) -> str:
    """Return what is said about a row with too few or too many cells."""
    return f"has {count}, the header has 6{hint}"


def not_utf8(byte: str, offset: int | None = None) -> str:
    """Return what is said about a byte that is not UTF-8."""
    where = "" if offset is None else f" at offset {offset} of the file"
    return f"is not UTF-8: byte 0x{byte}{where}"


def not_json(what: str, byte: int) -> str:
    """Return what is said about a line that is not JSON."""
    return f"is not JSON: {what} (at byte {byte})"


def no_object(kind: str) -> str:
    """Return what is said about JSON that is no object."""
    return f'must be one JSON object such as {{"sync_id": "…"}}, not {kind}'


def like(meant: str, name: str) -> str:
    """Return what is said about a name that looks like a known one."""
    return f"looks like {meant}; rename it, or let it pass with --ignore-column {name}"


def stopped(reason: str) -> str:
    """Return what is said where a packed file breaks off."""
    return f"{reason}; fetch it again. Reading stopped there"


CSV_ROWS: tuple[Case, ...] = (
    (b",u,,1h,,", ("sync_id", "", REQUIRED)),
    (b" ,u,,1h,,", ("sync_id", "", REQUIRED)),
    (b"\t,u,,1h,,", ("sync_id", "", REQUIRED)),
    (b"\xc2\xa0,u,,1h,,", ("sync_id", "", REQUIRED)),
    (b'"",u,,1h,,', ("sync_id", "", REQUIRED)),
    (b".,u,,1h,,", ("sync_id", ".", FOLDER)),
    (b"..,u,,1h,,", ("sync_id", "..", FOLDER)),
    (b"a\x01b,u,,1h,,", ("sync_id", "a\\x01b", control("U+0001"))),
    (b"a\x1b[2Jb,u,,1h,,", ("sync_id", "a\\x1b[2Jb", control("U+001B"))),
    (b"a\tb,u,,1h,,", ("sync_id", "a\\tb", control("U+0009"))),
    (b'"a\nb",u,,1h,,', ("sync_id", "a\\nb", control("U+000A"))),
    (b'"a\r\nb",u,,1h,,', ("sync_id", "a\\r\\nb", control("U+000D"))),
    (b'"a\rb",u,,1h,,', ("sync_id", "a\\rb", control("U+000D"))),
    (b"a\x7fb,u,,1h,,", ("sync_id", "a\\x7fb", control("U+007F"))),
    (b"a\xc2\x85b,u,,1h,,", ("sync_id", "a\\x85b", control("U+0085"))),
    (b"a\xc2\x9fb,u,,1h,,", ("sync_id", "a\\x9fb", control("U+009F"))),
    (b"a\x1cb,u,,1h,,", ("sync_id", "a\\x1cb", control("U+001C"))),
    (b"a\x0bb,u,,1h,,", ("sync_id", "a\\x0bb", control("U+000B"))),
    (b"\x00,u,,1h,,", ("sync_id", "\\x00", NUL)),
    (b"a\x00b,u,,1h,,", ("sync_id", "a\\x00b", NUL)),
    (b"x" * 257 + b",u,,1h,,", ("sync_id", "x" * 79 + "…", too_long("256", "257"))),
    (EURO * 86 + b",u,,1h,,", ("sync_id", "€" * 79 + "…", too_long("256", "258"))),
    (b"a,,,1h,,", ("user_id", "", REQUIRED)),
    (b"a,  ,,1h,,", ("user_id", "", REQUIRED)),
    (b"a,u\x00,,1h,,", ("user_id", "u\\x00", NUL)),
    (b"a,u\x08,,1h,,", ("user_id", "u\\x08", control("U+0008"))),
    (b'a,"u\nv",,1h,,', ("user_id", "u\\nv", control("U+000A"))),
    (b"a,\x1b]0;x\x07,,1h,,", ("user_id", "\\x1b]0;x\\x07", control("U+001B"))),
    (b"a,u\xc2\x80,,1h,,", ("user_id", "u\\x80", control("U+0080"))),
    (b"a," + b"u" * 1025 + b",,1h,,", ("user_id", "u" * 79 + "…", too_long("1,024", "1,025"))),
    (b"a,u,x,,,", ("credential_id", "x", NOT_UUID)),
    (
        b"a,u,0aea7d3a-b5f7-4488-890e-d51a5cf4f8f,,,",
        ("credential_id", "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f", NOT_UUID),
    ),
    (
        b"a,u,0aea7d3a-b5f7-4488-890e-d51a5cf4f8f12,,,",
        ("credential_id", "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f12", NOT_UUID),
    ),
    (
        b"a,u,0aea7d3ab5f74488890ed51a5cf4f8f1,,,",
        ("credential_id", "0aea7d3ab5f74488890ed51a5cf4f8f1", NOT_UUID),
    ),
    (
        b"a,u,{0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1},,,",
        ("credential_id", "{0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1}", NOT_UUID),
    ),
    (
        b"a,u,0aea7d3g-b5f7-4488-890e-d51a5cf4f8f1,,,",
        ("credential_id", "0aea7d3g-b5f7-4488-890e-d51a5cf4f8f1", NOT_UUID),
    ),
    (
        b"a,u, 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1,,,",
        ("credential_id", " 0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1", NOT_UUID),
    ),
    (
        b"a,u,0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1 ,,,",
        ("credential_id", "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1 ", NOT_UUID),
    ),
    (
        b'a,u,"0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1\n",,,',
        ("credential_id", "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1\\n", NOT_UUID),
    ),
    (
        b"a,u,\xef\xbc\x90aea7d3a-b5f7-4488-890e-d51a5cf4f8f1,,,",
        ("credential_id", "\uff10aea7d3a-b5f7-4488-890e-d51a5cf4f8f1", NOT_UUID),
    ),
    (b"a,u,null,,,", ("credential_id", "null", NOT_UUID)),
    (
        b"a,u,0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1\x00,,,",
        ("credential_id", "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1\\x00", NUL),
    ),
    (b"a,u,=1+1,,,", ("credential_id", "=1+1", NOT_UUID)),
    (b"a,u,,2h,,", ("frequency", "2h", NOT_FREQUENCY)),
    (b"a,u,,1H,,", ("frequency", "1H", NOT_FREQUENCY)),
    (b"a,u,,60m,,", ("frequency", "60m", NOT_FREQUENCY)),
    (b"a,u,, 1h,,", ("frequency", " 1h", NOT_FREQUENCY)),
    (b"a,u,,1h ,,", ("frequency", "1h ", NOT_FREQUENCY)),
    (b"a,u,,1 h,,", ("frequency", "1 h", NOT_FREQUENCY)),
    (b"a,u,,hourly,,", ("frequency", "hourly", NOT_FREQUENCY)),
    (b"a,u,,01h,,", ("frequency", "01h", NOT_FREQUENCY)),
    (b"a,u,,1h1h,,", ("frequency", "1h1h", NOT_FREQUENCY)),
    (b"a,u,,1d,,", ("frequency", "1d", NOT_FREQUENCY)),
    (b"a,u,,0,,", ("frequency", "0", NOT_FREQUENCY)),
    (b"a,u,,-1h,,", ("frequency", "-1h", NOT_FREQUENCY)),
    (b"a,u,,\xef\xbc\x91h,,", ("frequency", "\uff11h", NOT_FREQUENCY)),
    (b"a,u,,1h\x00,,", ("frequency", "1h\\x00", NUL)),
    (b'a,u,,"1h\n",,', ("frequency", "1h\\n", NOT_FREQUENCY)),
    (b"a,u,," + b"m" * 90 + b",,", ("frequency", "m" * 79 + "…", NOT_FREQUENCY)),
    (b"a,u,,1h,often,", ("expected_frequency", "often", NOT_FREQUENCY)),
    (b"a,u,,1h,1H,", ("expected_frequency", "1H", NOT_FREQUENCY)),
    (b"a,u,,,1h,", ("", "", NOTHING)),
    (b"a,u,,,,", ("", "", NOTHING)),
    (b"a,u, , ,,", ("", "", NOTHING)),
    (b",,,,,", ("sync_id", "", REQUIRED), ("user_id", "", REQUIRED), ("", "", NOTHING)),
    (
        b"   ,   ,   ,   ,   ,   ",
        ("sync_id", "", REQUIRED),
        ("user_id", "", REQUIRED),
        ("", "", NOTHING),
    ),
    (b"a", ("", "", ragged("1 cell", FEW))),
    (b"a,u", ("", "", ragged("2 cells", FEW))),
    (b"a,u,,1h", ("", "", ragged("4 cells", FEW))),
    (b"a,u,,1h,", ("", "", ragged("5 cells", FEW))),
    (b"a,u,,1h,,x,y", ("", "", ragged("7 cells", MANY))),
    (b"a,u,,1h,,x,", ("", "", ragged("7 cells", MANY))),
    (b"a,u,,1h,,Finance, Sales", ("", "", ragged("7 cells", MANY))),
    (b",,,,,,", ("", "", ragged("7 cells", MANY))),
    (b"a\xff,u,,1h,,", ("sync_id", "a\\xff", not_utf8("ff", 76))),
    (b"\xffa,u,,1h,,x", ("sync_id", "\\xffa", not_utf8("ff", 75))),
    (b"a,u\xc3,,1h,,", ("user_id", "u\\xc3", not_utf8("c3", 78))),
    (b"a,u,,1h\xe9,,", ("frequency", "1h\\xe9", not_utf8("e9", 82))),
    (b"a,u,,1h,,caf\xe9", ("team", "caf\\xe9", not_utf8("e9", 87))),
    (b"a,u,,1h,,\xed\xa0\x80", ("team", "\\xed\\xa0\\x80", not_utf8("ed", 84))),
    (b"a,u,,1h,,\xc0\xaf", ("team", "\\xc0\\xaf", not_utf8("c0", 84))),
    (b"a,u,,1h,,\xf4\x90\x80\x80", ("team", "\\xf4\\x90\\x80\\x80", not_utf8("f4", 84))),
    (b"a,u,,1h,,\xe2\x82", ("team", "\\xe2\\x82", not_utf8("e2", 84))),
    (
        b"\xff,\xfe,,1h,,x",
        ("sync_id", "\\xff", not_utf8("ff", 75)),
        ("user_id", "\\xfe", not_utf8("fe")),
    ),
    (b"a,u,,1h,,x\x00y", ("team", "x\\x00y", NUL)),
    (
        b"\xff,,,2h,,",
        ("sync_id", "\\xff", not_utf8("ff", 75)),
        ("user_id", "", REQUIRED),
        ("frequency", "2h", NOT_FREQUENCY),
    ),
    (b'a,u,,1h,,"x"y', ("", 'a,u,,1h,,"x"y', MISQUOTED)),
    (b'a,u,,1h,,"x" ', ("", 'a,u,,1h,,"x" ', MISQUOTED)),
    (b'"a"b,u,,1h,,', ("", '"a"b,u,,1h,,', MISQUOTED)),
    (b'a,u,,1h,,"say "hi""', ("", 'a,u,,1h,,"say "hi""', MISQUOTED)),
    (b"a,u,,1h,," + b"x" * 65537, ("team", "x" * 79 + "…", over_long("65,537"))),
    (
        b"a,u,,1h,," + b"x" * 131073,
        ("", "a,u,,1h,," + "x" * 70 + "…", "a cell is longer than 65,536 characters"),
    ),
    (b"x" * 70000 + b",u,,1h,,", ("sync_id", "x" * 79 + "…", over_long("70,000"))),
    (b"a," + b"x" * 65537 + b",,1h,,", ("user_id", "x" * 79 + "…", over_long("65,537"))),
    (
        b"..,,x,2h,often,",
        ("sync_id", "..", FOLDER),
        ("user_id", "", REQUIRED),
        ("credential_id", "x", NOT_UUID),
        ("frequency", "2h", NOT_FREQUENCY),
        ("expected_frequency", "often", NOT_FREQUENCY),
    ),
    (
        b",u,x,2h,,",
        ("sync_id", "", REQUIRED),
        ("credential_id", "x", NOT_UUID),
        ("frequency", "2h", NOT_FREQUENCY),
    ),
    (
        b"a\x07,\x07,,1h,,",
        ("sync_id", "a\\x07", control("U+0007")),
        ("user_id", "\\x07", control("U+0007")),
    ),
)

HEADERS: tuple[Case, ...] = (
    (b"sync_id,user_id,frequency,sync_id", ("sync_id", "", TWICE)),
    (b"sync_id,user_id,frequency,syncId", ("syncId", "", "means the same as sync_id; keep one")),
    (b"sync_id,userId,user_id,frequency", ("user_id", "", "means the same as userId; keep one")),
    (
        b"sync_id,user_id,frequency,incrementalAccumulatorFrequency",
        ("incrementalAccumulatorFrequency", "", "means the same as frequency; keep one"),
    ),
    (b"sync_id,user_id,frequency,team,team", ("team", "", TWICE)),
    (b"sync_id,user_id,frequency,", ("", "", "column 4 has no name; name it or remove it")),
    (b"sync_id, ,user_id,frequency", (" ", "", "column 2 has no name; name it or remove it")),
    (
        b",,",
        ("", "", "column 1 has no name; name it or remove it"),
        ("", "", "column 2 has no name; name it or remove it"),
        ("", "", "column 3 has no name; name it or remove it"),
        ("", ",,", NO_HEADER),
    ),
    (b"user_id,frequency", ("", "user_id,frequency", NO_SYNC_ID)),
    (b"sync_id,frequency", ("", "sync_id,frequency", NO_USER_ID)),
    (b"sync_id,user_id,team", ("", "sync_id,user_id,team", NO_FIELD)),
    (b"team", ("", "team", NO_HEADER)),
    (b"a,u,1h", ("", "a,u,1h", NO_HEADER)),
    (b"Sync_ID,user_id,frequency", ("Sync_ID", "", like("sync_id", "Sync_ID"))),
    (b"sync id,user_id,frequency", ("sync id", "", like("sync_id", "'sync id'"))),
    (b"sync-id,user_id,frequency", ("sync-id", "", like("sync_id", "sync-id"))),
    (b" sync_id,user_id,frequency", (" sync_id", "", like("sync_id", "' sync_id'"))),
    (b"syncid,user_id,frequency", ("syncid", "", like("sync_id", "syncid"))),
    (b"SYNCID,user_id,frequency", ("SYNCID", "", like("sync_id", "SYNCID"))),
    (b"sync_ids,user_id,frequency", ("sync_ids", "", like("sync_id", "sync_ids"))),
    (b"snyc_id,user_id,frequency", ("snyc_id", "", like("sync_id", "snyc_id"))),
    (b"sync_d,user_id,frequency", ("sync_d", "", like("sync_id", "sync_d"))),
    (b"sync_ie,user_id,frequency", ("sync_ie", "", like("sync_id", "sync_ie"))),
    (b"sync_id,usr_id,frequency", ("usr_id", "", like("user_id", "usr_id"))),
    (b"sync_id,User Id,frequency", ("User Id", "", like("user_id", "'User Id'"))),
    (b"sync_id,user_id,frequnecy", ("frequnecy", "", like("frequency", "frequnecy"))),
    (b"sync_id,user_id,Frequency", ("Frequency", "", like("frequency", "Frequency"))),
    (
        b"sync_id,user_id,frequency,expectedFrequency",
        ("expectedFrequency", "", like("expected_frequency", "expectedFrequency")),
    ),
    (
        b"sync_id,user_id,frequency,expected_frequencys",
        ("expected_frequencys", "", like("expected_frequency", "expected_frequencys")),
    ),
    (
        b"sync_id,user_id,frequency,expected-credential-id",
        ("expected-credential-id", "", like("expected_credential_id", "expected-credential-id")),
    ),
    (
        b"sync_id,user_id,frequency,CredentialID",
        ("CredentialID", "", like("credential_id", "CredentialID")),
    ),
    (
        b"sync_id,user_id,frequency,incremental_accumulator_frequency",
        (
            "incremental_accumulator_frequency",
            "",
            like("frequency", "incremental_accumulator_frequency"),
        ),
    ),
    (
        b"\xef\xbb\xbf\xef\xbb\xbfsync_id,user_id,frequency",
        ("\\ufeffsync_id", "", "begins with a second byte-order mark; remove it"),
    ),
    (b"sync_id,user_id,frequency,na\xefve", ("na\\xefve", "na\\xefve", not_utf8("ef", 28))),
    (b"sync_id,user_id,frequency,a\x00b", ("a\\x00b", "a\\x00b", NUL)),
    (b'sync_id,user_id,"frequency"x', ("", 'sync_id,user_id,"frequency"x', MISQUOTED)),
    (
        b"Sync_Id,USER_ID,team,team,",
        ("Sync_Id", "", like("sync_id", "Sync_Id")),
        ("USER_ID", "", like("user_id", "USER_ID")),
        ("team", "", TWICE),
        ("", "", "column 5 has no name; name it or remove it"),
        ("", "Sync_Id,USER_ID,team,team,", NO_FIELD),
    ),
    (
        b"sync_id;user_id;frequency",
        (
            "",
            "sync_id;user_id;frequency",
            "cells are separated by semicolons; save the file with commas",
        ),
    ),
    (
        b"sync_id\tuser_id\tfrequency",
        (
            "",
            "sync_id\\tuser_id\\tfrequency",
            "cells are separated by tabs; save the file with commas",
        ),
    ),
    (
        b"sync_id|user_id|frequency",
        ("", "sync_id|user_id|frequency", "cells are separated by bars; save the file with commas"),
    ),
    (b"sync_id,user_id,frequency,user ip", ("user ip", "", like("user_id", "'user ip'"))),
)

JSON_LINES: tuple[Case, ...] = (
    (GOOD, ("", SHOWN, "is not JSON: the line ends before the object does")),
    (GOOD + b",}", ("", SHOWN + ",}", not_json("trailing comma in object", 46))),
    (GOOD + b"} x", ("", SHOWN + "} x", not_json("trailing characters", 48))),
    (GOOD + b"}{", ("", SHOWN + "}{", not_json("trailing characters", 47))),
    (GOOD + b"},", ("", SHOWN + "},", not_json("trailing characters", 47))),
    (b"{'sync_id':'a'}", ("", "{'sync_id':'a'}", not_json("object keys must be strings", 1))),
    (b'{sync_id:"a"}', ("", '{sync_id:"a"}', not_json("object keys must be strings", 1))),
    (b"[1]", ("", "[1]", no_object("an array"))),
    (b'["a","u","1h"]', ("", '["a","u","1h"]', no_object("an array"))),
    (b'"a"', ("", '"a"', no_object("a bare value"))),
    (b"5", ("", "5", no_object("a bare value"))),
    (b"null", ("", "null", no_object("a bare value"))),
    (b"true", ("", "true", no_object("a bare value"))),
    (b"sync", ("", "sync", not_json("invalid character", 0))),
    (b"// c", ("", "// c", not_json("invalid character", 0))),
    (GOOD + b',"x":NaN}', ("", SHOWN + ',"x":NaN}', not_json("invalid character", 50))),
    (GOOD + b',"x":Infinity}', ("", SHOWN + ',"x":Infinity}', not_json("invalid character", 50))),
    (GOOD + b',"x":-Infinity}', ("", SHOWN + ',"x":-Infinity}', not_json("invalid character", 51))),
    (GOOD + b',"x":1e400}', ("", SHOWN + ',"x":1e400}', TOO_LARGE)),
    (GOOD + b',"x":' + b"9" * 5000 + b"}", ("", SHOWN + ',"x":' + "9" * 29 + "…", TOO_LARGE)),
    (
        GOOD + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ("", SHOWN + ',"x":' + "[" * 29 + "…", "is nested too deeply"),
    ),
    (GOOD + b',"x":"\\ud800"}', ("", SHOWN + ',"x":"\\ud800"}', HALF_PAIR)),
    (GOOD + b',"x":"\\udc00y"}', ("", SHOWN + ',"x":"\\udc00y"}', HALF_PAIR)),
    (GOOD + b',"\\ud800":1}', ("", SHOWN + ',"\\ud800":1}', HALF_PAIR)),
    (
        GOOD + b',"x":"\\q"}',
        ("", SHOWN + ',"x":"\\q"}', not_json("invalid escape character in string", 53)),
    ),
    (GOOD + b',"x":01}', ("", SHOWN + ',"x":01}', not_json("invalid number", 51))),
    (GOOD + b',"x":+1}', ("", SHOWN + ',"x":+1}', not_json("invalid character", 50))),
    (GOOD + b',"x":.5}', ("", SHOWN + ',"x":.5}', not_json("invalid character", 50))),
    (GOOD + b',"x":"a\tb"}', ("", SHOWN + ',"x":"a\\tb"}', not_json("invalid character", 52))),
    (GOOD + b',"x":"\x00"}', ("", SHOWN + ',"x":"\\x00"}', not_json("invalid character", 51))),
    (GOOD + b',"x":"\\u0000"}', ("x", "\\x00", NUL)),
    (
        b'{"sync_id":"a\xff","user_id":"u","frequency":"1h"}',
        ("", '{"sync_id":"a\\xff","user_id":"u","frequency":"1h"}', not_utf8("ff", 61)),
    ),
    (GOOD + b',"x":"' + b"y" * 65537 + b'"}', ("x", "y" * 79 + "…", over_long("65,537"))),
    (GOOD + b',"sync_id":"b"}', ("sync_id", "", TWICE_IN_OBJECT)),
    (GOOD + b',"x":1,"x":1}', ("x", "", TWICE_IN_OBJECT)),
    (GOOD + b',"x": 1, "x" : 2, "y":{"x":1}}', ("x", "", TWICE_IN_OBJECT)),
    (GOOD + b',"syncId":"a"}', ("syncId", "", "means the same as sync_id; keep one")),
    (GOOD + b',"Sync Id":"a"}', ("Sync Id", "", like("sync_id", "'Sync Id'"))),
    (GOOD + b',"":1}', ("", "", "column 4 has no name; name it or remove it")),
    (b'{"sync_id":7,"user_id":"u","frequency":"1h"}', ("sync_id", "7", NUMBER_AS_ID)),
    (b'{"sync_id":7.5,"user_id":"u","frequency":"1h"}', ("sync_id", "7.5", NUMBER_AS_ID)),
    (b'{"sync_id":"a","user_id":42,"frequency":"1h"}', ("user_id", "42", NUMBER_AS_ID)),
    (
        b'{"sync_id":"a","user_id":"u","frequency":60}',
        ("frequency", "60", "must be text in double quotes, not a number"),
    ),
    (
        b'{"sync_id":true,"user_id":false,"frequency":"1h"}',
        ("sync_id", "true", "must be text in double quotes, not true or false"),
        ("user_id", "false", "must be text in double quotes, not true or false"),
    ),
    (
        b'{"sync_id":["a"],"user_id":{"id":"u"},"frequency":"1h"}',
        ("sync_id", '["a"]', "must be text in double quotes, not an array"),
        ("user_id", '{"id":"u"}', "must be text in double quotes, not an object"),
    ),
    (b'{"sync_id":null,"user_id":"u","frequency":"1h"}', ("sync_id", "", REQUIRED)),
    (b'{"sync_id":"a","user_id":"u","frequency":null}', ("", "", NOTHING)),
    (b'{"sync_id":"a","user_id":"u"}', ("", "", NOTHING)),
    (b'{"sync_id":"a","frequency":"1h"}', ("user_id", "", REQUIRED)),
    (b'{"user_id":"u","frequency":"1h"}', ("sync_id", "", REQUIRED)),
    (b"{}", ("sync_id", "", REQUIRED), ("user_id", "", REQUIRED), ("", "", NOTHING)),
    (b'{"syncid":"a","user_id":"u","frequency":"1h"}', ("syncid", "", like("sync_id", "syncid"))),
    (
        b'{"sync_id":"a","user_id":"u","frequncy":"1h"}',
        ("frequncy", "", like("frequency", "frequncy")),
    ),
    (
        b'{"sync_id":"a\\u001b","user_id":"u","frequency":"1h"}',
        ("sync_id", "a\\x1b", control("U+001B")),
    ),
    (
        b'{"sync_id":"a\\nb","user_id":"u","frequency":"1h"}',
        ("sync_id", "a\\nb", control("U+000A")),
    ),
    (
        b'{"sync_id":"..","user_id":"","frequency":"2h"}',
        ("sync_id", "..", FOLDER),
        ("user_id", "", REQUIRED),
        ("frequency", "2h", NOT_FREQUENCY),
    ),
    (
        b'\xef\xbb\xbf{"sync_id":"a","user_id":"u","frequency":"1h"}',
        (
            "",
            '\\ufeff{"sync_id":"a","user_id":"u","frequency":"1h"}',
            not_json("invalid character", 0),
        ),
    ),
    (GOOD + b',"frequency":"1h"}', ("frequency", "", TWICE_IN_OBJECT)),
    (
        GOOD + b',"expected_frequency":1}',
        ("expected_frequency", "1", "must be text in double quotes, not a number"),
    ),
    (b'{"a":1', ("", '{"a":1', "is not JSON: the line ends before the object does")),
    (
        b'{"sync_id":"' + b"x" * 300 + b'","user_id":"u","frequency":"1h"}',
        ("sync_id", "x" * 79 + "…", too_long("256", "300")),
    ),
    (
        b'{"sync_id":12345678901234567890123,"user_id":"u","frequency":"1h"}',
        ("sync_id", "12345678901234567890123", NUMBER_AS_ID),
    ),
)

ROWS = b"".join(b"s%d,u,,1h,,team\n" % number for number in range(30_000))
BEFORE_BREAK = HEADER + b"a,u,,2h,,\n" + b"".join(b"s%d,u,,1h,,\n" % n for n in range(3_000))
TEXT = CSV_BEFORE.decode()
ROW_2 = (2, "frequency", "2h", NOT_FREQUENCY)


FILES: dict[str, tuple[str, Callable[[], bytes], tuple[tuple[int, str, str, str], ...]]] = {
    "empty": ("in.csv", lambda: b"", ((0, "", "", "is empty"),)),
    "only a BOM": ("in.csv", lambda: b"\xef\xbb\xbf", ((0, "", "", "is empty"),)),
    "only empty lines": ("in.csv", lambda: b"\n\r\n\r", ((0, "", "", "is empty"),)),
    "header only": ("in.csv", lambda: HEADER, ((0, "", "", "has a header, but no rows"),)),
    "header only, no line end": (
        "in.csv",
        lambda: HEADER[:-1],
        ((0, "", "", "has a header, but no rows"),),
    ),
    "UTF-16": (
        "in.csv",
        lambda: b"\xff\xfe" + TEXT.encode("utf-16-le"),
        ((0, "", "", "is UTF-16 or UTF-32; save it as UTF-8"),),
    ),
    "UTF-16, big end first": (
        "in.csv",
        lambda: b"\xfe\xff" + TEXT.encode("utf-16-be"),
        ((0, "", "", "is UTF-16; save it as UTF-8"),),
    ),
    "UTF-16 without a BOM": (
        "in.csv",
        lambda: TEXT.encode("utf-16-le"),
        ((0, "", "", "is full of NUL bytes, as UTF-16 is; save it as UTF-8"),),
    ),
    "UTF-32": (
        "in.csv",
        lambda: b"\xff\xfe\0\0" + TEXT.encode("utf-32-le"),
        ((0, "", "", "is UTF-16 or UTF-32; save it as UTF-8"),),
    ),
    "UTF-32, big end first": (
        "in.csv",
        lambda: b"\0\0\xfe\xff" + TEXT.encode("utf-32-be"),
        ((0, "", "", "is UTF-32; save it as UTF-8"),),
    ),
    "gzip by another name": (
        "in.csv",
        lambda: gzip.compress(CSV_BEFORE),
        ((0, "", "", "is packed with gzip; give it a name that ends in .gz, or unpack it"),),
    ),
    "zstd by another name": (
        "in.csv",
        lambda: zstd.compress(CSV_BEFORE),
        ((0, "", "", "is packed with zstd; give it a name that ends in .zst, or unpack it"),),
    ),
    "spreadsheet": (
        "in.csv",
        lambda: b"PK\x03\x04xl",
        ((0, "", "", "is a ZIP archive or a spreadsheet; export the sheet as CSV in UTF-8"),),
    ),
    "Parquet": (
        "in.csv",
        lambda: b"PAR1\x15\x04",
        ((0, "", "", "is a Parquet file; export it as CSV or JSONL"),),
    ),
    "JSONL in CSV": (
        "in.csv",
        lambda: b'{"sync_id":"a"}\n',
        (
            (
                1,
                "",
                '{"sync_id":"a"}',
                "the file seems to be JSON; use --format jsonl, with one object a line",
            ),
        ),
    ),
    "quote never closed": (
        "in.csv",
        lambda: CSV_BEFORE + b'a,u,,1h,,"x\nb,u,,1h,,\n',
        ((3, "", "", UNCLOSED),),
    ),
    "quote never closed on the last line": (
        "in.csv",
        lambda: CSV_BEFORE + b'a,u,,1h,,"x',
        ((3, "", "", UNCLOSED),),
    ),
    "stray quote before 30,000 rows": (
        "in.csv",
        lambda: HEADER + b'a,u,,2h,,\nb,u,,1h,,"stray\n' + ROWS,
        (ROW_2, (3, "", "", UNCLOSED)),
    ),
    "record of 1,502 lines": (
        "in.csv",
        lambda: CSV_BEFORE + b'b,u,,1h,,"stray\n' + b"x\n" * 1_500 + b'end"\n',
        ((3, "", "", UNCLOSED),),
    ),
    "stray quote that a later one closes": (
        "in.csv",
        lambda: CSV_BEFORE + b'b,u,,1h,,"stray\n' + ROWS[:1_000] + b'c,u,,1h,,end"\n',
        ((3, "", "", UNCLOSED),),
    ),
    "stray quote that meets a quoted cell": (
        "in.csv",
        lambda: CSV_BEFORE + b'b,u,,1h,,"stray\nc,u,,1h,,"x"\n',
        ((3, "", "", UNCLOSED),),
    ),
    "stray quote on the second line of its row": (
        "in.csv",
        lambda: CSV_BEFORE + b'b,u,,1h,"two\nli""nes","stray\n' + b"x\n" * 2_000,
        ((4, "", "", UNCLOSED),),
    ),
    "line without an end": (
        "in.csv",
        lambda: HEADER + b"a,u,,2h,,\n" + b"x" * 1_400_000,
        (ROW_2, (3, "", "", LONG_LINE)),
    ),
    "line of 1.2 MB": (
        "in.csv",
        lambda: HEADER + b"a,u,,2h,,\n" + b"x," * 600_000 + CSV_AFTER,
        (ROW_2, (3, "", "", LONG_LINE)),
    ),
    "gzip cut short": (
        "in.csv.gz",
        lambda: gzip.compress(BEFORE_BREAK)[:-4],
        (ROW_2, (3_003, "", "", stopped("the gz file is truncated"))),
    ),
    "gzip cut in its head": (
        "in.csv.gz",
        lambda: gzip.compress(BEFORE_BREAK)[:5],
        ((1, "", "", stopped("the gz file is truncated")),),
    ),
    "no gzip at all": (
        "in.csv.gz",
        lambda: CSV_BEFORE,
        (
            (
                1,
                "",
                "",
                stopped("the gz data is damaged or no gz data at all (Not a gzipped file (b'sy'))"),
            ),
        ),
    ),
    "gzip with a broken block": (
        "in.csv.gz",
        lambda: gzip.compress(b"")[:10] + b"\xff" * 40,
        (
            (
                1,
                "",
                "",
                stopped(
                    "the gz data is damaged or no gz data at all "
                    "(Error -3 while decompressing data: invalid block type)"
                ),
            ),
        ),
    ),
    "gzip of nothing": ("in.csv.gz", lambda: gzip.compress(b""), ((0, "", "", "is empty"),)),
    "gzip of a header": (
        "in.csv.gz",
        lambda: gzip.compress(HEADER),
        ((0, "", "", "has a header, but no rows"),),
    ),
    "zstd cut short": (
        "in.csv.zst",
        lambda: zstd.compress(BEFORE_BREAK) + zstd.compress(b"more" * 100)[:-4],
        (ROW_2, (3_003, "", "", stopped("the zst file is truncated"))),
    ),
    "zstd cut in its head": (
        "in.csv.zst",
        lambda: zstd.compress(BEFORE_BREAK)[:5],
        ((1, "", "", stopped("the zst file is truncated")),),
    ),
    "no zstd at all": (
        "in.csv.zst",
        lambda: CSV_BEFORE,
        (
            (
                1,
                "",
                "",
                stopped(
                    "the zst data is damaged or no zst data at all "
                    "(Unable to decompress Zstandard data: Unknown frame descriptor)"
                ),
            ),
        ),
    ),
    "JSONL, empty": ("in.jsonl", lambda: b"\n \n", ((0, "", "", "is empty"),)),
    "JSON array over many lines": (
        "in.jsonl",
        lambda: b'[\n{"sync_id":"a"}\n]\n',
        (
            (
                1,
                "",
                "[",
                "the file is one JSON array; write one object a line, without brackets and commas",
            ),
        ),
    ),
    "JSON array on one line": (
        "in.jsonl",
        lambda: b'[{"a":1}]',
        (
            (
                1,
                "",
                '[{"a":1}]',
                "the file is one JSON array; write one object a line, without brackets and commas",
            ),
        ),
    ),
    "JSON object over many lines": (
        "in.jsonl",
        lambda: b'{\n"sync_id":"a"\n}\n',
        ((1, "", "{", "the object spans several lines; write one object a line"),),
    ),
    "CSV in JSONL": (
        "in.jsonl",
        lambda: b"sync_id,user_id\na,u\n",
        ((1, "", "sync_id,user_id", "the file seems to be CSV; use --format csv"),),
    ),
    "JSONL line without an end": (
        "in.jsonl",
        lambda: JSON_BEFORE + b"x" * 1_400_000,
        ((2, "", "", LONG_LINE),),
    ),
    "JSONL line of 1.2 MB": (
        "in.jsonl",
        lambda: JSON_BEFORE + b"x" * 1_200_000 + JSON_AFTER,
        ((2, "", "", LONG_LINE),),
    ),
}


def checked(folder: Path, name: str, data: bytes, job: str = "update-syncs", **how: Any) -> Checked:
    """Return what a file of *data* comes to."""
    path = folder / name
    path.write_bytes(data)
    kind = find(job)
    return check(recognise(path), columns_of(kind, **how), kind)


def told(problems: tuple[Problem, ...]) -> tuple[tuple[str, str, str], ...]:
    """Return column, value and reason of each of *problems*."""
    return tuple((p.column, p.value, p.reason) for p in problems)


@pytest.mark.parametrize("case", CSV_ROWS, ids=lambda case: repr(case[0])[:60])
def test_a_bad_row_of_csv_is_told_exactly_and_alone(tmp_path: Path, case: Case) -> None:
    """All problems of a bad row are told with its line and number; its neighbors stay valid."""
    row, *expected = case

    got = checked(tmp_path, "in.csv", CSV_BEFORE + row + CSV_AFTER)

    assert told(got.problems) == tuple(expected)
    assert {(p.line, p.row) for p in got.problems} == {(3, 2)}
    assert (got.rows, got.valid, got.invalid) == (3, 2, 1)


@pytest.mark.parametrize("case", JSON_LINES, ids=lambda case: repr(case[0])[:60])
def test_i10_a_bad_line_of_jsonl_is_one_rows_problem(tmp_path: Path, case: Case) -> None:
    """All problems of a bad line are told with its line and number; its neighbors stay valid."""
    line, *expected = case

    got = checked(tmp_path, "in.jsonl", JSON_BEFORE + line + JSON_AFTER)

    assert told(got.problems) == tuple(expected)
    assert {(p.line, p.row) for p in got.problems} == {(2, 2)}
    assert (got.rows, got.valid, got.invalid) == (3, 2, 1)


@pytest.mark.parametrize("case", HEADERS, ids=lambda case: repr(case[0])[:60])
def test_i6_a_bad_header_refuses_the_file(tmp_path: Path, case: Case) -> None:
    """All problems of a header are told at once, and no row is looked at."""
    header, *expected = case

    got = checked(tmp_path, "in.csv", header + b"\na,u,1h\n")

    assert told(got.file_problems) == tuple(expected)
    assert {(p.line, p.row) for p in got.problems} == {(1, 0)}
    assert got.rows == 0


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_with_what_was_found_before(tmp_path: Path, name: str) -> None:
    """A file that cannot be read to its end is refused; what is wrong before that is told too."""
    file, make, expected = FILES[name]

    got = checked(tmp_path, file, make())

    assert tuple((p.line, p.column, p.value, p.reason) for p in got.problems) == expected
    assert len(got.file_problems) == 1
    assert got.refusal(skip_invalid=True) is not None


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("in.csv", b"frequency\na,u,%s,1h\n", ("frequency", "1h", FOREIGN)),
        (
            "in.csv",
            b"incrementalAccumulatorFrequency\na,u,%s,1h\n",
            ("incrementalAccumulatorFrequency", "1h", FOREIGN),
        ),
        ("in.csv", b"expected_frequency\na,u,%s,1h\n", ("expected_frequency", "1h", FOREIGN)),
        ("in.csv", b"Frequency\na,u,%s,1h\n", ("Frequency", "", like("frequency", "Frequency"))),
    ],
)
def test_what_another_job_owns_is_an_error(
    tmp_path: Path, name: str, data: bytes, problem: tuple[str, str, str]
) -> None:
    """A value in a column that only another job owns is refused, not ignored."""
    start = b"sync_id,user_id,credential_id,"

    got = checked(tmp_path, name, start + data % UUID, job="migrate-credentials")

    assert told(got.problems) == (problem,)


def test_what_another_job_owns_is_an_error_in_jsonl_too(tmp_path: Path) -> None:
    """A value under a key that only another job owns is refused; null is none."""
    start = b'{"sync_id":"a","user_id":"u","credentialId":"%s",' % UUID

    bad = checked(tmp_path, "a.jsonl", start + b'"frequency":"1h"}\n', job="migrate-credentials")
    good = checked(tmp_path, "b.jsonl", start + b'"frequency":null}\n', job="migrate-credentials")

    assert told(bad.problems) == (("frequency", "1h", FOREIGN),)
    assert good.valid == 1


def test_expected_columns_are_refused_when_nothing_is_read(tmp_path: Path) -> None:
    """With --no-read there is nothing to compare with, blank or not."""
    data = b"sync_id,user_id,frequency,expected_frequency\na,u,1h,\n"

    got = checked(tmp_path, "in.csv", data, expected_allowed=False)

    assert told(got.file_problems) == (("expected_frequency", "", NO_READ),)


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        (
            "-",
            None,
            (
                "standard input has no extension to tell its format by; "
                "add --format csv or --format jsonl"
            ),
        ),
        ("in.csv", "xml", "--format xml: there are csv and jsonl"),
        *(
            (
                name,
                None,
                (
                    f"{name}: the name does not tell the format; it may end in .csv, .jsonl or "
                    ".ndjson, then .gz or .zst; otherwise add --format csv or --format jsonl"
                ),
            )
            for name in ("in", "in.txt", "in.json", "in.gz", "in.csv.bz2", "in.csv.zip", "csv")
        ),
    ],
)
def test_a_name_that_does_not_tell_the_format_is_refused(
    name: str, format: str | None, message: str
) -> None:
    """What cannot be recognised is asked for, not guessed."""
    with pytest.raises(SettingsError) as refusal:
        recognise(name, format)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "in.csv cannot be opened: No such file or directory"),
        (
            lambda path: path.mkdir(),
            "in.csv is no regular file; pipe it in and name it -, with --format csv or jsonl",
        ),
    ],
)
def test_a_path_that_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    """What is not there, or is no file, is told as such."""
    path = tmp_path / "in.csv"
    make(path)
    job = find("update-syncs")

    refusal = check(recognise(path), columns_of(job), job).refusal()

    assert str(refusal) == message


def test_there_are_more_than_230_bad_inputs() -> None:
    """The table does not shrink unseen."""
    assert len(CSV_ROWS) + len(JSON_LINES) + len(HEADERS) + len(FILES) > 230
