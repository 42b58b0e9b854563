"""Does what a run at work is told: pause, continue, set, stop. Every order is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import msgspec

from runner.asking import Asker
from runner.attempt import Clocks
from runner.budget import Budget
from runner.control import Desk, Order, Reply, Standing, Waiting
from runner.crew import Crew
from runner.errors import DiskFault, SettingsError, StoppedByHand, SyncshiftError
from runner.folder import Folder
from runner.live import Live
from runner.log import stamp
from runner.opening import Opened
from runner.pipeline import Sink, Stop, workers_for
from runner.rollout import FailureLimit
from runner.settings import Settings
from runner.standstill import FLAG, Pause, Standstill, Watch
from runner.waits import Wait, Waits, expected

Lever = Callable[[Any], None]
"""Puts a new value of one setting in force. Raises `SettingsError` for one that cannot be."""


class Steering:
    """Carries out the orders for one run. Belongs to one event loop."""

    def __init__(
        self,
        folder: Folder,
        settings: Settings,
        *,
        live: Live,
        pause: Pause,
        stop: Stop,
        drain: Callable[[SyncshiftError], None],
        approve: Callable[[str], bool],
        levers: Mapping[str, Lever],
        tell: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        """*drain* ends the run, and what is carried may land. *levers* are by setting.

        *approve* says yes, in somebody's name, to a gate that waits; it tells whether one did.
        """
        self._folder = folder
        self._settings = settings
        self._live = live
        self._pause = pause
        self._stop = stop
        self._drain = drain
        self._approve = approve
        self._levers = levers
        self._tell = tell
        self._clocks = clocks

    async def act(self, order: Order, who: str) -> Reply:
        """Carry out what *who* orders, and return what came of it."""
        if order.command == "status":
            return self._reply("", done=True)
        if self._stop.reason is not None:
            return self._reply(f"the run ends already: {self._stop.reason}", done=False)
        values = order.values if order.for_s is None else {"for_s": order.for_s}
        self._tell(
            "control.received",
            command=order.command,
            who=who,
            reason=order.reason or "",
            values=values,
        )
        try:
            said = self._do(order, who)
        except SyncshiftError as error:
            return self._reply(str(error), done=False)
        return self._reply(said, done=True)

    def _do(self, order: Order, who: str) -> str:
        match order.command:
            case "pause":
                return self._paused(order, who)
            case "continue":
                return self._continued(who)
            case "set":
                return self._set(order.values)
            case _:
                return self._stopped(order, who)

    def _paused(self, order: Order, who: str) -> str:
        self._pause.order(f"ordered by {_by(order, who)}", for_s=order.for_s)
        run_id = self._folder.run_id
        if order.for_s is None:
            return f"paused: nothing is sent before `syncshift continue {run_id}`"
        until = stamp(self._clocks.wall() + order.for_s)
        return f"paused: nothing is sent until {until}, or `syncshift continue {run_id}`"

    def _continued(self, who: str) -> str:
        done = []
        if self._pause.release():
            done.append("the pause is over")
        if self._approve(who):
            done.append("the gate is passed")
        if not done:
            done.append("nothing waited for that")
        if self._pause.flag is not None:
            done.append(f"it still waits: {self._pause.flag}; take that away to go on")
        return ", and ".join(done)

    def _set(self, values: dict[str, Any]) -> str:
        missing = [name for name in values if name not in self._levers]
        if missing:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise SettingsError(f"{names} cannot be set for this run: it goes without one")
        # In force before it is on record: a value that cannot be stays out of the record.
        for name, value in values.items():
            self._levers[name](value)
        self._settings = msgspec.structs.replace(self._settings, **values)
        said = ", ".join(
            f"{name.replace('_', '-')} {_short(value)}" for name, value in values.items()
        )
        try:
            self._folder.amend(settings=self._settings)
        except DiskFault as fault:
            raise DiskFault(
                f"{said} is in force, but a resumed run will not know: {fault}"
            ) from None
        return f"set: {said}"

    def _stopped(self, order: Order, who: str) -> str:
        run_id = self._folder.run_id
        self._drain(
            StoppedByHand(
                f"stopped by {_by(order, who)}; what was in flight could land. Go on with it: "
                f"syncshift resume {run_id}"
            )
        )
        return "stopping: no more rows are taken, and what is in flight may land"

    def _reply(self, said: str, *, done: bool) -> Reply:
        return Reply(run_id=self._folder.run_id, done=done, said=said, state=self._standing())

    def _standing(self) -> Standing:
        live, settings, reason = self._live, self._settings, self._stop.reason
        return Standing(
            rows=live.rows,
            settled=live.settled,
            in_flight=live.in_flight,
            followed=live.followed,
            waiting=tuple(map(self._waiting, live.reasons())),
            limits={
                "rate": settings.rate,
                "concurrency": settings.concurrency,
                "max_failures": settings.max_failures,
                "max_resyncs": settings.resync_budget,
            },
            stopping=None if reason is None else str(reason),
        )

    def _waiting(self, wait: Wait) -> Waiting:
        offset = self._clocks.wall() - self._clocks.steady()
        until = None if wait.until is None else expected(wait.until + offset)
        return Waiting(wait.reason, wait.detail, stamp(wait.since + offset), until)


@asynccontextmanager
async def steered(
    steering: Steering, watch: Watch, folder: Folder, tell: Callable[..., None]
) -> AsyncIterator[None]:
    """Heed orders, and what comes from outside, as long as this is open.

    Nothing may be sent before. That no orders can be taken is told, and ends no run.
    """
    desk = Desk(folder.path, steering.act)
    failure: Exception | None = None
    await watch.begin()
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run)
        trouble = await group.start(desk.serve)
        if trouble is not None:
            tell("control.unavailable", why=trouble)
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised again as it is, not as one of a group
            failure = error
        finally:
            await desk.farewell()
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


def helm(
    opened: Opened,
    asker: Asker,
    *,
    live: Live,
    waits: Waits,
    levers: Mapping[str, Lever],
    drain: Callable[[SyncshiftError], None],
    approve: Callable[[str], bool],
    tell: Callable[..., None],
) -> AbstractAsyncContextManager[None]:
    """Return what heeds orders, the clock, the flag file and the outside check while it is open."""
    settings, clocks, folder = opened.settings, asker.clocks, opened.folder
    standstill = Standstill(asker.turnstile, waits, clocks.steady)
    pause = Pause(standstill, clocks.steady)
    steering = Steering(
        folder,
        settings,
        live=live,
        pause=pause,
        stop=asker.stop,
        drain=drain,
        approve=approve,
        levers=levers,
        tell=tell,
        clocks=clocks,
    )
    watch = Watch(
        settings,
        standstill=standstill,
        pause=pause,
        flag=folder.path.parent / FLAG,
        clocks=clocks,
        also=live.note,
    )
    return steered(steering, watch, folder, tell)


def levers_of(
    asker: Asker, sink: Sink, budget: Budget | None, crew: Crew, *, rows: int
) -> dict[str, Lever]:
    """Return what puts new values in force in a run that is carried by this process."""

    def set_concurrency(most: int) -> None:
        asker.set_ceilings(rate=None, concurrency=most)
        crew.grow(workers_for(concurrency=most, rows=rows))

    def set_limit(text: str) -> None:
        sink.limit = FailureLimit.parse(text)

    levers: dict[str, Lever] = {
        "rate": lambda rate: asker.set_ceilings(rate=rate, concurrency=None),
        "concurrency": set_concurrency,
        "max_failures": set_limit,
    }
    if budget is not None:
        levers["max_resyncs"] = lambda most: budget.set_limit(None if most == "none" else most)
    return levers


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by(order: Order, who: str) -> str:
    return who + (f": {order.reason}" if order.reason else "")
