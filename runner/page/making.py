"""Puts the page of a run together, out of what lies in its folder and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runner.account import family_of, standing_of
from runner.errors import DiskFault
from runner.folder import Folder, Manifest
from runner.job import Job
from runner.journal import write_file
from runner.lineage import Member
from runner.log import diagnostics
from runner.model import Change, State
from runner.page import planned, words
from runner.page.charts import Chart, bands_of, charts_of, drawn, marks_of, sampled
from runner.page.course import Course, Part
from runner.page.listing import Listing, list_rows
from runner.page.rendering import render
from runner.page.sections import (
    TONES,
    attempts_of,
    changes_of,
    commands_of,
    errors_of,
    facts_of,
    failed_of,
    holds_of,
    kind_of,
    latency_of,
    left_out_of,
    members_of,
    outcomes_of,
    pace_of,
)
from runner.page.tables import columns_of_runs, first_rows
from runner.record import EVENTS, REPORT, UNDO
from runner.results import FAILED_FILE, FamilyIndex, Summary

PAGE = "report.html"
_TOP = 10


def write_page(folder: Folder, manifest: Manifest, job: Job, summary: Summary | None) -> Path:
    """Write ``report.html`` of a run that is at rest, and return where it is.

    *summary* is what `account.add_up` said when it wrote the result files; of a run that is only
    planned none is needed. The same bytes each time. Raises `JournalDamaged`, `RunRefused` and
    `DiskFault`.
    """
    path = folder.path / PAGE
    write_file(path, page_of(folder, manifest, job, summary))
    return path


def leave_page(folder: Folder, manifest: Manifest, job: Job, summary: Summary | None) -> None:
    """Write ``report.html`` at the end of a run, if the disk has room for it.

    The page is only a picture: where it does not fit, none is left that tells of an earlier end,
    and the run ends as it would have. Raises `JournalDamaged`, `RunRefused`.
    """
    try:
        write_page(folder, manifest, job, summary)
    except DiskFault as fault:
        with contextlib.suppress(OSError):
            (folder.path / PAGE).unlink()
        diagnostics().warning(
            "page.not_written", reason=str(fault), then=f"syncshift report {folder.run_id}"
        )


def page_of(folder: Folder, manifest: Manifest, job: Job, summary: Summary | None) -> bytes:
    """Return the page as `write_page` writes it."""
    if summary is None or (manifest.is_plan and manifest.applied is None):
        return render("plan.html", planned.view_of(folder, manifest))
    return render("run.html", _view_of(folder, manifest, job, summary))


def _view_of(folder: Folder, manifest: Manifest, job: Job, summary: Summary) -> dict[str, Any]:
    listing = list_rows(
        folder.path,
        rows=summary.rows,
        classes=summary.error_classes,
        unprocessed=summary.counts["unprocessed"],
    )
    family = family_of(folder, manifest)
    course = course_of(family, job, Course(listing.lines))
    return view_of(manifest, summary, family, course, listing)


def view_of(
    manifest: Manifest,
    summary: Summary,
    family: Sequence[Member],
    course: Course,
    listing: Listing,
) -> dict[str, Any]:
    """Return what the template of a run shows, rows and all."""
    unprocessed = summary.counts["unprocessed"]
    charts = charts_of(
        course,
        concurrency=manifest.settings.concurrency,
        budget=_budget_of(manifest),
        live=summary.verdict is None,
    )
    columns = columns_of_runs(listing)
    tone, sign = words.mark_of(summary.verdict)
    reason = None if summary.family and not unprocessed else manifest.reason
    return {
        "title": f"{summary.verdict or 'at work'}: {manifest.run_id}",
        "run_id": manifest.run_id,
        "kind": kind_of(manifest),
        "verdict": str(summary.verdict or "at work"),
        "exit_code": summary.exit_code,
        "tone": tone,
        "sign": sign,
        "sentence": words.sentence(summary),
        "reason": reason,
        "facts": facts_of(manifest, summary, course),
        "commands": commands_of(manifest, summary, sent=_has_sent(family)),
        "outcomes": outcomes_of(summary),
        "rows": summary.rows,
        "to_follow": summary.to_follow,
        "charts": [
            {"chart": c, "drawn": drawn(c, course), "sampled": sampled(c, course)} for c in charts
        ],
        "waits": [(name, words.duration(s)) for name, s in summary.waits.items()],
        "holds": holds_of(course),
        "latency": latency_of(summary),
        "requests": pace_of(summary, course),
        "attempts": attempts_of(course),
        "errors": errors_of(summary),
        "waves": course.happenings.waves,
        "steered": course.happenings.steered,
        "changed": changes_of(course),
        "restored": manifest.undoes,
        "users": listing.users,
        "integrations": listing.integrations,
        "top": _TOP,
        "family": members_of(family) if len(family) > 1 else [],
        "columns": columns,
        "first": first_rows(listing, columns, tones=TONES, extras=course.extras),
        "listed": len(listing.lines),
        "left_out": left_out_of(listing, summary),
        "data": _data(manifest, summary, course, listing, charts),
        "versions": manifest.versions,
        "moment": words.moment,
    }


def course_of(
    family: Sequence[Member], job: Job, course: Course, *, alive: str | None = None
) -> Course:
    """Read into *course* what happened over time in a run and its retries, and return it.

    *alive*: when the last of them was seen at work, from outside.
    """

    def starts_resync(desired: State, before: State | None) -> bool:
        return job.starts_resync(Change(0, 0, "", "", desired), before)

    index = standing_of(family) if len(family) > 1 else None
    for number, member in enumerate(family):
        part = _part(member, alive if number == len(family) - 1 else None)
        if isinstance(index, FamilyIndex):
            part = msgspec.structs.replace(
                part, is_last=_is_last(index, number), origin=_origin(index, number)
            )
        course.take(part, starts_resync)
    return course


def _part(member: Member, alive: str | None) -> Part:
    manifest, path = member.manifest, member.folder.path
    started = manifest.started or manifest.created
    return Part(member.run_id, path / REPORT, path / EVENTS, started, manifest.ended, alive)


def _is_last(index: FamilyIndex, number: int) -> Any:
    return lambda row: index.is_last(number, row)


def _origin(index: FamilyIndex, number: int) -> Any:
    return lambda row: index.origin(number, row)


def _budget_of(manifest: Manifest) -> float | None:
    """Return how many re-syncs may be in flight at a time; None: any number."""
    budget = manifest.settings.resync_budget
    return None if budget is None else float(budget)


def _has_sent(family: Sequence[Member]) -> bool:
    undo = [member.folder.path / UNDO for member in family]
    return any(path.exists() and path.stat().st_size for path in undo)


def _data(
    manifest: Manifest, summary: Summary, course: Course, listing: Listing, charts: Sequence[Chart]
) -> dict[str, Any]:
    """Return what the page's script works with."""
    return {
        "run_id": manifest.run_id,
        "verdict": summary.verdict,
        "exit_code": summary.exit_code,
        "charts": charts,
        "time": {
            "width_s": course.time.width_s,
            "moments": list(course.moments()),
            "bands": bands_of(course),
            "marks": marks_of(course),
        }
        if charts
        else None,
        "table": _table(summary, course, listing) if listing.columns else None,
    }


def _table(summary: Summary, course: Course, listing: Listing) -> dict[str, Any]:
    extras = [course.extras.get(row) for row in listing.lines]
    return {
        "header": listing.header,
        "lines": list(listing.lines.values()),
        "columns": columns_of_runs(listing),
        "own": listing.columns.row if listing.columns else 0,
        "tones": TONES,
        "extras": {
            "took": [extra.elapsed_ms if extra else None for extra in extras],
            "ended": [extra.ended if extra else None for extra in extras],
            "before": [_short(_told(extra.before), 100) if extra else None for extra in extras],
            "request": [_short(extra.request_id, 60) if extra else None for extra in extras],
        },
        "file": {"name": FAILED_FILE, "tone": "bad", "rows": failed_of(summary)},
    }


def _short(text: str | None, most: int) -> str | None:
    # These are no part of the lines, for whose sizes there is a limit.
    return text if text is None or len(text) <= most else text[: most - 1] + "…"


def _told(state: State | None) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in state.items()) if state else None
