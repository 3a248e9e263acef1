"""The folder of databases, under callers that come at the same time or give up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from pathlib import Path

import pytest

from agent.errors import NotFoundError, StoreError
from agent.peers.local import DatabasePeer
from agent.store import store as stores
from agent.store.databases import Databases
from tests.patience import PATIENCE
from tests.store.helpers import put, reading


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


# --- many ------------------------------------------------------------------------------


async def fill(databases: Databases, count: int) -> None:
    """Make databases `n0`, `n1`, ... with a document each."""
    for number in range(count):
        with databases.using(f"n{number}"):
            await put(await databases.create(f"n{number}"), "x", number=number)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def writers() -> int:
    return sum(thread.name.startswith("writer") for thread in threading.enumerate())


async def test_those_not_used_for_longest_are_closed(tmp_path: Path) -> None:
    databases = Databases(tmp_path, most_open=3)
    await fill(databases, 3)
    files, threads = open_files(), writers()
    first, second, third = [await databases.get(f"n{number}") for number in range(3)]
    await databases.get("n0")
    await databases.create("more")
    assert (first.closed, second.closed, third.closed) == (False, True, False)
    for number in range(12):
        await databases.create(f"z{number}")
    assert first.closed
    assert open_files() <= files
    assert writers() == threads
    for number in range(3):
        with databases.using(f"n{number}"):
            document = await (await databases.get(f"n{number}")).get("x")
            assert document is not None
            assert document.body == f'{{"number":{number}}}'
    await databases.close()


async def test_those_in_use_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    databases = Databases(tmp_path, most_open=2)
    finished = asyncio.Event()

    async def compaction(_: object, **__: object) -> None:
        await finished.wait()

    monkeypatch.setattr(stores, "compact", compaction)
    held, compacted = await databases.create("held"), await databases.create("compacted")
    databases.hold("held")
    task = compacted.start_compaction()
    with databases.using("used"), databases.using("used"):
        used = await databases.create("used")
        await fill(databases, 5)
        assert (held.closed, compacted.closed, used.closed) == (False, False, False)
    finished.set()
    await task
    await databases.create("last")
    assert (held.closed, compacted.closed, used.closed) == (False, True, True)
    await databases.close()


async def test_a_database_is_open_until_its_peer_is_closed(tmp_path: Path) -> None:
    databases = Databases(tmp_path, most_open=2)
    store = await databases.create("db")
    peer = DatabasePeer(databases, "db")
    await peer.info()
    await fill(databases, 5)
    await peer.info()  # as every run of a replication does
    batches = peer.changes(0, follow=True, limit=10)
    assert (await anext(batches)).pending == 0
    follower = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    await databases.create("another")
    await store.graft([reading(1)])
    assert [change.id for change in (await follower).changes] == [reading(1).id]
    await batches.aclose()
    await peer.close()
    await databases.create("last")
    assert store.closed
    await databases.close()


async def test_many_tasks_share_few_open_databases(tmp_path: Path) -> None:
    """Opening, closing, making and deleting meet in all ways; no use of a store is cut off."""
    databases = Databases(tmp_path, most_open=2)
    await fill(databases, 6)
    dice = random.Random(5)
    written: list[tuple[str, str]] = []

    async def work(task: int) -> None:
        for turn in range(6):
            name = f"n{dice.randrange(6)}"
            with databases.using(name):
                store = await databases.get(name)
                await asyncio.sleep(dice.random() / 500)
                await store.put_local(f"{task}-{turn}", None, "{}")
                written.append((name, f"{task}-{turn}"))
            if turn % 4 == 0:
                await databases.create(f"own{task}")
                await databases.delete(f"own{task}")

    await asyncio.gather(*map(work, range(8)))
    assert len(written) == 8 * 6
    for name, id in written:
        with databases.using(name):
            assert await (await databases.get(name)).get_local(id)
    await databases.close()


async def test_deleting_a_busy_database_holds_up_no_other(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    store = await databases.create("busy")
    begun, release = threading.Event(), threading.Event()

    def read() -> None:
        begun.set()
        release.wait(2 * PATIENCE)

    reading = asyncio.create_task(store.examine(read))
    await asyncio.to_thread(begun.wait)
    deleting = asyncio.create_task(databases.delete("busy"))
    async with asyncio.timeout(PATIENCE):
        await databases.create("other")
        await databases.delete("other")
    assert not deleting.done()
    release.set()
    await deleting
    await reading
    with pytest.raises(NotFoundError):
        await databases.get("busy")
    await databases.close()
