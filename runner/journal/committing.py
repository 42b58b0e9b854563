"""Group commit: several journals are written and synced together, in a thread of their own."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable

from runner.errors import DiskFault
from runner.journal.lines import Journal, write_whole

_SPACING_S = 0.015
"""From one commit to the next while many wait: each costs as much as sending a few rows does."""
_MANY = 12
"""Callers of one commit that make a crowd; fewer are served at once."""


class Committer:
    """Writes and syncs several journals together; callers that overlap share one sync.

    Belongs to one event loop. A write or a sync that fails is never tried
    again: after a failed sync the kernel may have dropped the data, and the
    next one would report success.
    """

    def __init__(
        self,
        *journals: Journal,
        sync: Callable[[int], None] = os.fdatasync,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journals = journals
        self._sync = sync
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []
        self._group: list[asyncio.Future[None]] = []
        self._busy_since: float | None = None
        self._asked = False
        self._began = 0
        self._ended = 0
        self._began_at = 0.0
        self._jobs: queue.SimpleQueue[list[tuple[Journal, bytes]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._thread.start()
        self.failure: DiskFault | None = None
        """Why nothing can be recorded any more."""

    def durable(self) -> asyncio.Future[None]:
        """Return a future that ends once all that was appended so far is on disk.

        It raises `DiskFault` when that failed. Each caller has a future of its
        own, so one that is canceled harms no other.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self.failure is not None:
            future.set_exception(self.failure)
        else:
            self._waiting.append(future)
            self.commit()
        return future

    def commit(self) -> int:
        """Have all that was appended so far written soon; return the number of that commit."""
        self._asked = True
        if self._busy_since is None and self.failure is None:
            self._busy_since = self._clock()
            self._loop.call_soon(self._commit)
        return self._began + 1

    def has_ended(self, commit: int) -> bool:
        """Whether everything of *commit* is on disk. If it failed, `durable` tells why."""
        return commit <= self._ended

    def slow_since(self, now: float, *, patience_s: float = 1.0) -> float | None:
        """Return since when the disk has kept everybody waiting, or None."""
        since = self._busy_since
        return since if since is not None and now - since > patience_s else None

    async def close(self) -> None:
        """Commit what is left, stop the thread, close the files.

        Raises `DiskFault` when the last commit failed.
        """
        try:
            if self.failure is None:
                await self.durable()
        finally:
            self._jobs.put(None)
            self._thread.join()
            for journal in self._journals:
                journal.close()

    def _commit(self) -> None:
        self._busy_since = self._clock()
        self._began_at = self._loop.time()
        self._began += 1
        self._asked = False
        self._group, self._waiting = self._waiting, []
        self._jobs.put([(j, data) for j in self._journals if (data := j.take())])

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._loop.call_soon_threadsafe(self._done, self._write(job))

    def _write(self, job: list[tuple[Journal, bytes]]) -> DiskFault | None:
        """Return once all of *job* is durable, or why it is not. Runs in a thread."""
        try:
            for journal, data in job:
                write_whole(journal.fd, data)
            for journal, _ in job:
                self._sync(journal.fd)
                if os.fstat(journal.fd).st_nlink == 0:
                    raise FileNotFoundError(2, "the file was removed")
        except OSError as error:
            return DiskFault(
                f"{journal.path}: cannot be written ({error.strerror or error}); "
                "nothing more was sent. Make room or mend the disk, then resume the run"
            )
        return None

    def _done(self, failure: DiskFault | None) -> None:
        group, self._group = self._group, []
        if failure is not None:
            self.failure = failure
            group += self._waiting
            self._waiting = []
        else:
            self._ended = self._began
        for future in group:
            if not future.done():
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)
        if not self._asked or failure is not None:
            self._busy_since = None
        elif len(group) < _MANY:
            self._loop.call_soon(self._commit)
        else:
            self._loop.call_at(self._began_at + _SPACING_S, self._commit)
