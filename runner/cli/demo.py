"""The whole story, told with the real commands against a simulator on this machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.from_thread
from rich.console import Console

from runner.cli import screen
from runner.errors import SettingsError
from runner.model import Row
from runner.rows import Columns, read, recognise
from runner.secret import Secret
from runner.simulator import Behavior, Faults, Simulator
from runner.tokens import TokenChecker, load_signing_key, make_demo_key

_PROJECT = "demo-project"
_SEED = 11
_INTERRUPTED = 130
_MIGRATION = "migrate-credentials.csv"
_SCHEDULE = "change-frequency.jsonl"
_PACE = ("--rate", "80")
"""Slow enough to be watched."""
_PATIENCE_S = 5.0
"""How long a command may take to end when the demo is interrupted."""
_SHARE_OF_ROWS = 0.4
"""How far the first run gets before it is interrupted."""

_States: TypeAlias = dict[str, dict[str, str]]
"""Fields of syncs, by ID."""


def tell_story(keep: Path | None) -> int:
    """Run the demo and return 0 when everything ended as it should, else 1."""
    inputs = _inputs()
    home = (keep or Path(tempfile.mkdtemp(prefix="syncshift-demo-"))).absolute()
    if (home / "runs").exists():
        raise SettingsError(f"--keep {keep}: holds runs already; choose another folder")
    home.mkdir(parents=True, exist_ok=True)
    key_text = make_demo_key()
    key_file = home / "key.pem"
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key_text.reveal())
    with _serving(key_text, inputs) as simulator:
        story = _Story(home, key_file, inputs, simulator)
        try:
            return story.tell()
        finally:
            story.end()


class _Story:
    def __init__(self, home: Path, key_file: Path, inputs: Path, simulator: Simulator) -> None:
        self._home = home
        self._inputs = inputs
        self._simulator = simulator
        self._console: Console = screen.data()
        self._before = {
            sync_id: {"credential_id": sync.credential_id}
            for sync_id, sync in simulator.snapshot().items()
        }
        self._command: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            "PARAGON_SYNC_URL": simulator.base_url,
            "PARAGON_PROJECT_ID": _PROJECT,
            "PARAGON_SIGNING_KEY_FILE": str(key_file),
            "SYNCSHIFT_RUNS": str(home / "runs"),
        }
        for name in ("PARAGON_SIGNING_KEY", "PARAGON_USER_TOKEN", "PARAGON_AUDIENCE"):
            self._environment.pop(name, None)

    def tell(self) -> int:
        rows = sum(1 for _ in _rows(self._inputs / _MIGRATION))
        self._say(
            "A Sync API is being simulated on this machine. It answers in about 60 ms, and one "
            "request in ten meets a fault: a 500, a 503, a 429, a dropped connection, a lost "
            "answer, or one that makes no sense."
        )
        self._say(f"1. Look at {rows} syncs that are to move to new credentials. Nothing is sent.")
        migration = ("migrate-credentials", self._inputs / _MIGRATION, "--run-id", "migration")
        good = self._ends("plan", *migration, *_PACE)
        good &= self._patches() == 0
        self._say("2. Carry the plan out, and press Ctrl-C on the way.")
        good &= self._interrupt("apply", "migration", "--yes", after=int(rows * _SHARE_OF_ROWS))
        self._say("3. Nothing is lost: resume goes on, and follows each re-sync to its end.")
        good &= self._ends("resume", "migration", "--yes")
        self._say("4. Is it in force?")
        good &= self._ends("verify", "migration")
        good &= self._agrees(self._wanted(_MIGRATION))
        self._say("5. It was the wrong Friday. Put everything back.")
        rollback = ("rollback", "migration", "--run-id", "way-back", "--until", "confirmed")
        good &= self._ends(*rollback, "--yes")
        good &= self._agrees(self._before)
        self._say("6. Change how often other syncs run, from a JSONL file. No re-sync is started.")
        schedule = ("change-frequency", self._inputs / _SCHEDULE, "--run-id", "schedule")
        good &= self._ends("run", *schedule, *_PACE, "--yes")
        good &= self._agrees(self._wanted(_SCHEDULE))
        self._say("What is there now.")
        good &= self._ends("status")
        self._console.print()
        self._console.print(f"Everything was written to [bold]{self._home / 'runs'}[/]")
        return 0 if good else 1

    def end(self) -> None:
        """Let no command outlive the demo: nobody would answer it any more."""
        command = self._command
        if command is None or command.poll() is not None:
            return
        command.send_signal(signal.SIGINT)
        try:
            command.wait(_PATIENCE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            command.kill()
            command.wait()

    def _ends(self, *words: object) -> bool:
        """Run a command to its end; tell whether all was well."""
        return self._start(*words).wait() == 0

    def _interrupt(self, *words: object, after: int) -> bool:
        """Press Ctrl-C once *after* PATCHes have come; tell whether that ended the command."""
        command = self._start(*words)
        while command.poll() is None and self._patches() < after:
            threading.Event().wait(0.05)
        command.send_signal(signal.SIGINT)
        return command.wait() == _INTERRUPTED

    def _wanted(self, name: str) -> _States:
        owned = ("credential_id", "frequency")
        return {
            row.fields["sync_id"]: {n: v for n, v in row.fields.items() if n in owned}
            for row in _rows(self._inputs / name)
        }

    def _agrees(self, states: _States) -> bool:
        """Compare the simulator's own state with *states*, and tell what came of it."""
        now = self._simulator.snapshot()
        same = sum(
            all(getattr(now[sync_id], name) == value for name, value in state.items())
            for sync_id, state in states.items()
        )
        self._console.print(
            f"The simulator's own state agrees for {same} of {len(states)} syncs; it saw "
            f"{self._patches()} PATCHes and {self._simulator.requests} requests so far."
        )
        return same == len(states)

    def _patches(self) -> int:
        return sum(1 for entry in list(self._simulator.audit) if entry.method == "PATCH")

    def _say(self, text: str) -> None:
        self._console.print()
        self._console.print(f"[bold]{text}[/]")
        sys.stdout.flush()

    def _start(self, *words: object) -> subprocess.Popen[bytes]:
        shown = shlex.join(str(word) for word in words)
        self._console.print(f"[dim]$[/] syncshift {shown}", highlight=False)
        sys.stdout.flush()
        self._command = subprocess.Popen(  # noqa: S603  # our own command, on our own inputs
            [sys.executable, "-m", "runner", *map(str, words)],
            env=self._environment,
            # Not where the user is: a settings file there is for other runs.
            cwd=self._home,
            # Ctrl-C in this terminal ends the demo; the commands are signaled by it alone.
            start_new_session=True,
        )
        return self._command


