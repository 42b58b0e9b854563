"""The one place that knows structlog: the report's lines, the run's events, diagnostics."""

from __future__ import annotations

import datetime
import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog

from runner.model import encode_json
from runner.secret import scrub

LEVELS = ("debug", "info", "warning", "error")


def stamp(now_s: float) -> str:
    """Return *now_s*, seconds since the epoch, as RFC 3339 in UTC with milliseconds."""
    global _last_ms, _stamp, _second, _text  # caches of one: rows come many to the millisecond
    now_ms = int(now_s * 1000)
    if now_ms != _last_ms:
        second, ms = divmod(now_ms, 1000)
        if second != _second:
            moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
            _second, _text = second, f"{moment:%Y-%m-%dT%H:%M:%S}"
        _last_ms, _stamp = now_ms, f"{_text}.{ms:03d}Z"
    return _stamp


_last_ms = _second = -1
_stamp = _text = ""


class _Sink:
    """What structlog takes for a logger: hands each encoded line on."""

    def __init__(self, append: Callable[[bytes], None]) -> None:
        self.info = self.warning = append


def journal_logger(
    append: Callable[[bytes], None], *, wall_clock: Callable[[], float]
) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose every event becomes one JSON line handed to *append*.

    Lines start with ``v event level timestamp``; the event's own fields follow
    in the order in which they were given, and behind them those of the struct
    that was given as *of*, if one was.
    """

    def render(_: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
        head = {
            "v": 1,
            "event": event.pop("event"),
            "level": level,
            "timestamp": stamp(wall_clock()),
        }
        of = event.pop("of", None)
        line = encode_json(head | event)  # type: ignore[operator]  # structlog hands a dict
        # Encoded whole: as keywords, its fields would be copied on each of structlog's floors.
        return line if of is None else b"%b,%b" % (line[:-1], encode_json(of)[1:])

    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        _Sink(append),
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    ).bind()
    return logger


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Send diagnostics of *level* and above to *stream* (standard error), one line each.

    No local variables are ever shown, and whatever looks like a token or a key
    is replaced by stars in the very last step.
    """
    out = stream or sys.stderr

    def write(text: str) -> None:
        try:
            out.write(_in_one_line(scrub(text)) + "\n")
            out.flush()
        except OSError:
            # Whoever read this has left; a run is not over because nobody watches it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())

    class Line:
        debug = info = warning = error = critical = msg = staticmethod(write)

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.KeyValueRenderer(
                key_order=["timestamp", "level", "event"], repr_native_str=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: Line(),
        cache_logger_on_first_use=False,
    )


def _in_one_line(text: str) -> str:
    """Spell out whatever could end a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def diagnostics() -> structlog.typing.FilteringBoundLogger:
    """Return the logger for what a person debugging a run wants to see."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
