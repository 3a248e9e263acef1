"""The agent's own replicator against the real pouchdb-server, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from agent.documents.revision import Rev, canonical, first_revision
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.peer import Peer
from agent.replication.replicator import Replicator
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.patience import until
from tests.peers.pouchdb_server import PouchDBServer


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "gateway.sqlite")
    yield store
    await store.close()


@pytest.fixture
async def cloud(pouchdb_server: PouchDBServer) -> AsyncIterator[CouchPeer]:
    peer = CouchPeer.from_url(f"{pouchdb_server.url}/edge")
    await peer.create()
    yield peer
    await peer.close()


async def edit(
    store: Store, id: str, rev: Rev | None, *, deleted: bool = False, **body: Any
) -> Rev:
    text = msgspec.json.encode(body).decode()
    (result,) = await store.edit([Edit(id, rev, deleted, text, canonical(body))])
    assert result is not None
    return result


async def leaves(peer: Peer) -> dict[str, tuple[set[str], bool]]:
    """By id: all leaf revisions, and whether the winner is a tombstone."""
    found = {}
    async for batch in peer.changes(0, follow=False, limit=1000):
        for change in batch.changes:
            found[change.id] = (set(change.revs), change.deleted)
    return found


async def winner(server: PouchDBServer, id: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/edge/{id}") as response,
    ):
        return str((await response.json(content_type=None))["_rev"])


async def both_ways(gateway: Store, cloud: CouchPeer) -> list[Replicator]:
    runs = [
        Replicator(LocalPeer(gateway), cloud),
        Replicator(cloud, LocalPeer(gateway)),
    ]
    for replicator in runs:
        await replicator.run()
    return runs


async def test_both_ways_with_conflicts_tombstones_and_checkpoints(
    gateway: Store, cloud: CouchPeer, pouchdb_server: PouchDBServer, tmp_path: Path
) -> None:
    other = await Store.open(tmp_path / "other.sqlite")
    await gateway.graft([first_revision(f"r{n:04d}", {"value": n}) for n in range(700)])
    base = await edit(gateway, "setpoint", None, value=1)
    gone = await edit(gateway, "gone", None, value=1)
    push, _ = await both_ways(gateway, cloud)
    assert push.progress.docs_written == 702
    await both_ways(other, cloud)

    # Another gateway edits the same documents, through the same server.
    await edit(gateway, "setpoint", base, value=2)
    await edit(other, "setpoint", base, value=3)
    await edit(other, "gone", gone, deleted=True)
    await both_ways(other, cloud)
    push, pull = await both_ways(gateway, cloud)
    # Checkpoints: only what is new was looked at.
    assert push.progress.changes_read < 5
    assert pull.progress.changes_read < 5
    await both_ways(other, cloud)

    local = await leaves(LocalPeer(gateway))
    assert local == await leaves(LocalPeer(other))
    assert local == await leaves(cloud)
    assert len(local["setpoint"][0]) == 2
    assert local["gone"][1]
    setpoint = await gateway.get("setpoint")
    assert setpoint is not None
    assert str(setpoint.rev) == await winner(pouchdb_server, "setpoint")
    assert setpoint.conflicts == 1

    push, pull = await both_ways(gateway, cloud)
    assert push.progress.missing_checked + pull.progress.missing_checked <= 4
    assert push.progress.docs_written + pull.progress.docs_written == 0
    await other.close()


async def test_live_in_both_directions_through_a_restart_of_the_server(
    gateway: Store, cloud: CouchPeer, pouchdb_server: PouchDBServer
) -> None:
    async def arrived(id: str) -> None:
        async def there() -> bool:
            return id in await leaves(cloud)

        await until(there, f"{id} arrives")

    live = asyncio.create_task(Replicator(LocalPeer(gateway), cloud, continuous=True).run())
    await edit(gateway, "before", None, value=1)
    await arrived("before")
    live.cancel()
    await asyncio.gather(live, return_exceptions=True)
    await pouchdb_server.stop()
    await edit(gateway, "meanwhile", None, value=2)
    await pouchdb_server.start()
    await Replicator(LocalPeer(gateway), cloud).run()
    assert await leaves(cloud) == await leaves(LocalPeer(gateway))
