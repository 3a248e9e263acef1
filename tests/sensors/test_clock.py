"""Readings that were recorded before the time was known: marked, and corrected once it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from agent.config_clock import ClockConfig
from agent.documents.revision import first_revision
from agent.documents.times import microseconds, timestamp
from agent.errors import StoreWriteError
from agent.sensors.clock import AgentClock
from agent.sensors.machine import LinuxMachine, kernel_boot_id
from agent.sensors.recorder import finish_windows
from agent.store.store import Store
from agent.store.transaction import Transaction
from tests.patience import PATIENCE, until
from tests.sensors.clocks import HOUR, SECOND, TRUE, FakeMachine, running_clock, tell
from tests.sensors.recording import documents, line, readings, recording, rows

TOLERANCE = 2 * SECOND


def settled(clock: AgentClock) -> bool:
    status = clock.status()
    return status["state"] == "sure" and status["waiting"] == 0


async def test_a_reading_is_marked_and_corrected(store: Store) -> None:
    machine = FakeMachine()
    async with running_clock(store, machine) as clock:
        async with recording(store, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=1, seq=1, boot=7))
            await recorder.drain()
            (before,) = await documents(store, "reading")
            assert before == {
                "_id": "dev:t:1970-01-01T00:00:05.000000Z:0000000001",
                "boot": 7,
                "boot_id": machine.boot_id,
                "clock": "unset",
                "device": "dev",
                "monotonic": 5000.0,
                "sensor": "t",
                "sequence": 1,
                "time": "1970-01-01T00:00:05.000000Z",
                "type": "reading",
                "value": 1,
            }
            status = clock.status()
            assert (status["state"], status["source"]) == ("unsure", None)
            assert (status["corrected"], status["waiting"]) == (0, 1)
            machine.now += HOUR
            tell(clock, machine)
            await recorder.feed(line(sensor="t", value=2, seq=2, boot=7))
            await recorder.drain()
            await until(lambda: clock.corrected)
        first, second = await documents(store, "reading")
        assert first == {
            **before,
            "clock": "corrected",
            "time": timestamp(TRUE + 5 * SECOND + SECOND // 2),
            "time_recorded": before["time"],
        }
        assert not second.keys() & {"clock", "boot_id", "monotonic"}
        assert second["time"] == timestamp(TRUE + HOUR + 5 * SECOND + SECOND // 2)
        assert first["_id"] < second["_id"]
        (account,) = await documents(store, "clock")
        assert account["_id"] == f"clock:gateway-1:{machine.boot_id}"
        assert (account["clock"], account["source"]) == ("known", "remote cloud")
        # Whoever reads it can do the same with any moment of that boot.
        offset = microseconds(account["time"]) - round(1000 * account["monotonic"])
        assert timestamp(offset + round(1000 * first["monotonic"])) == first["time"]
        await until(lambda: settled(clock))
        status = clock.status()
        assert (status["state"], status["source"]) == ("sure", "remote cloud")
        assert status["corrected"] == 1
        assert status["offset"] == round((TRUE + SECOND // 2) / SECOND, 3)
    view = await asyncio.to_thread(rows, store, "SELECT time FROM readings ORDER BY id")
    assert view == [(first["time"],), (second["time"],)]


async def test_a_clock_that_turns_out_to_be_right_costs_no_edit(store: Store) -> None:
    machine = FakeMachine(system=TRUE)
    async with running_clock(store, machine) as clock:
        async with recording(store, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=1))
            await recorder.drain()
            tell(clock, machine)
            await until(lambda: settled(clock))
        (reading,) = await documents(store, "reading")
        assert (reading["clock"], clock.corrected) == ("unset", 0)
        assert [account["clock"] for account in await documents(store, "clock")] == ["known"]


async def test_who_knows_the_time_from_the_start_marks_nothing(store: Store) -> None:
    machine = FakeMachine(system=TRUE, ntp=True)
    async with running_clock(store, machine) as clock:
        async with recording(store, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=1))
        assert clock.status()["source"] == "ntp"
    (reading,) = await documents(store, "reading")
    assert "clock" not in reading
    assert await documents(store, "clock") == []
    assert await store.get_local("clock") is None


@pytest.mark.parametrize(
    ("config", "tls", "state"),
    [
        (ClockConfig(), True, "sure"),
        (ClockConfig(), False, "unsure"),
        (ClockConfig(sources=["http"]), False, "sure"),
        (ClockConfig(sources=["http"]), True, "unsure"),
        (ClockConfig(sources=[]), True, "unsure"),
    ],
)
async def test_only_the_sources_that_are_configured_count(
    store: Store, config: ClockConfig, tls: bool, state: str
) -> None:
    machine = FakeMachine()
    async with running_clock(store, machine, config) as clock:
        clock.date("cloud", "no date", machine.now / SECOND, tls=tls)
        clock.date("cloud", machine.date(), machine.now / SECOND - 30, tls=tls)  # too long ago
        assert clock.status()["state"] == "unsure"
        clock.date("cloud", machine.date(), machine.now / SECOND, tls=tls)
        assert clock.status()["state"] == state


async def test_a_device_has_to_say_the_same_twice(store: Store) -> None:
    machine = FakeMachine()
    async with running_clock(store, machine) as clock:
        for at in (TRUE, TRUE + HOUR, TRUE + 2 * SECOND):
            clock.told("gps", timestamp(at + machine.now), machine.now)
            assert clock.status()["state"] == "unsure"
            machine.now += SECOND
        clock.told("gps", timestamp(TRUE + 2 * SECOND + machine.now), machine.now)
        assert clock.status()["source"] == "device gps"
        offset = clock.scale().offset
        assert offset == TRUE + 2 * SECOND + SECOND // 4
        # One that was heard late says nothing new, one that came at once does.
        for late, learnt in ((2 * SECOND, 0), (0, 0), (-SECOND // 2, SECOND // 4)):
            machine.now += SECOND
            clock.told("gps", timestamp(TRUE + 2 * SECOND + machine.now - late), machine.now)
            assert clock.scale().offset == offset + learnt


async def test_readings_with_their_own_time_are_not_marked(store: Store) -> None:
    machine = FakeMachine()
    async with (
        running_clock(store, machine) as clock,
        recording(store, clock=clock) as recorder,
    ):
        await recorder.feed(line(sensor="t", value=1, time="2026-05-01T00:00:00Z"))
        machine.now += SECOND
        await recorder.feed(line(sensor="t", value=2, age_ms=60_000))
        await recorder.drain()
        tell(clock, machine)
        await until(lambda: clock.corrected)
    own, aged = sorted(await documents(store, "reading"), key=lambda body: body["value"])
    assert (own["time"], "clock" in own) == ("2026-05-01T00:00:00Z", False)
    # It was taken before the machine was switched on.
    assert (aged["monotonic"], aged["clock"]) == (-54_000.0, "corrected")
    assert aged["time"] == timestamp(TRUE - 54 * SECOND + SECOND // 2)


async def test_windows_are_closed_and_corrected(store: Store) -> None:
    machine = FakeMachine()
    sensors = [{"name": "t", "pack": 3600}]
    async with running_clock(store, machine) as clock:
        async with recording(store, sensors=sensors, clock=clock) as recorder:
            for number in range(3):
                await recorder.feed(line(sensor="t", value=number))
                machine.now += SECOND
            await recorder.drain()
            tell(clock, machine)
            await until(lambda: clock.corrected)
            await recorder.feed(line(sensor="t", value=3))
        (window,) = await documents(store, "readings")
        assert window["columns"]["value"] == [0, 1, 2]
        assert (window["clock"], window["time_recorded"]) == (
            "corrected",
            "1970-01-01T00:00:05.000000Z",
        )
        sql = "SELECT time, value FROM readings ORDER BY value"
        assert await asyncio.to_thread(rows, store, sql) == [
            (timestamp(TRUE + (5 + n) * SECOND + SECOND // 2), n) for n in range(4)
        ]


def seen_by_anna(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"seen": "anna"}


async def test_alarms_are_corrected_with_what_others_wrote_into_them(store: Store) -> None:
    machine = FakeMachine()
    sensors = [{"name": "t", "alarm": [{"name": "high", "above": 5, "hysteresis": 1}]}]
    async with running_clock(store, machine) as clock:
        async with recording(store, sensors=sensors, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=9))
            machine.now += SECOND
            await recorder.feed(line(sensor="t", value=0))
            await recorder.drain()
            (alarm,) = await documents(store, "alarm")
            await store.write(lambda within: within.rewrite(alarm["_id"], seen_by_anna))
            tell(clock, machine)
            await until(lambda: settled(clock))
        (alarm,) = await documents(store, "alarm")
    offset = TRUE + SECOND // 2
    assert (alarm["seen"], alarm["active"]) == ("anna", False)
    assert alarm["time"] == timestamp(offset + 5 * SECOND)
    assert alarm["cleared"] == timestamp(offset + 6 * SECOND)
    assert alarm["cleared_recorded"] == "1970-01-01T00:00:06.000000Z"
    assert (alarm["clock"], alarm["cleared_clock"]) == ("corrected", "corrected")


async def test_the_next_process_goes_on_correcting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine()
    monkeypatch.setattr("agent.sensors.clock._AT_ONCE", 10)
    async with running_clock(store, machine, correcting=False) as clock:
        async with recording(store, clock=clock) as recorder:
            await recorder.feed(b"".join(line(sensor="t", value=n) for n in range(50)))
        async with asyncio.timeout(PATIENCE):
            monkeypatch.setattr(store, "write", failing_after(store, 3))
            tell(clock, machine)
            with pytest.raises(StoreWriteError):
                await clock.correct()
        monkeypatch.undo()
    assert 0 < clock.corrected < 50
    machine.now += HOUR
    # Nobody tells it the time: it knows.
    async with running_clock(store, machine) as again:
        assert again.status()["source"] == "remote cloud"
        await until(lambda: settled(again))
        assert again.corrected == 50 - clock.corrected
    readings = await documents(store, "reading")
    assert {reading["clock"] for reading in readings} == {"corrected"}
    assert len({reading["time"] for reading in readings}) == 50
    sql = "SELECT DISTINCT gen FROM docs WHERE id LIKE 'dev:%'"
    assert await asyncio.to_thread(rows, store, sql) == [(2,)]
    seq = store.update_seq
    async with running_clock(store, machine) as idle:
        await until(lambda: settled(idle))
    assert store.update_seq == seq


async def test_a_fast_sensors_reading_from_before_1970(store: Store) -> None:
    """A device has held it for longer than the gateway, which starts in 1970, has been running."""
    machine = FakeMachine()
    sensors = [{"name": "t", "pack": 60}]
    async with running_clock(store, machine) as clock:
        async with recording(store, sensors=sensors, clock=clock) as recorder:
            for n, age_ms in enumerate((60_250, 31_000, 0)):
                await recorder.feed(line(sensor="t", value=n, seq=n, boot=7, age_ms=age_ms))
                machine.now += SECOND
            await recorder.drain()
            assert [(time, value) for _, value, _, _, time, _ in await readings(store)] == [
                ("1969-12-31T23:59:04.750000Z", 0),
                ("1969-12-31T23:59:35.000000Z", 1),
                ("1970-01-01T00:00:07.000000Z", 2),
            ]
            tell(clock, machine)
            await until(lambda: settled(clock) and clock.corrected == 3)
        told = [microseconds(time) - TRUE for _, _, _, _, time, _ in await readings(store)]
    assert told == [round(at * SECOND) for at in (-54.75, -24.5, 7.5)]


async def test_what_was_marked_before_the_clock_was_trusted(store: Store) -> None:
    """Nobody says that the clock is right, though it is: then somebody configures that."""
    machine = FakeMachine(system=TRUE)
    async with running_clock(store, machine) as clock, recording(store, clock=clock) as recorder:
        await recorder.feed(line(sensor="t", value=1))
    marked = await documents(store, "reading")
    assert [reading["clock"] for reading in marked] == ["unset"]
    async with running_clock(store, machine) as clock:
        await asyncio.sleep(0.1)
        assert clock.status()["waiting"] is None  # they may be millions, and are not read for that
    trusting = ClockConfig(trust="system")
    async with running_clock(store, machine, trusting) as clock:
        await until(lambda: settled(clock))
        async with recording(store, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=2))
    first, second = await documents(store, "reading")
    assert [first] == marked
    assert "clock" not in second
    (account,) = await documents(store, "clock")
    assert (account["clock"], account["source"]) == ("known", "system")
    assert account["boot_id"] == first["boot_id"]


def failing_after(store: Store, successes: int) -> Callable[..., Any]:
    """Like `store.write`, but so many calls go well, and no more."""
    write = store.write

    async def failing(operation: Callable[[Transaction], Any]) -> Any:
        nonlocal successes
        if successes == 0:
            raise StoreWriteError("the disk is full")
        successes -= 1
        return await write(operation)

    return failing


async def test_a_boot_whose_time_never_became_known_stays_marked(store: Store) -> None:
    machine = FakeMachine()
    sensors = [{"name": "packed", "pack": 3600}]
    async with (
        running_clock(store, machine) as clock,
        recording(store, sensors=sensors, clock=clock) as recorder,
    ):
        await recorder.feed(line(sensor="t", value=1) + line(sensor="packed", value=1))
    later = FakeMachine(boot_id="22222222-aaaa-4bbb-8ccc-000000000002")
    await finish_windows(store, "dev", all=False, boot_id=later.boot_id)
    async with running_clock(store, later) as clock, recording(store, clock=clock) as recorder:
        await recorder.feed(line(sensor="t", value=2))
        await recorder.drain()
        tell(clock, later)
        await until(lambda: settled(clock))
    first, second = await documents(store, "reading")
    assert (first["value"], first["clock"], first["boot_id"]) == (1, "unset", machine.boot_id)
    assert (second["value"], second["clock"], second["boot_id"]) == (2, "corrected", later.boot_id)
    # It went on after the first one, although the machine's clock began in 1970 again.
    assert second["time_recorded"] > first["time"]
    (window,) = await documents(store, "readings")
    assert (window["clock"], window["boot_id"]) == ("unset", machine.boot_id)
    accounts = await documents(store, "clock")
    assert [(found["boot_id"], found["clock"]) for found in accounts] == [
        (machine.boot_id, "unknown"),
        (later.boot_id, "known"),
    ]


async def test_the_record_is_a_document_that_others_may_write(store: Store) -> None:
    """Whoever may write into the database may write into `_local` documents."""
    machine = FakeMachine()
    async with running_clock(store, machine) as clock:
        (rev, text) = await store.get_local("clock") or ("", "")
        assert [boot["since"] for boot in json.loads(text)["boots"]] == [0]
        await store.put_local("clock", rev, '{"nonsense": 1}')
        async with recording(store, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=1))
        tell(clock, machine)
        await until(lambda: settled(clock))
        assert clock.corrected == 1


async def test_the_record_of_an_earlier_version_is_read(store: Store) -> None:
    machine = FakeMachine()
    async with (
        running_clock(store, machine) as clock,
        recording(store, clock=clock) as recorder,
    ):
        await recorder.feed(line(sensor="t", value=1))
    (rev, text) = await store.get_local("clock") or ("", "")
    await store.put_local("clock", rev, json.dumps(json.loads(text)["boots"]))
    async with running_clock(store, machine) as again:
        tell(again, machine)
        await until(lambda: settled(again))
        assert again.corrected == 1


async def test_what_a_power_cut_left_uncorrected_is_corrected_in_the_next_boot(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine()
    sensors = [{"name": "packed", "pack": 3600}]
    async with running_clock(store, machine, correcting=False) as clock:
        async with recording(store, sensors=sensors, clock=clock) as recorder:
            await recorder.feed(line(sensor="t", value=1) + line(sensor="packed", value=1))
        monkeypatch.setattr(store, "write", failing_after(store, 1))
        tell(clock, machine)
        with pytest.raises(StoreWriteError):
            await clock.correct()
        monkeypatch.undo()
    later = FakeMachine(boot_id="22222222-aaaa-4bbb-8ccc-000000000002")
    await finish_windows(store, "dev", all=False, boot_id=later.boot_id)
    async with running_clock(store, later) as clock:
        await until(lambda: clock.corrected == 2)
    for kind in ("reading", "readings"):
        (found,) = await documents(store, kind)
        assert found["time"][:19] == timestamp(TRUE + 5 * SECOND)[:19]


async def test_documents_of_others_are_left_alone(store: Store) -> None:
    """Those of another gateway, which may be a process on the same machine."""
    machine = FakeMachine()
    foreign = {
        "type": "reading",
        "device": "other",
        "time": "1970-01-01T00:00:05.000000Z",
        "clock": "unset",
        "boot_id": machine.boot_id,
        "monotonic": 5000.0,
    }
    broken = [
        {**foreign, "device": "dev", "monotonic": "x"},
        {**foreign, "device": "dev", "monotonic": 1e300},
        {**foreign, "device": "dev", "time": "yesterday"},
    ]
    async with running_clock(store, machine) as clock:
        await store.write(
            lambda transaction: transaction.graft(
                [first_revision(f"doc-{n}", body) for n, body in enumerate([foreign, *broken])]
            )
        )
        tell(clock, machine)
        await until(lambda: settled(clock))
        assert clock.corrected == 0


async def test_a_damaged_record_is_no_obstacle(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put_local("clock", None, '{"nonsense": 1}')
    machine = FakeMachine()
    async with running_clock(store, machine) as clock:
        tell(clock, machine)
        await until(lambda: settled(clock))
    assert "_local/clock is no use" in caplog.text


async def test_this_machine() -> None:
    machine = LinuxMachine(await asyncio.to_thread(kernel_boot_id))
    assert len(machine.boot_id) == 36
    first = machine.monotonic()
    assert 0 < first <= machine.monotonic()
    assert abs(machine.offset() - machine.offset()) < 10_000
    assert isinstance(machine.synchronised(), bool)
