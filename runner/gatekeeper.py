"""Stands between two waves: waits, judges, and asks a person where one is needed.

What a wave came to is read from the journals, so a gate is judged alike whether or not the
process that carried the wave is still there. What was judged is in ``run.json`` before
anything follows from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import anyio

from runner.attempt import Clocks
from runner.errors import DiskFault, GateFailed, GateInconclusive, NotApproved, SyncshiftError
from runner.exchange import Exchange
from runner.folder import Folder
from runner.inspection import Inspector, Target
from runner.judged import GateJudged, passing
from runner.log import stamp
from runner.model import Change, OutcomeKind
from runner.opening import Opened
from runner.record import Record
from runner.results import Index
from runner.rollout import Gate
from runner.turnstile import Closing, Turnstile
from runner.waits import Waits

Decide = Callable[[str], Awaitable[bool]]
"""Puts a question to the person at the terminal."""

AT_THE_TERMINAL = "the terminal"
PAST_GATE = "--past-gate"


class Gatekeeper:
    """Judges the gate behind each wave but the last. Belongs to one event loop."""

    def __init__(
        self,
        folder: Folder,
        gate: Gate,
        inspector: Inspector,
        *,
        record: Record,
        waits: Waits,
        stop: Callable[[SyncshiftError], None],
        turnstile: Turnstile,
        clocks: Clocks,
        soak_s: float,
        approve: bool,
        decide: Decide | None,
    ) -> None:
        """*stop* ends the run, with the reason.

        With *approve* a person is asked at each gate. *decide* asks the one at the
        terminal; None: there is no terminal.
        """
        self._folder = folder
        self._gate = gate
        self._inspector = inspector
        self._record = record
        self._waits = waits
        self._stop = stop
        self._turnstile = turnstile
        self._clocks = clocks
        self._soak_s = soak_s
        self._approve = approve
        self._decide = decide
        self._answer: asyncio.Future[str | None] | None = None

    def approve(self, who: str) -> bool:
        """Let the next wave begin, if a gate waits for a person; tell whether one does.

        *who* is put on record. A gate that has failed waits for nobody.
        """
        if self._answer is None or self._answer.done():
            return False
        self._answer.set_result(who)
        return True

    async def lets_through(
        self, wave: int, rows: Collection[int], index: Index, target: Target
    ) -> bool:
        """Judge the gate behind *wave*, all of whose *rows* have ended; tell whether to go on.

        *target* tells how far a row was to be proved. If the answer is no, the run has been
        stopped. Raises `Closing` when it ends meanwhile.
        """
        try:
            return await self._act(await self._judge(wave, rows, index, target))
        except DiskFault as fault:
            self._stop(fault)
            return False

    async def _judge(
        self, wave: int, rows: Collection[int], index: Index, target: Target
    ) -> GateJudged:
        gate, inspector = self._gate, self._inspector
        if self._soak_s:
            await self._soak(wave, await inspector.ended_s(rows, index))
        came, resynced = await inspector.read(rows, index, target)
        if self._soak_s or gate.counts_records:
            with self._waiting("gate", f"the syncs of wave {wave} are looked at once more"):
                await inspector.look_again(
                    came, resynced, index, counts_records=gate.counts_records
                )
        verdict, why, condition, offender = gate.judge(came)
        judged = GateJudged(
            wave=wave,
            verdict=verdict,
            why=why,
            figures=came.figures,
            judged_at=stamp(self._clocks.wall()),
            condition=None if condition is None else str(condition),
            row=None if offender is None else offender.row,
            sync_id=None if offender is None else offender.sync_id,
        )
        self._record.tell(
            "gate.judged",
            wave=wave,
            verdict=verdict,
            why=why,
            condition=judged.condition,
            row=judged.row,
            sync_id=judged.sync_id,
            figures=judged.figures,
        )
        return judged

    async def _soak(self, wave: int, ended_s: float) -> None:
        """Wait until the soak is over, counted from the end of the wave's last row."""
        left_s = min(self._soak_s, ended_s + self._soak_s - self._clocks.wall())
        if left_s > 0:  # otherwise an earlier session has waited
            detail = f"wave {wave} has ended and is left alone before its gate is judged"
            with self._waiting("soak", detail, self._clocks.steady() + left_s):
                # Not the turnstile's sleep: there rows wait before their next try.
                with anyio.move_on_after(left_s):
                    await self._turnstile.until_closed()
                    raise Closing

    async def _act(self, judged: GateJudged) -> bool:
        """Do what follows from the verdict; tell whether the next wave may begin."""
        by: str | None = None
        if judged.verdict == "pass":
            if self._approve and (by := await self._ask_to_approve(judged)) is None:
                self._stop(_not_approved(judged, self._folder.run_id))
                return False
        elif judged.verdict == "inconclusive" and self._decide is not None:
            by = await self._ask_whether_nevertheless(judged)
        gates = (*self._folder.read().gates, judged)
        passed = judged.verdict == "pass" or by is not None
        if passed:
            gates = passing(gates, by=by, at=stamp(self._clocks.wall()))
        self._folder.amend(gates=gates)
        if not passed:
            self._stop(_stopped(judged, self._folder.run_id))
        elif by is not None:
            self._record.tell("gate.passed", wave=judged.wave, by=by)
        return passed

    async def _ask_whether_nevertheless(self, judged: GateJudged) -> str | None:
        detail = (
            f"the gate of wave {judged.wave} is inconclusive ({judged.why}); it waits for an "
            f"answer here, or for `syncshift continue {self._folder.run_id}`"
        )
        said = f"The gate of wave {judged.wave} is inconclusive: {judged.why}."
        return await self._ask("gate", detail, f"{said} Begin the next wave nevertheless?")

    async def _ask_to_approve(self, judged: GateJudged) -> str | None:
        detail = (
            f"wave {judged.wave} went well, and the next one waits to be approved: "
            f"`syncshift continue {self._folder.run_id}`"
        )
        came_to = _in_words(judged.figures)
        said = f"The gate of wave {judged.wave} passed ({came_to})."
        return await self._ask("approve", detail, f"{said} Begin the next wave?")

    async def _ask(self, reason: str, detail: str, question: str) -> str | None:
        """Return who let the next wave begin; None: somebody said no. Raises `Closing`."""
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            with self._waiting(reason, detail):
                async with anyio.create_task_group() as group:
                    group.start_soon(self._give_up_at_closing, answer)
                    if self._decide is not None:
                        group.start_soon(_put, self._decide, question, answer)
                    by = await answer
                    group.cancel_scope.cancel()
        finally:
            self._answer = None
        if self._turnstile.closed:
            raise Closing
        return by

    async def _give_up_at_closing(self, answer: asyncio.Future[str | None]) -> None:
        await self._turnstile.until_closed()
        if not answer.done():
            answer.set_result(None)

    @contextmanager
    def _waiting(self, reason: str, detail: str, until_s: float | None = None) -> Iterator[None]:
        self._waits.begin(reason, detail, until_s)
        try:
            yield
        finally:
            self._waits.end(reason)


