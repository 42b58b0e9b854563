"""What several files of tests share: one PostgreSQL for each process that runs tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, serving


@pytest.fixture(scope="session")
def pg() -> Iterator[Server]:
    """Have a server with as many databases as there are stages; nobody stops it."""
    with serving() as server:
        yield server
