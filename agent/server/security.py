"""Who may do what in a database: its security object.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_security".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agent.errors import RequestError
from agent.server.answers import answer
from agent.server.users import User
from agent.store.store import Store

if TYPE_CHECKING:
    from agent.server.call import DatabaseCall

_SETTING = "security"

ADMIN_ONLY: Mapping[str, Any] = {
    "members": {"roles": ["_admin"]},
    "admins": {"roles": ["_admin"]},
}
"""What a database has whose security was never set, as in CouchDB 3: closed to all but admins."""


async def get(call: DatabaseCall) -> web.Response:
    """GET /{db}/_security"""
    return answer(_security_of(call.store))


async def put(call: DatabaseCall) -> web.Response:
    """PUT /{db}/_security. Members that CouchDB does not know are kept."""
    security = await call.json(dict[str, Any])
    for group in ("admins", "members", "readers"):
        _check(security.get(group, {}))
    await call.store.set_setting(_SETTING, security)
    return answer({"ok": True})


def is_database_admin(user: User, store: Store) -> bool:
    """Whether a user may change design documents and the settings of a database."""
    return user.is_admin or _is_in(user, _security_of(store).get("admins", {}))


def is_member(user: User, store: Store) -> bool:
    """Whether a user may read a database and write documents to it."""
    security = _security_of(store)
    members = security.get("members", security.get("readers", {}))  # CouchDB's older name
    is_public = not members.get("names") and not members.get("roles")
    return is_public or is_database_admin(user, store) or _is_in(user, members)


def _security_of(store: Store) -> Mapping[str, Any]:
    security = store.setting(_SETTING)
    return ADMIN_ONLY if security is None else security


def _is_in(user: User, group: Mapping[str, Any]) -> bool:
    if not user.roles.isdisjoint(group.get("roles", [])):
        return True
    return user.name is not None and user.name in group.get("names", [])


def _check(group: Any) -> None:
    if not isinstance(group, dict):
        raise RequestError(400, "bad_request", "admins or members must be a JSON object")
    for key in ("names", "roles"):
        entries = group.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise RequestError(400, "bad_request", f"{key} must be a JSON list of strings")
