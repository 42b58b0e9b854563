"""Which names an input may use, and what a value under each of them must look like."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from runner import zones
from runner.errors import Problem
from runner.model import Field
from runner.rows.text import has_control, shown

SYNC_ID = "sync_id"
USER_ID = "user_id"
BOM = "\ufeff"
DROPPED_PREFIX = "syncshift_"
"""Columns of result files; an input may hold them, and they are left out."""

SYNC_ID_LIMIT = 256
"""Bytes of UTF-8 that a sync ID may have."""
USER_ID_LIMIT = 1024
"""Bytes of UTF-8 that a user ID may have; it has to fit into a token."""

Role: TypeAlias = Literal["sync", "user", "owned", "expected", "foreign", "zone"]


class Rule(msgspec.Struct, frozen=True):
    """What a known column is, and what it accepts."""

    name: str
    """The input's name for it, however the header spells it."""
    role: Role
    pattern: str
    """What most good values match, for a quick yes; empty: nothing can be said quickly."""
    fault: Callable[[str], str]
    """Why a value that is not blank may not stand here, or an empty text."""
    lower: bool = False
    """Whether values are kept lower-cased."""


class Columns(msgspec.Struct, frozen=True):
    """How the names in an input are to be understood."""

    owned: tuple[Field, ...]
    """What the job may change; a row must give a value for at least one of them, as a rule."""
    foreign: tuple[Field, ...] = ()
    """What only other jobs may change; a value there is an error."""
    user_required: bool = True
    value_required: bool = True
    """False when a row that gives no value asks for something all the same."""
    expected_allowed: bool = True
    """False when nothing is read before it is written."""
    ignored: frozenset[str] = frozenset()
    """Columns that are carried along untouched, whatever their name resembles."""
    zone: str | None = None
    """The column that says in which time zone a row starts; looked at, and carried along."""
    zone_required: bool = True
    """False when rows that name no zone have one all the same."""


class Place(msgspec.Struct, frozen=True):
    """A known column of one header, or a known key of one JSON object."""

    index: int
    name: str
    """As the input spells it."""
    rule: Rule


class Header(msgspec.Struct, frozen=True):
    """A header, understood."""

    names: tuple[str, ...]
    """As the input spells them."""
    places: tuple[Place, ...]
    """The known columns; each means something else."""
    problems: tuple[Problem, ...]
    """What is wrong with the names as such; their rows and lines are 0."""
    alike: frozenset[str]
    """Known columns that some name of a problem resembles."""
    missing: tuple[str, ...]
    """Reasons why no row under this header can be complete."""


def understand(names: Sequence[str], columns: Columns, rules: dict[str, Rule]) -> Header:
    """Find out what each of *names* means; *rules* is `rules_of` the same *columns*."""
    problems: list[Problem] = []
    places: dict[str, Place] = {}
    alike: set[str] = set()
    seen: set[str] = set()
    for index, name in enumerate(names):
        rule = rules.get(name)
        reason = ""
        if not name.strip():
            reason = f"column {index + 1} has no name; name it or remove it"
        elif name in seen:
            reason = "stands twice in the header; keep one"
        elif name.startswith(BOM):
            alike.add(resembled(name.lstrip(BOM), rules))
            reason = "begins with a second byte-order mark; remove it"
        elif name != columns.zone and (name in columns.ignored or name.startswith(DROPPED_PREFIX)):
            pass
        elif rule is None:
            if meant := resembled(name, rules):
                alike.add(meant)
                reason = f"looks like {meant}; rename it, or let it pass with --ignore-column"
                reason += f" {_quoted(name)}"
        elif rule.name in places:
            reason = f"means the same as {places[rule.name].name}; keep one"
        else:
            places[rule.name] = Place(index, name, rule)
            if rule.role == "expected" and not columns.expected_allowed:
                reason = "cannot be compared with --no-read; remove the column, or read first"
        if reason:
            problems.append(Problem(0, shown(name), "", reason))
        seen.add(name)
    missing = _missing(set(places) | alike, columns)
    if columns.zone is not None and columns.zone not in places:
        missing = (*missing, _no_zone(columns.zone, names))
    return Header(tuple(names), tuple(places.values()), tuple(problems), frozenset(alike), missing)


