"""Metrics: a real scrape of a real run says what the run says of itself."""

from __future__ import annotations

import re
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from runner.errors import SettingsError
from runner.live import Live
from runner.metrics import FAMILIES, Counts, Family, Metrics, serving
from runner.model import Verdict
from runner.pipeline import Tally
from runner.simulator import AuditEntry, Faults
from runner.version import VERSION
from tests import stage as here
from tests.commands import Stage, until
from tests.test_docs import coded, section, tables

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Samples = dict[tuple[str, tuple[str, ...]], float]


def fetch(address: str, accept: str = "") -> str:
    """Return what a scrape of *address* answers."""
    request = urllib.request.Request(address, headers={"Accept": accept})  # noqa: S310  # loopback
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # as above
        text: str = answer.read().decode()
    return text


def samples(text: str) -> Samples:
    """Return every sample by its name and the values of its labels, in the order of their names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, name: str) -> dict[str, float]:
    """Return the samples of *name* by the value of their one label."""
    return {labels[0]: value for (known, labels), value in found.items() if known == name}


@dataclass(frozen=True)
class Scraped:
    """A run that has ended, and what a scrape then said."""

    run: here.Run
    found: Samples
    text: str
    audit: list[AuditEntry]


async def scraped(
    place: Path, *, rows: int, faults: Faults | None = None, accept: str = "", **settings: Any
) -> Scraped:
    """Carry a run of *rows*, and scrape it over HTTP once it has ended."""
    metrics = Metrics(0)
    try:
        async with here.Stage(place, faults=faults, **settings) as stage:
            stage.seed(rows)
            opened = stage.open()

            def show(live: Live) -> None:
                metrics.begin(live, run_id=opened.folder.run_id, job=opened.job.name)

            run = await stage.carry(opened, show=show, witness=metrics.counts)
            text = await anyio.to_thread.run_sync(fetch, metrics.address, accept)
            found = {} if accept else samples(text)
            return Scraped(run, found, text, list(stage.audit))
    finally:
        metrics.close()


# ------------------------------------------------------------------------- what a scrape tells


async def test_a_scrape_says_what_the_summary_says(tmp_path: Path) -> None:
    """Rows, attempts and waits of a run that met every kind of trouble are those of its summary."""
    faults = Faults(http_503=0.05, http_429=0.05, latency_s=0.002)
    run = await scraped(tmp_path, rows=80, faults=faults, max_failures="100%")
    found, summary = run.found, run.run.summary
    verdicts = {
        labels: value
        for (name, labels), value in found.items()
        if name == "syncshift_attempts_total"
    }
    waited = of(found, "syncshift_wait_seconds_total")

    counts = {name: n for name, n in summary.counts.items() if name != "unprocessed"}
    assert of(found, "syncshift_rows_total") == counts
    assert found["syncshift_input_rows", ()] == summary.rows == 80
    assert found["syncshift_rows_left", ()] == summary.counts["unprocessed"]
    assert sum(n for (method, _), n in verdicts.items() if method == "PATCH") == summary.attempts
    assert sum(verdicts.values()) == len(run.audit)
    assert verdicts["GET", "throttled"] > 0
    assert set(waited) == set(summary.waits)
    for reason, seconds in summary.waits.items():
        # A scrape comes after the end, and a wait that nobody told of as over lasts to the scrape.
        assert waited[reason] >= seconds - 0.01


async def test_the_histogram_counts_every_request(tmp_path: Path) -> None:
    """The histogram holds each request once, and the sum of their time."""
    run = await scraped(tmp_path, rows=20, faults=Faults(latency_s=0.03, latency_jitter=0.0))
    found = run.found
    name = "syncshift_request_duration_seconds"
    counted = {
        (labels[1], float(labels[0])): n
        for (known, labels), n in found.items()
        if known == f"{name}_bucket"
    }

    for method in ("GET", "PATCH"):
        assert found[f"{name}_count", (method,)] == 20
        assert counted[method, float("inf")] == 20
        assert counted[method, 0.025] == 0
        assert found[f"{name}_sum", (method,)] >= 20 * 0.03


async def test_no_id_and_no_secret_is_told(tmp_path: Path) -> None:
    """No label holds a sync, a user or a credential, and no token comes out."""
    run = await scraped(tmp_path, rows=10)
    rows = run.run.table("succeeded.csv")

    assert len(rows) == 10
    for row in rows:
        for name in ("sync_id", "user_id", "credential_id"):
            assert row[name] not in run.text
    assert "eyJ" not in run.text


async def test_openmetrics_is_told_on_request(tmp_path: Path) -> None:
    """A scraper that asks for OpenMetrics gets text that its strict reader takes."""
    run = await scraped(tmp_path, rows=5, accept=OPENMETRICS)

    names = {family.name for family in read_openmetrics(run.text)}  # type: ignore[no-untyped-call]  # it has no types
    assert "syncshift_rows" in names
    assert "syncshift_attempts" in names


async def test_ceilings_and_resyncs_are_told(tmp_path: Path) -> None:
    """The ceilings that were set, and the re-sync budget, are told as they are."""
    run = await scraped(
        tmp_path,
        rows=5,
        rate="50",
        concurrency="7",
        max_resyncs="9",
        until="resynced",
    )

    assert run.found["syncshift_rate_ceiling_per_second", ()] == 50.0
    assert run.found["syncshift_rate_limit_per_second", ()] <= 50.0
    assert 1 <= run.found["syncshift_requests_in_flight_limit", ()] <= 7
    assert run.found["syncshift_resyncs_limit", ()] == 9
    assert run.found["syncshift_resyncs_unfinished", ()] == 0


def test_a_counter_of_seconds_never_goes_back() -> None:
    """That a wait is over is told late, and what was told before is not taken back."""
    now = [1_000.0]
    counts = Counts(wall=lambda: now[0])
    counts.told("throttle.held", {"reason": "pause", "detail": "", "until": None})
    now[0] += 5.0
    during = counts.waits()["pause"]
    counts.told("throttle.released", {"reason": "pause", "held_s": 4.2})

    assert during == 5.0
    assert counts.waits()["pause"] == 5.0


# ------------------------------------------------------------------------------- the command


def address_in(text: str) -> str | None:
    """Return where a command says that its metrics are."""
    told = re.search(r"metrics  (http://\S+)", text)
    return told[1] if told else None


def test_a_run_is_scraped_while_it_waits(tmp_path: Path) -> None:
    """A run that is held tells why and how many rows are left; its port ends with it."""
    with Stage(tmp_path) as stage:
        stage.runs.mkdir()
        (stage.runs / "PAUSE").write_text("an incident")
        command = stage.start(
            "run",
            "migrate-credentials",
            stage.moves(12),
            "--yes",
            "--metrics-port",
            0,
            "--run-id",
            "held",
        )
        address = until(lambda: address_in(command.err), "the address is told")
        found = until(
            lambda: (
                (now := samples(fetch(address)))
                and of(now, "syncshift_waiting").get("pause")
                and now
            ),
            "the pause is told",
        )
        (stage.runs / "PAUSE").unlink()

        assert command.wait().code == 0
        assert found["syncshift_rows_left", ()] == found["syncshift_input_rows", ()] == 12
        assert sum(of(found, "syncshift_rows_total").values()) == 0
        assert ("syncshift_run_info", ("migrate-credentials", "held", VERSION)) in found
        assert found["process_resident_memory_bytes", ()] > 0
        with pytest.raises(urllib.error.URLError):
            fetch(address)


def test_a_taken_port_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """A port that somebody has refuses the run: exit code 2, no folder, no request."""
    with Stage(tmp_path) as stage, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = stage.here(
            "run", "migrate-credentials", stage.moves(3), "--yes", "--metrics-port", port
        )

        assert said.code == 2
        assert f"--metrics-port {port}" in said.err
        assert stage.audit == []
        assert not stage.runs.exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--metrics-port", "70000"), "0 to 65535"),
        (("--metrics-host", "0.0.0.0"), "--metrics-port"),  # noqa: S104  # refused
        (("--metrics-port", "0", "--metrics-host", "203.0.113.1"), "203.0.113.1"),
    ],
)
def test_what_cannot_be_listened_at_is_refused(
    tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    """Each flag that cannot be kept is told by its name, before there is a run."""
    with Stage(tmp_path) as stage:
        said = stage.here("run", "migrate-credentials", stage.moves(3), "--yes", *words)

        assert said.code == 2
        assert hint in said.err
        assert not stage.runs.exists()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prometheus-client is not there, the flag says which extra brings it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(SettingsError, match=r"syncshift\[metrics\]"):
        Metrics(0)


def test_nothing_is_imported_unless_it_is_asked_for(tmp_path: Path) -> None:
    """A run without the flags imports neither Prometheus nor OpenTelemetry."""
    with Stage(tmp_path) as stage:
        command = stage.run(
            "run",
            "migrate-credentials",
            stage.moves(3),
            "--yes",
            env={"PYTHONPROFILEIMPORTTIME": "1"},
        )

        assert command.code == 0
        assert "runner.run" in command.err
        for library in ("prometheus_client", "opentelemetry", "requests"):
            assert not re.search(rf"\| +{library}\b", command.err)


# ------------------------------------------------------------------------------- the server


class _Still:
    """The live figures of a run in which nothing goes on."""

    rows = left = settled = in_flight = 0
    in_flight_limit = 1
    rate_per_s = 1.0
    rate_ceiling_per_s = None
    resyncs = None
    closing = False
    tally = Tally()

    def reasons(self) -> tuple[()]:
        """Nobody waits."""
        return ()


def begun(metrics: Metrics) -> Metrics:
    """Let *metrics* begin in the event loop that runs now."""
    still: Any = _Still()
    metrics.begin(still, run_id="r", job="j")
    return metrics


def status_of(address: str) -> int:
    """Return the status of an answer that is no good one."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(address)
    with refused.value as answer:
        return answer.code


