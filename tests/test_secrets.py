"""Planted keys and tokens are found in no byte that a command leaves; hostile text does no harm."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner.page import PAGE
from runner.simulator import Fault, Faults, OutageKind
from tests.commands import Command, Stage, install_job, journal, signing_key, table, until

pytestmark = pytest.mark.no_cover

MOVE = ("run", "migrate-credentials")
DEBUG = ("--yes", "--log-level", "debug")
QUICK = ("--max-attempts", "2", "--max-failures", "100%", "--max-outage", "2s", "--drain", "1s")
PRESENTED = re.compile(rb"[Bb]earer +(?!\*\*\*)[A-Za-z0-9._~+/-]{8,}")

# What a server that means harm could answer: it clears the screen, turns the reading direction
# round, begins a line that looks like a journal's, and is never done.
FORGED = '{"v":1,"event":"change.settled","row":1,"outcome":"updated","seq":1,"crc":"00000000"}'
HOSTILE = f"=1+1\x1b[2J\x1b]0;pwned\x07\r\n{FORGED}\n\u202egnol\u2028\x00" + "A" * 10_000_000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage on which nothing has happened yet."""
    with Stage(tmp_path) as there:
        yield there


def needles(*more: str) -> list[bytes]:
    """Return what must be found nowhere: every line of the key, any JWT, and *more*."""
    lines = [line for line in signing_key().reveal().splitlines() if line and "---" not in line]
    return [text.encode() for text in (*lines, "eyJ", *more)]


def assert_nothing_leaked(stage: Stage, *more: str) -> None:
    """Search every byte of every file that commands left, their output included."""
    given = {"key.pem", ".netrc", "broken_job.py"}
    files = [path for path in stage.home.rglob("*") if path.is_file() and path.name not in given]
    files = [path for path in files if path.parent.name != "__pycache__"]
    found = [
        (path.relative_to(stage.home).as_posix(), needle)
        for path in files
        for data in [path.read_bytes()]
        for needle in (*needles(*more), *PRESENTED.findall(data))
        if needle in data
    ]
    assert found == []
    assert {".0.out", ".0.err"} <= {path.name for path in files}


class Stranger:
    """Another server on this machine: remembers what it is told, answers as it was asked to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.echo_in = ""
        self.text = ""
        heard = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.answer(self)

            do_PATCH = do_CONNECT = do_GET  # noqa: N815  # names that the library looks for

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Remember *request* and answer it, repeating its token where that was asked for."""
        self.heard.append(f"{request.requestline}\n{request.headers}")
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        reads = request.command == "GET"
        text = json.dumps({"message": self.text.replace("TOKEN", token)}).encode()
        body = b'{"status":"IDLE"}' if reads and self.status != 402 else text
        request.send_response(200 if reads and self.status != 402 else self.status)
        for name, value in self.headers.items():
            request.send_header(name, value.replace("TOKEN", token))
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        with contextlib.suppress(OSError):  # whoever asked may have read enough
            request.wfile.write(body)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """A server that is not the Sync API."""
    there = Stranger()
    yield there
    there.close()


# ---------------------------------------------------------------------------- no secret gets out


def test_x1_no_secret_is_left_by_answers_of_any_kind(stage: Stage) -> None:
    """Every kind of answer and fault, at debug level, under asyncio's own debug mode."""
    slowing = (Fault.HTTP_429, Fault.HTTP_503_WAIT)
    kinds = [fault for fault in Fault if fault not in (Fault.REDIRECT, *slowing)]
    stage.simulator.faults = Faults.mixed(1.0, kinds=kinds, slow_s=0.2)
    env: dict[str, str | None] = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"}
    path = stage.moves(60, users=20)
    stage.simulator.script(next(iter(stage.state())), "PATCH", slowing)

    command = stage.run(*MOVE, path, *DEBUG, "--max-failures", "100%", "--timeout", "2s", env=env)

    assert command.code in {0, 3}, command.err
    assert {entry.fault for entry in stage.audit} >= {
        fault.value
        for fault in (
            Fault.HTTP_401,
            Fault.HTTP_429,
            Fault.HTTP_500,
            Fault.GARBAGE,
            Fault.TRUNCATED,
            Fault.DROP_AFTER,
        )
    }
    assert not any(entry.token_elsewhere for entry in stage.audit)
    assert_nothing_leaked(stage)


