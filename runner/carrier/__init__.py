"""Carries shards of a run, by the same pipeline as a run that is carried alone.

`carrying` takes a shard to its end; `telling` tells the board of it meanwhile.
"""

from runner.carrier.carrying import Carrier, Opens

__all__ = ["Carrier", "Opens"]
