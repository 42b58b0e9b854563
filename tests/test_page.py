"""The page of a run: what it says, what it leaves out, and that nothing in it acts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.account import add_up
from runner.job import find
from runner.model import ErrorClass, FindingKind, OutcomeKind
from runner.page import PAGE, page_of, words
from runner.page.charts import Chart, Series, drawn
from runner.page.course import Course
from runner.page.listing import ALL_UP_TO, cells_of
from runner.page.timeline import Most, Timeline
from runner.results import RunVerdict
from runner.simulator import Behavior
from runner.streams import csv_line
from tests.commands import Stage as Commands
from tests.memory import PEAK
from tests.pages import FAILURES, Made, eventful, moment, varied
from tests.stage import NEW, OLD, OTHER, Stage, in_fast_motion
from tests.test_waves import syncs_of

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = (
    "</script><script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "{{ 7 * 7 }} {% raw %} <!-- --> ]]> &lt;",
    '=HYPERLINK("http://x.example","click")',
    "right\u202eto\u200fleft\u2066isolated",
    "line\nend\r\nand\ttab\u2028and\x1b[31m",
    "x" * 10_000,
)


class Seen(HTMLParser):
    """What a browser would take a page for: its elements, its data, its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if tag in self.raw:
            self._in = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave a script or a style; what stands in two blocks is two words."""
        if tag not in {"a", "b", "bdi", "code", "span", "strong"}:
            self.text += " "
        if tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        """Note text."""
        if self._in:
            self.raw[self._in][-1] += data
        else:
            self.text += data

    @property
    def data(self) -> Any:
        """What the script works with."""
        return json.loads(self.raw["script"][0])

    @property
    def words(self) -> str:
        """The visible text, each gap one blank."""
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Return the page of a run that had a long day."""
    made = eventful(tmp_path_factory.mktemp("eventful"))
    return Seen(made.page(made.finish(made.ended_s, exit_code=143)))


# ------------------------------------------------------------------------------------ what it says


def test_the_page_says_what_the_run_is(page: Seen) -> None:
    """Verdict, job, input, host, times, exit code, and how it is undone and gone on with."""
    for told in (
        "interrupted 100 of 5,000 rows are left, and can be resumed. 465 failed.",
        "migrate-credentials",
        "moves.csv",
        "https://sync.useparagon.com",
        "2026-11-23 18:01:03 UTC",
        "5 min 26 s",
        "syncshift rollback run-1",
        "syncshift resume run-1",
        "Exit code 143",
    ):
        assert told in page.words


def test_the_page_says_what_happened_on_the_way(page: Seen) -> None:
    """Outcomes with counts, waits by reason, waves with verdicts, and who steered."""
    for told in ("updated 3,995 79.9 %", "outage 31 s, throttled 12 s; held 2 times", "errored=0"):
        assert told in page.words
    for told in ("night-shift", "set concurrency 16", "Integrations with the most failed rows"):
        assert told in page.words
    titles = [chart["title"] for chart in page.data["charts"]]
    assert titles == ["Progress", "Pace", "Under way", "Re-syncs in flight"]
    assert {band["reason"] for band in page.data["time"]["bands"]} == {"throttled", "outage"}
    assert [mark["label"] for mark in page.data["time"]["marks"]] == ["wave 2", "resumed"]


def test_what_is_drawn_adds_up(page: Seen) -> None:
    """The lines of a chart end where the counts are, and a night between sessions is no time."""
    progress = page.data["charts"][0]["series"]
    time = page.data["time"]

    assert [series["values"][-1] for series in progress] == [3995 + 336 + 104, 465]
    assert len(progress[0]["values"]) == len(time["moments"]) <= 600
    assert time["width_s"] * len(time["moments"]) < 400


