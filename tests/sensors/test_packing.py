"""Fast sensors: windows, their documents, and what the view `readings` makes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig, Config, ServerConfig
from agent.config_sensors import SensorConfig
from agent.documents.times import microseconds, timestamp
from agent.errors import StoreWriteError
from agent.runtime import Agent
from agent.sensors.packing import Body, Row, Window, restored, rows_of, shared
from agent.sensors.planning import Arrival, DeviceState, plan
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters.adapter import Reading, Value
from tests.patience import PATIENCE, until
from tests.sensors.recording import documents, line, recording, rows

SECOND = 1_000_000
START = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z, a multiple of any length used here
PACK = [{"name": "*", "pack": 10}]


@given(st.integers(-(2**40), 2**52))
def test_times_and_numbers_are_the_same(at: int) -> None:
    assert microseconds(timestamp(at)) == at


def test_times_of_devices() -> None:
    assert microseconds("1970-01-01T00:00:01Z") == SECOND
    assert microseconds("1970-01-01T00:00:01.5Z") == 1_500_000
    assert microseconds("1970-01-01T00:00:01.123456789Z") == 1_123_456


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(max_size=5).filter(lambda text: text.isprintable()),
)
TIMES = st.integers(START - 10 * SECOND, START + 10 * SECOND)
SEQUENCES = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(TIMES, VALUES, SEQUENCES, SEQUENCES, VALUES), min_size=1), st.data())
def test_a_window_holds_its_readings_exactly(
    members: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    """Whatever columns there are, and however the readings came in parts."""
    there = data.draw(st.tuples(st.just(True), st.just(True), *[st.booleans()] * 3))
    given_rows = [
        Row(*[member if has else None for member, has in zip(row, there, strict=True)])
        for row in members
    ]
    common = shared("d", "s", "C", None, 7, given_rows[0])
    window = Window("id", common, tuple(given_rows))
    document = window.document()
    assert len(document.path) == 1
    body = msgspec.json.decode(document.body, type=Body)
    assert rows_of(body) == sorted(given_rows, key=lambda row: row.at)
    cut = data.draw(st.integers(1, len(given_rows)))
    parts = [given_rows[:cut], *([given_rows[cut:]] if cut < len(given_rows) else [])]
    again = restored([("id", json.dumps(window.body(part))) for part in parts])
    assert again == {"s": Window("id", common, tuple(given_rows), len(given_rows))}


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 9, 25]),  # seconds since the last one
        st.sampled_from([1, 1, 1, 2, 3]),  # how far the number goes on: more leaves a gap
        st.sampled_from([1, 2.5, 60, True, "x"]),
        st.sampled_from([7, 7, 7, 8]),  # the boot
    ),
    min_size=1,
    max_size=30,
)


@given(FRAMES, st.data())
def test_nothing_is_lost_or_doubled(
    frames: list[tuple[int, int, Value, int]], data: st.DataObject
) -> None:
    """Whatever repeats, comes late, in what batches, and whenever the process is killed."""
    rules = Rules(
        msgspec.convert([{"name": "*", "pack": 10, "valid": [0, 50]}], list[SensorConfig])
    )
    at = START
    number = {7: 0, 8: 0}
    stream: list[Arrival] = []
    late: list[Arrival] = []
    for gap, step, value, boot in frames:
        at += gap * SECOND + 10  # no two arrive at the same time
        for missing in range(number[boot] + 1, number[boot] + step):
            late.append(Arrival(at, Reading("t", -1, sequence=missing, boot=boot)))
        number[boot] += step
        stream.append(Arrival(at, Reading("t", value, sequence=number[boot], boot=boot)))
        if late and data.draw(st.booleans()):
            stream.append(Arrival(at + 1, late.pop().item))
        if data.draw(st.booleans()):
            stream.append(Arrival(at + 2, stream[-1].item))
    seen: dict[tuple[Any, Any], Any] = {}
    expected = plan("dev", Rules(), DeviceState(), stream, {})
    for sample in expected.samples:
        seen[sample.at, sample.reading.sequence] = sample.value

    state = DeviceState()
    windows: dict[str, Window] = {}
    parts: list[tuple[str, str]] = []
    written: dict[str, Any] = {}
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        batch, stream = stream[:size], stream[size:]
        overdue = [w.id for w in windows.values()] if data.draw(st.booleans()) else []
        made = plan("dev", rules, state, batch, windows, overdue)
        for document in made.documents:
            assert document.id not in written
            written[document.id] = json.loads(document.body)
        parts = [part for part in parts if part[0] not in made.closed] + made.parts
        windows = made.windows
        if data.draw(st.booleans()):  # another process goes on
            state = msgspec.json.decode(msgspec.json.encode(state), type=DeviceState)
            windows = restored(parts)
        assert restored(parts) == made.windows

    found = []
    for body in written.values():
        if body["type"] == "reading":
            found.append((body["time"], body["sequence"], body["value"]))
        else:
            found += unpacked(msgspec.convert(body, Body))
    for window in windows.values():
        found += unpacked(msgspec.convert(window.body(window.rows), Body))
    assert len(found) == len(seen)
    assert {(at, sequence): value for at, sequence, value in found} == seen


def unpacked(body: Body) -> list[tuple[str, int | None, Value]]:
    return [(timestamp(row.at), row.sequence, row.value) for row in rows_of(body)]


SQL = "SELECT time, device, sensor, value, unit, sequence, quality FROM readings ORDER BY sequence"


async def view(store: Store) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(rows, store, SQL)


def told(number: int, value: Any, seconds: float, **members: Any) -> bytes:
    at = timestamp(START + round(seconds * SECOND))
    return line(t=value, seq=number, boot="b", time=at, units={"t": "C"}, **members)


def expected(number: int, value: Any, seconds: float, quality: Any = None) -> tuple[Any, ...]:
    at = timestamp(START + round(seconds * SECOND))
    return (at, "dev", "t", value, "C", number, quality)


async def test_one_document_for_a_window(store: Store) -> None:
    sensors = [{"name": "t", "pack": 10, "scale": 0.5, "valid": [0, 100]}]
    async with recording(store, sensors=sensors) as recorder:
        for number in range(25):
            await recorder.feed(told(number, 3 * number, 0.5 * number, uptime_ms=500 * number))
        await recorder.drain()
        (document,) = await documents(store, "readings")
        # It is all in the view, also what is in no document yet.
        readings = [expected(number, 1.5 * number, 0.5 * number) for number in range(25)]
        assert await view(store) == readings
    assert document == {
        "_id": "dev:t:2026-01-01T00:00:00.000000Z:b-0000000000",
        "type": "readings",
        "device": "dev",
        "sensor": "t",
        "time": "2026-01-01T00:00:00.000000Z",
        "unit": "C",
        "boot": "b",
        "sequence": 0,
        "uptime_ms": 0,
        "columns": {
            "time": [500_000 * number for number in range(20)],
            "value": [1.5 * number for number in range(20)],
            "sequence": list(range(20)),
            "uptime_ms": [500 * number for number in range(20)],
            "raw": [3 * number for number in range(20)],
        },
    }
    assert await documents(store, "reading") == []


async def test_the_next_process_goes_on_with_the_window(store: Store) -> None:
    for number in range(4):
        async with recording(store, sensors=PACK) as recorder:
            await recorder.feed(told(number, number, number))
            await recorder.feed(told(number, number, number))
    assert await documents(store, "readings") == []
    async with recording(store, sensors=PACK) as recorder:
        await recorder.feed(told(4, 4, 10))
    (document,) = await documents(store, "readings")
    assert document["columns"]["value"] == [0, 1, 2, 3]
    assert await view(store) == [
        *(expected(number, number, number) for number in range(4)),
        expected(4, 4, 10),
    ]
    assert len(await asyncio.to_thread(rows, store, "SELECT * FROM parts")) == 1


async def test_what_a_window_has_in_common_begins_another(store: Store) -> None:
    sensors = [{"name": "t", "pack": 10, "valid": [0, 9]}]
    async with recording(store, sensors=sensors) as recorder:
        for number, value in enumerate([1, 2, 30, 4]):
            await recorder.feed(told(number, value, 0.1 * number))
        await recorder.feed(line(t=5, seq=4, boot="c", time="2026-01-01T00:00:01Z"))
    found = {body["sequence"]: body for body in await documents(store, "readings")}
    assert [found[n]["columns"]["value"] for n in (0, 2, 3)] == [[1, 2], [30], [4]]
    assert found[2]["quality"] == "out-of-range"
    assert [quality for *_, quality in await view(store)] == [
        None,
        None,
        "out-of-range",
        None,
        None,
    ]


async def test_what_comes_late_is_in_the_view_in_its_place(store: Store) -> None:
    async with recording(store, sensors=PACK) as recorder:
        for number in (0, 1, 4, 3, 12, 2, 13):
            await recorder.feed(told(number, number, number))
            await recorder.drain()
    # 3 came into the open window, 2 after it was closed.
    (document,) = await documents(store, "readings")
    assert document["columns"]["value"] == [0, 1, 3, 4]
    assert [body["value"] for body in await documents(store, "reading")] == [2]
    assert await view(store) == [expected(n, n, n) for n in (0, 1, 2, 3, 4, 12, 13)]


async def test_a_window_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sensors.packing._MOST_ROWS", 10)
    async with recording(store, sensors=PACK) as recorder:
        await recorder.feed(b"".join(told(n, n, n / 100) for n in range(25)))
    assert [len(body["columns"]["time"]) for body in await documents(store, "readings")] == [10, 10]
    assert await view(store) == [expected(n, n, n / 100) for n in range(25)]


async def test_numbers_start_anew_in_a_window(store: Store) -> None:
    async with recording(store, sensors=PACK) as recorder:
        for step in range(4):
            await recorder.feed(told((2**32 - 2 + step) % 2**32, step, step))
        await recorder.feed(told(2, 4, 10))
    (document,) = await documents(store, "readings")
    assert document["columns"]["sequence"] == [0, 1, 2, 3]
    assert [row[5] for row in await view(store)] == [0, 1, 2, 2**32 - 2, 2**32 - 1]


async def test_texts_are_not_packed(store: Store) -> None:
    async with recording(store, sensors=PACK) as recorder:
        await recorder.feed(line(t="x" * 100, seq=1, boot=1) + line(t=True, seq=2, boot=1))
    assert [body["value"] for body in await documents(store, "reading")] == ["x" * 100]
    assert [value for _, _, _, value, *_ in await view(store)] == ["x" * 100, 1]


async def test_parts_that_are_no_use_do_not_keep_a_device_from_recording(store: Store) -> None:
    def spoil(transaction: Any) -> None:
        transaction.parts.append("dev", "x", '{"type":"readings","columns":{}}')

    await store.write(spoil)
    async with recording(store, sensors=PACK) as recorder:
        await recorder.feed(told(1, 1, 1))
    assert await view(store) == [expected(1, 1, 1)]


async def test_readings_known_by_their_time_alone_are_not_packed(store: Store) -> None:
    async with recording(store, sensors=PACK) as recorder:
        for _ in range(3):
            await recorder.feed(line(t=1, time="2026-01-01T00:00:00Z"))
        await recorder.feed(line(t=2) + line(t=2))
    assert [body["value"] for body in await documents(store, "reading")] == [1]
    assert [value for _, _, _, value, *_ in await view(store)] == [1, 2, 2]


async def test_a_sensor_that_falls_silent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sensors.recorder._GRACE", 0.0)
    async with recording(store, sensors=[{"name": "*", "pack": 1}]) as recorder:
        await recorder.feed(line(t=1, seq=1, boot=1) + line(t=2, seq=2, boot=1))
        await recorder.drain()

        async def closed() -> bool:
            windows = await documents(store, "readings")
            return sum(len(body["columns"]["value"]) for body in windows) == 2

        await until(closed)
        assert await asyncio.to_thread(rows, store, "SELECT * FROM parts") == []


async def test_windows_changes_and_alarms_together(store: Store) -> None:
    sensors = [
        {"name": "t", "pack": 10, "change": 2, "alarm": [{"name": "high", "above": 50}]},
    ]
    async with recording(store, sensors=sensors) as recorder:
        for number, value in enumerate([1, 2, 3, 51, 52, 49, 50]):
            await recorder.feed(told(number, value, number))
    assert [row[3] for row in await view(store)] == [1, 3, 51, 49]
    (alarm,) = await documents(store, "alarm")
    assert (alarm["value"], alarm["cleared_value"], alarm["active"]) == (51, 49, False)


@pytest.mark.may_block("looks into the store at the very moment")
async def test_what_is_acknowledged_is_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another connection finds it, when the device is told."""
    stored: list[tuple[int, list[int]]] = []

    def send(data: bytes) -> None:
        found = [sequence for _, _, _, _, _, sequence, _ in rows(store, SQL)]
        stored.append((json.loads(data)["ack"][1], found))

    class Soon:
        def next_delay(self) -> float:
            return 0.01

    monkeypatch.setattr("agent.sensors.recorder.Backoff", lambda *_: Soon())
    write = store.write
    failures = 0

    async def failing(operation: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures % 2:

            def cut_short(transaction: Any) -> None:
                operation(transaction)
                raise StoreWriteError("the disk is full")

            await write(cut_short)
        return await write(operation)

    monkeypatch.setattr(store, "write", failing)
    async with recording(store, send, PACK) as recorder:
        for number in range(25):
            await recorder.feed(told(number, number, number, ack_from=0))
            await recorder.drain()
    assert stored == [(number, list(range(number + 1))) for number in range(25)]
    assert len(await documents(store, "readings")) == 2


async def test_what_a_device_left_that_is_not_configured_any_more(store: Store) -> None:
    """Its windows become documents when the agent starts: nothing else would ever close them."""
    async with recording(store, sensors=PACK) as recorder:
        await recorder.feed(line(t=1, h=2, seq=1, boot=1))
    assert (await store.info()).doc_count == 0
    await store.close()

    folder = str(store.path.parent)
    config = Config(agent=AgentConfig(data=folder), server=ServerConfig(listen="127.0.0.1:0"))
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(Agent.from_config(config).run(stop, lambda _: ready.set()))
    async with asyncio.timeout(PATIENCE):
        await ready.wait()
    stop.set()
    await running
    assert [body["columns"]["value"] for body in await documents(store, "readings")] == [[2], [1]]
    assert await asyncio.to_thread(rows, store, "SELECT * FROM parts") == []
