"""The server itself: who it is, which databases it has.

Source: CouchDB documentation, "API Reference > Server".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from agent import __version__
from agent.errors import NotFoundError, RequestError
from agent.server.access import Need
from agent.server.answers import answer
from agent.server.call import Call
from agent.server.metrics import metrics_answer
from agent.server.users import user_of

API_VERSION = "3.3.0"
"""The CouchDB whose API this is: the first one that replicates with `_bulk_get`.

Clients read `version` as three numbers and take from it what the server can do, so the agent's own
version does not belong there; it is in `vendor`.
"""

_MOST_UUIDS = 1000


async def welcome(call: Call) -> web.Response:
    """GET /"""
    facts: dict[str, object] = {
        "couchdb": "Welcome",
        "version": API_VERSION,
        "features": [],
        "vendor": {"name": "edge-sync-agent", "version": __version__},
    }
    if call.service.uuid is not None:
        facts["uuid"] = call.service.uuid
    return answer(facts)


async def up(_: Call) -> web.Response:
    """GET /_up"""
    return answer({"status": "ok", "seeds": {}})


async def uuids(call: Call) -> web.Response:
    """GET /_uuids?count=N: random ids of 32 hex digits."""
    count = call.number("count")
    count = 1 if count is None else count
    if count > _MOST_UUIDS:
        raise RequestError(400, "bad_request", f"count must not exceed {_MOST_UUIDS}")
    return answer(
        {"uuids": [secrets.token_hex(16) for _ in range(count)]},
        headers={"Cache-Control": "no-cache", "Pragma": "no-cache"},
    )


async def status(call: Call) -> web.Response:
    """GET /_status: the agent's own JSON, from whoever runs the server."""
    told = await _status(call)
    if not user_of(call.request).is_admin:
        told = _for_members(told)
    return answer(told, headers={"Cache-Control": "no-cache"})


async def metrics(call: Call) -> web.Response:
    """GET /_metrics: the same, as far as it is numbers, for Prometheus."""
    return metrics_answer(await _status(call))


async def _status(call: Call) -> dict[str, Any]:
    """Raises RequestError where it tells of a database that the user may not read."""
    service = call.service
    if service.status is None:
        raise NotFoundError("no status")
    status = await service.status()
    user = user_of(call.request)
    name = _own(status)
    if name is not None and not user.is_admin:
        with service.databases.using(name):
            store = await service.databases.get(name)
            service.access.require_database(Need.MEMBER, user, store)
    return status


def _for_members(status: Mapping[str, Any]) -> dict[str, Any]:
    """Which databases there are besides the agent's own only administrators are told.

    Nor which parts of the program have failed: some have the name of what they work on.
    """
    own = (None, _own(status))
    conflicts = status.get("conflicts", {}).items()
    hooks = status.get("hooks", ())
    return {
        **status,
        "restarts": {},
        "conflicts": {
            name: value for name, value in conflicts if name not in ("databases", "stuck")
        },
        "damaged": [each for each in status.get("damaged", ()) if each["database"] in own],
        "attention": [
            each
            for each in status.get("attention", ())
            if each.get("database") in own and "part" not in each
        ],
        "hooks": [
            each if each["database"] in own else {**each, "database": None} for each in hooks
        ],
    }


def _own(status: Mapping[str, Any]) -> str | None:
    name: str | None = status.get("database", {}).get("name")
    return name
