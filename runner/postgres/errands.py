"""What a worker has done by processes of its own: leading a run, beginning one that was due.

Each is the same command that a person would give, with the worker's own key and folder. One that
is killed has lost nothing, for the next goes on with what lies in the database.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.abc

from runner.log import diagnostics
from runner.postgres.dsn import VARIABLE
from runner.secret import Secret


class Killed(Exception):
    """The process was killed, by us or by somebody else: its errand is for another one."""


class Errands:
    """The processes of one worker. Belongs to one event loop."""

    def __init__(self, dsn: Secret, place: Path) -> None:
        """*place* is the folder in which they keep what they fetch."""
        self._dsn = dsn
        self._place = place
        self._processes: set[anyio.abc.Process] = set()

    async def run(self, words: Sequence[str], *, run: str) -> None:
        """Give a command for *run*, and return once it has ended, however that was.

        Raises `Killed`, and kills it when canceled.
        """
        runs_dir = self._place / run
        runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = await anyio.open_process(
            [sys.executable, "-m", "runner", *words, "--runs-dir", str(runs_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None,
            env={**os.environ, VARIABLE: self._dsn.reveal()},
            # What is pressed at the terminal is for the worker, which then kills it.
            start_new_session=True,
        )
        self._processes.add(process)
        try:
            code = await process.wait()
        finally:
            self._processes.discard(process)
            if process.returncode is None:
                process.kill()
                with anyio.CancelScope(shield=True):
                    await process.wait()
            shutil.rmtree(runs_dir, ignore_errors=True)
        if code < 0:
            raise Killed
        diagnostics().info("errand.ended", run=run, exit_code=code)

    def leave(self) -> None:
        """Kill them all: others go on."""
        for process in self._processes:
            process.kill()
