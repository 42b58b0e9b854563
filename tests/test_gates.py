"""The gate behind a wave: what it lets pass, whom it asks, and what stops before it."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RunRefused, SettingsError
from runner.gatekeeper import AT_THE_TERMINAL
from runner.judged import GateJudged
from runner.model import Outcome, OutcomeKind, Proof
from runner.opening import Opened
from runner.rollout import Came, Gate
from runner.simulator import TOLD, Behavior, SyncRecord
from tests import commands
from tests.stage import OLD, Run, Stage, in_fast_motion, until
from tests.test_waves import looked_at, syncs_of, told

MOVE = ("run", "migrate-credentials")


def ended(
    row: int,
    kind: OutcomeKind = OutcomeKind.UPDATED,
    *,
    proof: Proof | None = Proof.RESYNCED,
    sent: bool = True,
) -> Outcome:
    """Return how a row ended."""
    error = None if kind is OutcomeKind.UPDATED else "why"
    return Outcome(
        row=row,
        line=row + 1,
        sync_id=f"s{row}",
        user_id="u",
        outcome=kind,
        proof=proof,
        sent=sent,
        error=error,
    )


def wave(*outcomes: Outcome, target: Proof = Proof.RESYNCED) -> Came:
    """Return what a wave came to, of rows that were to be proved as far as *target*."""
    came = Came()
    for outcome in outcomes:
        came.add(outcome, target)
    return came


GOOD = [ended(n) for n in range(1, 11)]


class TestConditions:
    """What ``--gate`` says."""

    @pytest.mark.parametrize(
        ("texts", "words"),
        [
            ((), "errored=0"),
            (("errored=2",), "errored=2"),
            (("failed=5%",), "errored=0, failed=5%"),
            (("unconfirmed=0", "records=-20%"), "errored=0, unconfirmed=0, records=-20%"),
            (("records=-100", "errored=0.5%"), "records=-100, errored=0.5%"),
        ],
    )
    def test_errored_is_0_unless_somebody_says_otherwise(
        self, texts: tuple[str, ...], words: str
    ) -> None:
        """Conditions are counts or percents; whatever else is given, no sync may be ERRORED."""
        assert str(Gate.parse(texts)) == words

    @pytest.mark.parametrize(
        "text",
        [
            *("", "failed", "failed=", "failed=-1", "failed=x", "lost=1", "failed=101%"),
            *("errored=1.5", "records=20%", "records=-", "records=-101%", "failed==1"),
            *("failed=1%%", "failed=\u0665"),
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        """The message says what may stand there, and what was found."""
        with pytest.raises(SettingsError, match="--gate must be failed=, errored=") as told:
            Gate.parse((text,))

        assert str(told.value).endswith(f"got {text!r}")

    def test_a_condition_is_named_once(self) -> None:
        """Two limits for one thing are a slip."""
        with pytest.raises(SettingsError, match="--gate names failed twice"):
            Gate.parse(("failed=1", "failed=2%"))


class TestVerdicts:
    """What a wave comes to."""

    @pytest.mark.parametrize(
        ("texts", "kind", "many", "verdict"),
        [
            ((), OutcomeKind.ERRORED, 0, "pass"),
            ((), OutcomeKind.ERRORED, 1, "fail"),
            ((), OutcomeKind.UNCONFIRMED, 3, "pass"),
            ((), OutcomeKind.REJECTED, 3, "pass"),
            (("errored=1",), OutcomeKind.ERRORED, 1, "pass"),
            (("errored=1",), OutcomeKind.ERRORED, 2, "fail"),
            (("errored=10%",), OutcomeKind.ERRORED, 1, "pass"),
            (("errored=10%",), OutcomeKind.ERRORED, 2, "fail"),
            (("failed=0",), OutcomeKind.REJECTED, 1, "fail"),
            (("failed=0",), OutcomeKind.UNCONFIRMED, 1, "fail"),
            (("failed=30%",), OutcomeKind.REJECTED, 3, "pass"),
            (("failed=30%",), OutcomeKind.REJECTED, 4, "fail"),
            (("unconfirmed=1",), OutcomeKind.UNCONFIRMED, 1, "pass"),
            (("unconfirmed=1",), OutcomeKind.UNCONFIRMED, 2, "fail"),
            (("unconfirmed=0",), OutcomeKind.REJECTED, 3, "pass"),
        ],
    )
    def test_a_condition_fails_above_its_count_or_share(
        self, texts: tuple[str, ...], kind: OutcomeKind, many: int, verdict: str
    ) -> None:
        """So many of ten rows may be so; one more fails the gate."""
        bad = [ended(n, kind, proof=None) for n in range(1, many + 1)]
        found, why, condition, offender = Gate.parse(texts).judge(wave(*bad, *GOOD[many:]))

        assert found == verdict
        if verdict == "fail":
            assert offender is not None
            assert (offender.row, offender.sync_id) == (1, "s1")
            assert str(condition) in why
            assert f"{many} of its 10 rows" in why

    @pytest.mark.parametrize(
        ("proofs", "verdict"),
        [
            ([Proof.RESYNCED] * 5 + [Proof.CONFIRMED] * 5, "pass"),
            ([Proof.RESYNCED] * 4 + [Proof.CONFIRMED] * 5, "inconclusive"),
            ([Proof.RESYNCED] * 4 + [Proof.ACCEPTED] * 4, "pass"),
            ([Proof.CONFIRMED], "inconclusive"),
            ([Proof.RESYNCED], "pass"),
        ],
    )
    def test_it_is_inconclusive_when_too_little_was_proved(
        self, proofs: list[Proof], verdict: str
    ) -> None:
        """Fewer than half of the changed rows, or none, came as far as they were to be proved."""
        came = wave(*(ended(n, proof=proof) for n, proof in enumerate(proofs, 1)))

        assert Gate.parse(()).judge(came)[0] == verdict

    def test_a_wave_that_changed_nothing_has_shown_nothing(self) -> None:
        """Rows that were so already, or were refused, say nothing of what a change does."""
        came = wave(
            ended(1, OutcomeKind.UNCHANGED, proof=None, sent=False),
            ended(2, OutcomeKind.REJECTED, proof=None),
        )
        verdict, why, _, _ = Gate.parse(()).judge(came)

        assert verdict == "inconclusive"
        assert why == "none of its 2 rows was changed, so nothing was shown"

    def test_a_row_that_failed_goes_before_what_could_not_be_proved(self) -> None:
        """A wave of which little is known, but of that something bad, has failed."""
        came = wave(ended(1, OutcomeKind.ERRORED), ended(2, proof=Proof.ACCEPTED))

        assert Gate.parse(()).judge(came)[0] == "fail"

    def test_pardoned_rows_did_not_fail(self) -> None:
        """In a rollback, whoever changed a sync since has the last word."""
        came = Came(pardoned={OutcomeKind.CONFLICTED})
        for outcome in (ended(1, OutcomeKind.CONFLICTED, sent=False), ended(2)):
            came.add(outcome, Proof.RESYNCED)

        assert Gate.parse(("failed=0",)).judge(came)[0] == "pass"

    @pytest.mark.parametrize(
        ("text", "before", "now", "verdict"),
        [
            ("records=-20%", 1000, 800, "pass"),
            ("records=-20%", 1000, 799, "fail"),
            ("records=-20%", 1000, 5000, "pass"),
            ("records=-50", 100, 50, "pass"),
            ("records=-50", 100, 49, "fail"),
            ("records=-20%", 0, 0, "pass"),
            ("records=-20%", None, 10, "inconclusive"),
            ("records=-20%", 10, None, "inconclusive"),
        ],
    )
    def test_a_sync_that_lost_records_fails_it(
        self, text: str, before: int | None, now: int | None, verdict: str
    ) -> None:
        """Against its own count before; where that is not told nothing can be said."""
        came = wave(ended(1))
        came.counted(ended(1), before=before, now=now)
        found, why, _, offender = Gate.parse((text,)).judge(came)

        assert found == verdict
        if verdict == "fail":
            assert offender is not None
            assert f"row 1, sync s1 had {before:,} records and now has {now:,}" in why

    def test_the_worst_loss_decides(self) -> None:
        """A share is looked for where it is largest, a count where that is."""
        came = wave(ended(1), ended(2), ended(3))
        for row, before, now in ((1, 10, 4), (2, 1000, 700), (3, 5, 5)):
            came.counted(ended(row), before=before, now=now)

        assert "sync s1" in Gate.parse(("records=-50%",)).judge(came)[1]
        assert "sync s2" in Gate.parse(("records=-100",)).judge(came)[1]


# ---------------------------------------------------------------------------------------- a run


def gates_of(run: Run) -> list[GateJudged]:
    """Return what the gates of a run came to."""
    return list(run.opened.folder.read().gates)


def credentials(stage: Stage) -> dict[str, str]:
    """Return the credential of each sync."""
    return {i: record.credential_id for i, record in stage.sim.snapshot().items()}


@in_fast_motion(20)
async def test_t12_one_errored_sync_keeps_later_waves_from_being_touched(tmp_path: Path) -> None:
    """T12: 2,000 rows, 1,1%,10%,100%: a sync of the second wave errs, and no later one is sent."""
    async with Stage(tmp_path, until=None, waves="1,1%,10%,100%") as stage:
        stage.plain(2000, users=40)
        before = credentials(stage)
        opened = stage.open()
        first, second = syncs_of(opened, 1), syncs_of(opened, 2)
        bad = second[7]
        stage.sim.behavior = Behavior(errored_ids=frozenset({bad}))
        run = await stage.carry(opened)
        row = next(n for n, line in run.outcomes.items() if line["sync_id"] == bad)

        assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
        assert stage.patches == dict.fromkeys((*first, *second), 1)
        assert run.counts == {"updated": 19, "errored": 1, "unprocessed": 1980}
        assert run.reason.startswith("the gate of wave 2 failed: errored=0: 1 of its 19 rows went")
        assert f"first row {row:,}, sync {bad}" in run.reason
        one, two = gates_of(run)
        assert (one.wave, one.verdict, one.passed) == (1, "pass", True)
        assert (two.wave, two.verdict, two.condition) == (2, "fail", "errored=0")
        assert (two.row, two.sync_id, two.passed) == (row, bad, False)
        assert {"rows": 19, "changed": 19, "errored": 1}.items() <= two.figures.items()
        judged = told(run, "gate.judged")[-1]
        assert (judged["wave"], judged["verdict"], judged["sync_id"]) == (2, "fail", bad)

        asked = len(stage.audit)
        with pytest.raises(RunRefused, match="stands before the gate of wave 2, which failed"):
            stage.reopen(run.id)
        with pytest.raises(RunRefused, match=r"--past-gate 1: .* the gate of wave 2; name that"):
            stage.reopen(run.id, past_gate=1)
        assert len(stage.audit) == asked

        stage.sim.behavior = Behavior()
        back = await stage.rollback(run)

        assert back.counts == {"updated": 20}, back.reason
        assert credentials(stage) == before


@pytest.mark.parametrize("rows", [10])
async def test_t12_the_proof_of_a_wave_is_complete_before_its_gate(
    rows: int, tmp_path: Path
) -> None:
    """T12: one failure in the first wave of ten: nothing after row ten, all ten are looked at."""
    async with Stage(tmp_path, until="confirmed", waves=f"{rows},100%") as stage:
        stage.plain(40, users=4)
        opened = stage.open(gate=("failed=0",))
        first = syncs_of(opened, 1)
        stage.set(first[4], user="somebody")
        run = await stage.carry(opened)

        assert run.summary.exit_code == 4
        assert run.counts == {"updated": 9, "rejected": 1, "unprocessed": 30}
        assert set(stage.patches) == set(first) - {first[4]}
        assert {stage.reads[i] >= 2 for i in stage.patches} == {True}
        assert "failed=0: 1 of its 10 rows failed" in run.reason
        assert first[4] in run.reason


async def failed(stage: Stage, *, rows: int = 30, **settings: Any) -> Run:
    """Carry a run to the gate behind its first wave, which fails."""
    stage.plain(rows)
    opened = stage.open(waves="4,50%,100%", gate=("failed=0",), **settings)
    stage.set(syncs_of(opened, 1)[2], user="somebody")
    return await stage.carry(opened)


async def test_a_failed_gate_is_gone_past_by_name_only(tmp_path: Path) -> None:
    """`resume --past-gate WAVE` goes on with the next wave; who passed it is on record."""
    async with Stage(tmp_path) as stage:
        run = await failed(stage)
        sent = stage.patches.total()
        resumed = await stage.resume(run, past_gate=1)

        assert sent == 3
        assert resumed.counts == {"updated": 29, "rejected": 1}
        assert resumed.summary.exit_code == 3
        assert [(g.wave, g.verdict, g.passed_by) for g in gates_of(resumed)] == [
            (1, "fail", "--past-gate"),
            (2, "pass", None),
        ]
        assert told(resumed, "gate.passed") == [{"wave": 1, "by": "--past-gate"}]
        assert [w["wave"] for w in told(resumed, "wave.started")] == [1, 2, 3]
        ends = [(w.wave, w.verdict, w.passed_by) for w in resumed.summary.waves]
        assert ends == [(1, "fail", "--past-gate"), (2, "pass", None), (3, None, None)]
        with pytest.raises(RunRefused, match="the gate of wave 1 was passed"):
            stage.reopen(run.id, past_gate=1)


async def test_a_no_to_the_question_leaves_the_gate_as_it_was(tmp_path: Path) -> None:
    """A run that was opened past its gate and not carried stands before it still."""
    async with Stage(tmp_path) as stage:
        run = await failed(stage)
        looked_at(stage.reopen(run.id, past_gate=1))

        assert not gates_of(run)[0].passed
        with pytest.raises(RunRefused):
            stage.reopen(run.id)


async def test_a_retry_does_not_go_round_a_gate(tmp_path: Path) -> None:
    """Rows behind a gate that failed are not sent by a retry either; those that ended are."""
    async with Stage(tmp_path) as stage:
        run = await failed(stage)

        with pytest.raises(RunRefused, match="its unprocessed rows are behind it"):
            await stage.retry(run)
        again = await stage.retry(run, "rejected")
        assert again.counts == {"rejected": 1}


@in_fast_motion(20)
async def test_too_few_proved_rows_stop_the_run_without_a_terminal(tmp_path: Path) -> None:
    """An API that tells no last sync proves no re-sync: inconclusive, exit 4, resumable by name."""
    behavior = Behavior(tells=TOLD - {"summary"})
    async with Stage(tmp_path, behavior=behavior, until=None, confirm_timeout="2s") as stage:
        stage.plain(10)
        run = await stage.run(waves="3,100%")

        assert (run.summary.exit_code, run.counts) == (4, {"updated": 3, "unprocessed": 7})
        assert run.reason.startswith(
            "the gate of wave 1 is inconclusive: 0 of the 3 rows that were changed could be proved"
        )
        assert [gate.verdict for gate in gates_of(run)] == ["inconclusive"]
        with pytest.raises(RunRefused, match="wave 1, which was inconclusive"):
            stage.reopen(run.id)
        resumed = await stage.resume(run, past_gate=1)
        assert resumed.counts == {"updated": 10}


@in_fast_motion(20)
@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 4)])
async def test_an_inconclusive_gate_asks_who_is_at_the_terminal(
    agrees: bool, code: int, tmp_path: Path
) -> None:
    """A yes goes on and is on record; a no stops, and then only --past-gate helps."""
    questions = []

    async def decide(question: str) -> bool:
        questions.append(question)
        return agrees

    behavior = Behavior(tells=TOLD - {"summary"})
    async with Stage(tmp_path, behavior=behavior, until=None, confirm_timeout="2s") as stage:
        stage.plain(10)
        run = await stage.carry(stage.open(waves="3,100%"), decide=decide)

        assert run.summary.exit_code == code
        assert len(questions) == 1
        assert questions[0].startswith("The gate of wave 1 is inconclusive: 0 of the 3 rows")
        (gate,) = gates_of(run)
        assert gate.passed_by == (AT_THE_TERMINAL if agrees else None)
        assert [w["reason"] for w in told(run, "throttle.held") if w["reason"] == "gate"] != []


async def test_approve_asks_at_each_gate_that_passed(tmp_path: Path) -> None:
    """Every wave but the last waits for a yes."""
    questions = []

    async def decide(question: str) -> bool:
        questions.append(question)
        return True

    async with Stage(tmp_path) as stage:
        stage.plain(10)
        run = await stage.carry(stage.open(waves="1,50%,100%", approve=True), decide=decide)

        assert run.counts == {"updated": 10}
        assert questions == [
            "The gate of wave 1 passed (1 row, 1 changed, 1 proved). Begin the next wave?",
            "The gate of wave 2 passed (4 rows, 4 changed, 4 proved). Begin the next wave?",
        ]
        assert [gate.passed_by for gate in gates_of(run)] == [AT_THE_TERMINAL] * 2


async def test_a_gate_that_is_not_approved_stops_and_is_asked_about_again(tmp_path: Path) -> None:
    """A no is no verdict: the run stops with 4, and resume asks anew without --past-gate."""

    async def no(_: str) -> bool:
        return False

    async def yes(_: str) -> bool:
        return True

    async with Stage(tmp_path) as stage:
        stage.plain(10)
        run = await stage.carry(stage.open(waves="1,100%", approve=True), decide=no)
        reason = run.reason
        resumed = await stage.carry(stage.reopen(run.id), decide=yes)

        assert run.summary.exit_code == 4
        assert reason.startswith("the gate of wave 1 passed, and the next wave was not approved")
        assert resumed.counts == {"updated": 10}


async def test_a_failed_gate_asks_nobody(tmp_path: Path) -> None:
    """Neither a terminal nor --approve passes a gate that has failed."""

    async def decide(_: str) -> bool:
        raise AssertionError("asked")

    async with Stage(tmp_path) as stage:
        stage.plain(10)
        opened = stage.open(waves="2,100%", gate=("failed=0",), approve=True)
        stage.set(syncs_of(opened, 1)[0], user="somebody")
        run = await stage.carry(opened, decide=decide)

        assert run.summary.exit_code == 4


async def test_whoever_waits_at_a_gate_can_be_interrupted(tmp_path: Path) -> None:
    """SIGTERM while a person is asked: exit 143; resume asks again."""
    asked = asyncio.Event()

    async def decide(_: str) -> bool:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def yes(_: str) -> bool:
        return True

    async def interrupt() -> None:
        await asked.wait()
        signal.raise_signal(signal.SIGTERM)

    async with Stage(tmp_path) as stage:
        stage.plain(10)
        opened = stage.open(waves="2,100%", approve=True)
        run, _ = await asyncio.gather(stage.carry(opened, decide=decide), interrupt())
        resumed = await stage.carry(stage.reopen(run.id), decide=yes)

        assert (run.summary.exit_code, run.counts) == (143, {"updated": 2, "unprocessed": 8})
        assert gates_of(run)[0].verdict == "pass"
        assert resumed.counts == {"updated": 10}
        assert max(stage.patches.values()) == 1


# ------------------------------------------------------------------------------- soak and records


def after_resync(stage: Stage, wave: int, opened: Opened, act: Callable[[str], object]) -> None:
    """Do *act* to the second sync of a wave once all of that wave were patched."""
    syncs = syncs_of(opened, wave)
    stage.when(lambda: set(syncs) <= set(stage.patches), lambda: act(syncs[1]))


@in_fast_motion(20)
async def test_a_sync_that_goes_into_errored_during_the_soak_fails_the_gate(
    tmp_path: Path,
) -> None:
    """Its row is updated, for that was so; the gate sees what has become of it."""
    async with Stage(tmp_path, until=None, waves="3,100%") as stage:
        stage.plain(10)
        opened = stage.open(soak="40s")
        (bad, *_) = syncs_of(opened, 1)
        carried = asyncio.ensure_future(stage.carry(opened))
        events = opened.folder.path / "events.jsonl"
        await until(lambda: events.exists() and b'"reason":"soak"' in events.read_bytes())
        stage.set(bad, status="ERRORED", reason="no more")
        run = await carried

        assert run.counts == {"updated": 3, "unprocessed": 7}
        assert run.summary.exit_code == 4
        assert f"sync {bad} (ERRORED since it was proved: no more)" in run.reason
        (gate,) = gates_of(run)
        assert (gate.condition, gate.sync_id) == ("errored=0", bad)
        assert 35 <= run.summary.waits["soak"] <= 45


@in_fast_motion(20)
async def test_a_soak_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """It counts from the end of the wave's last row, whatever happens in between."""
    async with Stage(tmp_path, waves="2,100%", soak="30s") as stage:
        stage.plain(6)
        opened = stage.open()
        events = opened.folder.path / "events.jsonl"
        carried = asyncio.ensure_future(stage.carry(opened))
        await until(lambda: events.exists() and b'"reason":"soak"' in events.read_bytes())
        signal.raise_signal(signal.SIGTERM)
        run = await carried
        await asyncio.sleep(32)
        resumed = await stage.resume(run)

        assert (run.summary.exit_code, run.counts) == (143, {"updated": 2, "unprocessed": 4})
        assert resumed.counts == {"updated": 6}
        assert len(resumed.held("soak")) == 1


