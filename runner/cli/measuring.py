"""Tells others what a run is doing: metrics that are asked for, traces that are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from runner.cli.flags import Telemetry
from runner.errors import SettingsError

if TYPE_CHECKING:
    from runner.live import Live
    from runner.metrics import Metrics
    from runner.opening import Opened
    from runner.traces import Traces
    from runner.witness import Witness


class Measuring:
    """What looks on at one run for others; nothing, when nobody asked for it."""

    def __init__(self, metrics: Metrics | None, traces: Traces | None, *, quiet: bool) -> None:
        self._metrics = metrics
        self._traces = traces
        self._quiet = quiet

    @property
    def witness(self) -> Witness | None:
        """What the run is to tell; None: nobody looks on."""
        told: list[Witness] = []
        if self._metrics is not None:
            told.append(self._metrics.counts)
        if self._traces is not None:
            told.append(self._traces)
        if len(told) < 2:
            return told[0] if told else None
        from runner.witness import Witnesses

        return Witnesses(told)

    def also(self, opened: Opened, show: Callable[[Live], None]) -> Callable[[Live], None]:
        """Return what begins with the run *opened*, and then does what *show* does."""

        def both(live: Live) -> None:
            self._begin(opened, live)
            show(live)

        return both

    def _begin(self, opened: Opened, live: Live) -> None:
        if self._metrics is not None:
            self._metrics.begin(live, run_id=opened.folder.run_id, job=opened.job.name)
            if not self._quiet:
                from runner.cli import screen

                address = f"  metrics  {self._metrics.address}"
                screen.errors().print(address, markup=False, soft_wrap=True)
        if self._traces is not None:
            self._traces.begin(run_id=opened.folder.run_id, job=opened.job.name)


@contextmanager
def measured(telemetry: Telemetry, *, quiet: bool) -> Iterator[Measuring]:
    """Get ready what is to be told to others, and end it all when this ends.

    Whatever may be missing or taken is found out here, before there is a run. Raises
    `SettingsError`.
    """
    if telemetry.metrics_host is not None and telemetry.metrics_port is None:
        raise SettingsError("--metrics-host says where --metrics-port is; give that as well")
    with ExitStack() as stack:
        metrics: Metrics | None = None
        traces: Traces | None = None
        if telemetry.metrics_port is not None:
            from runner.metrics import Metrics

            host = {} if telemetry.metrics_host is None else {"host": telemetry.metrics_host}
            metrics = Metrics(telemetry.metrics_port, **host)
            stack.callback(metrics.close)
        if telemetry.traces is not None:
            from runner.traces import Traces

            traces = Traces(telemetry.traces)
            stack.callback(traces.close)
        yield Measuring(metrics, traces, quiet=quiet)
