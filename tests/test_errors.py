"""The tree of what can go wrong, and what each branch of it promises."""

from __future__ import annotations

import re

import pytest

from runner import errors
from runner.errors import (
    NOT_SENT,
    Fault,
    FaultKind,
    InputError,
    Interrupted,
    Problem,
    RunRefused,
    RunStopped,
    SyncshiftError,
    UsageError,
)


def kinds() -> list[type[SyncshiftError]]:
    """Return every error that the module defines."""
    found = [k for k in vars(errors).values() if isinstance(k, type)]
    return [k for k in found if issubclass(k, SyncshiftError)]


def test_the_tree_is_drawn_as_it_is() -> None:
    """Every error stands in the picture at the top of the module, below the one it belongs to."""
    depths = list[tuple[int, str]]()
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([|` -]*)([A-Z]\w+)(?: {2}|$)", line):
            depths.append((len(found[1]) // 4, found[2]))
    drawn = {}
    for at, (depth, name) in enumerate(depths):
        above = [other for level, other in depths[:at] if level < depth]
        parents = [other for level, other in depths[:at] if level == depth - 1]
        drawn[name] = parents[-1] if above else "Exception"

    real = {k.__name__: k.__bases__[0].__name__ for k in kinds()}
    # A row's own error never leaves the input check.
    assert drawn == {name: above for name, above in real.items() if name != "InvalidRow"}


@pytest.mark.parametrize("kind", kinds())
def test_the_exit_code_belongs_to_the_branch(kind: type[SyncshiftError]) -> None:
    """Whatever is refused before sending is 2, a run that cannot be opened 5, a stop 4."""
    branch = next((b for b in (UsageError, RunRefused, RunStopped) if issubclass(kind, b)), None)
    codes = {UsageError: 2, RunRefused: 5, RunStopped: 4, None: 1}

    assert kind.exit_code == codes[branch]
    assert kind.__doc__


@pytest.mark.parametrize("number", [1, 2, 15])
def test_an_interruption_knows_its_signal(number: int) -> None:
    """The exit code of an interruption is made of the signal's number."""
    error = Interrupted("stopped by a signal", signal_number=number)

    assert error.signal_number == number
    assert str(error) == "stopped by a signal"


def test_an_input_error_counts_what_it_does_not_show() -> None:
    """The first problems are shown, all are counted."""
    problem = Problem(line=3, column="frequency", value="2h", reason="must be one of 1h 24h")

    assert InputError("x", (problem,), 700).total == 700
    assert InputError("x", (problem,)).total == 1
    assert InputError("x").problems == ()


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(3, "frequency", "2h", "no"), "line 3, column frequency: no (found '2h')"),
        (Problem(3, "", "", "too short"), "line 3: too short"),
        (Problem(0, "", "", "is empty"), "the file: is empty"),
        (Problem(0, "x", "a", "no"), "the file, column x: no (found 'a')"),
    ],
)
def test_a_problem_says_where_it_stands(problem: Problem, text: str) -> None:
    """Line, column, reason and value, as far as there are any."""
    assert str(problem) == text


@pytest.mark.parametrize("kind", FaultKind)
def test_a_fault_knows_whether_the_server_may_have_acted(kind: FaultKind) -> None:
    """What was never sent cannot have landed; all else may have."""
    assert Fault(kind, "x").sent == (kind not in NOT_SENT)
