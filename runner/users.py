"""Reads a file of users: whose syncs are looked for, and what is to become of them.

Either one user ID a line, or CSV with a column ``user_id``, or JSONL with that name. In
the latter two each user may have a credential and a frequency of their own; what a line
does not say is what was said for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from runner.errors import InputError, Problem, SettingsError
from runner.job import CREDENTIAL, FREQUENCY
from runner.rows import Columns, InputFile, Trace, recognise, refused, shown
from runner.rows.columns import USER_ID, Rule, resembled, rules_of
from runner.rows.files import Lost, blocks
from runner.rows.lines import json_records
from runner.rows.table import csv_records

SHOWN_PROBLEMS = 50
_BOUND_TO = CREDENTIAL.expected_name
_ASKED = (USER_ID, CREDENTIAL.name, _BOUND_TO, FREQUENCY.name)
"""What a file of users can say of each."""
_RULES: dict[str, Rule] = {
    name: rule
    for name, rule in rules_of(Columns(owned=(CREDENTIAL, FREQUENCY))).items()
    if rule.name in _ASKED
}
_NO_HEADER = (
    "has no column user_id in its first line; name it so, or give the file another ending than "
    ".csv if it has one user ID a line"
)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which syncs of a user are meant, and what they are to be. None: not said."""

    bound_to: str | None = None
    """The credential that they use now."""
    credential_id: str | None = None
    frequency: str | None = None

    def __or__(self, other: Wish) -> Wish:
        """Return this wish, and *other* where this one says nothing."""
        return Wish(
            bound_to=self.bound_to or other.bound_to,
            credential_id=self.credential_id or other.credential_id,
            frequency=self.frequency or other.frequency,
        )


class User(msgspec.Struct, frozen=True, gc=False):
    """One line of the file."""

    number: int
    """1 for the first user."""
    line: int
    user_id: str
    wish: Wish


class Users(msgspec.Struct, frozen=True):
    """A whole file of users, checked."""

    file: InputFile
    for_all: Wish
    """What was said for every user."""
    any_integration: bool
    """Whether syncs of every integration are meant."""
    count: int = 0
    names: tuple[str, ...] = ()
    """What the lines of the file say, as an input names it."""
    asks: frozenset[str] = frozenset()
    """What some user's syncs are asked for: fields of `Wish`."""

    def __iter__(self) -> Iterator[User]:
        """Yield every user, in the order of the file. Raises `InputError` when it has changed."""
        for found in _read(self):
            if isinstance(found, Problem):
                raise InputError(f"{self.file.path.name} was changed meanwhile: {found}", (found,))
            yield found


def check_users(name: str, *, for_all: Wish, any_integration: bool) -> Users:
    """Read the whole file once. Raises `InputError` with what is wrong, `SettingsError`."""
    file = recognise(name, "csv")
    if name == "-" or (file.path.exists() and not file.path.is_file()):
        raise SettingsError(f"--users {name}: must be a file, for it is read twice; make one first")
    if _ending(file) == ".json":
        raise SettingsError(f"--users {name}: must have one user ID a line, or be CSV or JSONL")
    users = Users(file, for_all, any_integration)
    problems: list[Problem] = []
    count = wrong = alike = 0
    fault = _senseless(for_all, users)
    asks: set[str] = set()
    names: tuple[str, ...] = ()
    for found in _read(users):
        if isinstance(found, Problem):
            wrong += 1
            alike += bool(fault) and found.reason == fault
            problems += [found] if wrong <= SHOWN_PROBLEMS else []
        else:
            count += 1
            asks.update(field for field, value in _said(found.wish) if value)
    if wrong and wrong == alike and not count:
        # What is wrong with every line alike is wrong with none: the flags say too little.
        raise SettingsError(f"--users {name}: {fault}")
    if wrong:
        raise InputError(
            f"{file.path.name}: {wrong:,} lines cannot be used", tuple(problems), wrong
        )
    if not count:
        raise refused(file, Problem(0, "", "", "names no user"))
    header = None if _is_jsonl(file) else _header(file)
    if header is None and _is_jsonl(file):
        names = _ASKED
    elif header is not None:
        names = tuple(name for name in _ASKED if name in header.values())
    return msgspec.structs.replace(
        users, count=count, asks=frozenset(asks), names=names or (USER_ID,)
    )


def _said(wish: Wish) -> list[tuple[str, str | None]]:
    return [(name, getattr(wish, name)) for name in wish.__struct_fields__]


def _ending(file: InputFile) -> str:
    name = file.path.name.lower()
    return Path(name.removesuffix(f".{file.compression}") if file.compression else name).suffix


