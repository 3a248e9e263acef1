"""Who makes a request."""

from __future__ import annotations

import msgspec
from aiohttp import web

ADMIN_ROLE = "_admin"

READER_ROLE = "_reader"
"""Who has it may read what others with the same further roles may, and change nothing; the name
is Cloudant's."""


class User(msgspec.Struct, frozen=True):
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

    @property
    def only_reads(self) -> bool:
        """Whether this user may change nothing."""
        return READER_ROLE in self.roles and not self.is_admin


NOBODY = User(None, frozenset(), None)

EVERYBODY = User(None, frozenset({ADMIN_ROLE}), "default")
"""Who makes a request while no user is configured: everybody is an administrator."""


USER = web.RequestKey("user", User)
"""Where a request keeps who makes it, once `agent.server.access` has found out."""


def user_of(request: web.Request) -> User:
    """Who makes a request."""
    user: User = request.get(USER, NOBODY)
    return user