async def test_a_loop_that_is_stuck_fails_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the run's loop does not turn, a scrape ends with 503, and not never."""
    monkeypatch.setattr(serving, "_LOOP_ANSWERS_S", 0.05)
    metrics = begun(Metrics(0))
    try:
        stuck = status_of(metrics.address)  # asked from the loop itself, which so stands still
        text = await anyio.to_thread.run_sync(fetch, metrics.address)
    finally:
        metrics.close()

    assert stuck == 503
    assert "syncshift_run_info" in text


def test_a_run_that_has_ended_fails_the_scrape() -> None:
    """Between the end of the loop and that of the process a scrape is told so."""
    metrics = Metrics(0)

    async def begin() -> None:
        begun(metrics)

    anyio.run(begin)
    try:
        assert status_of(metrics.address) == 503
    finally:
        metrics.close()


async def test_other_paths_are_not_there() -> None:
    """Only the metrics are served."""
    metrics = begun(Metrics(0))
    try:
        elsewhere = metrics.address.replace("/metrics", "/")

        assert await anyio.to_thread.run_sync(status_of, elsewhere) == 404
    finally:
        metrics.close()


async def test_a_client_that_says_nothing_holds_up_nobody() -> None:
    """A connection on which nothing comes does not keep others from being answered."""
    metrics = begun(Metrics(0))
    try:
        host, port = metrics.address.split("/")[2].split(":")
        with socket.create_connection((host, int(port))):
            text = await anyio.to_thread.run_sync(fetch, metrics.address)

        assert "syncshift_run_info" in text
    finally:
        metrics.close()


# --------------------------------------------------------------------------------- the page


def test_the_page_names_every_metric() -> None:
    """docs/metrics.md has a line for each metric, with its kind and its labels, and no others."""
    rows = tables(section(PAGE, "What there is"))["Metric"]
    told = {coded(row[0])[0]: (row[1], tuple(coded(row[2]))) for row in rows}

    assert told == {family.name: (family.kind, family.labels) for family in FAMILIES}


def test_the_page_names_every_verdict() -> None:
    """The verdicts that a request can have are explained."""
    (row,) = (r for r in tables(section(PAGE, "What there is"))["Metric"] if "attempts" in r[0])

    assert set(Verdict) <= set(coded(row[3]))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions(family: Family) -> None:
    """Counters end in _total, nothing else does, and no name says another unit than seconds."""
    assert re.fullmatch(r"syncshift_[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert not family.name.endswith(("_ms", "_count", "_sum", "_bucket"))
    assert family.kind in {"counter", "gauge", "histogram"}
