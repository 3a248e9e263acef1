"""From bytes on the wire to documents in the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from agent.errors import StoreWriteError
from agent.sensors.recorder import Recorder
from agent.store.store import Store
from firmware_adapters import create
from tests.patience import PATIENCE
from tests.sensors.recording import line, readings, recording, rows


async def test_a_reading_becomes_a_document(store: Store) -> None:
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=21.5, unit="C", seq=7, boot="b1"))
    ((sensor, value, unit, sequence, time, id),) = await readings(store)
    assert (sensor, value, unit, sequence) == ("t", 21.5, "C", 7)
    assert id == f"dev:t:{time}:0000000007"
    assert time.endswith("Z")
    stats = recorder.sensors["t"]
    assert (stats.readings, stats.last_value, stats.unit) == (1, 21.5, "C")
    assert stats.rate() > 0


async def test_a_device_that_repeats_itself_makes_no_duplicate(store: Store) -> None:
    frame = line(temperature=1, humidity=2, seq=1, boot="b")
    async with recording(store) as recorder:
        await recorder.feed(frame + frame)
        await recorder.drain()
        await recorder.feed(frame)
    assert len(await readings(store)) == 2
    assert recorder.state.repeated == 4
    # The next process knows it too.
    async with recording(store) as again:
        await again.feed(frame + line(temperature=1, humidity=2, seq=3, boot="b"))
    assert len(await readings(store)) == 4
    assert (again.state.repeated, again.state.gaps, again.state.lost) == (6, 1, 1)


async def test_the_time_of_a_device_makes_repeats_harmless_without_numbers(store: Store) -> None:
    frame = line(sensor="t", value=1, time="2026-01-01T00:00:00Z")
    other = line(sensor="t", value=2, time="2026-01-01T00:00:00Z")
    async with recording(store) as recorder:
        await recorder.feed(frame + frame + other)
        await recorder.drain()
        await recorder.feed(frame)
    found = await readings(store)
    assert sorted(value for _, value, *_ in found) == [1, 2]
    assert {time for *_, time, _ in found} == {"2026-01-01T00:00:00Z"}


async def test_the_age_of_a_reading_counts(store: Store) -> None:
    before = time.time()
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=1, seq=9, boot=1, age_ms=50))
        await recorder.feed(line(sensor="t", value=2, seq=2, boot=1, age_ms=3_600_000))
        await recorder.feed(line(sensor="t", value=3, age_ms=7_200_000))
        await recorder.feed(line(sensor="t", value=4, time="2026-01-01T00:00:00Z", age_ms=5))
        await recorder.feed(line(sensor="t", value=5, seq=3, boot=1, age_ms=2**32))
    after = time.time()
    ages = {}
    for _, value, _, _, at, _ in await readings(store):
        taken = datetime.fromisoformat(at).timestamp()
        ages[value] = (before - taken - 0.001, after - taken + 0.001)
    assert ages.keys() == {1, 2, 3, 4}
    for value, age in ((1, 0.05), (2, 3600), (3, 7200)):
        assert ages[value][0] < age < ages[value][1]
    assert ages[4][0] > 60


async def test_equal_values_without_time_or_number_are_all_kept(store: Store) -> None:
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=1) * 50)
    assert len(await readings(store)) == 50


async def test_frames_without_readings_are_not_missing(store: Store) -> None:
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=1, seq=1, boot="b"))
        await recorder.feed(line(seq=2, boot="b") + line(sensor="t", value=None, seq=3, boot="b"))
        await recorder.feed(line(sensor="t", value=2, seq=4, boot="b"))
    assert len(await readings(store)) == 2
    assert recorder.events == {"heartbeat": 1, "no-value": 1}
    assert (recorder.state.gaps, recorder.state.last) == (0, 4)


async def test_gaps_and_errors_are_counted_for_each_sensor(store: Store) -> None:
    """`a` is in each frame, `b` in every other one, `c` in none that tells its value."""
    async with recording(store) as recorder:
        frames = [
            line(seq=n, boot="x", a=n, c=None, **({} if n % 2 else {"b": n})) for n in range(9)
        ]
        del frames[5]
        await recorder.feed(frames[0] + frames[1])
        await recorder.feed(b"".join(frames[2:]))
        await recorder.feed(line(seq=1, boot="x", a=1))  # a repeat
        await recorder.feed(line(seq=0, boot="y", a=5, b=[]) + line(seq=3, boot="y", a=6))
        await recorder.feed(line(seq=2, boot="y", a=6))  # what was missing comes late
        await recorder.feed(line(d=1))
    told = {name: (stats.gaps, stats.errors) for name, stats in recorder.sensors.items()}
    assert told == {"a": (2, 0), "b": (1, 1), "c": (None, 8), "d": (None, 0)}
    assert recorder.sensors["c"].readings == 0


async def test_noise_is_counted_and_the_rest_recorded(store: Store) -> None:
    async with recording(store) as recorder:
        await recorder.feed(b"\xff\xfe rubbish\n{half")
        recorder.port_opened()
        await recorder.feed(line(sensor="t", value=1))
    assert len(await readings(store)) == 1
    assert sum(recorder.events.values()) >= 1


async def test_a_store_that_fails_for_a_while_costs_no_reading(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sensors.recorder.Backoff", lambda *_: ShortBackoff())
    write = store.write
    failures = 3

    async def failing(operation: Callable[[Any], Any]) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreWriteError("the disk is full")
        return await write(operation)

    monkeypatch.setattr(store, "write", failing)
    async with recording(store) as recorder:
        for number in range(10):
            await recorder.feed(line(sensor="t", value=number, seq=number, boot=1))
            await asyncio.sleep(0.01)
    assert [value for _, value, *_ in await readings(store)] == list(range(10))
    assert recorder.last_error is None
    assert recorder.state.repeated == 0


class ShortBackoff:
    def next_delay(self) -> float:
        return 0.02


async def test_what_is_not_stored_yet_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sensors.recorder._MOST_WAITING", 5)
    recorder = Recorder(store, "dev", create("json-lines"))
    feeding = asyncio.create_task(recorder.feed(line(sensor="t", value=1) * 5))
    await asyncio.sleep(0.05)
    assert not feeding.done()
    running = asyncio.create_task(recorder.run())
    async with asyncio.timeout(PATIENCE):
        await feeding
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert len(await readings(store)) == 5


async def test_a_clock_that_starts_anew_with_each_boot_hides_no_reading(store: Store) -> None:
    async with recording(store) as recorder:
        for boot in range(3):
            await recorder.feed(
                line(sensor="t", value=boot, seq=0, boot=boot, time="2021-01-01T00:00:00Z")
            )
    assert sorted(value for _, value, *_ in await readings(store)) == [0, 1, 2]
    assert (await store.info()).conflict_count == 0


async def test_recording_goes_on_when_its_state_was_deleted(store: Store) -> None:
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=1, seq=1, boot="b"))
    await store.write(lambda transaction: transaction.locals.overwrite("device:dev", 1, None))
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=2, seq=2, boot="b"))
    assert len(await readings(store)) == 2
    await store.put_local("device:dev", "0-1", '{"boot":[]}')
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=3, seq=3, boot="b"))
    assert len(await readings(store)) == 3


class Acknowledged:
    """Takes acknowledgements, and looks at once what another connection finds in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.answers: list[Any] = []
        self.stored: list[list[int]] = []

    def send(self, data: bytes) -> None:
        self.answers.append(json.loads(data)["ack"])
        found = rows(self._store, "SELECT sequence FROM readings ORDER BY rowid")
        self.stored.append([sequence for (sequence,) in found])


