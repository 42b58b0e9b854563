"""The live page in a real browser: it follows a real run to its end, and steers it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from runner.simulator import Behavior
from tests.browsers import AXE, launched, missing
from tests.commands import NEW, Command, Stage, journal, until

pytestmark = pytest.mark.no_cover

MOVE = ("run", "migrate-credentials")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Debian's Chromium, without a head."""
    with launched() as found:
        yield found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Return where commands are run, with a simulator.

    Its re-syncs take a moment. One that takes none can end in the very millisecond to which
    `Date` tells that it was accepted: whoever did not read before cannot tell it from an older one.
    """
    with Stage(tmp_path, behavior=Behavior(resync_s=0.05)) as stage:
        yield stage


@contextmanager
def opened(browser: Browser, address: str, **knobs: object) -> Iterator[Page]:
    """Open a page; fail when it complains, or asks anybody but its own server for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **knobs)  # type: ignore[arg-type]  # as they come
    said: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(f"request: {request.url}"))
    page.goto(address)
    yield page
    context.close()

    own = (f"request: {address}", "request: data:", "request: blob:")
    assert [line for line in said if not line.startswith(own)] == []


def address_of(command: Command) -> str:
    """Return where the page of a command is, once it says so."""
    return str(
        until(lambda: command.out.startswith("http") and command.out.split()[0], "an address")
    )


def follow(stage: Stage, run_id: str) -> str:
    """Start `watch` on a run, and return its address."""
    return address_of(stage.start("watch", run_id))


def begin(stage: Stage, rows: int, *words: object, rate: int = 40) -> Command:
    """Start a run that takes a while, and return it once it takes orders."""
    path = stage.moves(rows)
    command = stage.start(
        *MOVE, path, "--yes", "--no-read", "--run-id", "x", "--rate", rate, *words
    )
    until((stage.folder("x") / "control.sock").exists, "it takes orders")
    return command


def orders(stage: Stage) -> list[tuple[str, str]]:
    """Return the orders that are on record, with their reasons."""
    lines = journal(stage.folder("x") / "events.jsonl", torn=True)
    return [(e["command"], e["reason"]) for e in lines if e["event"] == "control.received"]


def test_it_follows_a_run_to_its_end(browser: Browser, stage: Stage) -> None:
    """Rows, charts and failures come in by themselves; in the end it says the verdict and links."""
    command = begin(stage, 240)
    with opened(browser, follow(stage, "x")) as page:
        expect(page.locator("#verdict")).to_have_text("at work")
        expect(page.locator(".live canvas")).to_have_count(3, timeout=20_000)
        first = page.locator("#progress").evaluate("bar => bar.value")
        expect(page.locator("[data-now=rate]")).to_contain_text("rows a second")
        expect(page.locator("#verdict")).to_have_text("succeeded", timeout=30_000)
        expect(page.locator("#orders")).to_be_hidden()
        expect(page.locator("#sentence")).to_have_text("Every row succeeded.")
        assert first < 240
        assert page.locator(".live canvas").count() == 3
        page.get_by_role("link", name="The report of this run").click()
        expect(page.locator("#verdict")).to_have_text("succeeded")
        expect(page.locator("#body > tr")).to_have_count(100)

    assert command.wait().code == 0


def test_it_pauses_continues_sets_and_stops(browser: Browser, stage: Stage) -> None:
    """Each button is an order with the reason that was typed; stop has to be pressed twice."""
    command = begin(stage, 4000)
    with opened(browser, follow(stage, "x")) as page:
        page.get_by_label("Reason").fill("the API team asked")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#reply")).to_contain_text("paused")
        expect(page.locator("#waiting")).to_contain_text("pause ordered by")
        page.locator("#orders summary").click()
        page.get_by_label("Requests a second").fill("0")
        page.get_by_role("button", name="Set").click()
        expect(page.locator("#reply")).to_contain_text("rate must be")
        page.get_by_label("Requests a second").fill("400")
        page.get_by_role("button", name="Set").click()
        expect(page.locator("#reply")).to_contain_text("set: rate 400")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#reply")).to_contain_text("the pause is over")
        expect(page.locator("#waiting")).not_to_contain_text("pause")
        stop = page.locator("[data-order=stop]")
        stop.click()
        expect(stop).to_have_text("Stop: sure?")
        stop.click()
        expect(page.locator("#verdict")).to_have_text("stopped", timeout=20_000)
        expect(page.locator(".reason").first).to_be_visible()

    assert command.wait().code == 4
    said = orders(stage)
    assert said == [("pause", "the API team asked"), ("set", ""), ("continue", ""), ("stop", "")]


