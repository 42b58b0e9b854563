"""`input`: a list of users becomes a file that the jobs take, row by row, and what is missing."""

from __future__ import annotations

import csv
import gzip
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from runner.api import Api
from runner.model import Request, Response
from runner.simulator import Behavior, Fault, Faults, SyncRecord
from tests.commands import NEW, Command, Stage, table, until
from tests.stranger import Stranger

OLD = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
MOVE = ("--from-credential", OLD, "--to-credential", NEW)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage with three users, two of whom have two syncs that use the old credential."""
    with Stage(tmp_path) as there:
        add(there, *(sync(user, n) for user in ("ada", "org:7,x", "eve") for n in range(4)))
        yield there


def sync(user: str, n: int, **knobs: Any) -> SyncRecord:
    """Return the nth sync of a user; the even ones use the old credential, but not eve's."""
    bound_to = OLD if n % 2 == 0 and user != "eve" else OTHER
    kind = "googledrive" if n < 2 else "box"
    known = {"credential_id": bound_to, "integration": kind, **knobs}
    return SyncRecord(id=f"{user}-{n}", user=user, **known)


def add(stage: Stage, *records: SyncRecord) -> None:
    """Let the simulator have *records*."""
    stage.there(lambda: stage.simulator.add(*records))


def lines(stage: Stage, *users: str, name: str = "users.txt") -> Path:
    """Write one user ID a line."""
    path = stage.home / name
    path.write_text("".join(f"{user}\n" for user in users), encoding="utf-8")
    return path


def rows_of(command: Command) -> list[dict[str, str]]:
    """Return the rows on standard output."""
    return list(csv.DictReader(io.StringIO(command.out)))


# ---------------------------------------------------------------------------------- what is made


def test_the_syncs_of_a_credential_become_a_file_that_a_run_takes(stage: Stage) -> None:
    """Each sync that is bound to the old credential is a row; the run then moves just those."""
    users = lines(stage, "ada", "org:7,x", "eve")

    made = stage.run("input", "--users", users, *MOVE, "-o", "moves.csv")

    assert made.code == 0, made.err
    assert made.out == ""
    assert "4 rows, the syncs of 3 of 3 users" in made.err
    assert "next  syncshift plan migrate-credentials moves.csv" in made.err
    rows = table(stage.home / "moves.csv")
    assert [row["sync_id"] for row in rows] == ["ada-0", "ada-2", "org:7,x-0", "org:7,x-2"]
    assert rows[0] == {
        "sync_id": "ada-0",
        "user_id": "ada",
        "credential_id": NEW,
        "expected_credential_id": OLD,
        "integration": "googledrive",
        "pipeline": "files",
        "status": "IDLE",
    }
    assert {entry.method for entry in stage.audit} == {"GET"}
    assert not (stage.home / "moves.unlisted.csv").exists()
    assert stage.run("run", "migrate-credentials", "moves.csv", "--yes").code == 0
    assert stage.moved() == 4


def test_a_frequency_is_for_every_sync_of_an_integration(stage: Stage) -> None:
    """Without a credential all syncs are meant, or those of one integration; to standard output."""
    users = lines(stage, "ada", "eve")

    made = stage.run("input", "--users", users, "--frequency", "1h", "--integration", "GoogleDrive")

    assert made.code == 0, made.err
    rows = rows_of(made)
    assert [row["sync_id"] for row in rows] == ["ada-0", "ada-1", "eve-0", "eve-1"]
    assert list(rows[0]) == ["sync_id", "user_id", "frequency", "integration", "pipeline", "status"]
    path = stage.home / "hourly.csv"
    path.write_text(made.out, encoding="utf-8")
    assert stage.run("run", "change-frequency", path, "--yes").code == 0


def test_each_user_may_have_credentials_of_their_own(stage: Stage) -> None:
    """In CSV a user's own cells go before the flags; blank ones leave it to the flags."""
    users = stage.write(
        "users.csv",
        [
            ("userId", "name", "expected_credential_id", "credential_id", "frequency"),
            ("ada", "Ada", OLD.upper(), NEW, ""),
            ("eve", "Eve", OTHER, "", "6h"),
        ],
    )

    made = stage.run("input", "--users", users, "--to-credential", OLD, "-o", "x.csv", "--json")

    assert made.code == 0, made.err
    told = made.json()
    assert (told["job"], told["users"], told["syncs"]) == ("update-syncs", 2, 6)
    rows = table(stage.home / "x.csv")
    assert {(r["user_id"], r["credential_id"], r["frequency"]) for r in rows} == {
        ("ada", NEW, ""),
        ("eve", OLD, "6h"),
    }
    assert {row["expected_credential_id"] for row in rows} == {OLD, OTHER}
    assert stage.run("plan", "update-syncs", "x.csv").code == 0


