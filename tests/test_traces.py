"""Traces: what a real collector on this machine gets, and what it never does."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from runner.errors import SettingsError
from runner.model import Verdict
from runner.record import REPORT
from runner.simulator import Faults
from runner.traces import Traces, share_of
from tests.commands import Command, Stage, journal
from tests.stage import free_port

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ERROR = 2
"""A span's status, as the protocol numbers it."""


class Collector:
    """A receiver of OTLP over HTTP, in a thread of its own."""

    def __init__(self, *, moved_to: str | None = None) -> None:
        """*moved_to*: it redirects everything there."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self._moved_to = moved_to
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Collector:
        portal = self._stack.enter_context(anyio.from_thread.start_blocking_portal())
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        portal.call(self._runner.setup)
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        portal.call(site.start)
        self._stack.callback(portal.call, self._runner.cleanup)
        self.address = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def _take(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self._moved_to is not None:
            return web.Response(status=307, headers={"Location": self._moved_to})
        self.bodies.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    @property
    def spans(self) -> list[Any]:
        """Every span so far, in the order in which they came."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def rows(self) -> dict[int, tuple[Any, list[Any]]]:
        """The span of each row with those of its requests; fails when a row has two."""
        inside = defaultdict(list)
        for span in self.spans:
            inside[span.parent_span_id].append(span)
        whole = inside.pop(b"")
        found = {known(span)["syncshift.row"]: (span, inside.pop(span.span_id)) for span in whole}
        assert len(found) == len(whole)
        assert not inside, "a request without a row"
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a collector that takes everything."""
    with Collector() as one:
        yield one


def known(span: Any) -> dict[str, Any]:
    """Return the attributes of a span."""
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))
        for pair in span.attributes
    }


def traced(stage: Stage, address: str, *words: object, rows: int = 20) -> Command:
    """Run a migration of *rows* that sends traces of every row to *address*."""
    return stage.run(
        "run",
        "migrate-credentials",
        stage.moves(rows),
        "--yes",
        "--run-id",
        "traced",
        *(words or ("--traces", "100%")),
        env={ENDPOINT: address},
    )


def test_each_row_is_a_trace_with_its_requests(tmp_path: Path, collector: Collector) -> None:
    """Every row that asked has one span, and below it one for each request, as they were."""
    with Stage(tmp_path, faults=Faults(http_503=0.1, latency_s=0.005)) as stage:
        command = traced(stage, collector.address)
        settled = {
            line["row"]: line
            for line in journal(stage.folder("traced") / REPORT)
            if line["event"] == "change.settled"
        }
        methods = Counter(entry.method for entry in stage.audit)

    assert command.code == 0
    rows = collector.rows
    assert set(rows) == set(settled)
    assert Counter(span.name for _, requests in rows.values() for span in requests) == methods
    for row, (span, requests) in rows.items():
        told = known(span)
        assert span.name == "row"
        assert told["syncshift.run"] == "traced"
        assert told["syncshift.outcome"] == settled[row]["outcome"]
        assert told["syncshift.attempts"] == settled[row]["attempts"]
        assert len({span.trace_id, *(one.trace_id for one in requests)}) == 1
        for one in requests:
            assert span.start_time_unix_nano <= one.start_time_unix_nano
            assert one.start_time_unix_nano < one.end_time_unix_nano <= span.end_time_unix_nano
            good = known(one)["syncshift.verdict"] == Verdict.ACCEPTED
            assert (one.status.code == ERROR) == (not good)
            assert (known(one)["http.response.status_code"] == 200) == good
    assert any(len(requests) > 2 for _, requests in rows.values()), "no row was asked again"


def test_a_row_that_failed_says_so(tmp_path: Path, collector: Collector) -> None:
    """The span of a row that failed has the status of an error, and the class of it."""
    with Stage(tmp_path) as stage:
        source = stage.moves(5)
        gone = [("no-such-sync", "u1", "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1", "x")]
        text = source.read_text() + ",".join(gone[0]) + "\n"
        source.write_text(text)
        stage.run(
            "run",
            "migrate-credentials",
            source,
            "--yes",
            "--traces",
            "100%",
            "--run-id",
            "r",
            "--max-failures",
            "100%",
            env={ENDPOINT: collector.address},
        )

    span, _ = collector.rows[6]
    assert span.status.code == ERROR
    assert known(span)["error.type"] == "not_found"
    assert known(span)["syncshift.outcome"] == "rejected"


def test_nothing_of_the_input_and_no_secret_gets_out(tmp_path: Path, collector: Collector) -> None:
    """The collector gets no ID, no token, and no password that lies about for its host."""
    with Stage(tmp_path) as stage:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
        (tmp_path / ".netrc").chmod(0o600)
        command = traced(stage, collector.address)
        syncs = stage.state().values()

    assert command.code == 0
    sent = b"".join(collector.bodies)
    assert len(collector.rows) == 20
    for sync in syncs:
        for text in (sync.id, sync.user, sync.credential_id):
            assert text.encode() not in sent
    assert b"eyJ" not in sent
    assert b"Bearer" not in sent
    for headers in collector.headers:
        assert "authorization" not in headers
        assert "eyJ" not in str(headers)


def test_the_api_is_sent_no_trace_header(tmp_path: Path, collector: Collector) -> None:
    """The collector is told of the API, and the API is not told of the collector."""
    with Stage(tmp_path) as stage:
        traced(stage, collector.address, rows=3)

        assert stage.audit
        assert all("traceparent" not in str(entry).lower() for entry in stage.audit)


def test_no_redirect_is_followed(tmp_path: Path, collector: Collector) -> None:
    """A collector that sends us elsewhere gets nothing there; the run is none the worse for it."""
    with Collector(moved_to=f"{collector.address}/v1/traces") as moved, Stage(tmp_path) as stage:
        command = traced(stage, moved.address)

    assert command.code == 0
    assert moved.headers
    assert collector.bodies == []
    assert "traces.lost" in command.err


def test_a_collector_that_is_away_costs_nothing(tmp_path: Path) -> None:
    """Without a collector the run ends as it would, and says how many spans were lost."""
    with Stage(tmp_path) as stage:
        command = traced(stage, f"http://127.0.0.1:{free_port()}")

        assert command.code == 0
        assert stage.moved() == 20
    assert "traces.lost" in command.err
    assert "Traceback" not in command.err


def test_rows_under_way_are_told_of_at_the_end(collector: Collector, monkeypatch: Any) -> None:
    """A row whose end this process does not see is *unprocessed*, with what was asked so far."""
    monkeypatch.setenv(ENDPOINT, collector.address)
    traces = Traces("100%")
    traces.begin(run_id="r", job="j")
    traces.attempted(7, "GET", Verdict.ACCEPTED, 200, began_s=1.0, ended_s=2.0)
    traces.attempted(None, "GET", Verdict.ACCEPTED, 200, began_s=1.0, ended_s=2.0)
    traces.close()

    ((row, (span, requests)),) = collector.rows.items()
    assert row == 7
    assert known(span)["syncshift.outcome"] == "unprocessed"
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(1e9, rel=1e-3)
    assert [one.name for one in requests] == ["GET"]


def test_what_a_gate_looks_at_is_no_row(collector: Collector, monkeypatch: Any) -> None:
    """Reads by which a gate was judged do not make a row that has ended begin again."""
    monkeypatch.setenv(ENDPOINT, collector.address)
    traces = Traces("100%")
    traces.begin(run_id="r", job="j")
    traces.attempted(7, "GET", Verdict.ACCEPTED, 200, began_s=1.0, ended_s=2.0)
    traces.told("gate.judged", {"wave": 1})
    traces.close()

    assert collector.bodies == []


def test_a_share_of_the_rows_is_the_same_each_time(collector: Collector, monkeypatch: Any) -> None:
    """About the share that was asked for is traced, and in every session the same rows."""
    monkeypatch.setenv(ENDPOINT, collector.address)

    def chosen(run_id: str) -> set[int]:
        traces = Traces("10%")
        traces.begin(run_id=run_id, job="j")
        for row in range(1, 1_001):
            traces.attempted(row, "GET", Verdict.ACCEPTED, 200, began_s=1.0, ended_s=2.0)
        collector.bodies.clear()
        traces.close()
        return set(collector.rows)

    first = chosen("r")
    assert first == chosen("r")
    assert first != chosen("another")
    assert 60 <= len(first) <= 140


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("text", ["0%", "101%", "1", "", "-1%", "1e1%", "half"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    """What is no share of the rows is told as given, with an example."""
    with pytest.raises(SettingsError, match="--traces must be a share"):
        share_of(text)


def test_without_an_address_it_is_refused(tmp_path: Path) -> None:
    """Nobody guesses where traces go: the variable that says so is named, before there is a run."""
    with Stage(tmp_path) as stage:
        said = stage.here("run", "migrate-credentials", stage.moves(3), "--yes", "--traces", "100%")

        assert said.code == 2
        assert ENDPOINT in said.err
        assert not stage.runs.exists()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry is not there, the flag says which extra brings it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(SettingsError, match=r"syncshift\[traces\]"):
        Traces("1%")


def test_no_thread_begins_before_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until sending begins there is no thread, so that a process may still be divided."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    before = threading.active_count()
    Traces("1%").close()

    assert threading.active_count() == before
