"""What of a run is still to do: its input, less what its journals say has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from runner.check import changes
from runner.errors import Problem, RunChanged, RunRefused
from runner.forecast import PLAN
from runner.lineage import IRREVERSIBLE
from runner.model import Change, ErrorClass, Finding, Outcome, OutcomeKind
from runner.opening import Opened
from runner.results import Findings, Index, JoinedIndex, duplicate, fetching
from runner.rows import BadRow, file_version, read, told
from runner.steps import Work


def work_left(
    opened: Opened,
    index: Index | JoinedIndex,
    *,
    takes: Callable[[int], bool] | None = None,
    rows: tuple[int, int] | None = None,
) -> Iterator[list[Work]]:
    """Yield what is still to do, in input order. Runs in the reader's thread.

    *takes* tells which rows to heed, and *rows* is the first and the last of them; None: all.
    Raises `RunChanged` when the input is no
    longer what was checked.
    """
    checked = opened.checked
    first_row, last_row = rows or (1, checked.rows)
    to_follow = index.to_follow()
    accepted = index.acceptances(to_follow)
    intents = index.intents([*index.in_doubt(), *to_follow])
    bad = _end_of_bad(opened)
    with fetching(index) as outcomes, _plan(opened) as planned:
        blocks = read(checked.file, checked.columns, from_row=first_row)
        for block in changes(blocks, opened.job):
            if file_version(checked.file) != opened.version:
                raise RunChanged(
                    f"{checked.file.path} was changed after it was checked; put the old file "
                    "back and resume the run, or begin a new one"
                )
            work = []
            for item in block:
                number = item.number if isinstance(item, BadRow) else item.row
                if number > last_row:
                    break
                if index.settled(number) or (takes is not None and not takes(number)):
                    continue
                if isinstance(item, BadRow):
                    work.append(Work(known=bad(item)))
                elif problem := checked.contradiction(item):
                    work.append(Work(known=_invalid(_bad(item, problem))))
                elif (first := checked.first_of(number)) is None:
                    work.append(
                        Work(
                            change=item,
                            intent=intents.pop(number, None),
                            planned=planned(number),
                            accepted=accepted.pop(number, None),
                        )
                    )
                elif index.settled(first):
                    known = duplicate(outcomes.of(first), row=number, line=item.line)
                    work.append(Work(known=known))
                # Otherwise it ends when the row ends that asked for the same.
            if work:
                yield work
            if number >= last_row:
                return


def mend(
    opened: Opened,
    index: JoinedIndex,
    end_known: Callable[[Outcome], None],
    rows: tuple[int, int],
) -> None:
    """End the duplicates of rows that have ended, where a crash came in between the two."""
    if not opened.checked.duplicates:
        return
    with fetching(index) as outcomes:
        for row in filter(index.own.settled, range(rows[0], rows[1] + 1)):
            for number, line in opened.checked.duplicates_of(row):
                if not index.settled(number):
                    end_known(duplicate(outcomes.of(row), row=number, line=line))


def _end_of_bad(opened: Opened) -> Callable[[BadRow], Outcome]:
    """Return what tells how a row ends that is no change; it is asked in input order."""
    if not opened.manifest.undoes:
        return _invalid
    reasons = enumerate((reason for (reason,) in told(opened.checked.file, IRREVERSIBLE)), 1)

    def end(row: BadRow) -> Outcome:
        reason = next(reason for number, reason in reasons if number == row.number)
        return irreversible(row, reason) if reason else _invalid(row)

    return end


def irreversible(row: BadRow, reason: str) -> Outcome:
    """Return how a row of a rollback ends whose before-image cannot be restored."""
    return msgspec.structs.replace(
        _invalid(row),
        outcome=OutcomeKind.IRREVERSIBLE,
        error_class=ErrorClass.IRREVERSIBLE,
        error=reason,
    )


@contextmanager
def _plan(opened: Opened) -> Iterator[Callable[[int], Finding | None]]:
    """Yield what tells how a row was found when it was planned, if this run was."""
    if opened.manifest.planned is None:
        yield lambda row: None
        return
    with Findings(opened.folder.path / PLAN) as found:
        if found.rows != opened.checked.rows:
            raise RunRefused(
                f"{found.path}: has {found.rows:,} of {opened.checked.rows:,} rows, but was whole "
                "when the run was planned; restore the run folder from a copy"
            )
        yield found.of


def _bad(change: Change, problem: Problem) -> BadRow:
    return BadRow(change.row, change.line, change.sync_id, change.user_id, (problem,))


def _invalid(row: BadRow) -> Outcome:
    return Outcome(
        row=row.number,
        line=row.line,
        sync_id=row.sync_id,
        user_id=row.user_id,
        outcome=OutcomeKind.INVALID,
        error_class=ErrorClass.INVALID,
        error="; ".join(map(str, row.problems)),
    )
