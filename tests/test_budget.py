"""The re-sync budget: never more unfinished re-syncs than were asked for, whatever happens."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.budget import ALL, Budget, Share
from runner.forecast import rounds_of
from runner.model import Change, Outcome, OutcomeKind
from runner.settings import Settings
from runner.simulator import AuditEntry, Behavior, Fault, Faults
from runner.steps import Work
from runner.tickets import budget_of, urgent_first
from tests import commands
from tests.stage import BOTH, FREQUENCY, NEW, OLD, Stage, in_fast_motion

BEFORE = "2026-01-05T08:30:22.990Z"
UNMEASURED: dict[str, str | None] = {"COVERAGE_PROCESS_CONFIG": None}


def most_unfinished(audit: Iterable[AuditEntry], *, resync_s: float) -> int:
    """Return how many re-syncs the simulator had at a time, each from its PATCH to its end."""
    began: dict[str, list[float]] = {}
    for entry in audit:
        if entry.method == "PATCH" and entry.acted:
            began.setdefault(entry.sync_id or "", []).append(entry.at_monotonic_s)
    # Of a sync that was sent twice the last one counts to its end.
    moments = sorted(
        (at_s, change)
        for times in began.values()
        for at_s, change in ((min(times), 1), (max(times) + resync_s, -1))
    )
    unfinished = most = 0
    for _, change in moments:
        unfinished += change
        most = max(most, unfinished)
    return most


# ------------------------------------------------------------------------------------ arithmetic


def test_there_are_so_many_tickets_and_no_more() -> None:
    """A full budget lacks room until one is given back, and then tells so."""
    budget, room = Budget(2), list[Share]()
    budget.room = room.append
    budget.take(1, ())
    budget.take(2, ())

    assert budget.lacks(()) == ALL
    assert (budget.unfinished, room) == (2, [])

    budget.give_back(1)

    assert budget.lacks(()) is None
    assert (budget.unfinished, room) == (1, [ALL])


def test_a_ticket_is_held_once() -> None:
    """Taking or giving back twice changes nothing."""
    budget = Budget(2)
    budget.take(1, (("user", "a"),))
    budget.take(1, (("user", "a"),))
    budget.give_back(9)

    assert (budget.unfinished, budget.taken(("user", "a"))) == (1, 1)

    budget.give_back(1)
    budget.give_back(1)

    assert (budget.unfinished, budget.taken(("user", "a"))) == (0, 0)


def test_each_value_of_a_key_has_its_own_limit() -> None:
    """One user's re-syncs leave room for another's, and the limit for all holds besides."""
    budget = Budget(3, per={"user": 1})
    budget.take(1, (("user", "a"),))

    assert budget.lacks((("user", "a"),)) == ("user", "a")
    assert budget.lacks((("user", "b"),)) is None

    budget.take(2, (("user", "b"),))
    budget.take(3, ())

    assert budget.lacks((("user", "c"),)) == ALL


def test_a_limit_that_is_lowered_below_what_is_held_gives_none_until_below() -> None:
    """Nothing is taken away; room is told of only when there is some."""
    budget, room = Budget(5), list[Share]()
    budget.room = room.append
    for row in range(5):
        budget.take(row, ())
    budget.set_limit(2)
    for row in range(3):
        budget.give_back(row)

    assert budget.lacks(()) == ALL
    assert room == []

    budget.set_limit(3)

    assert (budget.lacks(()), room) == (None, [ALL])


@settings(max_examples=200, deadline=None)
@given(
    limit=st.one_of(st.none(), st.integers(1, 4)),
    per=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from("abc")), max_size=60
    ),
)
def test_no_limit_is_ever_passed(
    limit: int | None, per: int, steps: list[tuple[bool, int, str]]
) -> None:
    """Whoever asks before taking never holds more, and room is told of whenever it comes."""
    budget, blocked = Budget(limit, per={"user": per}), set[Share]()
    budget.room = blocked.discard
    held: dict[int, str] = {}
    for takes, row, user in steps:
        shares = (("user", user),)
        if not takes:
            budget.give_back(row)
            held.pop(row, None)
        elif row not in held:
            lacks = budget.lacks(shares)
            if lacks is None:
                budget.take(row, shares)
                held[row] = user
            else:
                blocked.add(lacks)
        users = list(held.values())

        assert budget.unfinished == len(held) <= (limit or len(held))
        assert all(users.count(one) == budget.taken(("user", one)) <= per for one in "abc")
        for share in blocked:
            assert budget.taken(share) >= (budget.limit_of(share) or 0)


@pytest.mark.parametrize(
    ("given_", "limit", "per"),
    [
        ({"until": None}, 50, {}),
        ({"until": "resynced"}, 50, {}),
        ({"until": None, "max_resyncs": "7"}, 7, {}),
        ({"until": "accepted", "max_resyncs": "7"}, 7, {}),
        ({"until": None, "max_resyncs": "none"}, "none", {}),
        ({"until": "accepted"}, "none", {}),
        ({"until": "accepted", "max_resyncs_per": ("user=2",)}, None, {"user": 2}),
        (
            {"until": None, "max_resyncs_per": ("user=2", "integration=9")},
            50,
            {"user": 2, "integration": 9},
        ),
    ],
)
async def test_there_is_a_budget_where_resyncs_are_followed_or_one_is_asked_for(
    tmp_path: Path, given_: dict[str, object], limit: int | str | None, per: dict[str, int]
) -> None:
    """50 by default while rows are followed to the end; with less, only if it is given."""
    async with Stage(tmp_path) as stage:
        budget = budget_of(stage.resolved(**given_).settings)

        if limit == "none":
            assert budget is None
        else:
            assert budget is not None
            assert (budget.limit, budget.per) == (limit, per)


# ------------------------------------------------------------------------------ foreseen


def settings_of(stage: Stage, **given_: object) -> Settings:
    """Return the settings of a run."""
    return stage.resolved(**({"until": None} | given_)).settings


@in_fast_motion(60)
async def test_how_long_it_will_take_follows_from_how_long_resyncs_took(tmp_path: Path) -> None:
    """The mean of the newest finished runs against the same host; else only the rounds."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=20)) as stage:
        stage.plain(4, last_synced_at=BEFORE)
        limited = settings_of(stage, max_resyncs=10)
        runs_dir = tmp_path / "runs"
        before = rounds_of(95, limited, runs_dir)
        await stage.run(until=None, max_resyncs=2)
        after = rounds_of(95, limited, runs_dir)

        assert before is not None
        assert (before.count, before.each_s, before.all_s) == (10, None, None)
        assert after is not None
        assert after.each_s is not None
        assert 20 <= after.each_s < 200
        assert after.all_s == pytest.approx(9.5 * after.each_s, abs=0.01)
        assert rounds_of(95, settings_of(stage, max_resyncs="none"), runs_dir) is None
        elsewhere = settings_of(stage, base_url="http://127.0.0.1:1")
        nothing = rounds_of(95, elsewhere, runs_dir)
        assert nothing is not None
        assert nothing.each_s is None


