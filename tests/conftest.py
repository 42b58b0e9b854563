"""What holds for every test."""

from __future__ import annotations

import pytest


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
