"""Who may import whom, who owns which dependency, and what never stands in the tree.

The table itself is in `pyproject.toml` under `tool.importlinter`: import-linter and these tests
read the same one, so a new module is entered once. These tests add the reason, and see what an
import graph does not: which part of a library is meant, and where a package's front door is.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYER_IS = (
    "all that can go wrong, and which version this is; knows nothing",
    "the nouns of a run; knows what can go wrong",
    "every setting by its name, and the rule that it is read by",
    "one trade each (rows, pace, journals, tokens ...); knows the nouns",
    "one trade that stands on another (asking, judging, adding up); knows the trades",
    "one attempt, and one account of a run: the trades that it takes, put together",
    "what is done while the server is down",
    "one question to the API, asked until it is answered; and what shows a run, or all of them",
    "what happens to one change; and what is shown of a run while it goes",
    "which change is next",
    "what happens to a change afterwards, and when too many go wrong",
    "what happens to many changes; and how a run is opened",
    "what a run is doing, and what of it is left",
    "the rows of a run, wave after wave",
    "what a run at work is told by people, and does",
    "a whole run, to its verdict",
    "words in, exit code out",
    "`python -m runner`, which is the command line and nothing else",
)
"""What each layer is, from the lowest."""

WHY_UP = (
    "A lower layer that knows a higher one can be neither read, nor tested, nor replaced without "
    "it. Hand in what it needs as an argument, or move what both need further down."
)
WHY_SIDEWAYS = (
    "Modules of one layer are independent trades: whoever changes one need not read the others. "
    "Let the layer above put the two together, or move what both need further down."
)
WHY_TABLE = (
    "Every module of runner/ has a place. Enter it into one line of the `layers` contract in "
    "pyproject.toml: as low as its imports allow."
)
WHY_OWNER = (
    "A dependency has one owner, which speaks of it in this project's words: then an upgrade, a "
    "replacement or a fault of that library is dealt with in one file."
)
WHY_DOOR = (
    "`runner` itself is the door for jobs: what they import from it is kept stable for jobs of "
    "other packages too. The engine imports from the module that has the name."
)
WHY_LIGHT = (
    "Whatever `runner` itself imports is loaded by every job and every command: nouns and trades "
    "are light, what stands on them is not."
)
WHY_JOBS = (
    "A job is pure: it takes data and returns data. The standard library and what `runner` itself "
    "offers are enough for it; its parts may change without notice."
)
WHY_BY_NAME = (
    "The engine finds jobs by name, our own and those of other packages alike. One that it "
    "imports would be a special case."
)

FREE_FOR_ALL = frozenset({"anyio", "msgspec"})
"""Dependencies without an owner: how the engine waits, and how it writes values down."""


STANDARD = sys.stdlib_module_names | {"compression"}
"""The standard library, with what it has gained since the oldest Python that we run on."""


class Import(NamedTuple):
    """One import: the line it stands on, and the full dotted name that it reaches for."""

    line: int
    name: str


def contract(kind: str) -> list[dict[str, Any]]:
    """Return the contracts of one kind from the table."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [c for c in table["tool"]["importlinter"]["contracts"] if c["type"] == kind]


def layers() -> dict[str, int]:
    """Return the layer of every module of `runner`; 0 is the lowest."""
    (only,) = contract("layers")
    lines = reversed(only["layers"])
    return {
        name.strip(" ()"): level for level, line in enumerate(lines) for name in line.split("|")
    }


def owners() -> dict[str, frozenset[str]]:
    """Return the modules of `runner` that may import a dependency, by its import name."""
    return {
        library: frozenset(m.removeprefix("runner.") for m in c["allowed_importers"])
        for c in contract("protected")
        for library in c["protected_modules"]
    }


LAYERS = layers()
OWNERS = owners()


