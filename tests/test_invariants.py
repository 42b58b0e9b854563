"""The table of what must always hold: complete, in order, and about tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "invariants.md"

NUMBERS = tuple(
    f"{letter}{number}"
    for letter, last in {
        "I": 13,
        "R": 14,
        "A": 8,
        "T": 12,
        "H": 12,
        "D": 14,
        "S": 6,
        "X": 8,
        "P": 6,
    }.items()
    for number in range(1, last + 1)
)

TRAPS = (
    *("D1", "I11", "R2", "R5", "R6", "T2", "T3", "H4", "I5", "R1", "D9", "D10", "T5", "X1", "D11"),
    *("R10", "A1", "R7", "D6", "S1", "T7", "A3"),
)
"""What a quick version of this program gets wrong. Each has a test that carries its number."""

STATES = ("held", "later", "not applicable")


class Line(NamedTuple):
    """One line of the table."""

    number: str
    must_hold: str
    state: str
    rest: str
    """The tests that hold it, or the reason why none does."""

    @property
    def tests(self) -> list[str]:
        """What it names as tests: ``file::name``, or ``file::Class::name``."""
        return re.findall(r"`(\w+\.py::[\w:]+)`", self.rest)

    @property
    def reason(self) -> str:
        """What it says besides naming tests."""
        return re.sub(r"`[^`]*::[^`]*`|<br>|Today:", "", self.rest).strip(" .")


def lines() -> Iterator[Line]:
    """Yield every line of the table."""
    for text in TABLE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| [A-Z]\d+ \|", text):
            yield Line(*(cell.strip() for cell in text.strip("|").split("|")))


def names_of_tests(path: Path) -> Iterator[str]:
    """Yield the names of the tests in a file, with the class they stand in."""

    def below(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from below(node.body, f"{prefix}{node.name}::")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = f"{path.name}::{prefix}{node.name}"
                yield from [found] if node.name.startswith("test_") else []

    yield from below(ast.parse(path.read_text(encoding="utf-8")).body, "")


def numbers_in(name: str) -> set[str]:
    """Return the invariants whose numbers a test carries in its name."""
    words = name.rpartition("::")[2].split("_")
    return {word.upper() for word in words if re.fullmatch(r"[irathdsxp]\d{1,2}", word)}


LINES = tuple(lines())
BY_NUMBER = {line.number: line for line in LINES}
TESTS = frozenset(
    name for path in (ROOT / "tests").glob("test_*.py") for name in names_of_tests(path)
)


def test_every_number_stands_once_and_in_order() -> None:
    """The table has all of them, each once, in the order of the list."""
    assert tuple(line.number for line in LINES) == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.number)
def test_a_line_says_what_its_state_needs(line: Line) -> None:
    """What is held names a test; what is not held says why; and each says what must hold."""
    assert line.state in STATES
    assert line.must_hold.endswith(".")
    if line.state == "held":
        assert line.tests
        assert not line.reason
    else:
        assert len(line.reason.split()) >= 5


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.number)
def test_every_test_that_is_named_exists(line: Line) -> None:
    """A test that was renamed or removed is renamed or removed in the table too."""
    assert [name for name in line.tests if name not in TESTS] == []
    assert len(line.tests) == len(set(line.tests))


def test_every_test_with_a_number_is_in_the_table() -> None:
    """Whoever gives a test a number enters it, so that the table tells all that holds a line."""
    missing = [
        f"{number}: `{name}`"
        for name in sorted(TESTS)
        for number in sorted(numbers_in(name))
        if number not in BY_NUMBER or name not in BY_NUMBER[number].tests
    ]

    assert not missing, "enter into docs/invariants.md:\n" + "\n".join(missing)


@pytest.mark.parametrize("number", TRAPS)
def test_every_trap_has_a_test_of_its_number(number: str) -> None:
    """The twenty mistakes that are made first are each met by a test that says which it meets."""
    assert any(number in numbers_in(name) for name in BY_NUMBER[number].tests)
