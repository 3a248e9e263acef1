"""What Home Assistant is told of devices and their sensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.store.store import Store
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.telemetry import (
    CONFIG,
    Listener,
    publishing,
    reading,
)
from tests.patience import until


async def test_home_assistant(store: Store, broker: Mosquitto, seen: Listener) -> None:
    def components() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(seen.on(CONFIG)[-1])["components"]
        return found

    async with publishing(store, broker, discovery="homeassistant"):
        await store.graft(
            [
                reading(21.5, unit="C"),
                reading(40, "air_humidity", unit="%"),
                reading(97, "battery", unit="%"),
                reading(3, "slope", unit="%"),
                reading(12, "total", unit="kWh"),
                reading(1, "plain"),
                reading(1, "odd", unit="furlong"),
            ]
        )
        await until(lambda: seen.values("odd") != [])
        assert len(seen.on(CONFIG)) == 1
        told = {entry["name"]: entry for entry in components().values()}
        assert {
            name: (
                entry.get("device_class"),
                entry.get("unit_of_measurement"),
                entry["state_class"],
            )
            for name, entry in told.items()
        } == {
            "temperature": ("temperature", "°C", "measurement"),
            "air_humidity": ("humidity", "%", "measurement"),
            "battery": ("battery", "%", "measurement"),
            "slope": (None, "%", "measurement"),
            "total": ("energy", "kWh", "total_increasing"),
            "plain": (None, None, "measurement"),
            "odd": (None, "furlong", "measurement"),
        }
        # What comes later is added; what is known already costs nothing.
        await store.graft([reading(True, "door"), reading("ok", "state"), reading(22, unit="C")])
        await until(lambda: seen.values() == [21.5, 22])
        assert len(seen.on(CONFIG)) == 2
        door, state = components()["door"], components()["state"]
        assert (door["platform"], door["payload_on"]) == ("binary_sensor", "True")
        assert (state["platform"], "state_class" in state) == ("sensor", False)
        assert len(components()) == 9
    # The next start knows them, before there is any reading.
    async with publishing(store, broker, discovery="homeassistant"):
        await until(lambda: len(seen.on(CONFIG)) == 3)
        assert len(components()) == 9
        # Home Assistant starts.
        await seen.say("homeassistant/status", "offline")
        await seen.say("homeassistant/status", "online")
        await until(lambda: len(seen.on(CONFIG)) == 4)
        assert seen.on(CONFIG)[3] == seen.on(CONFIG)[2]


async def test_a_device_that_is_taken_out(
    store: Store, broker: Mosquitto, seen: Listener, tmp_path: Path
) -> None:
    async def forgotten() -> bool:
        found = await store.get_local("telemetry:site")
        return found is not None and "cellar" not in found[1]

    devices = ["greenhouse", "cellar"]
    async with publishing(store, broker, discovery="homeassistant", devices=devices):
        await store.graft([reading(1), reading(2, device="cellar")])
        await until(lambda: len(seen.values()) + len(seen.values(device="cellar")) == 2)
    async with publishing(store, broker, discovery="homeassistant"):
        await until(lambda: seen.on("homeassistant/device/gateway-1/cellar/config")[-1] == "")
        await until(lambda: seen.on("edge-readings/gateway-1/cellar/temperature")[-1] == "")
        await until(forgotten)
    async with publishing(store, broker):
        await until(lambda: seen.on(CONFIG)[-1] == "")
        await store.graft([reading(3)])
        await until(lambda: seen.values()[-1] == 3)
    # What a newcomer sees is what is retained.
    async with Listener(broker, tmp_path / "newcomer") as newcomer:
        await until(lambda: len(newcomer.lines) == 2)
        assert newcomer.values() == [3]
    assert seen.on(CONFIG).count("") == 1


async def test_ever_new_sensors(store: Store, broker: Mosquitto, seen: Listener) -> None:
    async with publishing(store, broker, discovery="homeassistant") as publisher:
        await store.graft([reading(number, f"s{number}") for number in range(600)])
        await store.graft([reading(-1, "s0")])
        await until(lambda: seen.values("s0") == [0, -1])
        await until(lambda: (publisher.published, publisher.skipped) == (501, 100))
        assert len(json.loads(seen.on(CONFIG)[-1])["components"]) == 500
