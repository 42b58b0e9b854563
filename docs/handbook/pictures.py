"""Take the pictures in docs/pictures: pages in a real browser, a run at a real terminal.

Needs Debian's Chromium (``make browser``) and tmux, which is the terminal.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from docs.handbook.stage import ROOT, Stage, staged, until
from runner.account import SUMMARY

PICTURES = ROOT / "docs" / "pictures"
_Scheme = Literal["light", "dark"]
_SCHEMES: tuple[_Scheme, ...] = ("light", "dark")
_WIDTH, _HEIGHT = 1200, 900
_COLUMNS, _LINES = 100, 44
_HUES = [
    (224, 108, 117),
    (152, 195, 121),
    (229, 192, 123),
    (97, 175, 239),
    (198, 120, 221),
    (86, 182, 194),
]
_INK = TerminalTheme(
    (24, 27, 33),
    (220, 223, 228),
    [(60, 64, 72), *_HUES, (220, 223, 228)],
    [(130, 137, 151), *_HUES, (255, 255, 255)],
)
# Rich's own form, without the fonts that it would fetch.
_FORM = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g>
</svg>
"""


def take() -> None:
    """Take all pictures anew. Ends with a word when something that it needs is not there."""
    for program in ("chromium", "tmux"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not here: make browser, apt-get install tmux")
    PICTURES.mkdir(exist_ok=True)
    with staged() as stage:
        stage.simulate("--resync", "1s", "--limit", "60")
        _at_a_terminal(stage)
    with staged() as stage, _browser() as browser:
        _in_a_browser(stage, browser)


# ------------------------------------------------------------------------------------ the terminal


def _at_a_terminal(stage: Stage) -> None:
    """Plan and apply by hand, and keep what stands on the screen in the end."""
    tmux = ("tmux", "-L", f"syncshift-{os.getpid()}", "-f", os.devnull)

    def at(*words: str) -> str:
        done = subprocess.run(
            [*tmux, *words],
            env=stage.environment,
            cwd=stage.home,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def enter(text: str, then: str) -> None:
        at("send-keys", "-l", text)
        at("send-keys", "Enter")
        until(lambda: re.search(then, at("capture-pane", "-p")), then)

    shell = "PS1='$ ' exec bash --norc --noprofile -i"
    at("new-session", "-d", "-x", str(_COLUMNS), "-y", str(_LINES), shell)
    try:
        until(lambda: "$" in at("capture-pane", "-p"), "the shell is there")
        enter("clear", r"\A\$\n")
        enter("syncshift plan migrate-credentials moves.csv --run-id friday", r"next .*\n\$")
        enter("syncshift apply friday", "to go on:")
        enter("120", r"succeeded: [^$]*files .*\n\$")
        shown = at("capture-pane", "-e", "-p")
    finally:
        at("kill-server")
    lines = shown.rstrip("$ \n").splitlines()
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(lines)), end="")
    drawn = console.export_svg(title="syncshift", theme=_INK, code_format=_FORM, unique_id="run")
    (PICTURES / "terminal.svg").write_text(drawn, encoding="utf-8")


# ------------------------------------------------------------------------------------- the browser


@contextmanager
def _browser() -> Iterator[Browser]:
    # Chromium refuses to be shut in when root starts it, as containers do.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        yield browser
        browser.close()


def _in_a_browser(stage: Stage, browser: Browser) -> None:
    """Have a run with waves, a pause and some failures; look at it on its way, and afterwards."""
    stage.simulate("--resync", "2s", "--errored", "4%", "--fault", "http_503=4%", "--limit", "40")
    stage.run("run", "change-frequency", "change-frequency.csv", "--run-id", "monday", "--yes")
    words = ("migrate-credentials", "moves.csv", "--run-id", "friday", "--yes")
    limits = ("--max-resyncs", "25", "--max-failures", "50%", "--waves", "5,25%,100%")
    run = stage.start("run", *words, *limits, "--gate", "errored=20%")
    folder = stage.home / "runs" / "friday"
    report = folder / "report.jsonl"
    until(
        lambda: report.exists() and report.read_bytes().count(b".settled") > 40, "it is on its way"
    )
    live = stage.address("watch", "friday")
    stage.run("pause", "friday", "--reason", "warehouse is being upgraded")
    _picture(browser, live, "live", still=False)
    stage.run("continue", "friday")
    run.wait()
    until((folder / SUMMARY).exists, "it has ended")
    stage.run("rollback", "friday", "--run-id", "friday-back", "--until", "accepted", "--yes")
    stage.run("plan", *words[:2], "--run-id", "next-friday")
    _picture(browser, (folder / "report.html").as_uri(), "report", height=620)
    charts = "section[aria-labelledby=time]"
    _picture(browser, (folder / "report.html").as_uri(), "charts", part=charts)
    _picture(browser, stage.address("ui"), "list", height=380)


def _picture(
    browser: Browser,
    address: str,
    name: str,
    *,
    still: bool = True,
    height: int = _HEIGHT,
    part: str | None = None,
) -> None:
    """Take a picture of the page at *address*, or of a *part* of it, in light and in dark."""
    for scheme in _SCHEMES:
        page = browser.new_page(
            color_scheme=scheme,
            reduced_motion="reduce",
            viewport={"width": _WIDTH, "height": height},
        )
        page.goto(address)
        page.wait_for_selector("h1")
        if not still:
            # The picture of a live page comes once it has drawn its first figures.
            page.wait_for_selector("svg, canvas")
            time.sleep(1)
        path = PICTURES / f"{name}-{scheme}.png"
        if part is None:
            page.screenshot(path=path)
        else:
            page.locator(part).screenshot(path=path)
        page.close()
