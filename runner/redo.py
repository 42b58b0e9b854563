"""Opens a retry: a new run of what has not succeeded in a run and its retries so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import msgspec

from runner import rows as reading
from runner.account import family_of, input_of, same_input, standing_of
from runner.anew import handed_down
from runner.check import columns_of
from runner.errors import RunRefused, SettingsError
from runner.folder import Folder
from runner.job import find
from runner.judged import standing
from runner.lineage import IRREVERSIBLE, ROW, Member, holding, root_of
from runner.model import SUCCEEDED, ErrorClass, OutcomeKind, encode_json
from runner.opening import Opened, open_child
from runner.results import FamilyIndex, Index, outcomes_of
from runner.settings import Resolved
from runner.streams import Pieces, csv_line

UNPROCESSED = "unprocessed"
BY_DEFAULT = frozenset(
    {
        OutcomeKind.EXHAUSTED.value,
        OutcomeKind.CONFLICTED.value,
        OutcomeKind.UNCONFIRMED.value,
        OutcomeKind.ERRORED.value,
        UNPROCESSED,
    }
)
"""What is retried unless something else is asked for: all that could succeed now."""

_THERE_ARE = (
    UNPROCESSED,
    *dict.fromkeys(
        [kind.value for kind in OutcomeKind if kind not in SUCCEEDED]
        + [error_class.value for error_class in ErrorClass]
    ),
)


def classes_of(text: str) -> frozenset[str]:
    """Read what ``--class`` asks for: outcomes and error classes, parted by commas.

    Raises `SettingsError` for a name that there is not.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if strange := [name for name in names if name not in _THERE_ARE]:
        raise SettingsError(f"--class {strange[0]}: there are {', '.join(_THERE_ARE)}")
    if not names:
        raise SettingsError(f"--class names nothing; there are {', '.join(_THERE_ARE)}")
    return frozenset(names)


def open_retry(
    parent: str,
    resolved: Resolved,
    *,
    classes: frozenset[str] | None = None,
    run_id: str | None = None,
    warn: Callable[[str], None],
) -> Opened:
    """Make a run of the rows that end as *classes* say, in *parent* and all that belongs to it.

    Without *classes* those of `BY_DEFAULT`; of a plan that was applied no `conflicted` ones:
    their syncs have moved since, and what somebody else did there is not overwritten unasked.
    A row that was retried already counts as it ended last. Raises `NoSuchRun`,
    `RunLocked` while any of these runs is at work, `RunChanged`, `UsageError`
    when there is nothing to retry.
    """
    named = Folder.open(resolved.places.runs_dir, parent)
    root = root_of(named)
    may_be_retried(root)
    settings = handed_down(root.manifest.settings, resolved)
    if classes is None:
        classes = BY_DEFAULT - ({OutcomeKind.CONFLICTED} if root.manifest.is_plan else set())
    invalid_too = bool(classes & {OutcomeKind.INVALID.value, ErrorClass.INVALID.value})
    settings = msgspec.structs.replace(settings, skip_invalid=settings.skip_invalid or invalid_too)
    family = family_of(root.folder, root.manifest)
    if UNPROCESSED in classes:
        must_not_go_round(family)
    with holding(family):
        index = standing_of(family)
        wanted = _selected(parent, index, root.manifest.rows or 0, classes)
        by_name = {member.run_id: member for member in family}
        return open_child(
            by_name.get(parent, root).manifest,
            Pieces(_input(root, wanted)),
            resolved,
            format=root.manifest.input.format,
            relation="retry",
            undoes=root.manifest.undoes,
            settings=settings,
            run_id=run_id,
            warn=warn,
        )


def must_not_go_round(family: Sequence[Member]) -> None:
    """Raise `RunRefused` when a retry would send rows that a gate holds back."""
    for member in family:
        gate = standing(member.manifest.gates)
        if gate is not None:
            raise RunRefused(
                f"run {member.run_id} stands before the gate of wave {gate.wave}, and its "
                f"unprocessed rows are behind it: {gate.why}. Go past that gate with `syncshift "
                f"resume {member.run_id} --past-gate {gate.wave}`, or retry only what has ended: "
                f"syncshift retry {member.run_id} --class exhausted,unconfirmed,errored"
            )


def may_be_retried(root: Member) -> None:
    """Raise `RunRefused` unless something was, or could have been, sent by this run."""
    manifest = root.manifest
    if manifest.state == "refused" or manifest.rows is None:
        raise RunRefused(
            f"run {root.run_id} never came to send anything; mend its input and begin a new run"
        )
    if manifest.is_plan and not manifest.applied:
        raise RunRefused(
            f"run {root.run_id} is a plan that was never applied; carry it out: syncshift apply "
            f"{root.run_id}"
        )


def _selected(
    run_id: str, index: Index | FamilyIndex, rows: int, classes: frozenset[str]
) -> bytearray:
    """Return a mark for each row that is to be retried. Raises `SettingsError` for none."""
    marks, left_out = bytearray(rows + 1), Counter[str]()
    by_error = classes - {kind.value for kind in OutcomeKind} - {UNPROCESSED}
    with outcomes_of(index) as outcomes:
        for row in range(1, rows + 1):
            kind = index.outcome(row)
            if kind in SUCCEEDED:
                continue
            name = UNPROCESSED if kind is None else kind.value
            if name in classes or (
                kind is not None and by_error and outcomes.of(row).error_class in by_error
            ):
                marks[row] = 1
            else:
                left_out[name] += 1
    if not any(marks):
        raise SettingsError(_nothing(run_id, left_out))
    return marks


def _nothing(run_id: str, left_out: Counter[str]) -> str:
    if not left_out:
        return f"run {run_id} has nothing to retry: every row succeeded"
    there = ", ".join(f"{count:,} {name}" for name, count in sorted(left_out.items()))
    asked = ",".join(sorted(left_out))
    return (
        f"run {run_id} has nothing to retry of what was asked for; there are {there}. To retry "
        f"those: syncshift retry {run_id} --class {asked}"
    )


def _input(root: Member, wanted: bytearray) -> Iterator[bytes]:
    """Yield the input of a retry: the root's rows as they stand, and which ones they are."""
    source = input_of(root.folder, root.manifest)
    same_input(source, root.manifest)
    if source.format == "jsonl":
        return _objects(source, wanted)
    return _table(root, source, wanted)


def _objects(source: reading.InputFile, wanted: bytearray) -> Iterator[bytes]:
    for number, record in enumerate(chain.from_iterable(reading.objects(source)), 1):
        if wanted[number]:
            yield encode_json({**record, ROW: number}) + b"\n"


def _table(root: Member, source: reading.InputFile, wanted: bytearray) -> Iterator[bytes]:
    names = reading.own_columns(source)
    columns = columns_of(find(root.manifest.job), ignored=root.manifest.settings.ignore_columns)
    undoes = root.manifest.undoes
    extra = (ROW, IRREVERSIBLE) if undoes else (ROW,)
    yield csv_line((*names, *extra))
    reasons = reading.told(source, IRREVERSIBLE)
    for record in chain.from_iterable(reading.records(source, columns, names)):
        reason = next(reasons) if undoes else ()
        if wanted[record.number]:
            width = len(names)
            cells, surplus = record.cells[:width], record.cells[width:]
            yield csv_line((*cells, record.number, *reason, *surplus))
