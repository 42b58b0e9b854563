"""Where the database is, whether it is ready, and what cannot be had with workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import DatabaseAway, EngineNotReady, SettingsError
from runner.postgres import find_dsn, init, look, must_be_ready
from runner.postgres.common import Common, HostLine
from runner.postgres.leasing import lease
from runner.postgres.store import fetch
from runner.postgres.submitting import parts_of
from tests.commands import Stage
from tests.fields import FieldStage
from tests.servers import Server
from tests.stage import free_port

SECRET = "hunter2-very-secret"


def test_a_password_in_a_flag_is_refused() -> None:
    """It would stand in the list of processes; the error does not repeat it."""
    for text in (f"postgresql://me:{SECRET}@db/x", f"host=db password={SECRET}"):
        with pytest.raises(SettingsError, match="--dsn-file") as refused:
            find_dsn(flag=text, file=None, environment={})
        assert SECRET not in str(refused.value)


def test_an_address_comes_from_flag_file_or_variable(tmp_path: Path) -> None:
    """A flag goes before a variable, a password may stand in a file; nobody need say it."""
    file = tmp_path / "dsn"
    file.write_text(f"postgresql://me:{SECRET}@file/x\n", encoding="utf-8")
    environment = {"SYNCSHIFT_DSN": f"postgresql://me:{SECRET}@variable/x"}

    by_file = find_dsn(flag=None, file=str(file), environment=environment)
    by_flag = find_dsn(flag="postgresql://me@flag/x", file=None, environment=environment)
    by_variable = find_dsn(flag=None, file=None, environment=environment)

    assert by_file is not None
    assert "host=file" in by_file.reveal()
    assert "search_path=syncshift" in by_file.reveal()
    assert by_flag is not None
    assert "host=flag" in by_flag.reveal()
    assert by_variable is not None
    assert "host=variable" in by_variable.reveal()
    assert find_dsn(flag=None, file=None, environment={}) is None


@pytest.mark.parametrize(
    ("flag", "file", "told"),
    [
        ("postgresql://a", "b", "leave one of them out"),
        (None, "/nowhere/at/all", "cannot be read"),
        ("nonsense = = x", None, "is no address"),
    ],
)
def test_a_wrong_address_is_told(flag: str | None, file: str | None, told: str) -> None:
    """Each in words that say what would be right."""
    with pytest.raises(SettingsError, match=told):
        find_dsn(flag=flag, file=file, environment={})


def test_a_database_is_made_ready_once_and_says_how_it_stands(tmp_path: Path, pg: Server) -> None:
    """Without its tables it is refused with what to do; made twice, nothing changes."""
    with Stage(tmp_path) as stage:
        dsn = pg.database()
        stage.environment["SYNCSHIFT_DSN"] = dsn
        early = stage.here("engine", "check")
        made = stage.here("engine", "init")
        again = stage.here("engine", "init")
        there = stage.here("engine", "check")
        nobody = stage.here("engine", "check", "--dsn", f"postgresql://a@127.0.0.1:{free_port()}/x")

    assert early.code == 5
    assert "syncshift engine init" in early.err
    assert (made.code, again.code, there.code, nobody.code) == (0, 0, 0, 4)
    assert "is ready now" in made.out
    assert "was ready already" in again.out
    assert "PostgreSQL" in there.out
    assert "cannot be reached" in nobody.err


def test_tables_of_another_version_are_refused(pg: Server) -> None:
    """Whoever made them is to be used, or another database."""
    import psycopg

    address = pg.database()
    dsn = find_dsn(flag=address, file=None, environment={})
    assert dsn is not None
    init(dsn)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("UPDATE syncshift.meta SET version = 99")
        with pytest.raises(EngineNotReady, match="version 99"):
            must_be_ready(dsn)
        connection.execute("UPDATE syncshift.meta SET version = 1, queue = '2.0'")
        with pytest.raises(EngineNotReady, match=r"procrastinate 2\.0"):
            init(dsn)
    assert look(dsn).queue == "2.0"


def test_a_run_that_is_not_there_is_not_fetched(tmp_path: Path, pg: Server) -> None:
    """Nothing is left behind, and a database that is away is told."""
    dsn = find_dsn(flag=pg.database(), file=None, environment={})
    assert dsn is not None
    init(dsn)

    assert not fetch(dsn, tmp_path, "x")
    assert list(tmp_path.iterdir()) == []
    gone = find_dsn(flag=f"postgresql://a@127.0.0.1:{free_port()}/x", file=None, environment={})
    assert gone is not None
    with pytest.raises(DatabaseAway, match="cannot be reached"):
        fetch(gone, tmp_path, "x")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--detach",), "needs --engine postgres"),
        (("--engine", "postgres", "--processes", "2"), "--processes cannot be had"),
        (("--engine", "postgres", "--strict"), "--strict cannot be had"),
        (("--engine", "postgres", "--max-resyncs-per", "user=1"), "--max-resyncs-per cannot"),
        (("--engine", "postgres", "--detach", "--approve"), "nobody is there"),
        (("--engine", "mainframe"), "local"),
    ],
)
def test_what_cannot_be_had_with_workers_is_refused(
    tmp_path: Path, pg: Server, words: tuple[str, ...], told: str
) -> None:
    """Exit code 2 and a reason, before anything is sent."""
    with FieldStage(tmp_path, pg) as stage:
        path = stage.moves(3)
        said = stage.here("run", "migrate-credentials", path, "--yes", *words)

        assert said.code == 2
        assert told in said.err
        assert stage.audit == []


def test_workers_without_an_address_or_a_key_are_refused(tmp_path: Path, pg: Server) -> None:
    """Each says what is missing, and takes nothing."""
    with FieldStage(tmp_path, pg) as stage:
        del stage.environment["SYNCSHIFT_DSN"]
        nowhere = stage.here("worker")
        run = stage.here(
            "run", "migrate-credentials", stage.moves(2), "--engine", "postgres", "--yes"
        )
        stage.environment["SYNCSHIFT_DSN"] = stage.dsn
        del stage.environment["PARAGON_SIGNING_KEY_FILE"]
        nobody = stage.here("worker")

    assert (nowhere.code, run.code, nobody.code) == (2, 2, 2)
    assert "SYNCSHIFT_DSN" in nowhere.err
    assert "--dsn-file" in run.err
    assert "there is no key" in nobody.err


def test_leases_of_all_workers_are_at_the_lowest_rate_of_all_runs() -> None:
    """One host has one line, whoever sends there and for whichever run."""
    line: HostLine | None = None
    departures: list[float] = []
    now = 1000.0
    while now < 1010.0:
        for worker, run, rate in (("a", "x", 20.0), ("b", "x", 20.0), ("c", "y", 10.0)):
            line, leased = lease(line, run=run, worker=worker, rate=rate, departures=50, now=now)
            first = now + leased.begins_in_s
            departures += [first + n * leased.interval_s for n in range(leased.departures)]
        now += 0.1

    inner = [moment for moment in departures if 1002.0 <= moment < 1009.0]
    assert abs(len(inner) - 70) <= 1


def test_a_newcomer_waits_until_others_have_let_go() -> None:
    """--concurrency is never exceeded: a share grows as far as others have shrunk."""
    common = Common(concurrency=10, rate=None, max_failures="10%", resyncs=None)

    assert common.join("a", now=1.0) == (10, True)
    assert common.join("b", now=1.1) == (1, False)
    assert common.join("a", now=1.2)[0] == 5
    assert common.join("b", now=1.3) == (5, True)
    assert common.join("b", now=9.0) == (10, True)


@pytest.mark.parametrize(
    ("rate", "rows", "parts"), [(None, 10, 1), (None, 600, 12), (20.0, 15_000, 100), (2.0, 500, 10)]
)
def test_shards_are_about_three_quarters_of_a_minute(
    rate: float | None, rows: int, parts: int
) -> None:
    """A slow run has smaller ones, and a small run has several all the same."""
    assert parts_of(rate)(rows) == parts
