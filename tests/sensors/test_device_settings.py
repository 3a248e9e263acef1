"""A device's settings between a store and a port: who must not be told anything, and full disks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from agent.backoff import Backoff
from agent.errors import StoreWriteError
from agent.sensors.device_settings import DeviceSettings, follow_documents
from agent.sensors.link import SerialLink
from agent.store.store import Store
from firmware_adapters import create
from tests.mqtt.site import edit
from tests.patience import PATIENCE, until
from tests.sensors.test_device_reports import ID, winner
from tests.sensors.test_link import Port, port

__all__ = ["port"]  # a fixture


class Gateway:
    """A device's settings, its link and its adapter, as the agent joins them."""

    def __init__(
        self, store: Store, port: Port, adapter: str = "json-lines", **options: Any
    ) -> None:
        settings = {"column": [{"name": "a"}]} if adapter == "csv-lines" else None
        self.store = store
        self.port = port
        self.adapter = create(adapter, settings)
        self.link = SerialLink(str(port.path), backoff=Backoff(0.01, 0.05))
        self.settings = DeviceSettings(
            store, "gateway-1", "node", self.adapter, self.link, **options
        )

    def opened(self) -> None:
        self.adapter.reset()
        self.settings.port_opened()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        def received(data: bytes) -> None:
            self.settings.hear(self.adapter.receive(data))

        tasks = [
            asyncio.create_task(self.link.run(received, self.opened)),
            asyncio.create_task(self.settings.run()),
            asyncio.create_task(follow_documents(self.store, [self.settings])),
        ]
        try:
            await until(lambda: self.link.state == "open")
            yield
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    def says(self, **members: Any) -> None:
        os.write(self.port.device, b"\n" + msgspec.json.encode(members) + b"\n")

    async def command(self) -> dict[str, Any]:
        """The next command that the device hears."""
        heard = b""
        async with asyncio.timeout(PATIENCE):
            while not heard.endswith(b"\n"):
                try:
                    heard += os.read(self.port.device, 1)
                except BlockingIOError:
                    await asyncio.sleep(0.005)
        command: dict[str, Any] = msgspec.json.decode(heard)
        return command

    async def document(self, **expected: Any) -> dict[str, Any]:
        """The document, once it has these members."""
        async with asyncio.timeout(PATIENCE):
            while not expected.items() <= (body := (await winner(self.store))[1]).items():
                await asyncio.sleep(0.01)
        return body


async def desire(store: Store, desired: Any, **members: Any) -> None:
    rev, body = await winner(store)
    await edit(store, ID, rev, **{**body, **members, "desired": desired})


async def test_a_wish_becomes_a_command_and_its_answer_a_report(store: Store, port: Port) -> None:
    port.plug_in()
    gateway = Gateway(store, port)
    async with gateway.running():
        await desire(store, {"mode": "eco"})
        question = await gateway.command()
        assert question["set"] == {}
        gateway.says(answers=question["n"], settings={"mode": "comfort", "speed": 3})
        command = await gateway.command()
        assert command["set"] == {"mode": "eco"}
        assert gateway.settings.status()["pending"] == ["mode"]
        gateway.says(answers=command["n"], settings={"mode": "eco", "speed": 3})
        await gateway.document(reported={"mode": "eco", "speed": 3})
        assert gateway.settings.status()["pending"] == []


async def test_a_device_that_is_not_asked_for_anything_hears_nothing(
    store: Store, port: Port
) -> None:
    port.plug_in()
    gateway = Gateway(store, port)
    async with gateway.running():
        gateway.says(temperature=21.5, seq=1, boot=1)
        await until(lambda: gateway.link.bytes_received)
        # The first that it hears is the question that comes with the first wish.
        await desire(store, {"mode": "eco"})
        assert (await gateway.command())["set"] == {}
        gateway.says(temperature=21.5, seq=0, boot=2)  # it has started anew
        assert (await gateway.command())["set"] == {}


