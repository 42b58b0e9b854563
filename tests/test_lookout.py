"""Who may look at a run through a browser, what they are told, and what they may order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runner.errors import SettingsError
from runner.folder import Folder
from runner.lookout import Lookout, keep_up, open_lookout
from runner.lookout.server import order_given
from runner.page import PAGE
from tests.commands import Stage as Commands
from tests.commands import journal
from tests.commands import until as eventually
from tests.pages import Made, eventful
from tests.stage import Run, Stage, until

OTHER = "http://evil.example"


@asynccontextmanager
async def watched(runs_dir: Path, only: str | None = "run-1") -> AsyncIterator[Watch]:
    """Serve the runs of a folder, and give what asks."""
    async with (
        open_lookout(runs_dir, only=only) as lookout,
        aiohttp.ClientSession() as session,
    ):
        yield Watch(lookout, session)


class Watch:
    """A browser, as far as a server can tell."""

    def __init__(self, lookout: Lookout, session: aiohttp.ClientSession) -> None:
        self.lookout = lookout
        self.address = lookout.address
        self._session = session

    async def get(
        self, path: str = "", *, address: str | None = None, **headers: str
    ) -> tuple[int, str, Mapping[str, str]]:
        """Ask for what is at *path* behind the address: status, text and headers."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        url = (address or self.address) + path
        async with self._session.get(url, headers=named, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def order(self, order: Any, **headers: str | None) -> tuple[int, Any]:
        """Give an order as the page does, but for *headers*; None leaves one out."""
        origin = self.address[: self.address.index("/", 7)]
        told: dict[str, str | None] = {"Content-Type": "application/json", "Origin": origin}
        told |= {name.replace("_", "-"): text for name, text in headers.items()}
        kept = {name: text for name, text in told.items() if text is not None}
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        async with self._session.post(f"{self.address}orders", data=body, headers=kept) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text

    async def pulses(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield the events of the stream as they come: a name and what it tells."""
        async with self._session.get(f"{self.address}events") as answer:
            assert answer.content_type == "text/event-stream"
            name = ""
            async for line in answer.content:
                field, _, text = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = text
                elif field == "data":
                    yield name, json.loads(text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two runs that have ended, one with a report."""
    folder = tmp_path_factory.mktemp("runs")
    made = eventful(folder, rows=300)
    made.page(made.finish(made.ended_s, exit_code=143))
    other = Made(folder, "run-2")
    other.write_input(("sync_id",), [("s",)])
    other.finish(None, state="running")
    return folder


# ------------------------------------------------------------------------------------ who may look


async def test_whoever_has_the_address_sees_the_page(runs: Path) -> None:
    """The page comes with a policy that lets it ask its own server and nobody else."""
    async with watched(runs) as watch:
        status, page, headers = await watch.get()
        same = await watch.get(Origin=watch.address[: watch.address.index("/", 7)])

    assert (status, same[0]) == (200, 200)
    assert 'id="verdict">interrupted</strong>' in page
    assert watch.address.startswith("http://127.0.0.1:")
    assert len(watch.address.split("/")[3]) >= 40
    policy = headers["Content-Security-Policy"]
    for rule in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", ["", "events", PAGE])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "evil.example:{port}"},
        {"Origin": OTHER},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://localhost:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
async def test_a_foreign_host_and_a_foreign_origin_are_turned_away(
    runs: Path, headers: dict[str, str], path: str
) -> None:
    """403, whatever is asked for, and not a word about the run."""
    async with watched(runs) as watch:
        port = watch.address.split(":")[2].partition("/")[0]
        status, text, _ = await watch.get(
            path, **{name: value.format(port=port) for name, value in headers.items()}
        )

    assert (status, text) == (403, "403: not for you\n")


async def test_a_wrong_token_is_turned_away(runs: Path) -> None:
    """403 for any other token, none, half of one, and for what lies beside."""
    async with watched(runs) as watch:
        root, token = watch.address[: watch.address.index("/", 7)], watch.address.split("/")[3]
        paths = ("/", "", f"/{token[:-1]}/", f"/{token}x/", "/runs/run-1/", "/favicon.ico")
        wrong = [await watch.get(address=root, path=path) for path in paths]
        swapped = await watch.get(address=f"{root}/{token.swapcase()}/runs/run-1/")
        async with aiohttp.ClientSession() as session, session.post(f"{root}/x/orders") as answer:
            posted = answer.status

    assert [status for status, _, _ in (*wrong, swapped)] == [403] * 7
    assert posted == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": OTHER}, 403),
        ({"Origin": None}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
async def test_an_order_from_elsewhere_is_turned_away(
    runs: Path, headers: dict[str, str | None], status: int
) -> None:
    """An order needs its page's origin, and a form cannot give one."""
    async with watched(runs) as watch:
        answered = await watch.order({"command": "stop"}, **headers)

    assert answered[0] == status


async def test_it_names_whose_rows_fail_most(runs: Path) -> None:
    """Users and integrations with the most failures are those of the report, while it goes, too."""
    async with watched(runs) as watch:
        _, live, _ = await watch.get()
        _, report, _ = await watch.get("report.html")

    failures = [_section(page, "errors") for page in (live, report)]
    assert failures[0] == failures[1]
    for told in ("Users with the most failed rows", "Integrations with the most failed rows"):
        assert told in failures[0]


async def test_an_input_that_is_gone_hides_no_user(tmp_path: Path) -> None:
    """Integrations stand in the input alone; where that cannot be read, the rest is shown."""
    made = eventful(tmp_path, rows=300)
    made.finish(made.ended_s, exit_code=143)
    (made.path / "input.csv").unlink()
    async with watched(tmp_path) as watch:
        status, page, _ = await watch.get()

    assert status == 200
    assert "Users with the most failed rows" in page
    assert "Integrations with the most failed rows" not in page


def _section(page: str, name: str) -> str:
    """Return a section of a page by the name of its heading."""
    _, _, rest = page.partition(f'<section aria-labelledby="{name}">')
    return rest.partition("</section>")[0]


async def test_one_run_shows_no_other(runs: Path) -> None:
    """`watch` shows its run alone; what there is not is 404; nothing leads out of the folder."""
    async with watched(runs) as watch:
        root = "/".join(watch.address.split("/")[:4]) + "/"
        paths = ("runs/run-2/", f"runs/run-2/{PAGE}", "runs/no/", "runs/run-1/run.json")
        found = [(await watch.get(address=root, path=path))[0] for path in paths]
        out = await watch.get(address=root, path="runs/%2e%2e%2frun-2/")
        first = await watch.get(address=root)

    assert [*found, out[0]] == [404] * 5
    assert (first[0], first[2]["Location"]) == (302, "runs/run-1/")


async def test_all_runs_are_listed(runs: Path) -> None:
    """One that rests with a report leads to that, another to its live page; the rest is told."""
    broken = runs / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    async with watched(runs, only=None) as watch:
        status, page, _ = await watch.get()
        report = await watch.get(f"runs/run-1/{PAGE}")
        live = await watch.get("runs/run-2/")
        none = await watch.get(f"runs/run-2/{PAGE}")
    (broken / "run.json").unlink()
    broken.rmdir()

    assert status == 200
    assert f'href="runs/run-1/{PAGE}"' in page
    assert 'href="runs/run-2/"' in page
    assert "run broken is left out" in page
    assert report[1] == (runs / "run-1" / PAGE).read_text(encoding="utf-8")
    assert report[2]["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert (live[0], none[0]) == (200, 404)


async def test_a_run_that_has_ended_is_told_as_such(runs: Path) -> None:
    """The stream says so at once and ends."""
    async with watched(runs) as watch:
        told = [event async for event in watch.pulses()]

    ((name, end),) = told
    assert (name, end["at_work"], end["rows"], end["settled"]) == ("ended", False, 300, 294)


# -------------------------------------------------------------------------------------- the orders


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"command": "set", "rate": "0"}, "rate must be"),
        ({"command": "set", "max_resyncs": "many"}, "max-resyncs must be"),
        ({"command": "set"}, "set takes at least one"),
        ({"command": "pause", "rate": "5"}, "no other command takes any"),
        ({"command": "pause", "for": "long"}, "for must be a duration"),
        ({"command": "status"}, "an order is pause, continue, set or stop"),
    ],
)
def test_what_cannot_be_ordered_is_told_in_words(order: dict[str, str], said: str) -> None:
    """The words are those of the command line."""
    with pytest.raises(SettingsError, match=said):
        order_given(json.dumps(order).encode())


