"""The page that lists the runs of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.page import words
from runner.page.rendering import render
from runner.results import RunVerdict
from runner.version import VERSION


def history_page(
    listed: Sequence[Mapping[str, Any]], *, folder: str, left_out: Sequence[str]
) -> bytes:
    """Return the page that lists runs, the newest first.

    Each of *listed* has the fields of a roster's entry and ``address``: where its own page is, as
    seen from this one. *left_out* says which runs of *folder* could not be read, and why.
    """
    runs = [
        {
            **run,
            "mark": words.mark_of(run["verdict"]),
            "said": _said(run["verdict"], run["state"]),
            "began": words.moment(run["created"]),
        }
        for run in sorted(listed, key=lambda run: (run["created"], run["run_id"]), reverse=True)
    ]
    view = {"title": "Runs", "runs": runs, "folder": folder, "left_out": left_out}
    return render("runs.html", {**view, "data": None, "version": VERSION}, "list")


def _said(verdict: RunVerdict | None, state: str) -> str:
    if verdict is not None:
        return str(verdict)
    return "planned" if state == "planned" else "at work"
