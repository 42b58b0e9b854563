"""Carries the rows of a run: all at once, or wave after wave with a gate behind each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import anyio.to_thread
import msgspec

from runner.crew import Crew
from runner.detour import Detour
from runner.feed import Lock
from runner.following import Follower
from runner.gatekeeper import Gatekeeper, go_past
from runner.model import Proof
from runner.opening import Opened
from runner.pipeline import Sink, Stop, flow
from runner.record import Record
from runner.remaining import work_left
from runner.results import Index
from runner.slicing import Slices, Wave, slice_up
from runner.steps import Update, Work
from runner.strict import Strict
from runner.turnstile import Closing, Turnstile
from runner.waits import Waits

LineUp = Callable[..., tuple[Iterator[list[Work]], Sequence[Lock]]]
"""`runner.lineup.Lineup.line_up`."""


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to carry the rows of one session. Belongs to one event loop."""

    opened: Opened
    index: Index
    """How far each row has come; brought up to date behind each wave."""
    line_up: LineUp
    update: Update
    follower: Follower
    sink: Sink
    record: Record
    stop: Stop
    waits: Waits
    keeper: Gatekeeper
    crew: Crew
    turnstile: Turnstile
    wall_clock: Callable[[], float]

    async def carry(self, began: str) -> None:
        """Carry every row that is left, or those in front of a gate that nobody passes.

        *began* is when the run began to send, RFC 3339. Ends early, with the reason in
        the stop, as `flow` does; raises `InputError` when the input can no longer be read.
        """
        opened, folder = self.opened, self.opened.folder
        strict = (Strict(self.sink),) if opened.settings.strict else ()
        if opened.past_gate is not None:
            go_past(folder, opened.past_gate, self.record, wall_s=self.wall_clock())
        slices = await anyio.to_thread.run_sync(slice_up, opened)
        if slices is None:
            await self._flow(None, began, strict)
            return
        manifest = folder.read()
        if manifest.wave_rows != slices.sizes:
            folder.amend(wave_rows=slices.sizes)
        for gate in manifest.gates:
            began = gate.passed_at or began
        for wave in slices.ahead(manifest.gates):
            if not await self._carry_wave(slices, wave, began, strict):
                return
            began = folder.read().gates[-1].passed_at or began

    async def _carry_wave(
        self, slices: Slices, wave: Wave, began: str, strict: Sequence[Lock]
    ) -> bool:
        """Carry one wave and judge its gate; tell whether another one follows."""
        update, rows = self.update, slices.rows_of(wave)
        if self.opened.settings.until is None:
            # A gate is judged by what is shown, so everything in front of one has to be.
            update.until = None if wave.is_last else Proof.RESYNCED
        self.record.tell("wave.started", wave=wave.number, rows=wave.rows)
        await self._flow(slices.takes(wave), began, strict)
        if wave.is_last or self.stop.reason is not None:
            return False
        await anyio.to_thread.run_sync(self.index.extend)
        try:
            return await self.keeper.lets_through(wave.number, rows, self.index, update.target)
        except Closing:
            return False

    async def _flow(
        self, takes: Callable[[int], bool] | None, began: str, strict: Sequence[Lock]
    ) -> None:
        opened, index = self.opened, self.index
        blocks, locks = self.line_up(lambda: work_left(opened, index, takes=takes), began=began)
        await flow(
            blocks,
            self.follower.carry,
            self.sink,
            workers=self.crew,
            stop=self.stop,
            beside=self.follower,
            locks=(Detour(self.turnstile), *locks, *strict),
            waits=self.waits,
        )
