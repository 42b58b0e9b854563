"""One pass over an input, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, repeat
from typing import cast

from runner.check.changes import changes
from runner.check.repeats import Distinct, Fingerprints, Repeats, find_repeats
from runner.errors import InputError, Problem
from runner.job import Job
from runner.model import Change
from runner.rows import BadRow, Columns, InputFile, Trace, read, refused, shown

SHOWN_PROBLEMS = 50
"""Problems that are kept in memory; all of them can be streamed."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a whole input comes to. Rows = valid + invalid; duplicates are valid."""

    file: InputFile
    columns: Columns
    job: Job
    rows: int
    valid: int
    invalid: int
    duplicates: int
    """Valid rows that ask for what an earlier row asks for; they are not sent."""
    users: int
    """Different users of the rows that are right in themselves."""
    resyncs: int
    """Rows to be sent that may start a full re-sync, as far as is known without reading."""
    names: tuple[str, ...]
    """The input's own columns, in order of first appearance; ``syncshift_*`` left out."""
    sha256: str
    """Of the file as it lies on disk, in hex digits."""
    size: int
    """Bytes of the file as it lies on disk."""
    problems: tuple[Problem, ...]
    """The first problems, in order of lines; those of the file are always among them."""
    total_problems: int
    file_problems: tuple[Problem, ...]
    """Why the file cannot be used at all. If there are any, the counts end where reading did."""
    repeats: Repeats

    def first_of(self, row: int) -> int | None:
        """Return the number of the row that *row* is a duplicate of."""
        return self.repeats.firsts.one(row) or None

    def duplicates_of(self, row: int) -> tuple[tuple[int, int], ...]:
        """Return number and line of each duplicate of *row*, in order."""
        if not self.repeats.followers:
            return ()
        found = self.repeats.followers.of(row)
        return tuple((follower, self.repeats.lines.one(follower)) for follower in found)

    def contradiction(self, change: Change) -> Problem | None:
        """Tell why *change* cannot stand beside the other rows of its sync, if it cannot."""
        line = self.repeats.clashes.one(change.row)
        if not line:
            return None
        reason = (
            f"this sync stands on line {line} as well, with another user or another change; "
            "keep one of its rows"
        )
        return Problem(change.line, "sync_id", shown(change.sync_id), reason, change.row)

    def invalid_rows(self) -> Iterator[BadRow]:
        """Read the file again and yield every row that cannot be carried out, in order."""
        with suppress(InputError):
            for item in chain.from_iterable(changes(read(self.file, self.columns), self.job)):
                if isinstance(item, BadRow):
                    yield item
                elif problem := self.contradiction(item):
                    yield BadRow(item.row, item.line, item.sync_id, item.user_id, (problem,))

    def refusal(self, *, name: str | None = None, skip_invalid: bool = False) -> InputError | None:
        """Return why nothing may be sent on this input, if nothing may.

        *name* is what its user calls the file; *skip_invalid* lets invalid rows
        pass, but no problem of the file.
        """
        if self.file_problems:
            message = str(refused(self.file, *self.file_problems, name=name))
        elif self.invalid and not skip_invalid:
            rows = "row" if self.rows == 1 else "rows"
            message = (
                f"{name or self.file.path.name}: {self.invalid:,} of {self.rows:,} {rows} cannot "
                "become a change; mend the file, or leave such rows out with --skip-invalid"
            )
        else:
            return None
        return InputError(message, self.problems, self.total_problems)


def check(file: InputFile, columns: Columns, job: Job) -> Checked:
    """Read *file* to its end and return what it comes to; never raises for what it holds.

    One pass; further ones only when a sync is named twice or the file is broken.
    """
    tally, trace = _Tally(), Trace()
    file_problems: tuple[Problem, ...] = ()
    try:
        for block in changes(read(file, columns, trace=trace), job):
            tally.add(block, job)
    except InputError as error:
        file_problems = error.problems
        with suppress(OSError):
            trace.whole(file.path)
    repeats = find_repeats(
        tally.syncs.repeated(), partial(_every_change, file, columns, job), job.starts_resync
    )
    invalid = tally.invalid + len(repeats.clashes)
    checked = Checked(
        file=file,
        columns=columns,
        job=job,
        rows=tally.rows,
        valid=tally.rows - invalid,
        invalid=invalid,
        duplicates=len(repeats.firsts),
        users=len(tally.users),
        resyncs=tally.resyncs - repeats.resyncs,
        names=tuple(trace.names),
        sha256=trace.sha256,
        size=trace.size,
        problems=(*tally.problems, *file_problems),
        total_problems=tally.total_problems + len(repeats.clashes) + len(file_problems),
        file_problems=file_problems,
        repeats=repeats,
    )
    if not repeats.clashes:
        return checked
    # Rows that contradict each other are known only now: read up to the fiftieth problem again.
    every = chain.from_iterable(row.problems for row in checked.invalid_rows())
    return replace(checked, problems=(*islice(every, SHOWN_PROBLEMS), *file_problems))


class _Tally:
    """What the pass over the file has found so far."""

    def __init__(self) -> None:
        self.rows = 0
        self.invalid = 0
        self.resyncs = 0
        self.syncs = Fingerprints()
        self.users = Distinct()
        self.problems: list[Problem] = []
        self.total_problems = 0

    def add(self, block: list[Change | BadRow], job: Job) -> None:
        good = cast("list[Change]", block)
        if BadRow in set(map(type, block)):
            good = [item for item in block if not isinstance(item, BadRow)]
            self._add_bad([item for item in block if isinstance(item, BadRow)])
        self.rows += len(block)
        self.resyncs += sum(map(job.starts_resync, good, repeat(None)))
        self.syncs.add([hash(change.sync_id) for change in good])
        self.users.add([change.user_id for change in good])

    def _add_bad(self, rows: list[BadRow]) -> None:
        self.invalid += len(rows)
        for row in rows:
            self.total_problems += len(row.problems)
            self.problems += row.problems[: SHOWN_PROBLEMS - len(self.problems)]


def _every_change(file: InputFile, columns: Columns, job: Job) -> Iterator[Change]:
    """Yield the changes of *file* again, as far as it can be read."""
    with suppress(InputError):
        for item in chain.from_iterable(changes(read(file, columns), job)):
            if not isinstance(item, BadRow):
                yield item
