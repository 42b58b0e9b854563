"""What the documents say is so: names, fields, figures, links, and README's session."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.account import SUMMARY, limits_of
from runner.check import INVALID_COLUMNS
from runner.cli import local
from runner.cli.commands import app
from runner.errors import RunRefused, RunStopped, SyncshiftError, UsageError
from runner.folder import LOCK, MANIFEST, SESSION, Input, Manifest
from runner.forecast import PLAN
from runner.journal import SHARDS
from runner.model import (
    ErrorClass,
    Finding,
    FindingKind,
    Intent,
    Outcome,
    OutcomeKind,
    Proof,
    Sighting,
)
from runner.opening import INVALID
from runner.page import PAGE
from runner.record import EVENTS, REPORT, UNDO, Record
from runner.results import (
    COLUMNS,
    FAILED_FILE,
    SUCCEEDED_FILE,
    UNPROCESSED_FILE,
    FileWritten,
    Latency,
    RunVerdict,
    Summary,
    exit_code_of,
    verdict_of,
)
from runner.settings import Settings
from runner.simulator import Fault
from tests.commands import INTERRUPTS, Stage, Terminal, until
from tests.test_architecture import LAYERS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
FILES = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
OUTCOMES = (ROOT / "docs" / "outcomes.md").read_text(encoding="utf-8")
EXIT_CODES = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
EVENT_PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
SIMULATOR = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
FOR_USERS = "\n".join(
    path.read_text(encoding="utf-8") for path in PAGES if path.name not in {"DESIGN.md"}
)
"""What somebody reads who does not read the code."""

COMMANDS = tuple(name for name in app if not name.startswith("-"))
SEALED = ("seq", "crc")
"""What the journal adds to each line."""


# ------------------------------------------------------------------------------- reading Markdown


def section(page: str, title: str) -> str:
    """Return what stands under the heading *title*, without the headings below it."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, f"there is no heading {title!r}"
    return found[1]


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the tables in *text* by the first cell of their headers: rows of cells."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()
        )
        found[head[0].strip("| ")] = [[cell.strip("| ") for cell in row] for row in rows]
    return found


def coded(text: str) -> list[str]:
    """Return what stands in backticks in *text*."""
    return re.findall(r"`([^`]+)`", text)


def named(rows: list[list[str]]) -> list[str]:
    """Return what the first cells of *rows* name in backticks."""
    return [name for row in rows for name in coded(row[0])]


def mentions(text: str, name: str) -> bool:
    """Tell whether *text* has *name* as a whole word."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def flags_of(command: str) -> list[str]:
    """Return the flags of a command, as it takes them."""
    arguments = app[command].assemble_argument_collection()
    return [name for argument in arguments for name in argument.names if name.startswith("--")]


def fields_of(kind: type[msgspec.Struct]) -> list[str]:
    """Return the names that values of *kind* have on disk, in order."""
    return [field.encode_name for field in msgspec.structs.fields(kind)]


# -------------------------------------------------------------------------- commands and settings


def test_every_command_is_in_the_table() -> None:
    """README's table of commands names those that there are, with the words they take."""
    words = [name.split()[0] for name in named(tables(section(README, "Commands"))["Command"])]

    assert sorted(words) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_documented(command: str) -> None:
    """Whatever a command takes is named where a user looks for it."""
    missing = [flag for flag in flags_of(command) if not mentions(FOR_USERS, flag)]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_flag_is_made_up(page: Path) -> None:
    """Every flag that a page names as Syncshift's is one that some command takes."""
    there = {flag for command in COMMANDS for flag in flags_of(command)} | {"--help", "--version"}
    lines = page.read_text(encoding="utf-8").splitlines()
    # What other tools take is theirs; behind ` -- ` it is ours again.
    lines = [re.sub(r"^(kubectl|podman) .*?( -- |$)", "", line) for line in lines]
    ours = "\n".join(line for line in lines if ".venv/" not in line)

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) - there == set()


@pytest.mark.parametrize(
    ("flag", "default"),
    [
        ("--base-url", Settings().base_url),
        ("--concurrency", f"{Settings().concurrency} requests"),
        ("--max-attempts", f"{Settings().max_attempts} attempts"),
        ("--timeout", f"{Settings().timeout_s:.0f}s"),
        ("--max-outage", f"{Settings().max_outage_s / 60:.0f}m"),
        ("--max-failures", Settings().max_failures),
        ("--drain", f"{Settings().drain_s:.0f}s"),
        ("--until", "`resynced` for rows that start a re-sync"),
        ("--confirm-timeout", f"{Settings().confirm_timeout_s:.0f}s"),
        ("--resync-timeout", f"{Settings().resync_timeout_s / 3600:.0f}h"),
        ("--runs-dir", "`./runs`"),
    ],
)
def test_defaults_are_as_documented(flag: str, default: str) -> None:
    """README's table of settings tells the default that holds."""
    rows = tables(section(README, "Settings"))["Flag"]
    (row,) = (row for row in rows if mentions(row[0], flag))

    assert mentions(" ".join(row), default)


