"""The changes feed of a database over HTTP with a filter: it moves on past what is left out."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.errors import RemoteError
from agent.peers import changes_feed
from agent.peers.changes_feed import FeedMode
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.store.sequences import number_of
from tests.patience import PATIENCE
from tests.peers.pouchdb_server import PouchDBServer
from tests.server.api import Api, number_in, running


async def filled(api: Api, count: int) -> None:
    """Documents 0 to `count` - 1 in the new database `db`; every tenth one is wanted."""
    assert (await api.put("/db")).status == 201
    docs = [{"_id": f"{n:04}", "type": "other" if n % 10 else "wanted"} for n in range(count)]
    assert (await api.post("/db/_bulk_docs", {"docs": docs})).status == 201


async def test_pages(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await filled(api, 100)
        peer = CouchPeer.from_url(f"{api.url}/db")
        for options in ({"selector": {"type": "wanted"}}, {"doc_ids": ["0000", "0090", "none"]}):
            feed = peer.changes(0, follow=False, limit=4, **options)
            batches = [batch async for batch in feed]
            found = [change.id for batch in batches for change in batch.changes]
            expected = range(0, 100, 10) if "selector" in options else (0, 90)
            assert found == [f"{n:04}" for n in expected]
            assert all(len(batch.changes) <= 4 for batch in batches)
            assert (number_in(batches[-1].last_seq), batches[-1].pending) == (100, 0)
        await peer.close()


@pytest.mark.parametrize("mode", ["continuous", "longpoll"])
async def test_following(tmp_path: Path, mode: FeedMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_feed, "_PASSED_OVER", 0.3)
    monkeypatch.setattr(changes_feed, "_SHORTEST_FEED", 0.05)
    async with running(tmp_path) as api:
        await filled(api, 11)
        peer = CouchPeer.from_url(f"{api.url}/db", feed=mode, heartbeat=2.0)
        feed = peer.changes(0, follow=True, limit=100, selector={"type": "wanted"})
        async with asyncio.timeout(PATIENCE), contextlib.aclosing(feed) as batches:
            first = await anext(batches)
            assert [change.id for change in first.changes] == ["0000", "0010"]
            await api.write("left out", type="other")
            async for batch in batches:
                assert not batch.changes
                if number_in(batch.last_seq) == 12:
                    assert batch.pending == 0
                    break
            await api.write("late", type="wanted")
            async for batch in batches:
                if batch.changes:
                    assert [change.id for change in batch.changes] == ["late"]
                    assert number_in(batch.last_seq) == 13
                    break
        await peer.close()


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"type": "wanted"},
        {"_deleted": True},
        {"$or": [{"type": "wanted"}, {"_deleted": True}]},
        {"type": {"$exists": False}},
        {"_id": {"$gt": "c"}},
        {"level": {"$gte": 2}},
    ],
)
async def test_a_store_and_its_server_select_the_same(
    tmp_path: Path, selector: dict[str, Any]
) -> None:
    async with running(tmp_path) as api:
        assert (await api.put("/db")).status == 201
        await api.graft("a", "1-a", type="wanted", level=1)
        await api.graft("b", "1-a", type="wanted", level=2)
        await api.graft("b", "1-b", type="other", level=1)
        await api.graft("b", "2-c", "1-d", type="wanted", _deleted=True)
        await api.graft("c", "2-b", "1-a", _deleted=True)
        await api.graft("d", "1-a")
        store = await api.databases.get("db")
        local = LocalPeer(store)
        remote = CouchPeer.from_url(f"{api.url}/db")
        found = []
        for peer in (local, remote):
            feed = peer.changes(0, follow=False, limit=2, selector=selector)
            rows = [change for batch in [batch async for batch in feed] for change in batch.changes]
            found.append([(row.seq, row.id, set(row.revs), row.deleted) for row in rows])
        there = [(number_of(store, seq), *row) for seq, *row in found[1]]
        assert found[0] == there
        assert len(found[0]) > 0
        await remote.close()


async def test_a_selector_that_the_server_refuses(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await filled(api, 1)
        peer = CouchPeer.from_url(f"{api.url}/db")
        with pytest.raises(RemoteError):
            async for _ in peer.changes(0, follow=False, limit=10, selector={"a": {"$x": 1}}):
                pass
        await peer.close()


@pytest.mark.parametrize("mode", ["continuous", "longpoll"])
async def test_following_pouchdb_server(
    shared_pouchdb_server: PouchDBServer, mode: FeedMode
) -> None:
    name = f"{shared_pouchdb_server.url}/filtered-{mode}"
    writer, peer = CouchPeer.from_url(name), CouchPeer.from_url(name, feed=mode)
    await writer.create()
    feed = peer.changes(0, follow=True, limit=100, doc_ids=["a"])
    async with asyncio.timeout(PATIENCE), contextlib.aclosing(feed) as batches:
        first = await anext(batches)
        assert (first.changes, first.pending) == ((), 0)
        for id in ("b", "a"):
            await writer.store([first_revision(id, {})])
        async for batch in batches:
            if batch.changes:
                assert [change.id for change in batch.changes] == ["a"]
                break
    await writer.close()
    await peer.close()