def test_x1_no_secret_is_left_when_a_run_goes_wrong(stage: Stage, stranger: Stranger) -> None:
    """A wrong project, nobody at the address, TLS to a plain port, an outage, our own faults."""
    path = stage.moves(12, users=6)
    tls = stranger.url.replace("http:", "https:")
    site = install_job(stage.home, "parse", "raise RuntimeError(given, self)")
    begun = [
        stage.start(*MOVE, path, *DEBUG, *QUICK, env=env)
        for env in (
            {"PARAGON_PROJECT_ID": "another"},
            {"PARAGON_SYNC_URL": "http://127.0.0.1:9"},
            {"PARAGON_SYNC_URL": tls},
            {"PARAGON_SYNC_URL": "https://nowhere.invalid"},
        )
    ]
    codes = [command.wait().code for command in begun]
    broken = stage.run("run", "broken", path, *DEBUG, env=site)
    stage.there(stage.simulator.outage, OutageKind.DROP)
    down = stage.run(*MOVE, path, *DEBUG, *QUICK)

    assert codes == [4, 4, 4, 4], [command.err for command in begun]
    assert broken.code == 1
    assert down.code == 4, down.err
    assert_nothing_leaked(stage)


def test_x1_a_job_that_breaks_on_every_row_shows_nothing(stage: Stage) -> None:
    """An exception in a job's own code ends its row, and neither it nor its locals are shown."""
    site = install_job(stage.home, "write", "raise KeyError(given, 'canary-of-the-job')")

    command = stage.run("run", "broken", stage.moves(5), *DEBUG, *QUICK, env=site)

    assert command.code == 3, command.err
    assert_nothing_leaked(stage, "canary-of-the-job")


def test_x1_a_run_that_dies_leaves_no_secret(stage: Stage) -> None:
    """Killed, or left by a second signal: nothing in what is left, nor in its process title."""
    stage.simulator.faults = Faults(latency_s=0.1)
    path = stage.moves(60)
    killed, left = (
        stage.start(*MOVE, path, *DEBUG, "--run-id", name, "--concurrency", "4")
        for name in ("killed", "left")
    )
    until(lambda: stage.patches() > 10, "PATCHes come")
    titles = b"".join(Path(f"/proc/{c.pid}/cmdline").read_bytes() for c in (killed, left))

    killed.process.kill()
    left.signal(signal.SIGINT)
    left.signal(signal.SIGTERM)
    codes = killed.wait().code, left.wait().code

    assert codes[0] == -9
    assert codes[1] in {130, 143}
    assert not [needle for needle in needles(str(stage.key_file)) if needle in titles]
    assert_nothing_leaked(stage)


def test_x1_a_ready_made_token_is_shown_nowhere(stage: Stage, stranger: Stranger) -> None:
    """Whatever the token looks like; also when it is refused, and when a server repeats it."""
    path = stage.moves(4, users=1)
    jwt, opaque = stage.token("user-00001"), "canary-0f4d9c2b7a-no-jwt-at-all"
    stranger.status, stranger.text = 400, "what is 'Authorization: Bearer TOKEN'?"
    commands = [
        stage.run(*MOVE, path, *DEBUG, *QUICK, env=_brought(token, PARAGON_SYNC_URL=url))
        for token in (jwt, opaque)
        for url in (stage.base_url, stranger.url)
    ]
    broken = [
        stage.run(*MOVE, path, *DEBUG, env=_brought(token))
        for token in (f"{opaque}\n{opaque}", f"{opaque}ü", f"{opaque} {opaque}")
    ]

    assert [command.code for command in commands] == [0, 3, 3, 3], [c.err for c in commands]
    assert [command.code for command in broken] == [2, 2, 2]
    assert_nothing_leaked(stage, jwt, opaque)


