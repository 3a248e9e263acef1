"""A broker that is killed, restarted and paused, messages that come twice, late or make no sense.

The moments are random, from a seed that is printed; the variable FAULTS_SEED sets another one.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.documents.attachment import inline
from agent.peers.local import LocalPeer
from agent.peers.mqtt_calls import Info
from agent.peers.mqtt_client import Received
from agent.peers.mqtt_wire import Message, Want, encode_packet, pack
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
    gateway,
    opened,
    readings,
    replicate,
    responding,
    site,
)
from tests.patience import PATIENCE, until

SEED = int(os.environ.get("FAULTS_SEED", "20260801"))
FAULTS = 32
LONG_PAUSE = SILENCE + 1.5
"""Seconds: longer than anybody waits."""


async def writing(store: Store, name: str) -> None:
    """New readings, a document of its own that is edited, and one that both sides edit."""
    turn = 0
    while True:
        turn += 1
        await store.graft(readings(5, start=5 * turn, device=name))
        for id in (f"only-{name}", "both"):
            present = await store.get(id)
            file = inline("f", "x/y", secrets.token_bytes(3000))
            await edit(store, id, present.rev if present else None, file, by=name, turn=turn)
        await asyncio.sleep(0.02)


async def disturb(broker: Mosquitto, chance: random.Random) -> None:
    """One fault, in which the broker forgets everything or falls silent."""
    match chance.choice(["kill", "restart", "pause", "pause", "long pause"]):
        case "kill":
            await broker.kill()
            await asyncio.sleep(chance.uniform(0, 0.1))
            await broker.start()
        case "restart":
            await broker.stop()
            await broker.start()
        case "pause":
            broker.send(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(0.01, 0.3))
            broker.send(signal.SIGCONT)
        case "long pause":
            broker.send(signal.SIGSTOP)
            await asyncio.sleep(LONG_PAUSE if chance.random() < 0.2 else 0.4)
            broker.send(signal.SIGCONT)


async def converged(store: Store, hub: Store) -> bool:
    return await contents(store) == await contents(hub)


async def test_a_broker_that_comes_and_goes(tmp_path: Path) -> None:
    print(f"FAULTS_SEED={SEED}")
    chance = random.Random(SEED)
    async with (
        Mosquitto(tmp_path / "broker") as broker,
        site(tmp_path, broker, hasty=True) as hub,
        opened(tmp_path / "a.sqlite") as store,
        gateway(hub.url, hasty=True) as peer,
        both_ways(store, peer),
    ):
        writers = [
            asyncio.create_task(writing(store, "here")),
            asyncio.create_task(writing(hub.hub, "there")),
        ]
        for _ in range(FAULTS):
            await asyncio.sleep(chance.uniform(0, 0.35))
            await disturb(broker, chance)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await until(lambda: converged(store, hub.hub))
        everything = await contents(store)
        numbers = {
            name: sorted(int(id[len(name) + 1 :]) for id in everything if id.startswith(f"{name}:"))
            for name in ("here", "there")
        }
        for found in numbers.values():  # nothing that was written is missing
            assert len(found) > 20
            assert found == list(range(5, 5 + len(found)))


@asynccontextmanager
async def echo(broker: Mosquitto, chance: random.Random) -> AsyncIterator[list[int]]:
    """Publishes every request and every answer a second time, some of them late."""
    counted = [0]
    later: set[asyncio.Task[None]] = set()
    async with aiomqtt.Client(
        "127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        client.pending_calls_threshold = 10_000

        async def again(message: aiomqtt.Message) -> None:
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 1.5 * SILENCE))
            properties = Properties(PacketTypes.PUBLISH)
            assert message.properties is not None
            properties.CorrelationData = message.properties.CorrelationData
            if hasattr(message.properties, "ResponseTopic"):
                properties.ResponseTopic = message.properties.ResponseTopic
            counted[0] += 1
            await client.publish(message.topic.value, message.payload, 1, properties=properties)

        async def listen() -> None:
            async for message in client.messages:
                later.add(asyncio.create_task(again(message)))

        options = SubscribeOptions(qos=1, noLocal=True)
        for topic in ("edge-sync/+/+/req/#", "edge-sync/+/+/rep"):
            await client.subscribe(topic, options=options)
        listening = asyncio.create_task(listen())
        try:
            yield counted
        finally:
            for task in (listening, *later):
                task.cancel()
            await asyncio.gather(listening, *later, return_exceptions=True)


async def test_everything_comes_twice_and_some_of_it_late(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    large = secrets.token_bytes(300_000)
    async with (
        Mosquitto(tmp_path / "broker", more="max_packet_size 30000") as broker,
        site(tmp_path, broker, hasty=True) as hub,
        echo(broker, chance) as echoed,
        opened(tmp_path / "a.sqlite") as store,
        gateway(hub.url, hasty=True) as peer,
    ):
        await edit(store, "up", None, inline("f", "x/y", large))
        await edit(hub.hub, "down", None, inline("f", "x/y", large[::-1]))
        await store.graft(readings(500, device="here"))
        await hub.hub.graft(readings(500, device="there"))
        async with both_ways(store, peer) as jobs:
            await until(lambda: converged(store, hub.hub))
            await until(lambda: all(job.state == "live" for job in jobs))
            await edit(store, "last", None, n=1)
            await until(lambda: converged(store, hub.hub))
        assert len(await contents(store)) == 1003
        assert echoed[0] > 50


async def test_rubbish_on_every_topic(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    payloads = [
        b"",
        b"\xff",
        b"\x9f" * 1000,
        b"\x81" * 5000,
        b'{"json": true}',
        encode_packet(Message("", 5, None, b"\0\xf6\xf6\xf6\xf6")),
        encode_packet(Message("", 2**40, b"x" * 32, b"y")),
        encode_packet(Message("", 50, b"x" * 32, b"y")),  # the rest never comes
        encode_packet(Message("someone", 2, None, b"\0\xf6")),
        encode_packet(Want("", None, 12)),
        b"\x82\x02\x00",
        *(secrets.token_bytes(chance.randint(1, 300)) for _ in range(20)),
    ]
    payloads.append(encode_packet(Message("", len(whole := pack(Info())), None, whole)))
    topics = [
        "edge-sync/edge/stranger/req",
        "edge-sync/edge/gateway-1/rep",
        "edge-sync/edge/changed",
        "edge-sync/gateway-1/status",
        "edge-sync/stranger/status",
        "edge-sync/x/y/z/req/a",
        "edge-sync/%FF/%00/req",
    ]
    async with (
        Mosquitto(tmp_path / "broker") as broker,
        site(tmp_path, broker, hasty=True) as hub,
        opened(tmp_path / "a.sqlite") as store,
        gateway(hub.url, hasty=True, announce=True) as peer,
        aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as stranger,
    ):
        topics.append(f"edge-sync/edge/stranger/req/{hub.responder.id}")

        silent = asyncio.Event()

        async def shout() -> None:
            while not silent.is_set():
                topic = chance.choice(topics)
                properties = Properties(PacketTypes.PUBLISH)
                if chance.random() < 0.8:
                    properties.CorrelationData = chance.choice([b"x", secrets.token_bytes(12)])
                if chance.random() < 0.8:
                    properties.ResponseTopic = topic.partition("/req")[0] + "/rep"
                payload = chance.choice(payloads)
                retain = topic.endswith("status")
                await stranger.publish(topic, payload, 1, retain, properties)
                await asyncio.sleep(0.001)

        shouting = asyncio.create_task(shout())
        await store.graft(readings(300, device="here"))
        await hub.hub.graft(readings(300, device="there"))
        async with both_ways(store, peer):
            await until(lambda: converged(store, hub.hub))
            assert len(await contents(store)) == 600
            await until(lambda: hub.responder.status()["refused"] > 100)
        silent.set()
        await shouting
        assert (await hub.hub.info()).doc_count == 600
        assert all(item["name"] in ("gateway-1", "stranger") for item in _gateways(hub))


def _gateways(hub: Site) -> list[dict[str, object]]:
    return hub.responder.present.gateways()


async def test_who_goes_while_the_broker_is_away_is_not_there(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path / "broker") as broker, site(tmp_path, broker) as hub:
        async with gateway(hub.url, announce=True) as peer:
            await peer.info()
            await until(lambda: _gateways(hub))
            await broker.kill()
        await broker.start()
        await until(lambda: hub.responder.status()["state"] == "connected")
        async with gateway(hub.url, node="gateway-2", announce=True) as peer:
            await peer.info()
            await until(lambda: "gateway-2" in [item["name"] for item in _gateways(hub)])
            assert [item["name"] for item in _gateways(hub)] == ["gateway-2"]


async def test_a_slow_reader_holds_up_nobody_else(tmp_path: Path) -> None:
    """It gets its content in the end, even after it fell silent for longer than is waited for."""
    large = secrets.token_bytes(400_000)
    async with (
        Mosquitto(tmp_path / "broker", more="max_packet_size 30000") as broker,
        site(tmp_path, broker, hasty=True) as hub,
        gateway(hub.url, node="slow", timeout=4.0) as slow,
        gateway(hub.url, node="quick", timeout=4.0) as quick,
        opened(tmp_path / "a.sqlite") as store,
    ):
        rev = await edit(hub.hub, "files", None, inline("f", "x/y", large))
        await hub.hub.graft(readings(400))
        [revision] = await slow.fetch([("files", [str(rev)])])
        read = bytearray()
        others_are_served = asyncio.Event()

        async def read_slowly() -> None:
            async for piece in slow.attachment(revision, revision.attachments[0]):
                read.extend(piece)
                if len(read) < 30_000:
                    await asyncio.sleep(SILENCE + 0.3)
                else:
                    await others_are_served.wait()

        reading = asyncio.create_task(read_slowly())
        await asyncio.sleep(0.2)
        await replicate(quick, LocalPeer(store))
        assert (await store.info()).doc_count == 401
        assert not reading.done()
        others_are_served.set()
        await reading
        assert bytes(read) == large


async def test_two_gateways_of_one_name_are_told(tmp_path: Path) -> None:
    """The broker lets only one client have an id, and does not say whom it sends away for which."""
    async with (
        Mosquitto(tmp_path / "broker") as broker,
        site(tmp_path, broker) as here,
        opened(tmp_path / "first") as one,
        opened(tmp_path / "second") as other,
        gateway(here.url) as first,
        gateway(here.url) as second,
        both_ways(one, first) as jobs,
        both_ways(other, second),
    ):

        def told() -> bool:
            reasons = [event.reason or "" for job in jobs for event in job.events]
            words = "whether another client connects as 'gateway-1/cloud'"
            return any(words in reason for reason in reasons)

        await until(told)


async def test_many_slow_gateways_hold_up_nobody_else(tmp_path: Path) -> None:
    """Of more calls than are worked on at once the rest does not come; others are answered."""
    databases = Databases(tmp_path / "hub")
    await databases.create("edge")
    broker = Mosquitto(tmp_path / "broker")
    async with (
        broker,
        responding(broker, ServedDatabases(databases), patience=PATIENCE) as responder,
        aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as slow,
        gateway(f"{broker.url}/edge") as peer,
    ):
        begun: set[str] = set()
        await slow.subscribe("edge-sync/edge/+/rep", qos=1)
        for node in range(8):
            for call in range(8):
                properties = Properties(PacketTypes.PUBLISH)
                properties.CorrelationData = f"{node}-{call}".encode()
                properties.ResponseTopic = f"edge-sync/edge/slow-{node}/rep"
                half = encode_packet(Message("", 5000, b"x" * 32, b"y"))
                topic = f"edge-sync/edge/slow-{node}/req"
                await slow.publish(topic, half, 1, properties=properties)
        async with asyncio.timeout(PATIENCE):
            async for message in slow.messages:  # it asks for the rest
                assert message.properties is not None
                begun.add(message.properties.CorrelationData.decode())
                if len(begun) == 64:
                    break
        assert (await peer.info()).doc_count == 0
        assert responder.status()["refused"] == 0
    await databases.close()


async def test_a_request_that_comes_while_the_responder_goes_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Received(
        "edge-sync/edge/gateway-1/req",
        encode_packet(Message("", len(whole := pack(Info())), None, whole)),
        b"x",
        "edge-sync/edge/gateway-1/rep",
        retained=False,
    )
    async with Mosquitto(tmp_path / "broker") as broker, site(tmp_path, broker) as hub:
        connection = hub.responder._connection
        close = connection.close

        async def late() -> None:
            hub.responder._take(request)
            await close()

        monkeypatch.setattr(connection, "close", late)
    assert hub.responder.calls == 0
