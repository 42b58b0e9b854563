"""The simulator answers like the API, goes wrong as asked, and remembers every request."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gzip
import io
import json
import math
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest

from runner.errors import SettingsError
from runner.simulator import (
    NOT_ACTED,
    PASSING,
    TOLD,
    AuditEntry,
    Behavior,
    Fault,
    Faults,
    Outage,
    OutageKind,
    RetryAfter,
    Simulator,
    SyncRecord,
)
from runner.simulator.plan import FaultPlan
from runner.simulator.server import _base_url

OLD = "11111111-1111-4111-8111-111111111111"
NEW = "22222222-2222-4222-8222-222222222222"
WORDS = "1m, 5m, 10m, 30m, 1h, 3h, 6h, 24h"
WALL = 1_800_000_000.0
ANN = SyncRecord(id="ann-1", user="ann", credential_id=OLD, frequency="1h", total_records=100)
BOB = SyncRecord(id="bob-1", user="bob", credential_id=OLD)


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def now(self) -> float:
        """Return the moment of the monotonic clock."""
        return self.now_s

    def wall(self) -> float:
        """Return the same moment as seconds since the epoch."""
        return WALL + self.now_s - 50.0


class Reply(msgspec.Struct):
    """What a client read."""

    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def verify(token: str) -> str | None:
    """Accept ``user:NAME`` and ``user:NAME:anything``."""
    kind, _, rest = token.partition(":")
    return rest.split(":")[0] if kind == "user" else None


def simulator(*records: SyncRecord, **options: Any) -> Simulator:
    """Return a simulator that holds *records*, or one sync of Ann's and one of Bob's."""
    made = Simulator(verify=verify, **options)
    made.add(*(records or (ANN, BOB)))
    return made


@contextlib.asynccontextmanager
async def clocked(*records: SyncRecord, **options: Any) -> AsyncIterator[tuple[Simulator, Clock]]:
    """Serve a simulator that goes by a clock of its own."""
    clock = Clock()
    async with simulator(*records, now=clock.now, wall=clock.wall, **options) as sim:
        yield sim, clock


async def ask(
    sim: Simulator,
    method: str,
    path: str,
    *,
    user: str = "ann",
    headers: dict[str, str] | None = None,
    **options: Any,
) -> Reply:
    """Send one request on a connection of its own."""
    async with (
        aiohttp.ClientSession(base_url=sim.base_url) as session,
        session.request(
            method,
            path,
            headers={"Authorization": f"Bearer user:{user}"} if headers is None else headers,
            allow_redirects=False,
            **options,
        ) as response,
    ):
        return Reply(response.status, await response.read(), response.headers)


async def patch(sim: Simulator, sync_id: str = "ann-1", **asked: Any) -> Reply:
    """Send a PATCH of Ann's."""
    return await ask(sim, "PATCH", f"/api/syncs/{sync_id}", json=asked)


async def get(sim: Simulator, sync_id: str = "ann-1", user: str = "ann") -> Reply:
    """Read one sync."""
    return await ask(sim, "GET", f"/api/syncs/{sync_id}", user=user)


async def raw(sim: Simulator, sent: bytes) -> bytes:
    """Send bytes on a connection of their own and return all that comes back."""
    reader, writer = await connect(sim)
    writer.write(sent)
    try:
        return await reader.read()
    finally:
        writer.close()