@contextmanager
def _serving(key_text: Secret, inputs: Path) -> Iterator[Simulator]:
    key = load_signing_key(key_text, origin="the demo's key")
    simulator = Simulator(
        verify=TokenChecker(key.public_pem(), f"useparagon.com/{_PROJECT}"),
        seed=_SEED,
        faults=_faults(),
        behavior=Behavior(resync_s=1.5),
    )
    for name in (_MIGRATION, _SCHEDULE):
        owners = ((r.fields["sync_id"], r.fields["user_id"]) for r in _rows(inputs / name))
        simulator.seed_from_rows(owners)
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulator),
    ):
        yield simulator


def _faults() -> Faults:
    return Faults(
        http_500=0.02,
        http_503=0.02,
        drop_after=0.02,
        drop_before=0.02,
        not_json=0.01,
        http_429=0.01,
        faults_per_row=1,
        latency_s=0.06,
    )


def _rows(path: Path) -> Iterator[Row]:
    from runner.job import CREDENTIAL, FREQUENCY

    columns = Columns(owned=(CREDENTIAL, FREQUENCY))
    for block in read(recognise(path), columns):
        for row in block:
            if isinstance(row, Row):
                yield row


def _inputs() -> Path:
    """Return where the sample inputs are: inside the wheel, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "sample_inputs", package.parent / "sample_inputs"):
        if (place / _MIGRATION).is_file():
            return place
    raise SettingsError("the sample inputs were not installed; run the demo from a checkout")
