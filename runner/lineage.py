"""Which runs belong together: a run, its retries, and theirs.

A retry names the run that it goes back to, and its input says which row of the
*root*, the first of the family, each of its rows is. A rollback is the root of
a family of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from runner.errors import SyncshiftError
from runner.folder import Folder, Manifest
from runner.rows import InputFile, told

IRREVERSIBLE = "syncshift_irreversible"
"""The column of a rollback's input that says why a row's before-image cannot be restored."""
ROW = "syncshift_row"
"""The column of a retry's or a rollback's input that has the row of the root."""
_NAMED = 3
"""Rows that a remark names."""


class Member(msgspec.Struct, frozen=True):
    """One run of a family."""

    folder: Folder
    manifest: Manifest

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.manifest.run_id


def root_of(folder: Folder) -> Member:
    """Return the run that *folder* is a retry of, or a retry of a retry; it may be itself.

    Raises `NoSuchRun` when one on the way is gone.
    """
    seen = {folder.run_id}
    manifest = folder.read()
    while manifest.relation == "retry" and manifest.parent and manifest.parent not in seen:
        seen.add(manifest.parent)
        folder = Folder.open(folder.path.parent, manifest.parent)
        manifest = folder.read()
    return Member(folder, manifest)


def with_retries(folder: Folder, manifest: Manifest) -> tuple[Member, ...]:
    """Return the run, then its retries and theirs, oldest first.

    Left out are those that were refused, or never came to check their input:
    they sent nothing.
    """
    found = {folder.run_id: Member(folder, manifest)}
    others = [m for m in _all_retries(folder.path.parent) if m.run_id not in found]
    others.sort(key=lambda member: (member.manifest.created, member.run_id))
    grown = True
    while grown:
        # More than once only where a clock was set back between a retry and its own.
        new = [m for m in others if m.manifest.parent in found and m.run_id not in found]
        found |= {member.run_id: member for member in new}
        grown = bool(new)
    known = list(found.values())
    return (known[0], *sorted(known[1:], key=lambda m: (m.manifest.created, m.run_id)))


@contextmanager
def holding(members: Sequence[Member]) -> Iterator[None]:
    """Let nobody work on *members* meanwhile. Raises `RunLocked` when somebody does."""
    with ExitStack() as held:
        for member in members:
            member.folder.lock()
            held.callback(member.folder.unlock)
        yield


def _all_retries(runs_dir: Path) -> Iterator[Member]:
    for folder in Folder.all(runs_dir):
        try:
            manifest = folder.read()
        except SyncshiftError:
            continue  # of no family that can be known
        started = manifest.state != "refused" and manifest.rows is not None
        if manifest.relation == "retry" and started:
            yield Member(folder, manifest)


def hopeless_rows(file: InputFile) -> tuple[int, tuple[str, ...]]:
    """Return how many rows of a rollback's input cannot be restored, and the first in words."""
    bad, remarks = 0, []
    for sync, row, reason in told(file, "sync_id", ROW, IRREVERSIBLE):
        if reason:
            bad += 1
            if bad <= _NAMED:
                remarks.append(f"sync {sync} (row {row}) stays as it is: {reason}")
    if bad > len(remarks):
        remarks.append(f"… and {bad - len(remarks):,} more")
    return bad, tuple(remarks)
