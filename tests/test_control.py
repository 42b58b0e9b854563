"""A run at work does as it is told, at once, and only by whom it belongs to."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from runner.control import SOCKET, Desk, Order, Reply, ask, order_of
from runner.control.place import address_in
from runner.errors import RunRefused, SettingsError
from runner.folder import Folder
from runner.live import Live
from runner.simulator import Behavior, Faults
from tests.stage import Run, Stage, until

SLOW = Faults(latency_s=0.02)
ROWS = 4_000
"""More than any of these runs gets through."""


class AtWork:
    """A run that is being carried, and what can be told to it."""

    def __init__(self, stage: Stage, **settings: Any) -> None:
        self.stage = stage
        self.opened = stage.open(**settings)
        self.folder: Folder = self.opened.folder
        self.lives: list[Live] = []
        self.carrying = asyncio.create_task(stage.carry(self.opened, show=self.lives.append))

    @property
    def live(self) -> Live:
        """What it is doing."""
        return self.lives[0]

    async def under_load(self) -> None:
        """Return once it is well under way."""
        await until(lambda: self.stage.sim.requests > 60)

    async def order(self, **words: Any) -> Reply:
        """Give it an order, from another thread as from another process."""
        return await asyncio.to_thread(ask, self.folder, order_of(Order(**words)))

    async def standing(self) -> dict[str, Any]:
        """Ask it how it stands."""
        state = (await self.order(command="status")).state
        assert state is not None
        return {
            "settled": state.settled,
            "in_flight": state.in_flight,
            "waiting": {wait.reason: wait for wait in state.waiting},
            "stopping": state.stopping,
            **state.limits,
        }

    async def stop(self) -> Run:
        """Have it stop, and return what it came to."""
        await self.order(command="stop")
        return await self.carrying


def controls(run: Run) -> list[dict[str, Any]]:
    """Return the orders that are on record."""
    return [event for event in run.events if event["event"] == "control.received"]


# ----------------------------------------------------------------------- each order, under load


class Told(NamedTuple):
    """An order, and how it shows that it is carried out."""

    order: dict[str, Any]
    shows: Callable[[dict[str, Any]], object]
    """In `status`."""
    works: Callable[[AtWork], object]
    """In what the run does."""
    before: tuple[dict[str, Any], ...] = ()


def _in_flight_is(number: int) -> Callable[[AtWork], bool]:
    return lambda run: run.live.in_flight == number


PAUSE: dict[str, Any] = {"command": "pause", "reason": "an incident"}

ORDERS = {
    "pause": Told(
        PAUSE,
        lambda now: "an incident" in now["waiting"]["pause"].detail,
        _in_flight_is(0),
    ),
    "continue": Told(
        {"command": "continue"},
        lambda now: "pause" not in now["waiting"],
        lambda run: run.live.in_flight > 4,
        before=(PAUSE,),
    ),
    "set rate": Told(
        {"command": "set", "rate": 5.0},
        lambda now: now["rate"] == 5.0,
        lambda run: run.live._throttle.pacer.interval_s == pytest.approx(0.2),
    ),
    "set lower concurrency": Told(
        {"command": "set", "concurrency": 2},
        lambda now: now["concurrency"] == 2,
        _in_flight_is(2),
    ),
    "set higher concurrency": Told(
        {"command": "set", "concurrency": 60},
        lambda now: now["concurrency"] == 60,
        lambda run: run.live._throttle.ceiling == 60,
    ),
    "set max-failures": Told(
        {"command": "set", "max_failures": "7"},
        lambda now: now["max_failures"] == "7",
        lambda run: True,
    ),
    "stop": Told(
        {"command": "stop", "reason": "wrong account"},
        lambda now: "wrong account" in now["stopping"],
        lambda run: run.live.closing,
    ),
}


@pytest.mark.parametrize("name", ORDERS)
async def test_an_order_takes_effect_within_a_second_under_load(name: str, tmp_path: Path) -> None:
    """It is done, shown in `status`, and on record with who gave it, before a second is over."""
    told = ORDERS[name]
    async with Stage(tmp_path, faults=SLOW, concurrency=8) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await run.under_load()
        for order in told.before:
            assert (await run.order(**order)).done
        began = time.monotonic()
        reply = await run.order(**told.order)
        if name == "stop":
            # It may have ended before anybody could look.
            shown = told.shows({"stopping": reply.state.stopping if reply.state else ""})
        else:
            shown = told.shows(await run.standing())
        await until(lambda: told.works(run))
        took_s = time.monotonic() - began
        done = await run.stop() if name != "stop" else await run.carrying

        assert reply.done
        assert shown
        assert took_s < 1
        order = controls(done)[len(told.before)]
        values = {k: v for k, v in told.order.items() if k not in {"command", "reason"}}
        assert order["command"] == told.order["command"]
        assert order["values"] == values
        assert order["reason"] == told.order.get("reason", "")
        assert "(process " in order["who"]
        assert done.summary.verdict == "stopped"


async def test_a_higher_ceiling_is_made_use_of(tmp_path: Path) -> None:
    """More rows are carried at once than the run began with workers for."""
    async with Stage(tmp_path, faults=Faults(latency_s=0.3), concurrency=2) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await until(lambda: stage.sim.requests > 5)
        await run.order(command="set", concurrency=60)
        await until(lambda: run.live.in_flight > 20)
        await run.stop()

        # Some that have left may not have come yet.
        assert stage.sim.max_in_flight > 15


async def test_a_paused_run_sends_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """No read and no write leaves; what was in flight is answered and kept; then it goes on."""
    async with Stage(tmp_path, faults=SLOW, concurrency=8) as stage:
        stage.seed(200)
        run = AtWork(stage)
        await run.under_load()
        reply = await run.order(command="pause", reason="Lunch\nBearer abc.def")
        await until(lambda: not run.live.in_flight)
        asked = stage.sim.requests
        await until(lambda: run.live.waits()[0].for_s > 0.3)
        still = stage.sim.requests
        again = await run.order(command="continue")
        done = await run.carrying

        assert "nothing is sent before `syncshift continue" in reply.said
        assert still == asked
        assert again.said == "the pause is over"
        assert done.counts == {"updated": 200}
        (held,) = done.held("pause")
        assert "Lunch Bearer ***" in held["detail"]
        assert done.summary.waits["pause"] > 0.3


async def test_a_pause_with_an_end_ends_by_itself(tmp_path: Path) -> None:
    """It says until when, and nobody has to continue it."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(200)
        run = AtWork(stage)
        await run.under_load()
        reply = await run.order(command="pause", for_s=0.8)
        now = await run.standing()
        done = await run.carrying

        assert "nothing is sent until 2" in reply.said
        assert now["waiting"]["pause"].until is not None
        assert done.counts == {"updated": 200}
        assert 0.7 < done.summary.waits["pause"] < 5
        assert controls(done)[0]["values"] == {"for_s": 0.8}


