"""The security object of a database, read and written.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_security".
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from agent.errors import RequestError
from agent.server.answers import answer
from agent.server.call import DatabaseCall
from agent.server.members import SETTING, security_of


async def get(call: DatabaseCall) -> web.Response:
    """GET /{db}/_security"""
    return answer(security_of(call.store))


async def put(call: DatabaseCall) -> web.Response:
    """PUT /{db}/_security. Members that CouchDB does not know are kept."""
    security = await call.json(dict[str, Any])
    for group in ("admins", "members", "readers"):
        _check(security.get(group, {}))
    await call.store.set_setting(SETTING, security)
    return answer({"ok": True})


def _check(group: Any) -> None:
    if not isinstance(group, dict):
        raise RequestError(400, "bad_request", "admins or members must be a JSON object")
    for key in ("names", "roles"):
        entries = group.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise RequestError(400, "bad_request", f"{key} must be a JSON list of strings")