def test_a_person_is_told_what_the_budget_makes_of_it(tmp_path: Path) -> None:
    """Before anything is sent: how many at once, how many rounds, and what takes how long."""
    with commands.Stage(tmp_path, until=None) as stage:
        path = stage.moves(12)
        limit = ("--max-resyncs", 5, "--max-resyncs-per", "user=2")
        planned = stage.run("plan", "migrate-credentials", path, "--run-id", "p", *limit)
        applied = stage.run("apply", "p", "--yes")
        back = stage.write(
            "back.csv",
            [
                ("sync_id", "user_id", "credential_id"),
                *((sync, record.user, OLD) for sync, record in stage.state().items()),
            ],
        )
        again = stage.run("plan", "migrate-credentials", back, *limit)
        free = stage.run("run", "migrate-credentials", back, "--yes", "--until", "accepted")

        plan, plan_again, intention, free_of = (
            " ".join(said.split()) for said in (planned.out, again.out, applied.err, free.err)
        )
        rounds = "5 unfinished re-syncs at once, at most 2 a user, 3 rounds"
        assert f"{rounds}, each as long as the slowest of its syncs takes" in plan
        assert rounds in intention
        assert "as lately" in plan_again
        assert "any number of re-syncs may be unfinished at once; none is followed" in free_of


# ------------------------------------------------------------------------------------ in a run


@in_fast_motion(30)
async def test_no_sixth_resync_begins_while_five_are_unfinished(tmp_path: Path) -> None:
    """Each PATCH waits for its ticket; the run says why it waits, and adds it up."""
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=20, apply_after_s=1), until=None, max_resyncs=5
    ) as stage:
        stage.plain(17, users=4, last_synced_at=BEFORE)
        run = await stage.run()

        assert run.counts == {"updated": 17}
        assert {line["proof"] for line in run.outcomes.values()} == {"resynced"}
        assert most_unfinished(stage.audit, resync_s=21) == 5
        (held,) = run.held("budget")
        assert held["detail"] == "5 of 5 re-syncs are unfinished; 1 row waits"
        assert run.summary.waits["budget"] > 40


