"""The reference firmware on an AVR and under MicroPython, with a real agent that comes and goes:
what the device holds until it is acknowledged is stored once, whatever happens in between."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from firmware_adapters import CborFrames
from tests.devices.building import avr_firmware, simulated_board
from tests.devices.cable import Board
from tests.devices.micropython import FIRMWARE, micropython, witnesses
from tests.devices.site import Site
from tests.patience import when_true

MOST_FLASH = 8192
MOST_RAM = 1024


@pytest.fixture(scope="module")
def avr(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    folder = tmp_path_factory.mktemp("avr")
    return [simulated_board(folder), avr_firmware(folder / "build")[0]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "board.log"


@pytest.fixture
def avr_site(tmp_path: Path, log: Path, avr: list[str | Path]) -> Iterator[Site[Board]]:
    with Board(tmp_path / "port", log, avr) as board:
        site = Site(tmp_path, board)
        yield site
        site.kill()


@pytest.fixture
def micropython_site(tmp_path: Path, log: Path) -> Iterator[Site[Board]]:
    with Board(tmp_path / "port", log, [micropython(), FIRMWARE]) as board:
        site = Site(tmp_path, board)
        yield site
        site.kill()


def live_through_it(site: Site[Board]) -> float:
    """Noise, an unplugged cable, a killed agent: each for less time than the ring lasts, on a busy
    machine too. Returns for how many seconds the cable was unplugged."""
    chance = random.Random(1)

    def flip_a_bit(data: bytes) -> bytes:
        damaged = bytearray(data)
        if chance.random() < 0.3:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        return bytes(damaged)

    site.start()
    site.board.tell(CborFrames().encode({"interval_ms": 120}))
    site.wait_for(5)
    site.board.noise = flip_a_bit
    time.sleep(1.5)
    site.board.noise = bytes
    site.wait_for(5)
    site.board.tell(CborFrames().encode({"interval_ms": 1000}))  # so the ring lasts for 40 s
    site.board.unplug()
    unplugged = time.monotonic()
    time.sleep(8)
    unplugged = time.monotonic() - unplugged
    site.board.plug_in()
    site.wait_for(8)
    site.kill()
    time.sleep(0.5)
    site.start()
    site.wait_for(3)
    site.board.tell(CborFrames().encode({"interval_ms": 120}))
    site.wait_for(15)
    assert site.device()["missing"] == 0
    site.stop()
    return unplugged


def test_an_avr_loses_nothing_as_long_as_its_ring_lasts(avr_site: Site[Board]) -> None:
    live_through_it(avr_site)
    readings = avr_site.readings()
    account = Counter((each["boot"], each["sequence"], each["sensor"]) for each in readings)
    (boot,) = {boot for boot, _, _ in account}
    last = max(sequence for _, sequence, _ in account)
    expected = {(boot, n, sensor) for n in range(last + 1) for sensor in ("a0", "a1")}
    assert account == dict.fromkeys(expected, 1)
    # Each value was taken when the reading says, however late it came.
    for reading in readings:
        assert reading["unit"] == "mV"
        voltage = {"a0": reading["uptime_ms"] // 16 % 4096, "a1": 2500}[reading["sensor"]]
        assert reading["value"] == pytest.approx(voltage, abs=8)


def test_micropython_loses_nothing_as_long_as_its_ring_lasts(
    micropython_site: Site, log: Path
) -> None:
    unplugged = live_through_it(micropython_site)
    account = Counter(
        (each["boot"], each["sequence"], each["sensor"], repr(each["value"]))
        for each in micropython_site.readings()
    )
    last = max(sequence for _, sequence, _, _ in account)
    taken = {
        (witness.boot, witness.sequence, sensor, value)
        for witness in witnesses(log)
        for sensor, value in witness.values.items()
        if witness.sequence <= last
    }
    assert account == dict.fromkeys(taken, 1)
    # The times are those of the device, however late a reading came.
    started = [
        datetime.fromisoformat(each["time"]).timestamp() - each["uptime_ms"] / 1000
        for each in micropython_site.readings()
    ]
    print(f"{max(started) - min(started):.3f} s")
    # Without the age of readings it would be as long as the cable was unplugged.
    assert max(started) - min(started) < 0.8 * unplugged


@pytest.mark.parametrize(("kind", "interval_ms"), [("avr", 20), ("micropython", 10)])
def test_what_a_full_ring_drops_is_accounted_for(
    kind: str, interval_ms: int, request: pytest.FixtureRequest
) -> None:
    site: Site[Board] = request.getfixturevalue(f"{kind}_site")
    site.start()
    site.wait_for(1)
    site.board.tell(CborFrames().encode({"interval_ms": interval_ms}))

    def has_dropped() -> Any:
        site.board.unplug()
        time.sleep(1.8)  # the ring lasts 0.8 or 1.3 s, and longer for a board that gets no turn
        site.board.plug_in()
        stored = len(site.readings())
        when_true(lambda: len(site.readings()) > stored)
        return site.device()["missing"]

    when_true(has_dropped)
    # At rest, so that everything that it holds arrives.
    site.board.tell(CborFrames().encode({"interval_ms": 86_400_000}))
    device = site.at_rest()
    site.stop()
    assert 0 < device["missing"] <= device["dropped"]
    account = Counter((each["sequence"], each["sensor"]) for each in site.readings())
    assert set(account.values()) == {1}
    frames = sorted({sequence for sequence, _ in account})
    assert sum(after - before - 1 for before, after in pairwise(frames)) == device["missing"]


def test_a_reset_starts_another_boot_with_the_same_settings(avr_site: Site[Board]) -> None:
    avr_site.start()
    avr_site.board.tell(CborFrames().encode({"interval_ms": 50}))
    avr_site.wait_for(10)
    avr_site.board.reset()
    when_true(lambda: avr_site.device()["restarts"])
    first = avr_site.readings()[0]["boot"]

    def second() -> list[dict[str, Any]]:
        return [each for each in avr_site.readings() if each["boot"] != first]

    when_true(lambda: len(second()) >= 40)
    assert len({each["boot"] for each in second()}) == 1
    taken = [each["uptime_ms"] for each in second()[:40]]
    assert max(taken) - min(taken) < 10_000  # at 1000 ms, it would be 19 s
    avr_site.stop()


def test_the_firmware_for_the_avr_is_small(tmp_path: Path, avr: list[str | Path]) -> None:
    """The build says how much it takes; the simulator, how deep the stack got."""
    _, printed = avr_firmware(tmp_path / "build")
    flash, ram = map(int, re.findall(r"^(?:flash|RAM) +(\d+) of at most", printed, re.MULTILINE))
    assert flash <= MOST_FLASH
    assert "warning" not in printed
    log = tmp_path / "log"
    with Board(tmp_path / "port", log, avr) as board:
        board.tell(CborFrames().encode({"interval_ms": 20, "ack": [1, 2, 3, 4], "paint": [{}]}))
        board.tell(CborFrames().command(2**32 - 1, {"interval_ms": 1, "x": "y"}))
        time.sleep(1)
    (stack,) = map(int, re.findall(r"^stack (\d+)$", log.read_text(), re.MULTILINE))
    print(f"flash {flash}, RAM {ram}, stack {stack}")
    assert ram + stack <= MOST_RAM
