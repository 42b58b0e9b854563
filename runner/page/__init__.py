"""The page of a run: one file that shows it, asks nobody for anything, and can be handed on.

`course` and `happenings` read what happened over time, folded by `timeline`; `listing` chooses the
rows to be listed; `charts` and `words` say it; `making` puts the page together, `following` that of
a run at work, `history` the list of runs.
"""

from runner.page.following import Now, Waiting, live_page
from runner.page.history import history_page
from runner.page.making import PAGE, leave_page, page_of, write_page
from runner.page.rendering import Kind, policy_of

__all__ = [
    "PAGE",
    "Kind",
    "Now",
    "Waiting",
    "history_page",
    "leave_page",
    "live_page",
    "page_of",
    "policy_of",
    "write_page",
]