def test_a_frequency_for_the_syncs_of_a_credential_keeps_the_condition(stage: Stage) -> None:
    """What is meant by credential is changed only if it is still bound to it."""
    users = lines(stage, "ada")

    made = stage.run("input", "--users", users, "--from-credential", OLD, "--frequency", "3h")

    assert [(r["frequency"], r["expected_credential_id"]) for r in rows_of(made)] == [
        ("3h", OLD)
    ] * 2
    assert "mind" not in made.err


@pytest.mark.parametrize("tells", [True, False])
def test_a_server_that_ignores_the_filter_moves_nothing_else(stage: Stage, tells: bool) -> None:
    """A list that has all syncs is filtered again; where it does not tell, the run looks first."""
    behavior = Behavior(list_ignores_credential=True, list_tells_credential=tells)
    stage.simulator.behavior = behavior

    made = stage.run("input", "--users", lines(stage, "ada", "eve"), *MOVE, "-o", "x.csv")
    ran = stage.run("run", "migrate-credentials", "x.csv", "--yes", "--max-failures", "100%")

    assert made.code == 0, made.err
    assert len(table(stage.home / "x.csv")) == (2 if tells else 8)
    assert ran.code == (0 if tells else 3)
    assert stage.moved() == 2


def test_a_list_in_pages_is_read_to_its_end(stage: Stage) -> None:
    """Where the API pages, every page is asked for; the rows stand in its order."""
    add(stage, *(sync("many", n, credential_id=OLD) for n in range(25)))
    stage.simulator.behavior = Behavior(list_page=4)

    made = stage.run("input", "--users", lines(stage, "many", "ada"), *MOVE)

    assert made.code == 0, made.err
    assert [r["sync_id"] for r in rows_of(made)] == [
        *(f"many-{n}" for n in range(25)),
        "ada-0",
        "ada-2",
    ]
    asked = [entry.path for entry in stage.audit]
    assert asked[0].startswith(f"/api/syncs?credentialId={OLD}")
    assert len(asked) == 7 + 1


def test_a_user_may_have_more_syncs_than_one_status_has_bytes(stage: Stage) -> None:
    """A list may be far longer than any other answer."""
    add(stage, *(sync("big", n, credential_id=OLD) for n in range(2_000)))

    made = stage.run("input", "--users", lines(stage, "big"), *MOVE)

    assert made.code == 0, made.err
    assert len(rows_of(made)) == 2_000


def test_many_users_are_asked_for_at_once_and_stand_in_their_order(stage: Stage) -> None:
    """Lists are asked for concurrently, at the pace that was set; the file has the users' order."""
    names = [f"u{n:03}" for n in range(120)]
    add(stage, *(sync(name, 0) for name in names))
    stage.simulator.faults = Faults(latency_s=0.05, latency_jitter=1.0, http_503=0.1, http_429=0.02)
    path = stage.home / "users.txt.gz"
    path.write_bytes(gzip.compress("\r\n".join(names).encode()))

    made = stage.run("input", "--users", path, *MOVE, "--concurrency", 8)

    assert made.code == 0, made.err
    assert [row["user_id"] for row in rows_of(made)] == names
    assert 4 < stage.simulator.max_in_flight <= 8


def test_a_ready_made_token_speaks_for_one_user(stage: Stage) -> None:
    """With a token in place of a key one user can be listed, and two are refused."""
    env = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_USER_TOKEN": stage.token("ada")}

    one = stage.run("input", "--users", lines(stage, "ada"), *MOVE, env=env)
    two = stage.run("input", "--users", lines(stage, "ada", "eve"), *MOVE, env=env)

    assert (one.code, len(rows_of(one))) == (0, 2)
    assert (two.code, two.out) == (2, "")
    assert "PARAGON_USER_TOKEN speaks for one" in two.err


# --------------------------------------------------------------------------------- what is missing