def test_every_variable_is_documented() -> None:
    """Each environment variable that the engine knows is in README's table of settings."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("runner/**/*.py"))
    known = set(re.findall(r'"((?:PARAGON|SYNCSHIFT)_[A-Z_]+)"', source))
    told = set(re.findall(r"(?:PARAGON|SYNCSHIFT)_[A-Z_]+", section(README, "Settings")))

    assert told == known


def test_every_fault_of_the_simulator_is_documented() -> None:
    """The simulator's page names the faults that there are, and no others."""
    assert sorted(named(tables(SIMULATOR)["Fault"])) == sorted(Fault)


def test_the_simulators_defaults_are_as_documented() -> None:
    """The simulator's page tells the default of each flag that has one."""
    rows = {name.split()[0]: row[1] for row in tables(SIMULATOR)["Flag"] for name in coded(row[0])}
    knobs = inspect.signature(local.simulate).parameters
    wrong = [
        name
        for name, knob in knobs.items()
        if knob.default not in (None, (), "seconds")
        if f"{knob.default}" not in rows["--" + name.replace("_", "-")]
        and not (name == "mixed" and knob.default == "0%")
    ]

    assert wrong == []


# ------------------------------------------------------------------------------ words with meaning


def test_outcomes_are_as_documented() -> None:
    """README and the page of outcomes name those of the engine, with what each counts as."""
    rows = tables(section(README, "Outcomes"))["Outcome"]
    whole = tables(OUTCOMES)["Outcome"]
    succeeded = {OutcomeKind.UPDATED, OutcomeKind.UNCHANGED, OutcomeKind.DUPLICATE}
    counts = {kind: "succeeded" if kind in succeeded else "failed" for kind in OutcomeKind}

    assert {row[0].strip("`"): row[2] for row in rows} == counts
    assert {row[0].strip("`"): row[1] for row in whole} == counts
    assert all(row[3] for row in whole)


def codes_in(text: str) -> set[int]:
    """Return the exit codes that the first column of a table names."""
    return {int(code) for row in tables(text)["Code"] for code in row[0].split(",")}


def errors_by_code(kind: type[SyncshiftError] = SyncshiftError) -> dict[int, set[str]]:
    """Return the names of all errors, by the exit code that each leads to."""
    found = {kind.exit_code: {kind.__name__}}
    for below in kind.__subclasses__():
        for code, names in errors_by_code(below).items():
            found.setdefault(code, set()).update(names)
    return found


def test_errors_are_as_documented() -> None:
    """The page of exit codes names every error of the tree, beside the code that it leads to."""
    rows = tables(section(EXIT_CODES, "Which error leads to which code"))["Code"]

    assert {int(row[0]): set(coded(row[1])) for row in rows} == errors_by_code()


def test_exit_codes_are_as_documented() -> None:
    """README and the page of exit codes name each code with which a command can end."""
    told = codes_in(section(README, "Exit codes"))
    branches = {kind.exit_code for kind in (SyncshiftError, UsageError, RunRefused, RunStopped)}
    verdicts = {exit_code_of(verdict) for verdict in RunVerdict} - {None}

    assert told == branches | verdicts | set(INTERRUPTS.values())
    assert codes_in(section(EXIT_CODES, "Exit codes")) == told
    commands = {name for row in tables(EXIT_CODES)["Command"] for name in coded(row[0])}
    assert commands == set(COMMANDS)


def test_error_classes_are_as_documented() -> None:
    """Every error class has its line, in the order of the code."""
    assert named(tables(section(OUTCOMES, "Error classes"))["Error class"]) == list(ErrorClass)


def test_proofs_are_as_documented() -> None:
    """Each proof is explained where the report is."""
    (row,) = (r for r in tables(section(FILES, "report.jsonl"))["Field"] if r[0] == "`proof`")

    assert set(coded(row[1])) == set(Proof)


def test_states_are_as_documented() -> None:
    """Each state of a run is one that a verdict can be given for, and says how it is left."""
    states = named(tables(section(FILES, MANIFEST))["State"])

    assert states == [
        "checking",
        "planned",
        "running",
        "stopped",
        "interrupted",
        "finished",
        "refused",
    ]
    for state in states:
        verdict_of(state, failed=0, unprocessed=1)
        assert mentions(inspect.getsource(Manifest), state)


def test_findings_are_as_documented() -> None:
    """Each finding of a plan or a verification is explained."""
    told = named(tables(section(FILES, "plan.jsonl, verify-TIME.jsonl"))["Finding"])

    assert told == list(FindingKind)


