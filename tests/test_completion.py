"""`completion`: the scripts do in real shells what a person who presses Tab expects."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.commands import ROOT, Stage

PROMPT = "ready> "
SHELLS = ["bash", *(name for name in ("zsh", "fish") if shutil.which(name))]
"""Those that are installed here."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with a run called friday, an input, and `syncshift` on the PATH."""
    with Stage(tmp_path_factory.mktemp("completion")) as there:
        moves = there.moves(3, name="moves.csv")
        assert (
            there.run("run", "migrate-credentials", moves, "--yes", "--run-id", "friday").code == 0
        )
        programs = there.home / "bin"
        programs.mkdir()
        command = programs / "syncshift"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runner "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        there.environment |= {
            "PATH": f"{programs}:{there.environment['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
        }
        yield there


def script(stage: Stage, shell: str) -> Path:
    """Return the file with the script for *shell*."""
    made = stage.run("completion", shell)
    assert (made.code, made.err) == (0, "")
    functions = stage.home / "functions"
    functions.mkdir(exist_ok=True)
    path = functions / ("_syncshift" if shell == "zsh" else f"syncshift.{shell}")
    path.write_text(made.out, encoding="utf-8")
    return path


@contextlib.contextmanager
def at_the_keys(stage: Stage, shell: str) -> Iterator[pexpect.spawn[str]]:
    """Start *shell* on a terminal, with its script loaded."""
    path = script(stage, shell)
    begins = {
        "bash": (["--norc", "--noprofile", "-i"], f"PS1='{PROMPT}'; source {path}"),
        "zsh": (
            ["-f", "-i"],
            f"PS1='{PROMPT}'; fpath=({path.parent} $fpath); autoload -U compinit; compinit -u -D",
        ),
    }
    flags, first = begins[shell]
    child: pexpect.spawn[str] = pexpect.spawn(
        shell,
        flags,
        env={**stage.environment, "INPUTRC": "/dev/null"},
        cwd=str(stage.home),
        encoding="utf-8",
        dimensions=(40, 200),
        timeout=8,
    )
    try:
        child.sendline(first + "; echo loaded:$?:")
        child.expect("loaded:0:")
        child.expect_exact(PROMPT)
        yield child
    finally:
        child.close(force=True)


def completed(stage: Stage, shell: str, typed: str, *words: str) -> None:
    """Press Tab behind *typed*, once or twice, until *words* are shown."""
    if shell == "fish":
        told = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script(stage, shell)}; complete -C '{typed}'"],
            env=stage.environment,
            cwd=stage.home,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stderr == ""
        offered = {line.partition("\t")[0] for line in told.stdout.splitlines()}
        wanted = {word.rpartition(" ")[2] for word in words}
        assert wanted <= offered, told.stdout
        return
    with at_the_keys(stage, shell) as child:
        child.send(typed + "\t")
        if len(words) > 1:
            child.send("\t")
        for word in words:
            child.expect_exact(word)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("syncshift pl", ("syncshift plan",)),
        ("syncshift status fri", ("syncshift status friday",)),
        ("syncshift plan mig", ("syncshift plan migrate-credentials",)),
        ("syncshift plan --no-read mig", ("syncshift plan --no-read migrate-credentials",)),
        ("syncshift plan migrate-credentials mov", ("migrate-credentials moves.csv",)),
        ("syncshift run --unt", ("syncshift run --until",)),
        ("syncshift run --until conf", ("syncshift run --until confirmed",)),
        ("syncshift config ", ("syncshift config show",)),
        ("syncshift re", ("report", "resume", "retry")),
    ],
)
def test_a_tab_completes(stage: Stage, shell: str, typed: str, words: tuple[str, ...]) -> None:
    """Commands, flags, their values, jobs, runs and files are completed, each where it belongs."""
    completed(stage, shell, typed, *words)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_may_be_sourced(stage: Stage, shell: str) -> None:
    """Without a folder for it, the script can be sourced, and says nothing."""
    path = script(stage, shell)
    flags, line = {
        "bash": (["--norc"], f"source {path}; complete -p syncshift >/dev/null"),
        "zsh": (
            ["-f"],
            f"autoload -U compinit; compinit -u -D; source {path}; : $_comps[syncshift]",
        ),
        "fish": (["--no-config"], f"source {path}; complete -c syncshift >/dev/null"),
    }[shell]

    told = subprocess.run(
        [shell, *flags, "-c", line],
        env=stage.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_runs_are_those_of_the_folder_that_was_named(stage: Stage) -> None:
    """What a shell asks for is answered by the runs of --runs-dir, with their jobs."""
    one = stage.run("__complete", "status", "")
    other = stage.run("__complete", "status", "--runs-dir", "elsewhere", "")
    jobs = stage.run("__complete", "plan", "")

    assert "friday\tmigrate-credentials, finished" in one.out
    assert "friday" not in other.out
    assert "change-frequency\tChange how often syncs run" in jobs.out


def test_a_damaged_run_hides_no_other(stage: Stage) -> None:
    """Whatever lies in place of a manifest, the runs beside it are completed, and before it."""
    crowd = stage.home / "crowd"
    shutil.copytree(stage.runs / "friday", crowd / "friday")
    for name, text in (("torn", "{"), ("empty", ""), ("list", "[]"), ("bare", "{}")):
        (crowd / name).mkdir()
        (crowd / name / "run.json").write_text(text, encoding="utf-8")

    told = stage.run("__complete", "resume", "--runs-dir", "crowd", "")

    runs = [line.partition("\t")[0] for line in told.out.splitlines() if "\t" in line]
    assert runs == ["friday", "torn", "list", "empty", "bare"]


def test_another_shell_is_refused(stage: Stage) -> None:
    """A shell that is not known is named, with those that are: exit 2."""
    told = stage.here("completion", "csh")

    assert told.code == 2
    assert all(name in told.err for name in ("csh", "bash", "zsh", "fish"))