@in_fast_motion(20)
async def test_a_sync_that_lost_records_stops_the_run(tmp_path: Path) -> None:
    """Its count after the re-sync is compared with its own before, from the undo log."""
    async with Stage(tmp_path, until=None, waves="3,100%") as stage:
        stage.plain(10, total_records=1000)
        opened = stage.open(gate=("records=-20%",))
        after_resync(stage, 1, opened, lambda sync: stage.set(sync, total_records=700))
        bad = syncs_of(opened, 1)[1]
        run = await stage.carry(opened)

        assert (run.summary.exit_code, run.counts) == (4, {"updated": 3, "unprocessed": 7})
        assert "records=-20%: " in run.reason
        assert f"sync {bad} had 1,000 records and now has 700 (-30%)" in run.reason


@in_fast_motion(20)
async def test_a_sync_that_was_errored_before_is_no_news(tmp_path: Path) -> None:
    """What was ERRORED before and stays so does not fail a gate by a look at it."""
    async with Stage(tmp_path, until="confirmed", waves="3,100%", soak="5s") as stage:
        stage.sim.behavior = Behavior(patch_revives_errored=False)
        stage.plain(6, status="ERRORED", reason="as ever")
        run = await stage.run()

        assert run.counts == {"updated": 6}
        assert [gate.verdict for gate in gates_of(run)] == ["pass"]


