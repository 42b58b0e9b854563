"""What a run adds up to, computed from its files alone.

`index` knows how far each row has come, `joined` those of a shard, and `outcomes` fetches how
one ended; `findings` does both for plans and proofs. `files` sorts the input by outcomes, and
`summary` adds up the outcomes (`tally`), the time (`history`) and the verdict (`verdict`). Nothing
here sends, waits, or writes to a journal.
"""

from runner.results.family import FamilyIndex, FamilyOutcomes, outcomes_of
from runner.results.files import (
    COLUMNS,
    FAILED_FILE,
    SUCCEEDED_FILE,
    UNPROCESSED_FILE,
    FileWritten,
    write_files,
)
from runner.results.findings import Findings
from runner.results.history import ENDS_BY_ITSELF, Event, Session
from runner.results.index import Index
from runner.results.joined import JoinedIndex, fetching
from runner.results.outcomes import Outcomes, duplicate
from runner.results.summary import (
    Retry,
    Summary,
    WaveEnded,
    encode_summary,
    summarize,
    write_summary,
)
from runner.results.tally import Latency
from runner.results.verdict import RunVerdict, exit_code_of, verdict_of

__all__ = [
    "COLUMNS",
    "ENDS_BY_ITSELF",
    "FAILED_FILE",
    "SUCCEEDED_FILE",
    "UNPROCESSED_FILE",
    "Event",
    "FamilyIndex",
    "FamilyOutcomes",
    "FileWritten",
    "Findings",
    "Index",
    "JoinedIndex",
    "Latency",
    "Outcomes",
    "Retry",
    "RunVerdict",
    "Session",
    "Summary",
    "WaveEnded",
    "duplicate",
    "encode_summary",
    "exit_code_of",
    "fetching",
    "outcomes_of",
    "summarize",
    "verdict_of",
    "write_files",
    "write_summary",
]
