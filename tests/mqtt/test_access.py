"""Who may do what on a broker: passwords, certificates, and rules that pin a gateway to its own
topics. The rules are those of docs/mqtt.md."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from agent.errors import AuthError, ConnectError, EdgeAgentError, RemoteError, TlsError
from agent.peers.local import LocalPeer
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.urls import Credentials
from agent.server.mqtt_served import ServedDatabases
from agent.store.databases import Databases
from agent.store.store import Store
from tests.agents import CHECKOUT, AgentProcess, edge_agent
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import contents, fails, gateway, opened, readings, replicate, responding
from tests.patience import PATIENCE, until
from tests.server.certificates import self_signed

SECRET = "p@ss/w0rd"


def documented_rules() -> str:
    """The rules for Mosquitto that the documentation shows."""
    text = (CHECKOUT / "docs" / "mqtt.md").read_text("utf-8")
    found = re.search(r"```mosquitto-acl\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def guarded(folder: Path, *users: str, **options: str) -> Mosquitto:
    """A broker with these users, all with the same password, and the documented rules."""
    folder.mkdir()
    passwords, rules = folder / "passwords", folder / "rules"
    passwords.touch(mode=0o600)
    for user in users:
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, SECRET], check=True)
    rules.write_text(documented_rules())
    rules.chmod(0o600)
    more = f"password_file {passwords}\nacl_file {rules}\n"
    return Mosquitto(folder, more=more, anonymous=False, **options)


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[Databases]:
    databases = Databases(tmp_path / "hub")
    await databases.create("edge")
    yield databases
    await databases.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(tmp_path / "a.sqlite") as store:
        await store.graft(readings(20))
        yield store


async def error_of(url: str, **options: object) -> EdgeAgentError:
    async with gateway(url, **options) as peer:
        error = await fails(peer.info())
    assert SECRET not in str(error)
    assert "p%40ss" not in str(error)
    return error


async def test_a_gateway_is_pinned_to_its_own_topics(
    databases: Databases, store: Store, tmp_path: Path
) -> None:
    overheard: list[str] = []
    subscribed = asyncio.Event()
    credentials = Credentials("hub", SECRET)
    async with (
        guarded(tmp_path / "broker", "hub", "gateway-1", "gateway-2") as broker,
        responding(broker, ServedDatabases(databases), credentials=credentials),
    ):
        url = f"{broker.url}/edge"

        async def eavesdrop() -> None:
            async with aiomqtt.Client(
                "127.0.0.1", broker.port, username="gateway-2", password=SECRET
            ) as client:
                for topic in ("#", "edge-sync/+/gateway-1/rep", "edge-sync/+/+/req/#"):
                    await client.subscribe(topic)
                await client.publish("edge-sync/gateway-1/status", b"{}", retain=True)
                subscribed.set()
                async for message in client.messages:
                    overheard.append(message.topic.value)

        listening = asyncio.create_task(eavesdrop())
        async with asyncio.timeout(PATIENCE):
            await subscribed.wait()
        mine = {"user": "gateway-1", "password": SECRET, "announce": True}
        async with gateway(url, **mine) as peer:
            await replicate(LocalPeer(store), peer)
            await replicate(peer, LocalPeer(store))
            assert (await peer.info()).doc_count == 20
        error = await error_of(url, user="gateway-2", password=SECRET, node="gateway-1")
        assert isinstance(error, AuthError)
        assert re.search(
            r"does not allow user 'gateway-2' to publish on .*gateway-1/req", str(error)
        )
        announcing = {"user": "gateway-2", "password": SECRET, "announce": True}
        error = await error_of(url, node="gateway-1", **announcing)
        assert isinstance(error, AuthError)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert set(overheard) == {"edge-sync/edge/changed"}  # so it has listened
    assert await contents(await databases.get("edge")) == await contents(store)


async def test_passwords(tmp_path: Path) -> None:
    async with guarded(tmp_path / "broker", "gateway-1") as broker:
        for options in ({}, {"user": "gateway-1", "password": "wrong"}):
            error = await error_of(f"{broker.url}/edge", **options)
            assert isinstance(error, AuthError)
            assert "check the user, the password" in str(error)
        url = broker.url.replace("//", "//gateway-1:p%40ss%2Fw0rd@")
        error = await error_of(f"{url}/edge")
        assert isinstance(error, ConnectError)
        assert "nobody answers" in str(error)


@pytest.mark.parametrize("option", ["file", "env"])
async def test_the_password_of_a_hub(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", SECRET)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    where = {"file": str(secret), "env": "BROKER_PASSWORD"}[option]
    async with guarded(tmp_path / "broker", "hub", "gateway-1") as broker:
        arguments = (
            *("hub", "--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--broker"),
            *(broker.url.replace("//", "//hub@"), f"--broker-password-{option}", where),
        )
        with AgentProcess(*arguments, log=tmp_path / "log") as hub:
            await asyncio.to_thread(hub.wait_until_ready)
            asking = {"user": "gateway-1", "password": SECRET, "node": "gateway-1"}
            async with gateway(f"{broker.url}/edge", **asking) as peer:

                async def answers() -> bool:
                    try:
                        await peer.create()
                    except ConnectError:
                        return False
                    return True

                await until(answers)
                assert (await peer.info()).doc_count == 0


def tls_listener(server: tuple[Path, Path], more: str = "") -> str:
    return f"certfile {server[0]}\nkeyfile {server[1]}\n{more}"


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
async def test_tls_is_verified(scheme: str, tmp_path: Path, databases: Databases) -> None:
    server = self_signed(tmp_path)
    protocol = "protocol websockets" if scheme == "wss" else ""
    broker = Mosquitto(tmp_path / "broker", listener=tls_listener(server, protocol))
    broker.scheme = scheme
    tls = TlsFiles(ca_file=server[0])
    async with broker, responding(broker, ServedDatabases(databases), tls=tls):
        error = await error_of(f"{broker.url}/edge")
        assert isinstance(error, TlsError)
        assert "give ca_file" in str(error)
        async with gateway(f"{broker.url}/edge", tls=tls) as peer:
            assert (await peer.info()).doc_count == 0
        copy = ("replicate", f"{broker.url}/edge", tmp_path / "copy.sqlite", "--create-target")
        done = await asyncio.to_thread(edge_agent, *copy, "--ca-file", server[0])
        assert (done.status, done.stderr) == (0, "")
        if scheme == "mqtts":
            error = await error_of(f"{broker.url.replace('mqtts', 'mqtt')}/edge")
            assert isinstance(error, ConnectError)
            assert "hung up" in str(error)


async def test_websockets(tmp_path: Path, databases: Databases, store: Store) -> None:
    broker = Mosquitto(tmp_path / "broker", listener="protocol websockets")
    broker.scheme = "ws"
    async with (
        broker,
        responding(broker, ServedDatabases(databases)),
        gateway(f"{broker.url}/edge") as peer,
    ):
        await replicate(LocalPeer(store), peer)
        assert (await peer.info()).doc_count == 20


async def test_client_certificates(tmp_path: Path, databases: Databases) -> None:
    """The name in the certificate is the user's, whom the rules pin to his topics."""
    server = self_signed(tmp_path)
    clients = {name: self_signed(tmp_path, name) for name in ("hub", "gateway-1", "stranger")}
    known = tmp_path / "known.pem"
    known.write_text("".join(clients[name][0].read_text() for name in ("hub", "gateway-1")))
    certificates = f"cafile {known}\nrequire_certificate true\nuse_identity_as_username true"
    async with guarded(tmp_path / "broker", listener=tls_listener(server, certificates)) as broker:
        broker.scheme = "mqtts"
        tls = {name: TlsFiles(server[0], *files) for name, files in clients.items()}
        async with responding(broker, ServedDatabases(databases), tls=tls["hub"]):
            async with gateway(f"{broker.url}/edge", tls=tls["gateway-1"]) as peer:
                assert (await peer.info()).doc_count == 0
            error = await error_of(f"{broker.url}/edge", tls=tls["gateway-1"], node="gateway-2")
            assert isinstance(error, AuthError)
            for files in (tls["stranger"], TlsFiles(server[0])):
                error = await error_of(f"{broker.url}/edge", tls=files)
                assert isinstance(error, ConnectError | TlsError)


async def test_what_is_no_broker(tmp_path: Path, free_port: int) -> None:
    error = await error_of(f"mqtt://127.0.0.1:{free_port}/edge")
    assert isinstance(error, ConnectError)
    assert "cannot be reached" in str(error)
    async with Mosquitto(tmp_path / "broker", more="max_packet_size 600") as broker:
        error = await error_of(f"{broker.url}/edge")
        assert isinstance(error, RemoteError)
        assert "packets of 600 bytes" in str(error)
