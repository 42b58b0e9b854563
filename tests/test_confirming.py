"""Confirmation grows with the blast radius: a yes, above 100 re-syncs the number itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Stage

MOVE = ("run", "migrate-credentials")
MANY = 101
TYPE_IT = f"Send up to {MANY} changes? Type the number of re-syncs to go on:"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose server answers at once."""
    with Stage(tmp_path) as there:
        yield there


def test_up_to_100_resyncs_a_yes_is_enough(stage: Stage) -> None:
    """One hundred re-syncs are asked about with y or n."""
    terminal = stage.terminal(*MOVE, stage.moves(100), "--until", "accepted")
    terminal.expect("Send up to 100 changes? [y/N]")
    terminal.type("y\n")

    assert terminal.wait().code == 0
    assert stage.moved() == 100


@pytest.mark.parametrize("answer", ["101", "  101 "])
def test_above_100_the_number_is_typed(stage: Stage, answer: str) -> None:
    """Whoever types the number of re-syncs has read it."""
    terminal = stage.terminal(*MOVE, stage.moves(MANY), "--until", "accepted")
    terminal.expect(TYPE_IT)
    terminal.type(f"{answer}\n")

    assert terminal.wait().code == 0
    assert stage.moved() == MANY


@pytest.mark.parametrize("answer", ["y", "yes", "100", "1010", ""])
def test_above_100_nothing_else_will_do(stage: Stage, answer: str) -> None:
    """A yes, another number or nothing at all: exit 2, and nothing was sent."""
    terminal = stage.terminal(*MOVE, stage.moves(MANY))
    terminal.expect(TYPE_IT)
    terminal.type(f"{answer}\n")

    assert terminal.wait().code == 2
    assert "not confirmed; nothing was sent" in terminal.shown
    assert stage.audit == []


def test_a_thousand_may_be_typed_as_it_is_shown(stage: Stage) -> None:
    """The number is taken with its comma as well."""
    terminal = stage.terminal(*MOVE, stage.moves(1001), "--until", "accepted")
    terminal.expect("up to 1,001: a changed credential")
    terminal.type("1,001\n")

    assert terminal.wait().code == 0


def test_what_starts_no_resync_is_never_typed(stage: Stage) -> None:
    """Two hundred new frequencies start nothing, so a yes is enough."""
    rows = [(sync.id, sync.user, "24h") for sync in stage.syncs(200)]
    path = stage.write("often.csv", [("sync_id", "user_id", "frequency"), *rows])
    terminal = stage.terminal("run", "change-frequency", path)
    terminal.expect("Send up to 200 changes? [y/N]")
    terminal.type("y\n")

    assert terminal.wait().code == 0


def test_yes_answers_the_number(stage: Stage) -> None:
    """--yes is asked for nothing, however many re-syncs there are."""
    command = stage.run(*MOVE, stage.moves(MANY), "--yes", "--until", "accepted")

    assert command.code == 0, command.err
    assert stage.moved() == MANY


@pytest.mark.parametrize("number", [100, 102, 0])
def test_expect_refuses_another_number(stage: Stage, number: int) -> None:
    """--expect N refuses before anything is sent when another number of re-syncs would start."""
    command = stage.run(*MOVE, stage.moves(MANY), "--yes", "--expect", number)

    assert command.code == 2
    assert f"--expect {number}, but up to {MANY} re-syncs would start" in command.err
    assert stage.audit == []


def test_expect_lets_the_number_pass(stage: Stage) -> None:
    """--expect N with --yes runs when the number is right; without --yes somebody is asked."""
    source = stage.moves(MANY)
    asked = stage.run(*MOVE, source, "--expect", MANY)
    command = stage.run(*MOVE, source, "--yes", "--expect", MANY, "--until", "accepted")

    assert asked.code == 2
    assert "there is no terminal to ask at" in asked.err
    assert command.code == 0, command.err
