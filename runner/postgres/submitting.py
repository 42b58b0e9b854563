"""Puts work into the queue."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from itertools import groupby

from procrastinate.exceptions import ConnectorException
from procrastinate.types import JSONDict

from runner.engine import Shard
from runner.postgres.database import GONE, away
from runner.postgres.store import Led
from runner.postgres.tasks import LEAD, LEADING, SHARD, SHARDS, bare
from runner.secret import Secret

_SHARD_S = 45.0
_FREE_PER_S = 100.0
"""Rows a second of one worker, where nobody says at which rate."""
_REQUESTS_A_ROW = 2
_A_FEW = 3
_FEWEST_ROWS = 50
_SHARDS = 12
"""So many at least, where there are rows enough: the last ones end at about the same time."""


def parts_of(rate: float | None) -> Callable[[int], int]:
    """Return what tells into how many shards so many rows are cut.

    Each is about three quarters of a minute for one of a few workers: short enough to be carried
    anew, long enough not to count.
    """
    per_s = _FREE_PER_S if rate is None else min(_FREE_PER_S, rate / _REQUESTS_A_ROW / _A_FEW)
    longest = max(_FEWEST_ROWS, _SHARD_S * per_s)
    return lambda rows: max(1, math.ceil(rows / longest), min(_SHARDS, rows // _FEWEST_ROWS))


async def defer(dsn: Secret, led: Led, shards: Sequence[Shard]) -> None:
    """Have workers take *shards*, each not before it starts. Raises `DatabaseAway`."""
    try:
        async with bare(dsn).open_async() as app:
            for moment, group in groupby(shards, key=lambda shard: shard.starts_at):
                at = None if moment is None else datetime.datetime.fromisoformat(moment)
                deferrer = app.configure_task(SHARD, queue=SHARDS, schedule_at=at)
                known: JSONDict = {"run": led.run, "session": led.session}
                await deferrer.batch_defer_async(
                    *({**known, "number": shard.number} for shard in group)
                )
    except (ConnectorException, *GONE) as error:
        raise away(dsn, error) from None


async def defer_lead(dsn: Secret, run: str) -> None:
    """Have a worker lead *run*. Raises `DatabaseAway`."""
    try:
        async with bare(dsn).open_async() as app:
            await app.configure_task(LEAD, queue=LEADING).defer_async(run=run)
    except (ConnectorException, *GONE) as error:
        raise away(dsn, error) from None
