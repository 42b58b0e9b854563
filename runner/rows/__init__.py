"""Streams rows out of CSV and JSONL, each with the line it came from.

Nothing here knows a job. A file is opened and unpacked in `files`, cut into
records in `table` (CSV) and `lines` (JSONL), judged row by row in `columns` and
`plan`, and given out in blocks by `reading`.
"""

from runner.rows.columns import DROPPED_PREFIX, Columns, rules_of
from runner.rows.files import (
    FileVersion,
    InputFile,
    Trace,
    file_version,
    recognise,
    refused,
)
from runner.rows.plan import BadRow
from runner.rows.reading import Record, objects, own_columns, read, records, told
from runner.rows.text import inert, shown

__all__ = [
    "DROPPED_PREFIX",
    "BadRow",
    "Columns",
    "FileVersion",
    "InputFile",
    "Record",
    "Trace",
    "file_version",
    "inert",
    "objects",
    "own_columns",
    "read",
    "recognise",
    "records",
    "refused",
    "rules_of",
    "shown",
    "told",
]
