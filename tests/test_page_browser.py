"""The page of a run in a real browser: quiet, usable by anybody, and true to the files.

Chromium and axe-core come by `make browser`. Without them these tests are left out, and say so;
where CI is set they fail instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from runner.model import ErrorClass, FindingKind, OutcomeKind, Proof
from runner.page import PAGE
from tests.browsers import AXE, launched, missing
from tests.commands import Stage as Commands
from tests.pages import Made, eventful, varied
from tests.stage import MIGRATE, NEW, OLD
from tests.test_page import HOSTILE

pytestmark = pytest.mark.no_cover

WIDTHS = (400, 1000, 1600)
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Debian's Chromium, without a head."""
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a run of 5,000 rows with every kind of outcome, hostile values among them."""
    made = varied(tmp_path_factory.mktemp("varied"), hostile=HOSTILE)
    made.page(made.finish(made.ended_s))
    return made


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a run that had a long day: waits, waves, two sessions."""
    made = eventful(tmp_path_factory.mktemp("eventful"), rows=2000)
    made.page(made.finish(made.ended_s, exit_code=143))
    return made


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the pages of real runs of every kind, by what they show."""
    with Commands(tmp_path_factory.mktemp("kinds")) as stage:
        moves = stage.moves(10)
        with moves.open("a", encoding="utf-8") as file:
            file.write(f"gone,u1,{NEW},\n")
        for code, words in (
            (0, ("plan", MIGRATE, moves, "--run-id", "plan")),
            (3, ("run", MIGRATE, moves, "--yes", "--run-id", "family")),
            (3, ("retry", "family", "--class", "not_found", "--yes", "--run-id", "retry")),
            (0, ("report", "family")),
            (0, ("rollback", "family", "--yes", "--run-id", "rollback")),
            (2, ("run", "change-frequency", moves, "--yes", "--run-id", "refused")),
            (0, ("report", "refused")),
        ):
            assert stage.run(*words).code == code, words
        return {path.parent.name: path for path in stage.runs.glob(f"*/{PAGE}")}


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = 1280, **knobs: Any) -> Iterator[Page]:
    """Open a page; fail when it says anything to the console or asks anybody for anything."""
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": 900}, accept_downloads=True, **knobs
    )
    said: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(f"request: {request.url}"))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    address = path.as_uri()
    page.goto(address)
    yield page
    context.close()

    own = (f"request: {address}", "request: blob:", "request: data:,")
    assert [line for line in said if not line.startswith(own)] == []


def violations(page: Page) -> list[tuple[str, str]]:
    """Return what axe-core has to say against a page on which everything is opened."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run().then(told => told.violations)")
    return [(told["id"], told["nodes"][0]["html"]) for told in found]


