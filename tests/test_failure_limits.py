"""Where a run stops by itself: exactly where the formula says, and the documents with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.rollout import FailureLimit
from runner.simulator import Behavior, Fault, SyncRecord
from tests.stage import NEW, OLD, Run, Stage, in_fast_motion

ROWS = (1, 10, 50, 1000)
TABLE = {
    "0": ((3, 1), (4, 1), (4, 1), (4, 1)),
    "1": ((3, 1), (4, 2), (4, 2), (4, 2)),
    "3": ((3, 1), (4, 4), (4, 4), (4, 4)),
    "10%": ((3, 1), (3, 10), (4, 20), (4, 20)),
    "50%": ((3, 1), (3, 10), (4, 20), (4, 20)),
}
"""With every row failing: exit code, and rows that had failed when the limit was reached."""
CELLS = [
    (limit, rows, *cell)
    for limit, cells in TABLE.items()
    for rows, cell in zip(ROWS, cells, strict=True)
]


def moves(stage: Stage, rows: int, *, fails_every: int) -> None:
    """Write an input of which one row in *fails_every* is of somebody else's sync."""
    for n in range(1, rows + 1):
        owner = "u1" if n % fails_every else "somebody"
        stage.sim.add(SyncRecord(id=f"s{n}", user=owner, credential_id=OLD))
    stage.write(
        {"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW} for n in range(1, rows + 1)
    )


def fell(run: Run) -> list[bool]:
    """Return, for each outcome in the order of the report, whether the row failed."""
    return [
        line["outcome"] not in {"updated", "unchanged"}
        for line in run.lines
        if line["event"] == "change.settled"
    ]


def trips_at(limit: FailureLimit, failures: list[bool]) -> int | None:
    """Return how many rows had ended when the formula first said stop, worked out by itself."""
    for ended in range(1, len(failures) + 1):
        failed = sum(failures[:ended])
        if limit.rows is not None and failed > limit.rows:
            return ended
        share = limit.percent
        if share is not None and ended >= 20 and failed / ended > share / 100:
            return ended
    return None


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize(("limit", "rows", "code", "failed"), CELLS)
async def test_with_every_row_failing_a_run_stops_where_the_table_says(
    limit: str, rows: int, code: int, failed: int, strict: bool, tmp_path: Path
) -> None:
    """The table of docs/limits.md: exact with --strict, else plus what was in flight."""
    async with Stage(tmp_path, concurrency=4, max_failures=limit, strict=strict) as stage:
        moves(stage, rows, fails_every=1)
        run = await stage.run()
        failures = fell(run)

        assert run.summary.exit_code == code
        assert all(failures)
        if code == 3:
            assert len(failures) == failed == rows
            return
        assert trips_at(FailureLimit.parse(limit), failures) == failed
        in_flight = run.events[-1]["in_flight"]
        if strict:
            assert (len(failures), in_flight) == (failed, 0)
            assert len(stage.audit) == failed
        else:
            assert in_flight <= 4
            # An answer that was there already is in flight no more, and ends its row all the same.
            assert failed <= len(failures) <= failed + in_flight + 4
        assert told_in(run.reason, limit) == (failed, in_flight)


def told_in(reason: str, limit: str) -> tuple[int, int]:
    """Return what a reason says of rows that failed and of requests in flight."""
    assert f"--max-failures allows {limit}" in reason
    failed = re.match(r"([\d,]+) ", reason)
    flying = re.search(r"; (\d+) requests? (?:was|were) in flight and could land", reason)
    assert failed is not None
    assert flying is not None
    return int(failed[1].replace(",", "")), int(flying[1])


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("rows", [10, 50, 1000])
@pytest.mark.parametrize("limit", TABLE)
async def test_with_one_row_in_four_failing_a_run_stops_where_the_formula_says(
    limit: str, rows: int, strict: bool, tmp_path: Path
) -> None:
    """Replayed over the report, the formula says stop at the row at which the run did."""
    async with Stage(tmp_path, concurrency=4, max_failures=limit, strict=strict) as stage:
        moves(stage, rows, fails_every=4)
        run = await stage.run()
        failures = fell(run)
        stop = trips_at(FailureLimit.parse(limit), failures)

        if stop is None:
            assert (run.summary.exit_code, len(failures)) == (3, rows)
            return
        assert run.summary.exit_code == 4
        in_flight = run.events[-1]["in_flight"]
        assert len(failures) - stop <= in_flight + 4
        assert told_in(run.reason, limit) == (sum(failures[:stop]), in_flight)
        if strict:
            assert (len(failures), in_flight) == (stop, 0)
            if "%" not in limit:
                assert sum(failures) == int(limit) + 1


async def test_a_row_that_ends_well_may_be_the_one_that_makes_a_share_count(
    tmp_path: Path,
) -> None:
    """Ten of nineteen failed and nothing was said; the twentieth is good, and the run stops."""
    async with Stage(tmp_path, concurrency=1, max_failures="50%", strict=True) as stage:
        for n in range(1, 41):
            owner = "somebody" if n <= 11 else "u1"
            stage.sim.add(SyncRecord(id=f"s{n}", user=owner, credential_id=OLD))
        stage.write(
            {"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW} for n in range(1, 41)
        )
        run = await stage.run()

        assert fell(run) == [True] * 11 + [False] * 9
        assert run.summary.exit_code == 4
        assert run.reason.startswith(
            "11 of 20 rows failed (55%), and --max-failures allows 50% from 20 ended rows on "
            "(11/20 > 50%); 0 requests were in flight"
        )


@in_fast_motion(20)
async def test_strict_counts_rows_that_are_followed(tmp_path: Path) -> None:
    """A re-sync may still end ERRORED: with 1 allowed, two are under way and two may fail."""
    behavior = Behavior(resync_s=5, errored=1.0)
    async with Stage(tmp_path, until=None, max_resyncs="none", behavior=behavior) as stage:
        stage.plain(20)
        run = await stage.run(max_failures="1", strict=True)

        assert run.counts == {"errored": 2, "unprocessed": 18}
        assert stage.patches.total() == 2
        assert run.summary.waits["strict"] > 0
        assert "under way, and 1 may still fail" in run.held("strict")[0]["detail"]


async def test_strict_goes_on_while_rows_are_kept_back(tmp_path: Path) -> None:
    """Rows that may show a fault of the run wait for others to end, so one more may begin."""
    async with Stage(tmp_path, concurrency=4, strict=True, max_failures="2") as stage:
        stage.plain(12)
        for n in (1, 2):
            stage.sim.script(f"s{n}", "PATCH", [Fault.REDIRECT])
        run = await stage.run()

        assert run.counts == {"updated": 10, "rejected": 2}


async def test_strict_keeps_no_more_back_than_may_fail(tmp_path: Path) -> None:
    """What would exceed the limit if it counted is counted: never more than N + 1 fail."""
    async with Stage(tmp_path, concurrency=4, strict=True, max_failures="1") as stage:
        stage.plain(30)
        for n in (1, 2, 3):
            stage.sim.script(f"s{n}", "PATCH", [Fault.REDIRECT])
        run = await stage.run()

        assert run.counts == {"rejected": 2, "unprocessed": 28}
        assert run.summary.exit_code == 4


async def test_a_resumed_strict_run_counts_what_is_followed_already(tmp_path: Path) -> None:
    """Rows accepted before a crash are under way: no new one begins while they may fail."""
    async with Stage(tmp_path, until="confirmed", strict=True, max_failures="2") as stage:
        stage.plain(12)
        run = await stage.run()
        run.forget(1, 2, 3)
        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 12}
        assert max(stage.patches.values()) == 1


def test_the_documents_have_the_same_table() -> None:
    """docs/limits.md says what the runs above have done."""
    text = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
    header = "| `--max-failures` | " + " | ".join(f"{n:,} row{'s' if n > 1 else ''}" for n in ROWS)
    lines = [
        f"| `{limit}` | " + " | ".join(f"{code}: {failed}" for code, failed in cells) + " |"
        for limit, cells in TABLE.items()
    ]

    assert f"{header} |\n| --- | --- | --- | --- | --- |\n" + "\n".join(lines) + "\n" in text


LIMITS = st.one_of(
    st.integers(0, 30).map(lambda n: FailureLimit(rows=n)),
    st.integers(0, 10_000).map(lambda n: FailureLimit(percent=n / 100)),
)


@given(limit=LIMITS, ended=st.integers(0, 500), share=st.floats(0, 1))
def test_what_may_still_fail_is_exact(limit: FailureLimit, ended: int, share: float) -> None:
    """So many more may fail and the limit is not exceeded on the way; one more exceeds it."""
    failed = round(share * ended)
    if limit.exceeded(failed=failed, ended=ended):
        return
    most = limit.may_still_fail(failed=failed, ended=ended)

    for more in range(min(most, 1000) + 1):
        assert not limit.exceeded(failed=failed + more, ended=ended + more)
    if most < 1000:
        assert limit.exceeded(failed=failed + most + 1, ended=ended + most + 1)


@given(limit=LIMITS, failures=st.lists(st.booleans(), max_size=120))
def test_strict_is_never_overtaken(limit: FailureLimit, failures: list[bool]) -> None:
    """Whatever rows under way come to, the limit is exceeded with nothing else under way."""
    failed = under_way = 0
    for ended, bad in enumerate(failures, 1):
        may_fail = limit.may_still_fail(failed=failed, ended=ended - 1)
        under_way = max(under_way, may_fail, 1) - 1
        failed += bad
        if limit.exceeded(failed=failed, ended=ended):
            assert under_way == 0
            return


@pytest.mark.parametrize(
    ("text", "failed", "ended", "too_many"),
    [("4.35%", 87, 2000, False), ("4.35%", 88, 2000, True), ("0.1%", 1, 1000, False)],
)
def test_shares_are_compared_exactly(text: str, failed: int, ended: int, too_many: bool) -> None:
    """No share is exceeded by what a binary fraction is off by."""
    assert FailureLimit.parse(text).exceeded(failed=failed, ended=ended) is too_many
