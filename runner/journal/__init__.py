"""Append-only journals: lines that count only once they are on disk, and several made one."""

from runner.journal.committing import Committer
from runner.journal.lines import (
    Journal,
    Line,
    Tail,
    cut_torn_tail,
    scan,
    sync_directory,
    tail_of,
    write_file,
    write_whole,
)
from runner.journal.merging import SHARDS, merge, shard_name

__all__ = [
    "SHARDS",
    "Committer",
    "Journal",
    "Line",
    "Tail",
    "cut_torn_tail",
    "merge",
    "scan",
    "shard_name",
    "sync_directory",
    "tail_of",
    "write_file",
    "write_whole",
]