def keeper_of(
    opened: Opened,
    look: Callable[[Change], Awaitable[Exchange]],
    *,
    record: Record,
    waits: Waits,
    stop: Callable[[SyncshiftError], None],
    turnstile: Turnstile,
    clocks: Clocks,
    pardoned: Collection[OutcomeKind],
    decide: Decide | None,
) -> Gatekeeper:
    """Return who stands between the waves of a run, by its settings.

    *look* reads a sync; the rest is as `Gatekeeper` and `Inspector` take it.
    """
    settings = opened.settings
    at_once = settings.concurrency
    return Gatekeeper(
        opened.folder,
        Gate.parse(settings.gates),
        Inspector(opened.job, look, looks_at_once=at_once, pardoned=pardoned),
        record=record,
        waits=waits,
        stop=stop,
        turnstile=turnstile,
        clocks=clocks,
        soak_s=settings.soak_s,
        approve=settings.approve,
        decide=decide,
    )


def go_past(folder: Folder, wave: int, record: Record, *, wall_s: float) -> None:
    """Put on record that a person goes past the gate of *wave*, before which the run stands.

    Raises `DiskFault`.
    """
    folder.amend(gates=passing(folder.read().gates, by=PAST_GATE, at=stamp(wall_s)))
    record.tell("gate.passed", wave=wave, by=PAST_GATE)


async def _put(decide: Decide, question: str, answer: asyncio.Future[str | None]) -> None:
    agreed = await decide(question)
    if not answer.done():
        answer.set_result(AT_THE_TERMINAL if agreed else None)


def _stopped(judged: GateJudged, run_id: str) -> SyncshiftError:
    wave, failed = judged.wave, judged.verdict == "fail"
    said = "failed" if failed else "is inconclusive"
    kind = GateFailed if failed else GateInconclusive
    return kind(
        f"the gate of wave {wave} {said}: {judged.why}. No later wave was begun. Go on "
        f"nevertheless with `syncshift resume {run_id} --past-gate {wave}`, or take back what was "
        f"changed with `syncshift rollback {run_id}`"
    )


def _not_approved(judged: GateJudged, run_id: str) -> SyncshiftError:
    return NotApproved(
        f"the gate of wave {judged.wave} passed, and the next wave was not approved. No later wave "
        f"was begun; `syncshift resume {run_id}` asks again"
    )


def _in_words(figures: Mapping[str, int]) -> str:
    rows = figures["rows"]
    others = (f"{n:,} {name}" for name, n in figures.items() if n and name != "rows")
    return ", ".join(("1 row" if rows == 1 else f"{rows:,} rows", *others))
