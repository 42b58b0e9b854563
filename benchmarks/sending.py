"""Sends a whole input to a server, as Syncshift does or as a bare loop would; counts its own CPU.

Run as a process of its own, by `rows` and `memory`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.child import measured, peak_mb, tell
from benchmarks.loops import runner_of

CONCURRENCY = 64


class Sent(msgspec.Struct, frozen=True):
    """What one pass over an input took."""

    cpu_s: float
    """User and system time from the start of sending to its end, journals included."""
    gross_cpu_s: float
    """The same of the whole process: imports, the check of the input, result files."""
    wall_s: float
    """From the start of sending to its end."""
    peak_mb: float
    """The most memory that the process held."""
    minting_s: float = 0.0
    """Of a bare loop: how much of its CPU went into signing tokens."""


class _Watch:
    """Takes the time of sending."""

    def __init__(self) -> None:
        self._began = self._ended = (0.0, 0.0)

    def begin(self) -> None:
        self._began = (time.process_time(), time.perf_counter())

    def lap(self) -> None:
        """Sending has gone on until now at least."""
        self._ended = (time.process_time(), time.perf_counter())

    def read(self) -> Sent:
        cpu_s, wall_s = (b - a for a, b in zip(self._began, self._ended, strict=True))
        return Sent(cpu_s, time.process_time(), wall_s, peak_mb())


def sent_by(who: str, *, loop: str, base_url: str, source: Path, key: str, directory: Path) -> Sent:
    """Have *who*, ``ours`` or ``bare``, send *source* in a process of its own."""
    return measured(
        "sending",
        who,
        loop,
        base_url,
        source,
        directory,
        kind=Sent,
        environment={"PARAGON_SIGNING_KEY": key},
    )


def ours(base_url: str, source: Path, directory: Path, run: Callable[[Any], Any]) -> Sent:
    """Send *source* with Syncshift: ``run migrate-credentials --no-read --until accepted``."""
    from runner.log import configure
    from runner.opening import open_new
    from runner.run import carry_out
    from runner.settings import resolve

    configure("warning")
    watch = _Watch()
    flags = {
        "base-url": base_url,
        "project-id": "benchmark",
        "runs-dir": str(directory),
        "concurrency": CONCURRENCY,
        "no-read": True,
        "until": "accepted",
    }
    resolved = resolve(flags, environment=os.environ, directory=directory)
    opened = open_new("migrate-credentials", str(source), resolved, copies=False, warn=print)

    def sync(fd: int) -> None:
        os.fdatasync(fd)
        # The last commit of the journals is the end of sending.
        watch.lap()

    summary = run(carry_out(opened, show=lambda _: watch.begin(), sync=sync))
    assert summary.counts["updated"] == opened.checked.rows, summary.counts
    return watch.read()


def bare(base_url: str, source: Path, run: Callable[[Any], Any]) -> Sent:
    """Send *source* as one would without Syncshift: nothing recorded, nothing tried again.

    Its rows are in memory before the time counts.
    """
    with source.open(newline="", encoding="utf-8") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    watch, minter = _Watch(), _Minter()
    run(_bare(base_url, rows, watch, minter))
    return msgspec.structs.replace(watch.read(), minting_s=minter.taken_s)


class _Minter:
    """A token for each user, signed when it is first needed, on the spot."""

    def __init__(self) -> None:
        from runner.secret import Secret
        from runner.tokens import load_signing_key

        secret = Secret(os.environ["PARAGON_SIGNING_KEY"])
        self._key = load_signing_key(secret, origin="the benchmark")
        self._headers: dict[str, str] = {}
        self.taken_s = 0.0

    def header(self, user_id: str) -> str:
        header = self._headers.get(user_id)
        if header is None:
            began, now = time.thread_time(), int(time.time())
            claims = {"sub": user_id, "aud": "useparagon.com/benchmark"}
            header = "Bearer " + self._key.sign({**claims, "iat": now, "exp": now + 3600})
            self._headers[user_id] = header
            self.taken_s += time.thread_time() - began
        return header


async def _bare(base_url: str, rows: list[tuple[str, ...]], watch: _Watch, minter: _Minter) -> None:
    import aiohttp

    watch.begin()
    free = asyncio.Semaphore(CONCURRENCY)
    async with aiohttp.ClientSession() as session:

        async def change(sync_id: str, user_id: str, credential_id: str) -> None:
            async with (
                free,
                session.patch(
                    f"{base_url}/api/syncs/{sync_id}",
                    json={"credentialId": credential_id},
                    headers={"Authorization": minter.header(user_id)},
                ) as answer,
            ):
                await answer.json()

        await asyncio.gather(*(change(*row) for row in rows))
        watch.lap()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=("ours", "bare"))
    parser.add_argument("loop")
    parser.add_argument("base_url")
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    told = parser.parse_args()
    run = runner_of(told.loop)
    if told.who == "ours":
        tell(ours(told.base_url, told.source, told.directory, run))
    else:
        tell(bare(told.base_url, told.source, run))


if __name__ == "__main__":
    _main()
