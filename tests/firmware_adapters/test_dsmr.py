"""DSMR P1: telegrams of real meters, times, and damage."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Adapter, Reading, SettingsError, create
from firmware_adapters.dsmr import MAX_TELEGRAM
from tests.firmware_adapters.captures import p1_telegrams
from tests.firmware_adapters.damage import Damage, damages
from tests.firmware_adapters.noise import kept, kinds, readings, survive


def crc16(data: bytes) -> int:
    """CRC-16/ARC bit by bit from its definition; its check value, for b"123456789", is 0xBB3D."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def telegram(*lines: str) -> bytes:
    body = "".join(f"{line}\r\n" for line in ("/KFM5KAIFA-METER", "", *lines)) + "!"
    return f"{body}{crc16(body.encode()):04X}\r\n".encode()


MINIMAL = telegram(
    "1-3:0.2.8(50)",
    "0-0:1.0.0(170701120000S)",
    "0-0:96.1.1(4B384547303034303436333935353037)",
    "1-0:1.8.1(001581.123*kWh)",
    "1-0:1.7.0(02.027*kW)",
    "0-1:24.1.0(003)",
    "0-1:24.2.1(161129200000W)(00981.443*m3)",
)


def make(version: str = "5") -> Adapter:
    return create("dsmr", {"version": version})


def receive(stream: bytes, version: str = "5") -> list[Any]:
    return make(version).receive(b"\r\n" + stream)


def test_values_units_and_times() -> None:
    assert crc16(b"123456789") == 0xBB3D
    meter = "2017-07-01T10:00:00Z"  # summer time
    assert receive(MINIMAL) == [
        Reading("electricity_used_tariff_1", 1581.123, "kWh", meter),
        Reading("current_electricity_usage", 2.027, "kW", meter),
        Reading("mbus_1_meter_reading", 981.443, "m3", "2016-11-29T19:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("171029023000S", "2017-10-29T00:30:00Z"),
        ("171029023000W", "2017-10-29T01:30:00Z"),  # the same hour again, in winter time
        ("170229023000W", None),
        ("170701120000X", None),
        ("", None),
    ],
)
def test_times(time: str, told: str | None) -> None:
    items = receive(telegram(f"0-0:1.0.0({time})", "1-0:1.7.0(02.027*kW)"))
    assert [reading.time for reading in readings(items)] == [told]


@pytest.mark.parametrize(
    ("name", "version", "count", "some"),
    [
        ("TELEGRAM_V2_2", "2.2", 8, {"mbus_1_gas_meter_reading": (1.001, "m3", None)}),
        ("TELEGRAM_V3", "2.2", 8, {"electricity_used_tariff_1": (12345.678, "kWh", None)}),
        (
            "TELEGRAM_V4_2",
            "4",
            24,
            {
                "electricity_used_tariff_1": (1581.123, "kWh", "2016-11-13T19:57:57Z"),
                "short_power_failure_count": (15, None, "2016-11-13T19:57:57Z"),
                "mbus_1_hourly_gas_meter_reading": (981.443, "m3", "2016-11-29T19:00:00Z"),
            },
        ),
        (
            "TELEGRAM_V5",
            "5",
            27,
            {
                "instantaneous_voltage_l1": (230.0, "V", "2017-01-02T18:20:02Z"),
                "mbus_1_meter_reading": (0.107, "m3", "2017-01-02T15:10:05Z"),
            },
        ),
    ],
)
def test_telegrams_of_real_meters(
    name: str, version: str, count: int, some: dict[str, Any]
) -> None:
    content = p1_telegrams()[name]
    items = receive(content + content, version)
    assert kinds(items) == []
    half = len(items) // 2
    assert items[:half] == items[half:]
    found = {reading.sensor: (reading.value, reading.unit, reading.time) for reading in items}
    assert len(found) == half == count
    assert found.items() >= some.items()


