"""Hubs and bridges that answer on a broker, and how soon they do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec

from scripts.benchmarks.harness import BenchError
from scripts.benchmarks.processes import Agent, running_agent
from tests.mqtt.mosquitto import Mosquitto

ANY = "127.0.0.1:0"
_LONGEST_WAIT = 120.0
_LOOK_EVERY = 0.05


@contextlib.asynccontextmanager
async def running_hub(data: Path, broker: Mosquitto) -> AsyncIterator[Agent]:
    """A hub that answers over HTTP and on the broker."""
    arguments = ("--data", str(data), "--listen", ANY, "--broker", broker.url)
    async with running_agent("hub", *arguments) as hub:
        await _connected(hub)
        yield hub


@contextlib.asynccontextmanager
async def running_bridge(name: str, broker: Mosquitto, upstream: str) -> AsyncIterator[Agent]:
    """A bridge that answers on the broker for the database at the URL `upstream`."""
    arguments = ("--name", name, "--broker", broker.url, "--upstream", upstream, "--listen", ANY)
    async with running_agent("bridge", *arguments) as bridge:
        await _connected(bridge)
        yield bridge


async def _connected(agent: Agent) -> None:
    end = time.monotonic() + _LONGEST_WAIT
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end:
            async with session.get(f"{agent.url}/_status") as response:
                status = msgspec.json.decode(await response.read())
            if status["mqtt"]["state"] == "connected":
                return
            await asyncio.sleep(_LOOK_EVERY)
    raise BenchError(f"no connection to the broker: {status['mqtt']['last_error']}")
