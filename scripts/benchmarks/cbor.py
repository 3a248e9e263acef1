"""Frames from a fast device: decoded from a pseudo-terminal, and recorded by a whole agent.

Decoding stands beside reading the same bytes and throwing them away. What is recorded is packed
into windows of a second, of 1000 readings at the most, and written four times a second.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from firmware_adapters import CborFrames
from scripts.benchmarks.frame_source import FRAME_SIZE, SENSOR
from scripts.benchmarks.harness import Options, Row, Target, take_turns
from scripts.benchmarks.processes import cpu_seconds, running_agent

FRAMES = 200_000
QUICK_FRAMES = 5_000
RATE = 9_375
"""Frames in a second: 300,000 bytes."""

SECONDS = 20
QUICK_SECONDS = 1

_READ_SIZE = 65536
_LONGEST_WAIT = 120.0
_PACK = 1
_COMMIT_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class _Recorded:
    """`cpu`: hundredths of one core. `behind`: seconds that the device had to wait."""

    cpu: float
    lost: int
    doubled: int
    behind: float


async def run(options: Options) -> list[Row]:
    count = QUICK_FRAMES if options.quick else FRAMES

    async def rate(decoding: bool) -> float:
        return await asyncio.to_thread(_frames_per_second, count, decoding=decoding)

    decoded, read = await take_turns(options, [True, False], rate)
    recorded = []
    for number in range(options.rounds):
        options.note(f"recording, round {number + 1} of {options.rounds}")
        folder = options.folder / str(number)
        folder.mkdir()
        recorded.append(await _record(folder, quick=options.quick))
    megabytes = FRAME_SIZE / 1_000_000
    peer = "reading only"
    return [
        Row("frames of 32 bytes decoded from a pty", "frames/s", decoded, read, peer),
        Row(
            "  the same as bytes",
            "MB/s",
            [each * megabytes for each in decoded],
            [each * megabytes for each in read],
            peer,
        ),
        Row(
            "processor, recording 300,000 bytes/s",
            "% of a core",
            [each.cpu for each in recorded],
            target=Target(at_most=60),
        ),
        Row("  readings lost", "", [each.lost for each in recorded], target=Target(at_most=0)),
        Row(
            "  readings doubled", "", [each.doubled for each in recorded], target=Target(at_most=0)
        ),
        Row(
            "  device behind its pace at the end",
            "s",
            [each.behind for each in recorded],
            target=Target(at_most=1),
        ),
    ]


def _source(descriptor: int, count: int, rate: int) -> subprocess.Popen[bytes]:
    arguments = [f"{descriptor}", f"{count}", f"{rate}"]
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmarks.frame_source", *arguments],
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
    )


def _frames_per_second(count: int, *, decoding: bool) -> float:
    """Blocking."""
    near, far = os.openpty()
    tty.setraw(far)
    receive: Callable[[bytes], object] = CborFrames().receive if decoding else len
    left = count * FRAME_SIZE
    with _source(near, count, 0):
        data = os.read(far, _READ_SIZE)
        started = time.perf_counter()
        while True:
            receive(data)
            left -= len(data)
            if left <= 0:
                break
            data = os.read(far, _READ_SIZE)
        took = time.perf_counter() - started
    os.close(near)
    os.close(far)
    return count / took


async def _record(folder: Path, *, quick: bool) -> _Recorded:
    near, far = os.openpty()
    tty.setraw(far)
    seconds = QUICK_SECONDS if quick else SECONDS
    count = RATE * seconds
    config = _write_config(folder, os.ttyname(far))
    async with running_agent("run", "--config", str(config)) as agent:
        await _opened(agent.url)
        before = cpu_seconds(agent.pid)
        process = _source(near, count, RATE)
        output, _ = await asyncio.to_thread(process.communicate)
        await asyncio.sleep(2 * _COMMIT_INTERVAL)
        cpu = cpu_seconds(agent.pid) - before
    os.close(near)
    os.close(far)
    stored, different = _stored(folder / "gateway" / "edge.sqlite")
    return _Recorded(cpu / seconds * 100, count - different, stored - different, float(output))


async def _opened(url: str) -> None:
    """Wait until the agent has the port open: what came before would be lost."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(_LONGEST_WAIT):
        while True:
            async with session.get(f"{url}/_status") as response:
                status = msgspec.json.decode(await response.read())
            if status["devices"][0]["state"] == "open":
                return
            await asyncio.sleep(0.05)


def _stored(path: Path) -> tuple[int, int]:
    """How many readings there are, and how many different ones."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        found = db.execute(
            "SELECT count(*), count(DISTINCT sequence) FROM readings WHERE sensor = ?", [SENSOR]
        ).fetchone()
    return int(found[0]), int(found[1])


def _write_config(folder: Path, port: str) -> Path:
    path = folder / "gateway.toml"
    path.write_text(
        f"""\
[agent]
name = "bench"
data = "gateway"
commit_interval = {_COMMIT_INTERVAL}

[server]
listen = "127.0.0.1:0"

[[device]]
name = "fast"
port = "{port}"
adapter = "cbor-frames"

[[device.sensor]]
name = "*"
pack = {_PACK}
"""
    )
    return path