@in_fast_motion(30)
async def test_a_frequency_alone_passes_by(tmp_path: Path) -> None:
    """A row that starts no re-sync waits for nobody's, and a row that is already so holds none."""
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=60), until=None, max_resyncs=1, concurrency=2
    ) as stage:
        records = stage.plain(8, last_synced_at=BEFORE)
        stage.write(
            {
                "sync_id": record.id,
                "user_id": record.user,
                "credential_id": "" if n > 3 else NEW,
                "frequency": "5m",
            }
            for n, record in enumerate(records, 1)
        )
        stage.set("s1", credential_id=NEW)
        run = await stage.run(BOTH)

        assert run.counts == {"updated": 8}
        second, third = (
            next(e.at_monotonic_s for e in stage.audit if (e.method, e.sync_id) == ("PATCH", sync))
            for sync in ("s2", "s3")
        )
        assert third - second > 59
        others = [
            e.at_monotonic_s
            for e in stage.audit
            if e.method == "PATCH" and e.sync_id not in {"s2", "s3"}
        ]
        assert max(others) < third


async def test_rows_without_a_resync_know_no_budget(tmp_path: Path) -> None:
    """A job that starts none runs as fast with a budget of one as without."""
    async with Stage(tmp_path, until=None, max_resyncs=1) as stage:
        records = stage.plain(40)
        stage.write({"sync_id": r.id, "user_id": r.user, "frequency": "5m"} for r in records)
        run = await stage.run(FREQUENCY)

        assert run.counts == {"updated": 40}
        assert run.held("budget") == []


@in_fast_motion(30)
async def test_a_budget_follows_resyncs_whatever_until_says(tmp_path: Path) -> None:
    """With a budget that was asked for, rows that start a re-sync are carried to its end."""
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=10), until="accepted", max_resyncs=2
    ) as stage:
        stage.plain(6, last_synced_at=BEFORE)
        run = await stage.run()

        assert {line["proof"] for line in run.outcomes.values()} == {"resynced"}
        assert most_unfinished(stage.audit, resync_s=10) == 2


@in_fast_motion(30)
@pytest.mark.parametrize("key", ["user", "integration"])
async def test_a_key_has_a_share_of_its_own(tmp_path: Path, key: str) -> None:
    """One user, or one integration, has no more than its share; others are not held up by it."""
    async with Stage(
        tmp_path,
        behavior=Behavior(resync_s=10),
        until=None,
        max_resyncs_per=(f"{key}=2",),
    ) as stage:
        records = stage.plain(12, users=3, last_synced_at=BEFORE)
        kinds = {"u1": "drive", "u2": "box", "u3": ""}
        stage.write(
            {
                "sync_id": record.id,
                "user_id": record.user,
                "credential_id": NEW,
                "integration": kinds[record.user],
            }
            for record in records
        )
        run = await stage.run()

        assert run.counts == {"updated": 12}
        for user in ("u1", "u2"):
            mine = {record.id for record in records if record.user == user}
            assert most_unfinished((e for e in stage.audit if e.sync_id in mine), resync_s=10) == 2
        theirs = {record.id for record in records if record.user == "u3"}
        third = most_unfinished((e for e in stage.audit if e.sync_id in theirs), resync_s=10)
        # An integration that the input does not tell cannot be counted.
        assert third == (2 if key == "user" else 4)
        assert "at most 2 a " + key in run.held("budget")[0]["detail"]


@in_fast_motion(30)
async def test_a_sync_that_errs_gives_its_ticket_back(tmp_path: Path) -> None:
    """A re-sync that ends in ``ERRORED`` has ended: the next one may begin."""
    behavior = Behavior(resync_s=5, errored_ids=frozenset({"s1", "s2"}))
    async with Stage(
        tmp_path, behavior=behavior, until=None, max_resyncs=1, max_failures="100%"
    ) as stage:
        stage.plain(4, last_synced_at=BEFORE)
        run = await stage.run()

        assert run.counts == {"updated": 2, "errored": 2}
        assert most_unfinished(stage.audit, resync_s=5) == 1


