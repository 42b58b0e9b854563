"""Events are lines with fields; nothing that steers a terminal or holds a secret gets out."""

from __future__ import annotations

import datetime
import io
import json
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from runner.log import LEVELS, configure, diagnostics, journal_logger, stamp

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture
def out() -> io.StringIO:
    """Where diagnostics go; everything is told."""
    stream = io.StringIO()
    configure("debug", stream=stream)
    return stream


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """Whatever is configured here is forgotten by the next test."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("now_s", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (784_111_777.0, "1994-11-06T08:49:37.000Z"),
        (784_111_777.0019, "1994-11-06T08:49:37.001Z"),
        (784_111_777.999, "1994-11-06T08:49:37.999Z"),
        (4_102_444_800.5, "2100-01-01T00:00:00.500Z"),
    ],
)
def test_a_moment_is_told_in_utc(now_s: float, text: str) -> None:
    """RFC 3339, in UTC, to the millisecond."""
    assert stamp(now_s) == text
    assert stamp(now_s) == text


@given(st.lists(st.floats(0, 4e9), max_size=20))
def test_a_moment_is_told_alike_whatever_was_told_before(moments: list[float]) -> None:
    """What is remembered of the last moment never shows in the next."""
    for now_s in moments:
        told = datetime.datetime.fromisoformat(stamp(now_s))

        assert told.timestamp() == pytest.approx(int(now_s * 1000) / 1000, abs=1e-6)


def test_an_event_becomes_a_line_of_json() -> None:
    """Version, event, level and time come first; its fields follow in the order given."""
    lines = list[bytes]()
    logger = journal_logger(lines.append, wall_clock=lambda: 784_111_777.25)
    logger.info("change.settled", row=7, outcome="updated", before={"frequency": "1h"}, error=None)
    logger.warning("throttle.held", until=None)

    assert lines[0] == (
        b'{"v":1,"event":"change.settled","level":"info","timestamp":"1994-11-06T08:49:37.250Z",'
        b'"row":7,"outcome":"updated","before":{"frequency":"1h"},"error":null}'
    )
    assert json.loads(lines[1])["level"] == "warning"


def test_a_journal_hears_no_whispers() -> None:
    """Debugging is no business of a journal."""
    lines = list[bytes]()
    journal_logger(lines.append, wall_clock=lambda: 0.0).debug("attempt.retry_scheduled")

    assert lines == []


def test_two_journals_do_not_hear_each_other() -> None:
    """Each logger writes to its own file, whatever diagnostics are set to."""
    one, two = list[bytes](), list[bytes]()
    first = journal_logger(one.append, wall_clock=lambda: 0.0)
    second = journal_logger(two.append, wall_clock=lambda: 0.0)
    configure("error", stream=io.StringIO())
    first.info("a")
    second.info("b")

    assert [json.loads(line)["event"] for line in (*one, *two)] == ["a", "b"]
    assert (len(one), len(two)) == (1, 1)


@given(st.text(st.characters(codec="utf-8")))
def test_x5_no_text_can_end_a_line_of_a_journal(text: str) -> None:
    """A server's words with line ends and quotes are one line and read back as they were."""
    lines = list[bytes]()
    journal_logger(lines.append, wall_clock=lambda: 0.0).info("x", error=text)

    assert b"\n" not in lines[0]
    assert json.loads(lines[0])["error"] == text


def test_diagnostics_are_lines_for_a_person(out: io.StringIO) -> None:
    """Time, level and event come first, then the fields."""
    diagnostics().error("row.broke", row=7, error="KeyError")

    assert re.fullmatch(
        r"timestamp=\d{4}-\d\d-\d\dT[\d:.]+Z level=error event=row\.broke row=7 error=KeyError\n",
        out.getvalue(),
    )


@pytest.mark.parametrize("level", LEVELS)
def test_only_what_was_asked_for_is_told(level: str) -> None:
    """Each level tells itself and what is graver."""
    out = io.StringIO()
    configure(level, stream=out)
    for name in LEVELS:
        getattr(diagnostics(), name)(f"at.{name}")

    told = re.findall(r"event=at\.(\w+)", out.getvalue())
    assert told == list(LEVELS[LEVELS.index(level) :])


def test_diagnostics_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for data."""
    configure("info")
    diagnostics().info("run.opened")

    told = capsys.readouterr()
    assert "event=run.opened" in told.err
    assert told.out == ""


def test_x1_a_token_is_starred_wherever_it_stands(out: io.StringIO) -> None:
    """In the event, in a field, in a list or in an exception's text: it is never shown."""
    told = {"header": f"Bearer {TOKEN}", "parts": [TOKEN], "error": ValueError(TOKEN)}
    diagnostics().info("got " + TOKEN, **told)

    assert "eyJ" not in out.getvalue()
    assert out.getvalue().count("***") >= 4


def test_x1_no_local_variable_is_shown(out: io.StringIO) -> None:
    """An exception that is logged shows neither its frames nor what they held."""
    try:
        local = f"canary {TOKEN[:3]}"
        raise KeyError(local[:1])
    except KeyError:
        diagnostics().exception("row.broke")

    assert "canary" not in out.getvalue()
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nevent=fake", r"a\nevent=fake"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\x9b31m", r"\x9b31m"),
        ("caf\u00e9 \u65e5\u672c", "caf\u00e9 \u65e5\u672c"),
    ],
)
def test_x5_diagnostics_are_one_line_each(out: io.StringIO, text: str, shown: str) -> None:
    """Whatever could end a line or steer a terminal is spelled out; other letters stay."""
    diagnostics().warning("answer.strange", error=text)

    assert out.getvalue().endswith(f"error={shown}\n")
    assert out.getvalue().count("\n") == 1
