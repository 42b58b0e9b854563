"""The simulator's own side door, for a parent process that runs it as a child.

===========================  ==========================================================
GET /_simulator/state        every sync as it is now, by ID
GET /_simulator/audit        entries; ``?after=N`` leaves out the first N
GET /_simulator/stats        ``requests``, ``in_flight``, ``max_in_flight``, ``peak_rate``
POST /_simulator/syncs       adds a list of `SyncRecord`
POST /_simulator/faults      `Faults` from now on
POST /_simulator/behavior    `Behavior` from now on
POST /_simulator/script      ``{"sync_id", "method", "faults": [...]}``
POST /_simulator/outage      ``{"kind": "unavailable" | "drop" | null}``
POST /_simulator/shutdown    ends `Simulator.serve_forever`
===========================  ==========================================================

Open only where it was asked for, and only on a loopback address. None of it is audited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from runner.model import encode_json
from runner.simulator.endpoints import refusal
from runner.simulator.faults import Fault, Faults, OutageKind
from runner.simulator.state import Behavior, SyncRecord

if TYPE_CHECKING:
    from runner.simulator.server import Simulator

PREFIX = "/_simulator/"


class _Script(msgspec.Struct, forbid_unknown_fields=True):
    sync_id: str
    method: str
    faults: list[Fault | None]


class _Outage(msgspec.Struct, forbid_unknown_fields=True):
    kind: OutageKind | None


def control(simulator: Simulator, *, method: str, raw_path: str, body: bytes) -> web.Response:
    """Carry out one control request and return its answer, in JSON."""
    path, _, query = raw_path.partition("?")
    name = path.removeprefix(PREFIX)
    try:
        if method == "GET":
            done = _get(simulator, name, query)
        elif method == "POST":
            done = _post(simulator, name, body)
        else:
            done = None
    except ValueError as error:
        return _reply(400, refusal(400, str(error)).body)
    if done is None:
        return _reply(404, refusal(404, f"Cannot {method} {path}").body)
    return _reply(200, encode_json(done))


def _get(simulator: Simulator, name: str, query: str) -> object:
    if name == "state":
        return simulator.snapshot()
    if name == "audit":
        return simulator.audit[int(query.removeprefix("after=") or 0) :]
    if name == "stats":
        return {
            "requests": simulator.requests,
            "in_flight": simulator.in_flight,
            "max_in_flight": simulator.max_in_flight,
            "peak_rate": simulator.peak_rate(),
        }
    return None


def _post(simulator: Simulator, name: str, body: bytes) -> object:
    if name == "syncs":
        simulator.add(*msgspec.json.decode(body, type=list[SyncRecord]))
    elif name == "faults":
        simulator.faults = msgspec.json.decode(body, type=Faults)
    elif name == "behavior":
        simulator.behavior = msgspec.json.decode(body, type=Behavior)
    elif name == "script":
        script = msgspec.json.decode(body, type=_Script)
        simulator.script(script.sync_id, script.method, script.faults)
    elif name == "outage":
        simulator.outage(msgspec.json.decode(body, type=_Outage).kind)
    elif name == "shutdown":
        simulator.stop_serving()
    else:
        return None
    return {}


def _reply(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
