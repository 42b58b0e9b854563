"""What tests of runs with several processes have in common."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

from tests.commands import NEW, Command, Stage, journal, table, until

MOVE = ("run", "migrate-credentials")
UNMEASURED: dict[str, str | None] = {"COVERAGE_PROCESS_CONFIG": None}
"""Who is killed writes no coverage, and measuring would only slow it down."""


def children_of(pid: int) -> list[int]:
    """Return the processes that *pid* has forked and that are alive."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                stat = (place / "stat").read_text(encoding="utf-8")
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(place.name))
    return sorted(found)


def workers_of(command: Command) -> list[int]:
    """Return the processes that carry rows for *command*: the children of its only child."""
    return [pid for nursery in children_of(command.pid) for pid in children_of(nursery)]


def kill(pid: int) -> None:
    """Kill one process that a test has started; it may be gone by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def until_alone(pids: list[int]) -> None:
    """Return once none of *pids* is alive."""
    until(lambda: not [pid for pid in pids if _is_alive(pid)], "those who carried have left")


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def check_whole(stage: Stage, rows: int, before: dict[str, str], *, run_id: str = "x") -> None:
    """See that every row has one outcome and its first before-image, and was changed once."""
    folder = stage.folder(run_id)
    undo, report = (journal(folder / f"{name}.jsonl") for name in ("undo", "report"))
    assert sorted(line["row"] for line in report) == list(range(1, rows + 1))
    assert {line["outcome"] for line in report} == {"updated"}
    first: dict[int, dict[str, str]] = {}
    for line in undo:
        first.setdefault(line["row"], line["before"])
        assert line["before"] == {"credential_id": before[line["sync_id"]]}
        assert line["desired"] == {"credential_id": NEW}
    assert len(first) == len(undo) == rows
    acted = Counter(entry.sync_id for entry in stage.asked("PATCH") if entry.acted)
    assert len(acted) == rows
    assert set(acted.values()) == {1}
    assert len(table(folder / "succeeded.csv")) == rows
    assert not (folder / "shards").exists()


def most_in(moments: list[float], window_s: float) -> int:
    """Return the most of *moments* that lie within any *window_s*."""
    moments = sorted(moments)
    most = behind = 0
    for ahead, moment in enumerate(moments):
        while moments[behind] <= moment - window_s:
            behind += 1
        most = max(most, ahead - behind + 1)
    return most
