"""What Home Assistant is told of devices and their sensors; pure.

Source: Home Assistant documentation, "MQTT", sections "MQTT Discovery", "Device discovery payload"
and "Using Availability topics"; "Sensor", section "Device class".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from agent import __version__
from agent.peers.mqtt_topics import Topics
from agent.telemetry.readings import Value

DISCOVERY_PREFIX: Final = "homeassistant"
"""Where Home Assistant looks for devices, unless it is told to look elsewhere."""

BIRTH: Final = b"online"
"""What Home Assistant publishes on `birth_topic` when it has started."""

_UNITS: Final[dict[str, tuple[str, str | None]]] = {
    # As devices write them: as Home Assistant does, and the device class where there is only one.
    "C": ("°C", "temperature"),
    "°C": ("°C", "temperature"),
    "degC": ("°C", "temperature"),
    "°F": ("°F", "temperature"),
    "degF": ("°F", "temperature"),
    "K": ("K", "temperature"),
    "Pa": ("Pa", "pressure"),
    "hPa": ("hPa", "pressure"),
    "kPa": ("kPa", "pressure"),
    "mbar": ("mbar", "pressure"),
    "bar": ("bar", "pressure"),
    "lx": ("lx", "illuminance"),
    "lux": ("lx", "illuminance"),
    "W/m2": ("W/m²", "irradiance"),
    "W/m²": ("W/m²", "irradiance"),
    "V": ("V", "voltage"),
    "mV": ("mV", "voltage"),
    "A": ("A", "current"),
    "mA": ("mA", "current"),
    "W": ("W", "power"),
    "kW": ("kW", "power"),
    "VA": ("VA", "apparent_power"),
    "Wh": ("Wh", "energy"),
    "kWh": ("kWh", "energy"),
    "Hz": ("Hz", "frequency"),
    "dBm": ("dBm", "signal_strength"),
    "mm": ("mm", "distance"),
    "cm": ("cm", "distance"),
    "m": ("m", "distance"),
    "km": ("km", "distance"),
    "ms": ("ms", "duration"),
    "s": ("s", "duration"),
    "min": ("min", "duration"),
    "h": ("h", "duration"),
    "g": ("g", "weight"),
    "kg": ("kg", "weight"),
    "m/s": ("m/s", "speed"),
    "km/h": ("km/h", "speed"),
    "ug/m3": ("µg/m³", None),
    "µg/m³": ("µg/m³", None),
}

_NAMED: Final[tuple[tuple[str, str, str], ...]] = (
    # A unit that several classes share: a part of the sensor's name decides.
    ("%", "humid", "humidity"),
    ("%", "batter", "battery"),
    ("%", "moist", "moisture"),
    ("ppm", "co2", "carbon_dioxide"),
    ("µg/m³", "pm10", "pm10"),
    ("µg/m³", "pm2", "pm25"),
    ("µg/m³", "pm1", "pm1"),
)

_COUNTED: Final = frozenset({"energy"})
"""Classes whose values only grow; Home Assistant takes a smaller one for a new meter."""


class Sensor(msgspec.Struct, frozen=True):
    """What is known of a sensor."""

    kind: Literal["number", "text", "switch"]
    unit: str | None = None


def sensor_of(value: Value, unit: str | None) -> Sensor:
    """What a reading tells of its sensor."""
    if isinstance(value, bool):
        return Sensor("switch")
    return Sensor("text") if isinstance(value, str) else Sensor("number", unit)


def birth_topic(prefix: str) -> str:
    return f"{prefix}/status"


def config_topic(prefix: str, gateway: str, device: str) -> str:
    """Where a device's configuration is retained; an empty message there removes the device."""
    return f"{prefix}/device/{_id(gateway)}/{_id(device)}/config"


def device_config(
    topics: Topics, gateway: str, device: str, sensors: Mapping[str, Sensor], *, qos: int
) -> dict[str, Any]:
    """The configuration of a device, with its sensors by name; plain JSON."""
    return {
        "device": {"identifiers": [f"{_id(gateway)}_{_id(device)}"], "name": device},
        "origin": {"name": "edge-sync-agent", "sw_version": __version__},
        "availability": [
            {"topic": topics.status(gateway), "value_template": "{{ value_json.status }}"}
        ],
        "qos": qos,
        "components": {
            _id(name): {
                **_component(name, sensor),
                "name": name,
                "unique_id": f"{_id(gateway)}_{_id(device)}_{_id(name)}",
                "state_topic": topics.reading(gateway, device, name),
                "value_template": "{{ value_json.value }}",
            }
            for name, sensor in sorted(sensors.items())
        },
    }


def _component(name: str, sensor: Sensor) -> dict[str, Any]:
    if sensor.kind == "switch":
        # As the template renders JSON's true and false.
        return {"platform": "binary_sensor", "payload_on": "True", "payload_off": "False"}
    if sensor.kind == "text":
        return {"platform": "sensor"}
    unit, found = _UNITS.get(sensor.unit or "", (sensor.unit, None))
    lower = name.lower()
    for shared, part, named in _NAMED:
        if found is None and unit == shared and part in lower:
            found = named
    component = {"platform": "sensor", "state_class": "measurement"}
    if found in _COUNTED:
        component["state_class"] = "total_increasing"
    if unit is not None:
        component["unit_of_measurement"] = unit
    if found is not None:
        component["device_class"] = found
    return component


def _id(name: str) -> str:
    """Any name as what discovery allows, letters, digits, `_` and `-`; no two are the same."""
    return re.sub(r"[^A-Za-z0-9-]", lambda found: _escaped(found[0]), name)


def _escaped(letter: str) -> str:
    return "".join(f"_{byte:02x}" for byte in letter.encode())
