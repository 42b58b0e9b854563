"""Real commands against a simulator on this machine, of which pictures are taken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
_PATIENCE_S = 180.0
_T = TypeVar("_T")


def until(condition: Callable[[], _T | None], what: str) -> _T:
    """Return the first true thing that *condition* returns. Raises TimeoutError."""
    gives_up_at = time.monotonic() + _PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > gives_up_at:
            raise TimeoutError(f"in {_PATIENCE_S:g} s never came true: {what}")
        time.sleep(0.05)
    return found


class Stage:
    """A folder with inputs, and a simulator that has their syncs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "TERM": "xterm-256color",
        }
        self._stack = ExitStack()
        for job in ("migrate-credentials", "change-frequency"):
            shutil.copy(ROOT / "sample_inputs" / f"{job}.csv", home)
        (home / "migrate-credentials.csv").rename(home / "moves.csv")

    def simulate(self, *flags: str) -> None:
        """Start the simulator, and have the commands find it."""
        said = self.home / "simulator.env"
        words = ("simulate", "--input", "moves.csv", "--port", "0", *flags)
        self.start(*words, out=said)
        exports = until(
            lambda: (found := re.findall(r"export (\w+)=(\S+)", said.read_text()))[2:] and found,
            "the simulator serves",
        )
        self.environment.update(exports)

    def start(self, *words: str, out: Path | None = None) -> subprocess.Popen[bytes]:
        """Start ``syncshift`` with *words*; it ends with the stage at the latest."""
        with (out or self.home / "said.txt").open("wb") as to:
            process = subprocess.Popen(
                [PROGRAMS / "syncshift", *words],
                stdin=subprocess.DEVNULL,
                stdout=to,
                stderr=None if out else to,
                env=self.environment,
                cwd=self.home,
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def run(self, *words: str) -> int:
        """Run ``syncshift`` with *words* to its end, and return its exit code."""
        return self.start(*words).wait(_PATIENCE_S)

    def address(self, *words: str) -> str:
        """Start what serves a page, and return where."""
        said = self.home / f"{words[0]}.txt"
        self.start(*words, out=said)
        return until(
            lambda: (found := re.search(r"http://\S+", said.read_text())) and found[0],
            f"{words[0]} has an address",
        )

    def close(self) -> None:
        """End whatever still runs."""
        self._stack.close()


@contextmanager
def staged() -> Iterator[Stage]:
    """Give a stage in a folder that goes away with it."""
    with tempfile.TemporaryDirectory(prefix="syncshift-pictures-") as folder:
        stage = Stage(Path(folder))
        try:
            yield stage
        finally:
            stage.close()
