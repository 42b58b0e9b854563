"""A stage for the engine: a simulator, an input, and runs that are carried in this process.

Time comes from the event loop, so a story told under `in_fast_motion` has its minutes pass in
seconds, for the engine, the simulator and every timer alike.
"""

from __future__ import annotations

import asyncio
import csv
import functools
import io
import os
import random
import selectors
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, Self

import msgspec

from runner.attempt import Clocks
from runner.forecast import Plan
from runner.gatekeeper import Decide
from runner.job import Job
from runner.journal import Journal, scan
from runner.live import Live
from runner.log import configure
from runner.model import encode_json
from runner.opening import Opened, open_new, reopen
from runner.redo import classes_of, open_retry
from runner.results import Summary
from runner.revisit import open_planned, visit
from runner.rounds import Verified, make_plan, verify
from runner.run import carry_out
from runner.secret import Secret
from runner.settings import Resolved, resolve
from runner.simulator import AuditEntry, Behavior, Faults, Simulator, SyncRecord
from runner.tokens import TokenChecker, TokenSource, load_signing_key, make_demo_key
from runner.undo import open_rollback
from runner.witness import Witness

PROJECT = "p1"
OLD = "11111111-1111-4111-8111-111111111111"
NEW = "22222222-2222-4222-8222-222222222222"
OTHER = "33333333-3333-4333-8333-333333333333"

MIGRATE = "migrate-credentials"
FREQUENCY = "change-frequency"
BOTH = "update-syncs"

_P = ParamSpec("_P")


@functools.cache
def demo_key() -> Secret:
    """Return the one key of all tests; making one takes a while."""
    return make_demo_key()


@functools.cache
def public_pem() -> bytes:
    """Return the public half of the one key."""
    return load_signing_key(demo_key(), origin="the tests").public_pem()


def free_port() -> int:
    """Return a port that nobody listens on, at least now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _HastySelector(selectors.DefaultSelector):
    """Waits for a share of the time it is told to."""

    speed = 1.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self.speed)


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop on which time goes faster than outside."""

    def __init__(self, speed: float) -> None:
        selector = _HastySelector()
        selector.speed = self._speed = speed
        super().__init__(selector)

    def time(self) -> float:
        """Return the moment, in hasty seconds."""
        return super().time() * self._speed


