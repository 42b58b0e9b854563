"""When a run stops by itself: too many rows failed, or what fails is not the rows' fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import SettingsError
from runner.rollout import FailureLimit
from runner.simulator import Behavior, Fault, Faults, SyncRecord
from runner.tokens import TokenChecker
from tests.stage import NEW, OLD, PROJECT, Stage, in_fast_motion, public_pem
from tests.test_failure_limits import fell, trips_at
from tests.wire import Wire, says


class TestFailureLimit:
    """How many rows may fail."""

    @pytest.mark.parametrize(
        ("text", "limit"),
        [
            ("0", FailureLimit(rows=0)),
            ("5", FailureLimit(rows=5)),
            (" 10% ", FailureLimit(percent=10.0)),
            ("0%", FailureLimit(percent=0.0)),
            ("2.5%", FailureLimit(percent=2.5)),
            ("100%", FailureLimit(percent=100.0)),
        ],
    )
    def test_it_is_a_number_or_a_share(self, text: str, limit: FailureLimit) -> None:
        """N rows, or P% of those that have ended."""
        assert FailureLimit.parse(text) == limit

    @pytest.mark.parametrize("text", ["", "-1", "ten", "101%", "5 %", "1.5", "\u0665", "%", "1e3"])
    def test_anything_else_is_refused(self, text: str) -> None:
        """The message says what may stand there, and what was found."""
        with pytest.raises(SettingsError, match="--max-failures must be a number of rows") as told:
            FailureLimit.parse(text)

        assert str(told.value).endswith(f"got {text!r}")

    @pytest.mark.parametrize(
        ("text", "failed", "ended", "too_many"),
        [
            ("0", 0, 100, False),
            ("0", 1, 1, True),
            ("5", 5, 5, False),
            ("5", 6, 6, True),
            ("10%", 19, 19, False),
            ("10%", 2, 20, False),
            ("10%", 3, 20, True),
            ("10%", 100, 1000, False),
            ("10%", 101, 1000, True),
            ("100%", 20, 20, False),
            ("0%", 1, 19, False),
            ("0%", 1, 20, True),
        ],
    )
    def test_n_stops_above_n_and_a_share_from_twenty_rows_on(
        self, text: str, failed: int, ended: int, too_many: bool
    ) -> None:
        """N: failed > N. P%: at least 20 have ended, and failed / ended > P."""
        assert FailureLimit.parse(text).exceeded(failed=failed, ended=ended) is too_many

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("5", "stops at 6 failed rows (--max-failures 5)"),
            (
                "10%",
                "stops above 10% failed, from 20 ended rows on; at most 123 of 1,234 may fail",
            ),
        ],
    )
    def test_it_is_told_in_plain_numbers(self, text: str, words: str) -> None:
        """A person sees before the start when the run would stop."""
        assert FailureLimit.parse(text).in_words(rows=1234) == words


def fail(stage: Stage, *numbers: int) -> None:
    """Let the rows with these numbers be rejected: their syncs belong to somebody else."""
    for n in range(1, 101):
        owner = "somebody" if n in numbers else f"u{n % 5 + 1}"
        stage.sim.add(SyncRecord(id=f"s{n}", user=owner, credential_id=OLD))
    stage.write(
        {"sync_id": f"s{n}", "user_id": f"u{n % 5 + 1}", "credential_id": NEW}
        for n in range(1, 101)
    )


@pytest.mark.parametrize(
    ("limit", "failing", "stops"),
    [
        ("0", [50], True),
        ("2", [10, 20], False),
        ("2", [10, 20, 30], True),
        ("10%", range(60, 101, 8), False),
        ("10%", range(5, 101, 5), True),
        ("100%", range(1, 101), False),
    ],
)
async def test_t11_the_failure_limit_stops_the_run(
    limit: str, failing: range, stops: bool, tmp_path: Path
) -> None:
    """T11: one row above the limit stops the run; calls in flight finish, no more are begun."""
    async with Stage(tmp_path, concurrency=2, max_failures=limit) as stage:
        fail(stage, *failing)
        run = await stage.run()

        ended = len(run.outcomes)
        failed = sum(line["outcome"] == "rejected" for line in run.lines)
        if not stops:
            assert (failed, ended) == (len(failing), 100)
            assert run.summary.exit_code == 3
            return
        assert (run.summary.exit_code, run.summary.verdict) == (4, "stopped")
        assert "--max-failures allows" in run.reason
        assert "syncshift resume" in run.reason
        assert ended < 100
        assert run.counts["unprocessed"] == 100 - ended
        closed = run.events[-1]
        assert (closed["event"], closed["state"]) == ("run.closed", "stopped")
        # Rows whose request was out could land; nothing was begun after that.
        stop = trips_at(FailureLimit.parse(limit), fell(run))
        assert stop is not None
        assert closed["in_flight"] <= 2
        assert ended - stop <= closed["in_flight"] + 2


async def test_the_limit_counts_afresh_on_resume(tmp_path: Path) -> None:
    """What failed before the stop is not held against the rest."""
    async with Stage(tmp_path, concurrency=1, max_failures="3") as stage:
        fail(stage, 10, 20, 30, 40, 50, 60)
        first = await stage.run()
        second = await stage.resume(first)

        assert first.counts["rejected"] == 4
        assert second.counts == {"updated": 94, "rejected": 6}
        assert second.summary.exit_code == 3


async def test_another_limit_may_be_given_on_resume(tmp_path: Path) -> None:
    """--max-failures is one of the settings that may be given anew."""
    async with Stage(tmp_path, concurrency=1, max_failures="0") as stage:
        fail(stage, 10, 20, 30)
        first = await stage.run()
        second = await stage.resume(first, max_failures="50%")

        assert first.counts["rejected"] == 1
        assert second.counts == {"updated": 97, "rejected": 3}


async def test_invalid_rows_that_were_skipped_do_not_count(tmp_path: Path) -> None:
    """Half of the rows are invalid, skipped by request; the limit looks at the others only."""
    async with Stage(tmp_path) as stage:
        stage.plain(40)
        rows = [
            {"sync_id": f"s{n}", "user_id": "u1", "credential_id": NEW if n % 2 else "nonsense"}
            for n in range(1, 41)
        ]
        stage.write(rows)
        run = await stage.run(skip_invalid=True, max_failures="0")

        assert run.counts == {"updated": 20, "invalid": 20}
        assert run.summary.exit_code == 3
        assert stage.patches.total() == 20


async def test_rows_that_contradict_each_other_are_invalid(tmp_path: Path) -> None:
    """Two rows want one sync in two states: neither is sent, each names the other's line."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        rows = (("s1", NEW), ("s2", NEW), ("s2", OLD), ("s3", NEW))
        stage.write({"sync_id": i, "user_id": "u1", "credential_id": c} for i, c in rows)
        run = await stage.run(skip_invalid=True)

        assert run.counts == {"updated": 2, "invalid": 2}
        assert run.outcome(2) == run.outcome(3) == ("invalid", "invalid")
        assert "this sync stands on line 4 as well" in run.outcomes[2]["error"]
        assert "this sync stands on line 3 as well" in run.outcomes[3]["error"]
        assert stage.patches == {"s1": 1, "s3": 1}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_r2_a_redirect_is_never_followed(status: int, tmp_path: Path) -> None:
    """R2: another host is told nothing; three rows show that it is the run's fault, told once."""
    elsewhere = Wire(says(200))
    async with Stage(tmp_path, concurrency=4) as stage, elsewhere.listening():
        stage.plain(50, users=5)
        location = f"Location: {elsewhere.url}/api/syncs/s1"
        async with Wire(says(status, location)).listening() as here:
            run = await stage.run(base_url=here.url)

            assert elsewhere.heard == []
            assert elsewhere.connections == 0
            assert 3 <= len(here.heard) <= 3 + 4
        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": 50}
        assert "3 rows in a row ended alike" in run.reason
        assert f"{status}: the host redirects, and no redirect is followed" in run.reason


