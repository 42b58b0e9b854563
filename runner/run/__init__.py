"""A run, from its first request to its account.

`seeing` sees it through. Its rows are carried by this process (`alone`), or by several that this
one leads (`leading`).
"""

from runner.run.leading import Crowd, gather, may_be_shared
from runner.run.seeing import carry_out

__all__ = ["Crowd", "carry_out", "gather", "may_be_shared"]