def _is_jsonl(file: InputFile) -> bool:
    return _ending(file) in {".jsonl", ".ndjson"}


def _header(file: InputFile) -> dict[int, str] | None:
    """Return which column is what; None when the file has one user ID a line.

    Raises `InputError` for names that will not do.
    """
    try:
        _, _, names, _ = next(csv_records(file, Trace()), (0, 0, [], ()))
    except Lost:
        names = []
    known = {index: _RULES[name].name for index, name in enumerate(names) if name in _RULES}
    if USER_ID not in known.values():
        if _ending(file) == ".csv":
            raise refused(file, Problem(1, "", shown(",".join(names)), _NO_HEADER))
        return None
    problems = [
        Problem(1, shown(name), "", f"looks like {meant}; rename it")
        for name in names
        if name not in _RULES and (meant := resembled(name, _RULES))
    ]
    told = list(known.values())
    problems += [
        Problem(1, name, "", "stands twice in the header; keep one")
        for name in _ASKED
        if told.count(name) > 1
    ]
    if problems:
        raise refused(file, *problems)
    return known


def _read(users: Users) -> Iterator[User | Problem]:
    number = 0
    try:
        for line, cells in _told(users.file):
            number += 1
            yield _user(users, number, line, cells)
    except Lost as lost:
        yield Problem(lost.line, lost.column, "", lost.reason)


def _told(file: InputFile) -> Iterator[tuple[int, dict[str, str]]]:
    if _is_jsonl(file):
        return _objects(file)
    header = _header(file)
    return _lines(file) if header is None else _cells(file, header)


def _objects(file: InputFile) -> Iterator[tuple[int, dict[str, str]]]:
    for line, _, values, flaws in json_records(file, Trace()):
        if flaws:
            raise Lost(f"is no sound object: {flaws[0].reason}", line)
        cells: dict[str, str] = {}
        for name, value in values.items():
            known = _RULES[name].name if name in _RULES else None
            if known is None and (meant := resembled(name, _RULES)):
                raise Lost(f"{shown(name)} looks like {meant}; rename it", line)
            if known is None or value is None:
                continue
            if known in cells:
                raise Lost("stands twice in the object; keep one", line, known)
            if not isinstance(value, str):
                raise Lost(f"must be text (found {shown(str(value))})", line, known)
            cells[known] = value.strip()
        yield line, cells


def _cells(file: InputFile, header: dict[int, str]) -> Iterator[tuple[int, dict[str, str]]]:
    found = csv_records(file, Trace())
    next(found)
    for line, _, cells, flaws in found:
        if flaws:
            raise Lost(f"is no sound line of CSV: {flaws[0].reason}", line)
        yield line, {name: cells[at].strip() for at, name in header.items() if at < len(cells)}


def _lines(file: InputFile) -> Iterator[tuple[int, dict[str, str]]]:
    line = 0
    for _, block in blocks(file, Trace(), lambda data: data.rfind(b"\n") + 1):
        for raw in block.removesuffix(b"\n").split(b"\n"):
            line += 1
            text = raw.decode("utf-8", "surrogateescape").strip()
            if text:
                yield line, {USER_ID: text}


def _user(users: Users, number: int, line: int, cells: dict[str, str]) -> User | Problem:
    for name, value in cells.items():
        fault = _RULES[name].fault(value) if value else ""
        if not fault and not value.isascii() and _is_broken(value):
            fault = "is not UTF-8"
        if fault:
            return Problem(line, name, shown(value), fault, number)
    user_id = cells.get(USER_ID, "")
    if not user_id:
        return Problem(line, USER_ID, "", "is missing", number)
    own = Wish(
        bound_to=cells.get(_BOUND_TO, "").lower() or None,
        credential_id=cells.get(CREDENTIAL.name, "").lower() or None,
        frequency=cells.get(FREQUENCY.name) or None,
    )
    wish = own | users.for_all
    if reason := _senseless(wish, users):
        return Problem(line, "", shown(user_id), reason, number)
    return User(number, line, user_id, wish)


def _is_broken(value: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in value)


def _senseless(wish: Wish, users: Users) -> str:
    if wish.credential_id is None and wish.frequency is None:
        return (
            "says nothing that is to change; give --to-credential or --frequency, or a column "
            "credential_id or frequency"
        )
    if wish.credential_id is not None and wish.bound_to is None and users.any_integration:
        return (
            "a credential is for one integration, and all syncs of the user would get it; give "
            "--from-credential (or a column expected_credential_id), or --integration"
        )
    if wish.credential_id is not None and wish.credential_id == wish.bound_to:
        return "the credential is to be the one that it is"
    return ""