async def connect(sim: Simulator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection without sending anything."""
    return await asyncio.open_connection("127.0.0.1", int(sim.base_url.rpartition(":")[2]))


def head(method: str, path: str, *more: str, user: str = "ann", close: bool = True) -> bytes:
    """Return the head of a request exactly as it is written here."""
    lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Authorization: Bearer user:{user}"]
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, *more, "", ""]).encode("utf-8", "surrogateescape")


async def until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # conditions of many kinds, none has an event
            await asyncio.sleep(0)


# What a well-behaved service answers


async def test_get_tells_the_state_of_a_sync() -> None:
    """A read tells status, summary, credential and frequency, and nothing else."""
    record = msgspec.structs.replace(ANN, last_synced_at="2026-01-01T00:00:00.000Z")
    async with simulator(record) as sim:
        reply = await get(sim)

    assert reply.status == 200
    assert reply.json == {
        "status": "IDLE",
        "summary": {
            "totalRecords": 100,
            "syncedRecordsCount": 100,
            "lastSyncedAt": "2026-01-01T00:00:00.000Z",
        },
        "credentialId": OLD,
        "incrementalAccumulatorFrequency": "1h",
    }


@pytest.mark.parametrize(
    ("tells", "keys"),
    [
        (TOLD, {"status", "summary", "credentialId", "incrementalAccumulatorFrequency"}),
        ({"summary"}, {"status", "summary"}),
        ({"credentialId"}, {"status", "credentialId"}),
        ({"frequency"}, {"status", "incrementalAccumulatorFrequency"}),
        ((), {"status"}),
    ],
)
async def test_older_versions_withhold_fields(tells: Iterable[str], keys: set[str]) -> None:
    """A read tells exactly the parts that it was set to tell."""
    async with simulator(behavior=Behavior(tells=frozenset(tells))) as sim:
        told = (await get(sim)).json

    assert set(told) == keys


async def test_a_frequency_never_set_is_not_told() -> None:
    """A sync on its default frequency has no frequency in a read."""
    async with simulator() as sim:
        told = (await get(sim, "bob-1", "bob")).json

    assert "incrementalAccumulatorFrequency" not in told


async def test_rate_limited_and_errored_syncs_say_more() -> None:
    """RATE_LIMITED comes with a wait and ERRORED with a reason, in reads and in lists."""
    async with simulator(
        SyncRecord(id="slow", user="ann", status="RATE_LIMITED"),
        SyncRecord(id="bad", user="ann", status="ERRORED", reason="gone"),
    ) as sim:
        slow, bad = (await get(sim, "slow")).json, (await get(sim, "bad")).json
        listed = (await ask(sim, "GET", "/api/syncs")).json["data"]

    assert slow["rateLimitBackoffMs"] == 30_000
    assert bad["reason"] == "gone"
    assert [item.get("reason") for item in listed] == [None, "gone"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["ann-1", "ann-2"]),
        (f"?credentialId={NEW.upper()}", ["ann-2"]),
        ("?credentialId=", []),
        ("?other=1", ["ann-1", "ann-2"]),
    ],
)
async def test_a_list_holds_the_users_own_syncs(query: str, ids: list[str]) -> None:
    """The list is the token's user's, narrowed by credential where one is named."""
    more = SyncRecord(id="ann-2", user="ann", credential_id=NEW)
    async with simulator(ANN, BOB, more) as sim:
        reply = await ask(sim, "GET", f"/api/syncs{query}")

    assert [item["id"] for item in reply.json["data"]] == ids
    assert set(reply.json["data"][0] if ids else ()) <= {"id", "integration", "pipeline", "status"}


async def test_a_patch_repeats_what_was_asked_and_is_in_force() -> None:
    """The answer echoes the request as it was written; the state is in lower case."""
    async with simulator() as sim:
        asked = {"credentialId": NEW.upper(), "incrementalAccumulatorFrequency": "5m"}
        reply = await patch(sim, **asked)
        state = sim.snapshot()["ann-1"]

    assert reply.status == 200
    assert reply.json == {
        "id": "ann-1",
        "data": asked,
        "message": "Update request accepted and is being processed",
    }
    assert (state.credential_id, state.frequency) == (NEW, "5m")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'{"credentialId":"x"}', "application/json", ["credentialId must be a UUID"]),
        (b'{"credentialId":null}', "application/json", ["credentialId must be a UUID"]),
        (b'{"credentialId":""}', "application/json", ["credentialId must be a UUID"]),
        (
            b'{"incrementalAccumulatorFrequency":"15m"}',
            "application/json",
            [f"incrementalAccumulatorFrequency must be one of the following values: {WORDS}"],
        ),
        (
            b'{"frequency":"1h","credentialId":7}',
            "application/json",
            ["property frequency should not exist", "credentialId must be a UUID"],
        ),
        (b"[]", "application/json", "The body must be a JSON object"),
        (b"{", "application/json; charset=utf-8", "Unexpected token in JSON"),
        (b"\xff", "application/json", "Unexpected token in JSON"),
        (
            b"{}",
            "application/json",
            "At least one of credentialId, incrementalAccumulatorFrequency must be provided",
        ),
        (
            b'{"incrementalAccumulatorFrequency":"5m"}',
            "text/plain",
            "At least one of credentialId, incrementalAccumulatorFrequency must be provided",
        ),
    ],
)
async def test_a_bad_body_is_refused(body: bytes, kind: str, message: str | list[str]) -> None:
    """A PATCH that the API would refuse gets 400 with the framework's words, and no effect."""
    headers = {"Authorization": "Bearer user:ann", "Content-Type": kind}
    async with simulator() as sim:
        reply = await ask(sim, "PATCH", "/api/syncs/ann-1", headers=headers, data=body)
        state = sim.snapshot()

    assert reply.json == {"statusCode": 400, "message": message, "error": "Bad Request"}
    assert reply.status == 400
    assert state["ann-1"] == ANN


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer other", "Basic dXNlcjphbm4=", "user:ann"])
async def test_a_token_that_is_not_valid_gets_401(value: str) -> None:
    """Without an accepted bearer token nothing is told."""
    async with simulator() as sim:
        reply = await ask(sim, "GET", "/api/syncs/ann-1", headers={"Authorization": value})

    assert reply.status == 401
    assert reply.json == {"statusCode": 401, "message": "Unauthorized", "error": "Unauthorized"}
    assert sim.audit[0].user is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/syncs/bob-1"),
        ("PATCH", "/api/syncs/bob-1"),
        ("POST", "/api/syncs/bob-1/disable"),
        ("GET", "/api/syncs/nobody"),
        ("GET", "/api/syncs/"),
        ("PATCH", "/api/syncs"),
        ("POST", "/api/syncs"),
        ("DELETE", "/api/syncs/ann-1"),
        ("GET", "/api/syncs/ann-1/disable"),
        ("POST", "/api/syncs/ann-1/delete"),
        ("GET", "/api/syncs/ann-1/records/1"),
        ("GET", "/api/syncs/ann-1/"),
        ("GET", "/api/other"),
        ("GET", "//api/syncs"),
        ("GET", "/api/syncs/../syncs/ann-1"),
        ("GET", "http://elsewhere.invalid/api/syncs/ann-1"),
    ],
)
async def test_what_is_not_there_gets_404_and_is_audited(method: str, path: str) -> None:
    """Another user's sync, an unknown one, and every path that is no endpoint are 404."""
    async with simulator() as sim:
        reply = await raw(sim, head(method, path))

    assert reply.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert [(entry.method, entry.path, entry.status) for entry in sim.audit] == [
        (method, path, 404)
    ]


HOSTILE = [
    "..",
    ".",
    "../admin",
    "a/b",
    "%2f",
    "a%2Fb",
    "%2e%2e",
    "//evil/x",
    "https://evil/x",
    "a?x=1",
    "a#f",
    "a;b",
    "a\r\nb",
    "a b",
    "\x00",
    "+",
    "ünï",
    "\u202e",
    "😀",
    "%",
]


@pytest.mark.parametrize("sync_id", HOSTILE)
async def test_an_id_is_one_segment_decoded_once(sync_id: str) -> None:
    """Whatever an ID is made of, it reaches the service as it was before encoding."""
    async with simulator(SyncRecord(id=sync_id, user="ann")) as sim:
        path = f"/api/syncs/{quote(sync_id, safe='')}"
        read = await raw(sim, head("GET", path))
        paused = await raw(sim, head("POST", f"{path}/disable"))
        state = sim.snapshot()

    assert b"200 OK" in read
    assert json.loads(paused.partition(b"\r\n\r\n")[2]) == {"id": sync_id}
    assert state[sync_id].status == "DISABLED"
    assert [entry.sync_id for entry in sim.audit] == [sync_id, sync_id]


@pytest.mark.parametrize("segment", ["%", "a%zz", "%ff", "%2"])
async def test_a_segment_that_cannot_be_decoded_gets_400(segment: str) -> None:
    """A broken escape is refused, not guessed at."""
    async with simulator() as sim:
        reply = await raw(sim, head("GET", f"/api/syncs/{segment}"))

    assert b"400 Bad Request" in reply
    assert f"Failed to decode param '{segment}'".encode() in reply


async def test_bytes_that_are_not_utf_8_are_audited_as_escapes() -> None:
    """A header of raw bytes does not keep its entry from being written as JSON."""
    async with simulator() as sim:
        reply = await raw(sim, head("GET", "/api/syncs/ann-1", "User-Agent: \udcff"))

    assert b"200 OK" in reply
    assert msgspec.json.decode(msgspec.json.encode(sim.audit[0]))["user_agent"] == "\\xff"


# How the state changes


async def test_a_change_is_in_force_after_the_delay() -> None:
    """An accepted change shows only once its delay is over; later ones come after it."""
    async with clocked(behavior=Behavior(apply_after_s=10.0)) as (sim, clock):
        await patch(sim, incrementalAccumulatorFrequency="5m")
        clock.now_s += 4.0
        await patch(sim, incrementalAccumulatorFrequency="24h")
        seen = [sim.snapshot()["ann-1"].frequency]
        for wait_s in (5.9, 0.2, 4.0):
            clock.now_s += wait_s
            seen.append(sim.snapshot()["ann-1"].frequency)

    assert seen == ["1h", "1h", "5m", "24h"]