async def test_the_last_pause_counts_and_the_flag_file_outlives_a_continue(tmp_path: Path) -> None:
    """A pause without an end replaces one that has one; a file is taken away by hand only."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(200)
        run = AtWork(stage)
        await run.under_load()
        await run.order(command="pause", for_s=0.2)
        await run.order(command="pause", reason="for longer")
        flag = stage.place / "runs" / "PAUSE"
        flag.touch()
        await until(lambda: "is there" in run.live.waits()[0].detail)
        both = run.live.waits()[0]
        reply = await run.order(command="continue")
        waiting = (await run.standing())["waiting"]
        flag.unlink()
        done = await run.carrying

        assert "for longer; the file " in both.detail
        assert both.left_s is None
        assert "the pause is over, and it still waits: the file" in reply.said
        assert waiting["pause"].detail == f"the file {flag} is there"
        assert done.counts == {"updated": 200}


async def test_a_flag_that_is_none_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder called PAUSE holds nobody; what is there and cannot be told of holds."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        flag = stage.place / "runs" / "PAUSE"
        flag.mkdir(parents=True)
        free = await stage.run()
        flag.rmdir()
        flag.symlink_to(flag)
        run = AtWork(stage)
        await until(lambda: run.lives and run.live.waits())
        (wait,) = run.live.waits()
        flag.unlink()
        done = await run.carrying

        assert free.summary.waits == {}
        assert wait.detail.startswith(f"the file {flag} is there and cannot be read (")
        assert done.counts == {"unchanged": 5}


async def test_a_budget_is_set_while_rows_wait_for_it(tmp_path: Path) -> None:
    """More room lets rows go that waited; it is on record for `resume`."""
    async with Stage(
        tmp_path, behavior=Behavior(resync_s=600), until="resynced", max_resyncs="2"
    ) as stage:
        stage.plain(12)
        run = AtWork(stage)
        await until(lambda: run.lives and run.live.followed == 2)
        reply = await run.order(command="set", max_resyncs=5)
        await until(lambda: run.live.followed == 5)
        none = await run.order(command="set", max_resyncs="none")
        await until(lambda: run.live.followed == 12)
        done = await run.stop()

        assert (reply.said, none.said) == ("set: max-resyncs 5", "set: max-resyncs none")
        assert reply.state is not None
        assert reply.state.limits["max_resyncs"] == 5
        assert done.opened.folder.read().settings.max_resyncs == "none"


async def test_what_a_run_goes_without_cannot_be_set(tmp_path: Path) -> None:
    """Where nobody counts re-syncs there is no budget; nothing of the order is carried out."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await run.under_load()
        reply = await run.order(command="set", max_resyncs=5, rate=7.0)
        now = await run.standing()
        done = await run.stop()

        assert (reply.done, now["rate"]) == (False, None)
        assert reply.said == "--max-resyncs cannot be set for this run: it goes without one"
        assert done.opened.folder.read().settings.rate is None