def test_an_order_is_read_as_it_is_typed() -> None:
    """Values are texts, as a person types them."""
    pause = order_given(b'{"command":"pause","for":"30m","reason":"quiet"}')
    limits = order_given(b'{"command":"set","rate":"10","max_resyncs":"none","max_failures":"5%"}')

    assert (pause.command, pause.for_s, pause.reason) == ("pause", 1800.0, "quiet")
    assert limits.values == {"rate": 10.0, "max_resyncs": "none", "max_failures": "5%"}


async def test_what_is_no_order_changes_nothing(runs: Path) -> None:
    """Half an order, an unknown field and one that is too long are 4xx; a run at rest says no."""
    async with watched(runs) as watch:
        half = await watch.order(b'{"command":')
        unknown = await watch.order({"command": "pause", "who": "root"})
        long = await watch.order({"command": "pause", "reason": "x" * 20_000})
        rests = await watch.order({"command": "pause"})

    assert (half[0], unknown[0], long[0]) == (400, 400, 413)
    assert unknown[1]["said"].startswith("this is no order: ")
    assert rests[0] == 200
    assert rests[1]["done"] is False
    assert "is not at work, so it takes no orders" in rests[1]["said"]


# ---------------------------------------------------------------------------------- a run at work


async def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """Pulses count up, say why it waits, and orders are carried out and put on record."""
    async with Stage(tmp_path, rate=60.0) as stage:
        stage.plain(120)
        opened = stage.open(run_id="x")
        lives: list[Any] = []
        carrying = asyncio.create_task(stage.carry(opened, show=lives.append))
        await until((opened.folder.path / "control.sock").exists)
        async with watched(opened.folder.path.parent, only="x") as watch:
            pulses, seen, continued = list[Any](), list[str](), None
            async for name, pulse in watch.pulses():
                seen.append(name)
                pulses.append(pulse)
                if len(pulses) == 1:
                    paused = await watch.order({"command": "pause", "reason": "tea"})
                elif pulse["waiting"] and continued is None:
                    continued = await watch.order({"command": "continue"})
            page = (await watch.get())[1]
        run: Run = await carrying

    assert run.counts == {"updated": 120}
    assert seen == ["pulse"] * (len(seen) - 1) + ["ended"]
    assert [pulse["settled"] for pulse in pulses] == sorted(pulse["settled"] for pulse in pulses)
    assert paused[1]["done"] is True
    assert continued is not None
    assert continued[1]["said"] == "the pause is over"
    waits = {wait["reason"]: wait["detail"] for pulse in pulses for wait in pulse["waiting"]}
    assert "tea" in waits["pause"]
    assert pulses[0]["limits"]["rate"] == 60.0
    assert (pulses[-1]["at_work"], pulses[-1]["settled"]) == (False, 120)
    assert pulses[-1]["picture"] >= 2
    assert 'id="verdict">succeeded</strong>' in page
    events = journal(run.path / "events.jsonl")
    orders = [(e["command"], e["reason"]) for e in events if e["event"] == "control.received"]
    assert orders == [("pause", "tea"), ("continue", "")]


