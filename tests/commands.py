"""A stage for commands: a folder, a key, a simulator, and real processes that meet them.

The simulator runs in a thread of the test's own process, so that its audit can be read at any
moment; the commands are children with an environment of their own.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
import unittest.mock
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import anyio.from_thread

from runner.cli.commands import run_words
from runner.secret import Secret
from runner.simulator import AuditEntry, Behavior, Faults, Simulator, SyncRecord
from runner.tokens import TokenChecker, Tokens, load_signing_key, make_demo_key

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "test-project"
NEW = "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1"
PATIENCE_S = 30.0
_LOOK_EVERY_S = 0.003
_HANDED_ON = ("PATH", "COVERAGE_PROCESS_CONFIG")
_KEYS = ("PARAGON_SIGNING_KEY", "PARAGON_SIGNING_KEY_FILE", "PARAGON_USER_TOKEN")


def signing_key() -> Secret:
    """Return the one key of all tests; making one takes a while."""
    with _one_at_a_time:
        return _make_key()


_make_key = functools.cache(make_demo_key)
_one_at_a_time = threading.Lock()


def until(condition: Callable[[], Any], what: str, *, patience_s: float = PATIENCE_S) -> Any:
    """Return the first true thing that *condition* returns; fail when it never does."""
    gives_up_at = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < gives_up_at, f"in {patience_s:g} s never came true: {what}"
        threading.Event().wait(_LOOK_EVERY_S)
    return found


class Said(NamedTuple):
    """What a command said."""

    code: int | None
    out: str
    err: str


class Command:
    """A command that was started. What it prints goes to files, so it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._out, self._err = out, err

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text(encoding="utf-8", errors="backslashreplace")

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text(encoding="utf-8", errors="backslashreplace")

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs; negative when a signal killed it."""
        return self.process.poll()

    def json(self) -> Any:
        """Return standard output as the one JSON value that it must be."""
        return json.loads(self.out)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, patience_s: float = PATIENCE_S) -> Self:
        """Return once it has ended; fail when it does not."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(
                f"still at work after {patience_s:g} s: {self.process.args!r}\n{self.err}"
            ) from None
        return self

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Terminal(Command):
    """A command on a terminal of its own, with somebody at the keys."""

    def __init__(self, process: subprocess.Popen[bytes], keys: int, nothing: Path) -> None:
        super().__init__(process, nothing, nothing)
        self._keys = keys
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def shown(self) -> str:
        """All that came to the screen so far, without colors and cursor movements."""
        text = self._shown.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def type(self, text: str) -> None:
        """Press keys. Ctrl-C is the character 3, Ctrl-D the character 4."""
        os.write(self._keys, text.encode())

    def expect(self, text: str) -> str:
        """Return what is shown once *text* is among it; fail when it never is."""
        try:
            until(lambda: text in self.shown or not self._reader.is_alive(), f"{text!r} is shown")
        except AssertionError as error:
            raise AssertionError(f"{error}; shown is:\n{self.shown}") from None
        assert text in self.shown, self.shown
        return self.shown

    def wait(self, patience_s: float = PATIENCE_S) -> Self:
        """Return once it has ended and all that it printed has arrived."""
        super().wait(patience_s)
        self._reader.join(patience_s)
        return self

    def end(self) -> None:
        """Kill it if it still runs, and take the terminal away."""
        super().end()
        self._reader.join(PATIENCE_S)
        with contextlib.suppress(OSError):
            os.close(self._keys)

    def _read(self) -> None:
        # A read fails with EIO once no process holds the other side any more.
        with contextlib.suppress(OSError):
            while True:
                if select.select([self._keys], [], [], 0.2)[0]:
                    self._shown += os.read(self._keys, 65_536)
                elif self.process.poll() is not None:
                    return


