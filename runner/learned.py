"""What earlier runs have learned of a host: where the next one begins, never a permission."""

from __future__ import annotations

import contextlib
from pathlib import Path

from runner.errors import NoSuchRun
from runner.folder import Folder, Manifest
from runner.throttle import Learned

_LOOKED_AT = 50
"""So many of the newest runs are looked at; older ones have little to say."""


def learned_of(base_url: str, runs_dir: Path) -> Learned | None:
    """Return what the newest run against *base_url* in *runs_dir* has learned; None: nothing."""
    found: list[Manifest] = []
    for folder in Folder.all(runs_dir)[-_LOOKED_AT:]:
        with contextlib.suppress(NoSuchRun):
            manifest = folder.read()
            if manifest.learned is not None and manifest.settings.base_url == base_url:
                found.append(manifest)
    newest = max(found, key=lambda manifest: manifest.ended or "", default=None)
    return None if newest is None else newest.learned
