"""What a page says of a run, piece by piece, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.folder import Manifest
from runner.lineage import Member
from runner.model import ErrorClass, OutcomeKind
from runner.page import words
from runner.page.course import Course
from runner.page.listing import ALL_UP_TO, Listing
from runner.results import FAILED_FILE, RunVerdict, Summary

_HOLDS = 12
TONES = {kind.value: words.tone_of(kind) for kind in OutcomeKind}
"""The tone of each outcome."""
_BAD = tuple(kind for kind in OutcomeKind if words.tone_of(kind) == "bad")
_WORTH_A_RETRY = (
    OutcomeKind.EXHAUSTED,
    OutcomeKind.CONFLICTED,
    OutcomeKind.UNCONFIRMED,
    OutcomeKind.ERRORED,
)


def kind_of(manifest: Manifest) -> str:
    """Return what sort of a run it is, and of which other one."""
    if manifest.relation is None:
        return "Run"
    return f"{manifest.relation.capitalize()} of {manifest.parent}"


def facts_of(manifest: Manifest, summary: Summary, course: Course) -> list[tuple[str, str, str]]:
    """Return names, values, and what is to be added to them in small print."""
    told, settings = manifest.input, manifest.settings
    digest = f"SHA-256 {told.sha256[:12]}…" if told.sha256 else ""
    users = f"{manifest.users:,} users" if manifest.users else ""
    project = f"project {settings.project_id}" if settings.project_id else ""
    work_s = sum(stretch.seconds for stretch in course.stretches)
    sessions = len(course.stretches)
    unknown = "at work" if summary.verdict is None else "its end is not known"
    ended = f"ended {words.moment(summary.ended)}" if summary.ended else unknown
    facts = [
        ("Job", manifest.job, _versions(manifest)),
        ("Input", told.name, digest),
        ("Rows", f"{summary.rows:,}", users),
        ("Host", settings.base_url, project),
        ("Started", words.moment(summary.started), ended),
        (
            "Took",
            words.duration(work_s) if manifest.started else "nothing was begun",
            f"at work, in {sessions} sessions" if sessions > 1 else "",
        ),
        ("Exit code", _code(summary), ""),
    ]
    if manifest.planned:
        applied = f"applied {words.moment(manifest.applied)}" if manifest.applied else ""
        facts.append(("Planned", words.moment(manifest.planned), applied))
    return facts


def _versions(manifest: Manifest) -> str:
    version = manifest.versions.get("syncshift")
    return f"Syncshift {version}" if version else ""


def _code(summary: Summary) -> str:
    if summary.exit_code is None:
        return "none yet" if summary.verdict is None else "none: it was killed"
    return str(summary.exit_code)


def commands_of(
    manifest: Manifest, summary: Summary, *, sent: bool
) -> list[tuple[str, str | None, str]]:
    """Return what can be done now: a title, a command, and who can do it or why not."""
    run_id = manifest.run_id
    found: list[tuple[str, str | None, str]] = []
    if sent:
        hand = "by whoever has the run's folder and the project's signing key"
        found.append(("To undo it", f"syncshift rollback {run_id}", hand))
    else:
        found.append(("To undo it", None, "no change was sent, so there is nothing to undo"))
    if summary.counts["unprocessed"] and str(summary.verdict) in {"stopped", "interrupted"}:
        found.append(("To go on", summary.resumed_by, "rows that ended stay as they are"))
    elif any(summary.counts[kind] for kind in _WORTH_A_RETRY):
        note = "sends again what failed for a passing reason"
        found.append(("To try again", f"syncshift retry {run_id}", note))
    return found


def outcomes_of(summary: Summary) -> dict[str, Any]:
    """Return the outcomes that occur, and where each stands in the bar."""
    told = [
        (kind.value, words.tone_of(kind), words.MEANINGS[kind], summary.counts[kind])
        for kind in OutcomeKind
    ]
    other = {None: words.NOT_YET, RunVerdict.REFUSED: words.NOT_BEGUN}
    meaning = other.get(summary.verdict, words.UNPROCESSED)
    left = ("unprocessed", "left", meaning, summary.counts["unprocessed"])
    return words.bar([*told, left], summary.rows)


def holds_of(course: Course) -> dict[str, Any]:
    """Return the longest waits, in order, and how many there were."""
    longest = sorted(course.happenings.holds, key=lambda hold: -hold.seconds)[:_HOLDS]
    total = course.happenings.held.total()
    return {
        "listed": [
            (words.moment(h.since), h.reason, words.duration(h.seconds), h.detail)
            for h in sorted(longest, key=lambda hold: hold.since_s)
        ],
        "total": total,
        "whole": total == len(course.happenings.holds),
        "lanes": course.happenings.lanes,
    }


def latency_of(summary: Summary) -> list[dict[str, Any]]:
    """Return how long rows took, as bars."""
    latency = summary.latency_ms
    if latency is None:
        return []
    named = [
        ("half of the rows", "p50", latency.p50),
        ("nine of ten", "p90", latency.p90),
        ("99 of 100", "p99", latency.p99),
        ("the slowest", "max", latency.max),
    ]
    return [
        {
            "name": name,
            "short": short,
            "told": words.duration(ms / 1000),
            "width": round(100 * ms / max(1, latency.max), 2),
        }
        for name, short, ms in named
    ]


def pace_of(summary: Summary, course: Course) -> list[tuple[str, str]]:
    """Return how fast it went, and under which limits."""
    rate = "" if summary.rate is None else f"{summary.rate:,.1f} rows a second"
    limits = summary.limits
    ceiling = "no ceiling" if limits["rate"] is None else f"at most {limits['rate']:g} a second"
    facts = [
        ("Pace", rate),
        ("Limits", f"{limits['concurrency']} in flight, {ceiling}"),
        ("Changes sent", f"{summary.attempts:,}"),
        ("Re-syncs started", f"{summary.resyncs:,}"),
    ]
    if course.happenings.lanes:
        facts.append(("Users slowed down alone", f"{course.happenings.lanes:,}"))
    return [(name, value) for name, value in facts if value]


def attempts_of(course: Course) -> list[dict[str, Any]]:
    """Return how often the changes of a row were sent, as bars."""
    if set(course.attempts) == {1}:
        return []  # a single bar, of which the number is told already
    most = max(course.attempts.values(), default=0)
    return [
        {
            "name": _times(number),
            "count": count,
            "width": round(100 * count / most, 2),
        }
        for number, count in sorted(course.attempts.items())
    ]


def _times(number: int) -> str:
    return {1: "once", 2: "twice", 9: "9 times or more"}.get(number, f"{number} times")


def errors_of(summary: Summary) -> list[dict[str, Any]]:
    """Return the error classes that occur, the most frequent first."""
    most = max(summary.error_classes.values(), default=0)
    ranked = sorted(summary.error_classes.items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        {
            "name": name,
            "count": count,
            "meaning": words.ERRORS[ErrorClass(name)],
            "width": round(100 * count / most, 2),
        }
        for name, count in ranked
    ]


def changes_of(course: Course) -> list[dict[str, Any]]:
    """Return, by field, how many syncs were changed, and from what to what most often."""
    found = []
    for field, most in sorted(course.changed.items()):
        pairs = most.top(5)
        # Where nearly every row has values of its own, a list of five says nothing.
        telling = len(most) <= 5 or (bool(pairs) and pairs[0][1] > 1)
        found.append(
            {
                "field": field,
                "count": course.fields[field],
                "pairs": [
                    {"before": old or None, "after": new, "count": count}
                    for (old, new), count in (pairs if telling else [])
                ],
                "more": max(0, len(most) - 5) if telling else 0,
                "exact": most.exact,
            }
        )
    return found


def members_of(family: Sequence[Member]) -> list[dict[str, str]]:
    """Return the runs of a family."""
    return [
        {
            "run_id": member.run_id,
            "relation": f"{member.manifest.relation} of {member.manifest.parent}"
            if member.manifest.relation
            else "the first",
            "rows": f"{member.manifest.rows or 0:,}",
            "state": member.manifest.state,
            "started": words.moment(member.manifest.started),
            "ended": words.moment(member.manifest.ended),
        }
        for member in family
    ]


def left_out_of(listing: Listing, summary: Summary) -> str:
    """Say in plain words which rows are not in the table."""
    said = []
    missing = sum(listing.left_out.values())
    if missing:
        each = ", ".join(f"{n:,} {name}" for name, n in listing.left_out.items())
        said.append(
            f"{missing:,} rows that did not succeed are left out, so that the page stays small: "
            f"{each}. All of them are in {FAILED_FILE} and unprocessed.csv, beside this page."
        )
    good = summary.rows - summary.counts["unprocessed"] - failed_of(summary)
    if summary.rows > ALL_UP_TO and good:
        said.append(f"The {good:,} rows that succeeded are in succeeded.csv, beside this page.")
    return " ".join(said)


def failed_of(summary: Summary) -> int:
    """Return how many rows count as failed."""
    return sum(summary.counts[kind] for kind in _BAD)
