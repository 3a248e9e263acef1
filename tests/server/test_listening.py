"""Listening on a port, and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest

from agent.errors import PermanentError
from agent.server.app import make_app
from agent.server.http import _most_connections, serve
from agent.server.tls import server_context
from agent.store.databases import Databases
from tests.patience import PATIENCE
from tests.server.api import Api, running
from tests.server.certificates import self_signed


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


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_is_accepted_while_the_server_closes_is_closed(
    tmp_path: Path, turns: int
) -> None:
    server = await serve(make_app(Databases(tmp_path)), "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        gc.collect()  # what is left open fails the test
        client.setblocking(False)
        with contextlib.suppress(ConnectionResetError):  # asyncio did not come to accept it
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, files: tuple[Path, Path]) -> ssl.SSLContext | None:
    return server_context(*files) if request.param == "https" else None


async def test_connections_are_bounded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[Path, Path],
    tls: ssl.SSLContext | None,
) -> None:
    """Somebody who opens ever more of them, and asks for nothing, takes no more memory then; nor
    who does not even begin with TLS."""
    monkeypatch.setattr("agent.server.http._MOST_CONNECTIONS", 10)
    trusting = ssl.create_default_context(cafile=files[0])
    server = await serve(make_app(Databases(tmp_path)), "127.0.0.1", 0, tls=tls)
    idle = [await asyncio.open_connection(server.host, server.port) for _ in range(10)]
    if tls is None:
        for _, writer in idle:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            await writer.drain()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b""
    writer.close()
    for _, writer in idle[:5]:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(server.url, ssl=trusting) as answer:
                    assert answer.status == 200
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
    for _, writer in idle[5:]:
        writer.close()
    await server.close()


@pytest.mark.parametrize("asked", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
@pytest.mark.parametrize("before", [False, True])
async def test_who_does_not_ask_to_the_end_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bytes, before: bool
) -> None:
    monkeypatch.setattr("agent.server.http._IDLE", 0.5)
    server = await serve(make_app(Databases(tmp_path)), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    if before:
        writer.write(b"GET /_up HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.write(asked)
    async with asyncio.timeout(60):  # without the half second it would be two minutes
        await reader.read()  # returns when the connection is closed
    writer.close()
    await server.close()


def test_how_many_depends_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS a connection takes 20 times as much."""
    monkeypatch.setattr("agent.server.http.memory", lambda: 512 * 2**20)
    monkeypatch.setattr("resource.getrlimit", lambda _: (100_000, 100_000))
    assert _most_connections(encrypted=False) == 5000
    assert _most_connections(encrypted=True) == 409
    monkeypatch.setattr("resource.getrlimit", lambda _: (500, 500))
    assert _most_connections(encrypted=True) == 250