async def test_a_shorter_delay_may_overtake() -> None:
    """What falls due first is applied first."""
    async with clocked(behavior=Behavior(apply_after_s=10.0)) as (sim, clock):
        await patch(sim, incrementalAccumulatorFrequency="5m")
        sim.behavior = Behavior(apply_after_s=1.0)
        await patch(sim, incrementalAccumulatorFrequency="24h")
        clock.now_s += 2.0
        soon = sim.snapshot()["ann-1"].frequency
        clock.now_s += 9.0

    assert (soon, sim.snapshot()["ann-1"].frequency) == ("24h", "5m")
    assert sim.behavior.apply_after_s == 1.0


async def test_a_new_credential_starts_a_resync() -> None:
    """A re-sync is ACTIVE while it runs, counts up, and ends IDLE at the time it ended."""
    async with clocked(behavior=Behavior(apply_after_s=1.0, resync_s=10.0)) as (sim, clock):
        await patch(sim, credentialId=NEW)
        clock.now_s += 6.0
        half = (await get(sim)).json
        clock.now_s += 100.0
        done = (await get(sim)).json

    assert (half["status"], half["summary"]) == (
        "ACTIVE",
        {"totalRecords": 100, "syncedRecordsCount": 50},
    )
    assert (done["status"], done["summary"]["syncedRecordsCount"]) == ("IDLE", 100)
    assert done["summary"]["lastSyncedAt"] == "2027-01-15T08:00:11.000Z"


async def test_a_frequency_starts_no_resync() -> None:
    """A change of the frequency alone leaves status and last sync as they were."""
    async with clocked(behavior=Behavior(resync_s=10.0)) as (sim, _clock):
        await patch(sim, incrementalAccumulatorFrequency="5m")
        state = sim.snapshot()["ann-1"]

    assert state == msgspec.structs.replace(ANN, frequency="5m")


@pytest.mark.parametrize(("resyncs", "status"), [(True, "ACTIVE"), (False, "IDLE")])
async def test_the_same_credential_again(resyncs: bool, status: str) -> None:
    """Whether a credential that is in use already starts a re-sync can be set."""
    behavior = Behavior(resync_s=10.0, same_credential_resyncs=resyncs)
    async with clocked(behavior=behavior) as (sim, _clock):
        await patch(sim, credentialId=OLD)

    assert sim.snapshot()["ann-1"].status == status


async def test_a_resync_can_end_errored_and_stays_so() -> None:
    """A sync that is chosen ends ERRORED with its reason, until it is cured and started again."""
    behavior = Behavior(resync_s=5.0, errored_ids=frozenset({"ann-1"}), reason="revoked")
    async with clocked(behavior=behavior) as (sim, clock):
        await patch(sim, credentialId=NEW)
        clock.now_s += 1_000.0
        errored = (await get(sim)).json
        sim.behavior = Behavior(resync_s=5.0, patch_revives_errored=False)
        await patch(sim, credentialId=NEW)
        patched = (await get(sim)).json["status"]
        await ask(sim, "POST", "/api/syncs/ann-1/reenable")
        running = (await get(sim)).json
        clock.now_s += 5.0
        cured = (await get(sim)).json

    assert (errored["status"], errored["reason"]) == ("ERRORED", "revoked")
    assert "lastSyncedAt" not in errored["summary"]
    assert patched == "ERRORED"
    assert (running["status"], cured["status"]) == ("ACTIVE", "IDLE")
    assert "reason" not in cured


async def test_a_patch_may_revive_an_errored_sync() -> None:
    """By default a new credential takes a sync out of ERRORED."""
    async with simulator(SyncRecord(id="bad", user="ann", status="ERRORED", reason="x")) as sim:
        await patch(sim, "bad", credentialId=NEW)
        state = sim.snapshot()["bad"]

    assert (state.status, state.reason) == ("IDLE", None)


async def test_a_share_of_the_syncs_ends_errored() -> None:
    """The share is kept roughly, and the same seed chooses the same syncs."""
    chosen = []
    for _ in range(2):
        sim = Simulator(verify=verify, seed=3, behavior=Behavior(errored=0.25))
        sim.seed(400, 4)
        async with sim, aiohttp.ClientSession(base_url=sim.base_url) as session:
            for sync in sim.snapshot().values():
                bearer = {"Authorization": f"Bearer user:{sync.user}"}
                path = f"/api/syncs/{sync.id}"
                await session.patch(path, json={"credentialId": NEW}, headers=bearer)
        chosen.append(
            {
                name
                for name, sync in sim.snapshot().items()
                if sync.status == "ERRORED" and sync.credential_id == NEW
            }
        )

    assert chosen[0] == chosen[1]
    assert 70 <= len(chosen[0]) <= 130


async def test_a_disabled_sync_takes_a_change_without_a_run() -> None:
    """A paused sync changes its credential, stays paused, and runs once it is reenabled."""
    async with clocked(behavior=Behavior(resync_s=5.0)) as (sim, clock):
        await patch(sim, credentialId=NEW)
        paused = await ask(sim, "POST", "/api/syncs/ann-1/disable")
        await patch(sim, credentialId=OLD)
        clock.now_s += 60.0
        still = sim.snapshot()["ann-1"]
        started = await ask(sim, "POST", "/api/syncs/ann-1/reenable")
        again = await ask(sim, "POST", "/api/syncs/ann-1/reenable")
        running = sim.snapshot()["ann-1"].status

    assert [reply.json for reply in (paused, started, again)] == [{"id": "ann-1"}] * 3
    assert (still.status, still.credential_id, still.last_synced_at) == ("DISABLED", OLD, None)
    assert running == "ACTIVE"


def test_behavior_refuses_what_it_does_not_know() -> None:
    """A word that is no part of a read, or a share that is none, is an error at once."""
    with pytest.raises(ValueError, match=r"tells knows .* got \['color'\]"):
        Behavior(tells=frozenset({"color"}))
    with pytest.raises(ValueError, match=r"errored is a share from 0 to 1; got 2"):
        Behavior(errored=2)


def test_the_same_seed_invents_the_same_state() -> None:
    """A seed decides the whole present state; another seed gives another one."""
    states = []
    for seed in (1, 1, 2):
        sim = Simulator(verify=verify, seed=seed)
        assert [record.id for record in sim.seed(300, 7)] == list(sim.snapshot())
        states.append(sim.snapshot())

    assert states[0] == states[1]
    assert states[0] != states[2]
    assert len(states[0]) == 300
    assert len({sync.user for sync in states[0].values()}) == 7
    assert {sync.status for sync in states[0].values()} >= {"IDLE", "ACTIVE"}
    assert None in {sync.frequency for sync in states[0].values()}
    assert all(sync.last_synced_at for sync in states[0].values())
    assert sum(sync.status == "IDLE" for sync in states[0].values()) > 250


