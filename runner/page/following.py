"""The page of a run while it goes: the same picture, out of the journals as they grow."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from itertools import islice
from typing import Any

import msgspec

from runner import rows as reading
from runner.account import add_up, family_of, input_of
from runner.errors import InputError
from runner.folder import Folder, Manifest
from runner.job import find
from runner.log import stamp
from runner.model import ErrorClass, OutcomeKind
from runner.page import words
from runner.page.course import Course
from runner.page.listing import SHOWN, Listing, place_of
from runner.page.making import PAGE, course_of, view_of
from runner.page.rendering import render

_LATEST = 15


class Waiting(msgspec.Struct, frozen=True):
    """One reason why somebody waits."""

    reason: str
    detail: str
    since: str
    """RFC 3339 in UTC."""
    until: str | None


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """What a run says of itself at this moment, or what can be seen of it from outside."""

    at_work: bool
    """Whether a process holds the run."""
    heeds: bool
    """Whether it takes orders."""
    rows: int
    settled: int
    """Rows that have ended."""
    rate: float | None
    """Rows that ended in a second, lately."""
    in_flight: int | None
    """Requests on their way; None: it does not say."""
    followed: int | None
    """Rows that were accepted and are still to be proved; likewise."""
    waiting: tuple[Waiting, ...]
    limits: dict[str, Any] | None
    """The limits in force, by the names of the settings; likewise."""
    stopping: str | None
    """Why it takes no more rows; None: it does."""


class Latest(msgspec.Struct, frozen=True):
    """A row that failed a moment ago."""

    timestamp: str
    row: int
    sync_id: str
    outcome: OutcomeKind
    error_class: ErrorClass | None = None
    error: str | None = None


_decode_latest = msgspec.json.Decoder(Latest).decode


def _waits(course: Course) -> dict[str, float]:
    waits: dict[str, float] = defaultdict(float)
    for hold in course.happenings.holds:
        waits[hold.reason] += hold.seconds
    return dict(sorted(waits.items()))


def _owners(folder: Folder, manifest: Manifest, course: Course) -> Listing:
    """Return whose rows failed; integrations stand in the input alone, as far as there is one."""
    listing = Listing(users=course.users)
    if not any(course.failed):
        return listing
    source = input_of(folder, manifest)
    with contextlib.suppress(InputError, OSError):
        names = reading.own_columns(source)
        place = place_of("integration", names)
        if place is not None:
            cells = reading.told(source, names[place])
            for failed, (name,) in zip(islice(course.failed, 1, None), cells, strict=False):
                if failed and name:
                    listing.integrations.add(name[:SHOWN])
    return listing


def live_page(folder: Folder, now: Now, *, wall_s: float, number: int) -> bytes:
    """Return the page of a run that is watched, as it is at *wall_s*, seconds since the epoch.

    *number* says which picture it is. Raises `NoSuchRun`, `JournalDamaged`, `RunRefused`.
    """
    manifest = folder.read()
    job = find(manifest.job)
    summary = add_up(folder, manifest, job, live=now.at_work, files=False)
    family = family_of(folder, manifest)
    alive = stamp(wall_s) if now.at_work and summary.verdict is None else None
    course = course_of(family, job, Course((), latest=_LATEST), alive=alive)
    view = view_of(manifest, summary, family, course, _owners(folder, manifest, course))
    has_page = not now.at_work and (folder.path / PAGE).is_file()
    if alive is not None:
        # By now; what is written down tells only of what is over.
        view["waits"] = [(name, words.duration(s)) for name, s in _waits(course).items()]
    view["commands"] = [
        one for one in view["commands"] if not now.at_work or one[0] == "To undo it"
    ]
    return render(
        "live.html",
        {
            **view,
            "now": now,
            "share": 100 * now.settled / now.rows if now.rows else 0,
            "picture": number,
            "report": PAGE if has_page else None,
            "latest": [_decode_latest(raw) for raw in reversed(course.latest)],
        },
        "live",
    )
