"""What several files of tests share, and what holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import Server, serving

# An example that took long was tried on a busy machine; nothing is promised of its time.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


def pytest_xdist_auto_num_workers() -> int:
    """Run half as many tests again at a time as there are processors: they wait a lot."""
    processors = os.cpu_count() or 1
    return processors + processors // 2


@pytest.fixture(autouse=True)
def _commands_are_measured_like_their_test(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave the commands that a test starts unmeasured where it is marked ``no_cover`` itself.

    Such a test goes at full length through what others reach as well: the tracer would double
    what it takes and show no line more.
    """
    if request.node.get_closest_marker("no_cover") is not None:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(scope="session")
def pg() -> Iterator[Server]:
    """Have a server with as many databases as there are stages; nobody stops it."""
    with serving() as server:
        yield server
