"""Every benchmark still measures: here with few rows, when its limits mean nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"throttle"}
"""Run by a test of its own: tests/test_throttle_virtual.py."""


@pytest.mark.parametrize("name", sorted({*BENCHMARKS} - ELSEWHERE))
def test_a_benchmark_ends_with_its_figures(name: str) -> None:
    """It says what it measured, and exits 1 for nothing but a limit that was exceeded."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--rounds", "1", "--rows", "500"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "not measured" not in ended.stdout, ended.stderr
    told, _, table = ended.stdout.partition("measured")
    assert f"{name}: " in told
    assert table.count("\n") >= 2  # the rest of the head, and a figure at least
    assert ended.returncode == ("EXCEEDED" in table)
