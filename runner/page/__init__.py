"""The page of a run: one file that shows it, asks nobody for anything, and can be handed on.

`course` and `happenings` read what happened over time, folded by `timeline`; `listing` chooses the
rows to be listed; `charts` and `words` say it; `making` puts the page together.
"""

from runner.page.making import PAGE, leave_page, page_of, write_page

__all__ = ["PAGE", "leave_page", "page_of", "write_page"]