# ---------------------------------------------------------------------------------- files of a run


def test_every_file_of_a_run_is_documented() -> None:
    """Whatever a run can leave in its folder has a line in the table of files."""
    ours = {MANIFEST, LOCK, UNDO, REPORT, EVENTS, INVALID, SUMMARY, PLAN, PAGE}
    ours |= {"verify-TIME.jsonl", SESSION}
    results = {SUCCEEDED_FILE, FAILED_FILE, UNPROCESSED_FILE}

    inputs = {"input.csv", "input.jsonl"}
    assert set(named(tables(FILES)["File"])) == ours | results | inputs | {f"{SHARDS}/"}


@pytest.mark.parametrize(
    ("title", "table", "fields"),
    [
        (MANIFEST, "Field", fields_of(Manifest)),
        (MANIFEST, "Field of `input`", fields_of(Input)),
        (MANIFEST, "Field of `settings`", fields_of(Settings)),
        (UNDO, "Field", [*fields_of(Intent), *SEALED]),
        (UNDO, "Field of `seen`", fields_of(Sighting)),
        (REPORT, "Field", ["v", "event", "level", "timestamp", *fields_of(Outcome), *SEALED]),
        ("plan.jsonl, verify-TIME.jsonl", "Field", [*fields_of(Finding), *SEALED]),
        ("succeeded.csv, failed.csv, unprocessed.csv", "Column", list(COLUMNS)),
        (SUMMARY, "Field", fields_of(Summary)),
    ],
)
def test_fields_are_as_documented(title: str, table: str, fields: list[str]) -> None:
    """Each file's table names its fields: all of them, in their order, and no others."""
    assert named(tables(section(FILES, title))[table]) == fields


def test_fields_within_fields_are_as_documented() -> None:
    """What stands inside a field of the summary, or in a list of problems, is named as well."""
    rows = {row[0].strip("`"): row[1] for row in tables(section(FILES, SUMMARY))["Field"]}

    assert coded(rows["latency_ms"]) == fields_of(Latency)
    assert coded(rows["limits"]) == list(limits_of(Settings()))
    assert coded(rows["files"]) == fields_of(FileWritten)
    assert set(INVALID_COLUMNS) <= set(coded(section(FILES, INVALID)))


def told_events() -> Iterator[tuple[str, set[str]]]:
    """Yield every event that the engine writes down, with its own fields."""
    for path in ROOT.glob("runner/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="tell" | "_tell") | ast.Name(id="tell"),
                    args=[ast.Constant(value=str(event))],
                    keywords=keywords,
                ):
                    yield event, {str(keyword.arg) for keyword in keywords}


def test_events_are_as_documented() -> None:
    """Every event has a line that names its fields, and no line is about another one."""
    rows = {row[0].strip("`"): row[1] for row in tables(EVENT_PAGE)["Event"]}
    written = dict(told_events())

    assert sorted(rows) == sorted(written)
    for event, fields in written.items():
        assert fields <= set(coded(rows[event])), event


async def test_the_checker_in_the_documents_works(tmp_path: Path) -> None:
    """The few lines that check a journal pass a good one, and notice any change to it."""
    (script,) = re.findall(r"^```python\n(.*?)^```", FILES, re.DOTALL | re.MULTILINE)
    record = Record(tmp_path, wall_clock=time.time)
    for row in (1, 2, 3):
        record.tell("run.opened", rows=row)
    await record.close()
    path = tmp_path / EVENTS
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)

    def check(data: bytes) -> subprocess.CompletedProcess[str]:
        path.write_bytes(data)
        return subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )

    assert check(good).stdout == f"{path}: 3 lines, all as written\n"
    assert check(b"").returncode == 0
    assert len(script.strip().splitlines()) <= 12
    for bad in (
        good.replace(b'"rows":2', b'"rows":3'),
        lines[0] + lines[2],
        lines[1] + lines[0] + lines[2],
        good[:-1],
        good[:-20],
    ):
        assert check(bad).returncode == 1
        assert "is not what was written" in check(bad).stderr


# ---------------------------------------------------------------------------------- the tree itself


def test_the_layers_are_as_documented() -> None:
    """DESIGN's table of modules is the table of layers, with a sentence for each."""
    rows = tables(section(DESIGN, "Layers"))["Line"]

    assert {row[1].strip("`"): int(row[0]) for row in rows} == LAYERS
    assert all(len(row[2].split()) > 3 for row in rows)
    # The table grows with the modules; what is to be read from end to end does not.
    assert len(DESIGN.splitlines()) - len(rows) <= 260


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link within the tree, and every path that is named, leads to a file."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    folders = "benchmarks|docs|jobs|requirements|runner|sample_inputs|tests"
    paths = re.findall(rf"`((?:{folders})/[\w./-]+\.[a-z]+)(?:::[\w:]+)?`", text)
    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_can_be_found() -> None:
    """Each page in docs/ is named by README, or by a page that is."""
    reached, new = set[str](), {"README.md"}
    while new:
        reached |= new
        text = "".join((ROOT / name).read_text(encoding="utf-8") for name in new)
        new = {
            f"docs/{path.name}" for path in ROOT.glob("docs/*.md") if path.name in text
        } - reached

    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= reached


