"""Cuts JSONL into records: one object a line, and a bad line is one row's problem."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from runner.rows.files import LINE_LIMIT_BYTES, InputFile, Lost, Trace, blocks
from runner.rows.plan import Flaw
from runner.rows.text import FIELD_LIMIT, over_long

JsonRecord = tuple[int, bytes, dict[str, Any], tuple[Flaw, ...]]
"""Line, the line itself, the object on it, and what is wrong with it as JSON."""

_DECODE = msgspec.json.Decoder().decode
_DECODE_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_DECODE_TEXT = msgspec.json.Decoder(str).decode
_KEY_APART_FROM_COLON = re.compile(rb'"\s+:').search


def json_records(file: InputFile, trace: Trace) -> Iterator[JsonRecord]:
    """Yield every record of *file*; blank lines are no records.

    Lines end at LF and nowhere else. Raises `Lost` where the file breaks off, and
    what `blocks` raises.
    """
    number = 0
    try:
        for offset, data in blocks(file, trace, _last_break):
            sound = _is_utf8(data)
            for line in data.removesuffix(b"\n").split(b"\n"):
                number += 1
                if len(line) > LINE_LIMIT_BYTES:
                    raise Lost("the line is longer than 1 MiB", number)
                if sound or _is_utf8(line):
                    if line and not line.isspace():
                        yield number, line, *_decoded(line)
                else:
                    yield number, line, {}, (_not_utf8(line, offset),)
                offset += len(line) + 1
    except Lost as lost:
        lost.line = lost.line or number + 1
        raise


def values_of(line: bytes) -> dict[str, msgspec.Raw]:
    """Return each value of an object as the JSON it was."""
    return _DECODE_RAW(line)


def cells_of(line: bytes) -> dict[str, str]:
    """Return the text of each value of an object; what is not text, as the JSON it was."""
    cells = {}
    for key, value in values_of(line).items():
        raw = bytes(value)
        cells[key] = _DECODE_TEXT(raw) if raw.startswith(b'"') else raw.decode()
    return cells


def _last_break(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(line: bytes, offset: int) -> Flaw:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        bad, offset = line[error.start], offset + error.start
    reason = f"is not UTF-8: byte 0x{bad:02x} at offset {offset:,} of the file"
    return Flaw(reason, line.decode("utf-8", "surrogateescape"))


def _decoded(line: bytes) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    """Return the object on *line* and its flaws; without an object, an empty one."""
    try:
        value = _DECODE(line)
        if not isinstance(value, dict):
            kind = "an array" if isinstance(value, list) else "a bare value"
            reason = f'must be one JSON object such as {{"sync_id": "…"}}, not {kind}'
            return _unreadable(line, reason)
        twice = _twice(line, value)
    except RecursionError:
        return _unreadable(line, "is nested too deeply")
    except (msgspec.MsgspecError, ValueError) as error:
        return _unreadable(line, _malformed(line, str(error)))
    if twice or len(line) > FIELD_LIMIT or b"\\u0000" in line:
        return value, tuple(_flaws(value, twice))
    return value, ()


def _flaws(value: dict[str, Any], twice: list[str]) -> Iterator[Flaw]:
    for key, text in value.items():
        if key in twice:
            yield Flaw("stands twice in the object; keep one", column=key)
        elif isinstance(text, str) and "\0" in text:
            yield Flaw("holds a NUL character", text, column=key)
        elif isinstance(text, str) and len(text) > FIELD_LIMIT:
            yield Flaw(over_long(text), text, column=key)


def _unreadable(line: bytes, reason: str) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    return {}, (Flaw(reason, line.decode()),)


def _malformed(line: bytes, error: str) -> str:
    """Return msgspec's *error* in our words."""
    if "surrogate" in error or ("truncated" in error and _is_lenient_json(line)):
        return "holds half of a surrogate pair, which is no character"
    if "truncated" in error:
        return "is not JSON: the line ends before the object does"
    if "out of range" in error:
        return "holds a number that is too large"
    return "is not JSON: " + error.removeprefix("JSON is malformed: ").replace("(byte", "(at byte")


def _is_lenient_json(line: bytes) -> bool:
    """Tell whether the standard library, which lets half a surrogate pair pass, reads *line*."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _twice(line: bytes, value: dict[str, Any]) -> list[str]:
    """Return the keys that the object on *line* has more than once."""
    # Each key takes a colon: with as many colons as keys none can be hidden.
    if line.count(b":") == len(value):
        return []
    if line.count(b'":') == len(value) and not _KEY_APART_FROM_COLON(line):
        return []
    keys: list[str] = json.loads(line, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    return [key for key in value if keys.count(key) > 1] if len(keys) > len(value) else []
