"""aiocouch, unmodified, with a real hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiocouch import (
    BadRequestError,
    ConflictError,
    CouchDB,
    ForbiddenError,
    NotFoundError,
    PreconditionFailedError,
    UnauthorizedError,
)
from aiocouch.database import Database
from aiocouch.document import Document
from aiocouch.event import ChangedEvent, DeletedEvent

from tests.clients.conftest import ADMIN, MEMBER, Hub
from tests.patience import PATIENCE
from tests.server.accounts import password_of

# aiocouch 4.0 logs in with what aiohttp 4 will not have any more.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what} is deprecated:DeprecationWarning:aiocouch.remote")
    for what in ("BasicAuth", "The 'auth' parameter")
]


def connection(hub: Hub, name: str, **options: Any) -> CouchDB:
    return CouchDB(hub.url, user=name, password=password_of(name), **options)


@pytest.fixture
async def couchdb(hub: Hub) -> AsyncIterator[CouchDB]:
    """A connection of an administrator."""
    async with connection(hub, ADMIN) as couchdb:
        yield couchdb


@pytest.fixture
async def db(couchdb: CouchDB, new_name: str) -> Database:
    """An empty database. aiocouch does not escape its name everywhere, so this one is plain."""
    return await couchdb.create(new_name.replace("/", "-").replace("+", "-"))


async def fill(db: Database, count: int) -> list[Document]:
    """Documents "0000", "0001" and so on."""
    async with db.create_docs() as bulk:
        for n in range(count):
            bulk.create(f"{n:04}", data={"n": n, "even": n % 2 == 0})
    assert bulk.error == []
    assert bulk.ok is not None
    return bulk.ok


# --- the server and its users ----------------------------------------------------------


async def test_logging_in_with_a_password(hub: Hub) -> None:
    async with connection(hub, MEMBER) as couchdb:
        await couchdb.check_credentials()
        assert (await couchdb.info())["couchdb"] == "Welcome"
        with pytest.raises(UnauthorizedError):
            await couchdb.create("not-by-mia")
    async with CouchDB(hub.url, user=MEMBER, password="wrong") as couchdb:
        with pytest.raises(UnauthorizedError):
            await couchdb.check_credentials()


async def test_logging_in_with_the_cookie_of_a_session(hub: Hub) -> None:
    body = {"name": ADMIN, "password": password_of(ADMIN)}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{hub.url}/_session", json=body) as answer,
    ):
        cookie = answer.cookies["AuthSession"].value
    async with CouchDB(hub.url, cookie=cookie) as couchdb:
        await couchdb.check_credentials()
        assert isinstance(await couchdb.keys(), list)


async def test_databases(couchdb: CouchDB, new_name: str) -> None:
    db = await couchdb.create(new_name)
    with pytest.raises(PreconditionFailedError):
        await couchdb.create(new_name)
    assert (await couchdb.create(new_name, exists_ok=True)).id == new_name
    with pytest.raises(BadRequestError):
        await couchdb.create("Capital")
    assert new_name in await couchdb.keys()
    assert (await (await couchdb[new_name]).info())["db_name"] == new_name
    await db.delete()
    with pytest.raises(NotFoundError):
        await couchdb[new_name]
    with pytest.raises(NotFoundError):
        await db.info()


async def test_letting_a_member_in(db: Database, hub: Hub) -> None:
    async with connection(hub, MEMBER) as couchdb:
        with pytest.raises(ForbiddenError):
            await couchdb[db.id]
        async with await db.security() as security:
            assert security.member_roles == ["_admin"]
            security.remove_member_role("_admin")
            security.add_member(MEMBER)
        assert (await db.security()).members == [MEMBER]
        hers = await couchdb[db.id]
        await (await hers.create("by mia", data={"v": 1})).save()
        with pytest.raises(ForbiddenError):
            await (await hers.design_doc("d")).save()


# --- documents -------------------------------------------------------------------------


async def test_writing_and_reading_a_document(db: Database) -> None:
    doc = await db.create("ä/☃ +%20?", data={"v": 1, "°": [None]})
    saved = await doc.save()
    assert saved is not None
    assert (saved.status, saved.etag) == (201, doc.rev)
    assert await doc.save() is None  # nothing has changed since
    first = doc.rev
    doc["v"] = 2
    await doc.save()
    assert await doc.revs() == [doc.rev, first]
    assert await doc.info() == {"ok": True, "id": doc.id, "rev": doc.rev}

    read = await db[doc.id]
    assert (read.json, read.rev) == ({"v": 2, "°": [None]}, doc.rev)
    assert (await db.get(doc.id, rev=first))["v"] == 1
    with pytest.raises(ConflictError):
        await db.create(doc.id)
    read["v"] = 3
    await read.save()
    doc["v"] = 4
    with pytest.raises(ConflictError):
        await doc.save()
    await doc.fetch(discard_changes=True)
    assert doc["v"] == 3

    copied = await doc.copy("copy")
    assert (await db["copy"]).rev == copied.etag
    with pytest.raises(ConflictError):
        await doc.copy("copy")
    assert (await doc.delete()).status == 200
    with pytest.raises(NotFoundError):
        await db[doc.id]
    assert not (await db.get(doc.id, default={})).exists
    with pytest.raises(BadRequestError):
        await db.get("copy", rev="no revision")


async def test_editing_in_a_block(db: Database) -> None:
    for _ in range(2):
        async with Document(db, "counter") as doc:
            doc["count"] = doc.get("count", 0) + 1
    assert (await db["counter"]).json == {"count": 2}
    assert await doc.conflicts() == []


async def test_many_documents_at_once(db: Database) -> None:
    await fill(db, 12)
    async with db.update_docs(["0003", "new"], create=True) as bulk:
        async for doc in bulk:
            doc["seen"] = True
    assert bulk.ok is not None
    assert [doc.id for doc in bulk.ok] == ["0003", "new"]
    async with db.create_docs(["0003", "newer"]) as bulk:
        pass
    assert bulk.ok is not None
    assert bulk.error is not None
    assert [[doc.id for doc in docs] for docs in (bulk.ok, bulk.error)] == [["newer"], ["0003"]]
    assert bulk.response is not None
    assert bulk.response[0]["error"] == "conflict"

    assert [doc.id async for doc in db.docs(["0009", "0001"])] == ["0009", "0001"]
    assert [doc.id async for doc in db.docs(prefix="new")] == ["new", "newer"]
    with pytest.raises(NotFoundError):
        assert [doc.id async for doc in db.docs(["never"])]
    assert [key async for key in db.akeys(limit=2, descending="true")] == ["newer", "new"]
    keys = [key async for key in db.all_docs.ids(["0001", "never"])]
    assert keys == ["0001"]
    rows = await db.all_docs.get(startkey='"0003"', endkey='"0005"', update_seq=True)
    assert (rows.total_rows, rows.offset, list(rows.keys())) == (14, 3, ["0003", "0004", "0005"])


async def test_design_documents_are_stored_and_their_functions_refused(db: Database) -> None:
    design = await db.design_doc("d")
    await design.create_view("by-n", map_function="function (doc) { emit(doc.n) }")
    with pytest.raises(ConflictError):
        await db.design_doc("d")
    assert [doc.id async for doc in db.docs(include_ddocs=True)] == ["_design/d"]
    assert [doc.id async for doc in db.docs()] == []
    with pytest.raises(aiohttp.ClientResponseError) as refused:
        await db.view("d", "by-n").get()
    assert refused.value.status == 501


async def test_queries(db: Database) -> None:
    await fill(db, 25)
    made = await db.index({"fields": ["n"]}, name="n", ddoc="by-n")
    assert made["result"] == "created"
    newest_first: dict[str, Any] = {"sort": [{"n": "desc"}], "use_index": "by-n"}
    found = [doc async for doc in db.find({"n": {"$gte": 5}}, **newest_first)]
    assert [doc["n"] for doc in found] == list(range(24, 4, -1))
    found[0]["n"] = 100  # what was found can be edited
    await found[0].save()
    assert [doc["n"] async for doc in db.find({"even": True}, limit=2)] == [0, 2]
    with pytest.raises(BadRequestError):
        assert [doc async for doc in db.find({"n": {"$never": 1}})]


async def test_attachments(db: Database) -> None:
    content = bytes(range(256)) * 400
    doc = await db.create("x")
    await doc.save()
    attachment = doc.attachment("ä/b.bin")
    assert not await attachment.exists()
    await attachment.save(content, "image/png")
    assert await attachment.exists()
    assert doc["_attachments"]["ä/b.bin"]["length"] == len(content)
    read = (await db["x"]).attachment("ä/b.bin")
    assert (await read.fetch(), read.content_type) == (content, "image/png")
    await attachment.delete()
    assert "_attachments" not in doc
    with pytest.raises(NotFoundError):
        await read.fetch()


# --- changes ---------------------------------------------------------------------------


async def test_changes(db: Database) -> None:
    docs = await fill(db, 4)
    await docs[1].delete()
    events = [event async for event in db.changes(include_docs=True)]
    assert [event.id for event in events] == ["0000", "0002", "0003", "0001"]
    assert [type(event) for event in events] == [ChangedEvent] * 3 + [DeletedEvent]
    assert isinstance(events[1], ChangedEvent)
    assert (await events[1].doc()).json == {"n": 2, "even": True}
    later = [event async for event in db.changes(last_event_id=events[1].sequence)]
    assert [event.id for event in later] == ["0003", "0001"]
    assert isinstance(later[0], ChangedEvent)
    assert (await later[0].doc())["n"] == 3  # asked for, as the event does not have it


async def test_following_the_changes(db: Database) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async for event in db.changes(feed="continuous", heartbeat=1000):
            seen.put_nowait(event.id)

    await fill(db, 2)
    following = asyncio.create_task(follow())
    async with asyncio.timeout(PATIENCE):
        assert [await seen.get(), await seen.get()] == ["0000", "0001"]
        await (await db.create("later")).save()
        assert await seen.get() == "later"
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_waiting_for_one_change(db: Database) -> None:
    since = (await db.info())["update_seq"]

    async def next_change() -> list[str]:
        feed = db.changes(feed="longpoll", since=since, timeout=int(PATIENCE * 1000))
        return [event.id async for event in feed]

    waiting = asyncio.create_task(next_change())
    await asyncio.sleep(0.2)
    await (await db.create("later")).save()
    assert await asyncio.wait_for(waiting, PATIENCE) == ["later"]


async def test_purging(db: Database) -> None:
    [doc] = await fill(db, 1)
    assert (await db._purge({"0000": [doc.rev]}))["purged"] == {"0000": [doc.rev]}
    assert [event async for event in db.changes()] == []