def test_a_wait_is_as_long_as_it_was(tmp_path: Path) -> None:
    """A wait is told to be over a while after it was; it is drawn and listed by what it held."""
    made = Made(tmp_path)
    made.write_input(("sync_id", "user_id", "credential_id"), [("s", "u", NEW)])
    made.tell("run.opened", 0, resumed=False, rows=1, settled=0, in_doubt=0)
    made.tell("throttle.held", 1, reason="soak", detail="wave 1 has ended", until=moment(3))
    made.tell("throttle.released", 4.5, reason="soak", held_s=2.0)
    made.settle(1, 6, OutcomeKind.UPDATED, sent=True)
    page = Seen(made.page(made.finish(6)))

    assert page.data["time"]["bands"] == [{"since_s": 1.0, "until_s": 3.0, "reason": "soak"}]
    assert "soak 2.0 s; held 1 time. " in page.words
    assert "soak 2.0 s wave 1 has ended" in page.words


def test_what_there_is_nothing_to_say_of_is_left_out(tmp_path: Path) -> None:
    """A plain run has no section about waves, waits, commands or failures."""
    made = Made(tmp_path)
    made.write_input(("sync_id", "user_id", "credential_id"), [("s1", "u1", NEW)])
    made.tell("run.opened", 0, resumed=False, rows=1, settled=0, in_doubt=0)
    made.intend(1, 0.1)
    made.settle(1, 0.3, OutcomeKind.UPDATED, sent=True)

    page = Seen(made.page(made.finish(0.5)))

    headings = re.findall(r"<h2[^>]*>([^<]*)", (made.path / PAGE).read_text(encoding="utf-8"))
    assert headings == [
        *("About this run", "How the rows ended", "What was changed"),
        *("Over time", "Requests", "Rows"),
    ]
    assert "Every row succeeded." in page.words


def test_the_same_run_makes_the_same_bytes(tmp_path: Path) -> None:
    """A page that is made again is the one that was there: nothing in it is of its making."""
    made = varied(tmp_path, rows=200)
    summary = made.finish(made.ended_s)

    assert made.page(summary) == made.page(summary)


VERDICTS: tuple[tuple[RunVerdict, str, int, dict[str, Any]], ...] = (
    (RunVerdict.SUCCEEDED, "finished", 0, {"kinds": "uu"}),
    (RunVerdict.FAILED, "finished", 3, {"kinds": "uf"}),
    (RunVerdict.STOPPED, "stopped", 4, {"kinds": "f-", "reason": "too many failures"}),
    (RunVerdict.INTERRUPTED, "interrupted", 143, {"kinds": "u-", "exit_code": 143}),
)


@pytest.mark.parametrize(("verdict", "state", "code", "told"), VERDICTS)
def test_the_page_has_the_verdict_of_the_summary(
    tmp_path: Path, verdict: RunVerdict, state: str, code: int, told: dict[str, Any]
) -> None:
    """Headline, data and exit code of the page are those of `summary.json`."""
    kinds = told.pop("kinds")
    made = Made(tmp_path, state=state, **told)
    made.write_input(("sync_id", "user_id", "credential_id"), [("s", "u", NEW)] * len(kinds))
    for row, kind in enumerate(kinds, start=1):
        if kind == "u":
            made.settle(row, row, OutcomeKind.UPDATED, sent=True)
        elif kind == "f":
            made.settle(row, row, OutcomeKind.REJECTED, error_class=ErrorClass.NOT_FOUND)
    summary = made.finish(5)
    page = Seen(made.page(summary))

    assert (summary.verdict, summary.exit_code) == (verdict, code)
    assert (page.data["verdict"], page.data["exit_code"]) == (verdict, code)
    assert ("body", {"data-verdict": verdict.value}) in page.tags
    assert f"Exit code {code}" in page.words
    assert json.loads((made.path / "summary.json").read_bytes())["verdict"] == verdict


async def test_every_way_out_leaves_a_page(tmp_path: Path) -> None:
    """A run that ends, and one that is interrupted, have the page of their summary at once."""
    async with Stage(tmp_path) as stage:
        stage.plain(40)
        cut = await stage.interrupted(after=20)
        first = Seen((cut.path / PAGE).read_text(encoding="utf-8"))
        whole = await stage.resume(cut)
        second = Seen((whole.path / PAGE).read_text(encoding="utf-8"))

    assert (first.data["verdict"], first.data["exit_code"]) == ("interrupted", 143)
    assert (second.data["verdict"], second.data["exit_code"]) == ("succeeded", 0)
    assert [mark["label"] for mark in second.data["time"]["marks"]] == ["resumed"]


