"""A run's directory and its manifest, `run.json`.

The values stand in `manifest`; the directory, with its lock, in `place`.
"""

from runner.folder.manifest import Input, Manifest
from runner.folder.place import LOCK, MANIFEST, SESSION, Folder, Readable

__all__ = ["LOCK", "MANIFEST", "SESSION", "Folder", "Input", "Manifest", "Readable"]