class Stage:
    """Where commands are run. Use it with ``with``; whatever still runs at the end is killed."""

    def __init__(
        self,
        home: Path,
        *,
        faults: Faults | None = None,
        behavior: Behavior | None = None,
        until: str | None = "accepted",
    ) -> None:
        """*until* stands in the settings file: how far a change is proved is a story of its own."""
        self.home = home
        if until is not None:
            (home / "syncshift.toml").write_text(f'until = "{until}"\n', encoding="utf-8")
        self.runs = home / "runs"
        key = load_signing_key(signing_key(), origin="the tests' key")
        self.simulator = Simulator(
            verify=TokenChecker(key.public_pem(), f"useparagon.com/{PROJECT}"),
            seed=7,
            faults=faults,
            behavior=behavior,
        )
        self.key_file = home / "key.pem"
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(signing_key().reveal(), encoding="utf-8")
        self._started: list[Command] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(anyio.from_thread.start_blocking_portal())
        self._stack.enter_context(self._portal.wrap_async_context_manager(self.simulator))
        self.base_url = self.simulator.base_url
        self.environment = {
            **{name: os.environ[name] for name in _HANDED_ON if name in os.environ},
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PARAGON_SYNC_URL": self.base_url,
            "PARAGON_PROJECT_ID": PROJECT,
            "PARAGON_SIGNING_KEY_FILE": str(self.key_file),
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for command in self._started:
            command.end()
        self._stack.close()

    def there(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Do something in the simulator's own thread, as all that touches sockets must be."""
        return self._portal.call(action, *arguments)

    # ------------------------------------------------------------------------------- inputs

    def syncs(self, count: int, *, users: int = 4) -> list[SyncRecord]:
        """Let the simulator have *count* syncs, and return them as they are before a run."""
        records: list[SyncRecord] = self.there(self.simulator.seed, count, users)
        return records

    def moves(self, count: int, *, users: int = 4, name: str = "moves.csv") -> Path:
        """Write an input that moves *count* syncs, which the simulator then has."""
        rows = [
            (sync.id, sync.user, NEW, f"team {n % 3}")
            for n, sync in enumerate(self.syncs(count, users=users))
        ]
        return self.write(name, [("sync_id", "user_id", "credential_id", "team"), *rows])

    def write(self, name: str, rows: Iterable[Sequence[str]]) -> Path:
        """Write a CSV file, the first of *rows* being its header."""
        path = self.home / name
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        return path

    # ----------------------------------------------------------------------------- commands

    def start(
        self,
        *words: object,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes = b"",
        cwd: Path | None = None,
        before: str = "",
    ) -> Command:
        """Start ``syncshift`` with *words*; in *env* None unsets. *before* is shell, run first."""
        number = len(self._started)
        out, err = self.home / f".{number}.out", self.home / f".{number}.err"
        given = self.home / f".{number}.in"
        given.write_bytes(stdin)
        with given.open("rb") as source, out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                _argv(words, before),
                stdin=source,
                stdout=to_out,
                stderr=to_err,
                env=self._env(env),
                cwd=cwd or self.home,
            )
        command = Command(process, out, err)
        self._started.append(command)
        return command

    def run(self, *words: object, **knobs: Any) -> Command:
        """Run ``syncshift`` with *words* to its end."""
        return self.start(*words, **knobs).wait()

    def here(self, *words: object) -> Said:
        """Carry out *words* in this process: for what is refused before anything is opened."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.home),
            unittest.mock.patch.dict(os.environ, self.environment, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run_words([str(word) for word in words])
        return Said(code, out.getvalue(), err.getvalue())

    def terminal(
        self,
        *words: object,
        env: Mapping[str, str | None] | None = None,
        before: str = "",
        size: tuple[int, int] = (40, 120),
    ) -> Terminal:
        """Start ``syncshift`` with *words* on a terminal of *size* (lines, columns)."""
        keys, screen = pty.openpty()
        termios.tcsetwinsize(screen, size)
        # A session's leader that opens a terminal gets it as its own: Ctrl-C then signals it.
        opens = f"exec <{os.ttyname(screen)} >{os.ttyname(screen)} 2>&1; "
        process = subprocess.Popen(
            _argv(words, opens + before),
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=screen,
            env=self._env({"TERM": "xterm-256color", **(env or {})}),
            cwd=self.home,
            start_new_session=True,
        )
        os.close(screen)
        nothing = self.home / ".nothing"
        nothing.touch()
        terminal = Terminal(process, keys, nothing)
        self._started.append(terminal)
        return terminal

    def take_in(self, command: Command) -> None:
        """Have *command*, which was started elsewhere, end with the stage."""
        self._started.append(command)

    def _env(self, changed: Mapping[str, str | None] | None) -> dict[str, str]:
        merged = {**self.environment, **(changed or {})}
        return {name: value for name, value in merged.items() if value is not None}

    # ------------------------------------------------------------------------ what came of it

    @property
    def audit(self) -> list[AuditEntry]:
        """Every request so far."""
        return list(self.simulator.audit)

    def asked(self, method: str, *, after: int = 0) -> list[AuditEntry]:
        """Return the requests of *method* behind the first *after* ones."""
        return [entry for entry in self.audit[after:] if entry.method == method]

    def token(self, user: str) -> str:
        """Return a ready-made token of *user*."""
        key = load_signing_key(signing_key(), origin="the tests' key")
        tokens = Tokens(key, audience=f"useparagon.com/{PROJECT}", renew_ahead_s=1.0)
        try:
            header: str = self.there(tokens.mint, user)
        finally:
            tokens.close()
        return str(header).removeprefix("Bearer ")

    def patches(self) -> int:
        """Return how many PATCHes have come."""
        return len(self.asked("PATCH"))

    def state(self) -> dict[str, SyncRecord]:
        """Return every sync as it is now."""
        syncs: dict[str, SyncRecord] = self.there(self.simulator.snapshot)
        return syncs

    def moved(self) -> int:
        """Return how many syncs have the new credential."""
        return sum(record.credential_id == NEW for record in self.state().values())

    def folder(self, run_id: str) -> Path:
        """Return where a run lies."""
        return self.runs / run_id

    def manifest(self, run_id: str) -> dict[str, Any]:
        """Return a run's ``run.json``."""
        found: dict[str, Any] = json.loads((self.folder(run_id) / "run.json").read_bytes())
        return found


def _argv(words: Sequence[object], before: str) -> list[str]:
    command = [sys.executable, "-m", "runner", *map(str, words)]
    return ["/bin/sh", "-c", f"{before}\nexec {shlex.join(command)}"] if before else command


def journal(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a journal, each checked here from first principles.

    *torn*: a tail that was never written whole is left out; otherwise there must be none.
    """
    lines = []
    raw = path.read_bytes()
    for seq, text in enumerate(raw.split(b"\n")[:-1], start=1):
        body, mark, rest = text.rpartition(b',"crc":"')
        good = bool(mark) and rest == b'%08x"}' % zlib.crc32(body + mark)
        if torn and not good:
            break
        assert good, f"{path.name}, line {seq}: {text[:200]!r}"
        line = json.loads(text)
        assert list(line)[-2:] == ["seq", "crc"], text
        assert line["seq"] == seq, f"{path.name}, line {seq}: {text[:200]!r}"
        lines.append(line)
    if not torn:
        assert raw == b"" or raw.endswith(b"\n"), f"{path.name} has a torn tail"
    return lines


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def install_job(home: Path, method: str, body: str) -> dict[str, str | None]:
    """Let a package of somebody else offer the job ``broken``, of which *method* does *body*.

    Returns the environment in which it is found.
    """
    site = home / "site"
    names = site / "broken_job-1.0.dist-info"
    names.mkdir(parents=True)
    (site / "broken_job.py").write_text(
        "from runner import CREDENTIAL, SyncJob\n"
        "class Broken(SyncJob):\n"
        "    name = 'broken'\n"
        "    owns = (CREDENTIAL,)\n"
        f"    def {method}(self, *given):\n"
        f"        {body}\n",
        encoding="utf-8",
    )
    (names / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-job\nVersion: 1.0\n")
    (names / "entry_points.txt").write_text("[syncshift.jobs]\nbroken = broken_job:Broken\n")
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


INTERRUPTS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""The signals that interrupt a run, and the exit codes they lead to."""
