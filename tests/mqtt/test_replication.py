"""Replication over a real broker means the same as over HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, inline
from agent.documents.revision import Revision
from agent.errors import (
    ConflictError,
    ConnectError,
    NotFoundError,
    RemoteMissingError,
)
from agent.peers.local import LocalPeer
from agent.peers.mqtt import MqttPeer
from agent.peers.mqtt_topics import parse_broker_url
from agent.peers.peer import Peer, Seq
from agent.server.mqtt import Broker, Responder
from agent.server.mqtt_served import ServedDatabases
from agent.store.databases import Databases
from agent.store.store import Store
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import (
    SILENCE,
    Site,
    both_ways,
    contents,
    edit,
    fails,
    gateway,
    opened,
    readings,
    replicate,
    responding,
    site,
)
from tests.patience import PATIENCE, until

LARGE = secrets.token_bytes(2_500_001)


@pytest.fixture
async def hub(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[Site]:
    async with site(tmp_path, broker) as hub:
        yield hub


@pytest.fixture
async def peer(hub: Site) -> AsyncIterator[MqttPeer]:
    async with gateway(hub.url) as peer:
        yield peer


async def fill(store: Store) -> None:
    """Readings, edits, a conflict, tombstones, a long history, attachments of all kinds."""
    await store.graft(readings(700))
    rev = await edit(store, "ä/+#:1", None, text="ä\n\u2028" * 50)
    for n in range(20):
        rev = await edit(store, "ä/+#:1", rev, n=n)
    for hash in ("a", "b", "f" * 32):
        await store.graft([Revision("torn", 2, (hash, "base"), False, f'{{"of":"{hash}"}}')])
    gone = await edit(store, "gone", None, n=1)
    await edit(store, "gone", gone, deleted=True)
    await edit(store, "_design/x", None, views={})
    rev = await edit(store, "files", None, inline("a/b ä", "text/plain", b"1"), n=1)
    document = await store.get("files")
    assert document is not None
    kept = document.revision().attachments
    more = inline("large", "image/png", LARGE), inline("empty", "x/y", b"")
    await edit(store, "files", rev, *kept, *more, n=2)


async def test_there_and_back_again(
    hub: Site, peer: MqttPeer, store: Store, tmp_path: Path
) -> None:
    await fill(store)
    pushed = await replicate(LocalPeer(store), peer)
    assert pushed.progress.doc_write_failures == 0
    expected = await contents(store)
    assert len(expected) == 705
    assert await contents(hub.hub) == expected
    async with opened(tmp_path / "b.sqlite") as other:
        await replicate(peer, LocalPeer(other))
        assert await contents(other) == expected
        document = await other.get("files")
        assert document is not None
        [large] = [item for item in document.revision().attachments if item.name == "large"]
        assert b"".join([piece async for piece in other.content(large.content)]) == LARGE
        assert (await replicate(peer, LocalPeer(other))).progress.changes_read == 0
    again = await replicate(LocalPeer(store), peer)
    assert again.progress.changes_read == 0
    assert again.progress.confirmed_seq == pushed.progress.confirmed_seq


async def test_a_broker_that_takes_small_packets(tmp_path: Path, store: Store) -> None:
    """Everything is cut into parts then; what is too large for one message is cut by documents."""
    await fill(store)
    await edit(store, "long", None, text=secrets.token_hex(20_000))
    small = Mosquitto(tmp_path / "broker", more="max_packet_size 20000")
    async with small as broker, site(tmp_path, broker) as hub, gateway(hub.url) as peer:
        await replicate(LocalPeer(store), peer)
        assert await contents(hub.hub) == await contents(store)
        async with opened(tmp_path / "b.sqlite") as other:
            await replicate(peer, LocalPeer(other))
            assert await contents(other) == await contents(store)


async def test_edits_on_both_sides_become_one_conflict(
    hub: Site, peer: MqttPeer, store: Store
) -> None:
    base = await edit(store, "setpoint", None, value=1)
    await replicate(LocalPeer(store), peer)
    await edit(store, "setpoint", base, value=2)
    await edit(hub.hub, "setpoint", base, value=3)
    await replicate(LocalPeer(store), peer)
    await replicate(peer, LocalPeer(store))
    assert await contents(store) == await contents(hub.hub)
    winner = await store.get("setpoint")
    assert winner is not None
    assert winner.conflicts == 1


async def test_changes_arrive_at_once_and_without_polling(
    hub: Site, peer: MqttPeer, store: Store
) -> None:
    async with both_ways(store, peer) as jobs:
        await until(lambda: all(job.state == "live" for job in jobs))
        for number in range(5):
            await edit(store, f"up-{number}", None, n=number)
            await edit(hub.hub, f"down-{number}", None, n=number)
            await until(lambda: hub.hub.get(f"up-{number}"))  # noqa: B023
            await until(lambda: store.get(f"down-{number}"))  # noqa: B023

        async def at_rest() -> bool:
            before = hub.responder.status()["calls"]
            await asyncio.sleep(1.0)
            return bool(hub.responder.status()["calls"] == before)

        await until(at_rest, "nothing more is asked, once the last checkpoints are written")


async def test_notices_come_to_who_follows_and_to_nobody_else(hub: Site, peer: MqttPeer) -> None:
    """They cost the link: a gateway that only pushes, or has used its budget, gets none."""
    async with gateway(hub.url, node="gateway-2") as other:
        ids: list[str] = []

        async def follow() -> None:
            async for batch in other.changes(0, follow=True, limit=100):
                ids.extend(change.id for change in batch.changes)

        async def noticed(*changed: str) -> None:
            for id in changed:
                await edit(hub.hub, id, None, n=1)
                await until(lambda: id in ids)  # noqa: B023

        following = asyncio.create_task(follow())
        await peer.info()
        before = peer.traffic
        await noticed("a", "b")
        assert peer.traffic == before
        feed = peer.changes(0, follow=True, limit=100)
        assert len((await anext(feed)).changes) == 2
        before = peer.traffic
        await noticed("c")
        await until(lambda: peer.traffic > before)
        assert [change.id for change in (await anext(feed)).changes] == ["c"]
        await feed.aclose()
        await peer.info()
        before = peer.traffic
        await noticed("d", "e")
        assert peer.traffic == before
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_what_the_selection_leaves_out_stays(hub: Site, peer: MqttPeer, store: Store) -> None:
    await hub.hub.graft(readings(50))
    await edit(hub.hub, "setpoint", None, type="setpoint")
    found = [
        change.id
        async for batch in peer.changes(
            0, follow=False, limit=20, selector={"type": {"$eq": "setpoint"}}
        )
        for change in batch.changes
    ]
    assert found == ["setpoint"]
    found = [
        change.id
        async for batch in peer.changes(0, follow=False, limit=20, doc_ids=["d:000007", "x"])
        for change in batch.changes
    ]
    assert found == ["d:000007"]


async def test_a_database_is_made_only_when_asked_for(
    hub: Site, store: Store, tmp_path: Path
) -> None:
    await store.graft(readings(3))
    async with gateway(f"{hub.broker.url}/new%2Fdb+x") as peer:
        with pytest.raises(RemoteMissingError, match="no database"):
            await replicate(LocalPeer(store), peer)
        await replicate(LocalPeer(store), peer, create_target=True)
        assert (await peer.info()).doc_count == 3
    async with gateway(f"{hub.broker.url}/_users") as peer:
        assert isinstance(await fails(peer.info()), RemoteMissingError)
        assert isinstance(await fails(peer.create()), RemoteMissingError)


async def test_local_documents(peer: MqttPeer) -> None:
    assert await peer.get_local("c") is None
    first = await peer.put_local("c", {"a": 1.0, "ä": [None]})
    assert await peer.get_local("c") == {"a": 1.0, "ä": [None], "_rev": first}
    with pytest.raises(ConflictError):
        await peer.put_local("c", {"a": 2})
    second = await peer.put_local("c", {"a": 2, "_rev": first})
    assert await peer.get_local("c") == {"a": 2, "_rev": second}


async def test_an_attachment_that_is_gone(hub: Site, peer: MqttPeer) -> None:
    revision = Revision("x", 1, ("a",), False, "{}", (inline("f", "x/y", b"123"),))
    content = peer.attachment(revision, revision.attachments[0])
    assert isinstance(await fails(anext(content)), NotFoundError)

    def no_content(_: Revision, __: Attachment) -> AsyncGenerator[bytes, None]:
        raise NotFoundError("gone")

    stub = replace(revision.attachments[0], content=Absent.STUB)
    [result] = await peer.store([revision.with_attachments([stub])], no_content)
    assert result.error == "not_found"
    assert await hub.hub.get("x") is None


async def test_what_may_not_be_stored_is_refused_alone(hub: Site, peer: MqttPeer) -> None:
    good, bad = Revision("x", 1, ("a",), False, "{}"), Revision("_x", 1, ("a",), False, "{}")
    first, second = await peer.store([bad, good])
    assert (first.id, first.error) == ("_x", "illegal_docid")
    assert (second.id, second.error) == ("x", None)
    assert await hub.hub.get("x") is not None


async def test_sequences_that_no_store_has(peer: MqttPeer) -> None:
    async def read(since: Seq) -> None:
        async for _ in peer.changes(since, follow=False, limit=1):
            pass

    for since in (10**30, "1-abc", None, [1], 1e300):
        assert "sequence" in str(await fails(read(since)))


async def test_nobody_serves_the_database(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path / "broker") as broker, gateway(f"{broker.url}/edge") as peer:
        with pytest.raises(ConnectError, match=r"nobody answers .* hub or a bridge"):
            await peer.info()


async def test_a_repeated_put_of_a_local_document_counts(tmp_path: Path) -> None:
    """The answer to the first try is lost, after it has taken effect."""
    databases = Databases(tmp_path / "hub")
    store = await databases.ensure("edge")

    class Forgetful(ServedDatabases):
        lose = 1

        async def peer(self, name: str) -> LocalPeer:
            served = self

            class Peer(LocalPeer):
                async def put_local(self, id: str, doc: Any) -> str:
                    rev = await super().put_local(id, doc)
                    if served.lose:
                        served.lose -= 1
                        await asyncio.sleep(2 * SILENCE)  # longer than the gateway waits
                    return rev

            return Peer(store)

    async with (
        Mosquitto(tmp_path / "broker") as broker,
        responding(broker, Forgetful(databases)),
        gateway(f"{broker.url}/edge", timeout=SILENCE) as peer,
    ):
        assert await peer.put_local("c", {"n": 1}) == "0-1"
        assert await peer.get_local("c") == {"n": 1, "_rev": "0-1"}
        with pytest.raises(ConflictError):
            await peer.put_local("c", {"n": 2})
    await databases.close()


async def test_databases_are_not_kept_open_and_notices_come_all_the_same(tmp_path: Path) -> None:
    """Whatever is changed is opened for that, and followed from then on."""
    databases = Databases(tmp_path / "hub", most_open=4)
    names = [f"db{number}" for number in range(12)]
    for name in names:
        await databases.create(name)
    async with Mosquitto(tmp_path / "broker") as broker:
        served = ServedDatabases(databases)
        async with responding(broker, served), gateway(f"{broker.url}/db0") as peer:
            feed = peer.changes(0, follow=True, limit=10)
            await anext(feed)
            for name in names[1:]:
                async with gateway(f"{broker.url}/{name}", client_id=name) as other:
                    assert (await other.info()).doc_count == 0
            await until(lambda: len(databases.open_names) <= 4)
            assert "db0" not in databases.open_names
            with databases.using("db0"):
                await edit(await databases.get("db0"), "late", None, n=1)
            found: list[str] = []
            async with asyncio.timeout(PATIENCE):
                while not found:
                    found += [change.id for change in (await anext(feed)).changes]
            assert found == ["late"]
            await feed.aclose()
    await databases.close()


async def test_a_responder_that_is_started_again(tmp_path: Path) -> None:
    """A supervisor does that, after an error in the program."""
    databases = Databases(tmp_path / "hub")
    await databases.create("edge")
    failing = [True]

    class Broken(ServedDatabases):
        async def peer(self, name: str) -> Peer:
            if failing:
                failing.pop()
                raise ZeroDivisionError
            return await super().peer(name)

    async with Mosquitto(tmp_path / "broker") as broker:
        url, _ = parse_broker_url(broker.url)
        responder = Responder(Broker(url), Broken(databases), "hub")
        with pytest.raises(ZeroDivisionError):
            await responder.run()
        running = asyncio.create_task(responder.run())
        async with gateway(f"{broker.url}/edge") as peer:
            await until(lambda: responder.status()["state"] == "connected")
            assert (await peer.info()).doc_count == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await databases.close()
