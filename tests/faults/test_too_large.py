"""A hub behind a web server that takes small bodies only, as nginx does by client_max_body_size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests import agents
from tests.faults.site import get
from tests.patience import until

LIMIT = 256 * 1024
IDS = {f"d{n:03}" for n in range(100)}


@asynccontextmanager
async def front(hub: str) -> AsyncIterator[str]:
    """The URL of such a server before the hub."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()  # decompressed
        if len(body) > LIMIT:
            page = "<html><h1>413 Request Entity Too Large</h1></html>"
            return web.Response(status=413, text=page, content_type="text/html")
        passed = ("Content-Type", "Accept", "If-None-Match")
        headers = {name: request.headers[name] for name in passed if name in request.headers}
        url = f"{hub}{request.raw_path}"
        async with session.request(request.method, url, data=body, headers=headers) as answer:
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers={"Content-Type": answer.headers["Content-Type"]},
            )

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app)
    async with aiohttp.ClientSession() as session:
        await server.start_server(shutdown_timeout=0.1)
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            await server.close()


async def test_all_but_what_is_too_large_arrives_and_that_is_told(tmp_path: Path) -> None:
    with agents.hub(tmp_path / "hub") as hub:
        hub_url = await asyncio.to_thread(hub.wait_until_ready)
        async with front(hub_url) as url, aiohttp.ClientSession() as session:
            keys = {"name": "cloud", "url": f"{url}/edge", "direction": "push", "create": True}
            config = agents.gateway_config(
                tmp_path / "gateway.toml", agents.table("remote", **keys, retry_cap=1)
            )
            with agents.gateway(config) as gateway:
                ours = await asyncio.to_thread(gateway.wait_until_ready)
                await fill(session, ours)
                await until(partial(arrived, session, hub_url, IDS), "the rest arrives")
                await until(partial(told, session, ours), "it is told")
            with agents.gateway(config) as gateway:
                ours = await asyncio.to_thread(gateway.wait_until_ready)
                await until(partial(told, session, ours), "it is told after a restart")
                await shrink(session, ours)
                everything = IDS | {"large"}
                await until(partial(arrived, session, hub_url, everything), "all arrives")
                await until(partial(quiet, session, ours), "nothing is told")


async def fill(session: aiohttp.ClientSession, url: str) -> None:
    docs = [{"_id": id, "text": id * 1500} for id in sorted(IDS)]
    docs.insert(50, {"_id": "large", "text": "x" * (LIMIT + 1)})
    async with session.post(f"{url}/edge/_bulk_docs", json={"docs": docs}) as answer:
        assert answer.status == 201


async def shrink(session: aiohttp.ClientSession, url: str) -> None:
    rev = (await get(session, f"{url}/edge/large"))["_rev"]
    async with session.put(f"{url}/edge/large", json={"_rev": rev, "text": "x"}) as answer:
        assert answer.status == 201


async def arrived(session: aiohttp.ClientSession, url: str, ids: set[str]) -> bool:
    page = await get(session, f"{url}/edge/_all_docs")
    return {row["id"] for row in (page or {}).get("rows", ())} == ids


async def refused(session: aiohttp.ClientSession, url: str) -> tuple[list[Any], list[str]]:
    status = await get(session, f"{url}/_status")
    failures = [each["id"] for each in status["remotes"][0]["push"]["failures"]]
    return failures, [each["what"] for each in status["attention"] if "large" in each["what"]]


async def told(session: aiohttp.ClientSession, url: str) -> bool:
    failures, attention = await refused(session, url)
    return failures == ["large"] and len(attention) == 1


async def quiet(session: aiohttp.ClientSession, url: str) -> bool:
    return await refused(session, url) == ([], [])
