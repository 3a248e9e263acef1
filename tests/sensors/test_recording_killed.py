"""kill -9 while windows are open and alarms come and go: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.config_sensors import SensorConfig
from agent.documents.times import timestamp
from agent.sensors.planning import Arrival, DeviceState, plan
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters import create
from tests.patience import PATIENCE
from tests.sensors.recording import documents, line, rows

SEED = 20260801
START = 1_767_225_600_000_000
FRAMES = 600
KILLS = 6
TABLES = [
    {
        "name": "fast",
        "pack": 2,
        "scale": 0.5,
        "alarm": [{"name": "high", "above": 45, "hysteresis": 20, "delay": 0.1}],
    },
    {"name": "slow", "change": 10, "every": 1.5},
]


def frame(number: int) -> bytes:
    """A frame each 20 ms; the fast sensor's value rises and falls, the slow one's jumps."""
    return line(
        fast=abs(number % 200 - 100),
        slow=number // 70 * 15,
        seq=number,
        boot=9,
        time=timestamp(START + 20_000 * number),
        ack_from=0,
    )


async def converse(path: Path, first: int, acknowledged: int) -> int:
    """Send frames from `first` on until `acknowledged` are; kill it; returns the last one known."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sensors.recording_process", path, json.dumps(TABLES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    last = -1
    next_one = first
    async with asyncio.timeout(PATIENCE):
        while last < acknowledged:
            batch = range(next_one, min(next_one + 15, FRAMES))
            process.stdin.write(b"".join(map(frame, batch)))
            next_one = batch.stop
            (_, last, *missing) = json.loads(await process.stdout.readline())["ack"]
            assert not missing
        process.kill()
        *_, rest = [b"", *(await process.stdout.read()).split(b"\n")[:-1]]
        await process.wait()
    process.stdin.close()
    return json.loads(rest)["ack"][1] if rest else last


async def test_kill_while_packing(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    path = tmp_path / "edge.sqlite"
    known = -1
    goals = sorted(chance.sample(range(20, FRAMES - 50), KILLS))
    for goal in [*goals, FRAMES - 1]:
        # As devices do: what is not acknowledged comes again, here with a little of what is.
        known = await converse(path, max(0, known + 1 - chance.randrange(5)), goal)
        store = await Store.open(path)
        sequences = await asyncio.to_thread(
            rows, store, "SELECT sequence FROM readings WHERE sensor = 'fast' ORDER BY sequence"
        )
        assert [number for (number,) in sequences[: known + 1]] == list(range(known + 1))
        assert len(sequences) == len(set(sequences))
        await store.close()

    expected = planned()
    store = await Store.open(path)
    sql = "SELECT sensor, sequence, time, value FROM readings ORDER BY sensor, sequence"
    found = await asyncio.to_thread(rows, store, sql)
    assert found == sorted(
        (s.reading.sensor, s.reading.sequence, s.at, s.value) for s in expected.samples if s.kept
    )
    alarms = {alarm["_id"]: alarm for alarm in await documents(store, "alarm")}
    assert alarms.keys() == {doc.id for doc in expected.documents if doc.id.startswith("alarm:")}
    assert {id for id, alarm in alarms.items() if not alarm["active"]} == {
        clearing.id for clearing in expected.cleared
    }
    assert len(expected.cleared) >= 2
    assert len(await documents(store, "readings")) >= 5
    assert (await store.info()).conflict_count == 0
    await store.close()


def planned() -> Any:
    """What becomes of all frames when nothing happens on the way."""
    rules = Rules(msgspec.convert(TABLES, list[SensorConfig]))
    adapter = create("json-lines")
    items = [item for number in range(FRAMES) for item in adapter.receive(frame(number))]
    arrivals = [Arrival(START, item) for item in items]
    return plan("dev", rules, DeviceState(), arrivals, {})
