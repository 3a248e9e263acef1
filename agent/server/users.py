"""Who makes a request."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

ADMIN_ROLE = "_admin"


@dataclass(frozen=True, slots=True)
class User:
    """Who makes a request (CouchDB's user context).

    `name` is None for somebody who is not logged in; `handler` is what let them in: "cookie",
    "default" (Basic, or nobody needs to log in), or None.
    """

    name: str | None
    roles: frozenset[str]
    handler: str | None

    @property
    def is_admin(self) -> bool:
        """Whether this is an administrator of the server."""
        return ADMIN_ROLE in self.roles


NOBODY = User(None, frozenset(), None)

EVERYBODY = User(None, frozenset({ADMIN_ROLE}), "default")
"""Who makes a request while no user is configured: everybody is an administrator."""


USER = web.RequestKey("user", User)
"""Where a request keeps who makes it, once `agent.server.access` has found out."""


def user_of(request: web.Request) -> User:
    """Who makes a request."""
    user: User = request.get(USER, NOBODY)
    return user
