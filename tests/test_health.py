"""Somebody else's word: a URL or a command that says whether sending may go on."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from runner import health
from runner.errors import SettingsError
from runner.health import check_of
from runner.live import Live
from runner.settings import Settings, resolve
from tests.stage import Stage, free_port, in_fast_motion, until
from tests.wire import CLOSE, SILENCE, Wire, says

JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


async def seen(health_setting: str) -> str | None:
    """Ask once, and return what is wrong; None: nothing."""
    check = check_of(Settings(health=health_setting))
    assert check is not None
    return await check()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (says(200), None),
        (says(204, body=b""), None),
        (says(299), None),
        (says(302, "Location: http://127.0.0.1:1/"), "302"),
        (says(404), "404"),
        (says(503), "503"),
        (b"nonsense\r\n\r\n", "no answer (garbled)"),
        (CLOSE, "no answer (disconnected)"),
    ],
)
async def test_an_address_is_healthy_that_answers_2xx(answer: bytes, expected: str | None) -> None:
    """Anything else is not, a redirect neither; what came is told, without the query."""
    async with Wire(answer).listening() as wire:
        told = await seen(f"{wire.url}/ok?key=secret")

        assert told == (expected and f"{wire.url}/ok: {expected}")
        assert {heard.target for heard in wire.heard} == {"/ok?key=secret"}


async def test_an_address_is_told_no_token(tmp_path: Path) -> None:
    """The check goes without authorization and without cookies, in a run too."""
    answer = says(200, "Set-Cookie: a=b")
    async with Wire(answer).listening() as wire, Stage(tmp_path, health=wire.url) as stage:
        stage.plain(3)
        run = await stage.run()

        assert run.counts == {"updated": 3}
        assert wire.heard
        assert not any({"authorization", "cookie"} & set(heard.headers) for heard in wire.heard)
        assert {heard.method for heard in wire.heard} == {"GET"}


@in_fast_motion(10)
async def test_an_address_that_says_nothing_is_not_healthy() -> None:
    """Five seconds are enough for an answer."""
    async with Wire(SILENCE).listening() as wire:
        assert await seen(wire.url) == f"{wire.url}: no answer (timeout)"


async def test_nobody_listens() -> None:
    """A monitor that is gone is no permission."""
    url = f"http://127.0.0.1:{free_port()}/"

    assert await seen(url) == f"{url}: no answer (connect)"


def python(code: str) -> str:
    """Return a command that runs a line of Python."""
    return shlex.join([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", None),
        ("print('all is well, with many words' * 100_000)", None),
        ("raise SystemExit(3)", "ended with 3"),
        (
            "print('queue is long'); print('more'); raise SystemExit(1)",
            "ended with 1: queue is long",
        ),
        (f"print('Bearer {JWT}'); raise SystemExit(1)", "ended with 1: Bearer ***"),
        ("print('\\x1b[31mred'); raise SystemExit(1)", "ended with 1:  [31mred"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
    ],
)
async def test_a_command_is_healthy_that_ends_with_0(code: str, expected: str | None) -> None:
    """Anything else is not; its first line is told, scrubbed and fit for a terminal."""
    told = await seen(python(code))

    assert told == (expected and f"{sys.executable}: {expected}")


async def test_what_a_command_says_is_cut() -> None:
    """A page of error text is no reason for a person."""
    told = await seen(python("print('x' * 9000); raise SystemExit(1)"))

    assert told is not None
    assert len(told) <= 160
    assert told.endswith("…")


async def test_a_command_that_is_not_there() -> None:
    """It is named, and why it cannot be run."""
    assert await seen("check-nothing-at-all --now") == (
        "check-nothing-at-all: cannot be run (No such file or directory)"
    )


async def test_a_command_goes_through_no_shell(tmp_path: Path) -> None:
    """Its words are taken apart, and nothing in them is carried out."""
    await seen(f"true ; touch {tmp_path}/made $(touch {tmp_path}/too)")

    assert _files_in(tmp_path) == []


async def test_a_command_is_told_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither key nor token of the environment reaches it; the rest of it does."""
    for name in ("PARAGON_SIGNING_KEY", "PARAGON_USER_TOKEN", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, "here")
    code = "import os; print(*sorted(k for k, v in os.environ.items() if v == 'here')); exit(1)"

    assert await seen(python(code)) == f"{sys.executable}: ended with 1: SOMETHING_ELSE"


