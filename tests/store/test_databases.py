"""The folder of databases, under callers that come at the same time or give up."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from agent.errors import NotFoundError, StoreError
from agent.store.databases import Databases


@pytest.mark.parametrize("way", ["get", "ensure", "create"])
async def test_giving_up_while_a_store_is_opened_leaves_it_usable(tmp_path: Path, way: str) -> None:
    first = Databases(tmp_path)
    if way == "get":
        await first.create("db")
        await first.close()
        first = Databases(tmp_path)
    opening = asyncio.create_task(getattr(first, way)("db"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await first.ensure("db")  # the same store, not one that is in use already
    await first.close()
    second = Databases(tmp_path)  # as the next process would
    await second.get("db")
    await second.close()


async def test_those_who_make_a_database_together_get_the_same(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    stores = await asyncio.gather(*(databases.ensure("db") for _ in range(5)))
    assert len(set(stores)) == 1
    await databases.close()


async def test_waiting_for_a_database(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    waiting = asyncio.create_task(databases.wait_for("late"))
    await databases.create("other")
    assert not waiting.done()
    store = await databases.create("late")
    assert await waiting is store
    await databases.close()


async def test_nothing_is_opened_once_it_is_closed(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    await databases.create("db")
    await databases.close()
    for attempt in (databases.get("db"), databases.create("new"), databases.ensure("db")):
        with pytest.raises(StoreError):
            await attempt


async def test_only_the_system_database_has_an_underscore(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    await databases.create("_replicator")
    assert await databases.names() == ["_replicator"]
    with pytest.raises(NotFoundError):
        await databases.get("nope")
    await databases.close()
