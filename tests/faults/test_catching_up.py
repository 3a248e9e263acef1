"""After an outage: what is new or urgent reaches the other side before the backlog, whatever is
killed meanwhile. The order is that of the target's own changes feed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.documents.revision import Revision, first_revision
from tests import agents
from tests.faults.site import Site, Writer, get
from tests.faults.test_kill import SEED, check, kill_at_random, preload
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import PATIENCE, until
from tests.peers.pouchdb_server import PouchDBServer
from tests.rig.network import find_free_port

BACKLOG = 20_000
ALARM = "alarm:greenhouse:temperature:too-warm"


def backlog() -> list[Revision]:
    return [
        first_revision(f"greenhouse:temperature:{n:06}", {"type": "reading", "value": n / 8})
        for n in range(BACKLOG)
    ]


@asynccontextmanager
async def remote(kind: str, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A place to replicate with: its URL as a remote, and that of the same database over HTTP."""
    async with AsyncExitStack() as stack:
        if kind == "pouchdb-server":
            server = await stack.enter_async_context(PouchDBServer(folder / "pouchdb"))
            yield f"{server.url}/edge", f"{server.url}/edge"
            return
        options: list[object] = []
        if kind == "mqtt":
            broker = await stack.enter_async_context(Mosquitto(folder / "broker"))
            options = ["--broker", broker.url]
        hub = agents.AgentProcess(
            *("hub", "--data", folder / "hub", "--listen", "127.0.0.1:0", *options),
            log=folder / "hub.log",
        )
        stack.enter_context(hub)
        url = await asyncio.to_thread(hub.wait_until_ready) + "/edge"
        yield (f"{broker.url}/edge" if kind == "mqtt" else url), url


async def ids_in_order(session: aiohttp.ClientSession, url: str) -> list[str]:
    """By the order in which they came."""
    page = await get(session, f"{url}/_changes")
    return [row["id"] for row in (page or {}).get("results", [])]


async def put(session: aiohttp.ClientSession, url: str, **body: Any) -> None:
    async with session.put(url, json=body) as response:
        assert response.status == 201, await response.text()


@pytest.mark.parametrize("kind", ["http", "mqtt", "pouchdb-server"])
async def test_what_is_new_or_urgent_comes_before_the_backlog(kind: str, tmp_path: Path) -> None:
    readings = backlog()
    urgent = first_revision(f"{ALARM}:old", {"type": "alarm", "urgent": True})
    await preload(tmp_path / "gateway" / "edge.sqlite", [*readings, urgent])
    port = find_free_port()
    here = f"http://127.0.0.1:{port}/edge"
    async with remote(kind, tmp_path) as (url, there), aiohttp.ClientSession() as session:

        async def arrived(count: int) -> bool:
            info = await get(session, there)
            return bool((info or {}).get("doc_count", 0) >= count)

        table = agents.table("remote", name="cloud", url=url, create=True)
        config = agents.gateway_config(tmp_path / "gateway.toml", table, port=port)
        with agents.gateway(config) as gateway:
            await asyncio.to_thread(gateway.wait_until_ready)
            await until(partial(arrived, 101), "the backlog begins to arrive")
            await put(session, f"{here}/{ALARM}:new", type="alarm", urgent=True)
            await put(session, f"{here}/setpoint", type="setpoint", value=21)
            await until(partial(arrived, BACKLOG + 3), "all of it has arrived", every=0.3)
            ids = await ids_in_order(session, there)
            status = await get(session, f"http://127.0.0.1:{port}/_status")
            finished = await asyncio.to_thread(gateway.stop)
            assert finished.status == 0, finished.stderr
    places = {id: place for place, id in enumerate(ids)}
    print({id: places[id] for id in (f"{ALARM}:old", f"{ALARM}:new", "setpoint")})
    last = places[readings[-1].id]
    assert places[f"{ALARM}:old"] < places[f"{ALARM}:new"] < last
    assert places["setpoint"] < last
    assert sorted(ids) == sorted({*(each.id for each in readings), *places})
    [cloud] = status["remotes"]
    # Two lanes may send the same at the same time, but hardly anything is urgent.
    assert BACKLOG + 3 <= cloud["push"]["docs_written"] <= BACKLOG + 6
    assert 20 < cloud["bytes_per_reading"] < 1000


@pytest.mark.may_block("compares three stores at once")
async def test_kills_in_the_middle_of_the_backlog(tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} lanes")
    print(f"seed {SEED}")
    site = Site(tmp_path)
    old = await preload(site.gateway.file, backlog())
    writer = Writer(site.gateway)

    async with asyncio.TaskGroup() as writing, site.running() as session:
        task = writing.create_task(writer.write(session))
        await kill_at_random(site, chance, gateway=5, hub=4, arrivals=1500, at=site.hub)
        task.cancel()
        await site.converge(session)

    found = check(site, old, set(writer.acknowledged))
    assert len(found.winners) > BACKLOG


async def test_a_budget_is_kept_over_a_kill(tmp_path: Path) -> None:
    to_midnight = 86_400 - time.time() % 86_400
    if to_midnight < PATIENCE:  # or the budget would be new in the middle
        await asyncio.sleep(to_midnight)
    await preload(tmp_path / "gateway" / "edge.sqlite", backlog()[:3000])
    port = find_free_port()
    here = f"http://127.0.0.1:{port}"
    async with remote("http", tmp_path) as (url, there), aiohttp.ClientSession() as session:
        keys = {"create": True, "direction": "push", "bytes_per_day": 100_000}
        table = agents.table("remote", name="cloud", url=url, **keys)
        config = agents.gateway_config(tmp_path / "gateway.toml", table, port=port)
        cloud: dict[str, Any] = {}

        async def backlog_waits() -> bool:
            status = await get(session, f"{here}/_status")
            cloud.update(status["remotes"][0] if status else {})
            lanes = cloud["push"]["lanes"] if cloud else {}
            return bool(lanes) and lanes["backlog"]["waits_for_budget"]

        async def alarm_is_there() -> bool:
            return f"{ALARM}:new" in await ids_in_order(session, there)

        with agents.gateway(config) as gateway:
            await asyncio.to_thread(gateway.wait_until_ready)
            await until(backlog_waits, "the backlog waits")
        # Leaving it was kill -9.
        arrived = len(await ids_in_order(session, there))
        cloud.clear()
        with agents.gateway(config) as gateway:
            await asyncio.to_thread(gateway.wait_until_ready)
            await until(backlog_waits, "the backlog waits")
            assert cloud["budget"]["bytes_per_day"] == 100_000
            assert 60_000 <= cloud["budget"]["used"] < 80_000
            assert cloud["push"]["lanes"]["backlog"]["pending"] >= 3000 - arrived
            await put(session, f"{here}/edge/{ALARM}:new", type="alarm", urgent=True)
            await until(alarm_is_there, "the alarm arrives")
            assert 0 < arrived == len(await ids_in_order(session, there)) - 1
            shown = await asyncio.to_thread(agents.edge_agent, "status", "--config", config)
            assert "of today's 100,000 used" in " ".join(shown.stdout.split())
            assert "backlog (until there are bytes)" in " ".join(shown.stdout.split())
