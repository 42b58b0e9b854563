"""The reference is made from the code, and the site that is made from the documents is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Request

from docs.handbook.reference import COMMANDS, DOCS, renewed
from runner.knobs import KNOBS
from tests.browsers import launched
from tests.test_docs import coded, flags_of, section, tables

ROOT = DOCS.parent
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    """Commands, flags and settings on a page are those that there are; `make docs` renews them."""
    text = page.read_text(encoding="utf-8")

    assert renewed(text) == text, f"{page.name} is out of date: make docs"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_line_in_the_reference(command: str) -> None:
    """Each command has a section, in which each of its flags has a line that says what it does."""
    told = section((DOCS / "commands.md").read_text(encoding="utf-8"), command)
    lines = {
        name.split()[0]: row[1]
        for rows in tables(told).values()
        for row in rows
        for name in coded(row[0])
    }

    assert set(flags_of(command)) <= set(lines)
    assert [name for name, line in lines.items() if len(line) < 5] == []


def test_every_setting_has_a_line_in_the_reference() -> None:
    """Each setting stands on its page, with its variable and what it is."""
    rows = tables((DOCS / "settings.md").read_text(encoding="utf-8"))["Flag"]

    assert [row[0] for row in rows] == [f"`--{name}`" for name in KNOBS]
    for row, knob in zip(rows, KNOBS.values(), strict=True):
        assert knob.variable is None or knob.variable in row[1]
        assert row[3].endswith("."), row


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does: a page that nobody finds or a dead link fails it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_is_whole_and_loads_nothing(site: Path) -> None:
    """Every page is built, and none has a script, a style, a font or a picture from elsewhere."""
    loads = re.compile(r"""<(?:script|img|iframe)[^>]* src=["']?(https?:)?//|<link[^>]*//""")
    for page in PAGES:
        built = (site / page.with_suffix(".html").name).read_text(encoding="utf-8")
        assert loads.findall(built) == [], page.name
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?https?:", styles) == []


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """Serve the site on this machine."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(site)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["a server", "a folder"])
def test_search_works_without_a_network(kind: str, site: Path, served: str) -> None:
    """A word that is searched for is found, no request goes elsewhere, nothing is complained of."""
    home = f"{served}/index.html" if kind == "a server" else (site / "index.html").as_uri()
    begins = served if kind == "a server" else site.as_uri()
    foreign, said = list[str](), list[str]()

    def note(request: Request) -> None:
        if not request.url.startswith((begins, "data:", "blob:")):
            foreign.append(request.url)

    with launched() as browser:
        page = browser.new_page()
        page.on("request", note)
        page.on("console", lambda message: said.append(message.text))
        page.goto(home)
        page.click(".md-search__input")
        page.get_by_text("Type to start searching").wait_for()
        page.keyboard.type("irreversible")
        page.wait_for_selector(".md-search-result__item a")
        found = page.inner_text(".md-search-result__list")

    assert "irreversible" in found.lower()
    assert (foreign, said) == ([], [])
