"""A server that fails on demand."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.peers.couchdb import CouchPeer
from tests.peers.stand_ins import Handler, Serve


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a stand-in that leaves every request to one handler; gives a peer for it."""
    servers: list[TestServer] = []
    peers: list[CouchPeer] = []

    async def serve(
        handler: Handler, *, path: str = "/db", tls: ssl.SSLContext | None = None, **options: Any
    ) -> CouchPeer:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", handler)
        servers.append(TestServer(app, scheme="https" if tls else "http"))
        await servers[-1].start_server(ssl=tls, shutdown_timeout=0.1)
        peers.append(
            CouchPeer.from_url(str(servers[-1].make_url("/")).rstrip("/") + path, **options)
        )
        return peers[-1]

    yield serve
    for peer in peers:
        await peer.close()
    for server in servers:
        await server.close()
