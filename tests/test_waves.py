"""Slices of the rows, carried one after the other: which rows are where, and what comes of it."""

from __future__ import annotations

import asyncio
import csv
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from runner.errors import RunRefused, SettingsError
from runner.opening import Opened
from runner.rollout import Draw, Waves
from runner.simulator import Behavior, Fault
from runner.slicing import Slices, sizes_of, slice_up
from tests.commands import Stage as Commands
from tests.commands import journal, until
from tests.stage import NEW, Run, Stage, in_fast_motion

WAVES = "1,1%,10%,100%"


def sliced(opened: Opened) -> Slices:
    """Return the waves of a run that has several."""
    slices = slice_up(opened)
    assert slices is not None
    return slices


def looked_at(opened: Opened) -> Opened:
    """Return a run that is not carried, so that its folder is let go."""
    opened.folder.unlock()
    opened.tokens.close()
    return opened


def syncs_of(opened: Opened, wave: int) -> list[str]:
    """Return the syncs of a wave, in input order."""
    slices = sliced(opened)
    rows = slices.rows_of(slices.waves[wave - 1])
    with opened.checked.file.path.open(encoding="utf-8", newline="") as file:
        ids = [row["sync_id"] for row in csv.DictReader(file)]
    return [ids[row - 1] for row in rows]


def told(run: Run, event: str) -> list[dict[str, object]]:
    """Return the events of one name, without what every line has."""
    plain = {"v", "event", "level", "timestamp", "seq", "crc"}
    return [
        {name: value for name, value in line.items() if name not in plain}
        for line in run.events
        if line["event"] == event
    ]


class TestSizes:
    """What ``--waves`` says."""

    @pytest.mark.parametrize(
        ("text", "rows", "sizes"),
        [
            (WAVES, 2000, (1, 19, 180, 1800)),
            (WAVES, 50, (1, 4, 45)),
            (WAVES, 11, (1, 1, 9)),
            (WAVES, 1, (1,)),
            ("5, 5", 20, (5, 5, 10)),
            ("5", 3, (3,)),
            ("1%,50%", 101, (2, 49, 50)),
            ("0.5%,100%", 1000, (5, 995)),
            ("0.1%,100%", 1000, (1, 999)),
            ("100,50%,100%", 120, (100, 20)),
            ("10%,10,100%", 100, (10, 10, 80)),
            ("100%", 7, (7,)),
            (WAVES, 0, ()),
        ],
    )
    def test_a_number_adds_rows_and_a_percent_counts_from_the_start(
        self, text: str, rows: int, sizes: tuple[int, ...]
    ) -> None:
        """A percent is rounded up, an empty wave dropped, and what is left is a last wave."""
        found = Waves.parse(text).sizes(rows)

        assert found == sizes
        assert sum(found) == rows

    @pytest.mark.parametrize(
        ("text", "rows", "short"),
        [(WAVES, 2000, False), ("1,10%", 2000, True), ("5", 5, False), ("5,5", 11, True)],
    )
    def test_it_is_known_whether_a_wave_was_added(self, text: str, rows: int, short: bool) -> None:
        """What the slices leave is told, for nobody asked for it."""
        assert Waves.parse(text).falls_short(rows) is short

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "'' is neither a number nor a percent"),
            ("1,,2", "'' is neither a number nor a percent"),
            ("ten", "'ten' is neither a number nor a percent"),
            ("-1", "'-1' is neither a number nor a percent"),
            ("1.5", "'1.5' is neither a number nor a percent"),
            ("101%", "'101%' is neither a number nor a percent"),
            ("\u0665", "is neither a number nor a percent"),
            ("0", "0 is a slice without rows"),
            ("0.0%", "0.0% is a slice without rows"),
            ("10%,1%", "1% comes after 10%; percents count from the start"),
            ("10%,10%", "10% comes after 10%"),
            ("100%,5", "5 comes after 100%, when no row is left"),
            (",".join(["1"] * 101), "--waves has 101 slices; at most 100 can be had"),
        ],
    )
    def test_anything_else_is_refused(self, text: str, said: str) -> None:
        """The message names the flag, the entry and what was given."""
        with pytest.raises(SettingsError) as refusal:
            Waves.parse(text)

        assert said in str(refusal.value)
        assert str(refusal.value).startswith("--waves")