def sticking_out(page: Page) -> list[str]:
    """Return what is wider than its page; what may be scrolled within it is not meant."""
    return list(
        page.evaluate(
            "[...document.querySelectorAll('main > section > *, .uplot, table')]"
            ".filter(e => e.checkVisibility() && !e.closest('.sr, details, .scroll') && "
            "e.getBoundingClientRect().right > "
            "document.querySelector('main').getBoundingClientRect().right - 15)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
    )


def download(page: Page) -> tuple[str, bytes]:
    """Take the rows that are shown along as CSV: the name of the file and what is in it."""
    with page.expect_download() as started:
        page.locator("#download").click()
    return started.value.suggested_filename, started.value.path().read_bytes()


def shown(page: Page, column: str) -> list[str]:
    """Return what stands in a column of the table, by its title."""
    return page.locator(f'#body td[data-label="{column}"]').all_inner_texts()


def test_a_page_of_every_outcome_opens_quietly(browser: Browser, made: Made) -> None:
    """5,000 rows: no message, no request, the charts are there and the failed rows are listed."""
    with opened(browser, made.path / PAGE) as page:
        expect(page.locator("#verdict")).to_have_text("stopped")
        expect(page.locator(".live canvas")).to_have_count(3)
        expect(page.locator("#body > tr")).to_have_count(100)
        assert page.locator("#shown").inner_text().endswith("of 5,000 rows that are listed here.")


def test_the_csv_of_the_page_is_the_file(browser: Browser, made: Made) -> None:
    """What is taken from the page is `failed.csv`, byte for byte, however it is sorted."""
    with opened(browser, made.path / PAGE) as page:
        first = download(page)
        page.get_by_role("button", name="Why").click()
        second = download(page)

    expected = (made.path / "failed.csv").read_bytes()
    assert first == second == ("failed.csv", expected)


def test_rows_are_filtered_searched_and_turned_over(browser: Browser, made: Made) -> None:
    """By outcome, by error class, by any text; a part of the rows is downloaded under its name."""
    with opened(browser, made.path / PAGE) as page:
        page.get_by_label("Show").select_option("=exhausted")
        assert set(shown(page, "Outcome")) == {"exhausted"}
        page.get_by_role("button", name="More").click()
        assert page.locator("#where").inner_text().startswith("101 to 200 of ")
        page.get_by_label("Show").select_option("")
        page.get_by_label("Error class").select_option("forbidden")
        assert page.locator("#shown").inner_text().startswith("0 of 5,000") or set(
            shown(page, "Outcome")
        ) == {"rejected"}
        page.get_by_label("Error class").select_option("")
        page.get_by_label("Search").fill("S4000,")
        expect(page.locator("#body > tr")).to_have_count(1)
        name, content = download(page)

    assert name == "run-1-rows.csv"
    assert content.startswith(b"sync_id,")
    assert b"\ns4000,u" in content


def test_rows_are_sorted_by_number_and_by_word(browser: Browser, made: Made) -> None:
    """A heading sorts, and once more the other way round; `aria-sort` says so."""
    with opened(browser, made.path / PAGE) as page:
        page.get_by_role("button", name="Row", exact=False).first.click()
        rows = [int(text) for text in shown(page, "Row")]
        page.get_by_role("button", name="Outcome").click()
        kinds = shown(page, "Outcome")
        heading = page.locator('th[data-id="kind"]')

        assert rows == sorted(rows, reverse=True)
        assert kinds == sorted(kinds)
        assert heading.get_attribute("aria-sort") == "ascending"


def test_hostile_values_show_as_text(browser: Browser, made: Made) -> None:
    """Markup, formulas, marks that turn text round and 10,000 characters are only read."""
    with opened(browser, made.path / PAGE) as page:
        for value in HOSTILE[:4]:
            page.get_by_label("Search").fill(value.replace('"', '""'))
            expect(page.locator("#body > tr").first).to_contain_text(value)
        page.get_by_label("Search").fill("isolated")
        expect(page.locator("#body > tr").first).to_contain_text(r"right\u202eto\u200fleft")
        page.get_by_label("Search").fill("x" * 200)
        long = page.locator("#body details").first
        long.locator("summary").click()
        expect(long).to_contain_text("x" * 10_000)
        assert page.title() == "stopped: run-1 · Syncshift"
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_a_row_tells_everything_when_asked(browser: Browser, made: Made) -> None:
    """Its details hold every cell and what was there before; its sync ID can be copied."""
    with opened(browser, made.path / PAGE, permissions=["clipboard-read"]) as page:
        page.get_by_label("Search").fill("s4004,")
        page.get_by_role("button", name="Copy sync ID s4004").click()
        expect(page.locator("#said")).to_have_text("Copied")
        button = page.get_by_role("button", name="Details of row 4004")
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_attribute("aria-expanded", "true")
        for told in ("req-4004", 'a "note", and', "credential_id"):
            expect(page.locator("tr.more")).to_contain_text(told)
        page.keyboard.press("Enter")
        expect(page.locator("tr.more")).to_have_count(0)
        assert page.evaluate("navigator.clipboard.readText()") == "s4004"


def test_the_keyboard_goes_everywhere(browser: Browser, day: Made) -> None:
    """The first stop leads past the page to the rows; each heading of the table can be pressed."""
    with opened(browser, day.path / PAGE) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the rows")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Search")).to_be_focused()
        for _ in range(4):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.locator('th[data-id="row"]').get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_use_it(browser: Browser, day: Made, made: Made, scheme: Scheme) -> None:
    """axe-core finds no violation at any width, with everything opened; nothing sticks out."""
    if not AXE.is_file():
        missing("axe-core")
    for path, width in [*((day.path, width) for width in WIDTHS), (made.path, WIDTHS[0])]:
        # axe is put into the page by hand, which the page's own policy forbids.
        knobs = {"color_scheme": scheme, "bypass_csp": True}
        with opened(browser, path / PAGE, width=width, **knobs) as page:
            page.locator("#body .do button").first.click()
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_use_every_kind_of_page(
    browser: Browser, kinds: dict[str, Path], scheme: Scheme
) -> None:
    """Nor in that of a family, a retry, a rollback, a plan, or of what was refused."""
    if not AXE.is_file():
        missing("axe-core")
    for name, path in kinds.items():
        for width in (WIDTHS[0], WIDTHS[2]):
            knobs = {"color_scheme": scheme, "bypass_csp": True}
            with opened(browser, path, width=width, **knobs) as page:
                assert (name, violations(page)) == (name, [])
                assert (name, width, sticking_out(page)) == (name, width, [])
                assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_scripts_it_still_tells(browser: Browser, day: Made) -> None:
    """Where no script may run, the charts are drawn, the first rows stand, no knob is dead."""
    with opened(browser, day.path / PAGE, java_script_enabled=False) as page:
        expect(page.locator("svg.drawn")).to_have_count(4)
        expect(page.locator("svg.drawn").first).to_be_visible()
        expect(page.locator("#body > tr")).to_have_count(25)
        expect(page.locator("form.controls")).to_be_hidden()


