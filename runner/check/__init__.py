"""Reads a whole input before the first request, and says everything that is wrong with it.

`checking` makes the one pass, `repeats` finds syncs that are named twice, and
`invalid` writes down every row that cannot become a change.
"""

from runner.check.changes import changes, columns_for, columns_of
from runner.check.checking import Checked, check
from runner.check.invalid import INVALID_COLUMNS, write_invalid

__all__ = [
    "INVALID_COLUMNS",
    "Checked",
    "changes",
    "check",
    "columns_for",
    "columns_of",
    "write_invalid",
]
