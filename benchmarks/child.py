"""Runs a part of a benchmark in a process of its own, and takes in what it measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def measured(
    module: str, *arguments: object, kind: type[_T], environment: Mapping[str, str] | None = None
) -> _T:
    """Run ``benchmarks.<module>`` with *arguments*; return what its last line of output says.

    Raises `SystemExit` with what it had to say when it fails.
    """
    told = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        check=False,
    )
    if told.returncode:
        raise SystemExit(f"benchmarks.{module} failed; its own words stand above")
    return msgspec.json.decode(told.stdout.splitlines()[-1], type=kind)


def tell(measurement: msgspec.Struct) -> None:
    """Say *measurement* to whoever called `measured`."""
    print(msgspec.json.encode(measurement).decode(), flush=True)


def peak_mb() -> float:
    """Return the most memory that this process has held so far, in millions of bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
