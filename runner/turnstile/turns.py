"""A request's turn to leave, and what ends the wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeAlias

from runner.throttle import Lane


class Closing(Exception):  # not an error: the run ends, and the row stays as it is
    """No more requests leave; whoever waits gives up its turn."""


class SetAside(Closing):  # nor is this one
    """A row's user is turned away for longer than the run waits; the others go on."""


class Turn:
    """A request that waits for its turn, and then the lane through which it goes."""

    __slots__ = ("future", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.future: asyncio.Future[Lane | None] = asyncio.get_running_loop().create_future()


Queue: TypeAlias = deque[Turn]


def end_all(queue: Queue, why: type[Closing]) -> None:
    """End the wait of everybody in *queue*."""
    while queue:
        future = queue.popleft().future
        if not future.done():
            future.set_exception(why())