async def test_r2_a_single_redirect_is_the_rows_own(tmp_path: Path) -> None:
    """R2: one row that is redirected while the others are not is rejected; nothing is followed."""
    async with Stage(tmp_path, concurrency=1) as stage:
        stage.plain(20)
        stage.sim.script("s7", "PATCH", [Fault.REDIRECT])
        run = await stage.run()

        assert run.counts == {"updated": 19, "rejected": 1}
        assert run.outcome(7) == ("rejected", "protocol")


async def test_a5_a_key_that_nobody_accepts_stops_the_run(tmp_path: Path) -> None:
    """A5: 401 for everyone: a handful of rows show it, it is told once, and no row pays."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.plain(200, users=20)
        run = await stage.run(audience="useparagon.com/another")

        assert (run.summary.exit_code, run.counts) == (4, {"unprocessed": 200})
        assert "rows in a row ended alike" in run.reason
        assert "401: Unauthorized" in run.reason
        assert stage.sim.requests <= 2 * (5 + 4 + 10)
        assert run.table("failed.csv") == []
        assert len(run.table("unprocessed.csv")) == 200


async def test_a5_a_key_that_is_revoked_meanwhile_stops_the_run(tmp_path: Path) -> None:
    """A5: only rows that were under way meet the revocation; all of them stay unprocessed."""
    async with Stage(tmp_path, faults=Faults(latency_s=0.005), concurrency=8) as stage:
        stage.seed(300, users=60)
        honest = stage.checker

        def revoke() -> None:
            stage.checker = lambda _: None

        stage.after(250, revoke)
        run = await stage.run()

        assert run.summary.exit_code == 4
        assert set(run.counts) == {"updated", "unprocessed"}
        refused = [e for e in stage.audit if e.status == 401]
        assert len({e.sync_id for e in refused}) <= 4 * 8

        stage.checker = honest
        resumed = await stage.resume(run)

        assert resumed.counts == {"updated": 300}
        assert stage.in_force() == 300


async def test_a5_one_user_without_access_is_not_the_run(tmp_path: Path) -> None:
    """A5: a single user's 401s are that user's rows' end; the others go on."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.plain(100, users=10)
        honest = stage.checker

        def all_but_one(token: str) -> str | None:
            user = honest(token)
            return None if user == "u3" else user

        stage.checker = all_but_one
        run = await stage.run(max_failures="100%")

        assert run.counts == {"updated": 90, "rejected": 10}
        assert {line["error_class"] for line in run.lines} == {None, "auth"}