def rules_of(columns: Columns) -> dict[str, Rule]:
    """Return the rule of every name that is known under *columns*."""
    rules = [
        (SYNC_ID, "syncId", Rule(SYNC_ID, "sync", _SYNC_ID, _sync_id_fault)),
        (USER_ID, "userId", Rule(USER_ID, "user", _USER_ID, _user_id_fault)),
    ]
    known = {name: rule for own, api, rule in rules for name in (own, api)}
    for field in columns.owned:
        pattern, fault = _field_pattern(field), _field_fault(field)
        known[field.name] = Rule(field.name, "owned", pattern, fault, field.lower)
        known[field.api_name] = known[field.name]
        expected = field.expected_name
        known[expected] = Rule(expected, "expected", pattern, fault, field.lower)
    for field in columns.foreign:
        for name in (field.name, field.api_name, field.expected_name):
            canonical = field.name if name == field.api_name else name
            rule = Rule(canonical, "foreign", r"\s*", _foreign_fault(field.name))
            known.setdefault(name, rule)
    if columns.zone is not None:
        known[columns.zone] = Rule(columns.zone, "zone", zones.pattern(), zones.fault)
    return known


def resembled(name: str, rules: dict[str, Rule]) -> str:
    """Return the known name that *name* is likely to mean, or an empty text.

    Letter case, blanks, ``_`` and ``-`` do not count, nor does one slip of a letter.
    """
    plain = _plain(name)
    for known, rule in rules.items():
        # What the zones' column is called is chosen freely, so other names may well be near it.
        if rule.role != "zone" and _at_most_one_edit(plain, _plain(known)):
            return rule.name
    return ""


def _missing(present: set[str], columns: Columns) -> tuple[str, ...]:
    owned = [field.name for field in columns.owned]
    what = " or ".join(owned)
    user = f", {USER_ID}" if columns.user_required else ""
    if not present:
        and_what = f", and {what}" if columns.value_required else ""
        return (f"the first line must name the columns: {SYNC_ID}{user}{and_what}",)
    missing = []
    if SYNC_ID not in present:
        missing.append(f"there is no column {SYNC_ID}, which says what to change; add it")
    if user and USER_ID not in present:
        missing.append(f"there is no column {USER_ID}, which says as whom to change it; add it")
    if columns.value_required and not present.intersection(owned):
        missing.append(f"there is no column {what}, so nothing would change; add it")
    return tuple(missing)


def _no_zone(column: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(column, names, n=1)
    hint = f"is {shown(near[0])} meant?" if near else "add it"
    return f"there is no column {column}, which says in which time zone a row starts; {hint}"


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).casefold()


def _at_most_one_edit(one: str, other: str) -> bool:
    """Tell whether at most one letter is added, missing, wrong, or swapped with its neighbor."""
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    swapped = one[1:2] + one[:1] + one[2:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:] or swapped == other


def _quoted(name: str) -> str:
    """Return *name* as it is to be typed into a shell."""
    text = shown(name)
    return text if re.fullmatch(r"[\w.-]+", text) else f"'{text}'"


# What nearly every ID is: printable ASCII, not blank in front; a user's may be in any script, if
# it is surely not too long (a letter has four bytes at most). The rest is looked at again.
_SPACES = r"\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_SYNC_ID = rf"(?!\.\.?(?:\0|\Z))[!-~][ -~]{{0,{SYNC_ID_LIMIT - 1}}}"
_USER_ID = (
    rf"[!-~][ -~]{{0,{USER_ID_LIMIT - 1}}}|"
    rf"[^{_SPACES}{_CONTROLS}][^{_CONTROLS}]{{0,{USER_ID_LIMIT // 4 - 1}}}"
)

# Patterns are joined to look at a whole row at once. These could look beyond their own cell.
_FAR_SIGHTED = re.compile(r"\(\?(?!:)|\\[1-9]").search


def _sync_id_fault(value: str) -> str:
    if value in {".", ".."}:
        return "must not be . or .., which mean a folder in an address"
    return _id_fault(value, SYNC_ID_LIMIT)


def _user_id_fault(value: str) -> str:
    return _id_fault(value, USER_ID_LIMIT)


def _id_fault(value: str, limit: int) -> str:
    if control := has_control(value):
        return f"must not hold control characters; there is U+{ord(control.group()):04X}"
    size = len(value.encode("utf-8", "surrogatepass"))
    return f"must be at most {limit:,} bytes of UTF-8; it has {size:,}" if size > limit else ""


def _field_pattern(field: Field) -> str:
    # A blank cell is no value, whatever the pattern of a job says.
    blank = field.accepts("") or field.accepts(" ")
    return "" if blank or _FAR_SIGHTED(field.pattern) else field.pattern


def _field_fault(field: Field) -> Callable[[str], str]:
    fits = re.compile(field.pattern, re.ASCII).fullmatch

    def fault(value: str) -> str:
        return "" if fits(value) else field.rule

    return fault


def _foreign_fault(name: str) -> Callable[[str], str]:
    def fault(value: str) -> str:
        return (
            f"this job does not change {name}; empty the cell, take the job that does, "
            "or let it pass with --ignore-column"
        )

    return fault
