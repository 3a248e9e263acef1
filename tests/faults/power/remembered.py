"""What an agent remembers besides documents: settings of a database, how far a hook has come, and
what it has given up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import RefusedChangeError
from agent.processing import checkpoint
from agent.processing.change import Change
from agent.processing.hook import Hook, Options
from agent.store.databases import Databases
from tests.faults.power import stores
from tests.faults.power.record import Marks
from tests.faults.power.stores import DATABASE, Client, Told, data, file

_HOOK = "test"
_GIVEN_UP = 5
"""Of so many changes one is refused."""

_TURNS = 12


class _Target:
    """Marks what it was called with."""

    label = "a test"

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    async def call(self, changes: Sequence[Change]) -> None:
        [change] = changes
        if change.number % _GIVEN_UP == 0:
            raise RefusedChangeError("not this one")
        self._marks.add("called", change.id)

    async def close(self) -> None:
        pass


async def remember(folder: Path, marks: Marks) -> None:
    """A hook follows a client; its dead letters are dropped, and settings changed, meanwhile."""
    checkpoint._SAVE_CALLS = 0  # type: ignore[misc]
    databases = Databases(data(folder))
    store = await databases.ensure(DATABASE)
    options = Options(_HOOK, DATABASE, start="beginning")
    followed = Hook(databases, options, _Target(marks))
    following = asyncio.create_task(followed.run())
    client = Client(store, marks, "c")
    for turn in range(_TURNS):
        await client.readings(7)
        await store.set_setting("security", {"members": {"names": [str(turn)]}})
        marks.add("security", turn)
        while followed.saved_seq < store.update_seq:
            await asyncio.sleep(0.005)
        if turn % 3 == 2:
            ids = [letter["id"] for letter in followed.dead()][:-1]
            marks.add("dropping", ids)
            await followed.drop(ids)
            marks.add("dropped", ids)
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    await databases.close()


async def check_remembered(folder: Path, marks: list[Any]) -> None:
    """Nothing that was set is as it was before, and the hook has passed nothing over."""
    await stores.check(folder, marks)
    await asyncio.to_thread(_check, file(folder), Told(marks))


def _check(path: Path, told: Told) -> None:
    with closing(sqlite3.connect(path)) as db:
        settings = dict(db.execute("SELECT key, value FROM meta WHERE key LIKE 'setting:%'"))
        local = dict(db.execute("SELECT id, body FROM local WHERE id LIKE 'hook:%'"))
        numbers = dict(db.execute("SELECT id, seq FROM docs"))
    if told.of("security"):
        assert "setting:security" in settings, "the settings are lost"
        [turn] = msgspec.json.decode(settings["setting:security"])["members"]["names"]
        assert int(turn) >= told.last("security"), "the settings are those from before"
    checkpoint = local.pop(f"hook:{_HOOK}", '{"seq":"0"}')
    passed = int(msgspec.json.decode(checkpoint)["seq"].partition("-")[0])
    letters = {msgspec.json.decode(body)["id"] for body in local.values()}
    called = {id for (id,) in told.of("called")}
    missed = {id for id, seq in numbers.items() if seq <= passed and seq % _GIVEN_UP} - called
    assert not missed, f"the hook has not been called for {sorted(missed)[:3]}"
    given_up = {id for id, seq in numbers.items() if seq <= passed and not seq % _GIVEN_UP}
    lost = given_up - letters - told.ids("dropping")
    assert not lost, f"dead letters are lost: {sorted(lost)[:3]}"
    assert not letters & told.ids("dropped"), "dead letters that were dropped are there again"