async def test_a_listener_may_leave(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A page that is closed is forgotten, without a word, and the others are told on."""
    async with Stage(tmp_path, rate=60.0) as stage:
        stage.plain(240)
        opened = stage.open(run_id="x")
        carrying = asyncio.create_task(stage.carry(opened))
        await until((opened.folder.path / "control.sock").exists)
        async with watched(opened.folder.path.parent, only="x") as watch:
            address = f"{watch.address}events"
            async with aiohttp.ClientSession() as other, other.get(address) as answer:
                assert (await answer.content.readline()) == b"event: pulse\n"
                assert watch.lookout.listeners == 1
                answer.close()
            ends = [name async for name, _ in watch.pulses()]
            await until(lambda: watch.lookout.listeners == 0)
        await carrying

    assert ends[-1] == "ended"
    assert [record.getMessage() for record in caplog.records] == []


async def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """503 with the reason in place of the page, and the stream ends at once."""
    made = eventful(tmp_path, rows=300)
    made.finish(made.ended_s, exit_code=143)
    lines = (made.path / "report.jsonl").read_bytes().splitlines(keepends=True)
    (made.path / "report.jsonl").write_bytes(b"".join([*lines[:5], b"{}\n", *lines[5:]]))
    async with watched(tmp_path) as watch:
        status, text, _ = await watch.get()
        told = [event async for event in watch.pulses()]

    assert (status, told) == (503, [])
    assert "report.jsonl: line 6 (byte " in text
    assert "is not what was written" in text


async def test_a_plan_shows_its_page(tmp_path: Path) -> None:
    """What is only planned does not go on, so its report is shown."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        await stage.plan(run_id="later")
        async with watched(tmp_path / "runs", only="later") as watch:
            status, _, headers = await watch.get()
            report = await watch.get(PAGE)

    assert (status, headers["Location"]) == (302, PAGE)
    assert "Nothing was sent." in report[1]


async def test_a_server_that_nobody_needs_goes_away(runs: Path) -> None:
    """Once the run has ended and nobody has asked for a while; whoever asks puts it off."""
    async with watched(runs) as watch:
        folder = Folder(runs / "run-1")
        leaving = asyncio.create_task(keep_up(watch.lookout, folder, patience_s=0.4))
        await watch.get()
        asked_at = asyncio.get_running_loop().time()
        await asyncio.wait_for(leaving, 20)

    assert asyncio.get_running_loop().time() - asked_at >= 0.3


def test_a_page_needs_no_key(tmp_path: Path) -> None:
    """`watch` works without a key, writes nothing into the run, and ends with 0 at Ctrl-C."""
    with Commands(tmp_path) as stage:
        path = stage.moves(3)
        assert stage.run("run", "migrate-credentials", path, "--yes", "--run-id", "x").code == 0
        before = {path.name: path.read_bytes() for path in stage.folder("x").iterdir()}
        unset: dict[str, str | None] = {"PARAGON_SIGNING_KEY_FILE": None}
        command = stage.start("watch", "x", "--json", env=unset)
        eventually(lambda: command.out.endswith("}\n"), "an address")
        command.signal(2)
        ended = command.wait()
        missing = stage.run("watch", "y")

    assert ended.code == 0
    assert command.json()["address"].endswith("/runs/x/")
    assert {p.name: p.read_bytes() for p in stage.folder("x").iterdir()} == before
    assert missing.code == 5
