"""Journals of a shard that lie in the database: the same lines, committed before they count.

Each commit is one statement. It writes only while the shard's fencing number is still ours, so
whoever was given up records nothing more, and sends nothing, for an intent comes before a PATCH.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import psycopg

from runner.errors import DiskFault, LostTouch
from runner.journal import Committer, Journal, scan
from runner.postgres.database import GONE, Row, backoff_s
from runner.secret import Secret

_BRIDGED_S = 2.0
"""A way to the server that is back so soon was never gone; others take over later than that."""
_COMMIT = """
WITH mine AS (
    SELECT 1 FROM shard WHERE run = %(run)s AND number = %(shard)s AND fence = %(fence)s FOR SHARE
)
INSERT INTO journal (run, shard, name, place, data)
SELECT %(run)s, %(shard)s, part.name, part.place, part.data
FROM mine, unnest(%(names)s::text[], %(places)s::int[], %(data)s::bytea[])
    AS part (name, place, data)
ON CONFLICT (run, shard, name, place) DO UPDATE SET data = excluded.data
"""


class Attempt(msgspec.Struct, frozen=True):
    """One worker's go at a shard."""

    run: str
    shard: int
    fence: int
    """Whoever has a lower one than the shard has was given up."""


class Place(msgspec.Struct):
    """Where a journal ends."""

    seq: int = 0
    place: int = 0
    """Of its last piece."""


class KeptJournal(Journal):
    """A journal whose lines go to the database. Nothing reaches it but through a `Committer`."""

    def __init__(self, name: str, end: Place) -> None:
        super().__init__(Path(name), -1, end.seq)
        self.place = end.place

    def close(self) -> None:
        """Nothing is open: its committer has the connection."""


class Keeper:
    """Keeps the journals of one attempt; what `Record` takes as its store."""

    def __init__(self, dsn: Secret, attempt: Attempt, ends: dict[str, Place]) -> None:
        """*ends* tells how far earlier attempts have come."""
        self._dsn = dsn
        self._attempt = attempt
        self._ends = ends

    def open(self, name: str) -> Journal:
        """Return the journal of that name, behind its last line."""
        return KeptJournal(name, self._ends.get(name, Place()))

    def committer(self, *journals: Journal) -> Committer:
        """Return what makes lines durable: group commits, as on a disk."""
        return _Committer(self._dsn, self._attempt, *journals)


class _Committer(Committer):
    def __init__(self, dsn: Secret, attempt: Attempt, *journals: Journal) -> None:
        self._dsn = dsn
        self._attempt = attempt
        self._connection: psycopg.Connection[Row] | None = None
        super().__init__(*journals)

    async def close(self) -> None:
        """Commit what is left, and let go of the connection."""
        try:
            await super().close()
        finally:
            if self._connection is not None:
                self._connection.close()

    def _write(self, job: list[tuple[Journal, bytes]]) -> DiskFault | None:
        if not job:
            return None
        names, places, pieces = [], [], []
        for journal, data in job:
            assert isinstance(journal, KeptJournal)  # noqa: S101  # its keeper has made them
            journal.place += 1
            names.append(journal.path.name)
            places.append(journal.place)
            pieces.append(data)
        gives_up_at, tries = time.monotonic() + _BRIDGED_S, 0
        while True:
            began = time.monotonic()
            try:
                is_ours = self._insert(names, places, pieces)
            except GONE:
                # What was committed without our knowing of it is written once more, the same.
                self._drop()
                if began > gives_up_at:
                    return LostTouch("the database is away")
            else:
                return None if is_ours else LostTouch("the shard was given to another worker")
            time.sleep(backoff_s(tries))
            tries += 1

    def _insert(self, names: list[str], places: list[int], pieces: list[bytes]) -> bool:
        if self._connection is None:
            self._connection = psycopg.connect(self._dsn.reveal(), autocommit=True)
        attempt = self._attempt
        done = self._connection.execute(
            _COMMIT,
            {
                "run": attempt.run,
                "shard": attempt.shard,
                "fence": attempt.fence,
                "names": names,
                "places": places,
                "data": pieces,
            },
        )
        return bool(done.rowcount)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def ends_of(
    connection: psycopg.Connection[Row], run: str, shard: int, into: Path
) -> dict[str, Place]:
    """Write what a shard's journals hold into a folder, and return where each ends.

    Raises `JournalDamaged`, and what psycopg raises.
    """
    ends: dict[str, Place] = {}
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = connection.execute(
        "SELECT name, place, data FROM journal WHERE run = %s AND shard = %s ORDER BY name, place",
        (run, shard),
    )
    for name, place, data in found:
        with (into / name).open("ab" if name in ends else "wb") as file:
            file.write(data)
        ends[name] = Place(place=place)
    for name, end in ends.items():
        end.seq = max((line.seq for line in scan(into / name)), default=0)
    return ends
