"""Which Syncshift this is, and on what it stands."""

from __future__ import annotations

import platform
from importlib.metadata import version

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    """Return what is at work here, by name: Syncshift, Python, and what it stands on."""
    names = ("aiohttp", "anyio", "msgspec", "structlog", "tenacity")
    ours = {"syncshift": VERSION, "python": platform.python_version()}
    return ours | {name: version(name) for name in names}
