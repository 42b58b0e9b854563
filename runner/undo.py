"""Opens a rollback: a new run that puts back what a run, and its retries, may have changed."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import msgspec

from runner.account import index_of, must_have_journals, origins_of
from runner.anew import handed_down
from runner.errors import RunRefused, SettingsError
from runner.folder import Folder
from runner.job import Job, find
from runner.journal import scan
from runner.lineage import IRREVERSIBLE, ROW, Member, holding, root_of, with_retries
from runner.model import Change, ErrorClass, Field, Intent, OutcomeKind, State
from runner.opening import Opened, open_child
from runner.record import UNDO
from runner.results import Index, Outcomes
from runner.results.outcomes import line_at
from runner.settings import Resolved
from runner.streams import Pieces, csv_line

_DECODE_INTENT = msgspec.json.Decoder(Intent).decode
_PERHAPS_NOTHING = frozenset(
    {OutcomeKind.REJECTED, OutcomeKind.EXHAUSTED, OutcomeKind.UNCHANGED, OutcomeKind.CONFLICTED}
)
"""Outcomes of rows with an intent of which it is worth asking whether anything landed."""


def open_rollback(
    parent: str,
    resolved: Resolved,
    *,
    only: bool = False,
    run_id: str | None = None,
    warn: Callable[[str], None],
) -> Opened:
    """Make a run that takes every sync which *parent* may have changed back to what it was.

    With its retries and theirs, unless *only*. Changes nothing about these runs.
    Raises `NoSuchRun`, `RunLocked` while any of them is at work, `RunChanged`,
    `UsageError` when there is nothing to put back.
    """
    if resolved.settings.no_read:
        raise SettingsError(
            "--no-read cannot be had with rollback: what others changed since must be seen; "
            "leave it out"
        )
    folder = Folder.open(resolved.places.runs_dir, parent)
    manifest = folder.read()
    if manifest.is_plan and not manifest.applied:
        raise SettingsError(f"run {parent} is a plan that was never applied: nothing was sent")
    itself = Member(folder, manifest)
    members = (itself,) if only else with_retries(folder, manifest)
    settings = msgspec.structs.replace(
        handed_down(manifest.settings, resolved),
        no_read=False,
        skip_invalid=False,
        ignore_columns=(),
    )
    job = find(manifest.job)
    with holding(members), _Touched(members, rows=root_of(folder).manifest.rows or 0) as touched:
        if not len(touched):
            raise SettingsError(f"run {parent} has nothing to put back: it changed no sync")
        return open_child(
            manifest,
            Pieces(_input(touched, job)),
            resolved,
            format="csv",
            relation="rollback",
            undoes=True,
            settings=settings,
            run_id=run_id,
            warn=warn,
        )


class _Touched:
    """The syncs that some runs may have changed: nine bytes a row, and eight for each run.

    Enter it first.
    """

    def __init__(self, members: Sequence[Member], *, rows: int) -> None:
        """*members* are of one family, oldest first; *rows* is what its root has."""
        self._members = members
        self._stack = ExitStack()
        self._undo: list[int] = []
        self._places: list[array[int]] = []
        """Of each member, where its intent for each row of the root stands, plus 1; 0: none."""
        self._order: list[array[int]] = []
        """Of each member, the rows of the root in the order of its intents."""
        self._seen = bytearray(rows + 1)

    def __enter__(self) -> _Touched:
        for member in self._members:
            path = member.folder.path / UNDO
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path.exists() else -1
            self._undo.append(fd)
            self._places.append(array("Q", bytes(8 * len(self._seen))))
            self._order.append(array("I"))
            if fd >= 0:
                self._stack.callback(os.close, fd)
                self._take(member, self._places[-1], self._order[-1])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return self._seen.count(1)

    def newest_first(self) -> Iterator[tuple[int, Intent, Intent]]:
        """Yield each sync once: row of the root, the intent to go back to, and the last one.

        It goes back through the runs as far as each found what the one before had
        left. Where somebody else's value stood in between, that is what comes back.
        """
        done = bytearray(len(self._seen))
        for number in range(len(self._members) - 1, -1, -1):
            for row in reversed(self._order[number]):
                if done[row]:
                    continue
                done[row] = 1
                first = last = self._intent(number, row)
                for older in range(number - 1, -1, -1):
                    if self._places[older][row]:
                        before = self._intent(older, row)
                        if not _found(first, before):
                            break
                        first = before
                yield row, first, last

    def _take(self, member: Member, places: array[int], order: array[int]) -> None:
        """Note where the first intent of each row stands that may have landed."""
        must_have_journals(member.folder)
        index, origins = index_of(member.folder), self._origins(member)
        rows = member.manifest.rows or 0
        index.check(rows)
        with Outcomes(index) as outcomes:
            for line in scan(member.folder.path / UNDO):
                own = _DECODE_INTENT(line.data).row
                row = origins[own - 1] if origins else own
                if not 0 < row < len(self._seen):
                    raise RunRefused(
                        f"{member.folder.path}: its input speaks of row {row}, which the run that "
                        "it retries has not; restore the folder from a copy"
                    )
                if not places[row] and _may_have_landed(own, index, outcomes):
                    places[row] = line.offset + 1
                    order.append(row)
                    self._seen[row] = 1

    def _origins(self, member: Member) -> array[int] | None:
        return origins_of(member) if member.manifest.relation == "retry" else None

    def _intent(self, number: int, row: int) -> Intent:
        return _DECODE_INTENT(line_at(self._undo[number], self._places[number][row] - 1))


def _found(newer: Intent, older: Intent) -> bool:
    """Tell whether *newer* found what *older* had left, whether that had landed or not."""
    if newer.before is None:
        return False
    before = older.before or {}
    return all(
        newer.before.get(name, wanted) in {wanted, before.get(name)}
        for name, wanted in older.desired.items()
    )


def _may_have_landed(row: int, index: Index, outcomes: Outcomes) -> bool:
    """Tell whether a PATCH of *row*, which has an intent, may have changed something."""
    kind = index.outcome(row)
    if kind not in _PERHAPS_NOTHING:
        return True
    found = outcomes.of(row)
    # One that was refused otherwise may have landed before, in a session that was killed; if it
    # has not, the rollback sees that and leaves the sync as it is.
    gone = kind is OutcomeKind.REJECTED and found.error_class is ErrorClass.NOT_FOUND
    return found.sent and not gone


def _input(touched: _Touched, job: Job) -> Iterator[bytes]:
    """Yield the input of a rollback, from which ordinary rows do the rest."""
    owned = tuple(job.owns)
    yield csv_line(
        (
            "sync_id",
            "user_id",
            *(field.name for field in owned),
            *(field.expected_name for field in owned),
            ROW,
            IRREVERSIBLE,
        )
    )
    for row, first, last in touched.newest_first():
        yield csv_line(row_of(first.before, last, owned=owned, job=job, row=row))


def row_of(
    before: State | None, last: Intent, *, owned: Sequence[Field], job: Job, row: int
) -> tuple[object, ...]:
    """Return the cells that take a sync from what *last* wrote back to *before*."""
    change = Change(row, 0, last.sync_id, last.user_id, last.desired)
    inverse = None if before is None else job.inverse(change, before)
    desired: State = {} if inverse is None else inverse.desired
    expected: State = last.desired if inverse is None else inverse.expected or {}
    reason = ""
    if inverse is None:
        reason = _untold(before, last.desired)
    elif strange := [f.name for f in owned if f.name in desired and not f.accepts(desired[f.name])]:
        reason = f"{strange[0]} was {desired[strange[0]]!r}, which Syncshift cannot set"
    if reason:
        desired = {}
    return (
        last.sync_id,
        last.user_id,
        *(desired.get(field.name, "") for field in owned),
        *(expected.get(field.name, "") for field in owned),
        row,
        reason,
    )


def _untold(before: State | None, desired: State) -> str:
    names = [name for name in desired if before is None or name not in before]
    if before is None:
        return f"{' and '.join(names)} was not read before it was changed"
    if not names:
        return "the job cannot take this change back"
    return f"the API never told {' and '.join(names)} of this sync, so it cannot be restored"
