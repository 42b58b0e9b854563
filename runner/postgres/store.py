"""Puts a run into the database, and gets it out again: on any machine, at any time.

What lies there is the truth of a run that workers carry. A folder of it is a copy, made whole
again by whoever looks: the run's own journals from when this session began, and behind them those
of its shards, as `runner.journal.merge` puts them together.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg

from runner.account import input_of
from runner.errors import DiskFault, RunChanged, RunExists, RunLocked
from runner.folder import MANIFEST, SESSION, Folder, Manifest
from runner.forecast import PLAN
from runner.journal import SHARDS, merge, shard_name
from runner.postgres.board import HEARD_S
from runner.postgres.common import Common, decode_common, encode
from runner.postgres.database import Row, connected
from runner.record import EVENTS, REPORT, UNDO
from runner.secret import Secret

_PIECE = 1 << 20
_SILENT_S = 5.0
"""Whoever led a run and has said nothing for so long leads it no more."""
_JOURNALS = (UNDO, REPORT, EVENTS)


class Led(msgspec.Struct, frozen=True):
    """Whoever leads a run, this time."""

    run: str
    session: int
    """Counts how often it was begun or gone on with."""
    lead: int
    """Counts who led it: whoever has a lower number leads it no more."""


def publish(
    dsn: Secret, folder: Folder, manifest: Manifest, common: Common, *, leads: bool = True
) -> Led:
    """Put a run into the database as its folder has it, for a new session, and lead it.

    What an earlier session has left there is replaced: it is part of the folder by now. Raises
    `RunLocked` when somebody leads it, `RunChanged` when it was gone on with elsewhere since
    the folder was fetched, `RunExists`, `DatabaseAway`.
    """
    run, known = manifest.run_id, session_of(folder)
    with connected(dsn) as connection, connection.transaction():
        row = connection.execute(
            "SELECT session, lead, leader, led_at > clock_timestamp() - make_interval(secs => %s)"
            " FROM run WHERE id = %s FOR NO KEY UPDATE",
            (_SILENT_S, run),
        ).fetchone()
        lead = 1
        if row is not None:
            session, lead, leader, at_work = row
            _must_be_free(run, leader, at_work=bool(at_work))
            if not known:
                raise RunExists(
                    f"there is a run {run} already in the database; choose another --run-id"
                )
            if session != known:
                raise RunChanged(f"run {run} was gone on with elsewhere meanwhile; try again")
            lead += 1
            connection.execute("DELETE FROM run WHERE id = %s", (run,))
        connection.execute(
            "INSERT INTO run (id, session, lead, led_at, leader, manifest, common)"
            " VALUES (%s, %s, %s, CASE WHEN %s THEN clock_timestamp() END, %s, %s, %s)",
            (run, known + 1, lead, leads, _ourselves(), as_sent(manifest), encode(common)),
        )
        for name, path in _files(folder, manifest):
            _put(connection, run, name, path)
    _note(folder, known + 1)
    return Led(run, known + 1, lead)


def fetch(
    dsn: Secret, runs_dir: Path, run: str, *, to_change: bool = False, shards: bool = True
) -> bool:
    """Bring the folder of a run up to date from the database; tell whether it is there.

    A folder somebody is at work on is left alone, and one that is not known there. *to_change*:
    raise `RunLocked` while somebody leads it, and have nobody carry it any more. Without *shards*
    it is as it was when its present session began. Raises `DatabaseAway`, `DiskFault`.
    """
    folder = Folder(runs_dir / run)
    if folder.is_locked():
        return True
    if to_change:
        _take_away(dsn, run)
    with connected(dsn) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = connection.execute(
            "SELECT session, manifest FROM run WHERE id = %s", (run,)
        ).fetchone()
        if row is None:
            return False
        session, manifest = row
        part = runs_dir / f".fetching-{run}-{secrets.token_hex(3)}"
        try:
            part.mkdir(mode=0o700, parents=True)
            _get(connection, run, part, kept=folder.path, shards=shards)
            (part / MANIFEST).write_bytes(bytes(manifest))
            merge(part)
            _put_in_place(part, folder)
        except OSError as error:
            raise DiskFault(
                f"{part}: the run cannot be fetched into it ({error.strerror}); make room, or "
                "choose another --runs-dir"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    _note(folder, session)
    return True


def shards_into(
    connection: psycopg.Connection[Row], run: str, directory: Path, *, batches: range
) -> None:
    """Write the journals of the shards of some batches into a run's folder, and merge them.

    Raises `JournalDamaged`, `DiskFault`, and what psycopg raises.
    """
    pieces = connection.execute(
        "SELECT j.shard, j.name, j.data FROM journal j JOIN shard s ON s.run = j.run"
        " AND s.number = j.shard WHERE j.run = %s AND s.batch >= %s AND s.batch < %s"
        " ORDER BY j.shard, j.name, j.place",
        (run, batches.start, batches.stop),
    )
    _write_shards(pieces, directory)
    merge(directory)


def session_of(folder: Folder) -> int:
    """Return of which session in the database a folder is a copy; 0: it was never there."""
    try:
        return int((folder.path / SESSION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def _note(folder: Folder, session: int) -> None:
    (folder.path / SESSION).write_text(f"{session}\n", encoding="utf-8")


def _take_away(dsn: Secret, run: str) -> None:
    """Have nobody carry a run that nobody leads, and return once nothing more is sent for it.

    Its workers go on for a while without one who leads. What they recorded after it was fetched
    would be lost, so from now on they can record nothing; and what they have sent is to be seen
    by whoever looks at its sync next. Raises `RunLocked` while somebody leads it.
    """
    with connected(dsn) as connection, connection.transaction():
        row = connection.execute(
            "SELECT leader, led_at > clock_timestamp() - make_interval(secs => %s), common,"
            " extract(epoch FROM clock_timestamp())::float8 FROM run WHERE id = %s"
            " FOR NO KEY UPDATE",
            (_SILENT_S, run),
        ).fetchone()
        if row is None:
            return
        leader, at_work, common, now = row
        _must_be_free(run, leader, at_work=bool(at_work))
        left = connection.execute(
            "UPDATE shard SET fence = fence + 1 WHERE run = %s AND NOT over", (run,)
        )
        if not left.rowcount:
            return
        connection.execute(
            "UPDATE run SET session = session + 1, lead = lead + 1 WHERE id = %s", (run,)
        )
    heard = [member.seen for member in decode_common(common).crew.values()]
    time.sleep(max(0.0, max(heard, default=0.0) + HEARD_S - now))


def _must_be_free(run: str, leader: str, *, at_work: bool) -> None:
    if at_work and not _is_dead(leader):
        raise RunLocked(
            f"run {run} is being led by {leader or 'another process'}; wait for it, or stop it "
            f"first: syncshift stop {run}"
        )


def _is_dead(leader: str) -> bool:
    """Tell whether *leader* was a process of this machine that is no more."""
    number, _, host = leader.removeprefix("process ").partition(" on ")
    if host != socket.gethostname() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _ourselves() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def as_sent(manifest: Manifest) -> bytes:
    """Return a manifest whose input lies in its folder, wherever it was read from."""
    told = manifest.input
    if Path(told.file).is_absolute():
        name = f"input.{told.format}" + (f".{told.compression}" if told.compression else "")
        manifest = msgspec.structs.replace(manifest, input=msgspec.structs.replace(told, file=name))
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _files(folder: Folder, manifest: Manifest) -> Iterator[tuple[str, Path]]:
    source = input_of(folder, manifest)
    name = msgspec.json.decode(as_sent(manifest), type=Manifest).input.file
    yield name, source.path
    for other in (PLAN, *_JOURNALS):
        if (folder.path / other).exists():
            yield other, folder.path / other


def _put(connection: psycopg.Connection[Row], run: str, name: str, path: Path) -> None:
    with path.open("rb") as file, connection.cursor() as cursor:
        part = 0
        # An empty file is one all the same: an empty journal says that nothing was sent.
        while (piece := file.read(_PIECE)) or not part:
            part += 1
            cursor.execute(
                "INSERT INTO file (run, name, part, data) VALUES (%s, %s, %s, %s)",
                (run, name, part, zlib.compress(piece, 1)),
            )


def _get(
    connection: psycopg.Connection[Row], run: str, part: Path, *, kept: Path, shards: bool
) -> None:
    """Write what the database has of a run into *part*; an input that is *kept* is not sent."""
    names = [
        n for (n,) in connection.execute("SELECT DISTINCT name FROM file WHERE run = %s", (run,))
    ]
    for name in names:
        if name.startswith("input.") and (kept / name).exists():
            os.link(kept / name, part / name)
            continue
        with (part / name).open("wb") as file, connection.cursor(name="pieces") as cursor:
            cursor.itersize = 8
            cursor.execute(
                "SELECT data FROM file WHERE run = %s AND name = %s ORDER BY part", (run, name)
            )
            for (data,) in cursor:
                file.write(zlib.decompress(data))
    if not shards:
        return
    events = connection.execute(
        "SELECT data FROM journal WHERE run = %s AND shard = 0 ORDER BY place", (run,)
    )
    with (part / EVENTS).open("ab") as file:
        for (data,) in events:
            file.write(data)
    with connection.cursor(name="shards") as cursor:
        cursor.itersize = 64
        cursor.execute(
            "SELECT shard, name, data FROM journal WHERE run = %s AND shard > 0"
            " ORDER BY shard, name, place",
            (run,),
        )
        _write_shards(cursor, part)


def _write_shards(pieces: Iterator[Row] | psycopg.Cursor[Row], directory: Path) -> None:
    """Write pieces of journals, (shard, name, data), in order, to where `merge` finds them."""
    for shard, name, data in pieces:
        place = directory / SHARDS / shard_name(shard)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (place / name).open("ab") as file:
            file.write(data)


def _put_in_place(part: Path, folder: Folder) -> None:
    """Have *part* become the run's folder, or become part of it. The manifest comes last."""
    if not folder.path.exists():
        part.rename(folder.path)
        return
    folder.lock()
    try:
        for path in sorted(part.iterdir(), key=lambda path: path.name == MANIFEST):
            path.replace(folder.path / path.name)
    finally:
        folder.unlock()