def test_rows_get_a_present_state_whatever_their_order() -> None:
    """The state of a row's sync depends on its IDs and the seed, not on its place."""
    rows = [(f"sync {number}", f"org:{number % 3}") for number in range(50)]
    forth, back = Simulator(verify=verify), Simulator(verify=verify)
    taken = forth.seed_from_rows([*rows, rows[0], ("sync 1", "thief")], seed=9)
    back.seed_from_rows(reversed(rows), seed=9)

    assert len(taken) == 50
    assert forth.snapshot() == back.snapshot()
    assert forth.snapshot()["sync 1"].user == "org:1"


def test_one_id_is_one_sync() -> None:
    """Adding an ID twice is an error that names it."""
    sim = simulator()

    with pytest.raises(ValueError, match="sync 'ann-1' exists already"):
        sim.add(ANN)


# What goes wrong


SEEN: dict[Fault, int | type[Exception]] = {
    Fault.HTTP_401: 401,
    Fault.REVOKED: 401,
    Fault.HTTP_408: 408,
    Fault.HTTP_409: 409,
    Fault.HTTP_423: 423,
    Fault.HTTP_429: 429,
    Fault.HTTP_500: 500,
    Fault.HTTP_502: 502,
    Fault.HTTP_503: 503,
    Fault.HTTP_503_WAIT: 503,
    Fault.HTTP_504: 504,
    Fault.DROP_BEFORE: aiohttp.ServerDisconnectedError,
    Fault.DROP_AFTER: aiohttp.ServerDisconnectedError,
    Fault.TRUNCATED: aiohttp.ClientPayloadError,
    Fault.GARBAGE: aiohttp.ClientResponseError,
    Fault.NOT_JSON: 200,
    Fault.OTHER_ID: 200,
    Fault.OTHER_DATA: 200,
    Fault.OVERSIZED: 200,
    Fault.GZIP_BOMB: 200,
    Fault.IGNORED: 200,
    Fault.SLOW: 200,
    Fault.CLOSE_AFTER: 200,
    Fault.REDIRECT: 307,
}
QUICK = Faults(slow_s=0.01, oversized_bytes=1 << 16, bomb_bytes=1 << 20)


@pytest.mark.parametrize("fault", list(Fault))
async def test_every_fault_is_seen_by_a_client(fault: Fault) -> None:
    """Each fault shows as it says, acts or not as it says, and the next request is fine."""
    async with simulator(faults=QUICK) as sim:
        sim.script("ann-1", "PATCH", [fault])
        try:
            seen: int | type[Exception] = (
                await patch(sim, incrementalAccumulatorFrequency="5m")
            ).status
        except aiohttp.ClientError as error:
            seen = type(error)
        state = sim.snapshot()["ann-1"].frequency
        entry = sim.audit[0]
        other = {"Authorization": "Bearer user:ann:other"}
        after = await ask(sim, "GET", "/api/syncs/ann-1", headers=other)

    assert seen == SEEN[fault]
    assert state == ("1h" if fault in NOT_ACTED else "5m")
    assert entry.acted is (fault not in NOT_ACTED)
    assert (entry.fault, entry.status_or_fault) == (fault.value, fault.value)
    expected = SEEN[fault] if isinstance(SEEN[fault], int) else None
    assert entry.status == (200 if fault is Fault.TRUNCATED else expected)
    assert after.status == 200


async def spoiled(
    fault: Fault, faults: Faults = QUICK, *, asked: dict[str, str] | None = None
) -> Reply:
    """Return the answer to a PATCH that meets *fault*."""
    async with simulator(faults=faults) as sim:
        sim.script("ann-1", "PATCH", [fault])
        return await patch(sim, **(asked or {"incrementalAccumulatorFrequency": "5m"}))


async def test_gateway_pages_are_html() -> None:
    """502, 504 and the 200 that is not JSON carry a page."""
    pages = [await spoiled(fault) for fault in (Fault.HTTP_502, Fault.HTTP_504, Fault.NOT_JSON)]

    assert {page.headers["Content-Type"] for page in pages} == {"text/html; charset=utf-8"}
    assert [b"<h1>502 Bad Gateway</h1>" in pages[0].body, pages[2].body[:6]] == [True, b"<html>"]


@pytest.mark.parametrize(
    ("fault", "asked", "wrong"),
    [
        (Fault.OTHER_ID, {"credentialId": NEW}, {"id": "ann-1-other"}),
        (
            Fault.OTHER_DATA,
            {"credentialId": NEW},
            {"data": {"credentialId": "ffffffff-ffff-4fff-8fff-ffffffffffff"}},
        ),
        (
            Fault.OTHER_DATA,
            {"incrementalAccumulatorFrequency": "5m"},
            {"data": {"incrementalAccumulatorFrequency": "24h"}},
        ),
        (
            Fault.OTHER_DATA,
            {"incrementalAccumulatorFrequency": "24h"},
            {"data": {"incrementalAccumulatorFrequency": "1m"}},
        ),
    ],
)
async def test_a_200_may_echo_something_else(
    fault: Fault, asked: dict[str, str], wrong: dict[str, object]
) -> None:
    """The echo differs in the one thing that the fault names."""
    honest = {
        "id": "ann-1",
        "data": asked,
        "message": "Update request accepted and is being processed",
    }

    assert (await spoiled(fault, asked=asked)).json == {**honest, **wrong}


async def test_an_echo_fault_leaves_a_refusal_alone() -> None:
    """A PATCH that is refused anyway has nothing to echo."""
    assert (await spoiled(Fault.OTHER_ID, asked={"credentialId": "x"})).status == 400


async def test_oversized_answers_and_bombs_have_the_size_asked_for() -> None:
    """Padding and bomb are as large as set, and the bomb is small on the wire."""
    big = await spoiled(Fault.OVERSIZED)
    async with simulator(faults=QUICK) as sim:
        sim.script("ann-1", "GET", [Fault.GZIP_BOMB])
        wire = await raw(sim, head("GET", "/api/syncs/ann-1"))

    assert len(big.body) > 1 << 16
    assert big.json["id"] == "ann-1"
    assert len(wire) < 10_000
    assert gzip.decompress(wire.partition(b"\r\n\r\n")[2]) == b" " * (1 << 20)


