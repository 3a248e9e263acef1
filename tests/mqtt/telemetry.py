"""A publisher, the readings that it is to publish, and somebody who listens on the broker."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from agent import __version__
from agent.documents.revision import Revision, first_revision
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import READINGS_PREFIX, parse_broker_url
from agent.store.store import Store
from agent.telemetry.options import Options
from agent.telemetry.publisher import Publisher
from tests.agents import CHECKOUT
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import until

READY = "ready"
TEMPERATURE = "edge-readings/gateway-1/greenhouse/temperature"
CONFIG = "homeassistant/device/gateway-1/greenhouse/config"


class Listener:
    """`mosquitto_sub`: everything that somebody with nothing of ours sees on a broker."""

    def __init__(self, broker: Mosquitto, file: Path) -> None:
        self._file = file
        self._where = ("-h", "127.0.0.1", "-p", str(broker.port))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def lines(self) -> list[str]:
        """`topic payload`, for each message."""
        return [line for line in self._file.read_text().splitlines() if line != f"{READY} "]

    def on(self, topic: str) -> list[str]:
        """The payloads on a topic."""
        return [line.partition(" ")[2] for line in self.lines if line.split(" ")[0] == topic]

    def values(self, sensor: str = "temperature", device: str = "greenhouse") -> list[Any]:
        """The values of a sensor's readings."""
        topic = f"edge-readings/gateway-1/{device}/{sensor}"
        return [json.loads(payload)["value"] for payload in self.on(topic) if payload]

    async def say(self, topic: str, payload: str) -> None:
        await self._run("mosquitto_pub", "-t", topic, "-m", payload)

    async def __aenter__(self) -> Listener:
        with self._file.open("wb") as file:
            self._process = await asyncio.create_subprocess_exec(
                *("mosquitto_sub", *self._where, "-t", "#", "-F", "%t %p"), stdout=file
            )
        try:
            await until(self._is_heard)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()

    async def _is_heard(self) -> bool:
        await self._run("mosquitto_pub", "-t", READY, "-n")
        return f"{READY} " in self._file.read_text().splitlines()

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(program, *self._where, *arguments)
        assert await process.wait() == 0


def options(broker: Mosquitto, **more: Any) -> Options:
    url, _ = parse_broker_url(broker.url, READINGS_PREFIX)
    devices = more.pop("devices", ["greenhouse"])
    more = {"gateway": "gateway-1", "credentials": None, "heartbeat": 2.0, **more}
    return Options(broker=url, tls=TlsFiles(), devices=frozenset(devices), **more)


@asynccontextmanager
async def publishing(store: Store, broker: Mosquitto, **more: Any) -> AsyncIterator[Publisher]:
    """A publisher that is connected, if its broker runs."""
    publisher = Publisher("site", store, options(broker, **more))
    task = asyncio.create_task(publisher.run())
    try:
        await until(lambda: publisher.status()["state"] == "connected" or publisher.last_error)
        yield publisher
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def reading(
    value: Any, sensor: Any = "temperature", device: Any = "greenhouse", **more: Any
) -> Revision:
    reading.count += 1  # type: ignore[attr-defined]
    body = {"type": "reading", "device": device, "sensor": sensor, "value": value}
    body |= {"time": "2026-03-01T08:15:30.250000Z", **more}
    return first_revision(f"{reading.count:09d}", body)  # type: ignore[attr-defined]


reading.count = 0  # type: ignore[attr-defined]


def numbers(start: int, stop: int) -> list[Revision]:
    return [reading(number) for number in range(start, stop)]


def documented(language: str, part: str) -> str:
    """The block of docs/mqtt.md in a language that has `part` in it."""
    text = (CHECKOUT / "docs" / "mqtt.md").read_text("utf-8").replace('"0.1.0"', f'"{__version__}"')
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    [block] = [block for block in blocks if part in block]
    return str(block)
