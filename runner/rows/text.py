"""What may stand in a text, and how it is shown to a person."""

from __future__ import annotations

import re

SHOWN_LIMIT = 80
"""Characters of a value that a message shows."""

FIELD_LIMIT = 65_536
"""Characters that one cell may hold (64 KiB)."""

has_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
"""Finds a control character: C0, DEL or C1."""

has_surrogate = re.compile(r"[\ud800-\udfff]").search
"""Finds half of a surrogate pair, which is how a byte that is not UTF-8 is carried."""

_unprintable = re.compile(r"[^\x20-\x7e]")


def is_blank(value: str) -> bool:
    """Tell whether *value* means "not given"."""
    return not value or value.isspace()


def shown(value: str) -> str:
    """Return *value* fit for a message: cut to 80 characters, nothing in it that acts."""
    text = escaped(value[: SHOWN_LIMIT + 1])
    return text if len(text) <= SHOWN_LIMIT else text[: SHOWN_LIMIT - 1] + "…"


def escaped(value: str) -> str:
    r"""Return *value* with what cannot be printed as ``\x1b``, ``\n`` or ``\xff`` (a bad byte)."""
    return value if value.isprintable() else _unprintable.sub(_escape, value)


def encodable(value: str) -> str:
    r"""Return *value* with each byte that is not UTF-8 as ``\xff``; all else is left alone."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def over_long(value: str) -> str:
    """Say by how much *value* is longer than a cell may be."""
    return f"is longer than {FIELD_LIMIT:,} characters; it has {len(value):,}"


def inert(cell: str) -> str:
    """Return *cell* so that a spreadsheet shows it and runs no formula out of it."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