async def test_a_redirect_names_another_host() -> None:
    """The Location is the host that was set, with the request's own path."""
    reply = await spoiled(Fault.REDIRECT, Faults(redirect_to="http://127.0.0.1:9"))

    assert reply.headers["Location"] == "http://127.0.0.1:9/api/syncs/ann-1"


async def test_a_slow_answer_takes_its_time() -> None:
    """A slow answer leaves no sooner than set."""
    began = time.monotonic()
    reply = await spoiled(Fault.SLOW, Faults(slow_s=0.1))

    assert reply.status == 200
    assert time.monotonic() - began >= 0.1


async def test_a_connection_is_closed_after_a_whole_answer() -> None:
    """CLOSE_AFTER says keep-alive, sends everything, and closes."""
    async with simulator() as sim:
        sim.script("ann-1", "GET", [Fault.CLOSE_AFTER])
        wire = await raw(sim, head("GET", "/api/syncs/ann-1", close=False))

    assert b"\r\nConnection: keep-alive\r\n" in wire
    assert json.loads(wire.partition(b"\r\n\r\n")[2])["status"] == "IDLE"


async def test_a_revoked_token_stays_refused() -> None:
    """Once revoked a token opens nothing any more; another one of the same user does."""
    async with simulator() as sim:
        sim.script("ann-1", "GET", [Fault.REVOKED])
        first = await get(sim)
        second = await ask(sim, "GET", "/api/syncs")
        fresh = await ask(sim, "GET", "/api/syncs", user="ann:2")

    assert [first.status, second.status, fresh.status] == [401, 401, 200]
    assert [entry.fault for entry in sim.audit] == ["revoked", "revoked", None]


async def test_a_script_is_consumed_in_order() -> None:
    """Scripted faults come in their order, None is a right answer, then all is well."""
    async with simulator() as sim:
        sim.script("ann-1", "GET", [Fault.HTTP_500, None])
        sim.script("ann-1", "GET", [Fault.HTTP_409])
        sim.script("ann", "LIST", [Fault.HTTP_423])
        sim.script("ann-1", "GET", [])
        got = [(await get(sim)).status for _ in range(4)]
        listed = [(await ask(sim, "GET", "/api/syncs")).status for _ in range(2)]

    assert got == [500, 200, 409, 200]
    assert listed == [423, 200]


def test_a_script_that_cannot_happen_is_refused() -> None:
    """Only a PATCH has an echo to falsify."""
    with pytest.raises(ValueError, match="other_data, other_id can be scripted for PATCH only"):
        simulator().script("ann-1", "GET", [Fault.OTHER_ID, Fault.OTHER_DATA])


async def test_poison_never_heals() -> None:
    """A poison sync answers 500 each time; its neighbor does not."""
    async with simulator(faults=Faults(poison=frozenset({"ann-1"}), faults_per_row=1)) as sim:
        statuses = [(await get(sim)).status for _ in range(4)]
        neighbor = (await get(sim, "bob-1", "bob")).status

    assert statuses == [500] * 4
    assert neighbor == 200


def met(faults: Faults, *, seed: int, ids: Iterable[str], tries: int = 4) -> dict[str, list[str]]:
    """Return what each sync meets when *ids* are asked for in turn, by GET and PATCH."""
    plan = FaultPlan(faults=faults, seed=seed)
    found: dict[str, list[str]] = {}
    for _ in range(tries):
        for sync_id in ids:
            for method in ("GET", "PATCH"):
                fault, delay_s = plan.pick(method=method, sync_id=sync_id)
                found.setdefault(sync_id, []).append(f"{method} {fault} {delay_s}")
    return found


def test_the_same_seed_spoils_the_same_requests_in_any_order() -> None:
    """Faults and latencies hang on seed, sync, method and attempt, not on the order."""
    faults = Faults(http_500=0.2, slow=0.2, other_id=0.2, rows=0.7, latency_s=0.1)
    ids = [f"sync-{number}" for number in range(200)]
    forth = met(faults, seed=5, ids=ids)

    assert forth == met(faults, seed=5, ids=ids[::-1])
    assert forth != met(faults, seed=6, ids=ids)


async def test_the_same_seed_spoils_the_same_requests_over_the_wire() -> None:
    """Two runs of many clients in another order meet the same faults, request for request."""
    faults = Faults.mixed(0.5, faults_per_row=2, slow_s=0.0)
    ids = [f"sync-{number}" for number in range(40)]
    runs = []
    for order in (ids, ids[::-1]):
        records = [SyncRecord(id=sync_id, user="ann") for sync_id in ids]
        async with simulator(*records, faults=faults, seed=8) as sim:

            async def thrice(sync_id: str, sim: Simulator = sim) -> None:
                for _ in range(3):
                    with contextlib.suppress(aiohttp.ClientError):
                        await patch(sim, sync_id, credentialId=NEW)

            await asyncio.gather(*map(thrice, order))
        runs.append([[e.fault for e in sim.audit if e.sync_id == sync_id] for sync_id in ids])

    assert runs[0] == runs[1]
    assert {len(met_by_one) for met_by_one in runs[0]} == {3}
    assert {sum(map(bool, met_by_one)) for met_by_one in runs[0]} == {0, 2}


def test_shares_are_kept() -> None:
    """Over many requests each share comes out about as large as it was set."""
    plan = FaultPlan(faults=Faults(http_500=0.1, drop_after=0.3), seed=1)
    picks = [plan.pick(method="PATCH", sync_id=str(number))[0] for number in range(4_000)]

    assert 320 <= picks.count(Fault.HTTP_500) <= 480
    assert 1_080 <= picks.count(Fault.DROP_AFTER) <= 1_320
    assert set(picks) == {Fault.HTTP_500, Fault.DROP_AFTER, None}


def test_mixed_faults_meet_a_share_of_the_rows() -> None:
    """Mixed faults are of every kind, for the share of rows, and no more often than set."""
    found = met(Faults.mixed(0.1), seed=2, ids=[str(number) for number in range(5_000)])
    faulty = {
        sync_id: [pick.split() for pick in picks if " None " not in pick]
        for sync_id, picks in found.items()
    }
    patches = [
        [kind for method, kind, _ in picks if method == "PATCH"] for picks in faulty.values()
    ]

    assert 420 <= sum(map(bool, patches)) <= 580
    assert max(map(len, patches)) == 1
    assert {kind for kinds in patches for kind in kinds} == {fault.value for fault in PASSING}


