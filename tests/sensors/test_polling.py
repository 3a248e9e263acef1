"""Devices that are asked, on pseudo-terminals: unplugged, silent, and answering in pieces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.backoff import Backoff
from agent.sensors.link import SerialLink
from agent.sensors.polling import Polling
from firmware_adapters import Event, PollingAdapter, Reading, create
from tests.firmware_adapters.test_modbus import answer, framed
from tests.patience import PATIENCE, until
from tests.sensors.test_link import Port, port

__all__ = ["port"]  # a fixture

REQUEST = framed(b"\x01\x03\x00\x00\x00\x01")


class Gateway:
    """What a device's link, adapter and questions are to the agent."""

    def __init__(self, path: Path, **settings: Any) -> None:
        register = {"name": "x", "address": 0}
        adapter = create(
            "modbus-rtu",
            {
                "map": [{"name": "m", "register": [register]}],
                "slave": [{"address": 1, "name": "a", "map": "m", "interval": 0.02}],
                "pause": 0,
                **settings,
            },
        )
        assert isinstance(adapter, PollingAdapter)
        self.adapter = adapter
        self.items: list[Reading | Event] = []
        self.link = SerialLink(str(path), backoff=Backoff(0.01, 0.05))
        self.polling = Polling(adapter, self.link, self.items.append)

    def received(self, data: bytes) -> None:
        self.items += self.adapter.receive(data)
        self.polling.stir()

    def opened(self) -> None:
        self.adapter.reset()
        self.polling.stir()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self.link.run(self.received, self.opened)),
            asyncio.create_task(self.polling.run()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def request(port: Port, size: int = len(REQUEST)) -> bytes:
    """What the device hears."""
    heard = b""
    async with asyncio.timeout(PATIENCE):
        while len(heard) < size:
            try:
                heard += os.read(port.device, size - len(heard))
            except OSError:  # nothing yet; or, with EIO, nobody has opened the port yet
                await asyncio.sleep(0.001)
    return heard


async def test_an_answer_in_pieces(port: Port) -> None:
    port.plug_in()
    gateway = Gateway(port.path, timeout=30)
    async with gateway.running():
        for number in range(3):
            assert await request(port) == REQUEST
            for byte in answer(1, 3, bytes((0, number))):
                os.write(port.device, bytes((byte,)))
                await asyncio.sleep(0.002)
            await until(lambda: len(gateway.items) > number)  # noqa: B023 - awaited here
    assert gateway.items == [Reading("a.x", number) for number in range(3)]


async def test_it_goes_on_when_the_port_comes_back(port: Port) -> None:
    gateway = Gateway(port.path, timeout=30)
    async with gateway.running():
        for number in range(3):
            port.plug_in()
            assert await request(port) == REQUEST
            os.write(port.device, answer(1, 3, bytes((0, number))))
            await until(lambda: Reading("a.x", number) in gateway.items)  # noqa: B023
            assert await request(port) == REQUEST  # which is never answered
            port.unplug()
            await until(lambda: gateway.link.state == "waiting")
    assert gateway.items == [Reading("a.x", number) for number in range(3)]


async def test_silence_is_told_and_a_closed_port_is_not_silence(port: Port) -> None:
    gateway = Gateway(port.path, timeout=0.02)
    async with gateway.running():
        await asyncio.sleep(0.1)
        assert gateway.items == []
        port.plug_in()
        await until(lambda: len(gateway.items) >= 2)
        assert await request(port, 2 * len(REQUEST)) == REQUEST * 2
    silence = Event("no-answer", "slave 1 said nothing for 0.02 s", sensors=("a.x",))
    assert gateway.items == [silence] * len(gateway.items)