def test_users_who_cannot_be_listed_are_told_and_can_be_asked_for_again(stage: Stage) -> None:
    """3: the file has all others; the missing ones stand beside it with the reason."""
    for user, fault in (("ada", Fault.NOT_JSON), ("eve", Fault.HTTP_500)):
        stage.there(stage.simulator.script, user, "LIST", [fault] * 5)
    of = [(user, OLD) for user in ("ada", "org:7,x", "eve")]
    users = stage.write("users.csv", [("user_id", "expected_credential_id"), *of])

    made = stage.run("input", "--users", users, "--to-credential", NEW, "-o", "x.csv")

    assert made.code == 3, made.err
    assert "not whole: 2 rows, the syncs of 1 of 3 users" in made.err
    assert "line 2, ada: " in made.err
    missing = table(stage.home / "x.unlisted.csv")
    assert [list(row.values())[:2] for row in missing] == [["ada", OLD], ["eve", OLD]]
    assert missing[1]["reason"].startswith("500")
    flags = ("--to-credential", NEW, "-o", "y.csv", "--json")
    again = stage.run("input", "--users", "x.unlisted.csv", *flags)
    assert again.code == 0, again.err
    assert again.json()["syncs"] == 2


def test_without_a_file_the_missing_are_told_on_standard_error(stage: Stage) -> None:
    """Rows go to standard output, the missing users and why to standard error: 3."""
    stage.there(stage.simulator.script, "eve", "LIST", [Fault.HTTP_500] * 5)

    made = stage.run("input", "--users", lines(stage, "ada", "eve"), *MOVE)
    quiet = stage.run("input", "--users", lines(stage, "ada"), *MOVE, "--quiet")

    assert made.code == 3
    assert len(rows_of(made)) == 2
    assert "line 2, eve: 500" in made.err
    assert (quiet.code, quiet.err, len(rows_of(quiet))) == (0, "", 2)


def test_a_wrong_key_ends_it_and_everybody_is_missing(stage: Stage) -> None:
    """4: a fault that is no user's own is told once, and not met ten thousand times."""
    users = lines(stage, *(f"u{n}" for n in range(200)))

    made = stage.run(
        "input", "--users", users, *MOVE, "-o", "x.csv", env={"PARAGON_PROJECT_ID": "another"}
    )

    assert made.code == 4, made.err
    assert len(stage.audit) < 150
    missing = table(stage.home / "x.unlisted.csv")
    assert [row["user_id"] for row in missing] == [f"u{n}" for n in range(200)]
    assert made.err.count("is a fault of the run and not of the rows") == 1


def test_what_is_interrupted_is_whole_as_far_as_it_goes(stage: Stage) -> None:
    """130: each user is either in the file with all rows or among the missing, and none in both."""
    names = [f"u{n:03}" for n in range(150)]
    add(stage, *(sync(name, n) for name in names for n in range(3)))
    stage.simulator.faults = Faults(latency_s=0.05)
    command = stage.start(
        "input", "--users", lines(stage, *names), *MOVE, "-o", "x.csv", "--concurrency", 4
    )
    until(lambda: len(stage.audit) > 20, "lists are asked for")

    command.signal(signal.SIGINT)
    command.wait()

    assert command.code == 130, command.err
    there = [row["user_id"] for row in table(stage.home / "x.csv")]
    missing = [row["user_id"] for row in table(stage.home / "x.unlisted.csv")]
    assert there
    assert sorted([*set(there), *missing]) == names
    assert len(there) == 2 * len(set(there))
    assert [path.name for path in stage.home.glob("*.part")] == []


def test_nobody_means_anything(stage: Stage) -> None:
    """A file without rows is made and said to have none: the credential was not that one."""
    made = stage.run("input", "--users", lines(stage, "eve", "nobody"), *MOVE, "-o", "x.csv")

    assert made.code == 0
    assert "mind" in made.err
    assert "next" not in made.err
    assert table(stage.home / "x.csv") == []


def test_what_a_server_says_of_a_sync_is_no_formula(stage: Stage) -> None:
    """Words of the server are cells that a spreadsheet shows; what cannot be an ID is no list."""
    evil = {"integration": "=cmd|' /C calc'!A0", "pipeline": "a\x1b[2J\nb"}
    add(stage, sync("evil", 0, **evil), SyncRecord(id="a\x07b", user="bell"))

    made = stage.run("input", "--users", lines(stage, "evil", "bell"), "--frequency", "1h")

    assert made.code == 3
    (row,) = rows_of(made)
    assert (row["integration"], row["pipeline"]) == ("'" + evil["integration"], "a [2J b")
    assert "line 2, bell: " in made.err


