"""What a person sees: the question before a run, the progress during it, the result after it.

Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import math
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

import anyio
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live as Painting
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.cli.streams import Losable, forsake
from runner.cli.telling import wave_ends
from runner.errors import InputError, RunStopped, SyncshiftError
from runner.model import SUCCEEDED
from runner.secret import scrub

if TYPE_CHECKING:
    from runner.live import Live
    from runner.results import Summary

_LINE_EVERY_S = 5.0
_FRAMES_PER_S = 8
_NO_WIDTH = 10_000
_CLOSING = "ending: what is in flight may land; Ctrl-C leaves at once"

_STYLES = {
    "succeeded": "bold green",
    "failed": "bold red",
    "stopped": "bold red",
    "interrupted": "bold yellow",
    "refused": "bold red",
}
_SAID = {
    "succeeded": "every row succeeded",
    "failed": "all rows ended, some failed",
    "stopped": "rows are left, and can be resumed",
    "interrupted": "rows are left, and can be resumed",
    "refused": "nothing was sent",
    None: "at work",
}


class _Console(Console):
    """A console whose reader may leave: the rest is dropped, and the work goes on.

    Rich itself would end the command then, and a run is not over because nobody watches it.
    """

    def on_broken_pipe(self) -> None:
        forsake(self.file)


def errors() -> Console:
    """Return the console for everything that is not data."""
    return _console(stderr=True)


def data() -> Console:
    """Return the console for data."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    to = cast("IO[str]", Losable(sys.stderr)) if stderr else None
    console = _Console(file=to, stderr=stderr, highlight=False)
    if not console.is_terminal:
        # A file has no width: nothing in it is folded or cut.
        console.width = _NO_WIDTH
    return console


def plain(text: str) -> str:
    """Return *text* fit for a terminal: control characters escaped, secrets starred."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return scrub(shown)


def warn(text: str) -> None:
    """Print a warning."""
    errors().print(f"[bold yellow]warning[/]: {escape(plain(text))}")


def tell_error(error: SyncshiftError, *, as_json: bool) -> None:
    """Print what went wrong; with *as_json* also as JSON on standard output."""
    console = errors()
    console.print(f"[bold red]error[/]: {escape(plain(str(error)))}")
    problems = error.problems if isinstance(error, InputError) else ()
    # A single problem of the whole file is what the error itself says.
    shown = () if len(problems) == 1 and problems[0].reason in str(error) else problems
    for problem in shown:
        console.print(f"  {escape(plain(str(problem)))}")
    if isinstance(error, InputError) and error.total > len(problems):
        console.print(f"  … and {error.total - len(problems):,} more")
    if as_json:
        listed: list[Any] = list(problems) or [{"reason": plain(str(error))}]
        verdict = "stopped" if error.exit_code == RunStopped.exit_code else "refused"
        write_json({"verdict": verdict, "problems": listed})


def write_json(value: Any) -> None:
    """Print *value* as JSON on standard output. Raises OSError when its disk is full."""
    try:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        forsake(sys.stdout)


def duration(seconds: float) -> str:
    """Return *seconds* as a person says them: 45s, 3m 20s, 2h 05m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def facts(pairs: Mapping[str, str]) -> RenderableType:
    """Return names and values in two columns."""
    widest = max(map(len, pairs), default=0)
    lines = []
    for name, value in pairs.items():
        line = Text.assemble((f"  {name:<{widest}}  ", "dim"), plain(value))
        lines.append(Padding(line, 0, expand=False))
    return Group(*lines)


def ask(question: str) -> bool:
    """Ask a person at the terminal; only a clear yes counts."""
    return ask_for(f"{question} [y/N]").lower() in {"y", "yes"}


def ask_for(question: str) -> str:
    """Ask a person at the terminal for a word, and return it; empty when there was none."""
    console = errors()
    try:
        console.print(f"{escape(question)} ", end="")
        return input().strip()
    except EOFError:
        console.print()
        return ""
    except KeyboardInterrupt:
        console.print()
        raise


async def ask_meanwhile(question: str) -> bool:
    """Ask a person at the terminal while the event loop turns; only a clear yes counts."""
    console = errors()
    # Keys that were pressed before the question was there are no answer to it.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    console.print(f"{escape(plain(question))} [y/N] ", end="", markup=False)
    try:
        await anyio.wait_readable(sys.stdin)
    except BaseException:
        console.print()  # it was answered elsewhere, or the run ends
        raise
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def limits(known: Mapping[str, Any]) -> str:
    """Return the limits in force, by the names of the settings, on one line."""
    rate = "no ceiling on the rate" if known["rate"] is None else f"{known['rate']:g}/s"
    resyncs = known["max_resyncs"]
    return (
        f"{known['concurrency']} in flight, {rate}, {known['max_failures']} may fail, "
        f"{'any number of' if resyncs is None else resyncs} re-syncs at once"
    )


