"""How a page says things: verdicts, outcomes, times and amounts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from runner.model import SUCCEEDED, FindingKind, OutcomeKind
from runner.results import RunVerdict, Summary

MEANINGS = {
    OutcomeKind.UPDATED: "accepted, and proved as far as its proof says",
    OutcomeKind.UNCHANGED: "was so already; nothing sent",
    OutcomeKind.DUPLICATE: "an earlier row made the same change; nothing sent",
    OutcomeKind.INVALID: "could not become a change; nothing sent",
    OutcomeKind.CONFLICTED: "not in the expected state",
    OutcomeKind.REJECTED: "the API will never accept it",
    OutcomeKind.EXHAUSTED: "attempts used up; if sent, it may have landed",
    OutcomeKind.UNCONFIRMED: "accepted, but not seen in force in time",
    OutcomeKind.ERRORED: "accepted, and the sync then went into ERRORED",
    OutcomeKind.IRREVERSIBLE: "what was there before was never told; nothing sent",
}
"""What each outcome means, for somebody who has not read the README."""
UNPROCESSED = "has not ended; resume goes on with it"
NOT_YET = "has not ended yet"
NOT_BEGUN = "was not begun; what was refused is not resumed"

FINDINGS = {
    FindingKind.CHANGE: "will be changed",
    FindingKind.UNCHANGED: "is so already",
    FindingKind.DUPLICATE: "asks for what an earlier row asks for",
    FindingKind.CONFLICTED: "is not in the state that the row expects",
    FindingKind.BLOCKED: "is refused by the API",
    FindingKind.UNKNOWN: "the API does not tell, or could not be asked",
    FindingKind.INVALID: "cannot become a change",
}
"""What each finding of a plan means."""

ERRORS = {
    "invalid": "the row or its request is not valid",
    "duplicate_of_failed": "an earlier row asked for the same, and failed",
    "conflict": "the sync is not in the expected state",
    "unknown_state": "a state is expected, and the API does not tell it",
    "auth": "401, also with a fresh token",
    "forbidden": "403",
    "not_found": "no such sync of this user",
    "bad_request": "the API refuses what was asked",
    "throttled": "429 after every wait",
    "transient": "5xx until the attempts were used up",
    "timeout": "no answer in time",
    "connection": "the connection could not be made, or broke",
    "protocol": "the answer was not to be understood",
    "unconfirmed": "not seen in force in time",
    "errored": "the sync went into ERRORED",
    "irreversible": "what was there before was never told",
    "internal": "Syncshift itself failed",
}
"""What each error class means."""

_MARKS = {
    RunVerdict.SUCCEEDED: ("good", "✓"),
    RunVerdict.FAILED: ("bad", "✕"),
    RunVerdict.STOPPED: ("bad", "■"),
    RunVerdict.INTERRUPTED: ("left", "‖"),
    RunVerdict.REFUSED: ("bad", "✕"),
}


def mark_of(verdict: RunVerdict | None) -> tuple[str, str]:
    """Return the tone of *verdict* and the sign that stands for it."""
    return ("calm", "…") if verdict is None else _MARKS[verdict]


def tone_of(kind: OutcomeKind) -> str:
    """Return the tone in which rows of this outcome are shown."""
    return "good" if kind in SUCCEEDED else "bad"


def sentence(summary: Summary) -> str:
    """Return what a run came to, as one sentence."""
    rows, left = summary.rows, summary.counts["unprocessed"]
    failed = sum(n for k, n in summary.counts.items() if k in _FAILED)
    also = f" {failed:,} failed." if failed else ""
    match summary.verdict:
        case RunVerdict.SUCCEEDED:
            return "Every row succeeded." if rows else "There was no row to carry."
        case RunVerdict.FAILED:
            return f"Every row ended; {failed:,} of {rows:,} failed."
        case RunVerdict.STOPPED | RunVerdict.INTERRUPTED:
            if not rows:
                return "It ended before the input was checked; nothing was sent."
            return f"{left:,} of {rows:,} rows are left, and can be resumed.{also}"
        case RunVerdict.REFUSED:
            return "Nothing was sent."
    return f"At work: {rows - left:,} of {rows:,} rows have ended.{also}"


def duration(seconds: float) -> str:
    """Return *seconds* as a person says them: 240 ms, 4.5 s, 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if minutes else f"{hours} h"


def moment(stamp: str | None) -> str:
    """Return an RFC 3339 moment in UTC as a person reads it: 2026-11-23 18:01:03 UTC."""
    return f"{stamp[:10]} {stamp[11:19]} UTC" if stamp else ""


def share(part: int, whole: int) -> str:
    """Return *part* of *whole* in percent; neither nothing nor all is claimed by rounding."""
    if not whole:
        return ""
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if part < whole and percent > 99.9:
        return "> 99.9 %"
    return f"{percent:.0f} %" if part in (0, whole) else f"{percent:.1f} %"


def bar(told: Sequence[tuple[str, str, str, int]], rows: int) -> dict[str, Any]:
    """Return a bar's parts: names, tones, meanings and counts as *told*, and where each stands."""
    listed, at = [], 0.0
    shades: Counter[str] = Counter()
    for name, tone, meaning, count in told:
        if not count:
            continue
        # One row of a million can still be seen.
        width = max(0.5, 100 * count / max(1, rows))
        listed.append(
            {
                "name": name,
                "tone": f"{tone} n{shades[tone] % _SHADES}",
                "meaning": meaning,
                "count": count,
                "share": share(count, rows),
                "at": round(at, 3),
                "width": round(width, 3),
            }
        )
        at += width
        shades[tone] += 1
    return {"listed": listed, "width": round(at, 3) or 100}


def ceiling(most: float) -> tuple[float, float]:
    """Return where an axis up to *most* ends, and the step between its lines: round numbers."""
    if most <= 0:
        return 1.0, 1.0
    power = 10.0 ** math.floor(math.log10(most))
    for step in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0):
        lines = math.ceil(most / (step * power) - 1e-9)
        if lines <= 5:
            return lines * step * power, step * power
    return 10 * power, 5 * power


def plain(text: object) -> str:
    r"""Return *text* with what cannot be seen written out: a right-to-left mark as ``\u200f``."""
    told = str(text)
    if told.isprintable():
        return told
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in told)


_SHADES = 4
_FAILED = frozenset(kind.value for kind in OutcomeKind if kind not in SUCCEEDED)