# ---------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no user"),
        ("\n  \n", "names no user"),
        ("ada\n\x01\n", "line 2, column user_id: must not hold control characters"),
        (b"ada\n\xff\xfe\n", "line 2, column user_id: is not UTF-8"),
        ("x" * 1_025, "must be at most 1,024 bytes"),
        ("user_id,credential_id\nada,7\n", "column credential_id: must be a UUID"),
        ("user_id,frequency\nada,2h\n", "column frequency: must be one of"),
        ("user_id,credental_id\nada,\n", "looks like credential_id; rename it"),
        ("user_id,userId\nada,eve\n", "stands twice in the header"),
        ("user_id,frequency\n,1h\n", "line 2, column user_id: is missing"),
        (f"user_id,expected_credential_id\nada,{NEW}\n", "to be the one that it is"),
        ('user_id\n"ada\n', "quote"),
    ],
)
def test_a_bad_file_of_users_is_refused(stage: Stage, text: str | bytes, said: str) -> None:
    """Whatever is wrong with it is told with its line before anything is asked: exit 2."""
    path = stage.home / "users"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    told = stage.here("input", "--users", path, "--to-credential", NEW, "--integration", "box")

    assert told.code == 2
    assert told.out == ""
    assert said in told.err
    assert stage.audit == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "parameter --users requires an argument"),
        (("--users", "u.txt"), "nothing that is to change"),
        (("--users", "u.txt", "--to-credential", NEW), "all syncs of the user would get it"),
        (("--users", "u.txt", "--to-credential", "7"), "--to-credential must be a UUID"),
        (("--users", "u.txt", "--frequency", "2h"), "--frequency must be one of"),
        (("--users", "u.txt", "--frequency", "1h", "--json"), "add --output FILE"),
        (("--users", "gone.txt", "--frequency", "1h"), "cannot be opened"),
        (("--users", "-", "--frequency", "1h"), "must be a file"),
        (("--users", "u.json", "--frequency", "1h"), "one user ID a line, or be CSV or JSONL"),
        (("--users", "u.csv", "--frequency", "1h"), "has no column user_id"),
        (("--users", "u.txt", "--frequency", "1h", "-o", "u.csv"), "is there already"),
        (("--users", "u.txt", "--frequency", "1h", "-o", "no/x.csv"), "cannot be made"),
    ],
)
def test_what_makes_no_sense_is_refused(stage: Stage, words: tuple[str, ...], said: str) -> None:
    """Flags that say too little or cannot be had together: exit 2, nothing asked or written."""
    for name in ("u.txt", "u.csv", "u.json"):
        lines(stage, "ada", name=name)
    before = sorted(stage.home.iterdir())

    told = stage.here("input", *words)

    assert told.code == 2, told.err
    assert said in " ".join(told.err.split())
    assert sorted(stage.home.iterdir()) == before
    assert stage.audit == []


@pytest.mark.parametrize("name", ["users.txt", "users.csv", "users.jsonl"])
def test_what_flags_leave_out_is_told_once(stage: Stage, name: str) -> None:
    """Where no line says anything of its own, it is the flags that say too little."""
    users = ["ada", "eve", "org:7,x"]
    if name == "users.jsonl":
        users = [f'{{"user_id": "{user}"}}' for user in users]
    lines(stage, *(["user_id"] if name == "users.csv" else []), *users[:2], name=name)

    told = stage.here("input", "--users", name)

    assert told.code == 2
    assert told.err.count("nothing that is to change") == 1
    assert f"--users {name}" in told.err
    assert "line 1" not in told.err