def test_mixed_takes_chosen_kinds() -> None:
    """Mixed faults may be narrowed to some kinds, but not to none."""
    plan = FaultPlan(faults=Faults.mixed(1.0, kinds=[Fault.SLOW], slow_s=3.0), seed=0)

    assert plan.pick(method="GET", sync_id="x") == (Fault.SLOW, 3.0)
    assert plan.pick(method="GET", sync_id="x") == (None, 0.0)
    with pytest.raises(ValueError, match="kinds must name at least one fault"):
        Faults.mixed(0.5, kinds=[])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"http_500": 1.5}, r"http_500 is a share from 0 to 1; got 1\.5"),
        ({"rows": -0.1}, r"rows is a share from 0 to 1; got -0\.1"),
        ({"http_500": 0.6, "slow": 0.6}, r"at most 1 together; got 1\.2"),
        ({"limit_per_s": 0.0}, r"limit_per_s must be above 0; got 0\.0"),
        ({"user_burst": 0}, "user_burst must be above 0; got 0"),
    ],
)
def test_faults_refuse_what_makes_no_sense(wrong: dict[str, Any], message: str) -> None:
    """A share or a limit that cannot be is an error at once, and names the value."""
    with pytest.raises(ValueError, match=message):
        Faults(**wrong)


def test_latency_spreads_around_its_median() -> None:
    """Half of the answers are faster than the median; without jitter all are alike."""
    spread = FaultPlan(faults=Faults(latency_s=0.2, latency_jitter=0.5), seed=4)
    even = FaultPlan(faults=Faults(latency_s=0.2, latency_jitter=0.0), seed=4)
    delays = [spread.pick(method="GET", sync_id=str(number))[1] for number in range(2_000)]

    assert statistics.median(delays) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(map(math.log, delays)) == pytest.approx(0.5, rel=0.1)
    assert even.pick(method="GET", sync_id="x") == (None, 0.2)


async def test_answers_carry_date_and_number_and_cookie_on_request() -> None:
    """Every answer has the service's date and a number; cookies only when asked for."""
    skewed = Behavior(clock_skew_s=90.0)
    async with clocked(behavior=skewed, faults=Faults(set_cookie=True)) as (sim, _clock):
        baked = await get(sim)
        sim.faults = Faults(slow_s=1.0)
        plain = await get(sim)
        missing = await ask(sim, "GET", "/nowhere")
        sim.script("ann-1", "GET", [Fault.CLOSE_AFTER])
        closed = await get(sim)

    assert sim.faults == Faults(slow_s=1.0)
    replies = [baked, plain, missing, closed]
    assert [reply.headers["X-Request-Id"] for reply in replies] == [
        f"sim-{entry.number}" for entry in sim.audit
    ]
    assert {reply.headers["Date"] for reply in replies} == {"Fri, 15 Jan 2027 08:01:30 GMT"}
    assert ["Set-Cookie" in reply.headers for reply in replies] == [True, False, False, False]


# When it is too much, or down


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (RetryAfter.SECONDS, "4"),
        (RetryAfter.DATE, "Fri, 15 Jan 2027 08:00:04 GMT"),
        (RetryAfter.NONE, None),
    ],
)
async def test_a_rate_limit_tells_its_wait_in_each_form(form: RetryAfter, told: str | None) -> None:
    """Above the limit comes 429 with the wait rounded up; after the wait all is well."""
    limited = Faults(limit_per_s=0.3, burst=2, retry_after=form)
    async with clocked(faults=limited) as (sim, clock):
        replies = [await get(sim) for _ in range(3)]
        clock.now_s += 3.2
        early = await get(sim)
        clock.now_s += 0.2
        later = await get(sim)

    assert [reply.status for reply in [*replies, early, later]] == [200, 200, 429, 429, 200]
    assert replies[2].headers.get("Retry-After") == told
    assert replies[2].json["message"] == "Too Many Requests"
    assert sim.audit[2].status_or_fault == "rate_limit"


async def test_one_users_limit_is_not_the_others() -> None:
    """A user above the own limit is turned away, at no cost to everybody's limit."""
    limited = Faults(user_limit_per_s=1.0, user_burst=1, limit_per_s=1.0, burst=2)
    async with clocked(faults=limited) as (sim, _clock):
        hot = [(await get(sim)).status for _ in range(5)]
        cool = (await get(sim, "bob-1", "bob")).status
        everyone = (await get(sim, "x", "cy")).status

    assert hot == [200, 429, 429, 429, 429]
    assert (cool, everyone) == (200, 429)


@pytest.mark.parametrize("fault", [Fault.HTTP_429, Fault.HTTP_503_WAIT])
async def test_planned_waits_are_told_in_each_form(fault: Fault) -> None:
    """A scripted 429 or 503 tells the wait that was set."""
    told = []
    for form in RetryAfter:
        async with clocked(faults=Faults(retry_after=form, retry_after_s=90.0)) as (sim, _clock):
            sim.script("ann-1", "GET", [fault])
            told.append((await get(sim)).headers.get("Retry-After"))

    date = email.utils.formatdate(WALL + 90.0, usegmt=True)
    assert told == ["90", date, None]


async def test_a_request_turned_away_uses_up_no_fault() -> None:
    """A rate limit does not shift what a sync meets afterwards."""
    async with clocked(faults=Faults(limit_per_s=1.0)) as (sim, clock):
        sim.script("ann-1", "GET", [Fault.HTTP_409])
        await get(sim, "bob-1", "bob")
        turned_away = (await get(sim)).status
        clock.now_s += 1.0

        assert (turned_away, (await get(sim)).status) == (429, 409)


async def test_planned_outages_come_and_go() -> None:
    """A planned outage answers 503 or drops, exactly while it lasts."""
    outages = (
        Outage(start_s=10.0, duration_s=5.0),
        Outage(start_s=20.0, duration_s=5.0, kind=OutageKind.DROP),
    )
    async with clocked(faults=Faults(outages=outages, outage_tells_wait=True)) as (sim, clock):
        seen: list[object] = []
        for at_s in (9.9, 10.0, 14.9, 15.0, 20.0, 25.0):
            clock.now_s = 50.0 + at_s
            try:
                reply = await get(sim)
                seen.append((reply.status, reply.headers.get("Retry-After")))
            except aiohttp.ServerDisconnectedError:
                seen.append("dropped")

    assert seen == [(200, None), (503, "1"), (503, "1"), (200, None), "dropped", (200, None)]
    assert [entry.fault for entry in sim.audit if entry.fault != "outage"] == [None] * 3


async def test_an_outage_can_be_switched_on_and_off() -> None:
    """Down means 503 for everything until it is up again."""
    async with simulator() as sim:
        sim.outage(OutageKind.UNAVAILABLE)
        down = await patch(sim, credentialId=NEW)
        sim.outage(None)
        up = await get(sim)

    assert (down.status, up.status) == (503, 200)
    assert "Retry-After" not in down.headers
    assert sim.snapshot()["ann-1"] == ANN