@pytest.mark.parametrize("where", ["text", "header"])
def test_x1_a_server_that_repeats_the_token_is_not_quoted(
    stage: Stage, stranger: Stranger, where: str
) -> None:
    """A token in an error text, or in the header of a request ID, is starred before it is kept."""
    stranger.status, stranger.text = 400, "no"
    if where == "text":
        stranger.text = "invalid token TOKEN, was: Authorization: Bearer TOKEN"
    else:
        stranger.headers = {"X-Request-Id": "TOKEN"}
    env = {"PARAGON_SYNC_URL": stranger.url}

    command = stage.run(*MOVE, stage.moves(4), *DEBUG, *QUICK, "--run-id", "x", env=env)

    assert command.code == 3, command.err
    assert len(stranger.heard) == 8
    assert len(journal(stage.folder("x") / "report.jsonl")) == 4
    assert_nothing_leaked(stage)


def test_x1_a_key_that_cannot_be_used_is_not_quoted(stage: Stage) -> None:
    """Damaged in any way, from file or environment: the error says why, never what it read."""
    path = stage.moves(2)
    key = signing_key().reveal()
    lines = key.splitlines()
    damaged = [
        "\n".join(lines[:-1]),
        "\n".join(lines[1:]),
        key[:-200],
        key[40:],
        key.replace("A", "B"),
    ]
    for n, text in enumerate(damaged):
        stage.key_file.write_text(text, encoding="utf-8")
        in_variable = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_SIGNING_KEY": text}
        for env in (None, in_variable) if n == 0 else (in_variable,):
            command = stage.run(*MOVE, path, *DEBUG, env=env)

            assert command.code == 2, f"{n}: {command.err}"
            assert "Traceback" not in command.err

    assert_nothing_leaked(stage, *(line.replace("A", "B") for line in lines[1:-1] if "A" in line))


# -------------------------------------------------------------------- nobody else hears anything


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_r2_x1_a_redirect_to_another_host_receives_nothing(
    stage: Stage, stranger: Stranger, status: int
) -> None:
    """No redirect is followed, whatever its status: the other host gets not one request."""
    first = Stranger()
    first.status, first.headers = status, {"Location": f"{stranger.url}/api/syncs/x"}
    env = {"PARAGON_SYNC_URL": first.url}

    command = stage.run(*MOVE, stage.moves(6), *DEBUG, *QUICK, env=env)
    first.close()

    assert command.code == 4, command.err
    assert "redirects" in command.out
    assert first.heard
    assert stranger.heard == []
    assert_nothing_leaked(stage)


def test_x3_proxies_and_netrc_of_the_machine_are_not_used(stage: Stage, stranger: Stranger) -> None:
    """Tokens come from our own code alone, and go to the API alone."""
    (stage.home / ".netrc").write_text(
        "machine 127.0.0.1 login somebody password netrc-canary\n", encoding="utf-8"
    )
    (stage.home / ".netrc").chmod(0o600)
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    env: dict[str, str | None] = {
        **dict.fromkeys(names, stranger.url),
        "NETRC": str(stage.home / ".netrc"),
    }

    command = stage.run(*MOVE, stage.moves(4), *DEBUG, env=env)

    assert command.code == 0, command.err
    assert stranger.heard == []
    assert stage.moved() == 4
    assert_nothing_leaked(stage, "netrc-canary")


# ---------------------------------------------------------------------------------- hostile text