@contextmanager
def progress(live: Live, *, quiet: bool) -> Iterator[None]:
    """Show how a run goes: a picture on a terminal, a line now and then elsewhere."""
    console = errors()
    if quiet:
        yield
    elif console.is_terminal:
        with Painting(
            get_renderable=lambda: _picture(live), console=console, refresh_per_second=_FRAMES_PER_S
        ):
            yield
    else:
        done = threading.Event()
        thread = threading.Thread(target=_lines, args=(live, console, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            console.print(_line(live), markup=False)


def _lines(live: Live, console: Console, done: threading.Event) -> None:
    while not done.wait(_LINE_EVERY_S):
        console.print(_line(live), markup=False)


def _line(live: Live) -> str:
    settled, rows = live.settled, live.rows
    parts = [
        time.strftime("%H:%M:%S"),
        f"{settled:,}/{rows:,} rows",
        f"{100 * settled // rows if rows else 100}%",
        f"{_rate(live):,.0f}/s",
        f"{live.in_flight} in flight",
        *_followed(live),
        *_tallied(live),
    ]
    waits = [f"waiting: {wait}" for wait in _waits(live)]
    return "  ".join([*parts, *(waits or [_eta(live)])]).rstrip()


def _picture(live: Live) -> RenderableType:
    settled, rows, waits = live.settled, live.rows, _waits(live)
    top = Table.grid(padding=(0, 2))
    top.add_row(
        ProgressBar(total=max(1, rows), completed=settled, width=32),
        f"{settled:,} of {rows:,} rows",
        f"{_rate(live):,.0f}/s",
        "  ".join([f"{live.in_flight} in flight", *_followed(live)]),
        "" if waits else _eta(live),
    )
    counts = Text("  " + "   ".join(_tallied(live) or ["nothing has ended yet"]))
    reasons = [Text(f"  waiting: {wait}", style="yellow") for wait in waits]
    if live.closing and live.in_flight:
        reasons.append(Text(f"  {_CLOSING}", style="yellow"))
    return Group(top, counts, *reasons)


def _rate(live: Live) -> float:
    return (live.settled - live.settled_before) / max(0.001, live.elapsed_s)


def _eta(live: Live) -> str:
    rate, left = _rate(live), live.rows - live.settled
    return f"{duration(left / rate)} left" if rate > 0 and left else ""


def _followed(live: Live) -> list[str]:
    return [f"{live.followed:,} followed"] if live.followed else []


def _tallied(live: Live) -> list[str]:
    return [f"{kind} {count:,}" for kind, count in live.tally.counts.items() if count]


def _waits(live: Live) -> list[str]:
    waits = []
    for wait in live.waits():
        left = "" if wait.left_s is None else f"; {duration(math.ceil(wait.left_s))} more"
        waits.append(plain(f"{wait.reason} for {duration(wait.for_s)}{left}: {wait.detail}"))
    return waits


def result(summary: Summary, *, folder: str, reason: str | None) -> RenderableType:
    """Return how a run went, for a person."""
    verdict = summary.verdict
    style = _STYLES.get(str(verdict), "bold")
    head = Text.assemble((str(verdict or "running"), style), f": {_SAID[verdict]}")
    widest = max(len(f"{count:,}") for count in summary.counts.values())
    counts = Group(
        *(
            Text.assemble(f"  {count:>{widest},}  ", (name, _color(name)), _accepted(name, summary))
            for name, count in summary.counts.items()
            if count
        )
    )
    known: dict[str, str] = {}
    if reason:
        known["why"] = reason
    if summary.error_classes:
        known["errors"] = ", ".join(f"{n:,} {name}" for name, n in summary.error_classes.items())
    whose = " for the rows that ended" if summary.counts["unprocessed"] else ""
    if summary.waves:
        known["waves"] = wave_ends(summary.waves)
    known["sent"] = (
        f"{summary.attempts:,} PATCHes{whose}; {summary.resyncs:,} changes that start a re-sync"
    )
    if summary.rate:
        known["pace"] = f"{summary.rate:,.0f} rows/s" + _latency(summary)
    if summary.waits:
        known["waited"] = ", ".join(f"{duration(s)} {name}" for name, s in summary.waits.items())
    known["files"] = folder
    if summary.counts["unprocessed"] and str(verdict) not in {"refused", "None"}:
        known["next"] = summary.resumed_by
    return Group(head, counts, facts(known))


def _accepted(outcome: str, summary: Summary) -> str:
    if outcome != "unprocessed" or not summary.to_follow:
        return ""
    return f", of which {summary.to_follow:,} are accepted and only to be followed"


def _color(outcome: str) -> str:
    if outcome in {str(kind) for kind in SUCCEEDED}:
        return "green"
    return "yellow" if outcome == "unprocessed" else "red"


def _latency(summary: Summary) -> str:
    latency = summary.latency_ms
    if latency is None:
        return ""
    return f"; a row took {latency.p50:,} ms (median), {latency.p99:,} ms (99th percentile)"