async def test_dropping_closes_what_is_open() -> None:
    """An outage of the dropping kind ends idle connections as well."""
    async with simulator() as sim:
        reader, writer = await connect(sim)
        writer.write(head("GET", "/api/syncs/ann-1", close=False))
        await reader.readuntil(b"}")
        sim.script("ann-1", "GET", [Fault.SLOW])
        _, gone = await connect(sim)
        gone.write(head("GET", "/api/syncs/ann-1"))
        await until(lambda: sim.in_flight == 1)
        gone.close()
        await get(sim, "bob-1", "bob")
        sim.outage(OutageKind.DROP)
        rest = await reader.read()
        writer.close()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await get(sim)

    assert b"HTTP" not in rest


def test_an_outage_may_begin_before_the_service() -> None:
    """Switching an outage on before serving closes nothing and raises nothing."""
    simulator().outage(OutageKind.DROP)


# What it remembers


async def test_every_request_is_audited_without_its_token(tmp_path: Path) -> None:
    """Each request has one entry, in memory and as a line; the token is in neither."""
    log = tmp_path / "audit.jsonl"
    async with simulator(audit_file=log) as sim:
        await patch(sim, incrementalAccumulatorFrequency="5m")
        await ask(
            sim,
            "GET",
            "/api/syncs/ann-1?page=1",
            headers={
                "Authorization": "Bearer user:ann:secret",
                "Cookie": "a=b",
                "User-Agent": "test",
            },
        )
        await ask(sim, "GET", "/elsewhere", headers={})
        lines = log.read_bytes().splitlines()

    entries = [msgspec.json.decode(line, type=AuditEntry) for line in lines]
    first, second, third = sim.audit
    assert entries == sim.audit
    assert [entry.number for entry in sim.audit] == [1, 2, 3]
    assert (first.method, first.sync_id, first.user, first.status) == ("PATCH", "ann-1", "ann", 200)
    assert (first.acted, second.acted) == (True, False)
    assert first.body == '{"incrementalAccumulatorFrequency": "5m"}'
    assert first.content_type == "application/json"
    assert (first.had_cookie, second.had_cookie) == (False, True)
    assert second.user_agent == "test"
    assert "authorization" in second.header_names
    assert second.path == "/api/syncs/ann-1?page=1"
    assert first.token_hash != second.token_hash
    assert (third.token_hash, third.sync_id, third.body) == (None, None, None)
    assert b"secret" not in log.read_bytes()
    assert b"user:ann" not in log.read_bytes()


async def test_a_token_in_the_wrong_place_is_told_but_not_kept() -> None:
    """A token in path, body or user agent is replaced, and the entry says that it was there."""
    token = "user:ann:secret"
    async with simulator() as sim:
        for header in (f"Bearer {token}", token):
            await ask(
                sim,
                "PATCH",
                f"/api/syncs/{token}",
                headers={"Authorization": header, "User-Agent": token, "Content-Type": token},
                data="x" * 4_090 + token,
            )

    for entry in sim.audit:
        assert entry.token_elsewhere
        assert entry.sync_id == entry.user_agent == entry.content_type == "[token]"
        assert token not in repr(entry)
        assert entry.body == "x" * 4_090 + "[token"


async def test_the_log_appends_and_may_be_kept_out_of_memory(tmp_path: Path) -> None:
    """A second simulator goes on in the same file; counts hold without entries in memory."""
    log = tmp_path / "audit.jsonl"
    for _ in range(2):
        async with simulator(audit_file=log, keep_audit=False) as sim:
            await get(sim)

    assert len(log.read_text().splitlines()) == 2
    assert (sim.audit, sim.requests, sim.peak_rate(10.0)) == ([], 1, 0.1)


async def test_in_flight_counts_requests_that_wait_for_their_answer() -> None:
    """Requests overlap while their latency lasts, and closing lets every answer leave."""
    async with asyncio.TaskGroup() as group, simulator(faults=Faults(latency_s=60.0)) as sim:
        waiting = [group.create_task(get(sim)) for _ in range(5)]
        await until(lambda: sim.in_flight == 5)

    assert [task.result().status for task in waiting] == [200] * 5
    assert sorted(entry.in_flight for entry in sim.audit) == [1, 2, 3, 4, 5]
    assert (sim.max_in_flight, sim.in_flight) == (5, 0)


async def test_the_peak_rate_is_that_of_the_worst_window() -> None:
    """The peak counts arrivals in a window that is open at its end."""
    async with clocked() as (sim, clock):
        for wait_s in (0.0, 0.5, 0.5, 0.1, 0.1, 5.0):
            clock.now_s += wait_s
            await get(sim)

    assert sim.peak_rate() == 4.0
    assert sim.peak_rate(0.2) == 10.0
    assert simulator().peak_rate() == 0.0


async def test_a_body_that_breaks_off_is_audited() -> None:
    """A client that dies while it sends leaves an entry and changes nothing."""
    async with simulator() as sim:
        _reader, writer = await connect(sim)
        writer.write(head("PATCH", "/api/syncs/ann-1", "Content-Length: 50") + b'{"cred')
        await until(lambda: sim.in_flight == 1)
        writer.close()
        await until(lambda: sim.requests == 1)

    assert (sim.audit[0].fault, sim.audit[0].acted) == ("broken_request", False)
    assert sim.audit[0].status is None


async def test_a_body_that_is_too_large_gets_413() -> None:
    """A body above a mebibyte is refused and audited without it."""
    async with simulator() as sim:
        reply = await ask(sim, "PATCH", "/api/syncs/ann-1", data=io.BytesIO(b"x" * (2 << 20)))

    assert (reply.status, reply.json["message"]) == (413, "request entity too large")
    assert sim.audit[0].body is None


# How it lives


async def test_closing_leaves_nothing_behind() -> None:
    """Clients that left, that stall, that do not read or that are idle do not outlive it."""
    before = asyncio.all_tasks()
    async with simulator(faults=Faults(slow_s=3_600.0, oversized_bytes=32 << 20)) as sim:
        sim.script("bob-1", "GET", [Fault.OVERSIZED])
        _, deaf = await connect(sim)
        deaf.write(head("GET", "/api/syncs/bob-1", user="bob"))
        await until(lambda: sim.requests == 1)
        sim.script("ann-1", "GET", [Fault.SLOW])
        _, gone = await connect(sim)
        gone.write(head("GET", "/api/syncs/ann-1"))
        await until(lambda: sim.in_flight == 1)
        gone.close()
        _, stalled = await connect(sim)
        stalled.write(head("PATCH", "/api/syncs/ann-1", "Content-Length: 50"))
        await until(lambda: sim.in_flight == 2)
        reader, idle = await connect(sim)
        await get(sim)
    await until(lambda: asyncio.all_tasks() == before)

    assert await reader.read() == b""
    assert sim.in_flight == 0
    assert sim.base_url == ""
    for writer in (deaf, stalled, idle):
        writer.close()