@pytest.mark.parametrize("fault", [Fault.HTTP_401, Fault.REVOKED])
async def test_a4_a_refused_token_is_replaced_once(fault: Fault, tmp_path: Path) -> None:
    """A4: 401 costs one new token and one more request; the row is updated."""
    async with Stage(tmp_path) as stage:
        stage.plain(1)
        stage.sim.script("s1", "PATCH", [fault])
        run = await stage.run()

        assert run.outcome(1) == ("updated", None)
        assert run.outcomes[1]["attempts"] == 2
        first, second = (e.token_hash for e in stage.audit if e.method == "PATCH")
        assert first != second


async def test_a4_a_second_refusal_ends_the_row(tmp_path: Path) -> None:
    """A4: a fresh token that is refused as well is no reason to try a third one."""
    async with Stage(tmp_path, concurrency=1) as stage:
        stage.plain(10)
        stage.sim.script("s4", "PATCH", [Fault.HTTP_401] * 3)
        run = await stage.run()

        assert run.counts == {"updated": 9, "rejected": 1}
        assert run.outcome(4) == ("rejected", "auth")
        line = run.outcomes[4]
        assert (line["attempts"], line["http_status"], line["sent"]) == (2, 401, True)


@pytest.mark.parametrize("skew_s", [-90.0, 90.0, -3600.0])
async def test_a6_a_servers_clock_that_is_off_costs_no_row(skew_s: float, tmp_path: Path) -> None:
    """A6: the offset is learned from the server's Date, so no row fails by it."""
    async with Stage(tmp_path, behavior=Behavior(clock_skew_s=skew_s)) as stage:
        stage.plain(200, users=40)
        stage.checker = TokenChecker(
            public_pem(), f"useparagon.com/{PROJECT}", lambda: stage.clocks.wall() + skew_s
        )
        run = await stage.run()

        assert run.counts == {"updated": 200}
        refused = [e for e in stage.audit if e.status == 401]
        assert len(refused) <= 40


