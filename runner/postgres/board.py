"""What the workers of a run share, as one of them sees it: a `Board` over the database.

Every word holds the run's row while it is weighed, so all workers see one ledger. A board that
has lost touch is never used again: whoever had it gives up what went by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
import msgspec
import psycopg

from runner.engine import GivenUp, Lease, Orders, Reason, Shard, Told
from runner.errors import LostTouch
from runner.log import diagnostics
from runner.postgres.common import Common, decode_common, encode
from runner.postgres.database import GONE
from runner.postgres.departing import SILENT_MS, Departures
from runner.secret import Secret

CHANNEL = "syncshift"
"""Who listens there hears the name of each run that has news for all of its workers."""
FRESH_S = 3.0
"""Nothing is sent when the last word is older: the shards may be somebody else's by then."""
HEARD_S = 4.0
"""A shard is taken from nobody who was heard of so lately: it may still send something."""
_MOST_ATTEMPTS = 50
_LET_GO_S = 1.0
_LOOK_EVERY_S = 0.1
_READ = """
SELECT r.common, extract(epoch FROM clock_timestamp())::float8, s.fence,
    extract(epoch FROM clock_timestamp() - r.led_at)::float8
FROM run r JOIN shard s ON s.run = r.id AND s.number = %s
WHERE r.id = %s AND r.session = %s FOR NO KEY UPDATE OF r
"""

_HOLD = """
SELECT common, extract(epoch FROM clock_timestamp())::float8 FROM run
WHERE id = %s AND session = %s FOR NO KEY UPDATE
"""


class Begun(msgspec.Struct, frozen=True):
    """A shard that was taken up."""

    shard: Shard
    began: str
    """When the run, or its wave, began to send."""


_BY_ANOTHER = Begun(Shard(0, 0, 0), "")


