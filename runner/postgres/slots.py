"""How many shards a worker has at once: one that is under way, and others that are only followed.

A slot is a worker of the queue that takes one task at a time. Another one is opened once all rows
of the present shard were taken, and a slot whose shard has ended closes while another is open.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.abc

from runner.postgres.tasks import Taker

_MOST_SLOTS = 3


class Slot:
    """One place for a shard."""

    worker: Taker
    """What fetches the tasks for it; set once it is made."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the shard that it has; None: it waits for one."""
        self.is_read = False
        """All rows of that were taken: it needs little of this process any more."""


class Slots:
    """The slots of one worker, from its connection to the database to the loss of it."""

    def __init__(self, make: Callable[[], Slot]) -> None:
        """*make* returns a new slot, which is not at work yet."""
        self._make = make
        self._slots: list[Slot] = []
        self._changed = anyio.Event()
        self._closing = False

    async def run(self) -> None:
        """Have slots, as many as are wanted, until it was closed and all are empty.

        Raises what a worker of the queue raises: then the database is away.
        """
        async with anyio.create_task_group() as group:
            while not (self._closing and not self._slots):
                if self._wants_more():
                    slot = self._make()
                    self._slots.append(slot)
                    group.start_soon(self._work, slot)
                await self._changed.wait()
                self._changed = anyio.Event()

    def take(self, slot: Slot, number: int) -> None:
        """Take in that a slot has a shard."""
        slot.number, slot.is_read = number, False

    def read(self, number: int) -> None:
        """Take in that all rows of a shard were taken: there is room for another one."""
        for slot in self._slots:
            if slot.number == number and not slot.is_read:
                slot.is_read = True
                self._changed.set()

    def done(self, slot: Slot) -> None:
        """Take in that a slot's shard has ended."""
        slot.number, slot.is_read = None, False
        if sum(not other.is_read for other in self._slots) > 1:
            slot.worker.stop()

    def close(self, patience_s: float) -> None:
        """Take no more shards; those that are there may take so long to end."""
        self._closing = True
        self._changed.set()
        for slot in self._slots:
            slot.worker.shutdown_graceful_timeout = patience_s
            slot.worker.stop()

    def _wants_more(self) -> bool:
        has_room = not self._closing and len(self._slots) < _MOST_SLOTS
        return has_room and all(slot.is_read for slot in self._slots)

    async def _work(self, slot: Slot) -> None:
        try:
            await slot.worker.run()
        finally:
            self._slots.remove(slot)
            self._changed.set()
