"""How gateways are told that a database has changed, and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.peers.peer import Seq
from agent.server.mqtt_notices import Notices, Pace
from agent.server.mqtt_served import ServedDatabases
from agent.store.databases import Databases
from agent.tasks import together
from tests.patience import until


def pauses(interval: float, seconds: float) -> list[float]:
    """Those after the notices, where there is a change every `interval` seconds."""
    pace, now, found = Pace(), 1000.0, []
    while now < 1000.0 + seconds:
        found.append(pace.next_pause(now))
        now += max(found[-1], interval)
    return found


def test_changes_that_come_now_and_then_are_told_at_once() -> None:
    assert set(pauses(0.05, 5)) == {0.02}


def test_a_database_that_keeps_changing_is_told_of_four_times_a_second() -> None:
    found = pauses(0.001, 10)
    assert found[:5] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.25])
    assert set(found[5:]) == {0.25}


def test_it_is_told_at_once_again_after_a_while_of_silence() -> None:
    pace, now = Pace(), 1000.0
    for _ in range(10):
        now += pace.next_pause(now)
    assert pace.next_pause(now) == 0.25
    assert pace.next_pause(now + 1) == 0.02


async def test_a_database_that_goes_while_others_are_told_is_followed_when_it_comes_back(
    tmp_path: Path,
) -> None:
    databases, told = Databases(tmp_path), list[str]()
    goes = asyncio.Event()

    async def tell(database: str, seq: Seq) -> None:
        told.append(database)
        if goes.is_set() and database == "a":
            await databases.delete("b")
            await until(lambda: len(group.tasks) == 1)  # it is followed no more

    try:
        async with together() as group:
            notices = Notices(ServedDatabases(databases), tell, group)
            for name in ("a", "b"):
                await databases.ensure(name)
            await notices.follow_all()
            await until(lambda: told == ["a", "b"])
            goes.set()
            await notices.follow_all()
            goes.clear()
            assert told == ["a", "b", "a"]
            await databases.ensure("b")
            await until(lambda: told == ["a", "b", "a", "b"])
            notices.end()
            for task in group.tasks:
                task.cancel()
    finally:
        await databases.close()
