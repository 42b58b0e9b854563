"""Shows runs to a browser on this machine, while they go and after.

`sight` reads one run from outside, as anybody could who may read its folder; `watcher` does so no
more often than needed, however many look; `guard` lets in who has the address; `server` answers.
"""

from runner.lookout.server import Lookout, keep_up, open_lookout
from runner.lookout.sight import Sight

__all__ = ["Lookout", "Sight", "keep_up", "open_lookout"]
