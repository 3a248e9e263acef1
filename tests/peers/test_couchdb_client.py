"""CouchPeer against a real pouchdb-server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import aiohttp
import pytest
from yarl import URL

from agent.documents.revision import Revision
from agent.errors import (
    AuthError,
    ConflictError,
    ConnectError,
    NotCouchDBError,
    RemoteError,
    RemoteMissingError,
)
from agent.peers.changes_feed import FeedMode
from agent.peers.couchdb import CouchPeer
from agent.peers.peer import START, Change, Peer, WriteResult
from agent.peers.urls import AuthMode
from tests.peers.pouchdb_server import PouchDBServer

Connect: TypeAlias = Callable[..., CouchPeer]

LEFT = Revision("x", 2, ("bb", "aa"), False, '{"v":1}')
RIGHT = Revision("x", 2, ("cc", "aa"), False, '{"v":2}')
GONE = Revision("y", 3, ("b",), True, "{}")
DESIGN = Revision("_design/d", 1, ("d",), False, '{"views":{}}')
ODD = Revision("ö/a b?&+%2F", 1, ("o",), False, '{"z":1.5,"a":[null,"é\\n"]}')
ALL = [LEFT, RIGHT, GONE, DESIGN, ODD]


async def request(method: str, url: str, **options: Any) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(url, encoded=True), **options) as response,
    ):
        assert response.status < 300, await response.text()
        return await response.json(content_type=None)


def named(revisions: list[Revision]) -> list[tuple[str, list[str]]]:
    wanted: dict[str, list[str]] = {}
    for revision in revisions:
        wanted.setdefault(revision.id, []).append(str(revision.rev))
    return list(wanted.items())


@pytest.fixture
def url(shared_pouchdb_server: PouchDBServer) -> str:
    """The URL of a database that does not exist yet."""
    return f"{shared_pouchdb_server.url}/db-{secrets.token_hex(6)}"


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """CouchPeer.from_url; closes what it made."""
    peers: list[CouchPeer] = []

    def connect(url: str, **options: Any) -> CouchPeer:
        peers.append(CouchPeer.from_url(url, **options))
        return peers[-1]

    yield connect
    for peer in peers:
        await peer.close()


@pytest.fixture
async def peer(url: str, connect: Connect) -> CouchPeer:
    peer = connect(url)
    await peer.create()
    return peer


async def test_a_database_is_created_once(peer: CouchPeer) -> None:
    await peer.create()
    info = await peer.info()
    assert (info.doc_count, info.update_seq) == (0, 0)
    assert info.instance_start_time.isdigit()
    assert info.server.startswith("PouchDB Server 4")
    assert await peer.ensure_full_commit() == info.instance_start_time


async def test_a_name_with_a_slash_is_one_database(
    shared_pouchdb_server: PouchDBServer, connect: Connect
) -> None:
    peer: Peer = connect(f"{shared_pouchdb_server.url}/a%2fb")
    assert peer.identity == f"{shared_pouchdb_server.url}/a%2Fb"
    await peer.create()
    await peer.store([LEFT])
    there = await request("GET", f"{shared_pouchdb_server.url}/a%2Fb")
    assert (there["db_name"], there["doc_count"]) == ("ab", 1)  # pouchdb-server drops the slash


async def test_revisions_are_carried_with_their_histories(peer: CouchPeer) -> None:
    for _ in range(2):  # repeating does no harm
        assert await peer.store(ALL) == [WriteResult(r.id, str(r.rev)) for r in ALL]
    found = await peer.fetch(named(ALL))
    assert sorted(found, key=repr) == sorted(ALL, key=repr)
    assert await peer.revs_diff({r.id: [str(r.rev), "9-n"] for r in ALL}) == {
        r.id: ["9-n"] for r in ALL
    }
    assert await peer.revs_diff({"x": ["2-bb"]}) == {}
    assert (await peer.revs_diff({}), await peer.fetch([]), await peer.store([])) == ({}, [], [])


async def test_revisions_that_are_gone_are_left_out(peer: CouchPeer) -> None:
    await peer.store([LEFT])
    assert await peer.fetch([("x", ["1-zz", "2-bb"]), ("nobody", ["1-a"])]) == [LEFT]
    assert await peer.fetch([("x", ["2-bb"])]) == [LEFT]  # pouchdb-server is still alive


async def test_changes_come_in_pages_with_all_leaves(peer: CouchPeer) -> None:
    await peer.store([Revision(f"d{n}", 1, ("a",), False, "{}") for n in range(7)])
    await peer.store([LEFT, RIGHT, GONE])
    batches = [batch async for batch in peer.changes(START, follow=False, limit=3)]
    assert [len(batch.changes) for batch in batches] == [3, 3, 3, 0]
    assert batches[-1].pending == 0
    changes = {change.id: change for batch in batches for change in batch.changes}
    assert sorted(changes["x"].revs) == ["2-bb", "2-cc"]
    assert changes["y"].deleted
    assert not changes["d0"].deleted
    later = [batch async for batch in peer.changes(batches[1].last_seq, follow=False, limit=99)]
    assert [change for batch in later for change in batch.changes] == list(batches[2].changes)


@pytest.mark.parametrize("feed", ["continuous", "longpoll"])
async def test_new_changes_arrive_as_they_are_made(
    url: str, feed: FeedMode, connect: Connect
) -> None:
    peer = connect(url, feed=feed, heartbeat=2.0)
    await peer.create()
    await peer.store([LEFT])
    seen: list[Change] = []

    async def write_after_some_heartbeats() -> None:
        await asyncio.sleep(6 if len(seen) == 1 else 0)  # two and a half make a silence
        await peer.store([Revision(f"n{len(seen)}", 1, ("a",), False, "{}")])

    writing = asyncio.create_task(asyncio.sleep(0))
    async with aclosing(peer.changes(START, follow=True, limit=10)) as batches:
        async for batch in batches:
            assert batch.pending == 0
            seen += batch.changes
            if len(seen) == 3:
                break
            await writing
            writing = asyncio.create_task(write_after_some_heartbeats())
    assert [change.id for change in seen] == ["x", "n1", "n2"]


async def test_one_bad_document_does_not_keep_the_others_back(peer: CouchPeer) -> None:
    bad = Revision("_bad", 1, ("a",), False, "{}")
    results = await peer.store([LEFT, RIGHT, bad, GONE])
    assert [result.error for result in results] == [None, None, "bad_request", None]
    assert results[2].reason == "Only reserved document ids may start with underscore."
    assert len(await peer.fetch(named([LEFT, RIGHT, GONE]))) == 3


async def test_documents_that_cannot_be_carried_are_named(peer: CouchPeer, url: str) -> None:
    await peer.store(ALL)
    # json.dumps writes half a surrogate pair as an escape, which no UTF-8 text can hold.
    half = await request("PUT", f"{url}/half", json={"text": "\ud800"})
    huge = await request(
        "PUT",
        f"{url}/huge",
        data='{"deep":' + "[" * 1500 + "]" * 1500 + "}",
        headers={"Content-Type": "application/json"},
    )
    refused = [(row["id"], [row["rev"]]) for row in (half, huge)]
    found = await peer.fetch([*refused, *named(ALL)])
    errors = {item.id: item for item in found if isinstance(item, WriteResult)}
    assert {(item.id, item.rev) for item in errors.values()} == {
        (id, revs[0]) for id, revs in refused
    }
    assert all(item.reason for item in errors.values())
    assert len(found) == len(ALL) + len(refused)


async def test_local_documents(peer: CouchPeer) -> None:
    id = "a.b_c=d/e ü"
    assert await peer.get_local(id) is None
    rev = await peer.put_local(id, {"n": 1, "nested": {"_x": [1]}})
    assert await peer.get_local(id) == {"_rev": rev, "n": 1, "nested": {"_x": [1]}}
    newer = await peer.put_local(id, {"_rev": rev, "n": 2})
    assert newer != rev
    with pytest.raises(ConflictError, match="read it again"):
        await peer.put_local(id, {"_rev": rev, "n": 3})
    assert await peer.get_local(id) == {"_rev": newer, "n": 2}


async def test_every_call_says_that_there_is_no_database(url: str, connect: Connect) -> None:
    peer = connect(url)
    calls = [
        peer.info(),
        peer.revs_diff({"x": ["1-a"]}),
        peer.fetch([("x", ["1-a"])]),
        peer.store([LEFT]),
        peer.get_local("x"),
        peer.put_local("x", {}),
        peer.ensure_full_commit(),
        anext(peer.changes(START, follow=False, limit=1)),
    ]
    for call in calls:
        with pytest.raises(RemoteMissingError, match=f"^{url} does not exist .*create"):
            await call


async def test_a_bad_name_is_refused(
    shared_pouchdb_server: PouchDBServer, connect: Connect
) -> None:
    peer = connect(f"{shared_pouchdb_server.url}/_config")
    with pytest.raises((RemoteError, NotCouchDBError)):
        await peer.info()


async def test_log_in(pouchdb_server: PouchDBServer, connect: Connect) -> None:
    await request("PUT", f"{pouchdb_server.url}/_config/admins/anna", json="s3/cret@")
    place = pouchdb_server.url.removeprefix("http://")
    modes: list[AuthMode] = ["auto", "cookie", "basic"]
    for auth in modes:
        wrong = connect(f"http://{place}/db", user="anna", password="oops", auth=auth)
        with pytest.raises(AuthError, match=r"refused user 'anna' .*check the user") as error:
            await wrong.create()
        assert "oops" not in repr(error.value)

        peer = connect(f"http://anna:s3%2Fcret%40@{place}/db", auth=auth)
        assert peer.label == f"http://{place}/db"
        assert "s3" not in repr(peer) + repr(vars(peer)) + repr(vars(peer._http))
        await peer.create()
        await peer.store([LEFT])


async def test_a_server_that_dies_and_comes_back(
    pouchdb_server: PouchDBServer, connect: Connect
) -> None:
    peer = connect(f"{pouchdb_server.url}/db", heartbeat=0.2)
    await peer.create()
    await peer.store(ALL)
    async with aclosing(peer.changes(START, follow=True, limit=10)) as batches:
        await anext(batches)
        waiting = asyncio.create_task(anext(batches))
        await asyncio.sleep(0.5)
        await pouchdb_server.kill()
        with pytest.raises(ConnectError):
            await waiting
    with pytest.raises(ConnectError, match=r"cannot be reached \(.*refused.*check that the server"):
        await peer.info()
    await pouchdb_server.start()
    assert len(await peer.fetch(named(ALL))) == len(ALL)
