"""What MQTT costs beside HTTP: speed, bytes on the wire, and the memory of an idle gateway.

`edge-agent replicate` with one hub, which answers on both: through Mosquitto, and over HTTP. The
databases, the processes and the connections are new in every round. Bytes are counted in a run of
their own, by a proxy before the broker or the hub, which would slow down the others: all that the
client's connections carry, in both directions. Nothing that HTTP carries here is compressed.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
from yarl import URL

from scripts.benchmarks.brokers import ANY, running_hub
from scripts.benchmarks.clients import Done, EdgeAgent
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.processes import Agent, cpu_seconds, peak_mib, resident_mib, running_agent
from scripts.benchmarks.readings import revisions
from scripts.benchmarks.servers import DATABASE, fill_store
from scripts.benchmarks.wire import Wire
from tests.devices.micropython import SensorNode
from tests.mqtt.mosquitto import Mosquitto

READINGS = 20_000
QUICK_READINGS = 1_000
IDLE_SECONDS = 10.0
QUICK_IDLE_SECONDS = 1.0
RATE_TARGET = Target(ratio_at_least=0.6)
BYTES_TARGET = Target(ratio_at_most=0.5)
MEMORY_TARGET = Target(at_most=64.0)

_DIRECTIONS = ("push", "pull")
_WAYS = ("MQTT", "HTTP")
_LONGEST_WAIT = 120.0


@dataclass(frozen=True, slots=True)
class _Sample:
    """Readings a second; processor seconds and peak memory in MiB, of client and hub."""

    rate: float
    client_cpu: float
    hub_cpu: float
    client_peak: float
    hub_peak: float


async def run(options: Options) -> list[Row]:
    count = QUICK_READINGS if options.quick else READINGS
    options.note(f"making {count:,} readings")
    template = options.folder / "template.sqlite"
    await fill_store(template, revisions(count))
    async with Mosquitto(options.folder / "mosquitto") as broker:
        bench = _Bench(broker, template, count, options.folder / "round")
        rows = []
        for direction in _DIRECTIONS:
            samples: dict[str, list[_Sample]] = {way: [] for way in _WAYS}
            for number in range(options.rounds):
                options.note(f"{direction}, round {number + 1} of {options.rounds}")
                for way in _WAYS if number % 2 else reversed(_WAYS):
                    samples[way].append(await bench.speed(direction, way))
            options.note(f"{direction}, bytes on the wire")
            carried = {way: await bench.bytes(direction, way) for way in _WAYS}
            rows += _rows(direction, count, samples, carried)
        idle = QUICK_IDLE_SECONDS if options.quick else IDLE_SECONDS
        resident = []
        for number in range(options.rounds):
            options.note(f"an idle gateway, round {number + 1} of {options.rounds}")
            resident.append(await bench.idle(idle))
        rows.append(Row("gateway's memory over MQTT, idle", "MiB", resident, target=MEMORY_TARGET))
        return rows


def _rows(
    direction: str, count: int, samples: dict[str, list[_Sample]], carried: dict[str, int]
) -> list[Row]:
    rows = [
        Row(
            f"{direction} over MQTT, {count:,} readings",
            "1/s",
            [sample.rate for sample in samples["MQTT"]],
            [sample.rate for sample in samples["HTTP"]],
            "HTTP",
            RATE_TARGET,
        ),
        Row(
            "  bytes on the wire, per reading",
            "bytes",
            [carried["MQTT"] / count],
            [carried["HTTP"] / count],
            "HTTP",
            BYTES_TARGET,
        ),
    ]
    for what, unit, field in (
        ("client's processor time", "s", "client_cpu"),
        ("hub's processor time", "s", "hub_cpu"),
        ("client's peak memory", "MiB", "client_peak"),
        ("hub's peak memory", "MiB", "hub_peak"),
    ):
        ours, peer = ([getattr(sample, field) for sample in samples[way]] for way in _WAYS)
        rows.append(Row(f"  {what}", unit, ours, peer, "HTTP"))
    return rows


class _Bench:
    """One broker; `folder` exists only while something is measured."""

    def __init__(self, broker: Mosquitto, template: Path, count: int, folder: Path) -> None:
        self._broker = broker
        self._template = template
        self._client = EdgeAgent(template, count)
        self._count = count
        self._folder = folder

    async def speed(self, direction: str, way: str) -> _Sample:
        await self._make_place(direction)
        try:
            async with running_hub(self._folder / "hub", self._broker) as hub:
                before = cpu_seconds(hub.pid)
                done = await self._replicate(direction, self._url(way, hub))
                return _Sample(
                    self._count / done.seconds,
                    done.cpu,
                    cpu_seconds(hub.pid) - before,
                    done.peak,
                    peak_mib(hub.pid),
                )
        finally:
            await self._clear()

    async def bytes(self, direction: str, way: str) -> int:
        await self._make_place(direction)
        try:
            async with running_hub(self._folder / "hub", self._broker) as hub:
                url = URL(self._url(way, hub))
                assert url.port is not None
                wire = Wire(url.port)
                async with wire.open():
                    await self._replicate(direction, str(url.with_port(wire.port)))
                return wire.bytes
        finally:
            await self._clear()

    async def idle(self, seconds: float) -> float:
        """MiB that a gateway with one sensor and an MQTT remote has resident."""
        await asyncio.to_thread(self._folder.mkdir)
        node = SensorNode(self._folder / "device", self._folder / "sent.txt", interval_ms=1000)
        node.plug_in()
        try:
            async with running_hub(self._folder / "hub", self._broker):
                config = self._write_config(node)
                async with running_agent("run", "--config", str(config)) as gateway:
                    await _live(gateway)
                    await asyncio.sleep(seconds)
                    return resident_mib(gateway.pid)
        finally:
            node.unplug()
            await self._clear()

    def _url(self, way: str, hub: Agent) -> str:
        return f"{self._broker.url if way == 'MQTT' else hub.url}/{DATABASE}"

    async def _replicate(self, direction: str, url: str) -> Done:
        replicate = self._client.push if direction == "push" else self._client.pull
        return await replicate(url, self._folder)

    async def _make_place(self, direction: str) -> None:
        data = self._folder / "hub"
        await asyncio.to_thread(data.mkdir, parents=True)
        if direction == "pull":
            await asyncio.to_thread(shutil.copy, self._template, data / f"{DATABASE}.sqlite")

    async def _clear(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._folder)

    def _write_config(self, node: SensorNode) -> Path:
        path = self._folder / "gateway.toml"
        path.write_text(
            f"""\
[agent]
name = "bench"
data = "gateway"

[server]
listen = "{ANY}"

[[device]]
name = "node"
port = "{node.port}"
adapter = "cbor-frames"

[[remote]]
name = "hub"
url = "{self._broker.url}/edge"
create = true
"""
        )
        return path


async def _live(gateway: Agent) -> None:
    """Wait until both directions have caught up."""
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() - gateway.started < _LONGEST_WAIT:
            async with session.get(f"{gateway.url}/_status") as response:
                [remote] = msgspec.json.decode(await response.read())["remotes"]
            if all(remote[way]["state"] == "live" for way in _DIRECTIONS):
                return
            await asyncio.sleep(0.1)
    raise BenchError(f"the gateway does not reach its remote: {remote}")
