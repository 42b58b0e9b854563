"""How a plan and a proof look to a person."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from runner.cli import screen
from runner.cli.telling import starts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.folder import Manifest
    from runner.forecast import Plan
    from runner.model import Finding
    from runner.rounds import Verified

_SHOWN = 10

_SAID = {
    "change": "to be changed",
    "unchanged": "already so",
    "duplicate": "ask for what an earlier row asks for",
    "conflicted": "not in the state that the row expects",
    "blocked": "refused by the API",
    "unknown": "the API does not tell, or could not be asked",
    "invalid": "cannot become a change",
    "in_force": "as the run left it",
    "drifted": "something else by now",
    "gone": "no such sync of this user any more",
    "not_told": "the API does not tell, or could not be asked",
}
_GOOD = frozenset({"change", "unchanged", "duplicate", "in_force"})


def plan_picture(plan: Plan, manifest: Manifest, *, live: bool = False) -> RenderableType:
    """Return what the plan of a run comes to, and what can be run next; *live*: it is made now."""
    known = {}
    if manifest.reason:
        known["why"] = manifest.reason
    known["re-syncs"] = f"{plan.resyncs:,} would start" if plan.resyncs else "none would start"
    known.update(_budget(plan, manifest))
    known["users"] = f"{plan.users:,}"
    if plan.warnings:
        known["mind"] = (
            f"{plan.warnings:,} of the syncs to be changed are ERRORED or DISABLED; a change may "
            "not revive them"
        )
    if plan.estimate_s is not None:
        known["duration"] = _estimate(plan)
    known.update(_waves(plan, manifest))
    if plan.state == "planned":
        known.update(starts_of(manifest, planned=True))
    known["plan"] = plan.file
    if plan.state == "planned":
        known["next"] = f"syncshift apply {plan.run_id}"
        head = Text.assemble(("planned", "bold green"), ": every row was looked at, nothing sent")
    elif live:
        head = Text.assemble(("at work", "bold"), ": the plan is being made or taken up")
    else:
        known["next"] = f"syncshift plan {manifest.job} {manifest.input.name}"
        head = Text.assemble(
            (plan.state, "bold yellow"), ": the plan is not whole and cannot be applied"
        )
    missing = plan.rows - sum(plan.findings.values())
    counts = _counts(plan.findings, missing)
    return Group(head, counts, screen.facts(known), *_problems("problems", plan.problems))


def _budget(plan: Plan, manifest: Manifest) -> dict[str, str]:
    """Return what the re-sync budget would make of the plan."""
    from runner.cli.telling import budget_of
    from runner.forecast import rounds_of

    if not plan.resyncs:
        return {}
    runs_dir = Path(plan.file).parent.parent
    return budget_of(rounds_of(plan.resyncs, manifest.settings, runs_dir), manifest.settings)


def _waves(plan: Plan, manifest: Manifest) -> dict[str, str]:
    """Return in which waves the plan would be applied, once it is whole."""
    from runner.cli.telling import waves_of
    from runner.rollout import Waves

    settings = manifest.settings
    if settings.waves is None or not plan.whole:
        return {}
    return waves_of(settings, Waves.parse(settings.waves).sizes(plan.findings["change"]))


def proof_picture(verified: Verified) -> RenderableType:
    """Return what a proof came to."""
    if not verified.rows:
        return Text("the run has touched no sync; there is nothing to verify")
    holds = verified.findings["in_force"] == verified.rows
    head = Text.assemble(
        ("in force", "bold green") if holds else ("not in force", "bold red"),
        f": {verified.findings['in_force']:,} of {verified.rows:,} syncs are as the run left them",
    )
    known = {}
    if verified.reason:
        known["why"] = verified.reason
    known |= {"at": verified.verified_at, "file": verified.file or ""}
    missing = verified.rows - sum(verified.findings.values())
    counts = _counts(verified.findings, missing)
    return Group(head, counts, screen.facts(known), *_problems("deviations", verified.deviations))


def _estimate(plan: Plan) -> str:
    about = screen.duration(math.ceil(plan.estimate_s or 0))
    took = f"{plan.looked_s:.1f}s" if plan.looked_s < 10 else screen.duration(plan.looked_s)
    return (
        f"about {about} to apply, re-syncs not counted: {plan.looks:,} looks took {took} at these "
        "limits"
    )


def _counts(findings: Mapping[str, int], missing: int) -> RenderableType:
    counted = {name: count for name, count in findings.items() if count}
    widest = max((len(f"{count:,}") for count in (*counted.values(), missing)), default=1)
    names = max((len(name) for name in counted), default=0)
    lines = [
        Text.assemble(
            f"  {count:>{widest},}  ",
            (f"{name.replace('_', ' '):<{names}}", "green" if name in _GOOD else "red"),
            (f"  {_SAID[name]}", "dim"),
        )
        for name, count in counted.items()
    ]
    if missing:
        lines.append(Text.assemble(f"  {missing:>{widest},}  ", ("not looked at", "yellow")))
    return Group(*lines)


def _problems(title: str, found: tuple[Finding, ...]) -> list[RenderableType]:
    if not found:
        return []
    lines: list[RenderableType] = [Text(f"  first {title}:", style="dim")]
    lines += [
        Text(screen.plain(f"    row {f.row} (line {f.line}), {f.sync_id}: {f.finding}, {f.error}"))
        for f in found[:_SHOWN]
    ]
    return lines
