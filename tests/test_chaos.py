"""Everything goes wrong at once, and every row still ends once, as the server has it."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import pytest

from runner.results import FAILED_FILE, SUCCEEDED_FILE, UNPROCESSED_FILE
from runner.simulator import PASSING, Fault, Faults
from tests.stage import Run, Stage, in_fast_motion

pytestmark = pytest.mark.no_cover

SLOWING = (Fault.HTTP_429, Fault.HTTP_503_WAIT)
STRANGE = (
    Fault.NOT_JSON,
    Fault.OTHER_ID,
    Fault.OTHER_DATA,
    Fault.OVERSIZED,
    Fault.GZIP_BOMB,
)
FILES = (SUCCEEDED_FILE, FAILED_FILE, UNPROCESSED_FILE)


def assert_every_row_is_accounted_for(stage: Stage, run: Run) -> None:
    """The input, the outcomes, the result files and the server tell the same story."""
    with stage.source.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    told = [row for name in FILES for row in run.table(name)]
    told.sort(key=lambda row: int(row["syncshift_row"]))
    own = [[row[name] for name in header] for row in told]
    assert own == rows

    outcomes, snapshot = run.outcomes, stage.sim.snapshot()
    assert sum(run.summary.counts.values()) == run.summary.rows == len(rows)
    assert len(outcomes) == len(rows) - run.summary.counts["unprocessed"]
    for line in outcomes.values():
        if line["outcome"] == "updated":
            assert snapshot[line["sync_id"]].credential_id == line["desired"]["credential_id"]
    attempts = {line["sync_id"]: line["attempts"] for line in outcomes.values()}
    seen = stage.patches
    # A connection that the server closed behind a good answer may swallow a request unseen.
    assert all(0 <= n - seen[sync_id] <= 1 for sync_id, n in attempts.items())


def assert_all_kinds_were_met(stage: Stage) -> None:
    """No kind of fault was left out by chance."""
    assert {entry.fault for entry in stage.audit} >= {fault.value for fault in PASSING}


@pytest.mark.parametrize(
    ("rows", "users"), [(1_200, 60), pytest.param(10_000, 500, marks=pytest.mark.long)]
)
@in_fast_motion(40)
async def test_i13_rows_that_meet_faults_of_every_kind(
    rows: int, users: int, tmp_path: Path
) -> None:
    """I13: a tenth of the rows meets faults; each row ends once, and as the server has it."""
    async with Stage(tmp_path, faults=Faults.mixed(0.1), timeout=600) as stage:
        stage.seed(rows, users=users, extra={"note": 'a "quoted", cell'})
        run = await stage.run()

        assert_all_kinds_were_met(stage)
        assert_every_row_is_accounted_for(stage, run)
        assert run.counts == {"updated": rows}
        assert stage.in_force() == rows
        assert run.summary.exit_code == 0


@in_fast_motion(40)
async def test_i13_rows_that_meet_fault_after_fault_end_once_as_well(tmp_path: Path) -> None:
    """I13: every request of every row may go wrong twice; what failed failed once, and is named."""
    # A few answers in a row that speak of something else would rightly stop the run. One answer
    # of seven that asks for less would rightly slow it, and nothing else be seen for that.
    kinds = [fault for fault in PASSING if fault not in (*STRANGE, *SLOWING)]
    faults = Faults.mixed(1.0, faults_per_row=2, slow_s=0.01, kinds=kinds)
    async with Stage(tmp_path, faults=faults, timeout=600) as stage:
        stage.seed(250, users=50)
        run = await stage.run(max_failures="100%", max_attempts=2)

        assert_every_row_is_accounted_for(stage, run)
        assert (
            run.counts["updated"] + run.counts["exhausted"] + run.counts.get("rejected", 0) == 250
        )
        assert run.counts["exhausted"] > 10
        failed = run.table(FAILED_FILE)
        assert all(row["syncshift_error_class"] and row["syncshift_error"] for row in failed)


@in_fast_motion(20)
async def test_a2_a_rows_token_is_its_users(tmp_path: Path) -> None:
    """A2: 600 rows of 200 users, 64 at once, with faults: no row is asked as another user."""
    async with Stage(
        tmp_path, faults=Faults.mixed(0.1, slow_s=0.05), timeout=600, concurrency=64
    ) as stage:
        owners = {record.id: record.user for record in stage.seed(600, users=200)}
        run = await stage.run()

        asked_as_another = [e for e in stage.audit if e.user not in {None, owners[e.sync_id or ""]}]
        assert asked_as_another == []
        assert run.counts == {"updated": 600}


@pytest.mark.long
async def test_i13_ten_thousand_rows_with_faults_in_real_time(tmp_path: Path) -> None:
    """I13: the same in real time, so that no promise rests on a hasty clock."""
    faults = msgspec.structs.replace(Faults.mixed(0.1), retry_after_s=0.1)
    async with Stage(tmp_path, faults=faults) as stage:
        stage.seed(10_000, users=500)
        run = await stage.run()

        assert_all_kinds_were_met(stage)
        assert_every_row_is_accounted_for(stage, run)
        assert run.counts == {"updated": 10_000}
