"""Asks somebody outside whether sending may go on: a URL, or a command.

A URL is healthy that answers with 2xx, a command that ends with 0. Anything else is not,
and no answer in time is not either. No token and no key goes to either of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlsplit

import anyio

from runner.api import ask_outside
from runner.errors import Fault
from runner.secret import scrub
from runner.settings import SIGNING_KEY_VARIABLE, USER_TOKEN_VARIABLE, Settings
from runner.version import VERSION

LIMIT_S = 5.0
"""A check without an answer for so long has answered: no."""
_BLOCK = 65_536
_MOST_SAID = 2_000
_MOST_SHOWN = 160
_SECRET_VARIABLES = {SIGNING_KEY_VARIABLE, USER_TOKEN_VARIABLE}

Check = Callable[[], Awaitable[str | None]]
"""Asks once. Returns None when all is well, else what was seen, fit to be shown. Never raises."""


def check_of(settings: Settings) -> Check | None:
    """Return the check that *settings* ask for, if they do."""
    told = settings.health
    if told is None:
        return None
    if told.lower().startswith(("http:", "https:")):
        return lambda: _ask_url(told, trust_env=settings.trust_env)
    return lambda: _run_command(shlex.split(told))


async def _ask_url(url: str, *, trust_env: bool) -> str | None:
    parts = urlsplit(url)
    # A query is nobody's business who reads along: it may hold a key.
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    answer = await ask_outside(url, timeout_s=LIMIT_S, version=VERSION, trust_env=trust_env)
    if isinstance(answer, Fault):
        return _told(f"{shown}: no answer ({answer.kind})")
    return None if 200 <= answer < 300 else _told(f"{shown}: {answer}")


async def _run_command(words: list[str]) -> str | None:
    name = words[0]
    with _Listening() as said:
        try:
            # In a session of its own: Ctrl-C is the run's, and what it leaves behind ends with it.
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=subprocess.DEVNULL,
                stdout=said.pipe,
                stderr=said.pipe,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k not in _SECRET_VARIABLES},
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            return _told(f"{name}: cannot be run ({why})")
        try:
            with anyio.fail_after(LIMIT_S):
                code = await process.wait()
        except TimeoutError:
            return _told(f"{name}: no answer in {LIMIT_S:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()
        line = said.first_line()
    if code == 0:
        return None
    return _told(f"{name}: ended with {code}" + (f": {line}" if line else ""))


class _Listening:
    """Takes in all that a command says, and keeps the beginning.

    With a pipe of our own, what the command leaves running in the background keeps nobody
    waiting.
    """

    def __enter__(self) -> Self:
        self._ear, self.pipe = os.pipe()
        os.set_blocking(self._ear, False)
        self._kept = b""
        asyncio.get_running_loop().add_reader(self._ear, self._take_in)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ear)
        os.close(self._ear)
        os.close(self.pipe)

    def first_line(self) -> str:
        """Return the first line that was said so far."""
        self._take_in()
        return self._kept.decode("utf-8", "replace").strip().partition("\n")[0]

    def _take_in(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._kept = (self._kept + os.read(self._ear, _BLOCK))[:_MOST_SAID]


def _told(text: str) -> str:
    """Return *text* fit to be shown and kept: scrubbed, on one line, and short."""
    text = "".join(c if c.isprintable() else " " for c in scrub(text))
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
