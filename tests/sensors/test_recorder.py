"""From bytes on the wire to documents in the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import StoreWriteError
from agent.sensors.recorder import Recorder
from agent.store.store import Store
from firmware_adapters import create


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "edge.sqlite")
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def recording(store: Store, device: str = "dev") -> AsyncIterator[Recorder]:
    recorder = Recorder(store, device, create("json-lines"))
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    try:
        yield recorder
        async with asyncio.timeout(10):
            await recorder.drain()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def line(**members: Any) -> bytes:
    return json.dumps(members).encode() + b"\n"


def rows(store: Store, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        return db.execute(sql).fetchall()


async def readings(store: Store) -> list[Any]:
    sql = "SELECT sensor, value, unit, sequence, time, id FROM readings ORDER BY rowid"
    return await asyncio.to_thread(rows, store, sql.replace("ORDER BY rowid", "ORDER BY id"))


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
    assert recorder.sequence.repeated == 4
    # The next process knows it too.
    async with recording(store) as again:
        await again.feed(frame + line(temperature=1, humidity=2, seq=3, boot="b"))
    assert len(await readings(store)) == 4
    assert (again.sequence.repeated, again.sequence.gaps, again.sequence.lost) == (6, 1, 1)


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
    assert (recorder.sequence.gaps, recorder.sequence.last) == (0, 4)


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
    assert recorder.sequence.repeated == 0


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
    async with asyncio.timeout(10):
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
    await store.delete_local("device:dev", "0-1")
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=2, seq=2, boot="b"))
    assert len(await readings(store)) == 2
    await store.put_local("device:dev", "0-1", '{"boot":[]}')
    async with recording(store) as recorder:
        await recorder.feed(line(sensor="t", value=3, seq=3, boot="b"))
    assert len(await readings(store)) == 3