def test_on_paper_nothing_is_lost(browser: Browser, day: Made) -> None:
    """Printed, charts are lines on white, and what can only be clicked is gone."""
    with opened(browser, day.path / PAGE, color_scheme="dark") as page:
        page.emulate_media(media="print")
        expect(page.locator("svg.drawn").first).to_be_visible()
        expect(page.locator(".live").first).to_be_hidden()
        expect(page.locator("form.controls")).to_be_hidden()
        for button in page.locator("button:not(th button)").all():
            expect(button).to_be_hidden()
        expect(page.locator("#where")).to_have_text(re.compile("^1 to 100 of "))
        expect(page.locator("#where")).to_be_visible()
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"


def test_on_paper_rows_are_lines_and_pictures_are_large(browser: Browser, day: Made) -> None:
    """Upright A4 is no telephone: a row is one line of a table, a chart as wide as the paper."""
    with opened(browser, day.path / PAGE, width=680) as page:
        page.emulate_media(media="print")
        row = page.locator("#body tr").first
        assert row.evaluate("e => getComputedStyle(e).display") == "table-row"
        assert page.locator("svg.drawn").first.evaluate("e => e.clientWidth") > 600
        assert page.evaluate("document.documentElement.scrollWidth") == 680


def test_on_a_telephone_nothing_stands_beside_the_screen(browser: Browser, day: Made) -> None:
    """At 400 px each row of a table is a block: nothing has to be scrolled sideways to be read."""
    with opened(browser, day.path / PAGE, width=400) as page:
        hidden = page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && "
            "!e.closest('.sr, thead, details, svg') && e.getBoundingClientRect().right > 400)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        waits = page.get_by_role("table", name="Waits")
        expect(waits.get_by_role("cell").first).to_contain_text("2026-11-23")

        assert hidden == []


def test_an_id_is_one_word(browser: Browser, tmp_path: Path) -> None:
    """On a wide screen an ID of a sync stands on one line, and no word is broken in two."""
    made = Made(tmp_path)
    made.write_input(("sync_id", "user_id", "credential_id"), [(OLD, "u", NEW)])
    failed: dict[str, Any] = {"error_class": ErrorClass.ERRORED, "error": "it is ERRORED " * 20}
    kind = OutcomeKind.ERRORED
    made.settle(1, 1, kind, sync_id=OLD, proof=Proof.CONFIRMED, elapsed_ms=5000, **failed)
    made.page(made.finish(2))

    for width in WIDTHS[1:]:
        with opened(browser, made.path / PAGE, width=width) as page:
            for part in ("#body .is-id div", "#body .is-kind small"):
                box = page.locator(part).bounding_box()
                assert box is not None
                assert box["height"] < 30


def test_nothing_moves_for_whom_that_is_too_much(browser: Browser, day: Made) -> None:
    """With `prefers-reduced-motion` nothing is animated."""
    with opened(browser, day.path / PAGE, reduced_motion="reduce") as page:
        moves = page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => "
            "getComputedStyle(e).transitionDuration !== '0s').length"
        )

        assert moves == 0


def test_a_plan_can_be_read(browser: Browser, tmp_path: Path) -> None:
    """The page of a plan lists what would become of each row, without a message."""
    made = Made(tmp_path, state="planned", is_plan=True, planned="2026-11-23T18:01:03.000Z")
    made.write_input(("sync_id", "user_id", "credential_id"), [("s", "u", NEW)] * 20)
    made.plan(
        {
            **dict.fromkeys(range(1, 18), FindingKind.CHANGE),
            18: FindingKind.UNCHANGED,
            19: FindingKind.BLOCKED,
            20: FindingKind.CONFLICTED,
        }
    )
    made.manifest(None)
    made.page(None)

    with opened(browser, made.path / PAGE) as page:
        expect(page.locator("#sentence")).to_have_text(
            "Every row was looked at; 17 would be changed. Nothing was sent."
        )
        expect(page.locator("#body > tr")).to_have_count(2)
        page.get_by_label("Show").select_option("")
        expect(page.locator("#body > tr")).to_have_count(20)
        expect(page.locator("#body > tr").first).to_contain_text(f"→ credential_id {NEW}")
        name, content = download(page)

    assert name == "run-1-rows.csv"
    assert content.startswith(b"row,line,finding,sync_id")
