"""`syncshift simulate`: a Sync API for rehearsals, as somebody at a shell meets it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import INTERRUPTS, NEW, Command, Stage, table, until

MOVE = ("run", "migrate-credentials")
EXPORT = re.compile(r"^export (\w+)=(.*)$", re.MULTILINE)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A folder in which no setting is known yet: `simulate` tells them all."""
    home = tmp_path / "a folder"
    home.mkdir()
    with Stage(home) as there:
        there.key_file.unlink()
        for name in [name for name in there.environment if name.startswith("PARAGON_")]:
            del there.environment[name]
        yield there


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage for commands that are refused."""
    with Stage(tmp_path_factory.mktemp("shared")) as there:
        yield there


def serve(stage: Stage, *flags: object) -> tuple[Command, dict[str, str | None]]:
    """Start `simulate` on a free port; return it with the settings that it prints."""
    command = stage.start("simulate", "--port", 0, *flags)
    until(lambda: command.out.count("\n") >= 4 or command.code is not None, "it serves")
    assert command.code is None, command.err
    return command, {name: shlex.split(text)[0] for name, text in EXPORT.findall(command.out)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_what_it_prints_is_all_that_a_run_needs(stage: Stage, number: signal.Signals) -> None:
    """With the exports it prints a run goes through; a signal ends it with 0."""
    path = stage.moves(20)

    server, exported = serve(stage, "--input", path)
    run = stage.run(*MOVE, path, "--yes", "--json", env=exported)
    server.signal(number)
    server.wait()

    assert set(exported) == {
        "PARAGON_SYNC_URL",
        "PARAGON_PROJECT_ID",
        "PARAGON_SIGNING_KEY_FILE",
    }
    assert "# serving 20 syncs; Ctrl-C ends it" in server.out
    assert (stage.home / "simulator-key.pem").stat().st_mode & 0o777 == 0o600
    assert run.code == 0, run.err
    assert run.json()["counts"]["updated"] == 20
    assert (server.code, server.err) == (0, "")


def test_an_input_of_any_job_seeds_it(stage: Stage) -> None:
    """--input takes a file of whichever job, with its own owners, and passes over bad rows."""
    rows = [
        ("sync_id", "user_id", "frequency", "credential_id", "note"),
        ("mine", "org:42", "1h", "", "x"),
        ("yours", "somebody@example.com", "", NEW, "y"),
        ("nobody's", "", "1h", "", "fit for a ready-made token"),
        ("bad", "org:42", "never", "", "z"),
    ]
    path = stage.write("both.csv", rows)

    server, exported = serve(stage, "--input", path)
    run = stage.run("run", "update-syncs", path, "--yes", "--json", "--skip-invalid", env=exported)
    server.signal(signal.SIGINT)

    assert "# serving 3 syncs" in server.out
    assert run.code == 3, run.err
    counts = run.json()["counts"]
    assert (counts["updated"] + counts["unchanged"], counts["invalid"]) == (2, 2)
    assert server.wait().code == 0


def test_faults_limits_and_outages_by_name(stage: Stage) -> None:
    """Every knob of the simulator can be turned from the shell, and the audit shows it."""
    path = stage.moves(30)
    flags = (
        *("--input", path, "--seed", 5, "--latency", "1ms", "--limit", 200),
        *("--fault", "http_503_wait=5%", "--fault", "not_json=0.1", "--retry-after", "seconds"),
        *("--apply-after", "10ms", "--resync", "50ms", "--errored", "10%"),
        *("--outage", "1h+1m", "--audit-file", "audit.jsonl", "--key-file", "keys/mine.pem"),
        *("--project-id", "a project"),
    )

    server, exported = serve(stage, *flags)
    run = stage.run(*MOVE, path, "--yes", "--json", "--max-failures", "100%", env=exported)
    server.signal(signal.SIGINT)
    server.wait()

    assert exported["PARAGON_PROJECT_ID"] == "a project"
    assert exported["PARAGON_SIGNING_KEY_FILE"] == str(stage.home / "keys" / "mine.pem")
    assert run.code in {0, 3}, run.err
    lines = (stage.home / "audit.jsonl").read_bytes().splitlines()
    seen = {json.loads(line)["fault"] for line in lines}
    assert {"http_503_wait", "not_json", None} <= seen
    assert seen <= {"http_503_wait", "not_json", "rate_limit", None}
    assert b"eyJ" not in b"".join(lines)
    assert (server.code, server.err) == (0, "")


def test_without_an_input_syncs_are_made_up(stage: Stage) -> None:
    """--syncs and --users say how many there are; --mixed lets a share of them meet faults."""
    server, _ = serve(stage, "--syncs", 7, "--users", 2, "--mixed", "10%")
    server.signal(signal.SIGTERM)

    assert "# serving 7 syncs" in server.out
    assert server.wait().code == 0


def test_the_key_is_kept_from_one_time_to_the_next(stage: Stage) -> None:
    """A key that is there is used again, so that exports stay good."""
    for _ in range(2):
        server, exported = serve(stage, "--syncs", 1)
        server.signal(signal.SIGINT)
        assert server.wait().code == 0
        key = Path(exported["PARAGON_SIGNING_KEY_FILE"] or "").read_bytes()

    assert (stage.home / "simulator-key.pem").read_bytes() == key


def test_a_port_that_is_taken_is_told(stage: Stage) -> None:
    """Somebody else's port: exit 2, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = stage.run("simulate", "--port", port, "--syncs", 1)

    assert command.code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in command.err
    assert "give another port, or 0 for any free one" in command.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--fault http_5000=5%", "there is no fault 'http_5000'; there are http_401, "),
        ("--fault http_500", "--fault http_500=SHARE must be a share such as 5% or 0.05"),
        ("--fault http_500=150%", "must be a share such as 5% or 0.05; got '150%'"),
        ("--fault http_500=-1", "must be a share such as 5% or 0.05; got '-1'"),
        ("--fault http_500=nan", "must be a share such as 5% or 0.05; got 'nan'"),
        ("--fault http_500=60% --fault http_503=60%", "at most 1 together; got 1.2"),
        ("--fault http_500=5% --mixed 5%", "--fault and --mixed cannot be had together"),
        ("--mixed much", "--mixed must be a share such as 5% or 0.05; got 'much'"),
        ("--errored 2", "--errored must be a share such as 5% or 0.05; got '2'"),
        ("--latency slow", "--latency must be a duration such as 30s, 15m or 6h; got 'slow'"),
        ("--outage 10s", "--outage must say FROM+FOR, such as 10s+30s; got '10s'"),
        ("--outage 10s+x", "--outage must be a duration"),
        ("--limit 0", "--limit must be a number above 0; got 0"),
        ("--limit nan", "--limit must be a number above 0; got nan"),
        ("--port 99999", "--port must be from 0 to 65,535; got 99999"),
        ("--users 0", "--users must be from 1 to 1,000,000; got 0"),
        ("--syncs -1", "--syncs must be from 0 to 1,000,000; got -1"),
        ("--retry-after later", "--retry-after"),
        ("--input nowhere.csv", "nowhere.csv"),
        ("--key-file /dev/null", "is empty"),
        ("--audit-file nowhere/audit.jsonl", "--audit-file nowhere/audit.jsonl: cannot be written"),
    ],
)
def test_wrong_knobs_are_refused(shared: Stage, flags: str, said: str) -> None:
    """What cannot be is refused with exit 2 before anything is served, by name and value."""
    port = () if "--port" in flags else ("--port", 0)
    command = shared.here("simulate", *port, *flags.split())

    assert command.code == 2, command.err
    assert command.out == ""
    assert said in command.err
    assert "unexpected error" not in command.err


def test_the_fault_names_of_the_help_are_the_ones_there_are(shared: Stage) -> None:
    """The help of --fault names every fault."""
    from runner.simulator import Fault

    text = re.sub(r"[│\s]+", " ", shared.run("simulate", "--help").out)

    assert {fault.value for fault in Fault} <= set(text.replace(".", " ").split())


def test_the_interrupts_have_their_exit_codes() -> None:
    """A signal's exit code is 128 and its number, as shells have it."""
    assert {number: 128 + number for number in INTERRUPTS} == INTERRUPTS


def test_an_input_is_read_by_the_rules_of_a_run(stage: Stage) -> None:
    """A file that a run would refuse as a whole is refused by `simulate` too."""
    path = stage.write("twice.csv", [("sync_id", "sync_id"), ("a", "b")])

    command = stage.run("simulate", "--port", 0, "--input", path)

    assert command.code == 2
    assert table(path) == [{"sync_id": "b"}]
