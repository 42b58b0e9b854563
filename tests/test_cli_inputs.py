"""Where a run's input and settings come from, and what its name may be."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.simulator import SyncRecord
from tests.commands import NEW, PROJECT, Stage, table

MOVE = ("run", "migrate-credentials")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage on which nothing has happened yet."""
    with Stage(tmp_path) as there:
        yield there


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage for many runs on the same few syncs."""
    with Stage(tmp_path_factory.mktemp("shared")) as there:
        there.moves(4)
        yield there


# --------------------------------------------------------------------------------------- inputs


def _zstd(data: bytes) -> bytes:
    try:
        module: Any = importlib.import_module("compression.zstd")
    except ImportError:
        module = importlib.import_module("backports.zstd")
    packed: bytes = module.compress(data)
    return packed


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_every_form_of_input_is_read_and_copied(shared: Stage, format: str, packing: str) -> None:
    """CSV and JSONL, plain and packed: known by extension, kept byte for byte in the run."""
    plain = (shared.home / "moves.csv").read_bytes()
    if format == "jsonl":
        rows = table(shared.home / "moves.csv")
        plain = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": _zstd}
    data = packers.get(packing, bytes)(plain)
    path = shared.home / f"given.{format}{packing}"
    path.write_bytes(data)
    run_id = f"{format}{packing or '.plain'}"

    command = shared.run(*MOVE, path, "--yes", "--json", "--run-id", run_id)

    assert command.code == 0, command.err
    assert command.json()["rows"] == 4
    assert (shared.folder(run_id) / f"input.{format}{packing}").read_bytes() == data
    told = shared.manifest(run_id)["input"]
    assert (told["format"], told["compression"]) == (format, packing[1:] or None)
    assert told["sha256"] == hashlib.sha256(data).hexdigest()
    succeeded = table(shared.folder(run_id) / "succeeded.csv")
    assert [row["team"] for row in succeeded] == ["team 0", "team 1", "team 2", "team 0"]


def test_standard_input_is_an_input(stage: Stage) -> None:
    """`-` with --format reads standard input, keeps a copy, and can be resumed from it."""
    path = stage.moves(6)

    command = stage.run(
        *MOVE, "-", "--format", "csv", "--yes", "--run-id", "x", stdin=path.read_bytes()
    )

    assert command.code == 0, command.err
    assert stage.moved() == 6
    assert (stage.folder("x") / "input.csv").read_bytes() == path.read_bytes()
    assert stage.manifest("x")["input"]["name"] == "-"
    assert stage.run("resume", "x", "--yes").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-", "--yes"), "add --format csv or --format jsonl"),
        (("-", "--format", "csv"), "nobody can be asked; add --yes"),
        (("-", "--format", "csv", "--yes", "--no-copy"), "--no-copy cannot be had with"),
    ],
)
def test_standard_input_needs_to_be_told_more(
    shared: Stage, words: tuple[str, ...], said: str
) -> None:
    """Without a format, or without --yes, standard input is refused before it is read."""
    command = shared.run(*MOVE, *words, stdin=(shared.home / "moves.csv").read_bytes())

    assert command.code == 2
    assert said in command.err


def test_an_empty_standard_input_is_refused(stage: Stage) -> None:
    """Nothing piped in is an error of the input, not a run of no rows."""
    command = stage.run(*MOVE, "-", "--format", "csv", "--yes")

    assert command.code == 2
    assert "empty" in command.err
    assert stage.audit == []


def test_no_copy_leaves_the_input_where_it_is(stage: Stage) -> None:
    """With --no-copy the run reads the file itself, and notices when it is another one."""
    path = stage.moves(5)
    stage.run(*MOVE, path.name, "--yes", "--no-copy", "--run-id", "x")

    assert not (stage.folder("x") / "input.csv").exists()
    assert stage.manifest("x")["input"]["file"] == str(path)

    path.write_bytes(path.read_bytes().replace(b"team 0", b"team 9"))
    resumed = stage.run("resume", "x", "--yes")

    assert resumed.code == 5
    assert "is not the input that the run began with" in resumed.err

    path.unlink()
    gone = stage.run("resume", "x", "--yes")

    assert gone.code == 5
    assert "cannot be read (No such file or directory)" in gone.err


def test_a_run_outlives_its_input(stage: Stage) -> None:
    """With a copy, resume and report need nothing but the run's folder."""
    path = stage.moves(5)
    stage.run(*MOVE, path, "--yes", "--run-id", "x")
    path.unlink()

    assert stage.run("resume", "x", "--yes").code == 0
    assert stage.run("report", "x").code == 0


