"""A whole agent of this process, as `edge-agent hub` or `run` make it, and a client for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from agent.config import Config, ServerConfig, UserConfig
from agent.runtime import Agent
from tests.server.accounts import quick_hash
from tests.server.api import Api

LISTEN = ServerConfig(listen="127.0.0.1:0")


@asynccontextmanager
async def agent(
    folder: Path, config: Config | None = None, *, admin: tuple[str, str] | None = None
) -> AsyncIterator[Api]:
    """A running agent over the databases in a folder; a hub without `config`.

    `admin` is the name and the password of its only user, which the client has.
    """
    users = [UserConfig(admin[0], quick_hash(admin[1]), ["_admin"])] if admin else []
    started: asyncio.Future[Agent] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    running = asyncio.create_task(
        Agent(folder, LISTEN, users, config).run(stop, started.set_result)
    )
    done, _ = await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
    if running in done:
        running.result()
    whole = await started
    assert whole.server is not None
    headers = {}
    if admin:
        headers["Authorization"] = aiohttp.encode_basic_auth(*admin)
    try:
        async with aiohttp.ClientSession(headers=headers) as session:
            yield Api(whole.server, whole.databases, session)
    finally:
        stop.set()
        await running


async def ids(api: Api, db: str) -> list[str]:
    """The ids of the documents of a database; none while there is no such database."""
    answer = await api.get(f"/{db}/_all_docs")
    return [row["id"] for row in answer.json["rows"]] if answer.status == 200 else []


async def fill(api: Api, db: str, *docs: dict[str, Any]) -> None:
    """Write documents, and make the database if it is missing."""
    assert (await api.put(f"/{db}")).status in (201, 412)
    answer = await api.post(f"/{db}/_bulk_docs", {"docs": list(docs)})
    assert answer.status == 201
    assert all("rev" in row for row in answer.json)
