"""`watch` and `ui`: a page in a browser that follows a run, and one that lists all runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from runner.cli.completing import RunName
from runner.cli.flags import THE_RUN, Output
from runner.errors import SyncshiftError

if TYPE_CHECKING:
    from runner.folder import Folder

_PAGE = Parameter(group=THE_RUN, negative=(), show_default=False)
_OPEN = Parameter(name="--open", group=THE_RUN, negative=(), show_default=False)
_PATIENCE_S = 600.0
_START_S = 20.0


def watch(
    run: RunName,
    /,
    *,
    open_: Annotated[bool, _OPEN] = False,
    until_left: Annotated[bool, _PAGE] = False,
    output: Output = Output(),
) -> int:
    """Serve a page on this machine that follows a run to its end, and steers it.

    Prints the page's address: whoever has it, on this machine, may look and give orders. The
    run need not be of this terminal, and may have ended. Ctrl-C takes the page away; the run
    goes on.

    Example: syncshift watch friday --open

    Parameters
    ----------
    run
        Name of the run; `syncshift status` lists them.
    open_
        Open the page in the browser.
    until_left
        End ten minutes after the run has ended and nobody looks any more.
    """
    from runner.cli.looking import runs_dir_of
    from runner.folder import Folder

    folder = Folder.open(runs_dir_of(output), run)
    return _serve(
        folder.path.parent, folder, output, opens=open_, patience_s=_PATIENCE_S if until_left else 0
    )


def ui(
    *,
    open_: Annotated[bool, _OPEN] = False,
    output: Output = Output(),
) -> int:
    """Serve a page on this machine that lists all runs of the runs folder, and opens each.

    Prints the page's address. Ctrl-C takes the page away.

    Example: syncshift ui --open

    Parameters
    ----------
    open_
        Open the page in the browser.
    """
    from runner.cli.looking import runs_dir_of

    return _serve(runs_dir_of(output), None, output, opens=open_, patience_s=0)


def _serve(
    runs_dir: Path, folder: Folder | None, output: Output, *, opens: bool, patience_s: float
) -> int:
    """Serve until Ctrl-C or SIGTERM; with *patience_s* until nobody has looked for so long."""
    import signal

    import anyio

    from runner.cli import screen
    from runner.lookout import keep_up, open_lookout

    async def serve() -> None:
        only = None if folder is None else folder.run_id
        async with open_lookout(runs_dir, only=only) as lookout, anyio.create_task_group() as group:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                if output.json:
                    screen.write_json({"address": lookout.address})
                else:
                    screen.data().print(lookout.address, markup=False, soft_wrap=True)
                if not output.quiet and not output.json:
                    screen.errors().print("Ctrl-C takes the page away.", style="dim")
                if opens:
                    group.start_soon(_open, lookout.address)
                if patience_s:
                    group.start_soon(
                        _leave, lambda: keep_up(lookout, folder, patience_s=patience_s)
                    )
                async for _ in signals:
                    break
            group.cancel_scope.cancel()

    async def _leave(left: Callable[[], Awaitable[None]]) -> None:
        await left()
        os.kill(os.getpid(), signal.SIGTERM)

    anyio.run(serve)
    return 0


async def _open(address: str) -> None:
    import webbrowser

    import anyio.to_thread

    await anyio.to_thread.run_sync(webbrowser.open, address)


def show_page(folder: Folder) -> str | None:
    """Have a process of its own serve the page of *folder*'s run, and return its address.

    It outlives this command, so that the end can be read: until ten minutes after nobody looks
    any more. It gets no key and no token. None: it did not come up.
    """
    words = ["watch", folder.run_id, "--until-left", "--json"]
    where = ["--runs-dir", str(folder.path.parent.absolute())]
    environment = {name: text for name, text in os.environ.items() if "PARAGON" not in name}
    # Ourselves, whatever lies in the present folder under our name.
    ours = str(Path(__file__).resolve().parents[2])
    paths = [ours, *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    process = subprocess.Popen(  # noqa: S603  # ourselves
        [sys.executable, "-P", "-m", "runner", *words, *where],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        # Ctrl-C is for the run.
        start_new_session=True,
    )
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.append(_first_value(process)), daemon=True)
    reader.start()
    reader.join(_START_S)
    try:
        return str(msgspec.json.decode(b"".join(said))["address"])
    except (msgspec.MsgspecError, KeyError):
        process.kill()
        return None


def _first_value(process: subprocess.Popen[bytes]) -> bytes:
    """Return what it prints up to the end of the first JSON object."""
    text = b""
    if process.stdout is not None:
        for line in process.stdout:
            text += line
            if line.startswith(b"}"):
                break
        process.stdout.close()
    return text


def tell_of_page(folder: Folder) -> None:
    """Serve the page of a run beside it, and print where it is. No page is no reason to stop."""
    from runner.cli import screen

    try:
        address = show_page(folder)
    except (OSError, SyncshiftError):
        address = None
    if address is None:
        screen.warn(f"there is no page; try it by hand: syncshift watch {folder.run_id}")
    else:
        screen.errors().print(f"  page  {address}", markup=False, soft_wrap=True)
