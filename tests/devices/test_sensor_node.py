"""The reference firmware, running under MicroPython, through a serial link and the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.sensors.link import SerialLink
from firmware_adapters import CborFrames, Event, Reading, Report
from tests.devices.micropython import SensorNode
from tests.patience import until


class Host:
    """What an agent does with one port, without a store."""

    def __init__(self, path: Path) -> None:
        self.link = SerialLink(str(path))
        self.adapter = CborFrames()
        self.numbers: dict[object, set[int]] = {}
        self.readings: list[Reading] = []
        self.events: list[Event] = []

    def take(self, data: bytes) -> None:
        for item in self.adapter.receive(data):
            if item.sequence is not None:
                self.numbers.setdefault(item.boot, set()).add(item.sequence)
            if isinstance(item, Reading):
                self.readings.append(item)
            else:
                self.events.append(item)

    def missing(self) -> int:
        """How many sequence numbers were left out between the first and the last of each boot."""
        return sum(max(n) - min(n) + 1 - len(n) for n in self.numbers.values())

    def kinds(self) -> set[str]:
        return {event.kind for event in self.events}

    def logs(self) -> list[str]:
        return [event.detail for event in self.events if event.kind == "log"]

    def reports(self) -> list[Report]:
        return [event.report for event in self.events if event.report is not None]

    def frames(self) -> dict[tuple[object, int | None], dict[str, str]]:
        """What was received, in the witness's terms."""
        frames: dict[tuple[object, int | None], dict[str, str]] = {}
        for reading in self.readings:
            frame = frames.setdefault((reading.boot, reading.sequence), {})
            frame[reading.sensor] = repr(reading.value)
        return frames


@asynccontextmanager
async def listening(path: Path, host: Host | None = None) -> AsyncIterator[Host]:
    host = host or Host(path)
    running = asyncio.create_task(host.link.run(host.take, host.adapter.reset))
    try:
        yield host
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SensorNode]:
    node = SensorNode(tmp_path / "port", tmp_path / "witness", interval_ms=20)
    yield node
    node.unplug()


def assert_received_is_what_was_sent(host: Host, node: SensorNode) -> None:
    sent = {(w.boot, w.sequence): w.values for w in node.witnesses()}
    received = host.frames()
    assert received
    assert received == {key: sent[key] for key in received}


async def test_every_frame_arrives_as_it_was_sent(node: SensorNode) -> None:
    node.count = 100
    async with listening(node.port) as host:
        # Listening before the board is there: nothing of it may be missed.
        node.plug_in()
        await until(lambda: host.link.state == "open")
        await until(lambda: not node.running)
        await until(lambda: (host.readings or [None])[-1] and host.readings[-1].sequence == 99)
    assert_received_is_what_was_sent(host, node)
    first = min(r.sequence for r in host.readings if r.sequence is not None)
    assert [s for _, s in host.frames()] == list(range(first, 100))
    assert {r.sensor: r.unit for r in host.readings} == {
        "temperature": "C",
        "humidity": "%",
        "door_open": None,
    }
    assert host.missing() == 0
    assert host.kinds() <= {"cut-frame"}


async def test_survives_unplugging_and_says_what_was_missed(node: SensorNode) -> None:
    async with listening(node.port) as host:
        for opening in (1, 2, 3):
            node.plug_in()
            await until(lambda: host.link.opens == opening)  # noqa: B023 - awaited here
            seen = len(host.readings)
            await until(lambda: len(host.readings) > seen + 30)  # noqa: B023
            node.unplug()
            await until(lambda: host.link.state == "waiting" and host.link.last_error)
    assert_received_is_what_was_sent(host, node)
    assert len({reading.boot for reading in host.readings}) == 3


async def test_a_reset_starts_a_new_boot_on_the_same_port(node: SensorNode) -> None:
    node.plug_in()
    async with listening(node.port) as host:
        await until(lambda: len(host.readings) > 30)
        node.reset()
        await until(lambda: len(host.numbers) == 2)
        await until(lambda: (host.readings[-1].sequence or 0) > 10)
    assert_received_is_what_was_sent(host, node)
    assert host.link.opens == 1
    # The power may have gone in the middle of a frame; that frame is lost, and nothing else.
    assert len([event for event in host.events if event.kind != "cut-frame"]) <= 1


async def test_frames_nobody_listened_to_show_in_the_numbers(node: SensorNode) -> None:
    node.plug_in()
    host = Host(node.port)
    async with listening(node.port, host):
        await until(lambda: len(host.readings) > 30)
    before = len(node.witnesses())
    await until(lambda: len(node.witnesses()) > before + 30)
    assert host.missing() == 0
    async with listening(node.port, host):
        seen = len(host.readings)
        await until(lambda: len(host.readings) > seen + 30)
    assert host.missing() >= 25
    assert_received_is_what_was_sent(host, node)


async def test_commands_are_obeyed_and_answered(node: SensorNode) -> None:
    node.interval_ms = 86_400_000
    node.plug_in()
    async with listening(node.port) as host:
        await until(lambda: host.link.state == "open" and node.witnesses())
        await host.link.write(b"\x03\x11\x13 noise before the first command")
        await host.link.write(host.adapter.encode({"interval_ms": 20}))
        await until(lambda: "interval_ms is now 20" in host.logs())
        await until(lambda: len(host.readings) > 30)
        await host.link.write(
            host.adapter.encode({"interval_ms": 5, "paint": ["it", {"black": 1.5}]})
        )
        await until(lambda: {"refused: interval_ms", "refused: paint"} <= set(host.logs()))
        await host.link.write(host.adapter.encode({"stop": True}))
        await until(lambda: not node.running)
        await until(lambda: "stopped" in host.logs())
    assert host.missing() == 0


async def test_settings_are_taken_and_reported(node: SensorNode) -> None:
    node.interval_ms = 86_400_000
    node.plug_in()
    async with listening(node.port) as host:
        await until(lambda: host.link.state == "open" and node.witnesses())
        for number, settings in enumerate(({}, {"interval_ms": 20, "x": 1}, {"interval_ms": 9})):
            await host.link.write(host.adapter.command(number, settings))
        await until(lambda: len(host.reports()) == 3)
        await until(lambda: len(host.readings) > 30)
    assert host.reports() == [
        Report({"interval_ms": 86_400_000}, answers=0, complete=True),
        Report({"interval_ms": 20}, answers=1, complete=True),
        Report({"interval_ms": 20}, {"interval_ms": "10 to 86400000"}, 2, complete=True),
    ]
    assert host.missing() == 0


async def test_damaged_commands_do_nothing(node: SensorNode) -> None:
    node.plug_in()
    async with listening(node.port) as host:
        await until(lambda: len(host.readings) > 3)
        stop = bytearray(host.adapter.encode({"stop": True}))
        stop[4] ^= 0x01
        await host.link.write(bytes(stop))
        await host.link.write(b"\0" + b"\x02" * 1000 + b"\0")
        await host.link.write(host.adapter.encode({"interval_ms": 10}))
        await until(lambda: "interval_ms is now 10" in host.logs())
        assert node.running
    assert host.logs() == ["interval_ms is now 10"]
