"""Asks a job what rows mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import cast

import msgspec

from runner.errors import InvalidRow, Problem, SettingsError
from runner.job import Job, foreign_fields
from runner.model import Change, Row
from runner.rows import DROPPED_PREFIX, BadRow, Columns, rules_of, shown
from runner.settings import Settings


def columns_of(
    job: Job,
    *,
    user_required: bool = True,
    expected_allowed: bool = True,
    undoes: bool = False,
    ignored: Iterable[str] = (),
    zone: str | None = None,
    zone_required: bool = True,
) -> Columns:
    """Return the columns that an input for *job* may have.

    *user_required* is False with a ready-made user token, *expected_allowed*
    with ``--no-read``; *ignored* are the names given with ``--ignore-column``. In an
    input that *undoes* what a run did, a row without a value cannot be restored. *zone* is
    the column that says in which time zone a row starts; it may be blank unless *zone_required*.
    Raises `SettingsError` when that column means something else.
    """
    columns = Columns(
        owned=tuple(job.owns),
        foreign=foreign_fields(job),
        user_required=user_required,
        value_required=undoes or not job.implied,
        expected_allowed=expected_allowed,
        ignored=frozenset(ignored),
    )
    if zone is None:
        return columns
    if zone in rules_of(columns) or zone.startswith(DROPPED_PREFIX):
        raise SettingsError(
            f"--zone-column {zone}: that column has a meaning of its own; name the one that says "
            "in which time zone a row starts"
        )
    return msgspec.structs.replace(columns, zone=zone, zone_required=zone_required)


def columns_for(job: Job, settings: Settings, *, user_required: bool, undoes: bool) -> Columns:
    """Return `columns_of` an input for *job* that is carried with *settings*."""
    return columns_of(
        job,
        user_required=user_required,
        expected_allowed=not settings.no_read,
        undoes=undoes,
        ignored=settings.ignore_columns,
        zone=None if settings.at is None else settings.zone_column,
        zone_required="@" not in (settings.at or ""),
    )


def changes(blocks: Iterable[list[Row | BadRow]], job: Job) -> Iterator[list[Change | BadRow]]:
    """Yield what each block of rows asks for; a row that *job* refuses becomes a `BadRow`."""
    for block in blocks:
        yield _at_once(block, job) or [_parsed(row, job) for row in block]


def _at_once(block: list[Row | BadRow], job: Job) -> list[Change | BadRow]:
    """Return what *block* asks for, or nothing when not every row of it is good."""
    if BadRow not in set(map(type, block)):
        with suppress(InvalidRow):
            return list(map(job.parse, cast("list[Row]", block)))
    return []


def _parsed(row: Row | BadRow, job: Job) -> Change | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        return job.parse(row)
    except InvalidRow as error:
        return _refused(row, error)


def _refused(row: Row, error: InvalidRow) -> BadRow:
    told = error.problems or (Problem(0, "", "", str(error)),)
    problems = tuple(
        Problem(row.line, p.column, shown(p.value), p.reason, row.number) for p in told
    )
    sync_id, user_id = row.fields["sync_id"], row.fields.get("user_id", "")
    return BadRow(row.number, row.line, sync_id, user_id, problems)
