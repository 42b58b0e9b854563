"""The page of a run that was planned and not yet applied: what would become of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runner.folder import Folder, Manifest
from runner.forecast import OF_PLANS, PLAN, PROBLEMS, Plan, plan_of
from runner.journal import scan
from runner.model import Finding, FindingKind, State
from runner.page import words
from runner.page.listing import ALL_UP_TO, Columns, Listing, Quotas
from runner.page.tables import Column, first_rows
from runner.results.index import not_understood
from runner.streams import csv_line

_NAMES = (
    "row",
    "line",
    "finding",
    "sync_id",
    "user_id",
    "before",
    "desired",
    "resync",
    "error_class",
    "error",
)
_COLUMNS = [
    Column("row", "Row", "number", 0),
    Column("kind", "Finding", "kind", 2),
    Column("sync", "Sync and user", "id", 3, 4),
    Column("change", "From and to", "change", 5, 6),
    Column("resync", "Re-sync", "text", 7),
    Column("why", "Why", "why", 8, 9),
]
TONES = {kind.value: "bad" if kind in PROBLEMS else "good" for kind in OF_PLANS}
_DECODE = msgspec.json.Decoder(Finding).decode


def view_of(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    """Return what the page of a plan shows. Raises `JournalDamaged`, `RunRefused`."""
    plan = plan_of(folder, manifest)
    listing = _listing(folder, plan)
    whole = plan.state == "planned"
    missing = plan.rows - sum(plan.findings.values())
    ready = f"Every row was looked at; {plan.findings['change']:,} would be changed."
    return {
        "title": f"{plan.state}: {plan.run_id}",
        "run_id": plan.run_id,
        "kind": "Plan",
        "verdict": plan.state,
        "exit_code": None,
        "tone": "calm" if whole else "left",
        "sign": "◇" if whole else "‖",
        "sentence": f"{ready} Nothing was sent."
        if whole
        else "The plan is not whole and cannot be applied. Nothing was sent.",
        "reason": manifest.reason,
        "facts": _facts(plan, manifest),
        "commands": [("To carry it out", f"syncshift apply {plan.run_id}", "once, within a day")]
        if whole
        else [("To plan anew", f"syncshift plan {manifest.job} {manifest.input.name}", "")],
        "outcomes": _findings(plan, missing),
        "rows": plan.rows,
        "warnings": plan.warnings,
        "left_out": _left_out(listing, plan),
        "columns": _COLUMNS,
        "first": first_rows(listing, _COLUMNS, tones=TONES),
        "listed": len(listing.lines),
        "versions": manifest.versions,
        "moment": words.moment,
        "data": {
            "run_id": plan.run_id,
            "verdict": None,
            "exit_code": None,
            "charts": [],
            "time": None,
            "table": {
                "header": listing.header,
                "lines": list(listing.lines.values()),
                "columns": _COLUMNS,
                "own": 0,
                "tones": TONES,
                "extras": None,
                "file": None,
            },
        },
    }


def _facts(plan: Plan, manifest: Manifest) -> list[tuple[str, str, str]]:
    told, settings = manifest.input, manifest.settings
    project = f"project {settings.project_id}" if settings.project_id else ""
    looked = f"{plan.looks:,} syncs in {words.duration(plan.looked_s)}"
    estimate = words.duration(plan.estimate_s) if plan.estimate_s else "not known"
    resyncs = f"{plan.resyncs:,} would start" if plan.resyncs else "none would start"
    return [
        ("Job", manifest.job, ""),
        ("Input", told.name, f"SHA-256 {told.sha256[:12]}…" if told.sha256 else ""),
        ("Rows", f"{plan.rows:,}", f"{plan.users:,} users"),
        ("Host", settings.base_url, project),
        ("Planned", words.moment(manifest.planned or manifest.created), ""),
        ("Looked at", looked, ""),
        ("Re-syncs", resyncs, ""),
        ("To apply takes", f"about {estimate}", "re-syncs not counted"),
    ]


def _findings(plan: Plan, missing: int) -> dict[str, Any]:
    """Return the findings that occur, and where each stands in the bar."""
    told = [
        (name, TONES[name], words.FINDINGS[FindingKind(name)], count)
        for name, count in plan.findings.items()
    ]
    return words.bar(
        [*told, ("not looked at", "left", "the plan ended before", missing)], plan.rows
    )


def _listing(folder: Folder, plan: Plan) -> Listing:
    """Choose the rows that the page lists: all of a small plan, of a large one the problems."""
    small = plan.rows <= ALL_UP_TO
    kinds = frozenset(OF_PLANS) if small else PROBLEMS
    listing = Listing(header=_line(_NAMES), columns=Columns(3, 4, None, 0))
    quotas = Quotas(small=small)
    quotas.share({k: n for k, n in plan.findings.items() if FindingKind(k) in kinds}, size=400)
    path = folder.path / PLAN
    for line in scan(path) if path.exists() else ():
        try:
            found = _DECODE(line.data)
        except msgspec.MsgspecError as error:
            raise not_understood(path, f"line {line.seq}", error) from error
        if found.finding in kinds:
            quotas.offer(found.finding, found.row, _line_of(found), listing)
    return quotas.done(listing)


def _line_of(found: Finding) -> str:
    return _line(
        (
            str(found.row),
            str(found.line),
            found.finding.value,
            found.sync_id,
            found.user_id,
            _told(found.before),
            _told(found.desired),
            "yes" if found.resync else "",
            found.error_class.value if found.error_class else "",
            found.error or "",
        )
    )


def _line(cells: Sequence[object]) -> str:
    return csv_line(cells).decode().removesuffix("\r\n")


def _told(state: State | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in state.items()) if state else ""


def _left_out(listing: Listing, plan: Plan) -> str:
    said = []
    if missing := sum(listing.left_out.values()):
        each = ", ".join(f"{n:,} {name}" for name, n in listing.left_out.items())
        said.append(f"{missing:,} rows are left out, so that the page stays small: {each}.")
    if plan.rows > ALL_UP_TO:
        said.append("Of a plan of this size only the rows are listed that would not be changed.")
    return " ".join([*said, f"Every row is in {PLAN}, beside this page."] if said else [])
