"""Limits that were passed, and the documents that tell."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.config_sensors import AlarmConfig
from agent.documents.revision import canonical
from agent.errors import StoreWriteError
from agent.sensors.alarms import AlarmState, Threshold
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.sensors.recording import documents, line, readings, recording

SECOND = 1_000_000


def turns(values: list[Any], times: list[int] | None = None, **config: Any) -> list[str]:
    """What each value does to an alarm, one a second."""
    threshold = Threshold.of(AlarmConfig("a", **config))
    state = AlarmState()
    found = []
    for at, value in zip(times or range(len(values)), values, strict=True):
        turn = threshold.step(state, value, at * SECOND)
        if turn == "raised":
            state.document = "x"
        elif turn == "cleared":
            state = AlarmState()
        found.append({"raised": "R", "cleared": "C", None: "."}[turn])
    return found


def test_above_with_hysteresis() -> None:
    values = [29, 30, 30.1, 31, 29, 28.1, 28, 29, 30, 31]
    assert "".join(turns(values, above=30, hysteresis=2)) == "..R...C..R"


def test_below_with_hysteresis() -> None:
    values = [6, 5, 4.9, 5, 6, 6.9, 7, 4]
    assert "".join(turns(values, below=5, hysteresis=2)) == "..R...CR"


def test_without_hysteresis() -> None:
    assert "".join(turns([31, 30.1, 30, 31], above=30)) == "R.CR"


def test_the_delay_is_counted_by_the_readings_times() -> None:
    assert "".join(turns([31, 31, 31, 31], above=30, delay=2)) == "..R."
    # One good value, and it begins anew.
    assert "".join(turns([31, 31, 30, 31, 31, 31], above=30, delay=2)) == ".....R"
    assert "".join(turns([31, 31], [0, 60], above=30, delay=60)) == ".R"
    # The clock was set back.
    assert "".join(turns([31, 31, 31, 31], [500, 100, 101, 102], above=30, delay=2)) == "...R"


@pytest.mark.parametrize("value", [True, False, "31"])
def test_what_is_no_number_does_nothing(value: Any) -> None:
    assert turns([31, value], above=30) == ["R", "."]


SENSORS = [
    {
        "name": "t",
        "unit": "Cel",
        "change": 100,
        "alarm": [{"name": "high", "above": 30, "hysteresis": 1}, {"name": "low", "below": 0}],
    }
]


async def test_an_alarm_is_a_document_for_each_time_it_is_raised(store: Store) -> None:
    async with recording(store, sensors=SENSORS) as recorder:
        for number, value in enumerate([20, 31, 32], 1):
            await recorder.feed(line(t=value, seq=number, boot=1))
        await recorder.drain()
        assert recorder.state.sensors["t"].raised() == ["high"]
    # The next process clears it.
    async with recording(store, sensors=SENSORS) as recorder:
        for number, value in enumerate([31, 28, -1, 31], 3):
            await recorder.feed(line(t=value, seq=number, boot=1))
    alarms = sorted(await documents(store, "alarm"), key=lambda body: body["time"])
    stored = {sequence: time for _, _, _, sequence, time, _ in await readings(store)}
    # The readings that raise or clear an alarm are stored, however little they changed.
    assert stored.keys() == {1, 2, 4, 5, 6}
    assert alarms == [
        {
            "_id": f"alarm:dev:t:high:{stored[2]}:0000000002",
            "type": "alarm",
            "alarm": "high",
            "device": "dev",
            "sensor": "t",
            "time": stored[2],
            "value": 31,
            "unit": "Cel",
            "above": 30,
            "active": False,
            "cleared": stored[4],
            "cleared_value": 28,
            "urgent": True,
        },
        {
            "_id": f"alarm:dev:t:low:{stored[5]}:0000000005",
            "type": "alarm",
            "alarm": "low",
            "device": "dev",
            "sensor": "t",
            "time": stored[5],
            "value": -1,
            "unit": "Cel",
            "below": 0,
            "active": False,
            "cleared": stored[6],
            "cleared_value": 31,
            "urgent": True,
        },
        {
            "_id": f"alarm:dev:t:high:{stored[6]}:0000000006",
            "type": "alarm",
            "alarm": "high",
            "device": "dev",
            "sensor": "t",
            "time": stored[6],
            "value": 31,
            "unit": "Cel",
            "above": 30,
            "active": True,
            "urgent": True,
        },
    ]
    for alarm in alarms:
        found = await store.get(alarm["_id"])
        assert found is not None
        assert found.rev.generation == (1 if alarm["active"] else 2)


async def raise_one(store: Store) -> str:
    async with recording(store, sensors=SENSORS) as recorder:
        await recorder.feed(line(t=31, seq=1, boot=1))
    ((alarm,),) = [await documents(store, "alarm")]
    return str(alarm["_id"])


async def clear_it(store: Store, sensors: list[Any] = SENSORS) -> None:
    async with recording(store, sensors=sensors) as recorder:
        await recorder.feed(line(t=20, seq=2, boot=1))


async def edited(store: Store, id: str, **members: Any) -> None:
    """What somebody else, in the cloud, say, makes of a document; `_deleted` deletes it."""
    found = await store.get(id)
    assert found is not None
    deleted = members.pop("_deleted", False)
    text = canonical({} if deleted else {**json.loads(found.body), **members})
    assert await store.edit([Edit(id, found.rev, deleted, text.decode(), text)]) != [None]


async def test_what_others_wrote_into_an_alarm_stays(store: Store) -> None:
    id = await raise_one(store)
    await edited(store, id, acknowledged_by="anna")
    await clear_it(store)
    (alarm,) = await documents(store, "alarm")
    assert (alarm["acknowledged_by"], alarm["active"]) == ("anna", False)
    assert (await store.info()).conflict_count == 0


async def test_an_alarm_that_somebody_deleted_stays_deleted(store: Store) -> None:
    id = await raise_one(store)
    await edited(store, id, _deleted=True)
    await clear_it(store)
    found = await store.get(id)
    assert found is not None
    assert found.deleted
    assert len(await readings(store)) == 2


@pytest.mark.parametrize("sensors", [[], [{"name": "t", "change": 1}]])
async def test_an_alarm_that_is_not_configured_any_more_is_cleared(
    store: Store, sensors: list[Any]
) -> None:
    await raise_one(store)
    await clear_it(store, sensors)
    (alarm,) = await documents(store, "alarm")
    assert alarm["active"] is False
    assert "cleared_value" not in alarm
    state = await store.get_local("device:dev")
    assert state is not None
    assert ("sensors" in json.loads(state[1])) is bool(sensors)


async def test_an_old_reading_that_comes_again_clears_nothing(store: Store) -> None:
    """Without numbers it is by its own time that it is known; what is older by far is a clock."""

    def told(value: float, minute: int) -> bytes:
        return line(t=value, time=f"2026-01-01T05:{minute:02d}:00Z")

    async with recording(store, sensors=SENSORS) as recorder:
        await recorder.feed(told(20, 30) + told(31, 31) + told(20, 30))
        await recorder.drain()
        assert recorder.state.sensors["t"].raised() == ["high"]
        assert len(await readings(store)) == 2
        await recorder.feed(told(20, 11))
        await recorder.drain()
        assert recorder.state.sensors["t"].raised() == []


async def test_reading_alarm_and_memory_are_one_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks after the documents were written takes them back, all of them."""

    class Soon:
        def next_delay(self) -> float:
            return 0.01

    monkeypatch.setattr("agent.sensors.recorder.Backoff", lambda *_: Soon())
    write = store.write
    left_behind: list[int] = []

    async def failing(operation: Any) -> Any:
        if len(left_behind) < 2:

            def cut_short(transaction: Any) -> None:
                operation(transaction)
                raise StoreWriteError("the disk is full")

            with pytest.raises(StoreWriteError):
                await write(cut_short)
            left_behind.append((await store.info()).doc_count)
            raise StoreWriteError("the disk is full")
        return await write(operation)

    monkeypatch.setattr(store, "write", failing)
    await raise_one(store)
    assert left_behind == [0, 0]
    assert len(await readings(store)) == 1
    assert len(await documents(store, "alarm")) == 1
