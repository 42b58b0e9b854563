"""What a person gets who installs the wheel."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import runner

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from this checkout, without the network, and return where it is."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Return the name of every file in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path, name: str) -> str:
    """Return one of the files that describe the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"syncshift-{runner.__version__}.dist-info/{name}").decode()


def files_below(folder: str) -> set[str]:
    """Return what stands in a folder of the checkout, as paths from the folder."""
    top = ROOT / folder
    found = (p for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(top).as_posix() for p in found}


@pytest.mark.parametrize(
    ("folder", "place"),
    [("runner", "runner"), ("jobs", "jobs"), ("sample_inputs", "runner/sample_inputs")],
)
def test_the_wheel_holds_every_file(names: set[str], folder: str, place: str) -> None:
    """Engine, jobs and sample inputs are in the wheel, file for file."""
    expected = {f"{place}/{name}" for name in files_below(folder)}

    assert expected
    assert expected - names == set()


def test_the_wheel_takes_no_other_name(names: set[str]) -> None:
    """Nothing but `runner`, `jobs` and the metadata is installed: no `tests`, no `benchmarks`."""
    top = {name.split("/")[0] for name in names}

    assert top == {"runner", "jobs", f"syncshift-{runner.__version__}.dist-info"}


def test_the_wheel_brings_the_command(wheel: Path) -> None:
    """`syncshift` is on the path after an install; our own jobs claim no entry point."""
    entries = configparser.ConfigParser()
    entries.read_string(metadata(wheel, "entry_points.txt"))

    assert {s: dict(entries[s]) for s in entries.sections()} == {
        "console_scripts": {"syncshift": "runner.cli:main"}
    }


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Name, version, licence and the oldest Python agree with the checkout."""
    told = Parser().parsestr(metadata(wheel, "METADATA"))

    assert told["Name"] == "syncshift"
    assert told["Version"] == runner.__version__
    assert told["License-Expression"] == "MIT"
    assert told["Requires-Python"] == ">=3.11"
    assert "MIT License" in metadata(wheel, "licenses/LICENSE")


def test_the_wheel_runs_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked in another place, the wheel's own engine answers, not the checkout's."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # Coverage would take this copy for the engine and then miss its files.
    env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    env["PYTHONPATH"] = str(tmp_path / "site")

    where = subprocess.run(
        [sys.executable, "-c", "import runner.cli; print(runner.cli.__file__)"],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    helped = subprocess.run(
        [sys.executable, "-m", "runner", "--help"],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert where == str(tmp_path / "site" / "runner" / "cli" / "__init__.py")
    assert "demo" in helped


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "image.txt"])
def test_every_dependency_is_pinned(name: str) -> None:
    """Whatever the project asks for is pinned with a hash in each list."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    pins = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    asked = {
        "".join(c if c.isalnum() else "-" for c in entry.split(">")[0].split("[")[0]).lower()
        for entry in project["dependencies"]
    }

    assert asked - pins == set()
    if name != "run.txt":
        extras = {"uvloop", "prometheus-client", "opentelemetry-sdk"}
        assert extras - pins == set()
    assert text.count("==") <= text.count("--hash=sha256:")
