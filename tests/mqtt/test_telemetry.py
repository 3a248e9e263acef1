"""Readings for others on a real Mosquitto: what mosquitto_sub sees is what docs/mqtt.md says."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import tty
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.sensors.packing import Row, Shared, Window
from agent.store.store import Store
from tests import agents
from tests.agents import edge_agent
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import edit
from tests.mqtt.telemetry import (
    CONFIG,
    TEMPERATURE,
    Listener,
    documented,
    numbers,
    publishing,
    reading,
)
from tests.patience import until, when_true
from tests.rig.clock import Clock


async def test_what_is_documented(store: Store, broker: Mosquitto, seen: Listener) -> None:
    async with publishing(store, broker, discovery="homeassistant"):
        await store.graft([reading(21.5, unit="C", sequence=4711, boot=903441, uptime_ms=12)])
        await until(lambda: len(seen.lines) == 3)
    _, *lines = documented("console", "mosquitto_sub").splitlines()
    assert [line for line in seen.lines if line.startswith("edge-readings/")][:2] == lines
    [config] = seen.on(CONFIG)
    assert config == documented("json", "unique_id").strip()
    status = "edge-readings/gateway-1/status"
    await until(lambda: seen.on(status)[1:] == ['{"status":"offline","role":"gateway"}'])


async def test_only_what_is_new(store: Store, broker: Mosquitto, seen: Listener) -> None:
    await store.graft(numbers(0, 5))
    async with publishing(store, broker, retain=False) as publisher:
        await store.graft(numbers(5, 10))
        await until(lambda: seen.values() == [5, 6, 7, 8, 9])
        await until(lambda: publisher.status()["published"] == 5)


async def test_only_readings_of_the_gateways_devices(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    async with publishing(store, broker) as publisher:
        await store.graft(
            [
                reading(1, device="of-another-gateway"),
                first_revision("s", {"type": "setpoint", "device": "greenhouse", "value": 1}),
                reading({"not": "a value"}),
                reading([1, 2]),
                reading(None),
                reading(1, sensor=""),
                reading(1, sensor="s" * 65),
                reading(1, sensor=7),
                reading(1, time=None),
                reading(1, unit="u" * 65),
            ]
        )
        deleted = await edit(store, "gone", None, type="reading")
        await edit(store, "gone", deleted, deleted=True)
        await store.graft([reading(1 << 70)])  # is a number like any other
        await until(lambda: seen.values() == [1 << 70])
        assert len(seen.lines) == 2
        assert publisher.last_error is None


async def test_the_latest_reading_of_a_packed_window(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    """As the gateway packs them, and what only looks like that."""
    common = Shared("greenhouse", "vibration", "m/s2", None, 7, (), ("boot", 0))
    rows = tuple(Row(1_772_352_930_250_000 + 10_000 * n, 0.5 * n, 2**32 - 2 + n) for n in range(4))
    document = Window("w", common, rows).document()
    body = json.loads(document.body)
    odd: list[dict[str, Any]] = [
        {"columns": {"time": [], "value": []}},
        {"columns": {"time": [0], "value": []}},
        {"columns": {"time": [2**62], "value": [1]}},
        {"columns": {"time": ["x"], "value": [1]}},
        {"columns": None},
        {"time": "yesterday"},
        {"sensor": ""},
    ]
    windows = [first_revision(str(number), body | change) for number, change in enumerate(odd)]
    async with publishing(store, broker) as publisher:
        await store.graft([*windows, document])
        await until(lambda: publisher.published == 1)
        topic = "edge-readings/gateway-1/greenhouse/vibration"
        await until(lambda: seen.on(topic))
        [payload] = seen.on(topic)
        assert json.loads(payload) == {
            "value": 1.5,
            "unit": "m/s2",
            "time": "2026-03-01T08:15:30.280000Z",
            "sequence": 1,
            "clock": "unset",
        }
        assert publisher.last_error is None


async def test_names_that_a_topic_cannot_carry(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    """They are one level each, whatever they are; and discovery has a key for each of them."""
    names = {
        "a/b+c": "a%2Fb%2Bc",
        "#": "%23",
        "+": "%2B",
        "$SYS": "%24SYS",
        "\x00\n": "%00%0A",
        "Größe": "Gr%C3%B6%C3%9Fe",
        "{{ 1/0 }}": "%7B%7B%201%2F0%20%7D%7D",
        "req": "req",
        "..": "..",
        "💧" * 64: "%F0%9F%92%A7" * 64,
    }
    async with publishing(store, broker, discovery="homeassistant"):
        await store.graft([reading(number, sensor=name) for number, name in enumerate(names)])
        await until(lambda: len([line for line in seen.lines if '"value"' in line]) == len(names))
    for number, encoded in enumerate(names.values()):
        [payload] = seen.on(f"edge-readings/gateway-1/greenhouse/{encoded}")
        assert json.loads(payload)["value"] == number
    components = json.loads(seen.on(CONFIG)[0])["components"]
    assert sorted(entry["name"] for entry in components.values()) == sorted(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in components)


@pytest.mark.parametrize("backlog", [False, True])
async def test_a_correction_is_no_new_reading(
    store: Store, broker: Mosquitto, seen: Listener, tmp_path: Path, backlog: bool
) -> None:
    """Where every reading is wanted, it is published again, but is not the latest."""
    async with publishing(store, broker, backlog=backlog):
        first = reading(1, clock="unset")
        await store.graft([first, reading(2)])
        await until(lambda: seen.values() == [1, 2])
        assert json.loads(seen.on(TEMPERATURE)[0])["clock"] == "unset"
        await store.write(
            lambda transaction: transaction.rewrite(
                first.id, lambda body: {**body, "clock": "corrected"}
            )
        )
        await store.graft([reading(3, sensor="other")])
        await until(lambda: seen.values("other") == [3])
        assert seen.values() == ([1, 2, 1] if backlog else [1, 2])
        async with Listener(broker, tmp_path / "late") as late:
            await until(lambda: late.values("other") == [3])
            assert late.values() == [2]


async def test_an_interval(
    store: Store, broker: Mosquitto, seen: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("agent.telemetry.publisher.time", clock)
    async with publishing(store, broker, interval=0.5):
        await store.graft([*numbers(0, 50), reading(1, "other")])
        await until(lambda: seen.values("other") == [1])
        assert seen.values() == [0]
        clock.now += 0.6
        await store.graft(numbers(50, 60))
        await until(lambda: seen.values() == [0, 50])


async def test_a_reading_that_is_too_large_for_the_broker(store: Store, tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path / "broker", more="max_packet_size 5000") as broker,
        Listener(broker, tmp_path / "seen") as seen,
        publishing(store, broker, qos=1, discovery="homeassistant") as publisher,
    ):
        await store.graft([reading("x" * 6000), reading(2)])
        await store.graft([reading(number, f"s{number}") for number in range(50)])
        await until(lambda: seen.values() == [2])
        await until(lambda: seen.values("s49") == [49])
        await until(lambda: (publisher.published, publisher.skipped) == (51, 1))
        assert publisher.last_error is None


async def test_a_gateway(broker: Mosquitto, seen: Listener, tmp_path: Path, free_port: int) -> None:
    """The program as it is run, from a serial port to the broker."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("device", name="greenhouse", port=os.ttyname(theirs), adapter="json-lines"),
        agents.table("telemetry", name="site", url=broker.url, home_assistant=True),
        port=free_port,
    )

    def status() -> Any:
        return edge_agent("status", "--config", config, "--json").json()

    def check() -> None:
        with agents.gateway(config) as process:
            process.wait_until_ready()
            when_true(lambda: status()["telemetry"][0]["state"] == "connected")
            when_true(lambda: status()["devices"][0]["state"] == "open")
            os.write(ours, b'\n{"seq": 1, "temperature": 21.5}\n')
            when_true(lambda: seen.values() == [21.5])
            [told] = status()["telemetry"]
            assert (told["name"], told["broker"]) == ("site", f"{broker.url}/edge-readings")
            assert (told["published"], told["skipped"], told["last_error"]) == (1, 0, None)
            shown = edge_agent("status", "--config", config, environment={"COLUMNS": "200"})
            assert f"site │ {broker.url}/edge-readings │ connected │ 1" in " ".join(
                shown.stdout.split()
            )
            assert process.stop().status == 0

    try:
        await asyncio.to_thread(check)
    finally:
        os.close(ours)
        os.close(theirs)
    assert len(seen.on(CONFIG)) == 1
    await until(lambda: "offline" in seen.on("edge-readings/gateway-1/status")[-1])