def imports(path: PurePosixPath, source: str) -> Iterator[Import]:
    """Yield every import of a file: inside functions, under TYPE_CHECKING, and by name."""
    package = path.parent.parts
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join((*package[: len(package) - level + 1], module or ""))
                start = base.strip(".") if level else module
                yield from (Import(node.lineno, f"{start}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(node.lineno, name)


def module_of(path: PurePosixPath) -> str:
    """Return the module of `runner` that a file belongs to; a folder counts as one module."""
    return path.parts[1].removesuffix(".py")


def complaints(path: str, source: str) -> list[str]:
    """Return what is wrong with the imports of a file, each with the reason."""
    where = PurePosixPath(path)
    check = engine_complaint if where.parts[0] == "runner" else job_complaint
    found = []
    if where.parts[0] == "runner" and module_of(where) not in {*LAYERS, "__init__"}:
        found.append(f"{path}: {module_of(where)} is not in the table of layers. {WHY_TABLE}")
    for line, name in imports(where, source):
        if complaint := check(where, name):
            found.append(f"{path}:{line}: {complaint}")
    return found


def engine_complaint(path: PurePosixPath, name: str) -> str | None:
    """Return what is wrong with a file of `runner` that imports *name*."""
    library, *rest = name.split(".")
    importer = module_of(path)
    if library == "runner":
        return layer_complaint(importer, rest[0] if rest else "")
    if library == "jobs":
        return f"imports {name}. {WHY_BY_NAME}"
    if library in STANDARD or library in FREE_FOR_ALL:
        return None
    if library not in OWNERS:
        return f"{library} has no owner; enter a `protected` contract. {WHY_OWNER}"
    if importer not in OWNERS[library]:
        owner = " and ".join(sorted(OWNERS[library]))
        return f"imports {name}, which belongs to {owner}. {WHY_OWNER}"
    serves = importer in {"simulator", "lookout"}
    if library == "aiohttp" and serves != name.startswith("aiohttp.web"):
        owners = "the client belongs to api, servers to simulator and lookout"
        return f"imports {name}: {owners}. {WHY_OWNER}"
    return None


def layer_complaint(importer: str, imported: str) -> str | None:
    """Return what is wrong with one module of `runner` that imports another."""
    if imported == importer:
        return None
    if imported not in LAYERS:
        return f"imports {imported!r} from runner, which is no module. {WHY_DOOR}"
    other = LAYERS[imported]
    if importer == "__init__":
        return None if other <= LAYERS["job"] else f"the door imports {imported}. {WHY_LIGHT}"
    mine = LAYERS.get(importer, 0)
    if other < mine:
        return None
    direction, why = ("sideways", WHY_SIDEWAYS) if other == mine else ("up", WHY_UP)
    return (
        f"{importer} (layer {mine}: {LAYER_IS[mine]}) imports {imported} "
        f"(layer {other}: {LAYER_IS[other]}): {direction}. {why}"
    )


def job_complaint(path: PurePosixPath, name: str) -> str | None:
    """Return what is wrong with a job that imports *name*."""
    library, *rest = name.split(".")
    if library in STANDARD:
        return None
    if library == "runner" and len(rest) == 1 and rest[0] not in LAYERS:
        return None
    return f"imports {name}. {WHY_JOBS}"


def sources() -> list[str]:
    """Return every Python file of the engine and its jobs, as a path from the project's root."""
    files = (f for folder in ("runner", "jobs") for f in (ROOT / folder).rglob("*.py"))
    return sorted(f.relative_to(ROOT).as_posix() for f in files)


def kept_files() -> list[Path]:
    """Return every file that is in version control, or would be with the next commit."""
    listed = subprocess.run(
        # Whoever runs the tests need not be who owns the checkout.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [f for name in listed.split("\0") if name and (f := ROOT / name).is_file()]


@pytest.mark.parametrize("path", sources())
def test_imports_go_down_only(path: str) -> None:
    """A file imports from lower layers only, and only the dependencies that it owns."""
    found = complaints(path, (ROOT / path).read_text(encoding="utf-8"))

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        pytest.param("runner/rows.py", "import runner.api", WHY_UP, id="up"),
        pytest.param("runner/rows.py", "from runner import api", WHY_UP, id="up-through-the-door"),
        pytest.param("runner/rows.py", "from .api import Api", WHY_UP, id="up-relative"),
        pytest.param("runner/rows.py", "from . import api", WHY_UP, id="up-relative-module"),
        pytest.param("runner/cli/run.py", "from ..api import Api", None, id="down-relative"),
        pytest.param("runner/api.py", "from runner.retry import x", WHY_SIDEWAYS, id="sideways"),
        pytest.param(
            "runner/errors.py", "def f():\n    import runner.cli", WHY_UP, id="in-a-function"
        ),
        pytest.param(
            "runner/model.py",
            "if TYPE_CHECKING:\n    from runner.job import Job",
            WHY_UP,
            id="for-types-only",
        ),
        pytest.param(
            "runner/job.py", "importlib.import_module('runner.run')", WHY_UP, id="by-a-literal-name"
        ),
        pytest.param("runner/gadget.py", "", WHY_TABLE, id="not-in-the-table"),
        pytest.param("runner/__init__.py", "from runner.api import Api", WHY_LIGHT, id="door-up"),
        pytest.param("runner/__init__.py", "from runner.job import Job", None, id="door"),
        pytest.param("runner/run.py", "from runner import Job", WHY_DOOR, id="engine-by-the-door"),
        pytest.param("runner/cli/a.py", "from runner.cli import b", None, id="within-a-folder"),
        pytest.param("runner/run.py", "import jobs.update_syncs", WHY_BY_NAME, id="a-job-by-name"),
        pytest.param("runner/run.py", "import tenacity", WHY_OWNER, id="not-the-owner"),
        pytest.param("runner/retry.py", "import tenacity", None, id="the-owner"),
        pytest.param("runner/retry.py", "import requests", WHY_OWNER, id="nobody's"),
        pytest.param("runner/api.py", "from aiohttp import web", WHY_OWNER, id="server-in-api"),
        pytest.param("runner/api.py", "import aiohttp", None, id="client-in-api"),
        pytest.param("runner/simulator.py", "import aiohttp", WHY_OWNER, id="client-in-simulator"),
        pytest.param("runner/simulator.py", "from aiohttp import web", None, id="server"),
        pytest.param("runner/lookout/x.py", "from aiohttp import web", None, id="server-of-pages"),
        pytest.param("runner/lookout/x.py", "import aiohttp", WHY_OWNER, id="client-in-lookout"),
        pytest.param("runner/rows.py", "import csv, anyio.to_thread", None, id="free-for-all"),
        pytest.param("jobs/x.py", "from runner import SyncJob", None, id="job-through-the-door"),
        pytest.param("jobs/x.py", "from runner import model", WHY_JOBS, id="job-takes-a-part"),
        pytest.param("jobs/x.py", "from runner.job import Job", WHY_JOBS, id="job-goes-inside"),
        pytest.param("jobs/x.py", "import aiohttp", WHY_JOBS, id="job-sends"),
        pytest.param("jobs/x.py", "from jobs.y import Y", WHY_JOBS, id="job-knows-a-job"),
    ],
)
def test_each_rule_bites(path: str, source: str, reason: str | None) -> None:
    """Every way round the layers is seen, and told with its reason; what is allowed passes."""
    found = complaints(path, source)

    assert len(found) == (reason is not None)
    assert all(reason is not None and reason in complaint for complaint in found)


def test_the_table_names_no_module_that_is_gone() -> None:
    """What is in the table of layers exists, so that the table can be read as the layout."""
    there = {module_of(PurePosixPath(p)) for p in sources() if p.startswith("runner/")}

    assert set(LAYERS) - there == set()
    assert len(LAYER_IS) == 1 + max(LAYERS.values())


@pytest.mark.parametrize("path", sources())
def test_a_file_has_one_job(path: str) -> None:
    """No file of the engine or of a job grows past 330 lines: by then it does two things."""
    length = len((ROOT / path).read_text(encoding="utf-8").splitlines())

    assert length <= 330, f"{path} has {length} lines: part it by what it does, not by its size"


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (rb"https?://\S*/[s]imple\b|python[h]osted|index[-]url[= ]+\S", "an index address"),
        (rb"(?<![\w.])/(?:work|root|farm|home|Users)/\w", "a path of somebody's machine"),
    ],
    ids=["index", "machine"],
)
def test_the_tree_names_no_index_and_no_machine(pattern: bytes, what: str) -> None:
    """Nothing that is kept ties the project to one package index or to one machine."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]!r}"
        for file in kept_files()
        for number, line in enumerate(file.read_bytes().splitlines(), start=1)
        if re.search(pattern, line)
    ]

    assert not found, f"{what} in\n" + "\n".join(found)


def test_the_only_lock_is_in_requirements() -> None:
    """uv's own lock file, which holds addresses of an index, is not kept."""
    assert "uv.lock" not in {file.name for file in kept_files()}


def test_what_is_silenced_says_why() -> None:
    """Every comment that silences a tool names the rule and the reason; coverage never is."""
    silencing = re.compile(r"#\s*(noqa|type:\s*ignore|pragma:|pylint:|fmt:|mypy:)")
    with_reason = re.compile(
        r"#\s*(noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*|type: ignore\[[\w, -]+\])\W+\w.*"
    )
    bad = []
    for file in kept_files():
        if file.suffix != ".py":
            continue
        with file.open("rb") as source:
            bad += [
                f"{file.relative_to(ROOT)}:{token.start[0]}: {token.string}"
                for token in tokenize.tokenize(source.readline)
                if token.type == tokenize.COMMENT
                if silencing.search(token.string) and not with_reason.search(token.string)
            ]

    assert not bad, "no rule or no reason:\n" + "\n".join(bad)