async def test_a_lower_failure_limit_stops_the_run(tmp_path: Path) -> None:
    """It counts what has failed so far, and is what a resumed run goes by."""
    async with Stage(tmp_path, faults=SLOW, concurrency=2, max_failures="100%") as stage:
        records = stage.seed(ROWS)
        stage.sim.faults = Faults(latency_s=0.01, poison=frozenset(r.id for r in records))
        run = AtWork(stage, max_attempts=1)
        await until(lambda: run.lives and run.live.tally.failed > 3)
        await run.order(command="set", max_failures="3")
        done = await run.carrying

        assert "--max-failures allows 3" in done.reason
        assert done.opened.folder.read().settings.max_failures == "3"


async def test_stop_lets_what_is_in_flight_land_and_says_who_and_why(tmp_path: Path) -> None:
    """Exit 4, the reason in run.json, no row in doubt, and `resume` does the rest."""
    async with Stage(tmp_path, faults=SLOW, concurrency=8) as stage:
        stage.seed(300)
        run = AtWork(stage)
        await run.under_load()
        reply = await run.order(command="stop", reason="wrong account")
        late = await _try(run.order(command="pause"))
        stopped = await run.carrying
        reason = stopped.reason
        sent = sum(stage.patches.values())
        resumed = await stage.resume(stopped)

        assert reply.said == "stopping: no more rows are taken, and what is in flight may land"
        assert isinstance(late, RunRefused) or not late.done
        assert (stopped.summary.exit_code, stopped.summary.verdict) == (4, "stopped")
        assert reason.startswith("stopped by ")
        assert ": wrong account; what was in flight could land" in reason
        assert sent == stopped.counts["updated"]
        assert resumed.counts == {"updated": 300}
        assert max(stage.patches.values()) == 1


async def _try(order: Awaitable[Reply]) -> Reply | RunRefused:
    try:
        return await order
    except RunRefused as refusal:
        return refusal


async def test_nothing_to_continue_is_said(tmp_path: Path) -> None:
    """Who continues a run that does not wait learns it."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await run.under_load()
        reply = await run.order(command="continue")
        await run.stop()

        assert (reply.done, reply.said) == (True, "nothing waited for that")


# ------------------------------------------------------------------------------------ the socket


async def test_the_socket_is_its_owners_and_goes_with_the_run(tmp_path: Path) -> None:
    """Mode 0600 in a folder of 0700; one that was left behind is replaced; none is left behind."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(ROWS)
        opened = stage.open(run_id="x")
        path = opened.folder.path / SOCKET
        with socket.socket(socket.AF_UNIX) as dead, address_in(path.parent) as address:
            dead.bind(address)
        opened.tokens.close()
        opened.folder.unlock()
        run = AtWork.__new__(AtWork)
        run.stage, run.opened, run.lives = stage, stage.reopen("x"), []
        run.folder = run.opened.folder
        run.carrying = asyncio.create_task(stage.carry(run.opened, show=run.lives.append))
        await run.under_load()
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)]
        await run.stop()

        assert modes == [0o600, 0o700]
        assert not path.exists()


