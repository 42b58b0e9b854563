"""The Sync API itself: what a well-behaved service answers."""

from __future__ import annotations

import http
import re
from collections.abc import Sequence
from urllib.parse import parse_qs, unquote

import msgspec

from runner.model import encode_json
from runner.simulator.state import (
    FREQUENCIES,
    RATE_LIMIT_BACKOFF_MS,
    Sync,
    Syncs,
    Update,
)

JSON_TYPE = "application/json; charset=utf-8"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KNOWN = ("credentialId", "incrementalAccumulatorFrequency")


class Route(msgspec.Struct, frozen=True, gc=False):
    """Where a request goes: the endpoint's name and the sync it names."""

    endpoint: str | None
    """``list get patch disable reenable``; None: there is no such endpoint."""
    sync_id: str | None = None
    query: str = ""
    problem: str | None = None
    """Why the path cannot be decoded."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A status with a body, before anything spoils it."""

    status: int
    body: bytes
    acted: bool = False
    """Whether a write was taken."""
    content_type: str = JSON_TYPE


def route(*, method: str, raw_path: str) -> Route:
    """Find the endpoint for a path as it stood on the wire.

    Nothing is normalised: the ID is one segment, decoded once, and may be any text but
    the empty one.
    """
    path, _, query = raw_path.partition("?")
    parts = path.split("/")
    if parts[:3] != ["", "api", "syncs"]:
        return Route(None)
    rest = parts[3:]
    if not rest:
        return Route("list" if method == "GET" else None, query=query)
    endpoint = _ENDPOINTS.get((method, *rest[1:]))
    if endpoint is None or not rest[0]:
        return Route(None)
    try:
        sync_id = _decode(rest[0])
    except ValueError:
        return Route(endpoint, problem=f"Failed to decode param '{rest[0]}'")
    return Route(endpoint, sync_id=sync_id)


def refusal(status: int, message: str | Sequence[str] | None = None) -> Answer:
    """Return an error as the framework behind the API words it."""
    phrase = http.HTTPStatus(status).phrase
    body = {"statusCode": status, "message": message or phrase, "error": phrase}
    return Answer(status, encode_json(body))


def answer(
    syncs: Syncs,
    *,
    to: Route,
    user: str,
    body: bytes,
    content_type: str,
    now_s: float,
    ignores: bool = False,
) -> Answer:
    """Do what was asked and return the answer. *to* names an endpoint that exists.

    With *ignores* a PATCH gets the same answer, and nothing comes of it.
    """
    if to.problem is not None:
        return refusal(400, to.problem)
    if to.sync_id is None:
        return _list(syncs, user=user, query=to.query)
    sync = syncs.find(user=user, sync_id=to.sync_id)
    if sync is None:
        return refusal(404, "Sync not found")
    if to.endpoint == "get":
        return Answer(200, encode_json(_told(sync, syncs.behavior.tells, now_s)))
    if to.endpoint == "patch":
        return _patch(syncs, sync, body=body, content_type=content_type, ignores=ignores)
    if to.endpoint == "disable":
        syncs.disable(sync)
    else:
        syncs.reenable(sync)
    return Answer(200, encode_json({"id": to.sync_id}), acted=True)


def _decode(segment: str) -> str:
    if _BROKEN_ESCAPE.search(segment):
        raise ValueError("a percent sign that starts no escape")
    return unquote(segment, errors="strict")


def _list(syncs: Syncs, *, user: str, query: str) -> Answer:
    asked, behavior = parse_qs(query, keep_blank_values=True), syncs.behavior
    wanted = None if behavior.list_ignores_credential else asked.get("credentialId")
    items = [
        _item(sync, tells_credential=behavior.list_tells_credential)
        for sync in syncs.of_user(user)
        if wanted is None or sync.record.credential_id == wanted[-1].lower()
    ]
    if behavior.list_page is None:
        return Answer(200, encode_json({"data": items}))
    cursor = asked.get("cursor", ["0"])[-1]
    if not re.fullmatch(r"[0-9]{1,9}", cursor, re.ASCII):
        return refusal(400, "cursor is not one that was given")
    start, end = int(cursor), int(cursor) + behavior.list_page
    paging: dict[str, object] = {"totalRecords": len(items)}
    if end < len(items):
        paging["cursor"] = str(end)
    return Answer(200, encode_json({"data": items[start:end], "paging": paging}))


def _item(sync: Sync, *, tells_credential: bool) -> dict[str, str]:
    record = sync.record
    item = {
        "id": record.id,
        "integration": record.integration,
        "pipeline": record.pipeline,
        "status": record.status,
    }
    if tells_credential:
        item["credentialId"] = record.credential_id
    if record.reason is not None:
        item["reason"] = record.reason
    return item


def _told(sync: Sync, tells: frozenset[str], now_s: float) -> dict[str, object]:
    record = sync.record
    told: dict[str, object] = {"status": record.status}
    if "summary" in tells:
        summary: dict[str, object] = {
            "totalRecords": record.total_records,
            "syncedRecordsCount": sync.synced_records(now_s),
        }
        if record.last_synced_at is not None:
            summary["lastSyncedAt"] = record.last_synced_at
        told["summary"] = summary
    if "credentialId" in tells:
        told["credentialId"] = record.credential_id
    if "frequency" in tells and record.frequency is not None:
        told["incrementalAccumulatorFrequency"] = record.frequency
    if record.status == "RATE_LIMITED":
        told["rateLimitBackoffMs"] = RATE_LIMIT_BACKOFF_MS
    if record.reason is not None:
        told["reason"] = record.reason
    return told


def _patch(syncs: Syncs, sync: Sync, *, body: bytes, content_type: str, ignores: bool) -> Answer:
    asked: object = {}
    # The framework parses JSON only when it is announced; otherwise the body is empty.
    if body and content_type.partition(";")[0].strip().lower() == "application/json":
        try:
            asked = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return refusal(400, "Unexpected token in JSON")
    if not isinstance(asked, dict):
        return refusal(400, "The body must be a JSON object")
    problems = _problems(asked)
    if problems:
        return refusal(400, problems)
    if not asked:
        return refusal(400, f"At least one of {', '.join(_KNOWN)} must be provided")
    credential_id = asked.get("credentialId")
    update = Update(
        credential_id=credential_id and credential_id.lower(),
        frequency=asked.get("incrementalAccumulatorFrequency"),
    )
    if not ignores:
        syncs.patch(sync, update)
    echo = {
        "id": sync.record.id,
        "data": asked,
        "message": "Update request accepted and is being processed",
    }
    return Answer(200, encode_json(echo), acted=not ignores)


def _problems(asked: dict[str, object]) -> list[str]:
    problems = [f"property {name} should not exist" for name in asked if name not in _KNOWN]
    credential_id = asked.get("credentialId", "")
    if "credentialId" in asked and not (
        isinstance(credential_id, str) and _UUID.fullmatch(credential_id)
    ):
        problems.append("credentialId must be a UUID")
    if asked.get("incrementalAccumulatorFrequency", "1m") not in FREQUENCIES:
        problems.append(
            "incrementalAccumulatorFrequency must be one of the following values: "
            + ", ".join(FREQUENCIES)
        )
    return problems


_ENDPOINTS = {
    ("GET",): "get",
    ("PATCH",): "patch",
    ("POST", "disable"): "disable",
    ("POST", "reenable"): "reenable",
}