BLOCKS = pytest.mark.may_block("looks into the store at the very moment")


@BLOCKS
async def test_what_is_durable_is_acknowledged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sensors.recorder.Backoff", lambda *_: ShortBackoff())
    monkeypatch.setattr("agent.sensors.recorder._MOST_AT_ONCE", 7)  # in the midst of a frame
    write = store.write
    failures = 3

    async def failing(operation: Callable[[Any], Any]) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreWriteError("the disk is full")
        return await write(operation)

    monkeypatch.setattr(store, "write", failing)
    wire = Acknowledged(store)
    async with recording(store, send=wire.send) as recorder:
        await recorder.feed(
            b"".join(line(a=n, b=n, c=n, seq=n, boot=5, ack_from=0) for n in range(20))
        )
    assert [answer[:2] for answer in wire.answers] == [[5, n] for n in (2, 5, 8, 11, 14, 17, 19)]
    for (_, last), stored in zip(wire.answers, wire.stored, strict=True):
        assert sorted(stored) == sorted([*range(last + 1)] * 3)


@BLOCKS
async def test_what_has_not_come_is_asked_for(store: Store) -> None:
    wire = Acknowledged(store)
    async with recording(store, send=wire.send) as recorder:
        for number in (7, 8, 11, 5, 6, 9, 10):
            await recorder.feed(line(t=1, seq=number, boot="b", ack_from=5))
            await recorder.drain()
    assert wire.answers == [
        ["b", 4, 5, 6],
        ["b", 4, 5, 6],
        ["b", 4, 5, 6],
        ["b", 5, 6, 6],
        ["b", 8, 9, 10],
        ["b", 9, 10, 10],
        ["b", 11],
    ]
    # The next process knows what is there, and what is repeated is acknowledged, too.
    async with recording(store, send=wire.send) as recorder:
        await recorder.feed(line(t=1, seq=6, boot="b", ack_from=5))
    assert wire.answers[-1] == ["b", 11]
    assert len(await readings(store)) == 7


