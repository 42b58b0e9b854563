"""Where lists of syncs end: weighed, put in the order of the users, written down."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from runner.errors import DiskFault, RunStopped, SettingsError, SyncshiftError
from runner.job import CREDENTIAL, FREQUENCY
from runner.listing import Found, Listed
from runner.model import Change, Outcome
from runner.newtable import NewTable
from runner.pipeline import Stop, Tally
from runner.rollout import Suspicions
from runner.rows import inert
from runner.users import SHOWN_PROBLEMS, User, Users

CARRIED = ("integration", "pipeline", "status")
"""What a list tells of a sync that no job changes; carried along for whoever reads the file."""
LISTED, UNLISTED = "listed", "unlisted"
_MOST_PENDING = 20_000
"""Rows that wait for those of an earlier user; beyond, order is given up for memory."""


class Unlisted(msgspec.Struct, frozen=True):
    """A user whose syncs were not told."""

    line: int
    user_id: str
    reason: str


def columns_for(users: Users) -> tuple[str, ...]:
    """Return the columns of the file, in order."""
    wanted = {
        CREDENTIAL.name: "credential_id" in users.asks,
        FREQUENCY.name: "frequency" in users.asks,
        CREDENTIAL.expected_name: bool(users.asks & {"credential_id", "bound_to"}),
    }
    return ("sync_id", "user_id", *(name for name, there in wanted.items() if there), *CARRIED)


def question_of(user: User) -> Change:
    """Return what is asked of a user's syncs, and what they are to be."""
    wish = user.wish
    desired = {CREDENTIAL.name: wish.credential_id, FREQUENCY.name: wish.frequency}
    return Change(
        user.number,
        user.line,
        "",
        user.user_id,
        {name: value for name, value in desired.items() if value},
        {CREDENTIAL.name: wish.bound_to} if wish.bound_to else None,
    )


