"""The firmware for a micro:bit, under the real MicroPython on an emulated board. The clock of that
runs slower than ours whenever the machine has something else to do."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import serial

from firmware_adapters import CborFrames
from tests.agents import edge_agent
from tests.devices.microbit import Microbit
from tests.devices.site import Site
from tests.patience import PATIENCE, when_true

_LATE = 3.0
"""Seconds from when a reading is taken until it is seen here. A busy machine may need longer, but
there the board's clock loses more than that."""


def test_a_microbit_is_flashed_and_recorded(tmp_path: Path) -> None:
    """Its readings have the gateway's times, and outlast a kill of the agent."""
    with Microbit(tmp_path / "port") as board:
        seconds = ("--seconds", PATIENCE / 2)
        flashed = edge_agent("flash", "microbit", "--port", board.port, *seconds, "--json")
        assert flashed.status == 0, flashed.stderr
        assert flashed.json()["reading"]["sensor"] in ("button", "pin0")
        with serial.Serial(str(board.port), 115200) as line:
            # No wish that reaches it from afar is to end it, though a command of that name does.
            line.write(CborFrames().command(1, {"stop": True}))
            line.write(CborFrames().encode({"interval_ms": 700}))
        site = Site(tmp_path, board)
        site.start()
        try:
            site.wait_for(6)
            assert_punctual(site)
            site.kill()
            time.sleep(2)  # it holds 32 readings, 22 s
            site.start()
            site.wait_for(6)
            assert_punctual(site)
            device = site.device()
            site.stop()
        finally:
            site.kill()
    assert (device["missing"], device["dropped"]) == (0, 0)
    assert device["events"] == {"settings": 1}  # the agent has asked, and nothing was refused
    readings = site.readings()
    account = Counter((each["boot"], each["sequence"], each["sensor"]) for each in readings)
    (boot,) = {each["boot"] for each in readings}
    last = max(each["sequence"] for each in readings)
    assert account == dict.fromkeys(
        ((boot, n, sensor) for n in range(last + 1) for sensor in ("button", "pin0")), 1
    )
    first, newest = ends(readings)
    ours = (taken(newest) - taken(first)) * 1000
    print(f"the board counted {newest['uptime_ms'] - first['uptime_ms']} ms in {ours:.0f} of ours")


def ends(readings: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first and the last of one sensor; their times are in the order of their numbers."""
    ordered = sorted(
        (each for each in readings if each["sensor"] == "pin0"), key=lambda each: each["sequence"]
    )
    # What was held had an age by the board's clock, which may be wrong by what that has lost.
    wrong = max(1.0, lost(ordered[0], ordered[-1]))
    assert all(taken(one) - wrong < taken(other) for one, other in pairwise(ordered))
    return ordered[0], ordered[-1]


def lost(first: dict[str, Any], newest: dict[str, Any]) -> float:
    """Seconds that the board's clock has lost since the first reading, at the most."""
    return time.time() - taken(first) - (newest["uptime_ms"] - first["uptime_ms"]) / 1000


def assert_punctual(site: Site[Microbit]) -> None:
    """What is new was taken just now: the board's clock, however slow, decides no time."""
    before = ends(site.readings())[1]["sequence"]

    def punctual() -> bool:
        first, newest = ends(site.readings())
        late = time.time() - taken(newest)
        assert late >= 0
        # By the board's clock it would be late by all that that has lost.
        return newest["sequence"] > before and late < max(_LATE, lost(first, newest) / 2)

    when_true(punctual)


def taken(reading: dict[str, Any]) -> float:
    return datetime.fromisoformat(reading["time"]).timestamp()
