"""Which settings of a run may be given anew when somebody comes back to it."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from runner.errors import RunChanged
from runner.settings import Resolved, Settings

_ANEW = {"rate", "concurrency", "max_failures", "max_resyncs", "timeout_s", "processes", "engine"}
"""Settings that may be given anew when a run is resumed."""
_ROLLOUT = frozenset(
    {"waves", "seed", "soak_s", "gates", "approve", "strict", "start_at", "window", "spread_s"}
    | {"at", "zone_column", "health", "max_resyncs_per"}
)
_NOT_HANDED_DOWN = (
    *("waves", "seed", "soak_s", "gates", "approve"),
    *("start_at", "at", "zone_column", "spread_s"),
)
_CHILDS_OWN = frozenset({*_ANEW, *_ROLLOUT, "until"})
"""Those that may be given anew for a run that goes back to another one."""
_FIXED = ("base_url", "project_id", "audience", "until")
"""Settings that must be the run's own, and are checked because the environment may hold them."""


def merged(own: Settings, resolved: Resolved, *, anew: Collection[str] = _ANEW) -> Settings:
    """Return a run's own settings with what may be given *anew*. Raises `RunChanged`."""
    now = resolved.settings
    if "project_id" in resolved.told and "audience" not in resolved.told:
        # The audience follows from the project; one difference is told once.
        now = msgspec.structs.replace(now, audience=own.audience)
    for name in _FIXED:
        if name in anew:
            continue
        if name in resolved.told and getattr(now, name) != getattr(own, name):
            raise RunChanged(
                f"the run was begun with --{name.replace('_', '-')} "
                f"{getattr(own, name) or '(not given)'}, and now it is {getattr(now, name)}; "
                "leave that out, or begin a new run"
            )
    given = {name: getattr(now, name) for name in resolved.told.intersection(anew)}
    if anew is _ANEW and own.engine == "postgres" and given.get("engine") == "local":
        raise RunChanged(
            "the run is carried by workers, and its rows are in PostgreSQL: --engine local "
            "cannot go on with it; leave that out"
        )
    return msgspec.structs.replace(own, **given)


def handed_down(own: Settings, resolved: Resolved) -> Settings:
    """Return the settings of a run that goes back to one with the settings *own*.

    Limits and proof are the first run's; its slices and its start are not: whoever
    mends or takes back does so now, unless told otherwise. Raises `RunChanged`.
    """
    usual = Settings()
    own = msgspec.structs.replace(own, **{name: getattr(usual, name) for name in _NOT_HANDED_DOWN})
    return merged(own, resolved, anew=_CHILDS_OWN)