@in_fast_motion(100)
async def test_a_resync_that_never_ends_holds_its_ticket_until_its_time_is_over(
    tmp_path: Path,
) -> None:
    """After ``--resync-timeout`` nobody waits for it any more."""
    async with Stage(
        tmp_path,
        behavior=Behavior(resync_s=1e9),
        until=None,
        max_resyncs=1,
        resync_timeout="40s",
    ) as stage:
        stage.plain(3, last_synced_at=BEFORE)
        run = await stage.run()

        moments = [e.at_monotonic_s for e in stage.audit if e.method == "PATCH"]
        assert run.counts == {"updated": 3}
        assert all(later - sooner > 39 for sooner, later in itertools.pairwise(moments))


# ----------------------------------------------------------------------- sent and not answered


@in_fast_motion(60)
async def test_what_was_sent_without_an_answer_keeps_its_ticket_while_its_resync_may_run(
    tmp_path: Path,
) -> None:
    """A row that was given up may have started one: its sync is looked at until it is idle."""
    async with Stage(
        tmp_path,
        behavior=Behavior(resync_s=30, apply_after_s=12),
        until=None,
        max_resyncs=1,
        max_attempts=1,
        confirm_timeout="90s",
        max_failures="100%",
    ) as stage:
        stage.plain(2, last_synced_at=BEFORE)
        stage.sim.script("s1", "PATCH", [Fault.DROP_AFTER] * 4)
        run = await stage.run()

        assert run.outcome(1)[0] == "exhausted"
        assert run.outcome(2)[0] == "updated"
        first, *_, last = (e.at_monotonic_s for e in stage.audit if e.method == "PATCH")
        assert last - first > 40


@in_fast_motion(60)
async def test_what_never_landed_gives_its_ticket_back_when_that_is_clear(tmp_path: Path) -> None:
    """A sync that stays as it was for ``--confirm-timeout`` has no re-sync of ours."""
    async with Stage(
        tmp_path,
        until=None,
        max_resyncs=1,
        max_attempts=1,
        confirm_timeout="30s",
        max_failures="100%",
    ) as stage:
        stage.plain(2, last_synced_at=BEFORE)
        stage.sim.script("s1", "PATCH", [Fault.DROP_BEFORE] * 4)
        run = await stage.run()

        assert run.outcome(1)[0] == "exhausted"
        assert run.outcome(2)[0] == "updated"
        first, *_, last = (e.at_monotonic_s for e in stage.audit if e.method == "PATCH")
        assert 29 < last - first < 300


@in_fast_motion(60)
async def test_a_doubt_holds_up_no_run_that_has_nothing_else_to_do(tmp_path: Path) -> None:
    """When no row waits for its ticket any more, the run ends and does not look after it."""
    async with Stage(
        tmp_path,
        behavior=Behavior(apply_after_s=500),
        until=None,
        max_resyncs=2,
        max_attempts=1,
        confirm_timeout="600s",
        max_failures="100%",
    ) as stage:
        stage.plain(1, last_synced_at=BEFORE)
        stage.sim.script("s1", "PATCH", [Fault.DROP_AFTER] * 4)
        began = stage.clocks.steady()
        run = await stage.run()

        assert run.outcome(1)[0] == "exhausted"
        assert stage.clocks.steady() - began < 300


@in_fast_motion(60)
async def test_a_doubt_is_carried_over_from_wave_to_wave(tmp_path: Path) -> None:
    """Its ticket is held until that is clear, also when the wave in which it came up is over."""
    async with Stage(
        tmp_path,
        faults=Faults(latency_s=2.0, latency_jitter=0.0),
        behavior=Behavior(resync_s=60, apply_after_s=30),
        until=None,
        max_resyncs=2,
        max_attempts=1,
        confirm_timeout="200s",
        max_failures="100%",
        waves="4,100%",
        gate=("failed=2",),
    ) as stage:
        stage.plain(10, last_synced_at=BEFORE)

        def lose_one() -> None:
            (lost,) = list(stage.reads)[:1]
            stage.sim.script(lost, "PATCH", [Fault.DROP_AFTER] * 4)

        stage.when(lambda: bool(stage.reads), lose_one)
        run = await stage.run()

        assert run.counts == {"updated": 9, "exhausted": 1}
        assert most_unfinished(stage.audit, resync_s=90) == 2


# ---------------------------------------------------------------------- interrupted and resumed


def blocks_of(*rows: int) -> Iterator[list[Work]]:
    """Yield rows two at a time; an even one has its end already."""
    works = [
        Work(change=Change(row, row + 1, f"s{row}", "u", {"credential_id": NEW}))
        if row % 2
        else Work(
            known=Outcome(row=row, line=1, sync_id="s", user_id="u", outcome=OutcomeKind.INVALID)
        )
        for row in rows
    ]
    for at in range(0, len(works), 2):
        yield works[at : at + 2]


