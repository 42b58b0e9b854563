"""What the one who leads a run reads and writes in the database, statement by statement.

All of it goes by the number under which the run is led: whoever leads it no more changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from runner.engine import Event, Reason, Shard
from runner.errors import RunLocked
from runner.folder import Manifest
from runner.postgres.board import CHANNEL
from runner.postgres.common import SILENT_S, Common, Standing, decode_common, encode
from runner.postgres.database import Row
from runner.postgres.store import Led, as_sent
from runner.record import EVENTS

_BEAT_S = 1.0
_PIECE = 1 << 20
_MOST_EVENTS = 1000
_LOOK = """
SELECT common, extract(epoch FROM clock_timestamp())::float8,
    (SELECT count(*) FROM shard WHERE run = id AND NOT over),
    (SELECT coalesce(max(batch), 0) FROM shard WHERE run = id)
FROM run WHERE id = %s AND lead = %s
"""
_NOBODY_HAS = """
UPDATE shard SET over = true
WHERE run = %s AND NOT over AND (fence = 0 OR NOT worker = ANY(%s))
"""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to hold for all workers from now on; None: as before."""

    stop: Reason | None = None
    rate: float | None = None
    concurrency: int | None = None
    max_failures: str | None = None
    resyncs: int | None = None
    standing: tuple[Standing, ...] = ()
    """Why nobody moves; `until` is counted from now."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """How the workers of a run stand."""

    common: Common
    open: int
    """Shards that are not over."""
    batch: int
    """The last one that was submitted."""
    there: int
    """Workers that carry something."""
    events: list[tuple[str, Event]]
    """What has happened at workers, with the names of these."""


class Lead:
    """The leading of one run. Its methods block; none is called for two at once."""

    def __init__(self, led: Led, events: Path, order: Callable[[str, bytes], bytes]) -> None:
        """*events* are the run's own, which others are to see as well.

        *order* gives the run an order of somebody elsewhere, and returns its reply.
        """
        self.led = led
        self._events = events
        self._order = order
        self._told = events.stat().st_size if events.exists() else 0
        self._pieces = 0
        self._event = 0
        self._beat_at = 0.0
        self._last = Wish()

    def enter(
        self,
        shards: Sequence[Shard],
        batch: int,
        began: str,
        manifest: Manifest,
        connection: psycopg.Connection[Row],
    ) -> None:
        """Enter shards that are to be carried. May be done twice."""
        with connection.transaction():
            common = self._hold(connection)
            common.began = began
            self._put(connection, common)
            connection.execute(
                "UPDATE run SET manifest = %s WHERE id = %s", (as_sent(manifest), self.led.run)
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO shard"
                    " (run, number, batch, first_row, last_row, wave, starts_at)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    [
                        (
                            self.led.run,
                            shard.number,
                            batch,
                            shard.first_row,
                            shard.last_row,
                            shard.wave,
                            shard.starts_at,
                        )
                        for shard in shards
                    ],
                )

    def turn(self, wish: Wish, connection: psycopg.Connection[Row]) -> Seen:
        """Say that the run is led, and what holds; return how the workers stand.

        Raises `RunLocked` when somebody else leads it by now.
        """
        if time.monotonic() - self._beat_at > _BEAT_S:
            self._beat(connection)
        if _news(wish) != _news(self._last):
            self._say(wish, connection)
            self._last = wish
        self._heed_orders(connection)
        row = connection.execute(_LOOK, (self.led.run, self.led.lead)).fetchone()
        if row is None:
            raise self._gone()
        common, now = decode_common(row[0]), row[1]
        if common.sums.stop is not None and row[2]:
            heard = [name for name, one in common.crew.items() if one.seen > now - SILENT_S]
            connection.execute(_NOBODY_HAS, (self.led.run, heard))
        return Seen(
            common=common,
            open=row[2],
            batch=row[3],
            there=common.there(now),
            events=self._happened(connection),
        )

    def hand_in(self, connection: psycopg.Connection[Row], manifest: Manifest) -> None:
        """Put how the run ended where others find it, and lead it no more."""
        self._tell_events(connection)
        connection.execute(
            "UPDATE run SET manifest = %s, led_at = NULL WHERE id = %s AND lead = %s",
            (as_sent(manifest), self.led.run, self.led.lead),
        )

    def _beat(self, connection: psycopg.Connection[Row]) -> None:
        done = connection.execute(
            "UPDATE run SET led_at = clock_timestamp() WHERE id = %s AND lead = %s",
            (self.led.run, self.led.lead),
        )
        if not done.rowcount:
            raise self._gone()
        self._tell_events(connection)
        self._beat_at = time.monotonic()

    def _say(self, wish: Wish, connection: psycopg.Connection[Row]) -> None:
        with connection.transaction():
            common = self._hold(connection)
            now = _now(connection)
            if wish.stop is not None:
                common.end(wish.stop)
            common.rate = wish.rate or common.rate
            common.concurrency = wish.concurrency or common.concurrency
            common.max_failures = wish.max_failures or common.max_failures
            common.resyncs = common.resyncs if wish.resyncs is None else wish.resyncs
            common.standing = tuple(
                Standing(one.reason, one.detail, None if one.until is None else now + one.until)
                for one in wish.standing
            )
            self._put(connection, common)
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self.led.run))

    def _heed_orders(self, connection: psycopg.Connection[Row]) -> None:
        found = connection.execute(
            "SELECT id, who, said FROM orders WHERE run = %s AND reply IS NULL ORDER BY id",
            (self.led.run,),
        ).fetchall()
        for number, who, said in found:
            reply = self._order(who, bytes(said))
            connection.execute("UPDATE orders SET reply = %s WHERE id = %s", (reply, number))

    def _happened(self, connection: psycopg.Connection[Row]) -> list[tuple[str, Event]]:
        found = connection.execute(
            "SELECT id, worker, name, fields FROM event WHERE run = %s AND id > %s"
            " ORDER BY id LIMIT %s",
            (self.led.run, self._event, _MOST_EVENTS),
        ).fetchall()
        events = []
        for number, worker, name, fields in found:
            self._event = number
            known: dict[str, Any] = msgspec.msgpack.decode(fields)
            events.append((worker, Event(name, known)))
        return events

    def _tell_events(self, connection: psycopg.Connection[Row]) -> None:
        """Put what the run's own events have grown by where others find it."""
        if not self._events.exists():
            return
        with self._events.open("rb") as file:
            file.seek(self._told)
            while piece := file.read(_PIECE):
                connection.execute(
                    "INSERT INTO journal (run, shard, name, place, data)"
                    " SELECT id, 0, %s, %s, %s FROM run WHERE id = %s AND lead = %s"
                    " ON CONFLICT (run, shard, name, place) DO UPDATE SET data = excluded.data",
                    (EVENTS, self._pieces + 1, piece, self.led.run, self.led.lead),
                )
                self._told += len(piece)
                self._pieces += 1

    def _hold(self, connection: psycopg.Connection[Row]) -> Common:
        row = connection.execute(
            "SELECT common FROM run WHERE id = %s AND lead = %s FOR NO KEY UPDATE",
            (self.led.run, self.led.lead),
        ).fetchone()
        if row is None:
            raise self._gone()
        return decode_common(row[0])

    def _put(self, connection: psycopg.Connection[Row], common: Common) -> None:
        connection.execute(
            "UPDATE run SET common = %s WHERE id = %s", (encode(common), self.led.run)
        )

    def _gone(self) -> RunLocked:
        return RunLocked(
            f"run {self.led.run} is led by somebody else by now; what was carried is kept"
        )


def _news(wish: Wish) -> object:
    """Return what of a wish is to be said anew when it changes: how long waits last passes."""
    return msgspec.structs.replace(
        wish, standing=tuple(Standing(one.reason, one.detail, None) for one in wish.standing)
    )


def _now(connection: psycopg.Connection[Row]) -> float:
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    return 0.0 if row is None else row[0]
