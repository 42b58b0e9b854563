"""Journals of shards become part of the run's own, whenever somebody is killed on the way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.errors import DiskFault, JournalDamaged
from runner.folder import Folder
from runner.journal import SHARDS, Journal, merge, scan, shard_name
from runner.journal import merging as there


def _write(path: Path, rows: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path, -1, 0)
    for row in rows:
        journal.append(b'{"v":1,"row":%d}' % row)
    path.write_bytes(journal.take())


def _rows(path: Path) -> list[int]:
    return [msgspec.json.decode(line.data)["row"] for line in scan(path)]


def _run(place: Path) -> None:
    """Leave behind what two shards and an earlier session have written."""
    for name in ("undo.jsonl", "report.jsonl"):
        _write(place / name, [1, 2])
        # As text, 10 would come before 9.
        _write(place / SHARDS / shard_name(10) / name, [6, 5])
        _write(place / SHARDS / shard_name(9) / name, [4, 3])


def _check(place: Path) -> None:
    for name in ("undo.jsonl", "report.jsonl"):
        assert _rows(place / name) == [1, 2, 4, 3, 6, 5]
    assert sorted(path.name for path in place.iterdir()) == ["report.jsonl", "undo.jsonl"]


def test_lines_of_shards_follow_the_runs_own_in_the_order_of_the_shards(tmp_path: Path) -> None:
    """Each line stands once, numbered and sealed anew, and nothing is left of the shards."""
    _run(tmp_path)

    assert merge(tmp_path)

    _check(tmp_path)
    assert not merge(tmp_path)


class _Killed(BaseException):
    """The process ends here."""


def _kill_at(calls: int, patch: pytest.MonkeyPatch) -> None:
    """End the process at the call with that number to anything that changes the disk."""
    left = iter(range(calls))

    def deadly(act: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if next(left, None) is None:
                raise _Killed
            return act(*given, **named)

        return call

    for name in ("write_file", "write_whole", "sync_directory"):
        patch.setattr(there, name, deadly(getattr(there, name)))
    patch.setattr(os, "fsync", deadly(os.fsync))
    patch.setattr(os, "truncate", deadly(os.truncate))
    patch.setattr(shutil, "rmtree", deadly(shutil.rmtree))
    patch.setattr(Path, "rename", deadly(Path.rename))


@pytest.mark.parametrize("calls", range(16))
def test_killed_at_any_step_it_is_done_anew(tmp_path: Path, calls: int) -> None:
    """Whatever step was the last one: afterwards every line is there, once."""
    _run(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        _kill_at(calls, patch)
        try:
            merge(tmp_path)
        except _Killed:
            pass
        else:
            assert calls > 8, "it takes more steps than that"
    with pytest.MonkeyPatch.context() as patch:
        _kill_at(calls // 2, patch)
        with contextlib.suppress(_Killed):
            merge(tmp_path)

    merge(tmp_path)

    _check(tmp_path)


def test_torn_tails_are_left_out_and_damage_is_refused(tmp_path: Path) -> None:
    """Half a line at the end was never written; a bad line in the middle refuses the run."""
    _run(tmp_path)
    torn = tmp_path / SHARDS / shard_name(9) / "report.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"v":1,"ro')
    merge(tmp_path)
    _check(tmp_path)

    other = tmp_path / "other"
    _run(other)
    bad = other / SHARDS / shard_name(9) / "undo.jsonl"
    bad.write_bytes(bad.read_bytes().replace(b'"row":4', b'"row":7'))

    with pytest.raises(JournalDamaged, match="00009/undo"):
        merge(other)
    assert _rows(other / SHARDS / shard_name(10) / "undo.jsonl") == [6, 5]


def test_a_disk_that_refuses_leaves_the_shards_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do, and the next attempt finds everything."""
    _run(tmp_path)

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(there, "write_whole", full)
        with pytest.raises(DiskFault, match=r"No space left on device.*Nothing is lost"):
            merge(tmp_path)

    merge(tmp_path)

    _check(tmp_path)


def test_whoever_opens_a_run_finds_its_journals_whole(tmp_path: Path) -> None:
    """Opening a run whose processes were killed merges first; one that is at work is let be."""
    place = tmp_path / "x"
    _run(place)
    (place / "run.json").write_text("{}")
    busy = Folder(place)
    busy._lock = (place / "lock").open("wb")
    there_now = Folder(place)
    fcntl.flock(busy._lock, fcntl.LOCK_EX)
    Folder.open(tmp_path, "x")
    assert (place / SHARDS).exists()
    assert there_now.is_locked()
    busy.unlock()

    Folder.open(tmp_path, "x")

    assert _rows(place / "report.jsonl") == [1, 2, 4, 3, 6, 5]
    assert not (place / SHARDS).exists()
