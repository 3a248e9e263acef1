"""Two PouchDB clients that work through one hub, and at times offline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from tests.clients.conftest import ADMIN, Hub
from tests.patience import until
from tests.peers.pouch import Pouch, PouchDatabase
from tests.peers.test_pouchdb_with_agent import Leaves, trees_of_pouch

CLIENTS = ("one", "two")
CONTENT = bytes(range(256)) * 400


@pytest.fixture
async def clients(pouch: Pouch) -> Sequence[PouchDatabase]:
    """The databases of two clients, in memory."""
    return [await pouch.open(name) for name in CLIENTS]


@pytest.fixture
async def remote(pouch: Pouch, hub: Hub, new_name: str) -> PouchDatabase:
    """An empty database of the hub, as PouchDB sees it. It has the credentials in its name."""
    return await pouch.open_remote(f"{hub.url_for(ADMIN)}/{quote(new_name, safe='')}")


@asynccontextmanager
async def online(clients: Sequence[PouchDatabase], remote: PouchDatabase) -> AsyncIterator[None]:
    """Both clients are in live sync with the hub inside, and offline again afterwards."""
    async with AsyncExitStack() as stack:
        for client in clients:
            live = await client.live(remote.name, retry=True)
            stack.push_async_callback(live.stop)
        yield


async def settled(*databases: PouchDatabase, documents: int) -> dict[str, Leaves]:
    """Waits until all have so many documents and the same leaves, histories and winners."""
    trees: list[dict[str, Leaves]] = []

    async def equal() -> bool:
        trees[:] = [await trees_of_pouch(database) for database in databases]
        return len(trees[0]) == documents and all(tree == trees[0] for tree in trees)

    await until(equal)
    return trees[0]


async def edit(database: PouchDatabase, id: str, **members: Any) -> None:
    await database.put({**await database.get(id), **members})


async def test_what_one_writes_the_other_gets(
    clients: Sequence[PouchDatabase], remote: PouchDatabase
) -> None:
    one, two = clients
    async with online(clients, remote):
        for number in range(3):
            for writer, database in {"one": one, "two": two, "hub": remote}.items():
                await database.put({"_id": f"{number} of {writer}"})
            await asyncio.sleep(0.05)
        await settled(one, two, remote, documents=9)
        await one.put_attachment("picture", "p.png", CONTENT, "image/png")
        await settled(one, two, remote, documents=10)
        assert await two.get_attachment("picture", "p.png") == CONTENT


async def test_both_edit_offline(clients: Sequence[PouchDatabase], remote: PouchDatabase) -> None:
    one, two = clients
    for id in ("both edit", "one deletes", "untouched"):
        await one.put({"_id": id, "by": "nobody"})
    async with online(clients, remote):
        await settled(one, two, remote, documents=3)

    for client in clients:
        await edit(client, "both edit", by=client.name)
        await client.put({"_id": f"new of {client.name}"})
        attached = {"content_type": "text/plain", "data": "b2ZmbGluZQ=="}
        await client.put({"_id": f"file of {client.name}", "_attachments": {"f.txt": attached}})
    await edit(two, "both edit", again=True)  # a longer history wins
    await edit(two, "one deletes", by="two")
    await one.remove("one deletes", (await one.get("one deletes"))["_rev"])
    async with online(clients, remote):
        trees = await settled(one, two, remote, documents=7)

        assert len(trees["both edit"]) == len(trees["one deletes"]) == 3  # the winner, two leaves
        for database in (one, two, remote):
            winner = await database.get("both edit", conflicts=True)
            assert winner["by"] == "two"
            [loser] = winner["_conflicts"]
            assert (await database.get("both edit", rev=loser))["by"] == "one"
            assert (await database.get("one deletes"))["by"] == "two"
            for client in CLIENTS:
                assert await database.get_attachment(f"file of {client}", "f.txt") == b"offline"

        await one.remove("both edit", loser)  # one of them resolves it, for all
        await settled(one, two, remote, documents=7)
        for database in (one, two, remote):
            assert "_conflicts" not in await database.get("both edit", conflicts=True)


async def test_a_clash_that_only_the_hash_decides(
    clients: Sequence[PouchDatabase], remote: PouchDatabase
) -> None:
    for client in clients:
        await client.bulk_docs([{"_id": str(n), "by": client.name} for n in range(8)])
    async with online(clients, remote):
        trees = await settled(*clients, remote, documents=8)
    for winner, *leaves in trees.values():
        revs = [leaf["_rev"] for leaf in leaves]
        assert len(revs) == 2
        assert winner["winner"] == max(revs)