async def test_a_rollback_may_go_in_waves_too(tmp_path: Path) -> None:
    """What others changed since is left alone, and does not fail the gate."""
    async with Stage(tmp_path) as stage:
        stage.plain(10)
        run = await stage.run()
        stage.set("s3", credential_id=str(uuid.uuid4()))
        back = await stage.rollback(run, waves="5,100%", gate=("failed=0",))

        assert back.counts == {"updated": 9, "conflicted": 1}
        assert [gate.verdict for gate in gates_of(back)] == ["pass"]
        assert {r.credential_id for i, r in stage.sim.snapshot().items() if i != "s3"} == {OLD}


# --------------------------------------------------------------------------------- at a terminal


def six(stage: commands.Stage) -> Path:
    """Write an input of six moves of one user."""
    syncs = [
        SyncRecord(id=f"s{n}", user="u", credential_id=OLD, total_records=5) for n in range(1, 7)
    ]
    stage.there(stage.simulator.add, *syncs)
    rows = [(sync.id, sync.user, commands.NEW) for sync in syncs]
    return stage.write("moves.csv", [("sync_id", "user_id", "credential_id"), *rows])


def test_the_question_and_the_commands_at_a_gate_that_failed(tmp_path: Path) -> None:
    """Waves, gates and soak are told before; 4 at the gate; 5 without --past-gate; 0 with it."""
    with commands.Stage(tmp_path, until=None) as stage:
        moves = six(stage)
        stage.simulator.behavior = Behavior(errored=1.0)
        flags = ("--waves", "2,100%", "--soak", "1s", "--gate", "unconfirmed=0", "--yes")
        command = stage.run(*MOVE, moves, *flags, "--run-id", "x")
        patched = stage.patches()

        assert command.code == 4, command.err
        assert "waves     2, then 4 rows, each proved before the next" in command.err
        assert "gates     errored=0, unconfirmed=0 behind each wave but the last" in command.err
        assert "judged 1s after its last row has ended" in command.err
        assert "the gate of wave 1 failed: errored=0: 2 of its 2 rows went into" in command.out
        assert "waves   2 rows: fail, then 4 rows" in command.out
        assert command.out.splitlines()[-1] == "  next    syncshift resume x --past-gate 1"
        assert patched == 2

        refused = stage.run("resume", "x", "--yes")
        assert (refused.code, refused.out) == (5, "")
        assert "syncshift resume x --past-gate 1" in refused.err
        assert stage.patches() == patched

        stage.simulator.behavior = Behavior()
        resumed = stage.run("resume", "x", "--yes", "--past-gate", "1", "--json")
        assert resumed.code == 3, resumed.err
        assert resumed.json()["waves"] == [
            {"wave": 1, "rows": 2, "verdict": "fail", "passed_by": "--past-gate"},
            {"wave": 2, "rows": 4},
        ]
        assert "goes on with wave 2" in resumed.err
        assert stage.patches() == 6


