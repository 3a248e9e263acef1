"""A budget with real programs at the other end, and what really crosses the link beside it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.documents.revision import first_revision
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.mqtt import MqttPeer
from agent.replication.budget import SHARES, Budget
from agent.replication.job import Job, State
from agent.replication.lanes import Lane
from agent.replication.replicator import Replicator
from agent.store.store import Store
from tests import agents
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import opened, site
from tests.patience import until

DAY = 86_400
LIMIT = 300_000
READINGS = 2500
OVER = LIMIT // 50 + 8_000
"""What may go beyond: a piece and its answer, and a checkpoint on both sides."""


class Relay:
    """A link that counts: all bytes of all connections, in both directions."""

    def __init__(self, port: int) -> None:
        self.carried = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port to connect to."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, here: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        for reader, writer in ((here, back), (there, out)):
            task = asyncio.create_task(self._carry(reader, writer))
            self._tasks.add(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    self.carried += len(data)
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()


@dataclass
class Far:
    """A hub behind a link that counts."""

    peer: CouchPeer | MqttPeer
    link: Relay


@asynccontextmanager
async def far(kind: str, folder: Path) -> AsyncIterator[Far]:
    async with AsyncExitStack() as stack:
        if kind == "http":
            hub = stack.enter_context(agents.hub(folder / "hub"))
            url = await asyncio.to_thread(hub.wait_until_ready)
            relay = Relay(int(url.rpartition(":")[2]))
            port = await stack.enter_async_context(relay.listening())
            peer: CouchPeer | MqttPeer = CouchPeer.from_url(f"http://127.0.0.1:{port}/edge")
        else:
            broker = await stack.enter_async_context(Mosquitto(folder / "broker"))
            await stack.enter_async_context(site(folder, broker))
            relay = Relay(broker.port)
            port = await stack.enter_async_context(relay.listening())
            peer = MqttPeer.from_url(f"mqtt://127.0.0.1:{port}/edge", node="gateway-1")
        stack.push_async_callback(peer.close)
        yield Far(peer, relay)


async def write(store: Store, prefix: str, count: int, **body: object) -> None:
    """Documents that compression does not make much smaller."""
    chance = random.Random(prefix)
    await store.graft(
        [
            first_revision(
                f"{prefix}:{n:05}",
                {"type": "reading", "value": chance.randbytes(100).hex(), **body},
            )
            for n in range(count)
        ]
    )


async def found(peer: CouchPeer | MqttPeer) -> list[str]:
    """Ids at the other end, in the order in which they came."""
    return [
        change.id
        async for batch in peer.changes(0, follow=False, limit=1000)
        for change in batch.changes
    ]


@pytest.mark.parametrize("kind", ["http", "mqtt"])
async def test_a_day_carries_what_it_may(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replication.budget._LOOK", 0.02)
    clock, running = 20_000.5 * DAY, 0.0
    async with opened(tmp_path / "a.sqlite") as store, far(kind, tmp_path) as there:
        await write(store, "old", READINGS)
        budget = Budget(
            "cloud",
            LIMIT,
            store,
            lambda: there.peer.traffic,
            clock=lambda: clock,
            monotonic=lambda: running,
        )
        replicator = Replicator(
            LocalPeer(store),
            there.peer,
            continuous=True,
            create_target=True,
            lanes=True,
            budget=budget,
        )
        job = Job("push", replicator, patient=True)
        task = asyncio.create_task(job.run())
        try:
            await until(lambda: Lane.BACKLOG in replicator.held)
            share = SHARES[Lane.BACKLOG] * LIMIT
            assert share <= there.link.carried <= share + OVER
            before = job.progress.docs_written
            await write(store, "alarm", 1, urgent=True)
            await write(store, "new", 1)
            await until(lambda: job.progress.docs_written >= before + 2)
            assert Lane.BACKLOG in replicator.held
            assert there.link.carried <= share + OVER + 5_000
            days = 1
            while job.state is not State.LIVE:
                carried, written = there.link.carried, job.progress.docs_written
                clock, running, days = clock + DAY, running + DAY, days + 1
                await until(
                    lambda written=written: (
                        job.state is State.LIVE
                        or (job.progress.docs_written > written and Lane.BACKLOG in replicator.held)
                    )
                )
                assert there.link.carried - carried <= LIMIT + OVER
            assert days > 2
            counted, carried = sum(there.peer.traffic), there.link.carried
            print(f"{days} days, {carried} bytes, {counted} counted, {job.progress.readings} read")
            # Over MQTT the heads of packets are estimated, and connecting is not counted.
            assert 0.9 * carried < counted <= 1.1 * carried
            if kind == "http":
                assert counted == carried
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        ids = await found(there.peer)
    assert len(ids) == READINGS + 2
    assert ids.index("alarm:00000") < READINGS
    assert ids.index("new:00000") < READINGS