@pytest.mark.parametrize("urgent", [(), (5,), (9, 3), (1, 3, 5, 7, 9)])
def test_what_is_under_way_goes_first_and_nothing_twice(urgent: tuple[int, ...]) -> None:
    """Wherever it stands in the input; the others follow in their order."""
    found = [
        work.change.row if work.change else 0
        for block in urgent_first(lambda: blocks_of(*range(1, 11)), urgent)
        for work in block
    ]
    rows = [row for row in found if row]

    assert rows[: len(urgent)] == sorted(urgent)
    assert rows[len(urgent) :] == [row for row in range(1, 11, 2) if row not in urgent]
    assert found.count(0) == 5


@in_fast_motion(30)
async def test_who_resumes_counts_what_is_unfinished_first(tmp_path: Path) -> None:
    """Accepted rows and rows in doubt hold tickets from the start, wherever they stand."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=20), until=None, max_resyncs=4) as stage:
        stage.plain(12, last_synced_at=BEFORE)
        run = await stage.interrupted(after=11)
        accepted = set(run.acceptances)
        run = await stage.resume(run)

        assert accepted
        assert run.counts == {"updated": 12}
        assert most_unfinished(stage.audit, resync_s=20) <= 4
        assert set(stage.patches.values()) == {1}


@in_fast_motion(30)
async def test_a_budget_may_be_lowered_when_a_run_is_resumed(tmp_path: Path) -> None:
    """What is unfinished beyond the new limit goes on; nothing is begun until there are fewer."""
    async with Stage(tmp_path, behavior=Behavior(resync_s=20), until=None, max_resyncs=6) as stage:
        stage.plain(14, last_synced_at=BEFORE)
        run = await stage.interrupted(after=16)
        asked = len(stage.audit)
        began = [e.at_monotonic_s for e in stage.audit if e.method == "PATCH"]
        run = await stage.resume(run, max_resyncs=2)

        assert run.counts == {"updated": 14}
        first = next(e.at_monotonic_s for e in stage.audit[asked:] if e.method == "PATCH")
        assert len([at_s for at_s in began if at_s + 20 > first]) <= 1
        assert most_unfinished(stage.audit[asked:], resync_s=20) <= 2


class Victim:
    """A run with ``--max-resyncs 5`` and slow re-syncs, on a stage of its own."""

    ROWS = 30
    RESYNC_S = 0.25

    def __init__(self, home: Path, seed: int) -> None:
        self._home = home / str(seed)
        self._home.mkdir()
        self._chance = random.Random(seed)

    def live(self, *, kills: int) -> None:
        """Be killed so often, each time resumed, and never have a sixth re-sync unfinished."""
        behavior = Behavior(resync_s=self.RESYNC_S)
        faults = Faults(latency_s=0.01)
        with commands.Stage(self._home, faults=faults, behavior=behavior, until=None) as stage:
            path = stage.moves(self.ROWS)
            words = ("--yes", "--run-id", "x", "--max-resyncs", 5, "--concurrency", 12)
            command = stage.start("run", "migrate-credentials", path, *words, env=UNMEASURED)
            for _ in range(kills):
                enough = stage.patches() + self._chance.randint(1, 8)

                def has_come(enough: int = enough, command: commands.Command = command) -> bool:
                    return stage.patches() >= enough or command.code is not None

                commands.until(has_come, "PATCHes come")
                threading.Event().wait(self._chance.uniform(0, 0.1))
                command.process.send_signal(signal.SIGKILL)
                command.wait()
                command = stage.start("resume", "x", "--yes", env=UNMEASURED)
            assert command.wait().code == 0, command.err
            assert stage.moved() == self.ROWS
            assert most_unfinished(stage.audit, resync_s=self.RESYNC_S) <= 5


def _runs(home: Path, seeds: range) -> None:
    """Let runs live, every other one of which is killed."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: Victim(home, n).live(kills=2 * (n % 2)), seeds))


def test_killed_and_resumed_no_sixth_resync_is_ever_unfinished(tmp_path: Path) -> None:
    """Four runs, of which two are killed twice: the server never has a sixth unfinished one."""
    _runs(tmp_path, range(4))


@pytest.mark.long
def test_in_twenty_runs_no_sixth_resync_is_ever_unfinished(tmp_path: Path) -> None:
    """Twenty runs, of which ten are killed and resumed."""
    _runs(tmp_path, range(4, 24))
