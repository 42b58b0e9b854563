"""How a run went over time: one pass over the outcomes and one over the events of each member.

Time is time at work: what lies between two sessions is left out, so a run that was resumed on the
next day is not one thin line at either end of a night.
"""

from __future__ import annotations

import datetime
from array import array
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from runner.journal import scan
from runner.model import SUCCEEDED, OutcomeKind, State
from runner.page.happenings import Happenings
from runner.page.listing import MOST_OWNERS, SHOWN
from runner.page.timeline import Most, Timeline
from runner.results.history import Session, read_sessions
from runner.results.index import not_understood

GOOD, BAD, ENDED = "good", "bad", "ended"
UNDER_WAY, RESYNCS = "under_way", "resyncs"
_MOST_CHANGES = 1000
_MOST_ATTEMPTS = 9


class _Line(msgspec.Struct, gc=False):
    """A line of the report, as far as it is drawn."""

    event: str
    timestamp: datetime.datetime
    row: int
    outcome: OutcomeKind | None = None
    before: State | None = None
    desired: State | None = None
    attempts: int = 0
    elapsed_ms: int = 0
    request_id: str | None = None
    user_id: str = ""


_DECODE_LINE = msgspec.json.Decoder(_Line).decode


class Part(msgspec.Struct, frozen=True):
    """One run of a family, or the only one, as far as its course is read."""

    run_id: str
    report: Path
    events: Path
    started: str
    ended: str | None
    alive: str | None = None
    """When it was seen at work last, from outside; None: only its own record says."""
    is_last: Callable[[int], bool] = lambda row: True
    """Whether a row's outcome here is the last one that it has in the family."""
    origin: Callable[[int], int] = lambda row: row
    """Which row of the first run a row of this one is."""


class Extra(msgspec.Struct, frozen=True):
    """What the report tells of a row that stands in no result file."""

    elapsed_ms: int
    ended: str
    before: State | None
    request_id: str | None


class Stretch(msgspec.Struct, frozen=True):
    """One session, on the axis of time at work."""

    run_id: str
    at_s: float
    seconds: float
    opened: str