async def test_a_delay_does_not_hold_up_the_end() -> None:
    """A request that comes while the simulator closes is answered without its delay."""
    async with simulator(faults=Faults(latency_s=3_600.0)) as sim:
        sim.stop_serving()

        assert (await get(sim)).status == 200


async def test_it_may_be_left_and_entered_again() -> None:
    """State and audit outlast a pause of the server."""
    sim = simulator()
    async with sim:
        await patch(sim, incrementalAccumulatorFrequency="5m")
    async with sim:
        told = (await get(sim)).json

    assert told["incrementalAccumulatorFrequency"] == "5m"
    assert [entry.number for entry in sim.audit] == [1, 2]


async def test_a_taken_port_is_named() -> None:
    """A port that cannot be had is a settings error that says which and what to do."""
    async with simulator() as sim:
        port = int(sim.base_url.rpartition(":")[2])
        second = simulator()
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}"):
            await second.serve_forever(port)


async def test_serve_forever_serves_until_it_is_stopped() -> None:
    """It tells its address once requests are taken, and returns when asked to stop."""
    sim = simulator()
    address = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(sim.serve_forever(0, started=address.set_result))
    base_url = await address
    reply = await get(sim)
    sim.stop_serving()
    await serving

    assert base_url.startswith("http://127.0.0.1:")
    assert reply.status == 200


async def test_serve_forever_can_be_cancelled() -> None:
    """Cancelling closes the simulator and is not swallowed."""
    sim = simulator()
    serving = asyncio.create_task(sim.serve_forever())
    await until(lambda: sim.base_url != "")
    serving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await serving
    assert sim.base_url == ""


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")]
)
def test_an_address_is_written_as_a_url(host: str, address: str) -> None:
    """An IPv6 address stands in brackets."""
    assert _base_url(host, 80) == address


# The side door


async def control(sim: Simulator, method: str, name: str, body: object = None) -> Reply:
    """Use the side door."""
    data = None if body is None else json.dumps(body)
    return await ask(sim, method, f"/_simulator/{name}", headers={}, data=data)


async def test_the_side_door_shows_and_sets_everything() -> None:
    """State, audit and figures can be read; syncs, faults and outages set; none is audited."""
    async with simulator(control=True) as sim:
        added = await control(sim, "POST", "syncs", [{"id": "new", "user": "ann"}])
        await control(sim, "POST", "script", {"sync_id": "new", "method": "GET", "faults": [None]})
        await control(
            sim, "POST", "script", {"sync_id": "new", "method": "GET", "faults": ["http_409"]}
        )
        statuses = [(await get(sim, "new")).status for _ in range(2)]
        await control(sim, "POST", "behavior", {"tells": []})
        told = (await get(sim)).json
        await control(sim, "POST", "faults", {"poison": ["ann-1"]})
        statuses.append((await get(sim)).status)
        await control(sim, "POST", "outage", {"kind": "unavailable"})
        statuses.append((await get(sim)).status)
        await control(sim, "POST", "outage", {"kind": None})
        state = (await control(sim, "GET", "state")).json
        whole = (await control(sim, "GET", "audit")).json
        rest = (await control(sim, "GET", "audit?after=4")).json
        stats = (await control(sim, "GET", "stats")).json

    assert (added.status, added.json) == (200, {})
    assert statuses == [200, 409, 500, 503]
    assert told == {"status": "IDLE"}
    assert msgspec.convert(state, dict[str, SyncRecord]) == sim.snapshot()
    assert msgspec.convert(whole, list[AuditEntry]) == sim.audit
    assert len(sim.audit) == 5
    assert rest == whole[4:]
    assert stats["requests"] == 5
    assert stats["max_in_flight"] == 1


@pytest.mark.parametrize(
    ("method", "name", "body", "status"),
    [
        ("GET", "nothing", None, 404),
        ("POST", "nothing", {}, 404),
        ("PUT", "faults", {}, 404),
        ("GET", "audit?after=x", None, 400),
        ("POST", "faults", {"http_500": 7}, 400),
        ("POST", "script", {"sync_id": "a", "method": "GET", "faults": ["nonsense"]}, 400),
        ("POST", "syncs", [{"id": "ann-1", "user": "ann"}], 400),
        ("POST", "outage", {"kind": "sometimes"}, 400),
    ],
)
async def test_the_side_door_refuses_what_it_does_not_know(
    method: str, name: str, body: object, status: int
) -> None:
    """A wrong command is answered, and neither served nor audited."""
    async with simulator(control=True) as sim:
        reply = await control(sim, method, name, body)

    assert reply.status == status
    assert reply.json["statusCode"] == status
    assert sim.audit == []


async def test_the_side_door_is_closed_unless_asked_for() -> None:
    """Without control its paths are unknown like any other, and audited."""
    async with simulator() as sim:
        reply = await control(sim, "GET", "state")

    assert reply.status == 404
    assert sim.audit[0].path == "/_simulator/state"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])  # noqa: S104 - refused
def test_the_side_door_opens_on_loopback_only(host: str) -> None:
    """Control on an address that others can reach is refused."""
    with pytest.raises(SettingsError, match="loopback address only"):
        Simulator(verify=verify, control=True, host=host)


def test_localhost_is_loopback() -> None:
    """The name of this machine may have a side door."""
    Simulator(verify=verify, control=True, host="localhost")


CHILD = """
import asyncio, pathlib, sys
from runner.simulator import Simulator

simulator = Simulator(
    verify=lambda token: "user-00001", control=True, audit_file=pathlib.Path(sys.argv[1])
)
simulator.seed(5, 1)
asyncio.run(simulator.serve_forever(started=lambda url: print(url, flush=True)))
"""


async def test_a_child_process_is_driven_through_the_side_door(tmp_path: Path) -> None:
    """A parent reads a child's state and audit, and ends it cleanly."""
    log = tmp_path / "audit.jsonl"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        CHILD,
        str(log),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert child.stdout is not None
    base_url = (await child.stdout.readline()).decode().strip()
    bearer = {"Authorization": "Bearer x"}
    async with aiohttp.ClientSession(base_url=base_url) as session:
        async with session.get("/_simulator/state") as response:
            state = msgspec.json.decode(await response.read(), type=dict[str, SyncRecord])
        async with session.get(f"/api/syncs/{next(iter(state))}", headers=bearer) as response:
            status = response.status
        written = log.read_bytes()
        async with session.post("/_simulator/shutdown") as response:
            asked = response.status
    _out, errors = await child.communicate()

    assert (status, asked, child.returncode, errors) == (200, 200, 0, b"")
    assert len(state) == 5
    assert written.count(b"\n") == 1
