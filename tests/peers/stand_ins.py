"""Stand-ins for servers, since no real one fails on demand.

Small aiohttp servers that answer in the ways of CouchDB, Cloudant, proxies and captive portals.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from aiohttp import web

from agent.peers.couchdb import CouchPeer

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve: TypeAlias = Callable[..., Awaitable[CouchPeer]]

HTML = "<!doctype html><title>Please log in</title>"


def answering(*args: Any, **kwargs: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(*args, **kwargs)

    return handler


def answering_json(body: Any, **kwargs: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, **kwargs)

    return handler
