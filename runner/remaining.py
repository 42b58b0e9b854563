"""What of a run is still to do: its input, less what its journals say has ended."""

from __future__ import annotations

from collections.abc import Iterator

from runner.check import changes
from runner.errors import Problem, RunChanged
from runner.model import Change, ErrorClass, Outcome, OutcomeKind
from runner.opening import Opened
from runner.pipeline import duplicate
from runner.results import Index, Outcomes
from runner.rows import BadRow, file_version, read
from runner.steps import Work


def work_left(opened: Opened, index: Index) -> Iterator[list[Work]]:
    """Yield what is still to do, in input order. Runs in the reader's thread.

    Raises `RunChanged` when the input is no longer what was checked.
    """
    checked = opened.checked
    intents = index.intents(index.in_doubt())
    with Outcomes(index) as outcomes:
        for block in changes(read(checked.file, checked.columns), opened.job):
            if file_version(checked.file) != opened.version:
                raise RunChanged(
                    f"{checked.file.path} was changed after it was checked; put the old file "
                    "back and resume the run, or begin a new one"
                )
            work = []
            for item in block:
                number = item.number if isinstance(item, BadRow) else item.row
                if index.settled(number):
                    continue
                if isinstance(item, BadRow):
                    work.append(Work(known=_invalid(item)))
                elif problem := checked.contradiction(item):
                    work.append(Work(known=_invalid(_bad(item, problem))))
                elif (first := checked.first_of(number)) is None:
                    work.append(Work(change=item, intent=intents.get(number)))
                elif index.settled(first):
                    known = duplicate(outcomes.of(first), row=number, line=item.line)
                    work.append(Work(known=known))
                # Otherwise it ends when the row ends that asked for the same.
            if work:
                yield work


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
