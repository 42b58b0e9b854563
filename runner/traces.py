"""Tells a collector of OpenTelemetry what became of some rows: a span for each, with its requests.

What a span holds is chosen here, name by name: no ID, no token, no text of a server or an input.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from runner.errors import SettingsError
from runner.log import diagnostics
from runner.model import Outcome, Verdict
from runner.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""One of them says where the collector is."""

_CLOSES_WITHIN_S = 5.0
_MOST_REQUESTS = 100
"""Of a row that is looked at for hours, the first requests so many, and no more."""
_ALL = 1 << 32

_Request: TypeAlias = tuple[str, Verdict, int | None, float, float]
"""Method, verdict, status, beginning and end."""


def share_of(text: str) -> float:
    """Read ``1%`` as 0.01. Raises `SettingsError`."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", text.strip(), re.ASCII)
    if found is None or not 0 < float(found[1]) <= 100:
        raise SettingsError(
            f"--traces must be a share of the rows above 0%, at most 100%, such as 1%; got {text!r}"
        )
    return float(found[1]) / 100


class Traces:
    """The traces of one session; a witness. A row has the same fate in every session of a run."""

    def __init__(self, share: str) -> None:
        """Trace the *share* of the rows: ``1%``.

        Raises `SettingsError`, also when the extra is missing or nobody says where to.
        """
        self._below = share_of(share) * _ALL
        try:
            import opentelemetry.exporter.otlp.proto.http.trace_exporter
            import opentelemetry.sdk.trace  # noqa: F401  # there or not is the question
        except ImportError:
            raise SettingsError(
                "--traces needs the extra `traces`: install syncshift[traces], or "
                "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http beside it"
            ) from None
        if not any(os.environ.get(name, "").strip() for name in ENDPOINTS):
            raise SettingsError(
                f"--traces needs to know where to send them: set {ENDPOINTS[1]}, such as "
                "http://127.0.0.1:4318"
            )
        self._salt = b""
        self._attributes: dict[str, Any] = {}
        self._provider: TracerProvider | None = None
        self._made, self._delivered = 0, 0
        self._under_way: dict[int, list[_Request]] = {}

    def begin(self, *, run_id: str, job: str) -> None:
        """Get ready to send; from now on there is a thread that does."""
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        # What it has to say of a collector that is away is said once, by `close`.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False
        session = requests.Session()
        # Otherwise a netrc would be read for a password, and a proxy told what it must not know.
        session.trust_env = False
        session.hooks["response"].append(_refuse_to_be_sent_on)
        traces = self

        class Exporter(OTLPSpanExporter):
            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                done = super().export(spans)
                traces._delivered += len(spans) if done.name == "SUCCESS" else 0
                return done

        name = os.environ.get("OTEL_SERVICE_NAME", "").strip() or "syncshift"
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # of the rows that are chosen here
            resource=Resource.create({"service.name": name, "service.version": VERSION}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(Exporter(session=session)))
        self._salt = run_id.encode() + b"\0"
        self._attributes = {"syncshift.run": run_id, "syncshift.job": job}

    def attempted(
        self,
        row: int | None,
        method: str,
        verdict: Verdict,
        status: int | None,
        *,
        began_s: float,
        ended_s: float,
    ) -> None:
        """Keep one request of a row that is traced."""
        if row is None or zlib.crc32(b"%b%d" % (self._salt, row)) >= self._below:
            return
        requests = self._under_way.setdefault(row, [])
        if len(requests) < _MOST_REQUESTS:
            requests.append((method, verdict, status, began_s, ended_s))

    def settled(self, outcome: Outcome) -> None:
        """Send what became of a row; nothing when it is not traced or made no request."""
        requests = self._under_way.pop(outcome.row, None)
        if requests is None:
            return
        told = {
            "syncshift.line": outcome.line,
            "syncshift.outcome": outcome.outcome.value,
            "syncshift.attempts": outcome.attempts,
            "syncshift.sent": outcome.sent,
        }
        if outcome.proof is not None:
            told["syncshift.proof"] = outcome.proof.value
        if outcome.error_class is not None:
            told["error.type"] = outcome.error_class.value
        self._send(outcome.row, requests, told, failed=not outcome.succeeded)

    def told(self, event: str, fields: Mapping[str, Any]) -> None:
        """Forget what was asked of rows that have ended, once a gate is judged by it."""
        if event == "gate.judged":
            self._under_way.clear()

    def close(self) -> None:
        """Send what is left, for a few seconds at most; rows under way as *unprocessed*."""
        for row, requests in self._under_way.items():
            self._send(row, requests, {"syncshift.outcome": "unprocessed"}, failed=False)
        self._under_way = {}
        if self._provider is None:
            return
        # A thread of its own, for a collector that is away is asked for longer than anybody waits.
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_CLOSES_WITHIN_S)
        if lost := self._made - self._delivered:
            diagnostics().warning("traces.lost", spans=lost, of=self._made)

    def _send(
        self, row: int, requests: Sequence[_Request], told: Mapping[str, Any], *, failed: bool
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        assert self._provider is not None  # noqa: S101  # it has begun, or there is no request
        tracer = self._provider.get_tracer("syncshift", VERSION)
        offset_s = time.time() - time.monotonic()
        began = min(request[3] for request in requests)
        ended = max(request[4] for request in requests)
        whole = tracer.start_span(
            "row",
            context=Context(),
            start_time=_ns(began + offset_s),
            attributes={**self._attributes, "syncshift.row": row, **told},
        )
        if failed:
            whole.set_status(StatusCode.ERROR)
        inside = set_span_in_context(whole, Context())
        for method, verdict, status, left, came in requests:
            known: dict[str, Any] = {
                "http.request.method": method,
                "syncshift.verdict": verdict.value,
            }
            if status is not None:
                known["http.response.status_code"] = status
            span = tracer.start_span(
                method,
                context=inside,
                kind=SpanKind.CLIENT,
                start_time=_ns(left + offset_s),
                attributes=known,
            )
            if verdict is not Verdict.ACCEPTED:
                span.set_status(StatusCode.ERROR)
            span.end(_ns(came + offset_s))
        whole.end(_ns(ended + offset_s))
        self._made += 1 + len(requests)


def _refuse_to_be_sent_on(answer: Any, **_: object) -> None:
    """Make a redirect a failure: it is not followed, and the exporter would take it for a yes."""
    if 300 <= answer.status_code < 400:
        raise OSError("the collector is elsewhere")


def _ns(moment_s: float) -> int:
    return int(moment_s * 1e9)
