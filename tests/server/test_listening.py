"""Listening on a port, and stopping."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from agent.errors import PermanentError
from agent.server.app import make_app
from agent.server.http import serve
from agent.store.databases import Databases
from tests.server.api import Api, running


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.4", "example.com", "127.0.0.1.example.com"]
)
async def test_only_loopback_until_there_are_users(tmp_path: Path, host: str) -> None:
    with pytest.raises(PermanentError, match="loopback only until a user is configured"):
        await serve(make_app(Databases(tmp_path)), host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
async def test_the_port_is_chosen_when_it_is_0(tmp_path: Path, host: str) -> None:
    server = await serve(make_app(Databases(tmp_path)), host, 0)
    try:
        assert server.port > 0
        async with aiohttp.ClientSession() as session, session.get(server.url) as answer:
            assert answer.status == 200
    finally:
        await server.close()


async def test_a_port_in_use(server: Api, tmp_path: Path) -> None:
    port = server.server.port
    with pytest.raises(PermanentError, match=f"127.0.0.1:{port} is in use by another program"):
        await serve(make_app(Databases(tmp_path)), "127.0.0.1", port)


async def test_a_port_is_free_again_once_the_server_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        await first.get("/")
        port = first.server.port
    server = await serve(make_app(Databases(tmp_path)), "127.0.0.1", port)
    assert server.port == port
    await server.close()


async def test_closing_twice(server: Api) -> None:
    await server.server.close()
    await server.server.close()


async def test_writes_that_were_begun_are_finished(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.put("/db")
        writes = [asyncio.ensure_future(api.put(f"/db/{number}", {})) for number in range(20)]
        await asyncio.sleep(0.01)
        await api.server.close()
        done = [
            answer.json["id"]
            for answer in await asyncio.gather(*writes, return_exceptions=True)
            if not isinstance(answer, BaseException)
        ]
    async with running(tmp_path) as api:
        stored = {row["id"] for row in (await api.get("/db/_all_docs")).json["rows"]}
    assert stored.issuperset(done)


async def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who opens ever more of them, and asks for nothing, takes no more memory then."""
    monkeypatch.setattr("agent.server.http._MOST_CONNECTIONS", 10)
    async with running(tmp_path) as api:
        where = api.server.host, api.server.port
        idle = [await asyncio.open_connection(*where) for _ in range(10)]
        for _, writer in idle:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            await writer.drain()
        reader, writer = await asyncio.open_connection(*where)
        assert await reader.read() == b""
        writer.close()
        for _, writer in idle[:5]:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(20):
            while not await api.raw(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"):
                await asyncio.sleep(0.05)
        for _, writer in idle[5:]:
            writer.close()
