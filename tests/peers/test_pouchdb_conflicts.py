"""A hub that resolves conflicts, and the real PouchDB, which knows nothing of policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.documents.policies import Policy, ThreeWay
from agent.documents.selector import parse_selector
from agent.replication.conflicts import Resolver
from tests.patience import until
from tests.peers.pouch import Pouch, PouchDatabase
from tests.peers.test_pouchdb_with_agent import remote, settled, trees_of_agent
from tests.server.api import Api, running


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Api]:
    """A server that merges the conflicts of its database `db`."""
    async with running(tmp_path / "hub") as api:
        await api.put("/db")
        policy = Policy("merge", parse_selector({}), ThreeWay(), ancestors=10)
        task = asyncio.create_task(Resolver(api.databases, "db", [policy]).run())
        yield api
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def local(pouch: Pouch) -> PouchDatabase:
    return await pouch.open("local")


async def conflicts(hub: Api) -> int:
    total: int = (await hub.get("/db/_conflicts")).json["total"]
    return total


async def test_pouchdb_sees_a_resolution_as_any_edit(hub: Api, local: PouchDatabase) -> None:
    url = remote(hub)
    rev = (await local.put({"_id": "a", "temperature": 20.0, "mode": "auto"}))["rev"]
    await local.replicate_to(url)
    await hub.write("a", _rev=rev, temperature=21.5, mode="auto")
    await local.put({"_id": "a", "_rev": rev, "temperature": 20.0, "mode": "manual"})
    await local.replicate_to(url)

    async def resolved() -> bool:
        return await conflicts(hub) == 0

    await until(resolved)
    await local.sync(url)
    trees = await settled(hub, local)
    assert len(trees["a"]) == 3  # which is the winner; the merged one; the tombstone
    doc = await local.get("a", conflicts=True)
    assert {name: doc[name] for name in ("temperature", "mode")} == {
        "temperature": 21.5,
        "mode": "manual",
    }
    assert "_conflicts" not in doc


async def test_an_edit_of_a_branch_that_was_merged_meanwhile_does_not_clash_with_itself(
    hub: Api, local: PouchDatabase
) -> None:
    """PouchDB edits the same field twice; the hub has merged the first edit before the second."""
    url = remote(hub)
    rev = (await local.put({"_id": "a", "hub": 0, "pouch": 0}))["rev"]
    await local.replicate_to(url)
    await hub.write("a", _rev=rev, hub=1, pouch=0)
    first = (await local.put({"_id": "a", "_rev": rev, "hub": 0, "pouch": 1}))["rev"]
    await local.replicate_to(url)

    async def resolved() -> bool:
        return await conflicts(hub) == 0

    await until(resolved)
    await local.put({"_id": "a", "_rev": first, "hub": 0, "pouch": 2})
    await local.replicate_to(url)
    await until(resolved)
    await local.sync(url)
    await settled(hub, local)
    doc = await local.get("a", conflicts=True)
    assert (doc["hub"], doc["pouch"]) == (1, 2)
    assert "_conflicts" not in doc


async def test_pouchdb_ends_a_conflict_by_itself(hub: Api, local: PouchDatabase) -> None:
    """Its tombstone, without a word on where the branch went, is as good as any."""
    url = remote(hub)
    rev = (await local.put({"_id": "a", "v": 0}))["rev"]
    await local.replicate_to(url)
    await hub.write("a", _rev=rev, v=1)
    await local.put({"_id": "a", "_rev": rev, "v": 2})
    await local.sync(url)
    assert await conflicts(hub) == 1  # both have changed v: it waits
    doc = await local.get("a", conflicts=True)
    [loser] = doc["_conflicts"]
    await local.remove("a", loser)
    await local.sync(url)
    assert await conflicts(hub) == 0
    assert (await hub.get("/db/a")).json["_rev"] == doc["_rev"]
    assert len((await trees_of_agent(hub))["a"]) == 3
