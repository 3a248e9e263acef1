"""Two databases are compared: over every kind of peer, and while they change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.documents.ranges import Leaves, Span
from agent.documents.revision import Revision
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.peer import Comparable, Peer, WriteResult
from agent.replication import verification
from agent.replication.replicator import Replicator
from agent.replication.verification import Difference, Verification
from agent.server.app import make_app
from agent.server.http import serve
from agent.store.databases import Databases
from agent.store.store import Store
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import contents, gateway, site
from tests.peers.pouchdb_server import PouchDBServer
from tests.replication.faulty import FaultyPeer
from tests.store.helpers import put, reading, revision

COUNT = 3000


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "here.sqlite")
    yield store
    await store.close()


@pytest.fixture(params=["local", "http", "mqtt"])
async def there(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Peer, Store]]:
    """Another agent's database: as it is reached, and the store itself."""
    if request.param == "mqtt":
        async with (
            Mosquitto(tmp_path / "broker") as broker,
            site(tmp_path, broker) as far,
            gateway(far.url) as peer,
        ):
            yield peer, far.hub
        return
    databases = Databases(tmp_path / "there")
    store = await databases.ensure("edge")
    if request.param == "local":
        yield LocalPeer(store), store
    else:
        server = await serve(make_app(databases), "127.0.0.1", 0)
        peer = CouchPeer.from_url(f"{server.url}/edge")
        yield peer, store
        await peer.close()
        await server.close()
    await databases.close()


async def found(verification: Verification) -> list[Difference]:
    return [item async for item in verification.differences(settle=0)]


async def test_equal(here: Store, there: tuple[Peer, Store]) -> None:
    peer, store = there
    check = Verification(LocalPeer(here), peer)
    assert await found(check) == []
    documents = [reading(number) for number in range(COUNT)]
    await here.graft([*documents, revision("x", "b", "a"), revision("x", "c", "a")])
    await store.graft([revision("x", "c", "a"), revision("x", "b", "a"), *reversed(documents)])
    assert await found(check) == []
    assert (check.by, check.documents) == ("ranges", COUNT + 1)


async def differ(here: Store, store: Store) -> set[str]:
    """Make two equal databases differ in every way; returns in which documents."""
    documents = [reading(number) for number in range(COUNT)]
    chance = random.Random(11)
    only_here, only_there, edited, deleted, conflict = chance.sample(documents, 5)
    await here.graft([item for item in documents if item is not only_there])
    await store.graft([item for item in documents if item is not only_here])
    await put(store, edited.id, str(edited.rev), by="cloud")
    await put(here, deleted.id, str(deleted.rev), _deleted=True)
    for side, by in ((here, "edge"), (store, "cloud")):
        await put(side, conflict.id, str(conflict.rev), by=by)
    return {item.id for item in (only_here, only_there, edited, deleted, conflict)}


async def test_different_and_repaired(here: Store, there: tuple[Peer, Store]) -> None:
    peer, store = there
    really = await differ(here, store)
    check = Verification(LocalPeer(here), peer)
    told = await found(check)
    assert {item.id for item in told} == really
    assert sum(len(item.missing_in_target) for item in told) == 3
    assert sum(len(item.missing_in_source) for item in told) == 3
    assert await check.repair(told) == 6
    assert await found(check) == []
    assert await contents(here) == await contents(store)
    conflicts = (await here.info()).conflict_count
    assert conflicts == 1


async def test_one_side_is_empty(here: Store, there: tuple[Peer, Store]) -> None:
    peer, store = there
    await store.graft([reading(number) for number in range(COUNT)])
    check = Verification(LocalPeer(here), peer)
    told = await found(check)
    assert len(told) == COUNT == check.documents
    assert all(item.missing_in_source and not item.missing_in_target for item in told)


