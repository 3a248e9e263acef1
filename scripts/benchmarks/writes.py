"""What recording costs the disk: 16 devices, 10 readings a second each.

Counted is what the process hands to the operating system to write (`wchar` in /proc/self/io); with
an fsync for each commit that is what reaches the disk. Peer: the same recorders with a commit for
each reading. The devices' clocks run faster than ours, so that two minutes pass in seconds; what
`commit_interval = 1` gathers is fed at once.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.config_sensors import SensorConfig
from agent.sensors.recorder import Recorder
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters import create
from scripts.benchmarks.harness import BenchError, Options, Row, Target, take_turns

DEVICES = 16
RATE = 10
SECONDS = 121  # two windows, and the reading that closes the second one
QUICK_SECONDS = 13
WINDOW = 60.0
QUICK_WINDOW = 6.0
SINGLY = 6  # seconds suffice where each reading has its commit
TARGET = Target(ratio_at_most=0.1)

_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Way:
    """`window` in seconds, None: not packed; `singly`: a commit for each reading."""

    name: str
    window: float | None
    singly: bool
    seconds: int


async def run(options: Options) -> list[Row]:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    window = QUICK_WINDOW if options.quick else WINDOW
    ways = [
        _Way("packed", window, False, seconds),
        _Way("unpacked", None, False, seconds),
        _Way("singly", None, True, SINGLY),
    ]
    numbers = iter(range(options.rounds * len(ways)))

    async def measure(way: _Way) -> float:
        return await _bytes_per_reading(options.folder / f"{next(numbers)}.sqlite", way)

    packed, unpacked, singly = await take_turns(options, ways, measure)
    peer = "a commit for each reading"
    what = "bytes written per reading, once a second"
    return [
        Row(f"{what}, packed ({window:g} s)", "B", packed, singly, peer, TARGET),
        Row(f"{what}, unpacked", "B", unpacked, singly, peer),
    ]


async def _bytes_per_reading(path: Path, way: _Way) -> float:
    store = await Store.open(path)
    rules = Rules([SensorConfig("*", pack=way.window)])
    recorders = [
        Recorder(store, f"device-{number}", create("json-lines"), None, rules)
        for number in range(DEVICES)
    ]
    tasks = [asyncio.create_task(recorder.run()) for recorder in recorders]
    before = _written()
    for second in range(way.seconds):
        frames = [_frame(second * RATE + number) for number in range(RATE)]
        for piece in frames if way.singly else [b"".join(frames)]:
            for recorder in recorders:
                await recorder.feed(piece)
                if way.singly:
                    await recorder.drain()
        await asyncio.gather(*(recorder.drain() for recorder in recorders))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()
    written = _written() - before
    _check(path, DEVICES * RATE * way.seconds)
    return written / (DEVICES * RATE * way.seconds)


def _frame(number: int) -> bytes:
    at = _START + timedelta(seconds=number / RATE)
    message = {
        "temperature": 20 + number % 97 / 8,
        "seq": number,
        "boot": 2882400001,
        "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "units": {"temperature": "Cel"},
    }
    return json.dumps(message).encode() + b"\n"


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def _check(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        (found,) = db.execute("SELECT count(*) FROM readings").fetchone()
    if found != count:
        raise BenchError(f"{found} of {count} readings are in the store")