def test_a_gate_is_passed_from_the_page(browser: Browser, stage: Stage) -> None:
    """A gate that waits for a person says so; Continue lets the next wave begin, and both show."""
    words = ("--waves", "10,100%", "--approve", "--until", "confirmed", "--max-resyncs", "5")
    command = begin(stage, 60, *words)
    with opened(browser, follow(stage, "x")) as page:
        expect(page.locator("#waiting")).to_contain_text("waits to be approved", timeout=20_000)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#reply")).to_contain_text("the gate is passed")
        waves = page.get_by_role("region", name="Waves, a table")
        expect(waves.get_by_role("row", name="1 10")).to_contain_text("pass")
        expect(waves.get_by_role("row", name="2 50")).to_have_count(1)
        expect(page.locator("#verdict")).to_have_text("succeeded", timeout=20_000)
        expect(waves.get_by_role("row", name="1 10")).to_contain_text("process")

    assert command.wait().code == 0


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light"), (1280, "dark")])
def test_anybody_can_use_it(
    browser: Browser, stage: Stage, width: int, scheme: Literal["light", "dark"]
) -> None:
    """axe-core finds no violation while it is at work, and nothing sticks out; nor in the list."""
    if not AXE.is_file():
        missing("axe-core")
    begin(stage, 4000, "--max-failures", "100%")
    for words in (("watch", "x"), ("ui",)):
        address = address_of(stage.start(*words))
        with opened(browser, address, bypass_csp=True, color_scheme=scheme) as page:
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            page.add_script_tag(path=str(AXE))
            found = page.evaluate("axe.run().then(told => told.violations)")

            assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_what_was_opened_stays_open(browser: Browser, stage: Stage) -> None:
    """A table of figures that somebody reads is brought up to date and not shut in their face."""
    begin(stage, 4000)
    with opened(browser, follow(stage, "x")) as page:
        expect(page.locator(".live canvas")).to_have_count(3, timeout=20_000)
        summary = page.get_by_text("Progress in figures")
        summary.click()
        before = page.locator("figure").first.locator("tbody").inner_text()
        expect(page.locator("figure").first.locator("tbody")).not_to_have_text(before)
        expect(page.locator("figure").first.locator("tbody")).to_be_visible()
        expect(summary).to_be_focused()


def test_hostile_values_show_as_text(browser: Browser, stage: Stage) -> None:
    """What the input and the API say is text in the live page, too."""
    hostile = "<img src=x onerror=document.title='hacked'>"
    rows = [("sync_id", "user_id", "credential_id")]
    rows += [(f"{hostile}{n}", hostile, NEW) for n in range(30)]
    path = stage.write("moves.csv", rows)
    stage.start(*MOVE, path, "--yes", "--run-id", "x", "--rate", 4, "--max-failures", "100%")
    until((stage.folder("x") / "control.sock").exists, "it takes orders")
    with opened(browser, follow(stage, "x")) as page:
        expect(page.locator("#rows")).to_have_text("Latest failures")
        expect(page.locator("main")).to_contain_text(hostile, timeout=20_000)
        assert page.locator("img").count() == 0
        assert "hacked" not in page.title()


def test_runs_are_listed_and_opened(browser: Browser, stage: Stage) -> None:
    """`ui` lists every run with its verdict; one that has ended opens its report."""
    begin(stage, 4000)
    sync = next(iter(stage.state().values()))
    names = ("sync_id", "user_id", "credential_id")
    done = stage.write("done.csv", [names, (sync.id, sync.user, NEW)])
    assert stage.run(*MOVE, done, "--yes", "--run-id", "done").code == 0
    with opened(browser, address_of(stage.start("ui"))) as page:
        row = page.get_by_role("row", name="done")
        expect(row).to_contain_text("succeeded")
        expect(page.get_by_role("row", name="migrate-credentials at work")).to_have_count(1)
        page.get_by_role("link", name="done").click()
        expect(page.locator("#sentence")).to_have_text("Every row succeeded.")
        page.go_back()
        page.get_by_role("link", name="x", exact=True).click()
        expect(page.locator("#verdict")).to_have_text("at work")


def test_ui_of_a_run_outlives_it(browser: Browser, stage: Stage) -> None:
    """`run --ui` prints an address; the page there tells the end, after the command has ended."""
    path = stage.moves(60)
    command = stage.start(*MOVE, path, "--yes", "--run-id", "x", "--rate", 30, "--ui")
    told: Callable[[], str] = lambda: command.err.partition("page  ")[2].partition("\n")[0]  # noqa: E731  # one word
    address = until(told, "an address")
    try:
        with opened(browser, address) as page:
            expect(page.locator("#verdict")).to_have_text("succeeded", timeout=20_000)
            assert command.wait().code == 0
            page.get_by_role("link", name="The report of this run").click()
            expect(page.locator("#sentence")).to_have_text("Every row succeeded.")
    finally:
        for pid in servers_of(stage.runs):
            os.kill(pid, signal.SIGTERM)
    until(lambda: not servers_of(stage.runs), "it has gone")


def servers_of(runs: Path) -> list[int]:
    """Return the processes that serve the page of a run of this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"watch" in words and str(runs).encode() in words:
            found.append(int(path.parent.name))
    return found
