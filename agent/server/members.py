"""Who may do what in a database, by its security object.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_security".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.server.users import User
from agent.store.store import Store

SETTING = "security"

ADMIN_ONLY: Mapping[str, Any] = {
    "members": {"roles": ["_admin"]},
    "admins": {"roles": ["_admin"]},
}
"""What a database has whose security was never set, as in CouchDB 3: closed to all but admins."""


def is_database_admin(user: User, store: Store) -> bool:
    """Whether a user may change design documents and the settings of a database."""
    return user.is_admin or _is_in(user, security_of(store).get("admins", {}))


def is_member(user: User, store: Store) -> bool:
    """Whether a user may read a database and write documents to it."""
    security = security_of(store)
    members = security.get("members", security.get("readers", {}))  # CouchDB's older name
    is_public = not members.get("names") and not members.get("roles")
    return is_public or is_database_admin(user, store) or _is_in(user, members)


def security_of(store: Store) -> Mapping[str, Any]:
    security = store.setting(SETTING)
    return ADMIN_ONLY if security is None else security


def _is_in(user: User, group: Mapping[str, Any]) -> bool:
    if not user.roles.isdisjoint(group.get("roles", [])):
        return True
    return user.name is not None and user.name in group.get("names", [])