@BLOCKS
async def test_a_device_that_does_not_ask_is_sent_nothing(store: Store) -> None:
    wire = Acknowledged(store)
    async with recording(store, send=wire.send) as recorder:
        await recorder.feed(line(t=1, seq=1, boot="b") + line(t=2, seq=5, boot="b"))
        await recorder.feed(line(t=1, seq=6, ack_from=5))  # without a boot id
        await recorder.feed(line(t=1, seq=6, boot="\N{PENGUIN}" * 17, ack_from=5))
        await recorder.drain()
        assert wire.answers == []
        # One that asks, and then another one on the same port.
        await recorder.feed(line(t=1, seq=7, boot="b", ack_from=7))
        await recorder.drain()
        assert wire.answers == [["b", 7]]
        await recorder.feed(line(t=2, seq=8, boot="b", ack_from=8))
        recorder.port_opened()
        await recorder.drain()
        await recorder.feed(line(t=2, seq=0, boot="c"))
    assert len(await readings(store)) == 7
    assert wire.answers == [["b", 7]]


@BLOCKS
async def test_frames_without_readings_are_acknowledged(store: Store) -> None:
    wire = Acknowledged(store)
    async with recording(store, send=wire.send) as recorder:
        await recorder.feed(
            line(seq=0, boot=1, ack_from=0) + line(log="up", seq=1, boot=1, ack_from=0)
        )
        await recorder.feed(line(t=[], seq=2, boot=1, ack_from=0))  # it would come for ever
        await recorder.feed(line(t=1, units=5, seq=3, boot=1, ack_from=0))
    assert wire.answers[-1] == [1, 3]
    assert recorder.events == {"heartbeat": 1, "log": 1, "malformed": 2}


async def test_with_an_interval_readings_are_written_together(store: Store) -> None:
    written = 0
    write = store.write

    async def counting(operation: Callable[[Any], Any]) -> Any:
        nonlocal written
        written += 1
        return await write(operation)

    store.write = counting  # type: ignore[method-assign]
    async with recording(store, interval=0.2) as recorder:
        started = time.monotonic()
        before = 0
        while not written:
            await recorder.feed(line(t=1))
            before += 1
            await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE):
            while len(await readings(store)) < before:
                await asyncio.sleep(0.01)
        # At a multiple of the interval, by the clock that all recorders share.
        assert int(time.monotonic() / 0.2) > int(started / 0.2)
        assert before == recorder.sensors["t"].readings
        assert written == 1
        # Whoever waits for it does not wait so long; nor does too much at once.
        await recorder.feed(line(t=1) * 2500)
        async with asyncio.timeout(PATIENCE):
            await recorder.drain()
    assert len(await readings(store)) == before + 2500
    assert written == 4
