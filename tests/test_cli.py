"""Exit codes, streams, and what is refused: the command line as scripts and people depend on it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from runner.simulator import Faults
from tests.commands import NEW, ROOT, Stage, install_job, journal, table, until

MOVE = ("run", "migrate-credentials")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage on which nothing has happened yet."""
    with Stage(tmp_path) as there:
        yield there


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage for commands that are refused: none of them may change it."""
    with Stage(tmp_path_factory.mktemp("shared")) as there:
        there.moves(5)
        yield there
        assert there.audit == []


# ----------------------------------------------------------------------------------- exit codes


def test_p3_exit_0_when_every_row_succeeded(stage: Stage) -> None:
    """0: every row succeeded; the syncs are as the input wants them."""
    command = stage.run(*MOVE, stage.moves(30), "--yes")

    assert command.code == 0, command.err
    assert stage.moved() == 30
    assert "succeeded: every row succeeded" in command.out


def test_p3_exit_1_and_no_values_when_our_own_code_fails(stage: Stage) -> None:
    """1: a fault of our own is told by type and place; its text could be anything and is not."""
    site = install_job(stage.home, "parse", "raise RuntimeError('secret-of-the-job')")
    path = stage.moves(3)

    command = stage.run("run", "broken", path, "--yes", env=site)

    assert command.code == 1
    assert command.out == ""
    assert "unexpected error: RuntimeError" in command.err
    assert "broken_job.py" in command.err
    assert "secret-of-the-job" not in command.err
    assert stage.audit == []


def test_p3_exit_2_when_the_input_is_refused(stage: Stage) -> None:
    """2: an input with bad rows is refused as a whole, each problem named; nothing is sent."""
    rows = [("sync_id", "user_id", "credential_id"), ("a", "u", "no UUID"), ("", "u", "neither")]
    path = stage.write("bad.csv", rows)

    command = stage.run(*MOVE, path, "--yes", "--json", "--run-id", "x")

    assert command.code == 2
    told = command.json()
    assert told["verdict"] == "refused"
    assert [(p["line"], p["column"]) for p in told["problems"]] == [
        (2, "credential_id"),
        (3, "sync_id"),
        (3, "credential_id"),
    ]
    assert "line 2, column credential_id" in command.err
    assert stage.manifest("x")["state"] == "refused"
    assert len(table(stage.folder("x") / "invalid.csv")) == 3
    assert stage.audit == []


def test_at_most_50_problems_are_shown_and_all_are_kept(stage: Stage) -> None:
    """A file of bad rows does not flood the screen; invalid.csv has every problem."""
    rows = [("sync_id", "user_id", "credential_id"), *((f"s{n}", "u", "no") for n in range(70))]
    path = stage.write("bad.csv", rows)

    command = stage.run(*MOVE, path, "--yes", "--run-id", "x")

    assert command.code == 2
    assert command.err.count("column credential_id") == 50
    assert "20 more" in command.err
    assert len(table(stage.folder("x") / "invalid.csv")) == 70


def test_p3_exit_3_when_all_rows_ended_and_some_failed(stage: Stage) -> None:
    """3: nothing is left, but some rows failed; a run of them only is no less finished."""
    rows = [
        ("sync_id", "user_id", "credential_id"),
        ("gone", "u", NEW),
    ]
    path = stage.write("gone.csv", rows)

    command = stage.run(*MOVE, path, "--yes")

    assert command.code == 3
    assert "failed: all rows ended, some failed" in command.out


def test_p3_exit_4_when_too_many_rows_failed(stage: Stage) -> None:
    """4: the failure limit stops the run, says so in numbers, and leaves the rest for resume."""
    gone = [(f"gone-{number}", "u", NEW) for number in range(20)]
    there = [(sync.id, sync.user, NEW) for sync in stage.syncs(40)]
    path = stage.write("moves.csv", [("sync_id", "user_id", "credential_id"), *gone, *there])
    stage.simulator.faults = Faults(latency_s=0.02)

    command = stage.run(
        *MOVE,
        path,
        "--yes",
        "--json",
        "--max-failures",
        "2",
        "--max-attempts",
        "1",
        "--run-id",
        "x",
        "--concurrency",
        "4",
    )

    assert command.code == 4, command.err
    summary = command.json()
    assert summary["verdict"] == "stopped"
    assert summary["counts"]["unprocessed"] > 0
    assert "3 rows failed, and --max-failures allows 2" in command.err
    assert "3 rows failed" in stage.manifest("x")["reason"]
    stage.simulator.faults = Faults()

    resumed = stage.run("resume", "x", "--yes", "--json", "--max-failures", "100%")

    assert resumed.code == 3, resumed.err
    assert resumed.json()["counts"]["unprocessed"] == 0


def test_p3_exit_4_when_the_key_is_of_another_project(stage: Stage) -> None:
    """4: a fault of the whole run is told once; the rows that showed it stay unprocessed."""
    path = stage.moves(60, users=12)

    command = stage.run(*MOVE, path, "--yes", "--json", env={"PARAGON_PROJECT_ID": "another"})

    assert command.code == 4, command.err
    assert command.json()["counts"]["unprocessed"] == 60
    assert command.err.count("fault of the run and not of the rows") == 1
    assert stage.patches() == 0


def test_a_lone_row_that_breaks_the_server_is_no_outage(stage: Stage) -> None:
    """A server that has answered another row is up, whatever that answer was: 3, and no wait."""
    poisoned = stage.syncs(1)[0]
    stage.simulator.faults = Faults(poison=frozenset({poisoned.id}))
    rows = [("gone", poisoned.user, NEW), (poisoned.id, poisoned.user, NEW)]
    path = stage.write("two.csv", [("sync_id", "user_id", "credential_id"), *rows])
    flags = ("--yes", "--json", "--concurrency", 1, "--max-attempts", 2, "--max-outage", "3s")

    command = stage.run(*MOVE, path, *flags)

    assert command.code == 3, command.err
    assert command.json()["counts"]["exhausted"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "nothing"), "there are no runs there yet"),
        (("report", "nothing"), "there is no run 'nothing' in runs"),
        (("resume", "nothing", "--yes"), "there is no run 'nothing' in runs"),
        (("resume", "../moves", "--yes"), "there is no run '../moves' in runs"),
        (("resume", "", "--yes"), "there is no run '' in runs"),
    ],
)
def test_p3_exit_5_when_there_is_no_such_run(
    shared: Stage, words: tuple[str, ...], said: str
) -> None:
    """5: a run that is not there is named."""
    command = shared.here(*words)

    assert command.code == 5
    assert command.out == ""
    assert said in command.err


def test_a_near_name_is_offered(stage: Stage) -> None:
    """Who mistypes a run's name is told the ones that are like it."""
    stage.run(*MOVE, stage.moves(2), "--yes", "--run-id", "friday")

    command = stage.run("status", "fryday")

    assert command.code == 5
    assert "did you mean friday?" in command.err