class SqlBoard:
    """The board of one run at one worker. Belongs to one event loop; enter it to have it work."""

    def __init__(
        self,
        dsn: Secret,
        run: str,
        session: int,
        *,
        worker: str,
        base_url: str,
        on_read: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*worker* is what it is called.

        *on_read* is told of each shard all of whose rows were taken.
        """
        self._dsn = dsn
        self._run = run
        self._session = session
        self._worker = worker
        self._on_read = on_read
        self._clock = clock
        self._departures = Departures(dsn, base_url, run=run, worker=worker)
        self._words = anyio.Lock()
        self._rate: float | None = None
        self._touched = clock()
        self._lost = False
        self._leaving = False
        self._carried = 0

    async def __aenter__(self) -> Self:
        dsn = self._dsn.reveal()
        self._telling = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        # A process that is stopped in the middle of a word must not keep all others waiting.
        await self._telling.execute(f"SET idle_in_transaction_session_timeout = {SILENT_MS}")
        await self._departures.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lost = True
        await self._telling.close()
        await self._departures.close()

    @property
    def is_lost(self) -> bool:
        """Whether everything that went by it has to be given up."""
        return self._lost

    def is_fresh(self) -> bool:
        """Whether nobody can have taken our shards yet. Once it is not, it never is again."""
        if self._carried and self._clock() - self._touched > FRESH_S:
            self._lose("silence")
        return not self._lost

    def leave(self) -> None:
        """From now on no shard ends here: what is left of each is for others."""
        self._leaving = True

    async def join(self) -> int:
        """Return how many requests may be in flight here, once others have let go of so many.

        Raises what psycopg does.
        """
        gives_up_at = self._clock() + _LET_GO_S
        while True:
            async with self._words, self._telling.transaction():
                found = await self._telling.execute(_HOLD, (self._run, self._session))
                row = await found.fetchone()
                if row is None:
                    return 1
                common = decode_common(row[0])
                share, is_fair = common.join(self._worker, now=row[1])
                self._rate = common.rate
                await self._write(common)
            if is_fair or self._clock() > gives_up_at:
                return share
            await anyio.sleep(_LOOK_EVERY_S)

    async def batch_of(self, number: int) -> int | None:
        """Return with which batch a shard was submitted; None: it is of another session."""
        async with self._words:
            found = await self._telling.execute(
                "SELECT s.batch FROM shard s JOIN run r ON r.id = s.run"
                " WHERE s.run = %s AND r.session = %s AND s.number = %s",
                (self._run, self._session, number),
            )
            row = await found.fetchone()
        return None if row is None else row[0]

    async def begin(self, number: int) -> Begun | None:
        """Take up a shard; None: it is over, or of another session.

        Waits until whoever had it before can send nothing more for it. Tell `done` afterwards.
        Raises `GivenUp`, and what psycopg does.
        """
        while True:
            if not self.is_fresh():
                raise GivenUp
            with anyio.CancelScope(shield=True):
                begun = await self._begin(number)
            if begun is not _BY_ANOTHER:
                return begun
            await anyio.sleep(_LOOK_EVERY_S)

    async def _begin(self, number: int) -> Begun | None:
        """Try to take up a shard; `_BY_ANOTHER` while that may still send something."""
        began = self._clock()
        async with self._words, self._telling.transaction():
            row = await self._read(number)
            if row is None:
                return None
            common, now, fence, _ = row
            worker, over, first, last, wave, starts_at = await self._one(
                "SELECT worker, over, first_row, last_row, wave, starts_at"
                " FROM shard WHERE run = %s AND number = %s",
                (self._run, number),
            )
            if over:
                return None
            heard = common.crew.get(worker)
            if worker != self._worker and heard is not None and heard.seen > now - HEARD_S:
                return _BY_ANOTHER
            if fence >= _MOST_ATTEMPTS:
                common.end(_hopeless(number, fence))
            shard = Shard(number, first, last, wave, fence + 1, starts_at)
            common.begin(shard)
            await self._telling.execute(
                "UPDATE shard SET fence = %s, worker = %s WHERE run = %s AND number = %s",
                (shard.fence, self._worker, self._run, number),
            )
            await self._write(common)
        if not self._carried:
            self._touched = began
        self._carried += 1
        self._rate = common.rate
        return Begun(shard, common.began)

    def done(self) -> None:
        """Take in that nothing is carried any more of a shard that was begun."""
        self._carried -= 1

    async def tell(self, told: Told) -> Orders:
        """Tell of a shard, and return what holds from now on. Raises `GivenUp`."""
        await anyio.lowlevel.checkpoint()  # here it may be canceled, and nowhere below
        began = self._clock()
        if told.fault is not None and told.fault.kind == LostTouch.__name__:
            self._lost = True
        if not self.is_fresh() or (self._leaving and told.is_over):
            raise GivenUp
        try:
            # A word that is broken off would break the connection, which other shards share.
            with anyio.fail_after(FRESH_S, shield=True):
                orders = await self._tell(told)
        except (*GONE, TimeoutError) as error:
            self._lose(f"{type(error).__name__}: {error}")
            raise GivenUp from None
        self._touched = max(self._touched, began)
        if told.is_read:
            self._on_read(told.shard)
        if self._leaving:
            orders = msgspec.structs.replace(orders, stop=orders.stop or _LEAVING)
        return orders

    async def _tell(self, told: Told) -> Orders:
        async with self._words, self._telling.transaction():
            row = await self._read(told.shard)
            if row is None or row[2] != told.fence:
                raise GivenUp
            common, now, _, led_s = row
            concerns_all = common.take(self._worker, told, now=now)
            orders = common.orders(self._worker, told.shard, now=now, led_s=led_s)
            for event in told.events:
                await self._telling.execute(
                    "INSERT INTO event (run, worker, name, fields) VALUES (%s, %s, %s, %s)",
                    (self._run, self._worker, event.name, msgspec.msgpack.encode(event.fields)),
                )
            if told.is_over:
                await self._telling.execute(
                    "UPDATE shard SET over = true WHERE run = %s AND number = %s",
                    (self._run, told.shard),
                )
            await self._write(common)
            if concerns_all or told.is_over:
                await self._telling.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._run))
        self._rate = common.rate
        return orders

    async def lease(self, departures: int) -> Lease | None:
        """Return departures from the one line of the host. Raises `GivenUp`."""
        if self._rate is None:
            return None
        try:
            return await self._departures.lease(departures, self._rate)
        except (*GONE, TimeoutError) as error:
            self._lose(f"{type(error).__name__}: {error}")
            raise GivenUp from None

    async def farewell(self) -> None:
        """Say that this worker carries nothing of the run any more: others need not wait."""
        async with self._words, self._telling.transaction():
            found = await self._telling.execute(_HOLD, (self._run, self._session))
            row = await found.fetchone()
            if row is not None:
                common = decode_common(row[0])
                if common.crew.pop(self._worker, None) is not None:
                    await self._write(common)

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            diagnostics().warning("run.let_go", run=self._run, why=why)

    async def _read(self, number: int) -> tuple[Common, float, int, float | None] | None:
        found = await self._telling.execute(_READ, (number, self._run, self._session))
        row = await found.fetchone()
        return None if row is None else (decode_common(row[0]), row[1], row[2], row[3])

    async def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        row = await (await self._telling.execute(query.encode(), values)).fetchone()
        assert row is not None  # noqa: S101  # its run is held
        return row

    async def _write(self, common: Common) -> None:
        await self._telling.execute(
            "UPDATE run SET common = %s WHERE id = %s", (encode(common), self._run)
        )


_LEAVING = Reason("RunFault", "this worker leaves")


def _hopeless(number: int, attempts: int) -> Reason:
    return Reason(
        "RunFault",
        f"shard {number} was begun {attempts} times, and no worker has lived to its end. See "
        "what kills them, then resume the run",
    )
