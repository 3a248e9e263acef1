"""A recorder that runs, what a device tells it, and what is in the store then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from agent.config_sensors import SensorConfig
from agent.sensors.clock import AgentClock
from agent.sensors.recorder import Recorder
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters import create
from tests.patience import PATIENCE


@contextlib.asynccontextmanager
async def recording(
    store: Store,
    send: Callable[[bytes], object] | None = None,
    sensors: Sequence[Any] = (),
    interval: float = 0.0,
    clock: AgentClock | None = None,
) -> AsyncIterator[Recorder]:
    """A running recorder for the device "dev"; `sensors` are its `[[device.sensor]]` tables."""
    rules = Rules(msgspec.convert(sensors, list[SensorConfig]))
    recorder = Recorder(store, "dev", create("json-lines"), send, rules, interval, clock=clock)
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    try:
        yield recorder
        async with asyncio.timeout(PATIENCE):
            await recorder.drain()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def line(**members: Any) -> bytes:
    return json.dumps(members).encode() + b"\n"


def rows(store: Store, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        return db.execute(sql).fetchall()


async def readings(store: Store) -> list[Any]:
    sql = "SELECT sensor, value, unit, sequence, time, id FROM readings ORDER BY rowid"
    return await asyncio.to_thread(rows, store, sql.replace("ORDER BY rowid", "ORDER BY id"))


async def documents(store: Store, type: str) -> list[dict[str, Any]]:
    """The bodies of a type's documents, in the order of their ids, each with its `_id`."""
    found = [
        (id, json.loads(body))
        for id, body in await asyncio.to_thread(
            rows, store, "SELECT id, body FROM docs WHERE NOT deleted ORDER BY id"
        )
    ]
    return [{"_id": id, **body} for id, body in found if body["type"] == type]