def test_a_person_approves_at_the_terminal(tmp_path: Path) -> None:
    """The picture makes room for the question; what was typed before is no answer."""
    with commands.Stage(tmp_path) as stage:
        moves = six(stage)
        terminal = stage.terminal(
            *MOVE, moves, "--yes", "--waves", "2,50%,100%", "--approve", "--run-id", "x"
        )
        terminal.type("n\n")
        terminal.expect("The gate of wave 1 passed (2 rows, 2 changed, 2 proved). Begin the next")
        terminal.type("y\n")
        terminal.expect("The gate of wave 2 passed (1 row, 1 changed, 1 proved). Begin the next")
        patched = stage.patches()
        terminal.type("no\n")
        terminal.wait()

        assert patched == 3
        assert terminal.code == 4, terminal.shown
        assert "the next wave was not approved" in terminal.shown
        assert stage.moved() == 3
        gates = stage.manifest("x")["gates"]
        assert [(gate["wave"], gate["passed_by"]) for gate in gates] == [(1, AT_THE_TERMINAL)]


def test_ctrl_c_at_a_gate_interrupts(tmp_path: Path) -> None:
    """Ctrl-C in place of an answer: 130, and the run can be gone on with."""
    with commands.Stage(tmp_path) as stage:
        moves = six(stage)
        flags = ("--yes", "--waves", "2,100%", "--approve", "--run-id", "x")
        terminal = stage.terminal(*MOVE, moves, *flags)
        terminal.expect("Begin the next wave?")
        terminal.type("\x03")
        terminal.wait()

        assert terminal.code == 130, terminal.shown
        assert "Traceback" not in terminal.shown
        assert stage.moved() == 2