def test_every_promise_names_its_tests() -> None:
    """Each promise in README names at least one file of tests, and all of them are there."""
    promised = "What is promised, and the test that holds it"
    for promise, held_by in tables(section(README, promised))["Promise"]:
        tests = [name for name in coded(held_by) if name.startswith("tests/")]
        assert tests, promise
        for name in tests:
            assert (ROOT / name).is_file(), f"{promise}: {name} is not there"


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    """What is not released yet stands on top."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "Unreleased"


# ------------------------------------------------------------------------------ README's session


def session() -> dict[str, list[str]]:
    """Return the commands of README's session, each with what it is shown to print."""
    (block,) = re.findall(r"^```console\n(.*?)^```", section(README, "A session"), re.S | re.M)
    commands: dict[str, list[str]] = {}
    for line in block.splitlines():
        if line.startswith("$ "):
            shown = commands[line[2:]] = []
        else:
            shown.append(line)
    return commands


def lasting(lines: list[str]) -> list[str]:
    """Return the lines that do not depend on the moment, with their numbers made equal."""
    passing = r"[━╸╺^]|  \w+ [\d,]+$|  waiting: |  waited |Send up to"
    kept = [line for line in lines if not re.match(passing, line)]
    equal = [re.sub(r"\d[\d,.:TZ-]*", "N", line) for line in kept]
    return [" ".join(line.split()) for line in equal if line.strip()]


def in_order(lines: list[str], shown: list[str]) -> list[str]:
    """Return those of *lines* that are not in *shown*, each behind the one before."""
    rest = iter(shown)
    return [line for line in lines if line not in rest]


@pytest.mark.no_cover
def test_readmes_session_is_real(tmp_path: Path) -> None:
    """Each command of README's session can be given as it stands, and says what is shown there."""
    told = session()
    simulate, evaluate, plan, apply, resume, verify, rollback, status, listing = told
    starting = re.fullmatch(r"syncshift (.+) > (\S+) &", simulate)
    assert starting is not None
    environment = dict.fromkeys(
        ("PARAGON_SYNC_URL", "PARAGON_PROJECT_ID", "PARAGON_SIGNING_KEY_FILE")
    )
    with Stage(tmp_path, until=None) as stage:
        moves = ROOT / "sample_inputs" / "migrate-credentials.csv"
        (tmp_path / "moves.csv").write_bytes(moves.read_bytes())
        exports = tmp_path / starting[2]
        # On a free port: the one that README shows may be somebody else's.
        stage.start(
            *shlex.split(starting[1]), "--port", "0", env=environment, before=f"exec >{exports}"
        )
        until(lambda: exports.exists() and exports.read_text().count("export ") == 3, "exports")

        def enter(command: str) -> Terminal:
            name, *words = shlex.split(command)
            assert name == "syncshift"
            return stage.terminal(*words, env=environment, before=evaluate)

        def ends(command: str, terminal: Terminal, code: int = 0) -> None:
            assert terminal.wait().code == code, terminal.shown
            differs = in_order(lasting(told[command]), lasting(terminal.shown.splitlines()))
            assert differs == [], terminal.shown

        ends(plan, enter(plan))
        running = enter(apply)
        running.expect("Type the number of re-syncs")
        running.type("120\n")
        report = stage.folder("friday") / REPORT
        settled = b'"event":"change.settled"'
        until(lambda: report.exists() and settled in report.read_bytes(), "a row has ended")
        running.type("\x03")
        ends(apply, running, INTERRUPTS[signal.SIGINT])
        for command in (resume, verify, rollback, status):
            ends(command, enter(command))
        folder = tmp_path / listing.removeprefix("ls ")
        shown = " ".join(told[listing]).split()
        names = sorted(path.name for path in folder.iterdir())
        assert [_timeless(name) for name in names] == [_timeless(name) for name in sorted(shown)]


def _timeless(name: str) -> str:
    return re.sub(r"\d{8}T\d{6}Z", "TIME", name)


def test_the_samples_that_readme_names_are_there() -> None:
    """Each job that README names has its sample inputs, in both formats."""
    jobs: list[Any] = re.findall(r"`([a-z-]+)` \(`", section(README, "Commands"))

    assert jobs
    for job in jobs:
        for suffix in ("csv", "jsonl"):
            assert (ROOT / "sample_inputs" / f"{job}.{suffix}").is_file()
