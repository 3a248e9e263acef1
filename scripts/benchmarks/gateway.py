"""A gateway with one sensor node and one remote: how soon it records, and what it holds idle.

The node is the reference firmware under MicroPython on a pseudo-terminal, which sends every 50 ms
already when the gateway is started; the remote is a hub. For the idle figures it sends once a
second, as a sensor does. A bare process that imports the same HTTP library stands beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.processes import (
    AGENT,
    Agent,
    cpu_seconds,
    peak_mib,
    resident_mib,
    running_agent,
    running_server,
)
from tests.devices.micropython import SensorNode

IDLE_SECONDS = 10.0
QUICK_IDLE_SECONDS = 1.0
MEMORY_TARGET = Target(at_most=64.0)
START_TARGET = Target(at_most=1.5)

_ANY = "127.0.0.1:0"
BUSY_MS = 50
_IDLE_MS = 1000
_LONGEST_WAIT = 120.0
_LOOK_EVERY = 0.005

_BARE_NAME = "Python with aiohttp"
_BARE = """
import asyncio, sqlite3, aiohttp.web
async def main():
    runner = aiohttp.web.AppRunner(aiohttp.web.Application())
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    print("listening", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Seconds from the start of the process, memory in MiB, hundredths of a processor."""

    listening: float
    durable: float
    restart_durable: float
    resident: float
    peak: float
    cpu: float


@dataclass(frozen=True, slots=True)
class _Bare:
    listening: float
    resident: float


async def run(options: Options) -> list[Row]:
    ours: list[_Sample] = []
    bare: list[_Bare] = []
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        folder = options.folder / str(number)
        folder.mkdir()
        bare.append(await _measure_bare())
        idle = QUICK_IDLE_SECONDS if options.quick else IDLE_SECONDS
        ours.append(await _measure(folder, idle))
    bare_listening = [sample.listening for sample in bare]
    return [
        Row(
            "first start to first durable reading",
            "s",
            [sample.durable for sample in ours],
            target=START_TARGET,
        ),
        Row(
            "restart to first durable reading",
            "s",
            [sample.restart_durable for sample in ours],
            target=START_TARGET,
        ),
        Row(
            "  first start to listening",
            "s",
            [sample.listening for sample in ours],
            bare_listening,
            _BARE_NAME,
        ),
        Row(
            "gateway's memory, idle",
            "MiB",
            [sample.resident for sample in ours],
            [sample.resident for sample in bare],
            _BARE_NAME,
            MEMORY_TARGET,
        ),
        Row("  its peak since the start", "MiB", [sample.peak for sample in ours]),
        Row("  its processor use, idle", "%", [sample.cpu for sample in ours]),
    ]


async def _measure_bare() -> _Bare:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BARE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        return _Bare(time.perf_counter() - started, resident_mib(process.pid))
    finally:
        process.kill()
        await process.wait()


async def _measure(folder: Path, idle: float) -> _Sample:
    node = SensorNode(folder / "device", folder / "sent.txt", interval_ms=BUSY_MS)
    node.plug_in()
    try:
        async with running_agent("hub", "--data", str(folder / "hub"), "--listen", _ANY) as hub:
            config = write_config(folder, node, f"{hub.url}/edge")
            async with gateway(config) as (first, durable):
                pass
            async with gateway(config) as (again, restart_durable):
                node.stop()
                node.interval_ms = _IDLE_MS
                node.start()
                await _caught_up(again)
                before = cpu_seconds(again.pid)
                await asyncio.sleep(idle)
                return _Sample(
                    listening=first.listening - first.started,
                    durable=durable,
                    restart_durable=restart_durable,
                    resident=resident_mib(again.pid),
                    peak=peak_mib(again.pid),
                    cpu=(cpu_seconds(again.pid) - before) / idle * 100,
                )
    finally:
        node.unplug()


@contextlib.asynccontextmanager
async def gateway(
    config: Path,
    *,
    program: Sequence[str] = AGENT,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[Agent, float]]:
    """Runs a gateway; tells the seconds from its start to its first durable reading.

    `config` is what `write_config` has written.
    """
    path = config.with_name("gateway") / "edge.sqlite"
    before = _newest(path) if path.exists() else 0
    command = (*program, "run", "--config", str(config))
    async with running_server(*command, environment=environment) as running:
        # Not looked at earlier: the store is opened before it listens, the port afterwards.
        while _newest(path) == before:
            if time.perf_counter() - running.started > _LONGEST_WAIT:
                raise BenchError("the gateway recorded nothing")
            await asyncio.sleep(_LOOK_EVERY)
        yield running, time.perf_counter() - running.started


def _newest(path: Path) -> int:
    """The sequence of the last committed document."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT coalesce(max(seq), 0) FROM docs").fetchone()[0])


async def _caught_up(gateway: Agent) -> None:
    """Wait until both replications with the remote are live."""
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() - gateway.started < _LONGEST_WAIT:
            async with session.get(f"{gateway.url}/_status") as response:
                status = msgspec.json.decode(await response.read())
            remote = status["remotes"][0]
            if all(remote[way]["state"] == "live" for way in ("push", "pull")):
                return
            await asyncio.sleep(0.1)
    raise BenchError(f"the gateway does not reach its remote: {status['remotes']}")


def write_config(folder: Path, node: SensorNode, url: str) -> Path:
    """That of a gateway with one node and one remote; its data are beside it."""
    path = folder / "gateway.toml"
    path.write_text(
        f"""\
[agent]
name = "bench"
data = "gateway"

[server]
listen = "{_ANY}"

[[device]]
name = "node"
port = "{node.port}"
adapter = "cbor-frames"

[[remote]]
name = "hub"
url = "{url}"
create = true
"""
    )
    return path