@pytest.mark.parametrize("command", ["resume", "status", "report"])
def test_d4_a_damaged_journal_is_refused_by_every_command(stage: Stage, command: str) -> None:
    """One flipped byte in the middle: exit 5 naming file and line, no request, nothing written."""
    stage.run(*MOVE, stage.moves(20), "--yes", "--run-id", "x")
    report = stage.folder("x") / "report.jsonl"
    data = bytearray(report.read_bytes())
    data[data.index(b"\n", len(data) // 2) + 20] ^= 1
    report.write_bytes(data)
    line = bytes(data[: len(data) // 2]).count(b"\n") + 2
    asked, files = len(stage.audit), _contents(stage.folder("x"))

    told = stage.run(command, "x", *(("--yes",) if command == "resume" else ()))

    assert told.code == 5, told.err
    assert f"report.jsonl: line {line} " in told.err
    assert len(stage.audit) == asked
    changed = {name for name, data in _contents(stage.folder("x")).items() if data != files[name]}
    assert changed <= {"run.json"}


def test_d8_a_second_process_on_one_run_is_refused(stage: Stage) -> None:
    """While a run is at work another process is refused by name, soon, and harms nothing."""
    stage.simulator.faults = Faults(latency_s=0.15)
    path = stage.moves(80)
    first = stage.start(*MOVE, path, "--yes", "--run-id", "x", "--concurrency", "4")
    until(lambda: stage.patches() > 3, "PATCHes come")
    began = time.monotonic()

    second = stage.run("resume", "x", "--yes")
    third = stage.run(*MOVE, path, "--yes", "--run-id", "x")

    assert (second.code, third.code) == (5, 5)
    assert f"run x is being worked on by process {first.pid} on " in second.err
    assert f"process {first.pid}" in third.err
    assert first.code is None, f"the refusals took {time.monotonic() - began:.1f} s"
    stage.simulator.faults = Faults()
    assert first.wait().code == 0, first.err
    assert stage.patches() == 80
    assert len(journal(stage.folder("x") / "report.jsonl")) == 80


# ------------------------------------------------------------------------------- nobody said yes


@pytest.mark.parametrize("flags", [(), ("--json",), ("--quiet",)])
def test_without_a_terminal_yes_is_required(stage: Stage, flags: tuple[str, ...]) -> None:
    """Without --yes and without a terminal: exit 2, nothing written, nothing sent."""
    command = stage.run(*MOVE, stage.moves(3), *flags)

    assert command.code == 2
    assert "add --yes" in command.err
    assert (command.json()["verdict"] if "--json" in flags else "refused") == "refused"
    assert not stage.runs.exists()
    assert stage.audit == []


def test_resume_asks_as_well(stage: Stage) -> None:
    """`resume` without --yes and without a terminal sends nothing and changes nothing."""
    stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", "x")
    files = _contents(stage.folder("x"))
    asked = len(stage.audit)

    command = stage.run("resume", "x")

    assert command.code == 2
    assert _contents(stage.folder("x")) == files
    assert len(stage.audit) == asked


# ------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "words",
    [("halt", "x"), (*MOVE, "moves.csv", "--yes", "--color", "red")],
    ids=" ".join,
)
def test_what_is_unknown_is_refused_as_json_too(shared: Stage, words: tuple[str, ...]) -> None:
    """A command or a flag that there is not sends nothing: exit 2, as JSON where asked for."""
    command = shared.run(*words, "--json")

    assert command.code == 2
    assert command.json()["verdict"] == "refused"
    assert command.err.startswith("error: Unknown ")


@pytest.mark.parametrize(
    "words",
    [
        ("halt", "x"),
        *(
            (*MOVE, "moves.csv", "--yes", *flag)
            for flag in (
                ("--expect", "five"),
                ("--until", "done"),
                ("--color", "red"),
            )
        ),
        ("resume", "x", "--max-attempts", "3"),
        (*MOVE, "moves.csv", "another.csv", "--yes"),
        (*MOVE, "--yes"),
        ("run",),
        ("resume", "--yes"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_refused(shared: Stage, words: tuple[str, ...]) -> None:
    """Commands and flags that there are not, words too many or too few: exit 2, said once."""
    command = shared.here(*words)

    assert command.code == 2
    assert command.out == ""
    assert command.err.startswith("error: ")
    assert "--help" in command.err
    assert "Traceback" not in command.err
    assert not shared.runs.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--concurrency", "0"), "--concurrency must be a whole number from 1 to 100000; got '0'"),
        (("--rate", "fast"), "--rate must be a number of requests per second"),
        (("--rate", "0"), "--rate must be a number of requests per second"),
        (("--timeout", "soon"), "--timeout must be a duration such as 30s, 15m or 6h; got 'soon'"),
        (("--max-attempts", "x"), "--max-attempts must be a whole number"),
        (("--max-outage", "0"), "--max-outage must be longer than nothing"),
        (("--max-failures", "101%"), "--max-failures must be a number of rows such as 5"),
        (("--base-url", "http://example.com"), "--base-url must be https"),
        (("--base-url", "ftp://example.com"), "--base-url"),
        (("--run-id", ""), "--run-id must begin with a letter or digit"),
        (("--run-id", ".hidden"), "--run-id must begin with a letter or digit"),
        (("--run-id", "../up"), "--run-id must begin with a letter or digit"),
        (("--run-id", "a" * 65), "at most 64"),
        (("--format", "xml"), "--format xml: there are csv and jsonl"),
        (("--log-level", "loud"), "--log-level"),
        (("--signing-key-file", "nowhere.pem"), "nowhere.pem does not exist"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_bad_settings_are_refused(shared: Stage, flags: tuple[str, ...], said: str) -> None:
    """A setting that cannot be is refused by name, with the value and what would be right."""
    command = shared.here(*MOVE, "moves.csv", "--yes", *flags)

    assert command.code == 2
    assert command.out == ""
    assert said in command.err


def test_all_bad_settings_are_told_at_once(shared: Stage) -> None:
    """Who made three mistakes hears of three."""
    command = shared.run(
        *MOVE, "moves.csv", "--yes", "--rate", "x", "--drain", "y", "--timeout", "z"
    )

    assert command.code == 2
    assert all(f"--{name} must be" in command.err for name in ("rate", "drain", "timeout"))


def test_a_file_that_is_not_there_and_a_job_that_is_not(shared: Stage) -> None:
    """A wrong name is told with what to do about it, and leaves no run behind."""
    file = shared.run(*MOVE, "nothing.csv", "--yes")
    job = shared.run("run", "move-credentials", "moves.csv", "--yes")

    assert (file.code, job.code) == (2, 2)
    assert "nothing.csv: cannot be read (No such file or directory)" in file.err
    there_are = "there are: change-frequency, disable-syncs, enable-syncs, migrate-credentials"
    assert there_are in job.err
    assert not shared.runs.exists()


# ------------------------------------------------------------------------------------- streams


def test_quiet_says_nothing_when_all_is_well(stage: Stage) -> None:
    """With --quiet a good run prints nothing at all; with --json too, the summary alone."""
    path = stage.moves(3)

    quiet = stage.run(*MOVE, path, "--yes", "--quiet")
    as_json = stage.run(*MOVE, path, "--yes", "--quiet", "--json")

    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert as_json.json()["counts"]["unchanged"] == 3
    assert as_json.err == ""


def test_quiet_tells_why_a_run_stopped(stage: Stage) -> None:
    """Errors are told with --quiet as well: why it stopped, on standard error."""
    path = stage.moves(20, users=12)

    command = stage.run(*MOVE, path, "--yes", "--quiet", env={"PARAGON_PROJECT_ID": "another"})

    assert command.code == 4
    assert command.out == ""
    assert "fault of the run and not of the rows" in command.err


def test_results_go_to_standard_output_and_the_rest_elsewhere(stage: Stage) -> None:
    """Data is on standard output; what is about to happen, and how it goes, on standard error."""
    command = stage.run(*MOVE, stage.moves(4), "--yes", "--run-id", "x")

    assert "updated" in command.out
    assert "runs/x" in command.out
    assert "4 to carry" in command.err
    assert "4/4 rows  100%" in command.err
    assert "\x1b" not in command.out + command.err


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("--help",)], ids=" ".join)
def test_a_reader_that_leaves_is_no_error_of_ours(shared: Stage, words: tuple[str, ...]) -> None:
    """`syncshift status | true` ends without a word about a broken pipe."""
    ours, theirs = os.pipe()
    os.close(ours)

    command = subprocess.run(
        [sys.executable, "-m", "runner", *words],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=shared.environment,
        cwd=shared.home,
        check=False,
    )
    os.close(theirs)

    assert (command.returncode, command.stderr) == (0, b"")


def test_a_run_that_cannot_be_read_hides_no_other(stage: Stage) -> None:
    """In the list one damaged run is left out, with a word about it; the others are shown."""
    stage.run(*MOVE, stage.moves(2), "--yes", "--run-id", "good")
    for name, text in (("bad", "{"), ("strange", "[1]")):
        (stage.runs / name).mkdir()
        (stage.runs / name / "run.json").write_text(text, encoding="utf-8")

    shown, listed = stage.run("status"), stage.run("status", "--json")

    assert (shown.code, listed.code) == (0, 0)
    assert [run["run_id"] for run in listed.json()] == ["good"]
    assert [line.split()[0] for line in shown.out.splitlines()] == ["run", "good"]
    assert "warning: run bad is left out: " in shown.err
    assert "warning: run strange is left out: " in listed.err


def test_a_run_needs_no_faster_event_loop(stage: Stage) -> None:
    """Without uvloop everything works as well: it is an extra."""
    (stage.home / "site").mkdir()
    (stage.home / "site" / "uvloop.py").write_text("raise ImportError\n", encoding="utf-8")
    path = f"{ROOT}{os.pathsep}{stage.home / 'site'}"

    command = stage.run(*MOVE, stage.moves(5), "--yes", env={"PYTHONPATH": path})

    assert command.code == 0, command.err
    assert stage.moved() == 5


# ---------------------------------------------------------------------------------------- help


_ROLLOUT = (
    " waves gate soak approve seed strict max-resyncs max-resyncs-per"
    " start-at at zone-column window spread health"
)
_FLAGS_OF = {
    "run": "format run-id no-copy yes expect ui runs-dir base-url project-id signing-key-file "
    "audience until confirm-timeout resync-timeout allow-http trust-env concurrency rate timeout "
    "max-failures max-attempts max-outage drain no-read skip-invalid ignore-column json quiet "
    "log-level" + _ROLLOUT,
    "resume": "past-gate yes expect ui runs-dir base-url project-id signing-key-file audience "
    "until concurrency rate timeout max-failures max-resyncs json quiet log-level",
    "plan": "format run-id no-copy offline runs-dir base-url project-id until no-read skip-invalid "
    "confirm-timeout resync-timeout concurrency rate timeout max-failures json quiet log-level"
    + _ROLLOUT,
    "apply": "yes expect ui max-age runs-dir base-url project-id signing-key-file audience until "
    "concurrency rate timeout max-failures json quiet log-level",
    "verify": "watch every runs-dir base-url project-id signing-key-file audience concurrency rate "
    "timeout json quiet log-level",
    "retry": "class run-id yes expect ui runs-dir base-url project-id signing-key-file audience "
    "until concurrency rate timeout max-failures json quiet log-level" + _ROLLOUT,
    "rollback": "only run-id yes expect ui runs-dir base-url project-id signing-key-file audience "
    "until concurrency rate timeout max-failures json quiet log-level" + _ROLLOUT,
    "brake": "release run-id yes expect ui runs-dir base-url project-id signing-key-file audience "
    "until concurrency rate timeout max-failures json quiet log-level",
    "status": "watch runs-dir json quiet log-level",
    "report": "runs-dir json quiet log-level",
    "watch": "open until-left runs-dir json quiet log-level",
    "ui": "open runs-dir json quiet log-level",
    "pause": "for reason runs-dir json quiet log-level",
    "continue": "reason runs-dir json quiet log-level",
    "set": "rate concurrency max-resyncs max-failures reason runs-dir json quiet log-level",
    "stop": "reason runs-dir json quiet log-level",
    "simulate": "port input syncs users seed key-file project-id audit-file latency apply-after "
    "resync errored fault mixed limit retry-after outage",
    "demo": "keep",
    "input": "users from-credential to-credential frequency integration output runs-dir base-url "
    "project-id signing-key-file audience allow-http trust-env concurrency rate timeout json quiet "
    "log-level",
    "doctor": "user sync runs-dir base-url project-id signing-key-file audience allow-http "
    "trust-env concurrency rate timeout json quiet log-level",
    "config": "runs-dir base-url project-id signing-key-file audience until confirm-timeout "
    "resync-timeout allow-http trust-env concurrency rate timeout max-failures max-attempts "
    "max-outage drain no-read skip-invalid ignore-column json quiet log-level" + _ROLLOUT,
    "completion": "",
}
_VARIABLES = (
    "PARAGON_SYNC_URL PARAGON_PROJECT_ID PARAGON_SIGNING_KEY_FILE PARAGON_SIGNING_KEY "
    "PARAGON_USER_TOKEN PARAGON_AUDIENCE SYNCSHIFT_RUNS"
)


@pytest.mark.parametrize("name", _FLAGS_OF)
def test_help_names_every_flag_and_shows_an_example(shared: Stage, name: str) -> None:
    """`--help` exits with 0, on standard output, and holds every flag and an example."""
    command = shared.run(name, "--help")

    assert (command.code, command.err) == (0, "")
    assert f"Example: syncshift {name}" in command.out
    words = set(command.out.replace(",", " ").replace("=", " ").split())
    assert {f"--{flag}" for flag in _FLAGS_OF[name].split()} <= words
    if name == "run":
        text = command.out.replace("│", " ")
        assert all(variable in text for variable in _VARIABLES.split())


@pytest.mark.parametrize("columns", [0, 1, 2, 19])
def test_a_terminal_without_room_gets_help_all_the_same(shared: Stage, columns: int) -> None:
    """As wide as a word, or of no width at all: it is folded into what can be read."""
    room = {"COLUMNS": str(columns), "FORCE_COLOR": "1"}

    command = shared.run("run", "--help", env=room)

    assert command.code == 0, command.err
    assert "rate" in command.out


def test_input_that_was_closed_is_an_empty_one(stage: Stage) -> None:
    """Some who start commands hand no standard input over: a file is sent all the same."""
    path = stage.moves(3)

    sent = stage.run(*MOVE, path, "--yes", before="exec <&-; ")
    piped = stage.run(*MOVE, "-", "--format", "csv", "--yes", before="exec <&-; ")

    assert sent.code == 0, sent.err
    assert piped.code == 2
    assert "standard input is empty" in piped.err


def test_a_full_disk_under_standard_error_ends_no_run(stage: Stage) -> None:
    """Nobody sees how it goes; it goes all the same, and the summary comes."""
    command = stage.run(*MOVE, stage.moves(3), "--yes", "--json", before="exec 2>/dev/full; ")

    assert command.code == 0
    assert command.json()["counts"]["updated"] == 3


@pytest.mark.parametrize("words", [(*MOVE, "moves.csv", "--yes", "--json"), ("status",)])
def test_a_full_disk_under_standard_output_is_told_of(stage: Stage, words: Sequence[str]) -> None:
    """It is no fault of ours: 4, and where to look for what could not be written."""
    stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", "before")

    command = stage.run(*words, before="exec >/dev/full; ")

    assert command.code == 4
    assert "standard output cannot be written (No space left on device)" in command.err
    assert "unexpected" not in command.err


def test_the_name_of_a_run_is_never_cut(stage: Stage) -> None:
    """It is what has to be typed: in a narrow terminal the other columns make room."""
    name = "20261123-174214-6cd02e"
    stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", name)

    narrow = stage.run("status", env={"COLUMNS": "60", "FORCE_COLOR": "1"})

    assert name in narrow.out


def test_runs_that_cannot_be_read_are_not_none(stage: Stage) -> None:
    """A folder that cannot be looked into is told of, and not taken for an empty one."""
    (stage.home / "file").touch()

    command = stage.run("status", "--runs-dir", "file")

    assert command.code == 5
    assert "its runs cannot be read (Not a directory)" in command.err


def test_help_of_all_names_each_command_and_each_exit_code(shared: Stage) -> None:
    """Without a word, and with --help, the commands and the exit codes are shown."""
    for words in ((), ("--help",)):
        command = shared.run(*words)

        assert (command.code, command.err) == (0, "")
        assert all(f" {name} " in command.out for name in _FLAGS_OF)
        assert all(f" {code} " in f" {command.out} " for code in (0, 1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    ("words", "within_s"),
    # The page of `run` has sixty flags, all read from their docstrings.
    [(["--help"], 0.4), (["pause", "--help"], 0.4), (["run", "--help"], 0.5)],
    ids=["all", "a small page", "the largest page"],
)
def test_help_is_there_at_once(words: list[str], within_s: float, shared: Stage) -> None:
    """Help takes so little of a processor, compiled, unmeasured by coverage, one time of eight.

    On one that is slow just now it may take longer, as much as a few imports of Python's own do.
    """
    as_installed: dict[str, str | None] = {
        "COVERAGE_PROCESS_CONFIG": None,
        "PYTHONDONTWRITEBYTECODE": None,
    }

    shares = []
    for _ in range(8):
        before = _processor_s()
        subprocess.run([sys.executable, "-c", _IMPORTS], check=True, env={})
        slow = max(1.0, (_processor_s() - before) / _IMPORTS_S)
        before = _processor_s()
        assert shared.run(*words, env=as_installed).code == 0
        shares.append((_processor_s() - before) / (slow * within_s))
        if shares[-1] < 1:
            return

    raise AssertionError(f"it took too long each time, by {shares}")


_IMPORTS = "import asyncio, decimal, email.message, http.client, unittest"
_IMPORTS_S = 0.1
"""What these take where `--help` takes 0.27 s."""


def test_the_version_is_told(shared: Stage) -> None:
    """`--version` prints the version and nothing else."""
    from runner.version import VERSION

    command = shared.run("--version")

    assert (command.code, command.out.strip(), command.err) == (0, VERSION, "")


def _processor_s() -> float:
    """Return the processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_run_is_told_again_and_left_as_it_is(stage: Stage) -> None:
    """`resume` of a run that has nothing left shows it; not a byte of it changes."""
    assert stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", "x").code == 0
    before = {path.name: path.read_bytes() for path in stage.folder("x").iterdir()}

    command = stage.run("resume", "x", "--yes", "--json")

    assert (command.code, command.json()["verdict"]) == (0, "succeeded")
    assert {path.name: path.read_bytes() for path in stage.folder("x").iterdir()} == before


def test_a_host_that_speaks_of_other_things_stops_the_run(stage: Stage) -> None:
    """Five rows that meet a page in place of the API are enough: 4, told once, rows unprocessed."""
    path = stage.moves(60)
    stage.simulator.faults = Faults(not_json=1.0)

    command = stage.run(*MOVE, path, "--yes", "--json")

    assert command.code == 4, command.err
    assert command.json()["counts"]["unprocessed"] == 60
    assert command.err.count("the host does not speak the Sync API") == 1
    assert len(stage.audit) < 60


def test_an_input_that_changes_after_its_check_is_not_sent(stage: Stage) -> None:
    """With --no-copy, rows that nobody checked are not sent: 4, and the file is named."""
    path = stage.moves(3_000)
    stage.simulator.faults = Faults(latency_s=0.02)
    command = stage.start(*MOVE, path, "--yes", "--no-copy", "--no-read", "--run-id", "x")
    until(lambda: stage.patches() > 5, "PATCHes come")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"team", b"crew"))
    ended = command.wait()

    assert ended.code in {4, 5}, ended.err
    assert str(path) in ended.err
    path.write_bytes(whole)
    assert stage.run("resume", "x", "--yes").code == 0