def in_fast_motion(
    speed: float,
) -> Callable[[Callable[_P, Coroutine[Any, Any, None]]], Callable[_P, None]]:
    """Let a test's seconds pass *speed* times as fast. What is computed takes as long as ever."""

    def wrap(story: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
        @functools.wraps(story)
        def test(*args: _P.args, **kwargs: _P.kwargs) -> None:
            with asyncio.Runner(loop_factory=lambda: HastyLoop(speed)) as runner:
                runner.run(story(*args, **kwargs))

        return test

    return wrap


async def until(condition: Callable[[], object], *, every_s: float = 0.01) -> None:
    """Return once *condition* holds."""
    while True:
        if condition():
            return
        await asyncio.sleep(every_s)


class Run:
    """A run that has come to rest, and what lies in its folder."""

    def __init__(self, opened: Opened, summary: Summary) -> None:
        self.opened = opened
        self.summary = summary
        self.path = opened.folder.path

    @property
    def id(self) -> str:
        """The run's name."""
        return self.opened.folder.run_id

    @property
    def counts(self) -> dict[str, int]:
        """How many rows ended in which way; only what occurs."""
        return {kind: n for kind, n in self.summary.counts.items() if n}

    @property
    def reason(self) -> str:
        """Why it did not finish."""
        return self.opened.folder.read().reason or ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line of the report."""
        return self._journal("report")

    @property
    def intents(self) -> list[dict[str, Any]]:
        """Every line of the undo log."""
        return self._journal("undo")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the run did."""
        return self._journal("events")

    @property
    def acceptances(self) -> dict[int, dict[str, Any]]:
        """What is on record of rows that were to be proved further."""
        return {line["row"]: line for line in self.lines if line["event"] == "change.accepted"}

    @property
    def outcomes(self) -> dict[int, dict[str, Any]]:
        """How each row ended; fails when one ended twice."""
        lines = [line for line in self.lines if line["event"] == "change.settled"]
        found = {line["row"]: line for line in lines}
        assert len(found) == len(lines), "a row has two outcomes"
        return found

    def outcome(self, row: int) -> tuple[str, str | None]:
        """Return how *row* ended and its error class."""
        line = self.outcomes[row]
        return line["outcome"], line["error_class"]

    def held(self, reason: str) -> list[dict[str, Any]]:
        """Return the holds for *reason* that were told."""
        return [e for e in self.events if e["event"] == "throttle.held" and e["reason"] == reason]

    def table(self, name: str) -> list[dict[str, str]]:
        """Return a result file, row by row."""
        with (self.path / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def forget(self, *rows: int) -> None:
        """Take the outcomes of *rows* out of the report, as if a crash had lost them."""
        self._rewrite("report", [line for line in self.lines if not _ends(line, rows)])

    def forget_all(self) -> None:
        """Take every outcome out of the report."""
        self._rewrite("report", [])

    def _rewrite(self, name: str, lines: list[dict[str, Any]]) -> None:
        path = self.path / f"{name}.jsonl"
        journal = Journal(path, -1, 0)
        for line in lines:
            kept = {key: value for key, value in line.items() if key not in {"seq", "crc"}}
            journal.append(encode_json(kept))
        path.write_bytes(journal.take())

    def _journal(self, name: str) -> list[dict[str, Any]]:
        path = self.path / f"{name}.jsonl"
        return [msgspec.json.decode(line.data) for line in scan(path)] if path.exists() else []


class Stage:
    """A simulator that checks real tokens, and everything it takes to run against it."""

    def __init__(
        self,
        place: Path,
        *,
        faults: Faults | None = None,
        behavior: Behavior | None = None,
        seed: int = 3,
        port: int = 0,
        **settings: Any,
    ) -> None:
        """*settings* are those of every run, by their flags' names with ``_`` for ``-``."""
        self.place = place
        self.source = place / "input.csv"
        self.desired: dict[str, dict[str, str]] = {}
        """What the input asks for, by sync ID."""
        self.diagnostics = io.StringIO()
        """What was told to whoever debugs."""
        self.key = demo_key()
        """The signing key of runs that are opened from now on."""
        self._watched: list[tuple[Callable[[], bool], Callable[[], object]]] = []
        self._faults, self._behavior, self._seed, self._port = faults, behavior, seed, port
        self._settings = settings

    async def __aenter__(self) -> Self:
        configure("debug", stream=self.diagnostics)
        loop = asyncio.get_running_loop()
        began, wall = loop.time(), time.time()
        self.clocks = Clocks(
            loop.time, lambda: wall + loop.time() - began, random.Random(self._seed).random
        )
        self.checker: Callable[[str], str | None] = TokenChecker(
            public_pem(), f"useparagon.com/{PROJECT}", self.clocks.wall
        )
        self.sim = Simulator(
            verify=self._verify,
            faults=self._faults,
            behavior=self._behavior,
            seed=self._seed,
            port=self._port,
            now=self.clocks.steady,
            wall=self.clocks.wall,
        )
        await self.sim.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.sim.__aexit__(kind, error, trace)

    @property
    def audit(self) -> list[AuditEntry]:
        """Every request so far."""
        return self.sim.audit

    @property
    def patches(self) -> Counter[str]:
        """How many PATCHes each sync got, by ID."""
        return Counter(e.sync_id or "" for e in self.audit if e.method == "PATCH")

    @property
    def reads(self) -> Counter[str]:
        """How many GETs each sync got, by ID."""
        return Counter(e.sync_id or "" for e in self.audit if e.method == "GET")

    def when(self, condition: Callable[[], bool], act: Callable[[], object]) -> None:
        """Call *act* once, as soon as a request comes while *condition* holds."""
        self._watched.append((condition, act))

    def after(self, requests: int, act: Callable[[], object]) -> None:
        """Call *act* once, when more than *requests* requests have come."""
        self.when(lambda: self.sim.requests >= requests, act)

    def seed(
        self, rows: int, *, users: int = 5, extra: Mapping[str, str] | None = None
    ) -> list[SyncRecord]:
        """Invent syncs and write an input that moves each of them to a credential of its own."""
        records = self.sim.seed(rows, users)
        self.write(
            {
                "sync_id": record.id,
                "user_id": record.user,
                "credential_id": str(uuid.uuid5(uuid.NAMESPACE_OID, record.id)),
                **(extra or {}),
            }
            for record in records
        )
        return records

    def plain(self, rows: int, *, users: int = 1, **fields: Any) -> list[SyncRecord]:
        """Add syncs ``s1``, ``s2`` … that are alike, and move each of them to `NEW`."""
        records = [
            msgspec.structs.replace(
                SyncRecord(id=f"s{n}", user=f"u{n % users + 1}", credential_id=OLD), **fields
            )
            for n in range(1, rows + 1)
        ]
        self.sim.add(*records)
        self.write({"sync_id": r.id, "user_id": r.user, "credential_id": NEW} for r in records)
        return records

    def write(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Write the input."""
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row))
        with self.source.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)
        owned = ("credential_id", "frequency")
        self.desired = {
            row["sync_id"]: {name: row[name] for name in owned if row.get(name)} for row in rows
        }

    def resolved(self, **settings: Any) -> Resolved:
        """Return the settings of a run."""
        own = {
            "base_url": self.sim.base_url,
            "project_id": PROJECT,
            "runs_dir": self.place / "runs",
            # How far a change is proved is a story of its own.
            "until": "accepted",
        }
        flags = own | self._settings | settings
        return resolve(
            {name.replace("_", "-"): value for name, value in flags.items()},
            environment={"PARAGON_SIGNING_KEY": self.key.reveal()},
            directory=self.place,
        )

    def open(self, job: str = MIGRATE, *, run_id: str | None = None, **settings: Any) -> Opened:
        """Open a new run on the input."""
        return open_new(
            job, str(self.source), self.resolved(**settings), run_id=run_id, warn=_no_warning
        )

    def reopen(self, run_id: str, *, past_gate: int | None = None, **settings: Any) -> Opened:
        """Open a run to go on with it."""
        resolved = self.resolved(**settings)
        return reopen(run_id, resolved, past_gate=past_gate, warn=_no_warning)

    async def carry(
        self,
        opened: Opened,
        *,
        job: Job | None = None,
        tokens: TokenSource | None = None,
        show: Callable[[Live], None] = lambda _: None,
        decide: Decide | None = None,
        sync: Callable[[int], None] = os.fdatasync,
        witness: Witness | None = None,
    ) -> Run:
        """Carry an opened run to where it ends; *job* and *tokens* take the place of its own."""
        opened = msgspec.structs.replace(
            opened, job=job or opened.job, tokens=tokens or opened.tokens
        )
        summary = await carry_out(
            opened,
            show=show,
            leave=_never_leave,
            decide=decide,
            clocks=self.clocks,
            sync=sync,
            witness=witness,
        )
        return Run(opened, summary)

    async def run(self, job: str = MIGRATE, **settings: Any) -> Run:
        """Open a new run on the input and carry it to where it ends."""
        return await self.carry(self.open(job, **settings))

    async def resume(self, run: Run, *, past_gate: int | None = None, **settings: Any) -> Run:
        """Go on with *run*."""
        return await self.carry(self.reopen(run.id, past_gate=past_gate, **settings))

    async def plan(self, job: str = MIGRATE, *, run_id: str | None = None, **settings: Any) -> Plan:
        """Plan a run on the input."""
        opened = open_new(
            job,
            str(self.source),
            self.resolved(**settings),
            run_id=run_id,
            is_plan=True,
            warn=_no_warning,
        )
        return await make_plan(opened, show=lambda _: None, leave=_never_leave, clocks=self.clocks)

    async def apply(self, run_id: str, *, max_age_s: float = 86_400.0, **settings: Any) -> Run:
        """Carry out a planned run."""
        return await self.carry(self.open_planned(run_id, max_age_s=max_age_s, **settings))

    def open_planned(self, run_id: str, *, max_age_s: float = 86_400.0, **settings: Any) -> Opened:
        """Open a planned run to carry it out."""
        return open_planned(
            run_id,
            self.resolved(**settings),
            max_age_s=max_age_s,
            now_s=self.clocks.wall(),
            warn=_no_warning,
        )

    async def verify(self, run_id: str, **settings: Any) -> Verified:
        """Look at every sync that a run may have changed."""
        found = visit(run_id, self.resolved(**settings), warn=_no_warning)
        return await verify(found, show=lambda _: None, leave=_never_leave, clocks=self.clocks)

    def findings(self, file: str | Path | None) -> dict[int, dict[str, Any]]:
        """Return the findings in *file* by row; fails when a row has two."""
        assert file is not None
        lines = [msgspec.json.decode(line.data) for line in scan(Path(file))]
        found = {line["row"]: line for line in lines}
        assert len(found) == len(lines), "a row has two findings"
        return found

    async def retry(self, run: Run, wanted: str | None = None, **settings: Any) -> Run:
        """Retry *run* and carry that to where it ends; *wanted* is what ``--class`` says."""
        classes = None if wanted is None else classes_of(wanted)
        opened = open_retry(run.id, self.resolved(**settings), classes=classes, warn=_no_warning)
        return await self.carry(opened)

    async def rollback(self, run: Run, *, only: bool = False, **settings: Any) -> Run:
        """Roll *run* back and carry that to where it ends."""
        opened = open_rollback(run.id, self.resolved(**settings), only=only, warn=_no_warning)
        return await self.carry(opened)

    async def interrupted(self, *, after: int, job: str = MIGRATE, **settings: Any) -> Run:
        """Carry a new run until a SIGTERM comes, when *after* requests have come."""
        self.after(after, lambda: signal.raise_signal(signal.SIGTERM))
        return await self.run(job, **settings)

    def set(self, sync_id: str, **fields: Any) -> None:
        """Change a sync behind the run's back."""
        sync = self.sim._service.syncs._syncs[sync_id]
        sync.record = msgspec.structs.replace(sync.record, **fields)

    def in_force(self) -> int:
        """Return how many syncs are as the input asks."""
        snapshot = self.sim.snapshot()
        return sum(
            all(getattr(snapshot[sync_id], name) == value for name, value in desired.items())
            for sync_id, desired in self.desired.items()
        )

    def _verify(self, token: str) -> str | None:
        due = [act for condition, act in self._watched if condition()]
        if due:
            self._watched = [pair for pair in self._watched if pair[1] not in due]
            for act in due:
                act()
        return self.checker(token)


def _ends(line: dict[str, Any], rows: tuple[int, ...]) -> bool:
    return line["event"] == "change.settled" and line["row"] in rows


def _no_warning(text: str) -> None:
    raise AssertionError(f"an unexpected warning: {text}")


def _never_leave(code: int) -> NoReturn:
    raise AssertionError(f"left with {code}")
