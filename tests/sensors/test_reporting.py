"""Report by exception: what is kept, through repeats, restarts and a clock that is set back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config_sensors import SensorConfig
from agent.documents.times import timestamp
from agent.sensors.planning import Arrival, DeviceState, plan
from agent.sensors.reporting import Deadband, Kept
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters.adapter import Reading, Value
from tests.sensors.recording import documents, line, recording, rows

SECOND = 1_000_000
START = 1_767_225_600 * SECOND


def kept(values: list[Value], every: float = 1000, **config: Any) -> list[Value]:
    """Of one value a second, those that are kept."""
    deadband = Deadband.of(SensorConfig("t", every=every, **config))
    assert deadband is not None
    last: Kept | None = None
    found = []
    for second, value in enumerate(values):
        new = Kept(second * SECOND, value)
        if deadband.keeps(last, new):
            last = new
            found.append(value)
    return found


def test_a_change_counts_from_the_last_one_kept() -> None:
    assert kept([20, 20.4, 20.5, 20.9, 21.1, 20.7, 20.6], change=0.5) == [20, 20.5, 21.1, 20.6]
    assert kept([1, 1, 2, 2, 1], change=0) == [1, 2, 1]


def test_a_change_in_percent() -> None:
    assert kept([100, 101, 102, 104.1, 100], change_percent=2) == [100, 102, 104.1, 100]
    assert kept([0, 0, 0.001, 0, -5, -5.05], change_percent=2) == [0, 0.001, 0, -5]
    # Whichever comes first.
    assert kept([100, 101, 110, 110.9, 111], change=1, change_percent=1) == [100, 101, 110, 111]


def test_other_kinds_of_values_are_kept_when_they_differ() -> None:
    assert kept([True, True, False, 0, "0", "0", "1"], change=5) == [True, False, 0, "0", "1"]


def test_one_is_kept_every_so_often() -> None:
    assert kept([1] * 10, every=3, change=1) == [1, 1, 1, 1]


def test_quality_and_unit_are_changes() -> None:
    deadband = Deadband(1.0, None, 10)
    last = Kept(0, 1, "C", None)
    assert not deadband.keeps(last, Kept(1, 1, "C", None))
    assert deadband.keeps(last, Kept(1, 1, "C", "out-of-range"))
    assert deadband.keeps(last, Kept(1, 1, "F", None))


async def test_what_tells_nothing_new_is_counted_and_not_stored(store: Store) -> None:
    def told(value: float, minute: int, second: int) -> bytes:
        return line(t=value, time=f"2026-01-01T00:{minute:02d}:{second:02d}Z")

    stream = [told(5, 0, 0), told(5.5, 0, 20), told(5.5, 0, 40), told(5.5, 1, 0), told(7, 1, 1)]
    async with recording(store, sensors=[{"name": "t", "change": 1, "every": 60}]) as recorder:
        for piece in stream:
            await recorder.feed(piece + piece)
    stats = recorder.sensors["t"]
    assert (stats.readings, stats.suppressed, stats.last_value) == (10, 7, 7)
    expected = [("00:00", 5), ("01:00", 5.5), ("01:01", 7)]
    found = await documents(store, "reading")
    assert [(body["time"][14:19], body["value"]) for body in found] == expected


@pytest.mark.parametrize("times", [["00", "01", "01", "01", "02"], [None] * 5])
async def test_nothing_new_costs_no_write(store: Store, times: list[str | None]) -> None:
    stream = [
        line(t=value, **({"time": f"2026-01-01T00:00:{at}Z"} if at else {}))
        for value, at in zip([5, 5, 5.5, 5.5, 6], times, strict=True)
    ]
    async with recording(store, sensors=[{"name": "t", "change": 1}]) as recorder:
        await recorder.feed(stream[0])
        await recorder.drain()
        before = await store.get_local("device:dev")
        for piece in stream[1:4]:
            await recorder.feed(piece)
        await recorder.drain()
        assert await store.get_local("device:dev") == before
        await recorder.feed(stream[4])
        await recorder.drain()
        assert await store.get_local("device:dev") != before
    assert recorder.sensors["t"].suppressed == 3


async def test_what_is_not_stored_is_acknowledged_all_the_same(store: Store) -> None:
    answers: list[bytes] = []
    async with recording(store, answers.append, [{"name": "t", "change": 1}]) as recorder:
        for number in range(5):
            await recorder.feed(line(t=1, seq=number, boot=9, ack_from=0))
            await recorder.drain()
    assert answers[-1] == b'{"ack":[9,4]}\n'
    assert len(await documents(store, "reading")) == 1


async def test_what_comes_late_is_stored_and_says_nothing_of_now(store: Store) -> None:
    sensors = [{"name": "t", "change": 1, "alarm": [{"name": "high", "above": 50}]}]
    async with recording(store, sensors=sensors) as recorder:
        for number, value in ((1, 10), (3, 10.1), (2, 99), (4, 10.2)):
            await recorder.feed(line(t=value, seq=number, boot=9))
    assert sorted(body["value"] for body in await documents(store, "reading")) == [10, 99]
    assert await documents(store, "alarm") == []


def test_a_clock_that_was_set_back_does_not_silence_a_sensor() -> None:
    rules = Rules([SensorConfig("t", change=1, every=60)])
    state = DeviceState()

    def stored(second: int, value: float) -> bool:
        reading = Reading("t", value, time=timestamp(START + second * SECOND))
        return bool(plan("dev", rules, state, [Arrival(START, reading)], {}).documents)

    assert [stored(0, 5), stored(10, 5)] == [True, False]
    # An hour back: the first one is kept, and from there on it counts anew.
    assert [stored(n - 3600, 5) for n in range(0, 150, 10)] == [
        n % 60 == 0 for n in range(0, 150, 10)
    ]


FRAMES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40
)  # a value, and how many seconds after the last one


@given(FRAMES, st.data())
def test_repeats_restarts_and_batches_change_nothing(
    frames: list[tuple[int, int]], data: st.DataObject
) -> None:
    """The same documents come of the same readings: alarms, what is kept, and when."""
    config = {
        "name": "*",
        "change": 2,
        "every": 5,
        "alarm": [{"name": "high", "above": 4, "hysteresis": 1, "delay": 2}],
    }
    rules = Rules([msgspec.convert(config, SensorConfig)])
    arrivals = []
    at = START
    for number, (value, gap) in enumerate(frames):
        at += gap * SECOND + 1
        arrivals.append(Arrival(at, Reading("t", value, sequence=number, boot=7)))
    expected = plan("dev", rules, DeviceState(), arrivals, {})

    stream = []
    for index, arrival in enumerate(arrivals):
        stream.append(arrival)
        for again in data.draw(st.lists(st.integers(0, index), max_size=2)):
            stream.append(Arrival(arrival.at, arrivals[again].item))
    documents, cleared = [], []
    state = DeviceState()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        batch, stream = stream[:size], stream[size:]
        if data.draw(st.booleans()):  # killed before it was stored: planned again
            plan("dev", rules, msgspec.convert(msgspec.to_builtins(state), DeviceState), batch, {})
        made = plan("dev", rules, state, batch, {})
        documents += made.documents
        cleared += made.cleared
        state = msgspec.json.decode(msgspec.json.encode(state), type=DeviceState)
    assert documents == expected.documents
    assert cleared == expected.cleared


async def test_noise_does_not_make_the_state_grow(store: Store) -> None:
    async with recording(store, sensors=[{"name": "*", "change": 1}]) as recorder:
        for number in range(1100):
            await recorder.feed(line(sensor=f"s{number}", value=1))
            if number == 1050:
                await recorder.feed(line(sensor="s1050", value=1) * 3)
    assert len(recorder.state.sensors) == 1000
    assert rows(store, "SELECT count(*) FROM readings") == [(1103,)]