class Course:
    """What happened in a run and its retries, in bounded memory."""

    def __init__(self, wanted: Collection[int], *, latest: int = 0) -> None:
        """*wanted* are the rows of which the extras are kept.

        Of those that failed, the *latest* ones are kept as they stand in the report; if any are,
        it is noted as well which rows failed, and whose they are.
        """
        self.time = Timeline(counts=(GOOD, BAD, ENDED), levels=(UNDER_WAY, RESYNCS))
        self.stretches: list[Stretch] = []
        self.happenings = Happenings()
        self.attempts: Counter[int] = Counter()
        """Rows that sent something, by PATCHes sent; the last number stands for more."""
        self.changed: dict[str, Most[tuple[str, str]]] = {}
        """What became of each field of the rows that were updated."""
        self.fields: Counter[str] = Counter()
        """Rows that were updated, by field."""
        self.extras: dict[int, Extra] = {}
        self.longest_s = 0.0
        """How long a row was under way at most; what was so lately is on record only in parts."""
        self.resyncs = 0
        """Rows that were followed while they re-synced."""
        self.latest: deque[bytes] = deque(maxlen=latest)
        self.failed = bytearray()
        """By row: whether it failed; 0 for a row beyond the end."""
        self.users: Most[str] = Most(MOST_OWNERS)
        """Users by rows that failed."""
        self._wanted = frozenset(wanted)
        self._end_s = 0.0

    def take(self, member: Part, starts_resync: Callable[[State, State | None], bool]) -> None:
        """Take in one run; those of a family come one after the other.

        Raises `JournalDamaged`, and `RunRefused` for what this version does not know.
        """
        sessions = read_sessions(member.events, started=member.started, ended=member.ended)
        if member.alive is not None:
            sessions[-1].alive(member.alive)
        walk = _Walk(sessions, self._end_s)
        # When a row was accepted, as seconds at work and one more; 0: it was not.
        accepted = array("f")
        for line, raw in _lines(member.report):
            at_s = walk.at(line.timestamp.timestamp())
            if line.event == "change.accepted":
                if line.row >= len(accepted):
                    more = max(line.row + 1, len(accepted) * 9 // 8) - len(accepted)
                    accepted.frombytes(bytes(more * accepted.itemsize))
                accepted[line.row] = at_s + 1
            elif line.outcome is not None:
                since_s = accepted[line.row] - 1 if line.row < len(accepted) else -1.0
                self._settle(member, line, at_s, since_s, starts_resync)
                if line.outcome not in SUCCEEDED:
                    self.latest.append(raw)
                if since_s >= 0:
                    accepted[line.row] = 0
        walk.finish()
        for since in accepted:
            if since:
                self.time.rise(RESYNCS, since - 1)
                self.resyncs += 1
        for session, at_s in walk.placed:
            self.stretches.append(Stretch(member.run_id, at_s, session.seconds, session.opened))
        self.happenings.take(member.events, walk.placed)
        self._end_s = walk.end_s
        self.time.reach(self._end_s)

    def _settle(
        self,
        member: Part,
        line: _Line,
        at_s: float,
        accepted_s: float,
        starts_resync: Callable[[State, State | None], bool],
    ) -> None:
        began_s = at_s - line.elapsed_ms / 1000
        self.time.count(ENDED, at_s)
        until_s = at_s if accepted_s < 0 else accepted_s
        self.longest_s = max(self.longest_s, until_s - began_s)
        if accepted_s < 0:
            self.time.span(UNDER_WAY, began_s, at_s)
        else:
            self.time.span(UNDER_WAY, began_s, accepted_s)
            if starts_resync(line.desired or {}, line.before):
                self.time.span(RESYNCS, accepted_s, at_s)
                self.resyncs += 1
        if not member.is_last(line.row):
            return
        good = line.outcome in SUCCEEDED
        self.time.count(GOOD if good else BAD, at_s)
        if not good and self.latest.maxlen:
            self._note_failed(member.origin(line.row), line.user_id)
        if line.attempts:
            self.attempts[min(line.attempts, _MOST_ATTEMPTS)] += 1
        if line.outcome is OutcomeKind.UPDATED:
            self._note_change(line.before or {}, line.desired or {})
        row = member.origin(line.row)
        if row in self._wanted:
            ended = line.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")
            self.extras[row] = Extra(line.elapsed_ms, ended, line.before, line.request_id)

    def _note_failed(self, row: int, user: str) -> None:
        self.failed.extend(bytes(max(0, row + 1 - len(self.failed))))
        self.failed[row] = 1
        if user:
            self.users.add(user[:SHOWN])

    def _note_change(self, before: State, desired: State) -> None:
        for field, value in desired.items():
            old = before.get(field, "")
            if old != value:
                self.fields[field] += 1
                self.changed.setdefault(field, Most(_MOST_CHANGES)).add((old, value))

    def moments(self) -> Iterator[str]:
        """Yield when each bucket began, by the clock on the wall."""
        stretches = iter(self.stretches)
        now = next(stretches, None)
        after = next(stretches, None)
        for bucket in range(self.time.buckets):
            at_s = bucket * self.time.width_s
            while after is not None and at_s >= after.at_s:
                now, after = after, next(stretches, None)
            if now is None:
                return
            opened = datetime.datetime.fromisoformat(now.opened)
            moment = opened + datetime.timedelta(seconds=max(0.0, at_s - now.at_s))
            yield moment.strftime("%m-%d %H:%M:%S")


class _Walk:
    """Says how long a run was at work at a moment, while moments come in order."""

    def __init__(self, sessions: list[Session], begin_s: float) -> None:
        self._sessions = iter(sessions)
        self._base_s = begin_s
        self._last = 0.0
        self._now = next(self._sessions)
        self._after = next(self._sessions, None)
        self._opened, self._next = _epoch(self._now.opened), _opening(self._after)
        self.placed: list[tuple[Session, float]] = []
        """Each session with the time at work at which it began; whole after `finish`."""
        self.end_s = begin_s

    def at(self, moment: float) -> float:
        """Return the seconds at work at *moment*, seconds since the epoch."""
        while moment >= self._next:
            self._leave()
        self._last = max(self._last, moment)
        return self._base_s + max(0.0, moment - self._opened)

    def finish(self) -> None:
        """Come to the end of the last session."""
        while self._after is not None:
            self._leave()
        self._close()

    def _close(self) -> None:
        if self._last >= self._opened:
            self._now.alive(_stamp(self._last))
        self.placed.append((self._now, self._base_s))
        self.end_s = self._base_s = self._base_s + self._now.seconds

    def _leave(self) -> None:
        self._close()
        if self._after is not None:
            self._now, self._after = self._after, next(self._sessions, None)
        self._opened, self._next = self._next, _opening(self._after)


def _lines(report: Path) -> Iterator[tuple[_Line, bytes]]:
    for line in scan(report) if report.exists() else ():
        try:
            yield _DECODE_LINE(line.data), line.data
        except msgspec.MsgspecError as error:
            raise not_understood(report, f"line {line.seq}", error) from error


def _opening(session: Session | None) -> float:
    return float("inf") if session is None else _epoch(session.opened)


def _epoch(stamp: str) -> float:
    return datetime.datetime.fromisoformat(stamp).timestamp()


def _stamp(epoch: float) -> str:
    moment = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
