"""Readings with the device's own time: what comes again is stored once, whatever the adapter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.sensors.recorder import Recorder
from agent.store.store import Store
from firmware_adapters import create
from tests.cli.helpers import query
from tests.firmware_adapters.test_dsmr import telegram
from tests.firmware_adapters.test_nmea import RMC, sentence
from tests.patience import PATIENCE

GAS = "0-1:24.2.1(161129200000W)(00981.443*m3)"


def p1(second: int, kilowatts: str) -> bytes:
    return telegram(f"0-0:1.0.0(1707011200{second:02d}S)", f"1-0:1.7.0({kilowatts}*kW)", GAS)


@pytest.mark.parametrize(
    ("adapter", "settings", "stream", "expected"),
    [
        (
            "dsmr",
            {"version": "5"},
            p1(1, "00.100") + p1(2, "00.100") + p1(2, "00.100") + p1(3, "00.200"),
            [
                ("current_electricity_usage", "2017-07-01T10:00:01Z", 0.1),
                ("current_electricity_usage", "2017-07-01T10:00:02Z", 0.1),
                ("current_electricity_usage", "2017-07-01T10:00:03Z", 0.2),
                # Each telegram has the last reading of the gas meter, which is an hour's.
                ("mbus_1_meter_reading", "2016-11-29T19:00:00Z", 981.443),
            ],
        ),
        (
            "nmea",
            {},
            b"\n" + (sentence(RMC) + sentence(RMC)) * 2,
            [
                ("RMC.cog", "1994-03-23T12:35:19.000Z", 84.4),
                ("RMC.lat", "1994-03-23T12:35:19.000Z", pytest.approx(48.1173)),
                ("RMC.lon", "1994-03-23T12:35:19.000Z", pytest.approx(-11.516667)),
                ("RMC.mv", "1994-03-23T12:35:19.000Z", 3.1),
                ("RMC.spd", "1994-03-23T12:35:19.000Z", 22.4),
            ],
        ),
    ],
)
async def test_what_comes_again_is_stored_once(
    tmp_path: Path,
    adapter: str,
    settings: Mapping[str, Any],
    stream: bytes,
    expected: list[tuple[str, str, float]],
) -> None:
    store = await Store.open(tmp_path / "edge.sqlite")
    recorder = Recorder(store, "dev", create(adapter, settings))
    task = asyncio.create_task(recorder.run())
    for start in range(0, len(stream), 50):
        await recorder.feed(stream[start : start + 50])
    async with asyncio.timeout(PATIENCE):
        await recorder.drain()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    sql = "SELECT sensor, time, value FROM readings ORDER BY sensor, time"
    assert await asyncio.to_thread(query, store.path, sql) == expected
    await store.close()
