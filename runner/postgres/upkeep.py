"""Puts back into the queue what dead workers had taken.

A task that is put back is a new one: the old one is gone, so that its worker, should it wake up,
ends nothing but its own work.
"""

from __future__ import annotations

import contextlib

import msgspec
import procrastinate
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Status

from runner.postgres.tasks import BEGIN, DEAD_S, LEAD, RETURNED, SHARD

LOST = "worker.lost"
_LOST = """
INSERT INTO event (run, worker, name, fields)
SELECT run, worker, %(name)s, %(fields)s FROM shard
WHERE run = %(run)s AND number = %(shard)s AND worker <> ''
"""


async def return_stalled(app: procrastinate.App) -> int:
    """Put back all that dead workers had, and return how many tasks that were.

    Raises what procrastinate raises when the database is away.
    """
    returned = 0
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=DEAD_S):
        # Whoever else does so at the same moment makes a second task; the fence tells them apart.
        if job.task_name in {SHARD, LEAD, BEGIN}:
            queue = RETURNED if job.task_name == SHARD else job.queue
            await app.configure_task(job.task_name, queue=queue).defer_async(**job.task_kwargs)
            returned += 1
        if job.task_name == SHARD:
            await app.connector.execute_query_async(
                _LOST,
                name=LOST,
                fields=msgspec.msgpack.encode({}),
                run=job.task_kwargs["run"],
                shard=job.task_kwargs["number"],
            )
        with contextlib.suppress(ConnectorException):
            await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)
    return returned
