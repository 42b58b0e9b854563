"""`status --watch`: a run of any process, followed on this terminal to its end."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Painting
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.cli import screen
from runner.cli.telling import wave_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.control import Glance
    from runner.folder import Folder, Manifest
    from runner.lookout import Sight
    from runner.page import Now

_LOOK_EVERY_S = 0.5
_LINE_EVERY_S = 5.0
_SAMPLES = 48
_BLOCKS = "▁▂▃▄▅▆▇█"


def look_on(
    folder: Folder,
    console: Console,
    *,
    elsewhere: Callable[[], Glance] | None,
    quiet: bool,
) -> None:
    """Show how a run goes until it has ended: a picture on a terminal, else a line now and then.

    *elsewhere* tells how it stands where it is led, if that is not on this machine.
    Raises `NoSuchRun`, `JournalDamaged`, `DatabaseAway`.
    """
    from runner.lookout import Sight

    sight = Sight(folder, elsewhere=elsewhere)
    if console.is_terminal and not quiet:
        rates: deque[float] = deque(maxlen=_SAMPLES)
        with Painting(console=console, auto_refresh=False) as painting:
            while (now := sight.now()).at_work:
                rates.append(now.rate or 0.0)
                painting.update(_picture(sight, now, rates), refresh=True)
                time.sleep(_LOOK_EVERY_S)
            painting.update(Text(), refresh=True)
        return
    told_at = 0.0
    while (now := sight.now()).at_work:
        if not quiet and time.monotonic() - told_at >= _LINE_EVERY_S:
            told_at = time.monotonic()
            console.print(_line(sight, now), markup=False)
        time.sleep(_LOOK_EVERY_S)


def _picture(sight: Sight, now: Now, rates: deque[float]) -> RenderableType:
    manifest = sight.folder.read()
    known = {
        "run": f"{manifest.run_id} ({manifest.state})",
        "job": f"{manifest.job} on {manifest.settings.base_url}",
    }
    if now.limits is not None:
        known["limits"] = screen.limits(now.limits)
    if waves := _waves(manifest):
        known["waves"] = waves
    if now.stopping is not None:
        known["stopping"] = now.stopping
    top = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, now.rows), completed=now.settled, width=32)
    top.add_row(Text(), bar, *_figures(now))
    pace = Text.assemble(("  pace  ", "dim"), _sparks(rates))
    counts = Text(
        "  " + "   ".join(_counts(sight) or ([] if now.settled else ["nothing has ended yet"]))
    )
    waits = [Text(f"  waiting: {wait}", style="yellow") for wait in _waits(now)]
    return Group(screen.facts(known), top, counts, pace, *waits)


def _line(sight: Sight, now: Now) -> str:
    waits = [f"waiting: {wait}" for wait in _waits(now)]
    return "  ".join([time.strftime("%H:%M:%S"), *_figures(now), *_counts(sight), *waits])


def _figures(now: Now) -> list[str]:
    figures = [f"{now.settled:,} of {now.rows:,} rows"]
    if now.rate is not None:
        figures.append(f"{now.rate:,.0f}/s")
    if now.in_flight is not None:
        figures.append(f"{now.in_flight} in flight")
    if now.followed:
        figures.append(f"{now.followed:,} followed")
    left = now.rows - now.settled
    if now.rate and left and not now.waiting:
        figures.append(f"{screen.duration(left / now.rate)} left")
    return figures


def _counts(sight: Sight) -> list[str]:
    return [f"{kind} {count:,}" for kind, count in sight.counts().items() if count]


def _waits(now: Now) -> list[str]:
    found = []
    for wait in now.waiting:
        until = f", until {wait.until}" if wait.until else ""
        found.append(screen.plain(f"{wait.reason}: {wait.detail}{until}"))
    return found


def _waves(manifest: Manifest) -> str:
    from runner.account import waves_of

    waves: Any = waves_of(manifest)
    return wave_ends(waves) if waves else ""


def _sparks(rates: deque[float]) -> str:
    most = max(rates, default=0.0)
    if not most:
        return ""
    return "".join(_BLOCKS[min(7, int(8 * rate / most))] for rate in rates)
