"""What is about to happen, as a person reads it before a yes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.opening import Opened


def intention(opened: Opened) -> Any:
    """Return what is about to happen, in numbers."""
    from rich.console import Group
    from rich.text import Text

    from runner.cli.screen import facts, plain
    from runner.cli.telling import PROOFS, budget_of, slices_of, starts_of
    from runner.forecast import rounds_of
    from runner.rig import limit_of

    checked, settings = opened.checked, opened.settings
    left = opened.left
    rows = [f"{left - opened.following:,} to carry"]
    if opened.following:
        rows.append(f"{opened.following:,} accepted, to be followed")
    if opened.resumed:
        rows.append(f"{checked.rows - left:,} ended before")
    if checked.duplicates:
        rows.append(f"{checked.duplicates:,} duplicates")
    if opened.irreversible:
        rows.append(f"{opened.irreversible:,} that cannot be restored")
    elif checked.invalid:
        rows.append(f"{checked.invalid:,} invalid, passed over")
    rate = f"{settings.rate:g} requests a second" if settings.rate else "no ceiling on the rate"
    limits = (
        f"{settings.concurrency} requests in flight, {rate}, {settings.max_attempts} attempts each"
    )
    failures = limit_of(opened).in_words(rows=left, strict=settings.strict)
    follows = opened.resyncs or opened.following
    at_most = "up to " if opened.changes is None else ""
    resyncs = (
        f"{at_most}{opened.resyncs:,}: a changed credential makes Paragon sync all anew"
        if opened.resyncs
        else "none"
    )
    rounds = rounds_of(opened.resyncs, settings, opened.folder.path.parent)
    budget = budget_of(rounds, settings) if opened.resyncs else {}
    head = Text.assemble((opened.job.name, "bold"), " on ", (settings.base_url, "bold"))
    known = {
        "run": f"{opened.folder.run_id} ({opened.folder.path})",
        "rows": ", ".join(rows),
    }
    minded = [Text.assemble(("  mind: ", "yellow"), plain(remark)) for remark in opened.remarks]
    if not left:
        return Group(head, facts(known), *minded)
    return Group(
        head,
        facts(
            {
                **known,
                "users": f"{checked.users:,}",
                "re-syncs": resyncs,
                **budget,
                "limits": limits,
                "failures": failures + (", counted afresh" if opened.resumed else ""),
                **slices_of(opened),
                **starts_of(opened.manifest),
                "proof": PROOFS[settings.until or (None if follows else "accepted")],
            }
        ),
        *minded,
    )
