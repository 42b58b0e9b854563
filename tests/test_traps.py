"""Traps that the files of single modules do not show: what the whole does about them today."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from runner.journal import scan
from runner.record import UNDO
from runner.simulator import Fault
from tests.stage import NEW, OLD, OTHER, Stage


async def test_i11_no_two_rows_of_one_sync_are_ever_in_flight(tmp_path: Path) -> None:
    """Of rows for one sync one is sent, even when it is retried; those that differ are invalid."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        fields = ("sync_id", "user_id", "credential_id")
        stage.write(
            dict(zip(fields, row, strict=True))
            for row in [
                ("s1", "u1", NEW),
                ("s2", "u1", NEW),
                ("s1", "u1", NEW),
                ("s3", "u1", NEW),
                ("s3", "u1", OTHER),
                ("s1", "u1", NEW.upper()),
            ]
        )
        stage.sim.script("s1", "PATCH", [Fault.HTTP_503, Fault.HTTP_500])

        run = await stage.run(skip_invalid=True, max_failures="100%")

        assert [run.outcomes[row]["outcome"] for row in range(1, 7)] == [
            "updated",
            "updated",
            "duplicate",
            "invalid",
            "invalid",
            "duplicate",
        ]
        assert [line["row"] for line in run.intents if line["sync_id"] == "s1"] == [1]
        assert stage.patches == {"s1": 3, "s2": 1}
        assert run.outcomes[1]["attempts"] == 3


async def test_d11_no_patch_leaves_before_its_before_image_is_on_disk(tmp_path: Path) -> None:
    """While the disk keeps a before-image waiting its PATCH waits too, and leaves afterwards."""
    async with Stage(tmp_path) as stage:
        stage.plain(6)
        opened = stage.open()
        undo = opened.folder.path / UNDO
        held, free = threading.Event(), threading.Event()

        def sync(fd: int) -> None:
            if undo.stat().st_size and os.fstat(fd).st_ino == undo.stat().st_ino:
                held.set()
                assert free.wait(30)
            os.fdatasync(fd)

        carrying = asyncio.create_task(stage.carry(opened, sync=sync))
        assert await asyncio.to_thread(held.wait, 30)
        asked = asyncio.Event()
        stage.when(lambda: len(stage.audit) >= 5, asked.set)
        if len(stage.audit) < 6:
            await asyncio.wait_for(asked.wait(), 30)
        written = {line.data for line in scan(undo)}
        sent_meanwhile = sum(stage.patches.values())
        free.set()
        run = await carrying

        assert written
        assert sent_meanwhile == 0
        assert run.counts == {"updated": 6}
        assert {line["row"]: line["before"]["credential_id"] for line in run.intents} == (
            dict.fromkeys(range(1, 7), OLD)
        )


async def test_d11_a_disk_that_fails_before_the_first_before_image_sends_nothing(
    tmp_path: Path,
) -> None:
    """With a before-image that could not be recorded there is no PATCH, and the row is left."""
    async with Stage(tmp_path) as stage:
        stage.plain(6)
        opened = stage.open()
        undo = opened.folder.path / UNDO

        def sync(fd: int) -> None:
            if undo.stat().st_size and os.fstat(fd).st_ino == undo.stat().st_ino:
                raise OSError(5, "Input/output error")
            os.fdatasync(fd)

        run = await stage.carry(opened, sync=sync)

        assert sum(stage.patches.values()) == 0
        assert run.counts == {"unprocessed": 6}
        assert run.summary.exit_code == 4
