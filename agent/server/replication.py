"""`_replicate`, `_scheduler` and `_active_tasks`: what the agent replicates, over HTTP.

Source: CouchDB documentation, "API Reference > Server". The database `_replicator` is like any
other here; who runs the agent follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from agent.errors import NotFoundError, RequestError
from agent.server.answers import answer
from agent.server.call import Call
from agent.server.edits import JsonObject
from agent.server.service import Replications
from agent.server.users import user_of

DATABASE = "_replicator"

_ROWS = 100
"""Entries that are listed unless `limit` says otherwise."""

_STATES = frozenset(
    ("initializing", "error", "pending", "running", "crashing", "completed", "failed")
)


async def replicate(call: Call) -> web.Response:
    """POST /_replicate. 202 for a continuous one that was started."""
    call.require_json()
    body = await call.json(JsonObject)
    result = await _service(call).replicate(body, user=user_of(call.request).name)
    started = body.get("continuous") and not body.get("cancel")
    return answer(result, status=202 if started else 200)


async def active_tasks(call: Call) -> web.Response:
    """GET /_active_tasks"""
    replications = call.service.replications
    return answer([] if replications is None else replications.tasks())


async def scheduler(call: Call, path: Sequence[str]) -> web.Response:
    """GET /_scheduler/jobs[/{id}] and /_scheduler/docs[/_replicator[/{docid}]]

    Options of the lists: limit, skip; states (of docs), separated by commas. Raises NotFoundError.
    """
    service = _service(call)
    match list(path):
        case ["jobs"]:
            return _listed(call, "jobs", service.jobs())
        case ["jobs", id]:
            return _single([entry for entry in service.jobs() if entry["id"] == id])
        case ["docs"] | ["docs", "_replicator"]:
            states = _states(call.request.query.get("states"))
            entries = await service.docs()
            return _listed(call, "docs", [entry for entry in entries if entry["state"] in states])
        case ["docs", "_replicator", id]:
            return _single([entry for entry in await service.docs() if entry["doc_id"] == id])
    raise NotFoundError("no such part of the scheduler")


def _service(call: Call) -> Replications:
    if call.service.replications is None:
        raise RequestError(501, "not_implemented", "This server does not replicate by itself")
    return call.service.replications


def _listed(call: Call, name: str, entries: list[dict[str, Any]]) -> web.Response:
    limit, skip = call.number("limit"), call.number("skip") or 0
    offset = min(skip, len(entries))
    end = offset + (_ROWS if limit is None else limit)
    return answer({"total_rows": len(entries), "offset": offset, name: entries[offset:end]})


def _single(found: Sequence[dict[str, Any]]) -> web.Response:
    if not found:
        raise NotFoundError("no such job")
    return answer(found[0])


def _states(text: str | None) -> frozenset[str]:
    if not text:
        return _STATES
    states = frozenset(part.strip() for part in text.split(","))
    unknown = states - _STATES
    if unknown:
        raise RequestError(400, "query_parse_error", f"Unknown replication state: {min(unknown)}")
    return states
