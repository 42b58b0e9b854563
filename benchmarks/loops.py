"""The event loops there are to measure on."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

LOOPS = ("asyncio", "uvloop") if importlib.util.find_spec("uvloop") else ("asyncio",)
FASTEST = LOOPS[-1]


def runner_of(loop: str) -> Callable[[Any], Any]:
    """Return what runs a coroutine on *loop*, as `asyncio.run` does."""
    if loop == "asyncio":
        return asyncio.run
    import uvloop

    return uvloop.run