def test_the_first_telegram_after_opening_may_be_cut() -> None:
    adapter = make()
    for _ in range(2):
        assert kinds(adapter.receive(MINIMAL[30:])) == ["cut-frame"]
        assert adapter.receive(MINIMAL) == receive(MINIMAL)
        adapter.receive(MINIMAL[:100])
        adapter.reset()
    assert adapter.receive(MINIMAL) == receive(MINIMAL)
    # The slash shows it where there is no CRC, too.
    old = make("2.2")
    plain = b"/ISk5\r\n\r\n1-0:1.7.0(0001.01*kW)\r\n!\r\n"
    assert kinds(old.receive(plain[1:] + plain)) == ["cut-frame"]
    assert len(readings(old.receive(plain))) == 1
    assert kinds(old.receive(plain.replace(b"kW", b"k!"))) == ["malformed"]


def test_damage_is_told_apart() -> None:
    assert kinds(receive(MINIMAL.replace(b"1581", b"1582"))) == ["bad-crc"]
    assert kinds(receive(MINIMAL.replace(b"\r\n!", b"\r\nx!"))) == []
    assert kinds(receive(re.sub(rb"![0-9A-F]{4}", b"!", MINIMAL))) == ["malformed"]
    assert kinds(receive(telegram("1-0:1.7.0(zz*kW)"))) == ["malformed"]
    assert kinds(receive(telegram("1-0:1.7.0()"))) == ["heartbeat"]
    assert receive(MINIMAL[:80] + MINIMAL) == receive(MINIMAL)


def test_a_stream_without_an_end_is_not_kept() -> None:
    adapter = make()
    for _ in range(1000):
        items = adapter.receive(b"1-0:1.7.0(02.027*kW)\r\n")
        assert set(kinds(items)) <= {"too-long"}
        assert kept(adapter) <= MAX_TELEGRAM


@given(st.lists(st.integers(0, 99_999), min_size=1, max_size=3), damages(), st.data())
def test_damage(watts: list[int], damage: Damage, data: st.DataObject) -> None:
    sent = [
        telegram("0-0:1.0.0(170701120000S)", f"1-0:1.7.0({number / 1000:06.3f}*kW)")
        for number in watts
    ]
    stream = damage(b"\r\n" + b"".join(sent))
    # One damaged telegram in 65,536 passes: what counts is that it was the CRC that was deceived.
    bodies = {one[:-6] for one in sent}
    deceived = any(
        match[1] not in bodies and crc16(match[1]) == int(match[2], 16)
        for start in [match.start() for match in re.finditer(b"/", stream)]
        for match in [re.match(rb"(/[^!]*!)([0-9A-Fa-f]{4})", stream[start:])]
        if match is not None
    )
    items = survive(make, stream, data, MAX_TELEGRAM)
    if not deceived:
        good = [reading for one in sent for reading in readings(receive(one))]
        assert all(reading in good for reading in readings(items))


LINES = st.sampled_from(
    [
        "0-0:1.0.0(1)",
        "0-1:24.2.1(161129200000W)(00981.443*m3)",
        "0-1:24.2.1(x)(y)",
        "0-9:24.2.1()(1)",
        "1-0:1.7.0(NaN*kW)",
        "1-0:1.7.0(1*2*3)",
        "1-0:99.97.0(9)(0-0:96.7.19)",
        "0-0:98.1.0(2)(1-0:1.6.0)(1-0:1.6.0)(230201000000W)",
    ]
)


@given(st.lists(LINES, max_size=6), st.binary(max_size=300), st.data())
def test_anything_may_arrive(lines: list[str], noise: bytes, data: st.DataObject) -> None:
    survive(make, noise + b"\r\n" + telegram(*lines), data, MAX_TELEGRAM)
    for version in ("4", "belgium"):
        survive(lambda v=version: make(v), telegram(*lines), data, MAX_TELEGRAM)  # type: ignore[misc]


def test_settings_and_commands() -> None:
    with pytest.raises(SettingsError, match="version"):
        make("6")
    with pytest.raises(ValueError, match="no commands"):
        make().encode({"rate": 1})