def test_users_may_stand_in_jsonl(stage: Stage) -> None:
    """One object a line with the same names; each goes by its own values before the flags."""
    path = stage.home / "users.jsonl"
    path.write_text(
        f'{{"userId": "ada", "credential_id": "{NEW.upper()}", "expected_credential_id": '
        f'"{OLD}"}}\n'
        '\n{"user_id": "eve", "frequency": "3h", "team": {"a": 1}, "credentialId": null}\n',
        encoding="utf-8",
    )

    made = stage.run("input", "--users", path, "--frequency", "1h")

    assert made.code == 0
    told = [(row["sync_id"], row["credential_id"], row["frequency"]) for row in rows_of(made)]
    assert told[:2] == [("ada-0", NEW, "1h"), ("ada-2", NEW, "1h")]
    assert told[2:] == [(f"eve-{n}", "", "3h") for n in range(4)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"user_id": "ada"', "line 2"),
        ('["ada"]', "line 2"),
        ('{"user_id": 7}', "line 2, column user_id: must be text (found 7)"),
        ('{"frequency": "1h"}', "line 2, column user_id: is missing"),
        ('{"user_id": "ada", "userId": "eve"}', "line 2, column user_id: stands twice"),
        ('{"user_id": "ada", "frequencey": "1h"}', "looks like frequency; rename it"),
        ('{"user_id": "ada", "frequency": "2h"}', "line 2, column frequency: must be one of"),
    ],
)
def test_a_bad_object_of_a_user_is_refused(stage: Stage, line: str, said: str) -> None:
    """Told with its line before anything is asked: exit 2."""
    path = lines(stage, '{"user_id": "eve"}', line, name="users.jsonl")

    told = stage.here("input", "--users", path, "--frequency", "1h")

    assert told.code == 2
    assert said in told.err
    assert stage.audit == []


def test_a_user_without_syncs_is_told(stage: Stage) -> None:
    """An ID that nobody has lists nothing: who has no sync that is meant is counted and named."""
    users = lines(stage, "ada", "eva", "eve")
    told = stage.run("input", "--users", users, *MOVE, "-o", "moves.csv")
    asked = stage.run("input", "--users", users, *MOVE, "-o", "again.csv", "--json")

    assert told.code == 0
    assert "2 users have no sync that is meant: eva, eve" in " ".join(told.err.split())
    assert asked.json()["without_syncs"] == 2
    assert asked.json()["without"] == ["eva", "eve"]


def test_a_full_disk_leaves_no_half_file(stage: Stage) -> None:
    """4: what cannot be written whole is not there at all."""
    add(stage, *(sync("big", n, credential_id=OLD) for n in range(3_000)))

    made = stage.run(
        "input", "--users", lines(stage, "big"), *MOVE, "-o", "x.csv", before="ulimit -f 64"
    )

    assert made.code == 4, made.err
    assert "cannot be written" in made.err
    assert not (stage.home / "x.csv").exists()
    assert list(stage.home.glob(".x*")) == []


def test_a_list_that_never_ends_is_left(stage: Stage) -> None:
    """A server that names the same page again and again is told as such, after two requests."""
    page = b'{"data":[{"id":"s1","integration":"box"}],"paging":{"cursor":"again"}}'
    with Stranger(status=200, body=page) as stranger:
        env = {"PARAGON_SYNC_URL": stranger.url}
        made = stage.run("input", "--users", lines(stage, "ada"), "--frequency", "1h", env=env)

    assert made.code == 3
    assert rows_of(made) == []
    assert "line 1, ada: the list of the user's syncs never ends" in made.err
    assert stranger.asked == 2


async def test_a_query_is_encoded_whole() -> None:
    """Whatever stands in a query stays one value of it: nothing in it can begin another."""
    request = Request("GET", ("api", "syncs"), query=(("credentialId", "a&b=c d/ü#?"),))
    with Stranger(status=200, body=b"{}") as stranger:
        async with Api(base_url=stranger.url, concurrency=1, timeout_s=5, version="0") as api:
            answer = await api.send(request, "Bearer x")

    assert isinstance(answer, Response)
    _, _, query = stranger.paths[0].partition("?")
    assert parse_qsl(query, strict_parsing=True) == [("credentialId", "a&b=c d/ü#?")]


async def test_only_what_asks_for_more_reads_more() -> None:
    """An answer is cut at the limit of its request."""
    with Stranger(status=200, body=b"x" * 100_000) as stranger:
        async with Api(base_url=stranger.url, concurrency=1, timeout_s=5, version="0") as api:
            usual = await api.send(Request("GET", ("a",)), "Bearer x")
            more = await api.send(Request("GET", ("a",), most_bytes=100_000), "Bearer x")

    assert isinstance(usual, Response)
    assert isinstance(more, Response)
    assert (usual.oversized, len(usual.body)) == (True, 65_536)
    assert (more.oversized, len(more.body)) == (False, 100_000)