async def test_a_host_that_is_no_sync_api_stops_at_the_first_row(tmp_path: Path) -> None:
    """A status that only another kind of host gives is enough once."""
    async with Stage(tmp_path, concurrency=1) as stage:
        stage.plain(30)
        async with Wire(says(501)).listening() as here:
            run = await stage.run(base_url=here.url)

            assert len(here.heard) == 1
        assert run.counts == {"unprocessed": 30}
        assert run.reason.startswith("what a row met is a fault of the run")
        assert "the host does not know this request (501)" in run.reason


async def test_many_suspects_of_few_users_are_those_users_own(tmp_path: Path) -> None:
    """More than a hundred 401s of one user are that user's own once others got through."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.plain(5, users=5)
        ids = [f"x{n}" for n in range(1, 151)]
        stage.sim.add(*(SyncRecord(id=i, user="u9", credential_id=OLD) for i in ids))
        users = [{"sync_id": f"s{n}", "user_id": f"u{n % 5 + 1}"} for n in range(1, 6)]
        stage.write(
            {**row, "credential_id": NEW}
            for row in [*users, *({"sync_id": i, "user_id": "u9"} for i in ids)]
        )
        honest = stage.checker

        def all_but_one(token: str) -> str | None:
            user = honest(token)
            return None if user == "u9" else user

        stage.checker = all_but_one
        run = await stage.run(max_failures="100%")

        assert run.counts == {"updated": 5, "rejected": 150}


async def test_many_suspects_and_nothing_else_are_the_run(tmp_path: Path) -> None:
    """When a hundred rows were refused and no other row has ended, it is more than one user."""
    async with Stage(tmp_path, concurrency=4) as stage:
        stage.sim.add(SyncRecord(id="s", user="u1", credential_id=OLD))
        rows = [(f"x{n}", "u9") for n in range(150)] + [(f"y{n}", f"u{n}") for n in range(4)]
        stage.write({"sync_id": i, "user_id": u, "credential_id": NEW} for i, u in rows)
        stage.checker = lambda _: None
        run = await stage.run(max_failures="100%")

        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": 154}


@in_fast_motion(10)
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x00\x01 this is no HTTP at all\r\n\r\n", "what came back is not HTTP"),
        (says(404, body=b"<html>No such page</html>"), "404 with a web page"),
    ],
    ids=["garbage", "page"],
)
async def test_a_host_that_is_no_sync_api_stops_the_run(
    tmp_path: Path, answer: bytes, told: str
) -> None:
    """What a web server, or something else that listens, says to all is no row's fault."""
    async with Stage(tmp_path, concurrency=2) as stage:
        stage.plain(40)
        async with Wire(answer).listening() as here:
            run = await stage.run(base_url=here.url)

        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": 40}
        assert told in run.reason
        assert "the host does not speak the Sync API" in run.reason


@in_fast_motion(10)
async def test_strange_answers_to_all_stop_the_run(tmp_path: Path) -> None:
    """A host that answers every read with a page is the wrong host; no row pays for it."""
    async with Stage(tmp_path, concurrency=2) as stage:
        stage.plain(40)
        async with Wire(says(200, body=b"<html>Welcome</html>")).listening() as here:
            run = await stage.run(base_url=here.url)

        assert run.summary.exit_code == 4
        assert run.counts == {"unprocessed": 40}
        assert "the answer does not speak of what was asked" in run.reason