def test_d9_a_copy_that_was_changed_is_refused(stage: Stage) -> None:
    """One changed byte in the run's own copy: exit 5 and no request."""
    stage.run(*MOVE, stage.moves(5), "--yes", "--run-id", "x")
    copy = stage.folder("x") / "input.csv"
    copy.write_bytes(copy.read_bytes().replace(b"team 0", b"team 9"))
    asked = len(stage.audit)

    command = stage.run("resume", "x", "--yes")

    assert command.code == 5
    assert "SHA-256" in command.err
    assert len(stage.audit) == asked


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--base-url", "https://other.example"),
        ("--project-id", "another"),
        ("--audience", "somebody else"),
    ],
)
def test_d9_another_host_project_or_audience_is_refused(
    stage: Stage, flag: str, value: str
) -> None:
    """A run is resumed where it was begun: exit 5 naming both values, and no request."""
    stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", "x")
    asked = len(stage.audit)

    command = stage.run("resume", "x", "--yes", flag, value)

    assert command.code == 5
    assert f"the run was begun with {flag} " in command.err
    assert f"and now it is {value}" in command.err
    assert len(stage.audit) == asked


# ------------------------------------------------------------------------------------- settings


def test_flags_go_before_environment_before_file_before_defaults(stage: Stage) -> None:
    """Each setting is the nearest word that was said about it."""
    (stage.home / "syncshift.toml").write_text(
        'project-id = "from-file"\nrate = 50\nconcurrency = 7\nmax-failures = "20%"\n'
        'runs-dir = "from-file"\ntimeout = "5s"\n',
        encoding="utf-8",
    )

    command = stage.run(
        *MOVE,
        stage.moves(3),
        *("--yes", "--run-id", "x", "--rate", "70", "--timeout", "6"),
        env={"SYNCSHIFT_RUNS": "from-environment"},
    )

    assert command.code == 0, command.err
    manifest = json.loads((stage.home / "from-environment" / "x" / "run.json").read_bytes())
    settings = manifest["settings"]
    assert (settings["rate"], settings["timeout_s"]) == (70.0, 6.0)
    assert settings["project_id"] == PROJECT
    assert (settings["concurrency"], settings["max_failures"]) == (7, "20%")
    assert (settings["max_attempts"], settings["drain_s"]) == (5, 30.0)
    assert not (stage.home / "from-file").exists()


def test_the_folder_of_runs_may_be_named_by_flag(stage: Stage) -> None:
    """--runs-dir goes before SYNCSHIFT_RUNS, for every command."""
    where = ("--runs-dir", "flagged")
    env: dict[str, str | None] = {"SYNCSHIFT_RUNS": "from-environment"}
    stage.run(*MOVE, stage.moves(2), "--yes", "--run-id", "x", *where, env=env)

    assert [run["run_id"] for run in stage.run("status", "--json", *where).json()] == ["x"]
    assert stage.run("status", "--json", env=env).json() == []
    assert stage.run("report", "x", *where).code == 0
    assert stage.run("resume", "x", "--yes", *where).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-failure = 3", "there is no setting 'max-failure'; is max-failures meant?"),
        ("rate = 'fast'", "syncshift.toml: --rate must be a number of requests per second"),
        ("signing-key = 'x'", "signing-key must not stand in a file that is shared"),
        ("user-token = 'x'", "set PARAGON_USER_TOKEN instead"),
        ("yes = true", "there is no setting 'yes'"),
        ("rate = ", "cannot be read as TOML"),
        ("[limits]\nrate = 3", "there is no setting 'limits'"),
    ],
)
def test_a_settings_file_that_is_wrong_is_refused(stage: Stage, text: str, said: str) -> None:
    """What nobody knows is not passed over: it could be a misspelt limit."""
    (stage.home / "syncshift.toml").write_text(text, encoding="utf-8")
    stage.moves(2)

    command = stage.here(*MOVE, "moves.csv", "--yes")

    assert command.code == 2
    assert said in command.err
    assert not stage.runs.exists()


def test_the_environment_alone_is_enough(stage: Stage) -> None:
    """The key itself, its audience and the address may all stand in the environment."""
    key = stage.key_file.read_text(encoding="utf-8").replace("\n", "\\n")
    stage.key_file.unlink()

    command = stage.run(
        *MOVE,
        stage.moves(3),
        "--yes",
        env={
            "PARAGON_SIGNING_KEY": key,
            "PARAGON_SIGNING_KEY_FILE": None,
            "PARAGON_PROJECT_ID": None,
            "PARAGON_AUDIENCE": f"useparagon.com/{PROJECT}",
            "PARAGON_SYNC_URL": f"{stage.base_url}/api/",
        },
    )

    assert command.code == 0, command.err
    assert stage.moved() == 3