def dealt(
    rows: Sequence[tuple[str, str]], sizes: Sequence[int], *, seed: str = "a seed"
) -> list[int]:
    """Return the wave of each of *rows*, which are (user, integration)."""
    draw = Draw(seed=seed, rows=len(rows))
    for row, (user, integration) in enumerate(rows, 1):
        draw.add(row, user_id=user, integration=integration)
    waves = draw.deal(sizes)
    assert waves[0] == 0
    return list(waves[1:])


CROWD = [(f"u{n // 50}", "drive" if n % 4 else "box") for n in range(2000)]
"""40 users with 50 rows each, in the order of the file; three quarters are of one integration."""
SIZES = Waves.parse(WAVES).sizes(2000)
FIRST = 1675
"""The row that "a seed" has go first."""


class TestDraw:
    """Which rows are in which wave."""

    def test_every_row_is_in_one_wave_and_each_wave_has_its_size(self) -> None:
        """No row is lost or dealt twice."""
        assert Counter(dealt(CROWD, SIZES)) == dict(enumerate(SIZES, 1))

    def test_the_same_seed_gives_the_same_waves(self) -> None:
        """What was drawn is drawn again, in another process too; another seed draws others."""
        first = dealt(CROWD, SIZES)

        assert dealt(CROWD, SIZES) == first
        assert dealt(CROWD, SIZES, seed="another") != first
        assert [row for row, wave in enumerate(first) if wave == 1] == [FIRST]

    def test_different_seeds_begin_with_different_rows(self) -> None:
        """Every row may be the first: 200 seeds begin with more than 150 different ones."""
        firsts = {dealt(CROWD, SIZES, seed=str(n)).index(1) for n in range(200)}

        assert len(firsts) > 150

    @pytest.mark.parametrize("seed", list("abcdef"))
    @pytest.mark.parametrize("upto", [2, 3])
    def test_what_goes_first_is_a_fair_sample(self, seed: str, upto: int) -> None:
        """Integrations, users and parts of the file have their share of the rows that go first."""
        waves = dealt(CROWD, SIZES, seed=seed)
        rows = [row for row, wave in enumerate(waves) if wave <= upto]
        share = len(rows) / len(CROWD)

        assert abs(sum(CROWD[row][1] == "box" for row in rows) - share * 500) <= 4
        of_user = Counter(CROWD[row][0] for row in rows)
        assert max(of_user.values()) <= share * 50 + 3
        assert len(of_user) >= min(40, 0.6 * len(rows))
        quarters = Counter(row // 500 for row in rows)
        assert max(quarters.values()) <= len(rows) / 4 + max(3, len(rows) / 10)

    @pytest.mark.parametrize("seed", list("abcdef"))
    def test_users_with_a_row_each_are_spread_over_integrations(self, seed: str) -> None:
        """A user's only row is drawn as part of its integration."""
        rows = [(f"u{n}", "box" if n < 600 else "drive") for n in range(2000)]
        waves = dealt(rows, SIZES, seed=seed)

        box = sum(wave <= 2 for wave in waves[:600])
        assert 4 <= box <= 8  # 6 of 20 would be their share

    def test_many_users_are_drawn_in_bounded_memory(self) -> None:
        """100,000 users take six bytes a row and two megabytes, not a table of users."""
        draw = Draw(seed="x", rows=100_000)
        tracemalloc.start()
        try:
            again = Draw(seed="x", rows=100_000)
            for row in range(1, 100_001):
                again.add(row, user_id=f"user {row}")
            again.deal(Waves.parse(WAVES).sizes(100_000))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert draw.rows == 0
        assert peak < 10 * 100_000 + 2_500_000


class TestOpening:
    """What is settled before anything is sent."""

    async def test_the_seed_is_the_inputs_unless_it_is_given(self, tmp_path: Path) -> None:
        """The first sixteen digits of the input's SHA-256, on record in run.json."""
        async with Stage(tmp_path) as stage:
            stage.plain(20)
            usual = looked_at(stage.open(waves="1,50%"))
            own = looked_at(stage.open(waves="1,50%", seed="friday"))
            none = looked_at(stage.open())

            assert usual.settings.seed == (usual.manifest.input.sha256 or "")[:16]
            assert usual.folder.read().settings.seed == usual.settings.seed
            assert own.settings.seed == "friday"
            assert none.settings.seed is None

    async def test_a_run_with_bad_waves_or_gates_is_refused(self, tmp_path: Path) -> None:
        """It is *refused*, and its name may be taken again."""
        async with Stage(tmp_path) as stage:
            stage.plain(3)
            for settings in ({"waves": "none"}, {"gate": ("failed",)}):
                with pytest.raises(SettingsError):
                    stage.open(run_id="x", **settings)

            assert looked_at(stage.open(run_id="x")).folder.run_id == "x"

    async def test_rows_that_are_not_sent_are_in_no_wave(self, tmp_path: Path) -> None:
        """Percents count the rows that are: neither duplicates nor invalid ones."""
        async with Stage(tmp_path) as stage:
            stage.plain(10)
            rows = [
                {"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW} for n in range(1, 11)
            ]
            stage.write([*rows, *rows[:5], {**rows[0], "sync_id": "x", "credential_id": "-"}])
            opened = looked_at(stage.open(waves="50%,100%", skip_invalid=True))

            assert sizes_of(opened) == (5, 5)
            assert sorted(syncs_of(opened, 1) + syncs_of(opened, 2)) == sorted(
                row["sync_id"] for row in rows
            )

    async def test_the_inputs_integrations_are_told_apart(self, tmp_path: Path) -> None:
        """A column `integration` is heeded: one in ten rows is in front, of each of them."""
        async with Stage(tmp_path) as stage:
            ids = [record.id for record in stage.plain(100)]
            stage.write(
                {
                    "sync_id": i,
                    "user_id": "u1",
                    "credential_id": NEW,
                    "integration": "box" if n < 50 else "drive",
                }
                for n, i in enumerate(ids)
            )
            first = syncs_of(looked_at(stage.open(waves="10%,100%")), 1)

            assert 4 <= sum(ids.index(i) < 50 for i in first) <= 6

    async def test_of_a_plan_only_changes_are_drawn(self, tmp_path: Path) -> None:
        """What the plan leaves as it is comes last, and does not stand in for a change."""
        async with Stage(tmp_path) as stage:
            stage.plain(20)
            for n in range(1, 11):
                stage.set(f"s{n}", credential_id=NEW)
            await stage.plan(run_id="p", waves="10%,100%")
            opened = looked_at(stage.open_planned("p"))

            assert sizes_of(opened) == (1, 19)
            assert int(syncs_of(opened, 1)[0][1:]) > 10


@in_fast_motion(20)
async def test_each_wave_is_proved_before_the_next(tmp_path: Path) -> None:
    """No PATCH of a wave leaves before every row of the one before has been seen in force."""
    async with Stage(tmp_path, until=None, waves="2,50%,100%", max_resyncs="none") as stage:
        stage.sim.behavior = Behavior(apply_after_s=2, resync_s=1)
        stage.plain(20, users=4)
        opened = stage.open()
        waves = [syncs_of(opened, n) for n in (1, 2, 3)]
        run = await stage.carry(opened)

        assert run.counts == {"updated": 20}
        assert [len(wave) for wave in waves] == [2, 8, 10]
        patched = [e.sync_id for e in stage.audit if e.method == "PATCH"]
        assert set(patched[:2]) == set(waves[0])
        assert set(patched[2:10]) == set(waves[1])
        assert set(patched[10:]) == set(waves[2])
        ended = {line["sync_id"]: line["timestamp"] for line in run.outcomes.values()}
        began = {line["sync_id"]: line["timestamp"] for line in run.intents}
        for before, after in pairwise(waves):
            assert max(ended[i] for i in before) <= min(began[i] for i in after)
        assert told(run, "wave.started") == [
            {"wave": 1, "rows": 2},
            {"wave": 2, "rows": 8},
            {"wave": 3, "rows": 10},
        ]
        assert {line["proof"] for line in run.outcomes.values()} == {"resynced"}


@in_fast_motion(20)
async def test_rows_in_front_of_a_gate_are_proved_that_start_no_resync(tmp_path: Path) -> None:
    """Without --until a frequency is confirmed in each wave but the last, and accepted there."""
    async with Stage(tmp_path, until=None, waves="2,100%") as stage:
        ids = [record.id for record in stage.plain(6, frequency="1h")]
        stage.write({"sync_id": i, "user_id": "u1", "frequency": "24h"} for i in ids)
        opened = stage.open("change-frequency")
        first = syncs_of(opened, 1)
        run = await stage.carry(opened)

        proofs = {line["sync_id"]: line["proof"] for line in run.outcomes.values()}
        assert dict.fromkeys(first, "confirmed") == {i: proofs[i] for i in first}
        assert {proofs[i] for i in ids if i not in first} == {"accepted"}


async def test_the_waves_stand_in_run_json_and_in_the_summary(tmp_path: Path) -> None:
    """Rows and verdict of each wave; a run without waves says nothing of them."""
    async with Stage(tmp_path, waves="1,100%") as stage:
        stage.plain(5)
        run = await stage.run()
        plain = await stage.run(waves=None)

        manifest = run.opened.folder.read()
        assert manifest.wave_rows == (1, 4)
        assert [(gate.wave, gate.verdict) for gate in manifest.gates] == [(1, "pass")]
        waves = [(w.wave, w.rows, w.verdict) for w in run.summary.waves]
        assert waves == [(1, 1, "pass"), (2, 4, None)]
        assert b'"waves"' not in (plain.path / "summary.json").read_bytes()
        assert plain.opened.folder.read().gates == ()


async def test_waves_over_too_few_rows_are_one(tmp_path: Path) -> None:
    """One row is one wave, and no gate is judged."""
    async with Stage(tmp_path, waves=WAVES) as stage:
        stage.plain(1)
        run = await stage.run()

        assert run.counts == {"updated": 1}
        assert told(run, "wave.started") == told(run, "gate.judged") == []


async def test_rows_that_are_not_sent_end_at_once_and_once(tmp_path: Path) -> None:
    """Invalid rows end with the first wave, a duplicate with its first row; none ends twice."""
    async with Stage(tmp_path, waves="1,50%,100%") as stage:
        stage.plain(10)
        rows = [{"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW} for n in range(1, 11)]
        stage.write([*rows, *rows[:5], {**rows[0], "sync_id": "x", "credential_id": "-"}])
        run = await stage.run(skip_invalid=True)

        assert run.counts == {"updated": 10, "duplicate": 5, "invalid": 1}
        assert len(run.outcomes) == 16
        assert stage.patches.total() == 10


async def test_a_limit_stops_in_the_middle_of_a_wave_and_resume_goes_on_there(
    tmp_path: Path,
) -> None:
    """Rows of later waves stay unprocessed; the gate behind the wave is judged in the end."""
    async with Stage(tmp_path, waves="2,50%,100%", concurrency=1, max_failures="1") as stage:
        stage.plain(40)
        opened = stage.open(gate=("failed=5",))
        second, last = syncs_of(opened, 2), syncs_of(opened, 3)
        for sync_id in second[3:6]:
            stage.set(sync_id, user="somebody")
        run = await stage.carry(opened)
        stopped = Counter(run.counts), set(stage.patches)

        assert "--max-failures allows 1" in run.reason
        assert not stopped[1] & set(last)
        assert [gate.wave for gate in opened.folder.read().gates] == [1]

        resumed = await stage.resume(run, max_failures="50%")

        assert resumed.counts == {"updated": 37, "rejected": 3}
        assert [gate.wave for gate in opened.folder.read().gates] == [1, 2]
        assert opened.folder.read().gates[1].figures["failed"] == 3
        assert told(resumed, "wave.started") == [
            {"wave": n, "rows": rows} for n, rows in ((1, 2), (2, 18), (2, 18), (3, 20))
        ]
        assert max(stage.patches.values()) == 1


def test_kill_9_in_the_middle_of_a_wave_and_resume(tmp_path: Path) -> None:
    """The run goes on in that wave: no row is sent twice, none of a later one before its gate."""
    with Commands(tmp_path, until="confirmed") as stage:
        moves = stage.moves(60)
        stage.simulator.behavior = Behavior(apply_after_s=0.2)
        flags = ("--waves", "2,50%,100%", "--seed", "x", "--concurrency", "2", "--run-id", "x")
        command = stage.start("run", "migrate-credentials", moves, "--yes", *flags)
        until(lambda: stage.patches() > 10, "the second wave is under way")
        command.process.kill()
        command.wait()
        killed = {line["row"] for line in journal(stage.folder("x") / "undo.jsonl", torn=True)}

        assert [gate["wave"] for gate in stage.manifest("x")["gates"]] == [1]
        assert len(killed) <= 30

        assert stage.run("resume", "x", "--yes").code == 0, "resumed"
        assert stage.moved() == 60
        patched = Counter(entry.sync_id for entry in stage.asked("PATCH"))
        assert max(patched.values()) == 1
        events = journal(stage.folder("x") / "events.jsonl")
        waves = [line["wave"] for line in events if line["event"] == "wave.started"]
        assert waves == [1, 2, 2, 3]
        gates = [line["wave"] for line in events if line["event"] == "gate.judged"]
        assert gates == [1, 2]


async def test_the_limits_count_over_all_waves(tmp_path: Path) -> None:
    """--max-failures speaks of the run, not of a wave."""
    async with Stage(tmp_path, waves="10,20,100%", concurrency=1, max_failures="2") as stage:
        stage.plain(60)
        opened = stage.open(gate=("failed=100%",))
        for wave in (1, 2, 3):
            stage.set(syncs_of(opened, wave)[0], user="somebody")
        run = await stage.carry(opened)

        assert run.counts["rejected"] == 3
        assert "3 rows failed, and --max-failures allows 2 (3 > 2)" in run.reason
        assert run.counts["unprocessed"] > 0


async def test_a_spread_counts_for_each_wave(tmp_path: Path) -> None:
    """--waves and --spread go together: each wave is spread from when it may begin."""
    async with Stage(tmp_path, waves="3,100%", spread="1s") as stage:
        stage.plain(12)
        run = await asyncio.wait_for(stage.run(), 30)

        assert run.counts == {"updated": 12}
        assert run.summary.exit_code == 0


@in_fast_motion(20)
async def test_a_ticket_in_doubt_is_held_over_the_end_of_a_wave(tmp_path: Path) -> None:
    """A row that was given up without an answer may have started a re-sync; later waves go on."""
    async with Stage(
        tmp_path, until=None, waves="2,50%,100%", max_resyncs="3", max_attempts="2"
    ) as stage:
        stage.sim.behavior = Behavior(resync_s=2)
        stage.plain(20)
        opened = stage.open(gate=("failed=50%",))
        lost = syncs_of(opened, 1)[0]
        stage.sim.script(lost, "PATCH", [Fault.DROP_BEFORE] * 9)
        run = await stage.carry(opened)

        assert run.counts == {"updated": 19, "exhausted": 1}
        assert [gate.wave for gate in opened.folder.read().gates] == [1, 2]


def test_a_wave_that_is_no_wave_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    """Exit 2, the flag and the value are named, and there is no folder."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(3)
        for flags in (("--waves", "1,x"), ("--gate", "broken=1"), ("--soak", "soon")):
            said = stage.here("run", "migrate-credentials", moves, "--yes", *flags)

            assert said.code == 2
            assert flags[0] in said.err
        assert not stage.runs.exists()


async def test_resume_of_a_run_without_gates_takes_no_past_gate(tmp_path: Path) -> None:
    """What is not in the way cannot be passed: refused, and nothing is sent."""
    async with Stage(tmp_path, max_failures="0", concurrency=1) as stage:
        stage.plain(10)
        stage.set("s2", user="somebody")
        run = await stage.run()
        asked = len(stage.audit)

        with pytest.raises(RunRefused, match="--past-gate 1: the gate of wave 1 was not judged"):
            stage.reopen(run.id, past_gate=1)
        assert len(stage.audit) == asked
