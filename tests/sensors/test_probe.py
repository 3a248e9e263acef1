"""What probing finds, and that it sends nothing unless it is told to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cbor2
import pytest

from agent.errors import PortError
from agent.sensors.opening import LineFormat
from agent.sensors.probe import Attempt, Heard, attempts, listen, probe
from firmware_adapters import Event, Reading, create
from tests.sensors.uart import Uart, json_line

SECONDS = 0.5


async def found(
    port: str, *, ask: bool = False, tried: list[Attempt] | None = None
) -> tuple[Heard | None, int]:
    """What speaks, and after how many attempts."""
    steps: list[None] = []
    if tried is None:
        tried = await asyncio.to_thread(attempts, port, ask=ask)
    heard = await probe(port, tried, SECONDS, lambda: steps.append(None))
    return heard, len(steps)


def nmea(sentence: bytes) -> bytes:
    check = 0
    for byte in sentence:
        check ^= byte
    return b"$%s*%02X\r\n" % (sentence, check)


RMC = nmea(b"GPRMC,081530.00,A,4807.038,N,01131.000,E,022.4,084.4,010326,003.1,W")
NO_FIX = nmea(b"GPRMC,081530.00,V,,,,,,,010326,,")


@pytest.mark.parametrize(
    ("said", "baud", "adapter", "sensor", "attempt"),
    [
        (json_line, 115200, "json-lines", "temperature", 1),
        (json_line, 9600, "json-lines", "temperature", 2),
        (lambda _: RMC, 4800, "nmea", "RMC.lat", 4),
    ],
)
async def test_the_adapter_and_the_baud_rate_are_found(
    said: object, baud: int, adapter: str, sensor: str, attempt: int
) -> None:
    with Uart(said, baud) as device:  # type: ignore[arg-type]
        heard, steps = await found(device.path)
    assert heard is not None
    assert (heard.adapter, heard.baud, heard.line) == (adapter, baud, LineFormat())
    assert isinstance(heard.said, Reading)
    assert heard.said.sensor == sensor
    assert steps == attempt
    assert device.heard == b""


async def test_frames_with_a_check_are_known_among_all_adapters() -> None:
    frame = create("cbor-frames").encode({"r": {"t": 21.5}})
    with Uart(lambda _: frame) as device:
        heard, _ = await found(device.path)
    assert heard == Heard("cbor-frames", 115200, LineFormat(), Reading("t", 21.5))


async def test_a_device_without_a_value_is_known_all_the_same() -> None:
    with Uart(lambda _: NO_FIX) as device:
        heard, _ = await found(device.path)
    assert heard is not None
    assert heard.adapter == "nmea"
    assert isinstance(heard.said, Event)
    assert heard.said.kind == "no-value"


async def test_a_reading_is_worth_more_than_a_word() -> None:
    log, reading = ({"l": "hello"}, {"r": {"t": 1}})
    cbor = create("cbor-frames")
    with Uart(lambda number: cbor.encode(log if number % 5 else reading)) as device:
        heard, _ = await found(device.path)
    assert heard is not None
    assert heard.said == Reading("t", 1)


@pytest.mark.parametrize("said", [lambda _: b"", lambda number: cbor2.dumps(number) * 9])
async def test_nothing_that_is_understood(said: object) -> None:
    tried = (await asyncio.to_thread(attempts, "/dev/pts/x", ask=False))[:2]
    with Uart(said) as device:  # type: ignore[arg-type]
        heard, steps = await found(device.path, tried=tried)
    assert (heard, steps) == (None, 2)
    assert device.heard == b""


async def test_a_port_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="no such port"):
        await found(str(tmp_path / "gone"))


async def test_a_port_that_refuses_some_settings_is_tried_with_others() -> None:
    refused = Attempt(115200, LineFormat(rs485=True), {"json-lines": {}})
    good = Attempt(115200, LineFormat(), {"json-lines": {}})
    with Uart(json_line) as device:
        heard, steps = await found(device.path, tried=[refused, good])
    assert heard is not None
    assert steps == 2


def test_at_the_end_of_a_connection_there_is_no_baud_rate() -> None:
    (listening,) = attempts("socket://127.0.0.1:1", ask=False)
    assert {"json-lines", "cbor-frames"} <= listening.adapters.keys()
    asking = attempts("socket://127.0.0.1:1", ask=True)
    assert [set(attempt.adapters) for attempt in asking[1:]] == [{"mbus"}, {"modbus-rtu"}]


def test_what_listens_never_asks() -> None:
    for attempt in attempts("/dev/ttyS0", ask=False):
        assert not {"mbus", "modbus-rtu"} & attempt.adapters.keys()


async def test_a_modbus_slave_is_found_by_asking() -> None:
    question, answer = bytes.fromhex("010300000001840a"), bytes.fromhex("0103020017f84a")
    with Uart(lambda _: answer if question in device.heard else b"") as device:
        tried = await asyncio.to_thread(attempts, device.path, ask=True)
        asking = [attempt for attempt in tried if "modbus-rtu" in attempt.adapters]
        (at_115200,) = [attempt for attempt in asking if attempt.baud == 115200]
        heard = await listen(device.path, at_115200, 5)
    assert heard is not None
    assert heard.said == Reading("slave-1.holding-0", 23)