def test_a_gate_is_approved_from_outside(tmp_path: Path) -> None:
    """Without a terminal --approve waits for `syncshift continue`; who said it is on record."""
    with commands.Stage(tmp_path) as stage:
        moves = six(stage)
        flags = ("--yes", "--waves", "2,100%", "--approve", "--run-id", "x")
        command = stage.start(*MOVE, moves, *flags)
        events = stage.folder("x") / "events.jsonl"
        commands.until(lambda: _waits_to_be_approved(events), "the gate waits")
        patched = stage.patches()
        said = stage.run("continue", "x")

        assert (said.code, patched) == (0, 2), said.err
        assert "the gate is passed" in said.out
        assert command.wait().code == 0, command.err
        (gate,) = stage.manifest("x")["gates"]
        assert (gate["verdict"], "process" in gate["passed_by"]) == ("pass", True)
        assert command.out.count("waited") == 1
        passed = [e for e in commands.journal(events) if e["event"] == "gate.passed"]
        assert [(e["wave"], e["by"]) for e in passed] == [(1, gate["passed_by"])]


def _waits_to_be_approved(events: Path) -> bool:
    return events.exists() and b'"reason":"approve"' in events.read_bytes()


def test_a_plan_says_in_which_waves_it_would_be_applied(tmp_path: Path) -> None:
    """`plan` names the waves, and `apply` goes by them."""
    with commands.Stage(tmp_path) as stage:
        moves = six(stage)
        plan = stage.run("plan", "migrate-credentials", moves, "--waves", "1,50%", "--run-id", "x")
        applied = stage.run("apply", "x", "--yes", "--json")

        said = "waves     1, then 2, then 3 rows, each proved before the next; the last one is what"
        assert said in plan.out
        assert applied.code == 0, applied.err
        assert [wave["rows"] for wave in applied.json()["waves"]] == [1, 2, 3]
        assert said in applied.err
