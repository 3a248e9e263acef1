"""Two gateways with a device each, a hub, and a broker; what is between them can fail.

The gateway "north" replicates with the hub over HTTP, "south" over MQTT. Each has a MicroPython
board with the reference firmware, which holds its readings until they are acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from firmware_adapters import CborFrames
from tests import agents
from tests.agents import AgentProcess
from tests.devices.cable import Board
from tests.devices.micropython import FIRMWARE, micropython, witnesses
from tests.faults.site import Place, get
from tests.mqtt.mosquitto import Mosquitto
from tests.rig.line import Line

INTERVAL_MS = 150
DISK = 64 * 1024 * 1024
"""Bytes of the disk of a gateway, where it has one of its own."""

_AT_REST_MS = 86_400_000

Account = Counter[tuple[int, int, str, str]]
"""How often a reading is there: by boot, sequence, sensor and value."""


class Gateway:
    """A gateway, its device, and its line to the hub or the broker."""

    def __init__(self, name: str, folder: Path, line: Line, scheme: str) -> None:
        self.name = name
        self.line = line
        self.folder = folder
        self.has_disk = os.geteuid() == 0
        self.board: Board
        self._log = folder.with_suffix(".sent")

        def start(port: int) -> AgentProcess:
            device = agents.table(
                "device", name=f"node-{name}", port=str(self.board.port), adapter="cbor-frames"
            )
            remote = agents.table(
                "remote",
                name="hub",
                url=f"{scheme}://127.0.0.1:{line.port}/edge",
                create=scheme == "http",
                heartbeat=2,
                checkpoint_interval=1,
                retry_cap=1,
            )
            path = folder / "gateway.toml"
            agents.gateway_config(path, device, remote, port=port, name=name)
            return agents.gateway(path, log=folder.with_suffix(".log"))

        self.place = Place(name, folder / "gateway", start)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Its disk is there, its line, and its device; the agent is not started."""
        self.folder.mkdir()
        async with AsyncExitStack() as stack:
            if self.has_disk:
                mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.folder)]
                await _run(*mount)
                stack.push_async_callback(_run, "umount", str(self.folder))
            await stack.enter_async_context(self.line)
            command = [micropython(), FIRMWARE, str(INTERVAL_MS)]
            port = self.folder.with_suffix(".port")
            self.board = await asyncio.to_thread(Board, port, self._log, command)
            stack.push_async_callback(asyncio.to_thread, self.board.end)
            self.board.plug_in()
            stack.callback(self.place.kill)
            yield

    def rest(self) -> None:
        """Have the device measure nothing more; it goes on sending what it holds."""
        self.board.tell(CborFrames().encode({"interval_ms": _AT_REST_MS}))

    def sent(self) -> Account:
        """The device's own account of what it has measured."""
        return Counter(
            (witness.boot, witness.sequence, sensor, value)
            for witness in witnesses(self._log)
            for sensor, value in witness.values.items()
        )

    async def dropped(self, session: aiohttp.ClientSession) -> int:
        """Readings that the device says it had no room to keep."""
        status = await get(session, f"{self.place.url}/_status")
        return int(status["devices"][0]["dropped"])


class World:
    """All of it. As a context manager everything runs; what still does at the end is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Mosquitto(folder / "broker")

        def start_hub(port: int) -> AgentProcess:
            return agents.hub(
                folder / "hub", "--broker", self.broker.url, "--name", "hub", port=port
            )

        self.hub = Place("hub", folder / "hub", start_hub)
        lines = {"http": Line(self.hub.port), "mqtt": Line(self.broker.port)}
        self.north = Gateway("north", folder / "north", lines["http"], "http")
        self.south = Gateway("south", folder / "south", lines["mqtt"], "mqtt")
        self.gateways = {each.name: each for each in (self.north, self.south)}
        self.places = {"hub": self.hub, "north": self.north.place, "south": self.south.place}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[aiohttp.ClientSession]:
        timeout = aiohttp.ClientTimeout(total=10)
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            await stack.enter_async_context(self.broker)
            stack.callback(self.hub.kill)
            for gateway in self.gateways.values():
                await stack.enter_async_context(gateway.working())
            for place in self.places.values():
                place.start()
            yield session

    def processes(self) -> list[str]:
        """The command lines of what runs here."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
                if str(self.folder) in words:
                    found.append(words)
        return found


def readings(documents: dict[str, Any], device: str) -> Account:
    """A device's readings among documents."""
    return Counter(
        (doc["boot"], doc["sequence"], doc["sensor"], repr(doc["value"]))
        for doc in documents.values()
        if doc.get("type") == "reading" and doc["device"] == device
    )


async def _run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