async def test_what_a_replication_brings_meanwhile_is_no_difference(
    here: Store, tmp_path: Path
) -> None:
    other = await Store.open(tmp_path / "other.sqlite")
    await here.graft([reading(number) for number in range(COUNT)])
    source, target = LocalPeer(here), LocalPeer(other)
    live = asyncio.create_task(Replicator(source, target, continuous=True).run())

    async def write() -> None:
        for number in range(COUNT, COUNT + 200):
            await here.graft([reading(number)])

    writing = asyncio.create_task(write())
    check = Verification(source, target)
    told = [item async for item in check.differences(settle=3.0)]
    await writing
    assert told == []
    live.cancel()
    await asyncio.gather(live, return_exceptions=True)
    await other.close()


async def test_a_range_that_is_larger_than_a_page(
    here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody might make on purpose, with ids of which none begins a range."""
    monkeypatch.setattr(verification, "_LEAVES", 10)
    other = await Store.open(tmp_path / "other.sqlite")
    really = await differ(here, other)
    told = await found(Verification(LocalPeer(here), LocalPeer(other)))
    assert {item.id for item in told} == really
    await other.close()


async def test_with_pouchdb_server_by_changes(
    here: Store, shared_pouchdb_server: PouchDBServer
) -> None:
    peer = CouchPeer.from_url(f"{shared_pouchdb_server.url}/verified")
    await peer.create()
    await here.graft([reading(number) for number in range(300)])
    await here.graft([revision("x", "b", "a"), revision("x", "c", "a")])
    await put(here, "gone", None, n=1)
    await Replicator(LocalPeer(here), peer).run()
    check = Verification(LocalPeer(here), peer)
    assert await found(check) == []
    assert (check.by, check.documents) == ("changes", 302)
    await put(here, "mine", None, n=1)
    await peer.store([Revision("theirs", 1, ("a" * 32,), False, '{"n":1}')])
    gone = await here.get("gone")
    assert gone is not None
    await put(here, "gone", str(gone.rev), _deleted=True)
    told = await found(check)
    assert [item.id for item in told] == ["gone", "mine", "theirs"]
    assert await check.repair(told) == 3
    assert await found(check) == []
    await peer.close()


async def test_what_is_refused_does_not_keep_the_rest_from_being_repaired(
    here: Store, tmp_path: Path
) -> None:
    class Refusing(FaultyPeer):
        async def store(self, revisions: Any, contents: Any = None) -> Any:
            stored = list(await super().store(revisions, contents))
            bad = [number for number, item in enumerate(revisions) if item.id == "bad"]
            for number in bad:
                stored[number] = WriteResult("bad", stored[number].rev, "forbidden", "no")
            return stored

    other = await Store.open(tmp_path / "other.sqlite")
    await here.graft([reading(number) for number in range(50)])
    await put(here, "bad", None, n=1)
    await put(here, "large", None, text="x" * 2000)
    conflict = [revision("both", "b", "a"), revision("both", "c", "a")]
    await here.graft(conflict)
    there = Refusing(other, random.Random(1), 0)
    there.most_revisions, there.most_bytes = 1, 2000
    check = Verification(LocalPeer(here), there)
    told = await found(check)
    assert len(told) == 53
    assert await check.repair(told) == 52
    assert [(item.id, item.by) for item in check.refused] == [
        ("bad", there.label),
        ("large", there.label),
    ]
    assert check.refused[0].reason == "forbidden: no"
    assert check.refused[1].reason.startswith("too_large: ")
    assert {item.id for item in await found(check)} == {"large"}
    await other.close()


async def test_few_questions_for_many_equal_documents(here: Store, tmp_path: Path) -> None:
    class Asked(LocalPeer):
        leaves_asked = 0

        async def leaves(self, span: Span, limit: int) -> list[Leaves]:
            self.leaves_asked += 1
            return list(await super().leaves(span, limit))

    other = await Store.open(tmp_path / "other.sqlite")
    documents = [reading(number) for number in range(COUNT)]
    await here.graft(documents)
    await other.graft(documents[:-1])
    target = Asked(other)
    assert isinstance(target, Comparable)
    (told,) = await found(Verification(LocalPeer(here), target))
    assert told.id == documents[-1].id
    assert target.leaves_asked == 1
    await other.close()
