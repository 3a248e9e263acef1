"""Attachments between stores, agents and pouchdb-server, by the replicator."""

from __future__ import annotations

import gzip
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.documents.attachment import Attachment, Inline, Stored, inline
from agent.documents.revision import Revision, canonical
from agent.errors import ConnectError
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.peer import Peer
from agent.replication.replicator import Replicator
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.patience import until
from tests.peers.pouchdb_server import PouchDBServer
from tests.server.api import Api, running
from tests.store.helpers import rows

LARGE = secrets.token_bytes(3_000_001)
TEXT = b"text\r\n--" * 30_000
PACKED = Attachment(
    "packed",
    "text/plain",
    0,
    "",
    len(TEXT),
    Inline(gzip.compress(TEXT)),
    "gzip",
    len(gzip.compress(TEXT)),
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "a.sqlite")
    yield store
    await store.close()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "b.sqlite")
    yield store
    await store.close()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path / "agent") as api:
        await api.put("/db")
        yield api


async def write(store: Store, id: str, *attachments: Attachment, parent: object = None) -> str:
    body = {"n": 1}
    edit = Edit(id, parent, False, '{"n":1}', canonical(body), attachments)  # type: ignore[arg-type]
    [rev] = await store.edit([edit])
    assert rev is not None
    return str(rev)


async def fill(store: Store) -> None:
    """Small, large, encoded, none; unchanged over an edit; of a losing revision."""
    packed = replace(PACKED, digest=digest(PACKED))
    await write(store, "small", inline("a/b ä.txt", "text/plain", b"1"), inline("z", "x/y", b""))
    await write(store, "large", inline("f", "image/png", LARGE), packed)
    document = await store.get("large")
    assert document is not None
    kept = document.revision().attachments
    await write(store, "large", *kept, inline("g", "x/y", TEXT), parent=document.rev)
    await write(store, "plain")
    for hash in ("a", "b"):
        attachment = inline("f", "text/plain", hash.encode() * 100_000, revpos=1)
        await store.graft([Revision("torn", 1, (hash,), False, "{}", (attachment,))])


def digest(attachment: Attachment) -> str:
    assert isinstance(attachment.content, Inline)
    return inline("", "", attachment.content.data).digest


async def contents(store: Store) -> dict[tuple[str, str, str], tuple[object, ...]]:
    """What there is of every attachment of every leaf, the content included."""
    found: dict[tuple[str, str, str], tuple[object, ...]] = {}
    for document in (await store.changes(0, limit=100)).documents:
        leaves = [str(leaf) for leaf in document.leaves()]
        [revisions] = await store.revisions([(document.id, leaves)])
        for rev, revision in revisions:
            assert revision is not None
            for item in revision.attachments:
                sha = hashlib.sha256()
                async for piece in store.content(item.content):
                    sha.update(piece)
                assert item.content == Stored(sha.hexdigest())
                found[document.id, rev, item.name] = (item, sha.hexdigest())
    return found


async def replicate(source: Peer, target: Peer) -> Replicator:
    replicator = Replicator(source, target)
    await replicator.run()
    return replicator


async def test_between_stores(store: Store, other: Store) -> None:
    await fill(store)
    await replicate(LocalPeer(store), LocalPeer(other))
    expected = await contents(store)
    assert len(expected) == 7
    assert await contents(other) == expected
    sql = "SELECT count(*) FROM blobs"
    assert rows(other.path, sql) == rows(store.path, sql)


async def test_between_agents(store: Store, other: Store, agent: Api) -> None:
    await fill(store)
    middle = CouchPeer.from_url(f"{agent.url}/db")
    pushed = await replicate(LocalPeer(store), middle)
    pulled = await replicate(middle, LocalPeer(other))
    await middle.close()
    assert (pushed.progress.doc_write_failures, pulled.progress.doc_write_failures) == (0, 0)
    assert await contents(other) == await contents(store)


async def test_with_pouchdb_server(
    store: Store, other: Store, shared_pouchdb_server: PouchDBServer
) -> None:
    await fill(store)
    url = f"{shared_pouchdb_server.url}/att-{secrets.token_hex(6)}"
    remote = CouchPeer.from_url(url)
    await remote.create()
    pushed = await replicate(LocalPeer(store), remote)
    assert list(pushed.progress.failures) == []
    pulled = await replicate(remote, LocalPeer(other))
    assert list(pulled.progress.failures) == []
    await remote.close()
    expected = await contents(store)
    found = await contents(other)
    assert found.keys() == expected.keys()
    for key, (item, sha) in expected.items():
        if key[2] != "packed":  # PouchDB Server keeps it decoded
            assert found[key] == (item, sha)


async def test_what_the_target_has_is_not_sent_again(store: Store, other: Store) -> None:
    asked: list[str] = []

    class Watched(LocalPeer):
        def attachment(
            self, revision: Revision, attachment: Attachment
        ) -> AsyncGenerator[bytes, None]:
            asked.append(attachment.name)
            return super().attachment(revision, attachment)

    source, target = Watched(store), LocalPeer(other)
    await write(store, "a", inline("f", "x/y", LARGE))
    await replicate(source, target)
    document = await store.get("a")
    assert document is not None
    kept = document.revision().attachments
    await write(store, "a", *kept, inline("g", "x/y", LARGE[1:]), parent=document.rev)
    await replicate(source, target)
    assert asked == ["f", "g"]
    assert await contents(other) == await contents(store)


@pytest.mark.parametrize("damage", ["shorter", "other"])
async def test_damaged_content_is_refused_and_leaves_nothing(
    store: Store, other: Store, damage: str
) -> None:
    class Damaging(LocalPeer):
        async def attachment(
            self, revision: Revision, attachment: Attachment
        ) -> AsyncGenerator[bytes, None]:
            yield LARGE[:-1] + (b"" if damage == "shorter" else bytes([LARGE[-1] ^ 1]))

    await write(store, "a", inline("f", "x/y", LARGE))
    await write(store, "b")
    run = await replicate(Damaging(store), LocalPeer(other))
    [failure] = run.progress.failures
    assert (failure.id, failure.error) == ("a", "bad_request")
    assert "attachment f is damaged" in str(failure.reason)
    assert await other.get("a") is None
    assert await other.get("b") is not None
    assert rows(other.path, "SELECT count(*) FROM blobs") == [0]


async def test_a_line_that_breaks_costs_no_document(store: Store, agent: Api) -> None:
    """The source fails in the middle of an attachment that is being pushed."""

    class Breaking(LocalPeer):
        async def attachment(
            self, revision: Revision, attachment: Attachment
        ) -> AsyncGenerator[bytes, None]:
            yield LARGE[:100_000]
            raise ConnectError("the line broke")

    await write(store, "a", inline("f", "x/y", LARGE))
    remote = CouchPeer.from_url(f"{agent.url}/db")
    with pytest.raises(ConnectError, match="the line broke"):
        await replicate(Breaking(store), remote)
    assert (await agent.get("/db/a")).status == 404
    await replicate(LocalPeer(store), remote)
    await remote.close()
    there = await agent.databases.get("db")
    # The broken upload is dropped.
    await until(lambda: rows(there.path, "SELECT count(*) FROM blobs") == [1])
    assert await contents(there) == await contents(store)
