"""Where requests wait for the throttle; everybody leaves when it closes.

The throttle says when; this says who, and does the sleeping. A write goes before
reads that wait: what was read of its row should still be true. Rows that are
about to write wait *before* their intent is recorded for as long as nobody
could send it anyway, so that a crash leaves few rows in doubt.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from runner.throttle import Throttle

_LOOK_AHEAD_S = 0.25
_TIMER_GRAIN_S = 0.0015
"""Event loops wake late by up to about this much; nearer departures are met by turning the loop."""


class Closing(Exception):  # not an error: the run ends, and the row stays as it is
    """No more requests leave; whoever waits gives up its turn."""


class Turnstile:
    """Lets requests leave when the throttle says so. Belongs to one event loop."""

    def __init__(self, throttle: Throttle, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.throttle = throttle
        self._clock = clock
        self._queue: deque[asyncio.Future[None]] = deque()
        self._writes: deque[asyncio.Future[None]] = deque()
        self._aspirants: deque[asyncio.Future[None]] = deque()
        self._approaching = 0
        interval = throttle.interval_s
        paced = math.ceil(_LOOK_AHEAD_S / interval) if interval else math.inf
        self._look_ahead = max(1, min(2 * throttle.ceiling, paced))
        self._timer: asyncio.Handle | None = None
        self._closed = asyncio.Event()
        self.sleeping = 0
        """How many are in `sleep`."""

    @property
    def closed(self) -> bool:
        """Whether nobody passes any more."""
        return self._closed.is_set()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue) + len(self._writes)

    async def approach(self) -> None:
        """Wait until a write that is recorded now could soon leave. Follow with `enter`.

        Raises `Closing`.
        """
        if self.closed:
            raise Closing
        if self._aspirants or not self._has_room():
            future = asyncio.get_running_loop().create_future()
            self._aspirants.append(future)
            self._pump()
            await self._turn(future, self._aspirants, self._withdraw)
        else:
            self._approaching += 1

    def withdraw(self) -> None:
        """Give up an approach that will not be followed by `enter`."""
        self._withdraw()

    async def enter(self, *, approached: bool = False, probe: bool = False) -> None:
        """Return when a request may leave, its slot taken; `leave` gives the slot back.

        Raises `Closing`.
        """
        try:
            if self.closed:
                raise Closing
            if probe:
                await self._probe()
            elif self._queue or self._writes:
                await self._wait(self._writes if approached else self._queue)
            elif (wait := self.throttle.take(self._clock())) > 0:
                self._set_timer(wait)
                await self._wait(self._writes if approached else self._queue)
        finally:
            if approached:
                self._withdraw()

    def leave(self) -> None:
        """Give the slot of a request back."""
        self.throttle.give_back()
        if self._queue or self._writes or self._aspirants:
            self._pump()

    def nudge(self) -> None:
        """Look again: a hold was set, moved or lifted."""
        self._pump()

    async def sleep(self, seconds: float) -> None:
        """Sleep, holding neither slot nor turn. Raises `Closing` as soon as it closes."""
        self.sleeping += 1
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._closed.wait()
        except TimeoutError:
            return
        finally:
            self.sleeping -= 1
        raise Closing

    async def until_closed(self) -> None:
        """Return once nobody passes any more."""
        await self._closed.wait()

    def close(self) -> None:
        """Let nobody pass any more, and wake everybody who waits."""
        self._closed.set()
        self._stop_timer()
        for queue in (self._writes, self._queue, self._aspirants):
            while queue:
                future = queue.popleft()
                if not future.done():
                    future.set_exception(Closing())

    async def _probe(self) -> None:
        # A probe has no queue: it is the only one that may pass an outage.
        while (wait := self.throttle.take(self._clock(), probe=True)) > 0:
            await self.sleep(min(wait, 0.05))

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        """Queue up. Whoever waits at the head has a timer, or a slot to come back, to wake it."""
        while True:
            future = asyncio.get_running_loop().create_future()
            queue.append(future)
            await self._turn(future, queue, self.leave)
            if not self.closed and not self.throttle.is_held(self._clock()):
                return
            # A hold began between the turn and this moment: nobody starts inside it.
            self.leave()
            if self.closed:
                raise Closing
            # Once this one stands in the queue again.
            asyncio.get_running_loop().call_soon(self._pump)

    async def _turn(
        self,
        future: asyncio.Future[None],
        queue: deque[asyncio.Future[None]],
        undo: Callable[[], None],
    ) -> None:
        try:
            await future
        except asyncio.CancelledError:
            # It may have been taken out of the queue since, without having had its turn.
            if future in queue:
                queue.remove(future)
            elif not future.cancelled() and future.exception() is None:
                undo()
            raise

    def _pump(self) -> None:
        now = self._clock()
        self._stop_timer()
        wait = math.inf
        while queue := self._writes or self._queue:
            wait = self.throttle.take(now)
            if wait > 0:
                break
            future = queue.popleft()
            if future.done():
                self.throttle.give_back()
            else:
                future.set_result(None)
        while self._aspirants and self._has_room():
            future = self._aspirants.popleft()
            if not future.done():
                self._approaching += 1
                future.set_result(None)
        if self._aspirants and not self.waiting:
            # A hold that stays ends with a nudge; looking for its end would never stop.
            ends = (hold.until - now for hold in self.throttle.holds(now) if not hold.stays)
            wait = min(ends, default=math.inf)
        self._set_timer(wait)

    def _has_room(self) -> bool:
        return self._approaching < self._look_ahead and not self.throttle.is_held(self._clock())

    def _withdraw(self) -> None:
        self._approaching -= 1
        if self._aspirants:
            self._pump()

    def _set_timer(self, wait: float) -> None:
        if wait == math.inf or self.closed:
            return  # a slot that comes back, or a nudge, is what wakes the next one
        self._stop_timer()
        loop = asyncio.get_running_loop()
        if wait < _TIMER_GRAIN_S:
            self._timer = loop.call_soon(self._pump)
        else:
            self._timer = loop.call_later(max(_TIMER_GRAIN_S, wait - _TIMER_GRAIN_S), self._pump)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
