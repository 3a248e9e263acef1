"""Hooks of a gateway and a hub as programs: killed in the middle, looked at and mended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import agents
from tests.agents import AgentProcess, Finished, edge_agent
from tests.patience import until
from tests.processing.receiver import Receiver, receiving
from tests.rig.network import find_free_port


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def command(*arguments: object, environment: Mapping[str, str] | None = None) -> Finished:
    return await asyncio.to_thread(edge_agent, *arguments, environment=environment)


async def write(url: str, ids: list[str], **members: Any) -> None:
    """Write documents; returns when they are durable."""
    docs = [{"_id": id, **members} for id in ids]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/_bulk_docs", json={"docs": docs}) as response,
    ):
        assert response.status == 201, await response.text()


async def status_of(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/_status") as response:
        status: dict[str, Any] = await response.json()
        return status


async def hooks_of(url: str) -> list[dict[str, Any]]:
    hooks: list[dict[str, Any]] = (await status_of(url))["hooks"]
    return hooks


def gets_on(receiver: Receiver, count: int) -> bool:
    return len({*receiver.taken}) > count


async def test_killed_again_and_again_it_skips_nothing(receiver: Receiver, tmp_path: Path) -> None:
    port = find_free_port()
    log = tmp_path / "log"
    counted = tmp_path / "counted"
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("hook", name="web", url=receiver.url, start="beginning", batch=5),
        agents.table("hook", name="count", command=["tee", "-a", str(counted)], batch=9)
        + "selector = { n = 1 }\n",
        port=port,
    )
    url = f"http://127.0.0.1:{port}"
    written: list[str] = []
    process = AgentProcess("run", "--config", config, log=log)
    try:
        for round in range(3):
            assert await asyncio.to_thread(process.wait_until_ready)
            ids = [f"doc:{round}:{number}" for number in range(200)]
            await write(f"{url}/edge", ids, n=round % 2)
            written += ids
            await until(partial(gets_on, receiver, len(written) - 150))
            process.kill()
            process = AgentProcess("run", "--config", config, log=log)
        await asyncio.to_thread(process.wait_until_ready)
        await until(lambda: {*receiver.taken} == {*written})
        ones = {id for id in written if id.split(":")[1] in "1"}
        await until(lambda: all(f'"{id}"' in counted.read_text() for id in ones))
        hooks = {}

        async def settled() -> bool:
            hooks.update({hook["name"]: hook for hook in await hooks_of(url)})
            return all(hook["pending"] == 0 for hook in hooks.values())

        await until(settled)
        assert hooks["web"]["state"] == "live"
        assert hooks["web"]["dead"] == hooks["web"]["failed"] == 0
        assert (hooks["web"]["database"], hooks["web"]["retry_at"]) == ("edge", None)
        assert hooks["web"]["target"] == f"http://127.0.0.1:{receiver.port}"
        processed = sum(hook["processed"] for hook in hooks.values())
        assert (await status_of(url))["pipeline"]["process"]["count"] == processed > 0
        calls = len(receiver.calls)
        done = await asyncio.to_thread(process.stop)
        assert (done.status, done.stdout) == (0, "")
        # What was stopped in order begins where it was: nothing is repeated.
        process = AgentProcess("run", "--config", config, log=log)
        await asyncio.to_thread(process.wait_until_ready)
        await write(f"{url}/edge", ["last"])
        await until(lambda: receiver.taken[-1] == "last")
        assert len(receiver.calls) == calls + 1
    finally:
        process.kill()
    # The order of the first times is that in which they were written, whatever was repeated.
    assert [*dict.fromkeys(receiver.taken)] == [*written, "last"]


async def test_a_hub_with_its_commands(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda change: 200 if change["doc"].get("good") else 422
    config = tmp_path / "hub.toml"
    key = tmp_path / "key"
    key.write_text("secret\n")
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:{find_free_port()}"\n'
        + agents.table(
            "hook",
            name="orders",
            database="shop",
            url=receiver.url,
            signing_key_file="key",
        )
        + 'selector = { type = "order" }\n'
    )
    where = ("--config", config)
    log = tmp_path / "log"
    with AgentProcess("hub", "--data", tmp_path / "hub", *where, log=log) as hub:
        url = await asyncio.to_thread(hub.wait_until_ready)
        listed = (await command("hooks", "list", "--json", *where)).json()["hooks"]
        assert [(hook["name"], hook["state"], hook["pending"]) for hook in listed] == [
            ("orders", "starting", None)
        ]
        async with aiohttp.ClientSession() as session, session.put(f"{url}/shop") as made:
            assert made.status == 201
        await write(f"{url}/shop", ["a", "b", "c"], type="order")
        await write(f"{url}/shop", ["ok"], type="order", good=True)
        await until(lambda: receiver.taken == ["ok"])
        assert "X-Hub-Signature-256" in receiver.calls[0].headers

        shown = await command("hooks", "list", *where)
        assert "orders" in shown.stdout
        assert "hidden" not in shown.stdout + (await command("status", *where)).stdout
        dead = (await command("hooks", "dead", "orders", "--json", *where)).json()
        assert (dead["total_rows"], [letter["id"] for letter in dead["dead"]]) == (3, [*"abc"])
        table = await command("hooks", "dead", "orders", *where, environment={"COLUMNS": "200"})
        assert table.stdout.count("refuses this (422 no)") == 3

        dropped = await command("hooks", "drop", "orders", "b", "B", *where)
        assert (dropped.status, dropped.stdout) == (
            0,
            "1 document forgotten; 1 of those named had not been given up\n",
        )
        receiver.answer = lambda _: 200
        retried = await command("hooks", "retry", "orders", "--json", *where)
        assert retried.json() == {"ok": True, "retried": 2}
        await until(lambda: receiver.taken == ["ok", "a", "c"])

        async def none_left() -> bool:
            return (await hooks_of(url))[0]["dead"] == 0

        await until(none_left)
        empty = await command("hooks", "dead", "orders", *where)
        assert empty.stdout == "orders has given up no document\n"

        assert "no such hook" in (await command("hooks", "dead", "nobody", *where)).complaint()
        complaint = (await command("hooks", "skip", "orders", *where)).complaint()
        assert "not held up by a single document" in complaint
        assert (await command("hooks", "drop", "orders", *where)).status == 2
        done = await asyncio.to_thread(hub.stop, signal.SIGTERM)
        assert done.status == 0
        assert "secret" not in done.stderr
        assert "hidden" not in done.stderr