async def test_a_run_ends_alike_when_its_page_finds_no_room(tmp_path: Path) -> None:
    """The page is only a picture: verdict and files are there without it, and it is said."""
    async with Stage(tmp_path) as stage:
        stage.plain(2)
        opened = stage.open()
        (opened.folder.path / PAGE).touch()
        (opened.folder.path / f".{PAGE}.part").mkdir()
        run = await stage.carry(opened)

    assert run.summary.exit_code == 0
    assert (run.path / "summary.json").is_file()
    assert not (run.path / PAGE).exists()
    assert "page.not_written" in stage.diagnostics.getvalue()
    assert f"syncshift report {run.id}" in stage.diagnostics.getvalue()


async def test_the_page_of_a_plan_shows_the_plan(tmp_path: Path) -> None:
    """A planned run has a page with its findings and re-syncs; applied, it shows the run."""
    async with Stage(tmp_path) as stage:
        stage.plain(6)
        stage.set("s2", credential_id=NEW)
        plan = await stage.plan(run_id="later")
        path = tmp_path / "runs" / "later" / PAGE
        planned = Seen(path.read_text(encoding="utf-8"))
        run = await stage.apply("later")
        applied = Seen(path.read_text(encoding="utf-8"))

    assert plan.findings["change"] == 5
    for told in ("planned", "5 would be changed. Nothing was sent.", "5 would start"):
        assert told in planned.words
    assert "syncshift apply later" in planned.words
    assert len(planned.data["table"]["lines"]) == 6
    assert run.counts == {"updated": 5, "unchanged": 1}
    assert applied.data["verdict"] == "succeeded"


async def test_the_page_of_a_family_counts_every_row_once(tmp_path: Path) -> None:
    """`report` on the first run shows it with its retries, and names them."""
    async with Stage(tmp_path) as stage:
        for record in stage.plain(4):
            stage.set(record.id, user="u1")
        stage.set("s3", credential_id=OTHER)
        expecting = {"credential_id": NEW, "expected_credential_id": OLD}
        stage.write({"sync_id": f"s{n}", "user_id": "u1", **expecting} for n in range(1, 5))
        run = await stage.run()
        stage.set("s3", credential_id=OLD)
        retried = await stage.retry(run, "conflict")
        manifest = run.opened.folder.read()
        job = find(manifest.job)
        summary = add_up(run.opened.folder, manifest, job)
        page = Seen(page_of(run.opened.folder, manifest, job, summary).decode())

    assert run.counts == {"updated": 3, "conflicted": 1}
    assert "Every row succeeded." in page.words
    assert f"{retried.id} retry of {run.id}" in page.words
    assert page.data["charts"][0]["series"][0]["values"][-1] == 4
    assert [mark["label"] for mark in page.data["time"]["marks"]] == ["retry"]


