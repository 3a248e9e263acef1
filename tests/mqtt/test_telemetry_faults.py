"""A broker that is away or does not read: what is published afterwards, and what is not."""

from __future__ import annotations

import asyncio
import json
import signal
import tracemalloc
from pathlib import Path

import pytest

from agent.store.store import Store
from agent.telemetry.publisher import Publisher
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.telemetry import (
    CONFIG,
    Listener,
    numbers,
    options,
    publishing,
    reading,
)
from tests.patience import until


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("backlog", [False, True])
async def test_a_broker_that_is_away(
    store: Store, broker: Mosquitto, tmp_path: Path, *, qos: int, backlog: bool
) -> None:
    more = {"qos": qos, "backlog": backlog, "discovery": "homeassistant"}
    async with publishing(store, broker, **more) as publisher:
        async with Listener(broker, tmp_path / "before") as before:
            await store.graft(numbers(0, 10))
            await until(lambda: before.values() == [*range(10)])
        await broker.kill()
        await until(lambda: publisher.last_error)
        # One of each sensor, so that what was published is retained when somebody listens again.
        await store.graft([reading(number, f"s{number}") for number in range(10)])
        status = publisher.status()
        assert (status["state"], status["published"]) == ("waiting", 10)
        await broker.start()
        async with Listener(broker, tmp_path / "after") as after:
            await until(lambda: publisher.status()["state"] == "connected")
            await until(lambda: after.on(CONFIG))  # the broker has forgotten everything
            await store.graft(numbers(10, 20))
            await until(lambda: after.values()[-1:] == [19])
            assert after.values()[-10:] == [*range(10, 20)]
            outage = [value for number in range(10) for value in after.values(f"s{number}")]
            assert outage == ([*range(10)] if backlog else [])
            await until(lambda: publisher.last_error is None)
    if backlog:
        await store.graft(numbers(20, 30))
        async with (
            Listener(broker, tmp_path / "last") as last,
            publishing(store, broker, **more),
        ):
            await until(lambda: last.values()[-10:] == [*range(20, 30)])


async def test_a_backlog_begins_with_the_first_start(
    store: Store, broker: Mosquitto, tmp_path: Path
) -> None:
    """Even if there is no connection before the end, however that comes."""
    await store.graft(numbers(0, 3))
    await broker.stop()
    publisher = Publisher("site", store, options(broker, backlog=True))
    task = asyncio.create_task(publisher.run())
    await until(lambda: publisher.last_error)
    found = await store.get_local("telemetry:site")
    task.cancel()
    await asyncio.wait({task})
    assert found is not None
    assert json.loads(found[1])["seq"] == 3


async def comes_to_a_stop(publisher: Publisher) -> None:
    """Wait until it publishes nothing more."""
    before = None
    while (now := publisher.published) != before:
        before = now
        await asyncio.sleep(0.2)


async def test_thousands_of_readings_and_a_broker_that_does_not_read(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    """They wait in the store, not in memory."""
    stored: list[str] = []

    async def store_more() -> None:
        for _ in range(4):
            values = [f"{len(stored) + number} ".ljust(1000, ".") for number in range(500)]
            await store.graft(list(map(reading, values)))
            stored.extend(values)

    async with publishing(store, broker, backlog=True, heartbeat=60.0) as publisher:
        await store_more()
        await until(lambda: publisher.published == len(stored))
        broker.send(signal.SIGSTOP)
        # What the sockets' buffers take is as good as published; how much that is, is the kernel's.
        while publisher.published == len(stored) < 100_000:
            await store_more()
            await comes_to_a_stop(publisher)
        tracemalloc.start()
        for _ in range(4):
            await store_more()
        await comes_to_a_stop(publisher)
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, __file__)])
        tracemalloc.stop()
        assert sum(statistic.size for statistic in snapshot.statistics("filename")) < 2 * 2**20
        assert publisher.published < len(stored)
        broker.send(signal.SIGCONT)
        await until(lambda: publisher.published == len(stored))
        await until(lambda: seen.values()[-1:] == stored[-1:])
    assert seen.values() == stored


async def test_who_is_far_behind_goes_on_from_the_present(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    async with publishing(store, broker, qos=1, heartbeat=60.0) as publisher:
        while not publisher.published:  # it connects first, and begins with what comes after that
            await store.graft(numbers(0, 1))
            await asyncio.sleep(0.02)
        broker.send(signal.SIGSTOP)
        sent = publisher.status()["bytes_sent"]
        await store.graft(numbers(0, 10))
        await until(lambda: publisher.status()["bytes_sent"] > sent)
        for start in range(0, 5000, 1000):
            await store.graft(numbers(start, start + 1000))
        before = publisher.published
        broker.send(signal.SIGCONT)
        await until(lambda: publisher.published > before)
        await store.graft([reading(-1)])
        await until(lambda: seen.values()[-1:] == [-1])
        assert publisher.published < 2000
