"""A fleet that comes back at once: what 500 gateways with waiting readings do to two bridges.

All gateways connect to one broker at the same moment, as after an outage of its own. Two bridges
stand between it and one hub, which they know as a CouchDB over HTTP. When the hub has half of the
readings, one bridge is killed. Every gateway has to get all of its readings to the hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from scripts.benchmarks.brokers import ANY, running_bridge
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.processes import peak_mib, running_agent
from scripts.benchmarks.servers import DATABASE
from tests.mqtt.mosquitto import Mosquitto

READINGS = 200
LONGEST = 90.0
TIME_TARGET = Target(at_most=LONGEST)
MEMORY_TARGET = Target(at_most=200.0)

_LOOK_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class _Size:
    """`patience`, of a gateway with a bridge that does not answer, is in seconds."""

    gateways: int
    processes: int
    patience: float


_FULL = _Size(500, 4, 30.0)
_QUICK = _Size(20, 2, 3.0)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Seconds of each gateway, and the peak memory of a bridge in MiB."""

    seconds: list[float]
    peak: float


async def run(options: Options) -> list[Row]:
    """Once: it is a trial of strength, not a comparison."""
    size = _QUICK if options.quick else _FULL
    options.note(f"{size.gateways} gateways with {READINGS} readings each")
    sample = await _measure(options.folder, size)
    fleet = f"{size.gateways} gateways"
    slowest = max(sample.seconds)
    return [
        Row(f"{fleet}, until the last has converged", "s", [slowest], target=TIME_TARGET),
        Row("  until half of them have", "s", [statistics.median(sample.seconds)]),
        Row("  readings, all together", "1/s", [size.gateways * READINGS / slowest]),
        Row("  a bridge's peak memory", "MiB", [sample.peak], target=MEMORY_TARGET),
    ]


async def _measure(folder: Path, size: _Size) -> _Sample:
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(folder / "mosquitto"))
        data = str(folder / "hub")
        hub = await stack.enter_async_context(running_agent("hub", "--data", data, "--listen", ANY))
        url = f"{hub.url}/{DATABASE}"
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with session.put(url) as response:
            response.raise_for_status()
        doomed, survivor = [
            await stack.enter_async_context(running_bridge(name, broker, url))
            for name in ("bridge-1", "bridge-2")
        ]
        each = size.gateways // size.processes
        async with asyncio.timeout(2 * LONGEST):
            processes = [
                await stack.enter_async_context(_gateways(broker.url, first, each, size.patience))
                for first in range(0, size.gateways, each)
            ]
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
            await _until_half(session, url, size.gateways * READINGS)
            peak = peak_mib(doomed.pid)
            os.kill(doomed.pid, signal.SIGKILL)
            seconds: list[float] = []
            for process in processes:
                assert process.stdout is not None
                seconds += msgspec.json.decode(await process.stdout.readline(), type=list[float])
        stored = await _count(session, url)
        if stored != size.gateways * READINGS:
            raise BenchError(f"{stored} of {size.gateways * READINGS} readings are at the hub")
        return _Sample(seconds, max(peak, peak_mib(survivor.pid)))


@contextlib.asynccontextmanager
async def _gateways(
    url: str, first: int, count: int, patience: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with gateways that wait for a line on its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "scripts.benchmarks.fleet_gateways", url),
        *(str(value) for value in (first, count, READINGS, patience)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise BenchError("the gateways did not start")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until_half(session: aiohttp.ClientSession, url: str, all: int) -> None:
    end = time.monotonic() + LONGEST
    while await _count(session, url) < all // 2:
        if time.monotonic() > end:
            raise BenchError(f"half of the readings were not at the hub after {LONGEST:g} s")
        await asyncio.sleep(_LOOK_EVERY)


async def _count(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return int(msgspec.json.decode(await response.read())["doc_count"])
