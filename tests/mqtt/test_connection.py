"""A connection to a broker that stalls, hangs up or neither lets in nor refuses."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from agent.errors import ConnectError, EdgeAgentError, RemoteError
from agent.peers import mqtt_client
from agent.peers.mqtt_client import Publication, Received
from agent.peers.mqtt_connection import Connection
from agent.peers.mqtt_topics import parse_broker_url
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import PATIENCE, until


def _ignore(_: Received) -> None:
    pass


async def test_a_broker_that_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left, and what the library keeps for it is gone; the next call connects again."""
    lost: list[EdgeAgentError] = []
    async with Mosquitto(tmp_path / "broker") as broker:
        url, _ = parse_broker_url(broker.url)
        connection = Connection(url, None, client_id="c", received=_ignore, lost=lost.append)
        await connection.publish(Publication("a", b"1"))
        sent = connection.traffic.sent
        broker.send(signal.SIGSTOP)
        both = [
            connection.publish(Publication("a", b"2" * 1000)),
            connection.publish(Publication("a", b"3" * 1000)),
        ]
        with monkeypatch.context() as hasty:
            hasty.setattr(mqtt_client, "_ACKNOWLEDGE_LIMIT", 0.3)
            for error in await asyncio.gather(*both, return_exceptions=True):
                assert isinstance(error, ConnectError)
        await until(lambda: lost)
        assert not connection.connected
        assert connection.traffic.sent > sent + 2000  # they count against a budget
        broker.send(signal.SIGCONT)
        await connection.publish(Publication("a", b"4"))
        await connection.close()


async def test_a_broker_that_says_why_it_hangs_up() -> None:
    """As EMQX does where two gateways have one name; Mosquitto 2.0 says nothing.

    The bytes are those of MQTT 5, sections 3.2 and 3.14.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK
        await said.wait()
        writer.write(b"\xe0\x02\x8e\x00")  # DISCONNECT, session taken over
        await writer.drain()
        writer.close()

    said, lost = asyncio.Event(), []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url, _ = parse_broker_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = Connection(url, None, client_id="a/b", received=_ignore, lost=lost.append)
        await connection.open()
        said.set()
        await until(lambda: lost)
        assert "another client has connected as 'a/b'" in str(lost[0])
        assert "a name of its own" in str(connection.broken())
        await connection.close()


async def test_a_broker_without_shared_subscriptions() -> None:
    """The bytes are those of MQTT 5, sections 3.2 and 3.9."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK
        subscribe = await reader.read(1000)
        writer.write(b"\x90\x04" + subscribe[2:4] + b"\x00\x9e")  # SUBACK, refused
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url, _ = parse_broker_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        topics = ["$share/edge-sync/edge-sync/+/+/req"]
        connection = Connection(url, None, client_id="a", subscriptions=topics, received=_ignore)
        with pytest.raises(RemoteError, match="use a broker that has them"):
            await connection.open()
        await connection.close()


async def test_a_broker_that_hangs_up_on_who_subscribes() -> None:
    """As AWS IoT does where a policy does not allow it: scheme, port and certificates are right.

    The bytes are those of MQTT 5, sections 3.2 and 3.14.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK
        await reader.read(1000)
        writer.write(b"\xe0\x02\x87\x00")  # DISCONNECT, not authorized
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url, _ = parse_broker_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = Connection(url, None, client_id="a", subscriptions=["b"], received=_ignore)
        with pytest.raises(ConnectError, match=r"broke \(the broker's reason code 135\)"):
            await connection.open()
        await connection.close()


async def test_closing_takes_its_time_where_a_broker_neither_lets_in_nor_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than a second, so that it is asked to end more than once."""
    monkeypatch.setattr(mqtt_client, "CONNECT_LIMIT", 1.5)
    connected, left = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url, _ = parse_broker_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = Connection(url, None, client_id="a/b", received=_ignore)
        opening = asyncio.create_task(connection.open())
        await connected.wait()
        await connection.close()
        await connection.until_lost()  # raises what ended it, if that was a mistake of its own
        with pytest.raises(ConnectError):
            await opening
        await left.wait()


async def test_to_give_up_while_a_broker_stalls_leaves_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_client, "CONNECT_LIMIT", 2 * PATIENCE)  # how long the library waits
    async with Mosquitto(tmp_path / "broker") as broker:
        url, _ = parse_broker_url(broker.url)
        connection = Connection(url, None, client_id="a", received=_ignore)
        await connection.open()
        broker.send(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.subscribe("a/b")
            await until(
                lambda: not any("Client.subscribe" in repr(each) for each in asyncio.all_tasks())
            )
        finally:
            broker.send(signal.SIGCONT)
        await connection.close()


async def test_nothing_is_left_of_a_connection_whose_broker_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even a goodbye gets through, so closing takes so long that it is asked for again."""
    monkeypatch.setattr(mqtt_client, "_ACKNOWLEDGE_LIMIT", 2 * PATIENCE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK (MQTT 5, section 3.2)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await closed.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with suppress(ConnectionError):  # what was on its way is thrown away
            while await reader.read(2**20):
                pass
        left.set()
        writer.close()

    closed, left = asyncio.Event(), asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url, _ = parse_broker_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = Connection(url, None, client_id="a", received=_ignore)
        await connection.open()
        large = Publication("a", bytes(900_000))
        publishing = [asyncio.create_task(connection.publish(large)) for _ in range(16)]
        await until(lambda: connection.traffic.sent > 16 * 900_000)
        await connection.close()
        async with asyncio.timeout(PATIENCE):
            told = await asyncio.gather(*publishing, return_exceptions=True)
        assert {type(each) for each in told} == {ConnectError}
        closed.set()
        async with asyncio.timeout(PATIENCE):
            await left.wait()
