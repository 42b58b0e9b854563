"""The runs of which one worker carries shards: each is opened when needed, and closed later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from runner.engine import GivenUp, Reason
from runner.errors import DatabaseAway, RunFault, SyncshiftError
from runner.log import diagnostics
from runner.postgres.common import decode_common, encode
from runner.postgres.database import GONE, connected
from runner.postgres.hand import Hand
from runner.secret import Secret
from runner.settings import Resolved

_IDLE_S = 20.0
"""A run of which nothing was carried for so long is let go of."""
_SWEEP_S = 1.0
_REFUSED_S = 5.0


class NotHere(Exception):
    """This worker could not carry a shard to its end: it is for another try, here or elsewhere."""


class _Place:
    """A run that is carried here, or will be in a moment."""

    def __init__(self) -> None:
        self.opening = anyio.Lock()
        self.hand: Hand | None = None
        self.ends = anyio.Event()


class Crews:
    """All runs of one worker. Belongs to one event loop; `run` has them live."""

    def __init__(
        self,
        dsn: Secret,
        resolved: Resolved,
        *,
        scratch: Path,
        worker: str,
        on_read: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._dsn = dsn
        self._resolved = resolved
        self._scratch = scratch
        self._worker = worker
        self._on_read = on_read
        self._warn = warn
        self._places: dict[tuple[str, int], _Place] = {}
        self._group: anyio.abc.TaskGroup | None = None
        self._opened = 0

    async def run(self) -> None:
        """Have runs live until canceled; all of them end with this."""
        try:
            async with anyio.create_task_group() as self._group:
                while True:
                    await anyio.sleep(_SWEEP_S)
                    self._sweep()
        finally:
            self._places.clear()

    async def carry(self, run: str, session: int, number: int) -> None:
        """Carry a shard. Raises `NotHere` when it did not come to its end here."""
        try:
            hand = await self._hand(run, session)
            if hand is not None:
                await hand.carry(number)
        except (GivenUp, DatabaseAway, *GONE):
            if await anyio.to_thread.run_sync(self._is_ours, run, session, number):
                raise NotHere from None
        except SyncshiftError as error:
            # Its key, its project, its disk: another worker may be better off.
            self._warn(f"run {run} cannot be carried here: {error}")
            await anyio.sleep(_REFUSED_S)
            raise NotHere from None
        except Exception as error:  # noqa: BLE001  # the run ends, and this worker goes on
            diagnostics().error("worker.broke", error=type(error).__name__)
            why = Reason.of(
                RunFault(
                    f"a worker met an unexpected {type(error).__name__}; this is a fault of "
                    "Syncshift. The run can be resumed"
                )
            )
            await anyio.to_thread.run_sync(self._end, run, session, why)
            raise NotHere from None

    def nudge(self, run: str) -> None:
        """Have every shard of a run say a word now."""
        for (name, _), place in self._places.items():
            if name == run and place.hand is not None:
                place.hand.carrier.nudge()

    def leave(self) -> None:
        """Let what is in flight land, and leave the rest of every shard to others."""
        for place in self._places.values():
            if place.hand is not None:
                place.hand.leave()

    async def _hand(self, run: str, session: int) -> Hand | None:
        """Return what carries *run*; None: that session of it is over."""
        if not await anyio.to_thread.run_sync(self._is_present, run, session):
            return None
        key = (run, session)
        place = self._places.get(key)
        if place is None or (place.hand is not None and place.hand.is_spent):
            self._let_go(key)
            place = self._places[key] = _Place()
        async with place.opening:
            if place.hand is None:
                if self._group is None:
                    raise NotHere
                place.hand = await self._group.start(self._live, key, place)
        hand: Hand = place.hand
        return hand

    async def _live(
        self,
        key: tuple[str, int],
        place: _Place,
        *,
        task_status: anyio.abc.TaskStatus[Hand | SyncshiftError],
    ) -> None:
        self._opened += 1
        hand = Hand(
            self._dsn,
            *key,
            resolved=self._resolved,
            scratch=self._scratch / f"{self._opened}",
            # A name of its own: once it has lost touch nobody of that name is heard of again.
            worker=f"{self._worker}/{self._opened}",
            on_read=self._on_read,
            warn=self._warn,
        )
        async with hand:
            task_status.started(hand)
            await place.ends.wait()

    def _sweep(self) -> None:
        now = time.monotonic()
        for key, place in list(self._places.items()):
            hand = place.hand
            if hand is not None and not hand.busy and now - hand.used_at > _IDLE_S:
                self._let_go(key)

    def _let_go(self, key: tuple[str, int]) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            place.ends.set()

    def _is_present(self, run: str, session: int) -> bool:
        with connected(self._dsn) as connection:
            row = connection.execute(
                "SELECT 1 FROM run WHERE id = %s AND session = %s", (run, session)
            ).fetchone()
        return row is not None

    def _is_ours(self, run: str, session: int, number: int) -> bool:
        """Tell whether a shard is still for us: nobody else has taken it up, and it is not over."""
        with connected(self._dsn) as connection:
            row = connection.execute(
                "SELECT 1 FROM shard s JOIN run r ON r.id = s.run WHERE s.run = %s"
                " AND r.session = %s AND s.number = %s AND NOT s.over"
                " AND (s.worker = '' OR starts_with(s.worker, %s))",
                (run, session, number, f"{self._worker}/"),
            ).fetchone()
        return row is not None

    def _end(self, run: str, session: int, why: Reason) -> None:
        with connected(self._dsn) as connection, connection.transaction():
            row = connection.execute(
                "SELECT common FROM run WHERE id = %s AND session = %s FOR NO KEY UPDATE",
                (run, session),
            ).fetchone()
            if row is not None:
                common = decode_common(row[0])
                common.end(why)
                connection.execute(
                    "UPDATE run SET common = %s WHERE id = %s", (encode(common), run)
                )
