"""A hub that answers on a broker, gateways before it, and what has to be equal in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.documents.attachment import Attachment
from agent.documents.revision import Rev, Revision, canonical, first_revision
from agent.errors import EdgeAgentError
from agent.peers.local import LocalPeer
from agent.peers.mqtt import MqttPeer
from agent.peers.mqtt_topics import parse_broker_url
from agent.peers.peer import Peer
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.server.mqtt import Broker, Responder
from agent.server.mqtt_served import Served, ServedDatabases
from agent.store.databases import Databases
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import until

SILENCE = 1.2
"""Seconds that who is hasty waits for another. Only where somebody falls silent: otherwise a busy
machine would do so."""


@dataclass
class Site:
    """A broker and a hub with the database `edge` behind it."""

    broker: Mosquitto
    hub: Store
    responder: Responder

    @property
    def url(self) -> str:
        return f"{self.broker.url}/edge"


@asynccontextmanager
async def responding(
    broker: Mosquitto, served: Served, *, name: str = "hub", hasty: bool = False, **options: Any
) -> AsyncIterator[Responder]:
    """A responder that is connected."""
    url, credentials = parse_broker_url(broker.url)
    haste = {"keepalive": 2.0, "patience": SILENCE} if hasty else {}
    options = {"credentials": credentials, **haste, **options}
    responder = Responder(Broker(url, name=name, **options), served, "hub")
    task = asyncio.create_task(responder.run())
    try:
        await until(lambda: responder.status()["state"] == "connected")
        yield responder
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task  # in an agent it is supervised; here whatever ends it fails the test


@asynccontextmanager
async def site(folder: Path, broker: Mosquitto, *, hasty: bool = False) -> AsyncIterator[Site]:
    databases = Databases(folder / "hub")
    hub = await databases.ensure("edge")
    try:
        async with responding(broker, ServedDatabases(databases), hasty=hasty) as responder:
            yield Site(broker, hub, responder)
    finally:
        await databases.close()


@asynccontextmanager
async def gateway(
    url: str, *, node: str = "gateway-1", hasty: bool = False, **options: Any
) -> AsyncIterator[MqttPeer]:
    """The hub's database as a gateway reaches it."""
    haste = {"keepalive": 2.0, "timeout": SILENCE} if hasty else {}
    options = {"client_id": f"{node}/cloud", **haste, **options}
    peer = MqttPeer.from_url(url, node=node, **options)
    try:
        yield peer
    finally:
        await peer.close()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = await Store.open(path)
    try:
        yield store
    finally:
        await store.close()


async def replicate(source: Peer, target: Peer, **options: Any) -> Replicator:
    replicator = Replicator(source, target, **options)
    await replicator.run()
    return replicator


@asynccontextmanager
async def both_ways(store: Store, peer: Peer) -> AsyncIterator[tuple[Job, Job]]:
    """Push and pull, as a gateway's remote does it, over one connection."""
    local = LocalPeer(store)
    jobs = []
    tasks = []
    for source, target in ((local, peer), (peer, local)):
        replicator = Replicator(source, target, continuous=True, checkpoint_interval=0.2)
        jobs.append(Job("live", replicator, patient=True, retry_cap=0.5))
        tasks.append(asyncio.create_task(jobs[-1].run()))
    try:
        yield jobs[0], jobs[1]
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


def readings(count: int, *, start: int = 0, device: str = "d") -> list[Revision]:
    return [
        first_revision(f"{device}:{n:06d}", {"type": "reading", "value": n})
        for n in range(start, start + count)
    ]


async def edit(
    store: Store,
    id: str,
    parent: Rev | None,
    *attachments: Attachment,
    deleted: bool = False,
    **body: Any,
) -> Rev:
    text = msgspec.json.encode(body).decode()
    [rev] = await store.edit([Edit(id, parent, deleted, text, canonical(body), attachments)])
    assert rev is not None
    return rev


async def contents(store: Store) -> dict[str, Any]:
    """Everything that has to be equal in converged stores: winners, leaves, histories, bodies, and
    the contents of attachments, which are told by their SHA-256."""
    found = {}
    for document in (await store.changes(0, limit=1_000_000)).documents:
        leaves = [str(leaf) for leaf in document.leaves()]
        [revisions] = await store.revisions([(document.id, leaves)])
        found[document.id] = (str(document.rev), document.deleted, document.conflicts, revisions)
    return found


async def fails(awaitable: Any) -> EdgeAgentError:
    """The agent's error that it raises."""
    try:
        await awaitable
    except EdgeAgentError as error:
        return error
    raise AssertionError("nothing was raised")