async def test_one_that_wants_acknowledgements_is_asked_until_it_is_another(
    store: Store, port: Port
) -> None:
    port.plug_in()
    gateway = Gateway(store, port)
    async with gateway.running():
        gateway.says(temperature=21.5, seq=0, boot=1, ack_from=0)
        assert (await gateway.command())["set"] == {}
        port.unplug()
        await until(lambda: gateway.link.state == "waiting")
        sent, received = gateway.link.bytes_sent, gateway.link.bytes_received
        port.plug_in()
        await until(lambda: gateway.link.opens == 2)
        gateway.says(temperature=21.5, seq=0, boot=2)
        await until(lambda: gateway.link.bytes_received > received)
        assert gateway.link.bytes_sent == sent
        gateway.says(settings={"mode": "eco"})
        await gateway.document(reported={"mode": "eco"})
        assert gateway.link.bytes_sent == sent


@pytest.mark.parametrize(
    ("adapter", "allowed", "reason"),
    [
        ("json-lines", False, "the gateway's configuration says commands = false"),
        ("csv-lines", True, "the device's firmware adapter cannot change settings"),
    ],
)
async def test_a_device_that_must_not_or_cannot_be_set(
    store: Store, port: Port, adapter: str, allowed: bool, reason: str
) -> None:
    port.plug_in()
    gateway = Gateway(store, port, adapter, allowed=allowed)
    async with gateway.running():
        await desire(store, {"mode": "eco"})
        body = await gateway.document(gateway="gateway-1")
        assert body["refused"]["mode"]["reason"] == reason
        assert gateway.link.bytes_sent == 0
        assert gateway.settings.status()["refused"].keys() == {"mode"}


async def test_a_device_of_another_gateway_is_left_alone(store: Store, port: Port) -> None:
    port.plug_in()
    gateway = Gateway(store, port)
    await desire(store, {"mode": "eco"}, gateway="gateway-2")
    async with gateway.running():
        await until(lambda: gateway.settings.status()["last_error"])
        assert "belongs to the gateway 'gateway-2'" in gateway.settings.status()["last_error"]
        gateway.says(settings={"mode": "comfort"})
        await until(lambda: gateway.settings.status()["reported"])
        assert gateway.link.bytes_sent == 0
        # Somebody gives it to this one.
        rev, body = await winner(store)
        assert "reported" not in body
        del body["gateway"]
        await edit(store, ID, rev, **body)
        await gateway.document(gateway="gateway-1", reported={"mode": "comfort"})
        assert (await gateway.command())["set"] == {"mode": "eco"}


@pytest.mark.parametrize("desired", [[1], "fast", 7, {"a": {"b": 1}}, {"a": [None]}, {"": 1}])
async def test_what_is_malformed_is_refused(store: Store, port: Port, desired: Any) -> None:
    port.plug_in()
    gateway = Gateway(store, port)
    await desire(store, desired)
    async with gateway.running():
        body = await gateway.document(gateway="gateway-1", desired=desired)
        [(name, refusal)] = body["refused"].items()
        assert name == ("*" if not isinstance(desired, dict) else next(iter(desired)))
        assert refusal["reason"]
        await desire(store, {})
        await until(lambda: not gateway.settings.status()["refused"])


async def test_a_report_that_the_disk_does_not_take_is_written_later(
    store: Store, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sensors.device_settings._RETRY_PAUSE", 0.05)
    good = store.edit
    tries = 0

    async def full(edits: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreWriteError("the disk is full")
        return await good(edits)

    monkeypatch.setattr(store, "edit", full)
    port.plug_in()
    gateway = Gateway(store, port)
    async with gateway.running():
        gateway.says(settings={"mode": "eco"})
        await until(lambda: gateway.settings.last_error == "the disk is full")
        await gateway.document(reported={"mode": "eco"})
        await until(lambda: gateway.settings.last_error is None)
    assert tries == 3
