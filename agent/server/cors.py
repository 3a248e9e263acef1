"""Cross-origin requests: which web pages elsewhere may use this server.

Source: CouchDB documentation, "Configuration > CouchDB HTTP Server > Cross-Origin Resource
Sharing"; the Fetch standard. Off unless origins are configured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web

from agent.errors import RequestError

if TYPE_CHECKING:
    from multidict import CIMultiDict

EVERYBODY = "*"

_METHODS = ("COPY", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
# CouchDB's list, and what PouchDB's and the Cloudant SDK's users set besides.
_HEADERS = frozenset(
    {
        "accept",
        "accept-language",
        "authorization",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "destination",
        "expires",
        "if-match",
        "if-none-match",
        "last-modified",
        "origin",
        "pragma",
        "range",
        "referer",
        "x-couch-full-commit",
        "x-couch-id",
        "x-couch-persist",
        "x-couchdb-www-authenticate",
        "x-csrf-token",
        "x-http-method-override",
        "x-requested-with",
    }
)
_EXPOSED = (
    "accept-ranges, cache-control, content-disposition, content-encoding, content-length, "
    "content-md5, content-range, content-type, etag, location, retry-after, server, "
    "x-couch-request-id, x-couch-update-newrev, x-couchdb-body-time"
)
_MAX_AGE = "600"
_SAFE = ("GET", "HEAD", "OPTIONS")


class Cors:
    """The origins that are allowed: whole ones like `https://app.example.org`, or `*`."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)
        self.names_origins = bool(self._origins) and EVERYBODY not in self._origins
        """Whether there are origins that are known by name, and trusted with the cookie."""

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks before it sends; None for any other request."""
        if request.method != "OPTIONS" or self._allowed(request) is None:
            return None
        method = request.headers.get("Access-Control-Request-Method")
        asked = request.headers.get("Access-Control-Request-Headers", "")
        names = {name.strip().lower() for name in asked.split(",")} - {""}
        if method not in _METHODS or not names <= _HEADERS:
            return None
        headers = {
            "Access-Control-Max-Age": _MAX_AGE,
            "Access-Control-Allow-Methods": ", ".join(_METHODS),
        }
        if names:
            headers["Access-Control-Allow-Headers"] = ", ".join(sorted(names))
        return web.Response(status=204, headers=headers)

    def refuse_foreign(self, request: web.Request) -> None:
        """Raises RequestError (403) for what a page elsewhere makes a browser send, to change
        something here.

        A form can be sent anywhere, with a cookie or, where nobody has to log in, without one. Only
        browsers send these headers, and no page can forge them; Sec-Fetch-Site is the better one,
        as it is right behind a proxy, too, but comes over TLS and to this machine only.
        """
        if request.method in _SAFE:
            return
        site = request.headers.get("Sec-Fetch-Site")
        origin = request.headers.get("Origin")
        if site in ("same-origin", "none") or (site is None and origin is None):
            return
        own = origin is not None and origin.partition("://")[2] == request.headers.get("Host")
        if (site is None and own) or self._allowed(request) is not None:
            return
        raise RequestError(
            403,
            "forbidden",
            "A page of another site may not change anything here; "
            "if it is yours, add its origin to server.cors_origins.",
        )

    def mark(self, request: web.Request, headers: CIMultiDict[str]) -> None:
        """Add to an answer what lets a page of an allowed origin read it."""
        if not self._origins:
            return
        headers.add("Vary", "Origin")
        origin = self._allowed(request)
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            # PouchDB sends all its requests with credentials, and sees no answer without this.
            headers["Access-Control-Allow-Credentials"] = "true"
            headers["Access-Control-Expose-Headers"] = _EXPOSED

    def _allowed(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None or not origin.isascii():
            return None
        return origin if EVERYBODY in self._origins or origin in self._origins else None
