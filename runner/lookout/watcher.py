"""Looks at one run no more often than it has to, however many people watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.to_thread

from runner.errors import SyncshiftError
from runner.lookout.sight import Sight
from runner.page import Now

TICK_S = 1.0
_FRESH_S = 0.5
_REST = 9
"""A picture may take a tenth of one processor: what takes long is made less often."""


class Watcher:
    """What is seen of one run, for everybody who watches it. Belongs to one event loop."""

    def __init__(
        self, sight: Sight, *, tick_s: float = TICK_S, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self.number = 0
        """Which picture is the newest one; 0: there is none."""
        self._sight = sight
        self._tick_s = tick_s
        self._steady = steady
        self._page = b""
        self._due_at = 0.0
        self._now: Now | None = None
        self._seen_at = 0.0
        self._looking = asyncio.Lock()
        self._painting = asyncio.Lock()
        self._painter: asyncio.Task[None] | None = None

    async def page(self) -> bytes:
        """Return the page, not much older than it takes to make. Raises as `Sight` does."""
        async with self._painting:
            if not self._page or self._steady() >= self._due_at:
                await self._paint(await self.now())
        return self._page

    async def now(self) -> Now:
        """Return how the run stands. Raises as `Sight` does."""
        async with self._looking:
            if self._now is None or self._steady() - self._seen_at >= _FRESH_S:
                self._now = await anyio.to_thread.run_sync(self._sight.now)
                self._seen_at = self._steady()
            return self._now

    async def follow(self) -> AsyncIterator[tuple[Now, int]]:
        """Yield how the run stands and which picture is the newest, until the run has ended.

        The last one says that nothing is at work, and its picture shows the end. Raises as
        `Sight` does.
        """
        while True:
            now = await self.now()
            if not now.at_work:
                break
            self._paint_meanwhile(now)
            yield now, self.number
            await anyio.sleep(self._tick_s)
        async with self._painting:
            await self._paint(now)
        yield now, self.number

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._painter is not None:
            await asyncio.wait([self._painter])

    def _paint_meanwhile(self, now: Now) -> None:
        under_way = self._painter is not None and not self._painter.done()
        if not under_way and self._steady() >= self._due_at:
            self._painter = asyncio.create_task(self._paint_quietly(now))

    async def _paint_quietly(self, now: Now) -> None:
        async with self._painting:
            try:
                await self._paint(now)
            except SyncshiftError:
                # Whoever asks for the page is told why there is none.
                self._page, self._due_at = b"", 0.0

    async def _paint(self, now: Now) -> None:
        began = self._steady()
        self._page = await anyio.to_thread.run_sync(self._sight.picture, now, self.number + 1)
        self.number += 1
        cost_s = self._steady() - began
        self._due_at = self._steady() + max(self._tick_s, _REST * cost_s)
