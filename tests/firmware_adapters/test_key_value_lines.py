"""Key=value lines: pairs, units, ranges, commands, and damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Adapter, Event, Reading, SettingsError, create
from firmware_adapters.key_value_lines import MAX_LINE
from tests.firmware_adapters.damage import Damage, damages
from tests.firmware_adapters.noise import kinds, readings, survive
from tests.firmware_adapters.test_csv_lines import checked

KEYS: list[dict[str, Any]] = [
    {"key": "T", "name": "temperature", "unit": "C", "min": -40, "max": 85},
    {"key": "H", "unit": "%", "type": "integer", "min": 0, "max": 100},
    {"key": "mode", "type": "text"},
]


def make(**settings: Any) -> Adapter:
    return create("key-value-lines", {"key": KEYS, **settings})


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        (b"T=21.5 H=40 mode=eco", {}),
        (b"mode=eco, H=40%; V=3.3, T=21.5C", {}),
        (b"H:40;T:21.5;mode:eco", {"assign": ":"}),
        (b"T=21.5 H=40 mode=eco*57", {"checksum": "xor"}),
    ],
)
def test_lines(line: bytes, settings: dict[str, Any]) -> None:
    assert set(make(**settings).receive(b"\n" + line + b"\r\n")) == {
        Reading("temperature", 21.5, "C"),
        Reading("H", 40, "%"),
        Reading("mode", "eco"),
    }


def test_a_line_without_values() -> None:
    assert make().receive(b"\nV=3.3\n") == [
        Event("heartbeat", "a line without a key that is recorded")
    ]
    assert kinds(make().receive(b"\nT= H=%\n")) == ["no-value", "no-value"]


@pytest.mark.parametrize(
    "line",
    [b"Booting...", b"T=21.5 H", b"=5", b"T=21.5 T=21.6", b"T=21.5V", b"T=90", b"H=4O", b"T=\xff"],
)
def test_damaged_lines(line: bytes) -> None:
    items = make().receive(b"\n" + line + b"\n")
    assert len(items) == 1
    assert kinds(items) in (["malformed"], ["noise"])


def test_the_first_line_after_opening_is_dropped() -> None:
    items = make().receive(b"T=1.5 H=40\nT=21.5\n")
    assert kinds(items) == ["cut-frame"]
    assert readings(items) == [Reading("temperature", 21.5, "C")]


LINES = st.builds("T={:.1f} H={}".format, st.floats(-40, 85), st.integers(0, 100))


@given(st.lists(LINES, min_size=1, max_size=8), damages(), st.data())
def test_damage(lines: list[str], damage: Damage, data: st.DataObject) -> None:
    """Without a check value a damaged number may pass, but no other than in its range."""
    stream = damage("\n".join(["", *lines, ""]).encode())
    for reading in readings(survive(make, stream, data, MAX_LINE)):
        if reading.sensor != "mode":
            low, high = (-40, 85) if reading.sensor == "temperature" else (0, 100)
            assert isinstance(reading.value, float | int)
            assert low <= reading.value <= high
    protected = damage(b"\n" + b"".join(checked(line.encode()) for line in lines))
    survive(lambda: make(checksum="xor"), protected, data, MAX_LINE)


@given(st.binary(max_size=4 * MAX_LINE), st.data())
def test_anything_may_arrive(stream: bytes, data: st.DataObject) -> None:
    survive(make, stream, data, MAX_LINE)


def test_commands() -> None:
    command = {"interval": 500, "on": True, "mode": "eco", "level": -1.5}
    assert make().encode(command) == b"interval=500 on=true mode=eco level=-1.5\n"
    assert make(assign=":").encode({"a": 1}) == b"a:1\n"


@pytest.mark.parametrize(
    "command",
    [
        {"a": None},
        {"a": [1]},
        {"a": {"b": 1}},
        {"a": ""},
        {"": 1},
        {"a b": 1},
        {"a": "x=y"},
        {"a": "x\ny"},
        {"a": "ü"},
        {"a": "\x1b"},
        {"a": "x" * MAX_LINE},
        {"a": float("nan")},
    ],
)
def test_commands_that_cannot_be_sent(command: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make().encode(command)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "key"),
        ({"key": []}, "1 to 64"),
        ({"key": [{"name": "a"}]}, "key"),
        ({"key": [{"key": "a"}, {"key": "a", "name": "b"}]}, "each needs its own"),
        ({"key": [{"key": "a"}, {"key": "b", "name": "a"}]}, "each needs its own"),
        ({"key": KEYS, "assign": "->"}, "assign"),
        ({"key": KEYS, "checksum": "crc"}, "checksum"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        create("key-value-lines", settings)