def test_x5_hostile_text_is_escaped_short_and_on_one_line(stage: Stage, stranger: Stranger) -> None:
    """What a server says steers no terminal, forges no line of a journal, and fills no disk."""
    stranger.status, stranger.text = 400, HOSTILE
    env = {"PARAGON_SYNC_URL": stranger.url}
    path = stage.moves(5)

    command = stage.run(*MOVE, path, *DEBUG, *QUICK, "--run-id", "x", env=env)

    assert command.code == 3, command.err
    outcomes = journal(stage.folder("x") / "report.jsonl")
    assert [line["outcome"] for line in outcomes] == ["rejected"] * 5
    assert all(len(line["error"]) < 2_048 for line in outcomes)
    assert all(line["error"].isprintable() for line in outcomes)
    assert all(
        row["syncshift_error"].isprintable() for row in table(stage.folder("x") / "failed.csv")
    )
    _assert_harmless(stage, command)


def test_x5_a_reason_with_hostile_text_is_shown_in_one_line(
    stage: Stage, stranger: Stranger
) -> None:
    """Where a server's words say why the run stopped, screen, status and files stay in order."""
    stranger.status, stranger.text = 402, HOSTILE
    env = {"PARAGON_SYNC_URL": stranger.url}

    command = stage.run(*MOVE, stage.moves(5), *DEBUG, *QUICK, "--run-id", "x", env=env)
    shown = stage.run("status", "x")

    assert command.code == 4, command.err
    assert "asks for payment (402)" in command.out
    assert len(stage.manifest("x")["reason"]) < 2_048
    (why,) = (line for line in shown.out.splitlines() if line.strip().startswith("why"))
    assert "=1+1" in why
    _assert_harmless(stage, command, shown)


def test_x5_hostile_headers_do_no_more(stage: Stage, stranger: Stranger) -> None:
    """A request ID of a server is kept short, in one line, and shows no control characters."""
    stranger.status, stranger.text = 400, "no"
    stranger.headers = {"X-Request-Id": "\x1b[2J=1+1" + "B" * 4_000}
    env = {"PARAGON_SYNC_URL": stranger.url}

    command = stage.run(*MOVE, stage.moves(2), *DEBUG, *QUICK, "--run-id", "x", env=env)

    assert command.code == 3, command.err
    assert all(len(line["request_id"] or "") <= 128 for line in _outcomes(stage))
    _assert_harmless(stage, command)


def test_x5_names_of_the_input_steer_no_terminal(stage: Stage) -> None:
    """A file of hostile cells is refused with each of them escaped, on screen and in JSON."""
    path = stage.home / "bad.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("sync_id", "user_id", "credential_id"))
        writer.writerow(("a", "b", "\x1b[2J\u202e[bold]x[/]"))
        writer.writerow(("\x1b]0;x\x07", "b", "c"))

    command = stage.run(*MOVE, path, *DEBUG, "--json")

    assert command.code == 2
    assert "[bold]x[/]" in command.err
    assert "\x1b" not in command.out
    _assert_harmless(stage, command)


def _brought(token: str, **more: str) -> dict[str, str | None]:
    """Return the environment of somebody who brought a ready-made token."""
    return {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_USER_TOKEN": token, **more}


def _outcomes(stage: Stage) -> list[dict[str, Any]]:
    return journal(stage.folder("x") / "report.jsonl")


def _assert_harmless(stage: Stage, *commands: Command) -> None:
    """See that nothing printed or written holds a control character, or is long."""
    for command in commands:
        for line in (*command.out.split("\n"), *command.err.split("\n")):
            assert line.isprintable(), ascii(line[:300])
            assert len(line) < 4_096
    for path in stage.runs.rglob("*"):
        if path.is_file() and not path.name.startswith(("input", "invalid")):
            data = path.read_bytes()
            assert b"\x1b" not in data, path
            assert "\u202e".encode() not in data, path
            # A page brings its own scripts and styles along.
            assert len(data) < (200_000 if path.name == PAGE else 100_000), path