def test_x7_a_key_file_that_others_may_read_is_warned_about(stage: Stage) -> None:
    """The run goes on, for mounted secrets are often so, but not without a word."""
    stage.key_file.chmod(0o644)

    command = stage.run(*MOVE, stage.moves(2), "--yes")

    assert command.code == 0
    assert "warning: " in command.err
    assert "key.pem" in command.err


def test_two_ways_to_be_somebody_are_refused(shared: Stage) -> None:
    """A key and a ready-made token, or two keys: it would not be clear as whom to send."""
    token = shared.run(*MOVE, "moves.csv", "--yes", env={"PARAGON_USER_TOKEN": "t"})
    keys = shared.run(*MOVE, "moves.csv", "--yes", env={"PARAGON_SIGNING_KEY": "k"})

    assert (token.code, keys.code) == (2, 2)
    assert "unset one of them" in token.err
    assert "unset one of them" in keys.err


def test_a_ready_made_token_speaks_for_one_user(stage: Stage) -> None:
    """PARAGON_USER_TOKEN carries a file of one user, and refuses one of several."""
    one, *others = stage.syncs(3, users=3)
    env = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_USER_TOKEN": stage.token(one.user)}
    header = ("sync_id", "user_id", "credential_id")

    def rows(*syncs: SyncRecord) -> list[tuple[str, ...]]:
        return [header, *((sync.id, sync.user, NEW) for sync in syncs)]

    alone = stage.run(*MOVE, stage.write("one.csv", rows(one)), "--yes", env=env)
    several = stage.run(*MOVE, stage.write("all.csv", rows(one, *others)), "--yes", env=env)

    assert alone.code == 0, alone.err
    assert several.code == 2
    assert "the input names 3 users, but PARAGON_USER_TOKEN speaks for one" in several.err
    assert stage.moved() == 1


# -------------------------------------------------------------------------------------- run IDs


def test_a_run_is_named_by_time_unless_told(stage: Stage) -> None:
    """Without --run-id a run is called after its time and a short random part."""
    stage.run(*MOVE, stage.moves(2), "--yes")

    (folder,) = (path for path in stage.runs.iterdir() if path.is_dir())
    date, time, chance = folder.name.split("-")
    assert (len(date), len(time), len(chance)) == (8, 6, 6)


def test_a_taken_name_is_refused(stage: Stage) -> None:
    """A name that a run has is refused with exit 5; that run stays as it is."""
    path = stage.moves(3)
    stage.run(*MOVE, path, "--yes", "--run-id", "x")
    before = (stage.folder("x") / "run.json").read_bytes()
    asked = len(stage.audit)

    again = stage.run(*MOVE, path, "--yes", "--run-id", "x", "--json")

    assert again.code == 5
    assert "there is a run x already in runs; choose another --run-id, or go on" in again.err
    assert (stage.folder("x") / "run.json").read_bytes() == before
    assert len(stage.audit) == asked


def test_the_name_of_a_refused_run_may_be_taken_again(stage: Stage) -> None:
    """Who mends the input may run it again under the same name; the refused one gives way."""
    bad = stage.write("bad.csv", [("sync_id", "user_id", "credential_id"), ("s", "u", "no UUID")])
    assert stage.run(*MOVE, bad, "--yes", "--run-id", "x").code == 2
    assert (stage.folder("x") / "invalid.csv").exists()

    command = stage.run(*MOVE, stage.moves(3), "--yes", "--run-id", "x")

    assert command.code == 0, command.err
    assert not (stage.folder("x") / "invalid.csv").exists()


def test_a_refused_run_cannot_be_resumed(stage: Stage) -> None:
    """A refused run says why it was, and that a new one is to be begun."""
    bad = stage.write("bad.csv", [("sync_id", "user_id", "credential_id"), ("s", "u", "no UUID")])
    stage.run(*MOVE, bad, "--yes", "--run-id", "x")

    command = stage.run("resume", "x", "--yes")

    assert command.code == 5
    assert "run x was refused before anything was sent" in command.err


def test_settings_that_may_change_are_taken_on_resume(stage: Stage) -> None:
    """--rate, --concurrency, --timeout and --max-failures may be given anew; the rest is kept."""
    path = stage.moves(3)
    stage.run(*MOVE, path, "--yes", "--run-id", "x", "--max-attempts", "2", "--drain", "9s")

    flags = ("--rate", "9", "--concurrency", "2", "--timeout", "3s", "--max-failures", "1")
    command = stage.run("resume", "x", "--yes", *flags)

    assert command.code == 0, command.err
    settings = stage.manifest("x")["settings"]
    assert (settings["rate"], settings["concurrency"], settings["timeout_s"]) == (9.0, 2, 3.0)
    assert settings["max_failures"] == "1"
    assert (settings["max_attempts"], settings["drain_s"]) == (2, 9.0)
