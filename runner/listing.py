"""Asks for the syncs of one user, and understands what a list says of them.

The documentation shows no paging and does not say whether an item names its
credential: both are used where they come, and missed by nobody where they do not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from runner.errors import SyncshiftError
from runner.job import CREDENTIAL, FREQUENCY, SyncJob
from runner.log import diagnostics
from runner.model import Change, ErrorClass, Field, Request, Response, State, Verdict
from runner.retry import Ruling, in_one_line
from runner.rows import Columns
from runner.rows.columns import SYNC_ID, rules_of
from runner.steps import Work
from runner.survey import Looks
from runner.turnstile import Closing

MOST_BYTES = 4 * 1024 * 1024
"""Of one page; some 25,000 syncs."""
MOST_PAGES = 1_000
_SYNC_ID_FAULT = rules_of(Columns(owned=(CREDENTIAL,)))[SYNC_ID].fault


class Page(Change, frozen=True, gc=False):
    """What is asked for: the syncs of a user that use `expected`, from `cursor` on."""

    cursor: str | None = None


class Listed(msgspec.Struct, frozen=True, gc=False):
    """One sync, as a list tells it."""

    sync_id: str
    integration: str
    pipeline: str
    status: str
    credential_id: str | None
    """None: the list does not tell."""


class Syncs(msgspec.Struct, frozen=True, gc=False):
    """One page of a user's list."""

    items: tuple[Listed, ...]
    cursor: str | None
    """Asks for the next page; None: this is the last."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """What came of asking for one user's syncs."""

    asked: Change
    syncs: tuple[Listed, ...] = ()
    ruling: Ruling | None = None
    """Why they were not told; None: these are all."""
    http_status: int | None = None

    @property
    def user_id(self) -> str:
        """Whose they are."""
        return self.asked.user_id


class _Body(msgspec.Struct):
    data: list[dict[str, Any]]
    paging: Any = None


_DECODE = msgspec.json.Decoder(_Body).decode


class Listing(SyncJob):
    """Reads lists of syncs. It is no job to be run: what it reads cannot be written."""

    name = "list-syncs"
    owns: tuple[Field, ...] = (CREDENTIAL, FREQUENCY)

    def read(self, change: Change) -> Request:
        """Ask for one page of the user's syncs."""
        query = []
        if change.expected:
            query.append((CREDENTIAL.api_name, change.expected[CREDENTIAL.name]))
        if isinstance(change, Page) and change.cursor:
            query.append(("cursor", change.cursor))
        return Request("GET", ("api", "syncs"), query=tuple(query), most_bytes=MOST_BYTES)

    def observe(self, response: Response) -> State | None:
        """Tell by None that the answer is no list."""
        return None if syncs_of(response) is None else {}


def syncs_of(response: Response) -> Syncs | None:
    """Return what a good answer lists; None when it cannot be understood."""
    try:
        body = _DECODE(response.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    items = tuple(map(_listed, body.data))
    if None in items:
        return None
    paging = body.paging if isinstance(body.paging, dict) else {}
    cursor = paging.get("cursor")
    more = isinstance(cursor, str) and cursor and items and paging.get("remainingRecords") != 0
    return Syncs(tuple(filter(None, items)), cursor if more else None)


def _listed(item: dict[str, Any]) -> Listed | None:
    sync_id = item.get("id")
    # What could not stand in an input is not what we think it is.
    if not isinstance(sync_id, str) or not sync_id.strip() or _SYNC_ID_FAULT(sync_id):
        return None
    credential = item.get(CREDENTIAL.api_name)
    told = isinstance(credential, str) and CREDENTIAL.accepts(credential)
    return Listed(
        sync_id=sync_id,
        integration=_word(item.get("integration")),
        pipeline=_word(item.get("pipeline")),
        status=_word(item.get("status")),
        credential_id=CREDENTIAL.fold(str(credential)) if told else None,
    )


def _word(told: Any) -> str:
    return in_one_line(told) if isinstance(told, str) and told.strip() else ""


class Lister:
    """Asks for all syncs of one user after the other. It cannot change any."""

    def __init__(self, looks: Looks, *, integration: str | None) -> None:
        """*integration*: only its syncs are given out; None: all."""
        self._look = looks.look
        self._integration = None if integration is None else integration.casefold()

    async def carry(self, work: Work) -> Found:
        """Return the syncs of the user whom *work* names. Raises `Closing`."""
        asked = work.change
        assert asked is not None  # noqa: S101  # what is not to be asked does not come here
        try:
            return await self._gather(asked)
        except (Closing, SyncshiftError):
            raise
        except Exception as error:  # noqa: BLE001  # a user who breaks us harms nobody else
            diagnostics().error("row.broke", row=asked.row, error=type(error).__name__)
            return _failed(asked, ErrorClass.INTERNAL, "Syncshift itself failed on this user")

    async def _gather(self, asked: Change) -> Found:
        found: dict[str, Listed] = {}
        cursors: set[str] = set()
        page = Page(asked.row, asked.line, "", asked.user_id, {}, asked.expected)
        while True:
            exchange = await self._look(page)
            answer = exchange.last.result
            if not exchange.accepted or not isinstance(answer, Response):
                return Found(asked, (), exchange.last.ruling, exchange.last.status)
            syncs = syncs_of(answer)
            assert syncs is not None  # noqa: S101  # it would not have been accepted
            found.update((s.sync_id, s) for s in syncs.items if self._is_meant(s, asked))
            if syncs.cursor is None:
                return Found(asked, tuple(found.values()))
            if syncs.cursor in cursors or len(cursors) >= MOST_PAGES:
                return _failed(
                    asked, ErrorClass.PROTOCOL, "the list of the user's syncs never ends"
                )
            cursors.add(syncs.cursor)
            page = msgspec.structs.replace(page, cursor=syncs.cursor)

    def _is_meant(self, sync: Listed, asked: Change) -> bool:
        if self._integration not in {None, sync.integration.casefold()}:
            return False
        bound_to = (asked.expected or {}).get(CREDENTIAL.name)
        # A server that does not know the filter sends all: what it tells is looked at again.
        return bound_to is None or sync.credential_id in {None, bound_to}


def _failed(asked: Change, error_class: ErrorClass, error: str) -> Found:
    return Found(asked, (), Ruling(Verdict.REJECTED, error_class, error))