class Desk:
    """Where lists end: weighed, put in the order of the users, written down."""

    def __init__(
        self, users: Users, output: Path | None, standard_output: TextIO, *, stop: Stop
    ) -> None:
        """Raises `SettingsError` when a file is there already or cannot be made."""
        self.tally = Tally(counts={LISTED: 0, UNLISTED: 0})
        self._users = users
        self._stop = stop
        self._columns = columns_for(users)
        self._output = output
        for path in () if output is None else (output, unlisted_beside(output)):
            if path.exists():
                raise SettingsError(
                    f"{path}: is there already; choose another --output, or move it"
                )
        self._file = NewTable(output, standard_output)
        self._beside = None if output is None else NewTable(unlisted_beside(output))
        self._suspicions: Suspicions[Found] = Suspicions(users=users.count)
        self._ended = bytearray(users.count + 1)
        self._pending: list[tuple[int, Found]] = []
        self._pending_rows = 0
        self._next = 1
        self.syncs = 0
        """Rows that were written."""
        self.without_syncs = 0
        """Users who were listed, and have no sync that is meant."""
        self.without: list[str] = []
        """The first of them."""
        self.problems: list[Unlisted] = []
        """The first users who are missing."""
        self._made = self._made_beside = False
        self._file.write(self._columns)

    def end(self, ending: Found) -> None:
        """Take in what came of one user; it may be kept back for a while."""
        try:
            for free in self._suspicions.weigh(ending):
                self._take(free)
        except RunStopped as fault:
            self._stop(fault)

    def end_known(self, outcome: Outcome) -> None:
        """Do nothing: every user is asked for."""

    def set_aside(self) -> None:
        """A user is turned away for longer than anybody waits; `close` tells of whoever is left."""

    def acquit(self) -> None:
        """The file of users has ended: what was kept back ends as it was found."""
        for found in self._suspicions.acquit():
            self._take(found)

    def commit(self) -> int:
        """Do nothing: the file counts when it is whole."""
        return 0

    async def durable(self, mark: int | None = None) -> None:
        """Return at once."""

    def close(self, reason: SyncshiftError | None) -> None:
        """Write what is left, and put the files in their places."""
        self._settle(most_rows=-1)
        if reason is not None:
            why = f"not asked for: {reason}"
            for user in self._users:
                if not self._ended[user.number]:
                    self._miss(user, why)
        try:
            self._made = self._file.close()
            if self._beside is not None:
                self._made_beside = self._beside.close()
        except OSError as error:
            self._stop(_cannot_write(self._output, error))

    @property
    def file(self) -> str | None:
        """The file that was made; None: rows went to standard output, or none could be made."""
        return str(self._output) if self._made else None

    @property
    def beside(self) -> str | None:
        """The file of the users who are missing; None when none was made."""
        return str(self._beside.path) if self._beside and self._made_beside else None

    def _take(self, found: Found) -> None:
        self._ended[found.asked.row] = True
        self.tally.ended += 1
        self.tally.counts[LISTED if found.ruling is None else UNLISTED] += 1
        heapq.heappush(self._pending, (found.asked.row, found))
        self._pending_rows += 1 + len(found.syncs)
        self._settle(most_rows=_MOST_PENDING)

    def _settle(self, *, most_rows: int) -> None:
        """Write what is next in the order of the users, and what is too much to keep."""
        while self._pending and (
            self._pending[0][0] == self._next or self._pending_rows > most_rows
        ):
            number, found = heapq.heappop(self._pending)
            self._next = number + 1
            self._pending_rows -= 1 + len(found.syncs)
            self._write(found)

    def _write(self, found: Found) -> None:
        if found.ruling is not None:
            asked = found.asked
            wish = {**asked.desired, CREDENTIAL.expected_name: _bound_to(asked)}
            self._note(asked.line, asked.user_id, wish, found.ruling.error or "not told")
            return
        if not found.syncs:
            self.without_syncs += 1
            if len(self.without) < SHOWN_PROBLEMS:
                self.without.append(found.user_id)
        try:
            for sync in found.syncs:
                self._file.write(_row(self._columns, found.asked, sync))
        except OSError as error:
            self._stop(_cannot_write(self._output, error))
        self.syncs += len(found.syncs)

    def _miss(self, user: User, why: str) -> None:
        question = question_of(user)
        wish = {**question.desired, CREDENTIAL.expected_name: _bound_to(question)}
        self._note(user.line, user.user_id, wish, why)

    def _note(self, line: int, user_id: str, wish: dict[str, str], why: str) -> None:
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(Unlisted(line, user_id, why))
        if self._beside is None:
            return
        names = self._users.names
        try:
            if not self._beside.lines:
                self._beside.write((*names, "reason"))
            cells = {**wish, "user_id": user_id}
            self._beside.write((*(cells.get(name, "") for name in names), inert(why)))
        except OSError as error:
            self._stop(_cannot_write(self._beside.path, error))


def unlisted_beside(output: Path) -> Path:
    """Return where the users go whose syncs are missing in *output*."""
    return output.with_name(f"{output.name.removesuffix('.csv')}.unlisted.csv")


def _bound_to(asked: Change) -> str:
    return (asked.expected or {}).get(CREDENTIAL.name, "")


def _row(columns: tuple[str, ...], asked: Change, sync: Listed) -> Iterator[str]:
    cells = {
        "sync_id": sync.sync_id,
        "user_id": asked.user_id,
        **asked.desired,
        # Whoever filtered may have done it wrong; a run looks again before it writes.
        CREDENTIAL.expected_name: _bound_to(asked) or sync.credential_id or "",
        **{name: inert(getattr(sync, name)) for name in CARRIED},
    }
    return (cells.get(name, "") for name in columns)


def _cannot_write(path: Path | None, error: OSError) -> DiskFault:
    where = "standard output" if path is None else str(path)
    return DiskFault(f"{where}: cannot be written ({error.strerror}); make room and begin anew")