NONSENSE = {
    "no JSON": b"pause, please\n",
    "no object": b"[1, 2]\n",
    "no such command": b'{"command": "halt"}\n',
    "no such field": b'{"command": "stop", "now": true}\n',
    "no UTF-8": b'{"command": "pause", "reason": "\xff"}\n',
    "a wrong kind of value": b'{"command": "set", "rate": "fast"}\n',
    "a value out of range": b'{"command": "set", "concurrency": 0}\n',
    "nothing to set": b'{"command": "set"}\n',
    "something to set for nothing": b'{"command": "pause", "rate": 3}\n',
    "a time that is none": b'{"command": "pause", "for_s": -1}\n',
    "an endless time": b'{"command": "pause", "for_s": 1e300}\n',
    "an empty line": b"\n",
    "too much": b"x" * 200_000,
    "deep": b"[" * 10_000 + b"\n",
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_on_the_socket_is_refused_and_harms_nobody(
    said: bytes, tmp_path: Path
) -> None:
    """It is answered with why it is no order; nothing is put on record, and the run goes on."""
    async with Stage(tmp_path, faults=Faults(latency_s=0.005)) as stage:
        stage.seed(150)
        run = AtWork(stage)
        await until(lambda: stage.sim.requests > 20)
        answer = await asyncio.to_thread(_say, run.folder, said)
        done = await run.carrying

        # Who talks without an end may not even be listened to until the answer.
        reply = json.loads(answer or b'{"done": false, "said": "this is no order: too much"}')
        assert reply["done"] is False
        assert reply["said"].startswith("this is no order: ")
        assert done.counts == {"updated": 150}
        assert controls(done) == []


def _say(folder: Folder, said: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as speaker, address_in(folder.path) as address:
        speaker.settimeout(10)
        speaker.connect(address)
        try:
            speaker.sendall(said)
            return speaker.recv(65_536)
        except OSError:
            return b""  # it would not listen to all of that


async def test_whoever_says_nothing_keeps_nobody_from_speaking(tmp_path: Path) -> None:
    """Connections that are silent, or were closed halfway, do not stand in the way of an order."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await run.under_load()
        speakers = [socket.socket(socket.AF_UNIX) for _ in range(6)]
        for number, speaker in enumerate(speakers):
            with address_in(run.folder.path) as address:
                speaker.connect(address)
            speaker.sendall(b'{"command": ')
            if number % 2:
                speaker.close()
        reply = await run.order(command="pause")
        done = await run.stop()
        for speaker in speakers:
            speaker.close()

        assert reply.done
        assert [event["command"] for event in controls(done)] == ["pause", "stop"]


async def test_a_run_with_a_long_name_can_be_told_too(tmp_path: Path) -> None:
    """A socket's address holds about a hundred bytes; a path of four hundred is reached as well."""
    runs_dir = tmp_path.joinpath(*["a-folder-with-quite-a-long-name"] * 12)
    async with Stage(tmp_path, faults=SLOW, runs_dir=runs_dir) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await run.under_load()
        reply = await run.order(command="pause")
        there = (run.folder.path / SOCKET).is_socket()
        await run.stop()

        assert len(str(run.folder.path / SOCKET)) > 400
        assert (reply.done, there) == (True, True)
        assert not (run.folder.path / SOCKET).exists()


async def test_where_there_can_be_no_socket_the_run_goes_on(tmp_path: Path) -> None:
    """It says so in its events; whoever wants to give an order is told why that cannot be."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(200)
        opened = stage.open(run_id="x")
        (opened.folder.path / SOCKET).mkdir()
        carrying = asyncio.create_task(stage.carry(opened))
        await until(lambda: stage.sim.requests > 60)
        with pytest.raises(RunRefused, match="run x is at work, but takes no orders now"):
            await asyncio.to_thread(ask, opened.folder, Order(command="pause"), wait_for_it_s=0.1)
        done = await carrying

        assert done.counts == {"updated": 200}
        (told,) = [e for e in done.events if e["event"] == "control.unavailable"]
        assert told["why"] == "Address already in use"


async def test_an_order_that_breaks_us_breaks_nothing_else(tmp_path: Path) -> None:
    """A fault of our own in one order ends that conversation, and the next one is heard."""
    given: list[str] = []

    async def act(order: Order, who: str) -> Reply:
        given.append(order.command)
        if order.command == "stop":
            raise RuntimeError("a secret")
        return Reply(run_id="x", done=True, said="done")

    desk = Desk(tmp_path, act)
    folder = Folder(tmp_path)
    folder.lock()
    async with anyio.create_task_group() as group:
        assert await group.start(desk.serve) is None
        with pytest.raises(RunRefused, match="it ended before it could answer"):
            await asyncio.to_thread(ask, folder, Order(command="stop"), wait_for_it_s=0)
        reply = await asyncio.to_thread(ask, folder, Order(command="pause"))
        await desk.farewell()
        group.cancel_scope.cancel()
    folder.unlock()

    assert given == ["stop", "pause"]
    assert reply.said == "done"
    assert not (tmp_path / SOCKET).exists()


async def test_an_order_that_was_given_is_answered_before_the_desk_closes(tmp_path: Path) -> None:
    """Who stops a run is told so, although the run may end in the same moment."""
    heard = anyio.Event()
    go_on = anyio.Event()

    async def act(order: Order, who: str) -> Reply:
        heard.set()
        await go_on.wait()
        return Reply(run_id="x", done=True, said="stopping")

    desk = Desk(tmp_path, act)
    async with anyio.create_task_group() as group:
        await group.start(desk.serve)
        asking = asyncio.create_task(
            asyncio.to_thread(ask, Folder(tmp_path), Order(command="stop"))
        )
        await heard.wait()
        go_on.set()
        await desk.farewell()
        group.cancel_scope.cancel()

    assert (await asking).said == "stopping"


async def test_only_its_owner_gives_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the folder's permissions ever be opened, another user is still refused."""
    from runner.control import desk

    async def act(order: Order, who: str) -> Reply:
        raise AssertionError("nobody may")

    monkeypatch.setattr(desk, "_who", lambda peer: (12_345, "mallory (process 1)"))
    async with anyio.create_task_group() as group:
        await group.start(Desk(tmp_path, act).serve)
        reply = await asyncio.to_thread(ask, Folder(tmp_path), Order(command="stop"))
        group.cancel_scope.cancel()

    assert reply.said == "only the user who started the run may give it orders"


def test_a_run_that_takes_its_time_to_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """Whoever asks has a limit of their own."""
    folder = Folder(tmp_path)
    folder.lock()
    with socket.socket(socket.AF_UNIX) as deaf, address_in(tmp_path) as address:
        deaf.bind(address)
        deaf.listen()
        with pytest.raises(RunRefused, match="it does not answer"):
            ask(folder, Order(command="status"), wait_for_it_s=0, patience_s=0.1)
    folder.unlock()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"command": "set"}, "set takes at least one of"),
        ({"command": "stop", "rate": 1.0}, "no other command takes any"),
        ({"command": "continue", "for_s": 3.0}, "--for belongs to pause"),
        ({"command": "pause", "for_s": 0.0}, "--for must be longer than nothing"),
        ({"command": "set", "rate": 0.0}, "--rate must be a number of requests per second"),
        ({"command": "set", "max_resyncs": 0}, "--max-resyncs must be a whole number"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(words: dict[str, Any], said: str) -> None:
    """By the same rules as the settings, at either end of the socket."""
    with pytest.raises(SettingsError, match=said):
        order_of(Order(**words))


async def test_a_run_that_is_not_at_work_says_how_it_ended(tmp_path: Path) -> None:
    """Finished, planned or killed: each is told, with what could be done."""
    async with Stage(tmp_path) as stage:
        stage.plain(3)
        run = await stage.run()
        await stage.plan(run_id="planned")
        folder = run.opened.folder
        finished = folder.read()

        def refusal(of: Folder) -> str:
            with pytest.raises(RunRefused) as caught:
                ask(of, Order(command="pause"))
            return str(caught.value)

        ended = refusal(folder)
        planned = refusal(Folder(folder.path.parent / "planned"))
        folder.amend(state="running")
        killed = refusal(folder)

        assert f"run {run.id} is not at work, so it takes no orders; it is finished at" in ended
        assert finished.ended is not None
        assert finished.ended in ended
        assert planned.endswith("it is planned; carry it out: syncshift apply planned")
        assert killed.endswith(f"it was killed; go on with it: syncshift resume {run.id}")


async def test_many_orders_at_once_are_carried_out_one_by_one(tmp_path: Path) -> None:
    """Twenty people at once harm nobody; the record has every order."""
    async with Stage(tmp_path, faults=SLOW) as stage:
        stage.seed(ROWS)
        run = AtWork(stage)
        await run.under_load()
        replies = await asyncio.gather(
            *(run.order(command="set", rate=float(rate)) for rate in range(100, 120))
        )
        kept = run.folder.read().settings.rate
        now = await run.standing()
        done = await run.stop()

        assert all(reply.done for reply in replies)
        assert kept == now["rate"] == controls(done)[19]["values"]["rate"]
        assert len(controls(done)) == 21
        assert threading.active_count() < 100