async def test_the_page_of_a_rollback_shows_what_was_restored(tmp_path: Path) -> None:
    """It names the run that it undoes, and from what to what it took its syncs."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        run = await stage.run()
        undone = await stage.rollback(run)
        page = Seen((undone.path / PAGE).read_text(encoding="utf-8"))

    assert f"Rollback of {run.id}" in page.words
    assert "What was restored" in page.words
    assert f"From To Syncs {NEW} {OLD} 3" in page.words


def test_the_page_of_what_was_refused_promises_nothing(tmp_path: Path) -> None:
    """A refused run is not resumed, so no row of it is said to go on."""
    made = Made(tmp_path, state="refused", reason="bad rows", started=None)
    made.write_input(("sync_id", "user_id", "credential_id"), [("s", "u", NEW)])
    page = Seen(made.page(made.finish(None, exit_code=2)))

    assert "refused Nothing was sent." in page.words
    assert "unprocessed 1 100 % was not begun" in page.words
    assert "resume goes on" not in page.words


def test_report_writes_the_page_again(tmp_path: Path) -> None:
    """`report RUN` puts back a page that was deleted, byte for byte."""
    with Commands(tmp_path) as stage:
        moves = stage.moves(10)
        ran = stage.run("run", "migrate-credentials", moves, "--yes", "--run-id", "r1")
        path = stage.runs / "r1" / PAGE
        before = path.read_bytes()
        path.unlink()
        again = stage.run("report", "r1")

        assert (ran.code, again.code) == (0, 0)
        assert path.read_bytes() == before


def test_a_run_that_never_took_its_input_in_has_a_page(tmp_path: Path) -> None:
    """Killed while it checked its input, it says that nothing was sent."""
    made = Made(tmp_path, state="checking", rows=None, started=None)
    made.write_input(("sync_id", "user_id", "credential_id"), [("s", "u", NEW)])

    page = Seen(made.page(made.finish(None)))

    assert "It ended before the input was checked; nothing was sent." in page.words
    assert "there is nothing to undo" in page.words


# ------------------------------------------------------------------------------- nothing in it acts


@pytest.mark.parametrize("rows", [300])
def test_hostile_values_are_text(tmp_path: Path, rows: int) -> None:
    """No value from outside becomes an element, an attribute or a script, or ends the data."""
    plain = Seen((made := varied(tmp_path / "a", rows=rows)).page(made.finish(made.ended_s)))
    made = varied(tmp_path / "b", rows=rows, hostile=HOSTILE)
    text = made.page(made.finish(made.ended_s))
    page = Seen(text)

    def kinds(seen: Seen) -> set[str]:
        return {tag for tag, _ in seen.tags}

    assert len(page.raw["script"]) == 2
    assert kinds(page) - kinds(plain) <= {"dd", "p", "table", "caption"}
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "\u202e" not in text
    assert "right\\u202eto\\u200fleft" in page.text
    table = page.data["table"]
    cells = [cell for line in table["lines"] for cell in cells_of(line)]
    assert set(HOSTILE) <= set(cells) | {value.replace("\r\n", "\r\n") for value in cells}


def test_the_policy_knows_our_own_scripts_and_styles_alone(page: Seen) -> None:
    """Nothing may be loaded; script and style are those whose hashes stand in the policy."""
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    script, style = page.raw["script"][1], page.raw["style"][0]

    def hashed(source: str) -> str:
        return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()

    (policy,) = policies
    assert (policy or "").split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{hashed(script)}'",
        f"style-src 'sha256-{hashed(style)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not [a for _, a in page.tags if "style" in a]


def test_the_page_names_no_other_place(page: Seen) -> None:
    """No element has an address but those of the page itself."""
    named = {"src", "href", "action", "data", "poster", "srcset", "ping", "formaction"}
    addresses = {a[name] for _, a in page.tags for name in named & set(a)}

    assert addresses == {"data:,", "#rows"}


def test_uplot_brings_its_license(page: Seen) -> None:
    """The copy that stands in the page has the license that it asks for, as the package has."""
    text = (ROOT / "runner/page/uplot/LICENSE").read_text(encoding="utf-8").strip()

    assert text in page.raw["script"][1]
    assert "uPlot (v1.6.32)" in page.raw["script"][1]


# ------------------------------------------------------------------------------ rows that it lists


def test_a_small_run_lists_every_row(tmp_path: Path) -> None:
    """Up to 5,000 rows all are there, as they stand in the result files, in input order."""
    made = varied(tmp_path, rows=ALL_UP_TO)
    page = Seen(made.page(made.finish(made.ended_s)))
    table = page.data["table"]

    lines = [table["header"], *table["lines"]]
    files = [(made.path / f"{n}.csv").read_text("utf-8") for n in ("succeeded", "failed")]
    assert len(table["lines"]) == ALL_UP_TO
    failed = [line for line in lines[1:] if table["tones"].get(_outcome(line, table)) == "bad"]
    assert "\n".join([lines[0], *failed, ""]) == files[1]
    good = [line for line in lines[1:] if table["tones"].get(_outcome(line, table)) == "good"]
    assert "\n".join([lines[0], *good, ""]) == files[0]


def _outcome(line: str, table: dict[str, Any]) -> str:
    own: int = table["own"]
    return cells_of(line)[own + 2]


def test_a_large_run_says_what_it_leaves_out(tmp_path: Path) -> None:
    """Beyond 5,000 rows only those are listed that did not succeed, while there is room for them.

    A rare error class is listed whole, however many rows of another one there are.
    """
    made = Made(tmp_path)
    rows = 30_000
    made.write_input(("sync_id", "user_id", "credential_id"), [("s" * 90, "u", NEW)] * rows)
    for row in range(1, rows + 1):
        kind, error_class, error = FAILURES[7 if row > rows - 5 else 2]
        if row % 10 == 1:
            made.settle(row, row / 90, OutcomeKind.UNCHANGED)
        else:
            made.settle(row, row / 90, kind, error_class=error_class, error=error)
    summary = made.finish(rows / 90)
    text = made.page(summary)
    table = Seen(text).data["table"]

    listed = [cells_of(line)[table["own"] + 5] for line in table["lines"]]
    assert len(text.encode()) < 3_000_000
    assert listed.count("irreversible") == 5
    left = summary.error_classes["not_found"] - listed.count("not_found")
    assert left > 0
    assert f"{left:,} rows that did not succeed are left out" in Seen(text).words
    assert "The 3,000 rows that succeeded are in succeeded.csv" in Seen(text).words


_MEASURE = f"""
import sys
from pathlib import Path
from runner.account import add_up
from runner.folder import Folder
from runner.job import find
from runner.page import write_page
from runner.page.rendering import render
{PEAK}
folder = Folder(Path(sys.argv[1]))
manifest = folder.read()
job = find(manifest.job)
before = peak()
summary = add_up(folder, manifest, job)
path = write_page(folder, manifest, job, summary)
print(peak() - before, path.stat().st_size)
"""


@pytest.mark.parametrize(
    "rows", [24_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_a_page_takes_bounded_memory_and_room(tmp_path: Path, rows: int) -> None:
    """A run of a million rows, a third of them failed, has a page below 3 MB, within 60 MB."""
    made = Made(tmp_path)
    made.write_input(
        ("sync_id", "user_id", "credential_id"),
        ((f"sync-{row:032}", f"user-{row % (rows // 3)}@example.com", NEW) for row in range(rows)),
    )
    for row in range(1, rows + 1):
        made.accept(row, row / 90)
        kind, error_class, error = FAILURES[row % 8]
        if row % 3:
            made.settle(row, row / 90, OutcomeKind.UPDATED, sent=True, elapsed_ms=4000)
        else:
            made.settle(row, row / 90, kind, error_class=error_class, error=error)
    made.manifest(rows / 90)

    # In a process of its own, whose peak is that of nothing else.
    told = subprocess.run(
        [sys.executable, "-c", _MEASURE, made.path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    grown, size = map(int, told.split())

    assert 1_000_000 < grown < 60_000_000
    assert size < 3_000_000


# ---------------------------------------------------------------------------------------- its parts


def test_what_no_table_of_the_engine_names_has_no_words() -> None:
    """Every outcome, finding of a plan and error class is explained, and none that there is not."""
    assert set(words.MEANINGS) == set(OutcomeKind)
    assert set(words.ERRORS) == set(ErrorClass)
    assert set(words.FINDINGS) < set(FindingKind)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), max_size=40))
def test_folding_loses_nothing(spans: list[tuple[float, float]]) -> None:
    """However far time runs, counts add up, and levels are the time that spans last."""
    time = Timeline(counts=("n",), levels=("level",), most=20)
    for since, lasts in spans:
        time.count("n", since)
        time.span("level", since, since + lasts)

    assert sum(time.counts("n")) == len(spans)
    assert time.buckets <= 20
    # The last bucket lasts on after the last moment; nothing is under way there any more.
    area = sum(time.levels("level")) * time.width_s
    assert area == pytest.approx(sum(lasts for _, lasts in spans), rel=1e-6, abs=1e-3)


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 12))
def test_the_most_frequent_are_found(keys: list[int], keep: int) -> None:
    """What comes more often than once in *keep* is found, and never said to come more often."""
    most = Most[int](keep)
    for key in keys:
        most.add(key)
    found = dict(most.top(keep))

    for key in set(keys):
        if keys.count(key) * (keep + 1) > len(keys) and keys.count(key) > len(keys) / (keep + 1):
            assert key in found
    assert all(count <= keys.count(key) for key, count in found.items())
    if most.exact:
        assert found == {k: keys.count(k) for k, _ in most.top(keep)}


@given(st.lists(st.text(max_size=20), min_size=2, max_size=6))
def test_a_line_comes_apart_as_it_was_put_together(cells: list[str]) -> None:
    """What csv cannot read because a cell is too long is read all the same, and alike."""
    cells = [cell.encode("utf-8", "backslashreplace").decode() for cell in cells]
    long = "y" * 140_000
    raw = csv_line([*cells, long]).decode().removesuffix("\r\n")

    assert cells_of(raw) == [*cells, long]


def test_an_axis_has_room_for_a_million() -> None:
    """The numbers beside a picture stand within it, however large they are."""
    course = Course(())
    course.time.reach(100)
    chart = Chart("progress", "Progress", "rows", "", [Series("succeeded", "good", [0, 1e6])])
    picture = drawn(chart, course)

    labels = [label for _, label in picture["up"]]
    assert labels[-1] == "1,000,000"
    # A figure takes 7 of the 12 pixels of its height at most, a comma half of that.
    assert picture["left"] - 6 >= 7 * 7 + 2 * 3.5


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "200 ms"),
        (4.5, "4.5 s"),
        (45, "45 s"),
        (180, "3 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (7200, "2 h"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds: float, told: str) -> None:
    """From milliseconds to hours, never more than two numbers."""
    assert words.duration(seconds) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [
        (0, 7, "0 %"),
        (7, 7, "100 %"),
        (1, 5000, "< 0.1 %"),
        (4999, 5000, "> 99.9 %"),
        (1, 3, "33.3 %"),
    ],
)
def test_shares_claim_neither_all_nor_nothing(part: int, whole: int, told: str) -> None:
    """One row of five thousand is not rounded away."""
    assert words.share(part, whole) == told


@in_fast_motion(20)
async def test_the_page_shows_waves_gates_and_the_budget_of_a_run(tmp_path: Path) -> None:
    """Of a run whose second gate failed: both gates, the row that speaks against, the budget."""
    async with Stage(tmp_path, until=None, waves="2,20,100%", max_resyncs=4) as stage:
        stage.seed(60, users=6)
        opened = stage.open()
        bad = syncs_of(opened, 2)[3]
        stage.sim.behavior = Behavior(errored_ids=frozenset({bad}), resync_s=2.0)
        run = await stage.carry(opened)
        stopped = Seen((run.path / PAGE).read_text(encoding="utf-8"))
        stage.sim.behavior = Behavior()
        await stage.resume(run, past_gate=2, max_resyncs=9)
        passed = Seen((run.path / PAGE).read_text(encoding="utf-8"))

    row = next(n for n, line in run.outcomes.items() if line["sync_id"] == bad)
    assert "Waves and gates" in stopped.words
    assert "errored=0: 1 of its 20 rows" in stopped.words
    assert f"row {row:,}, {bad}" in stopped.words
    assert "fail" in stopped.words
    assert "the gate of wave 2 failed" in stopped.words
    budget = series_of(stopped, "budget")
    assert set(budget) == {4.0}
    assert max(series_of(stopped, "re-syncs")) <= 4
    assert {band["reason"] for band in stopped.data["time"]["bands"]} <= {"gate"}
    assert "budget" in stopped.words
    assert "--past-gate" in passed.words
    assert set(series_of(passed, "budget")) == {4.0, 9.0}
    assert "wave 3" in [mark["label"] for mark in passed.data["time"]["marks"]]


def series_of(page: Seen, name: str) -> list[float]:
    """Return a line of a chart by its name."""
    (values,) = (
        series["values"]
        for chart in page.data["charts"]
        for series in chart["series"]
        if series["name"] == name
    )
    return list(values)