async def test_a_command_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that it has started: nothing is left behind by a check each second."""
    monkeypatch.setattr(health, "LIMIT_S", 1.0)
    pids = tmp_path / "pids"
    told = await seen(f"sh -c 'sleep 100 & echo $! $$ > {pids}; wait'")

    assert told == "sh: no answer in 1 s"
    await until(lambda: not any(map(_lives, pids.read_text(encoding="utf-8").split())))


async def test_what_a_command_leaves_running_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It has answered when it ends, although somebody still holds its output open."""
    pid = tmp_path / "pid"
    began = time.monotonic()
    told = await seen(f"sh -c 'sleep 100 & echo $! > {pid}'")

    assert told is None
    assert time.monotonic() - began < health.LIMIT_S
    await until(lambda: not _lives(pid.read_text(encoding="utf-8")))


def _files_in(place: Path) -> list[Path]:
    return list(place.iterdir())


def _lives(pid: str) -> bool:
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.split()[0] != "Z"


# -------------------------------------------------------------------------------------- a run


@in_fast_motion(4)
async def test_a_dead_check_means_no_sends(tmp_path: Path) -> None:
    """Not one request leaves before the first good answer, and each says what it waits for."""
    lives: list[Live] = []
    async with Wire(says(503)).listening() as wire, Stage(tmp_path, health=wire.url) as stage:
        stage.plain(5)
        carrying = asyncio.create_task(stage.carry(stage.open(), show=lives.append))
        await until(lambda: len(wire.heard) >= 3)
        (wait,) = lives[0].waits()
        asked = stage.sim.requests
        wire.script = [says(200)]
        run = await carrying

        assert (asked, wait.reason, wait.detail) == (0, "health", f"{wire.url}: 503")
        assert run.counts == {"updated": 5}
        assert len(run.held("health")) == 1


@in_fast_motion(4)
async def test_a_check_that_turns_bad_holds_all_sending(tmp_path: Path) -> None:
    """Within a poll nothing is sent any more; what was in flight lands; it goes on afterwards."""
    lives: list[Live] = []
    async with Wire(says(200)).listening() as wire, Stage(tmp_path, rate=40) as stage:
        stage.plain(60)
        opened = stage.open(health=wire.url)
        carrying = asyncio.create_task(stage.carry(opened, show=lives.append))
        await until(lambda: stage.sim.requests > 10)
        wire.script = [says(500)]
        await until(lambda: lives[0].waits() and not lives[0].in_flight)
        asked, polls = stage.sim.requests, len(wire.heard)
        await until(lambda: len(wire.heard) > polls + 1)
        held = stage.sim.requests
        wire.script = [says(200)]
        run = await carrying

        assert held == asked
        assert run.counts == {"updated": 60}
        assert run.summary.waits["health"] > 1


async def test_a_run_that_waits_for_a_check_can_be_interrupted(tmp_path: Path) -> None:
    """Nobody has to wait for an answer to be rid of a run."""
    lives: list[Live] = []
    async with Stage(tmp_path, health="false") as stage:
        stage.plain(3)
        carrying = asyncio.create_task(stage.carry(stage.open(), show=lives.append))
        await until(lambda: lives and lives[0].waits())
        os.kill(os.getpid(), 15)
        run = await carrying

        assert run.summary.verdict == "interrupted"
        assert stage.sim.requests == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://ana:secret@status.example.com/ok", "must hold no user and no password"),
        ("https:///ok", "must be a URL"),
        ("https://status.example.com:99999/", "must be a URL"),
        ("http://status example com/", "must be a URL"),
        ("check 'this", "quotes are closed"),
        ("   ", "must not be empty"),
    ],
)
def test_what_is_neither_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """A URL that can be none, a command that cannot be taken apart; a password is not repeated."""
    with pytest.raises(SettingsError, match=said) as caught:
        resolve({"health": text}, environment={}, directory=tmp_path)

    assert "secret" not in str(caught.value)
