"""The queue: which tasks there are, by name. Their arguments name things, and hold no secret.

A task finds the worker that it runs at in its context, and has that do the work. A task that ends
with an exception goes back into the queue; so does one whose worker leaves.
"""

from __future__ import annotations

from typing import Any, Protocol

import procrastinate
from procrastinate import JobContext, RetryStrategy
from procrastinate.worker import Worker

from runner.secret import Secret

SHARDS = "shards"
RETURNED = "returned"
"""Shards of dead workers: others take them up at once, beside what they carry."""
LEADING = "leading"
UPKEEP = "upkeep"
"""A queue of its own: what is stalled is found also while every shard is being carried."""

SHARD = "syncshift.shard"
LEAD = "syncshift.lead"
BEGIN = "syncshift.begin"
RETURN = "syncshift.return_stalled"

STATION = "station"
SLOT = "slot"
"""Under these names a task finds its worker, and its place there."""
DEAD_S = 5
"""Whoever has not been heard of for so long is given up."""
LET_GO_S = 0.5
"""So long a task may take to end itself when the database is away."""
_POLL_S = 0.5
_HEARTBEAT_S = 1.0
_EVERY_2_S = "* * * * * */2"
_AGAIN = RetryStrategy(wait=1)


class Taker(Protocol):
    """A worker of the queue: it takes tasks, and has them done."""

    shutdown_graceful_timeout: float | None
    """So long its tasks may take to end once it is to stop."""

    def stop(self) -> None:
        """Take no more tasks."""
        ...

    async def run(self) -> None:
        """Take tasks until told to stop, and those that were taken have ended."""
        ...


class Station(Protocol):
    """A worker, as its tasks see it."""

    async def carry(self, slot: Any, run: str, session: int, number: int) -> None:
        """Carry a shard."""
        ...

    async def lead(self, run: str) -> None:
        """Lead a run that nobody follows."""
        ...

    async def begin(self, schedule: str, run: str) -> None:
        """Begin the run of a schedule, and lead it."""
        ...

    async def return_stalled(self) -> None:
        """Put back what dead workers had taken."""
        ...


# Two, because each worker of the queue looks after the periodic tasks of its own app.
carrying = procrastinate.App(connector=procrastinate.PsycopgConnector())
keeping = procrastinate.App(connector=procrastinate.PsycopgConnector())


@carrying.task(name=SHARD, queue=SHARDS, pass_context=True, retry=_AGAIN)
async def shard(context: JobContext, *, run: str, session: int, number: int) -> None:
    """Carry one shard of a run."""
    slot = context.additional_context.get(SLOT)
    await _station(context).carry(slot, run, session, number)


@keeping.task(name=LEAD, queue=LEADING, pass_context=True, retry=_AGAIN)
async def lead(context: JobContext, *, run: str) -> None:
    """Lead a run."""
    await _station(context).lead(run)


@keeping.task(name=BEGIN, queue=LEADING, pass_context=True, retry=_AGAIN)
async def begin(context: JobContext, *, schedule: str, run: str) -> None:
    """Begin the run of a schedule, and lead it."""
    await _station(context).begin(schedule, run)


@keeping.periodic(cron=_EVERY_2_S)
@keeping.task(name=RETURN, queue=UPKEEP, queueing_lock=RETURN, pass_context=True)
async def return_stalled(context: JobContext, timestamp: int) -> None:
    """Put back what dead workers had taken."""
    await _station(context).return_stalled()


def taker(
    app: procrastinate.App, queue: str, *, many: int, name: str, context: dict[str, Any]
) -> Taker:
    """Return what takes *many* tasks of *queue* at a time; they find *context* with them."""
    made: Any = Worker(
        app,
        queues=[queue],
        name=name,
        concurrency=many,
        fetch_job_polling_interval=_POLL_S,
        shutdown_graceful_timeout=LET_GO_S,
        delete_jobs="always",
        additional_context=context,
        install_signal_handlers=False,
        update_heartbeat_interval=_HEARTBEAT_S,
        stalled_worker_timeout=DEAD_S,
    )
    taking: Taker = made
    return taking


def bare(dsn: Secret) -> procrastinate.App:
    """Return what puts tasks into the queue, by their names alone."""
    return procrastinate.App(connector=connector_to(dsn))


def connector_to(dsn: Secret) -> procrastinate.PsycopgConnector:
    """Return what connects an app to the database; it gives up soon when that is away."""
    return procrastinate.PsycopgConnector(
        conninfo=dsn.reveal(), min_size=1, max_size=8, timeout=3.0, reconnect_timeout=3.0
    )


def _station(context: JobContext) -> Station:
    station: Station = context.additional_context[STATION]
    return station
