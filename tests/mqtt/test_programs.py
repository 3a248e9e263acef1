"""The programs as they are run: a hub and bridges on a broker, gateways, and the command line."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cbor2
import pytest

from agent import __version__
from agent.documents.attachment import inline
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.store.store import Store
from tests import agents
from tests.agents import AgentProcess, edge_agent
from tests.cli.helpers import documents, in_process, make_store, query
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import both_ways, contents, edit, gateway, opened, readings, replicate
from tests.patience import PATIENCE, until, when_true
from tests.peers.pouchdb_server import PouchDBServer


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker")
    broker.start_now()
    yield broker
    broker.end_now()


def hub(folder: Path, broker: Mosquitto, *options: str) -> AgentProcess:
    return AgentProcess(
        *("hub", "--data", folder / "hub", "--listen", "127.0.0.1:0"),
        *("--broker", broker.url, *options),
        log=folder / "hub.log",
    )


def bridge(folder: Path, broker: Mosquitto, upstream: str, *options: str) -> AgentProcess:
    return AgentProcess(
        *("bridge", "--broker", broker.url, "--upstream", upstream),
        *("--listen", "127.0.0.1:0", *options),
        log=folder / "bridge.log",
    )


def gateways(url: str) -> dict[str, str]:
    """The presence of gateways, as `edge-agent status` at a hub or a bridge has it."""
    with urllib.request.urlopen(f"{url}/_status", timeout=PATIENCE) as answer:
        status = json.load(answer)
    return {gateway["name"]: gateway["status"] for gateway in status["gateways"]}


def test_replicate_and_status(tmp_path: Path, broker: Mosquitto, free_port: int) -> None:
    """From store to hub to store, and everybody is seen at the hub."""
    source = make_store(tmp_path / "a" / "a.sqlite", documents(300))
    target = tmp_path / "b.sqlite"
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("remote", name="cloud", url=f"{broker.url}/edge"),
        port=free_port,
    )
    with hub(tmp_path, broker) as running:
        url = running.wait_until_ready()
        pushed = edge_agent(
            "replicate", source, f"{broker.url}/edge", "--create-target", "--json"
        ).json()
        assert (pushed["ok"], pushed["docs_written"]) == (True, 300)
        assert pushed["target"] == f"{broker.url}/edge"
        pulled = edge_agent("replicate", f"{broker.url}/edge", target, "--create-target", "--json")
        assert pulled.json()["docs_written"] == 300
        assert query(target, "SELECT count(*) FROM docs") == [(300,)]
        with agents.gateway(config) as process:
            process.wait_until_ready()
            when_true(lambda: gateways(url) == {"gateway-1": "online"})
            store = tmp_path / "gateway" / "edge.sqlite"
            when_true(lambda: query(store, "SELECT count(*) FROM docs") == [(300,)])
            shown = edge_agent("status", "--url", url).stdout
            assert f"broker {broker.url}: connected" in shown
            assert "gateway-1 │ online" in " ".join(shown.replace("┃", "│").split())
            status = edge_agent("status", "--config", config, "--json").json()
            assert 1000 < status["remotes"][0]["bytes_received"] < 100_000
            assert process.stop().status == 0
        when_true(lambda: gateways(url) == {"gateway-1": "offline"})
        with agents.gateway(config) as process:
            process.wait_until_ready()
            when_true(lambda: gateways(url) == {"gateway-1": "online"})
            process.send(signal.SIGKILL)  # the broker tells for it
        when_true(lambda: gateways(url) == {"gateway-1": "offline"})
        assert running.stop().status == 0


def test_mistakes_on_the_command_line(tmp_path: Path, broker: Mosquitto, free_port: int) -> None:
    source = make_store(tmp_path / "a" / "a.sqlite")
    missing = edge_agent("replicate", source, f"{broker.url}/edge").complaint()
    assert "nobody answers" in missing
    away = edge_agent("replicate", source, f"mqtt://u:secret@127.0.0.1:{free_port}/edge")
    assert "cannot be reached" in away.complaint()
    assert "secret" not in away.stderr
    for arguments, part in (
        (["--broker", "http://host", "--upstream", "http://host/db"], "mqtt://"),
        (["--broker", "mqtt://host/+/x", "--upstream", "http://host/db"], "levels"),
        (["--broker", "mqtt://host", "--upstream", "mqtt://host/db"], "http://"),
        (
            ["--broker", "mqtt://host", "--upstream", "http://a/db", "--upstream", "http://b/db"],
            "served already",
        ),
        (
            ["--broker", "mqtt://host", "--upstream", "http://a/db", "--listen", "0.0.0.0:1"],
            "loopback",
        ),
        (["--broker", "mqtt://host", "--upstream", "http://a/db", "--group", "a/b"], "--group"),
        (
            [
                *("--broker", "mqtt://u@host", "--upstream", "http://a/db"),
                *("--broker-password-env", "NOT_SET_ANYWHERE"),
            ],
            "NOT_SET_ANYWHERE is not set",
        ),
    ):
        assert part in in_process("bridge", *arguments).complaint()


@pytest.fixture
async def upstream(shared_pouchdb_server: PouchDBServer) -> str:
    """A new database on a real pouchdb-server."""
    url = f"{shared_pouchdb_server.url}/mqtt-{time.monotonic_ns()}"
    peer = CouchPeer.from_url(url)
    await peer.create()
    await peer.close()
    return url


async def test_two_bridges_of_which_one_is_killed(
    tmp_path: Path, broker: Mosquitto, upstream: str
) -> None:
    """Gateways push and pull through both; then one alone has to do."""
    url = f"{broker.url}/{upstream.rpartition('/')[2]}"
    with ExitStack() as processes:
        bridges = [processes.enter_context(bridge(tmp_path, broker, upstream)) for _ in range(2)]
        addresses = [await asyncio.to_thread(item.wait_until_ready) for item in bridges]
        async with (
            opened(tmp_path / "a.sqlite") as first,
            opened(tmp_path / "b.sqlite") as second,
            gateway(url, announce=True) as one,
            gateway(url, node="gateway-2", announce=True) as two,
        ):
            await first.graft(readings(1500, device="one"))
            await second.graft(readings(1500, device="two"))
            await edit(first, "both", None, by="one")
            await edit(second, "both", None, by="two")
            async with both_ways(first, one) as jobs, both_ways(second, two):
                await until(lambda: jobs[0].progress.docs_written > 300)
                calls = [await _calls(address) for address in addresses]
                bridges[0].send(signal.SIGKILL)
                await until(lambda: _equal(first, second, 3001))
                assert min(calls) > 0
                assert await asyncio.to_thread(gateways, addresses[1]) == {
                    "gateway-1": "online",
                    "gateway-2": "online",
                }
                # Live in both directions, through the one that is left.
                rev = (await first.get("both")).rev  # type: ignore[union-attr]
                await edit(first, "both", rev, by="one", again=True)
                await edit(second, "last", None, n=1)
                await until(lambda: _equal(first, second, 3002))
            peer = CouchPeer.from_url(upstream)
            async with opened(tmp_path / "c.sqlite") as third:
                await replicate(peer, LocalPeer(third))
                assert await contents(third) == await contents(first)
            await peer.close()
        finished = await asyncio.to_thread(bridges[1].stop)
        assert finished.status == 0


async def _equal(first: Store, second: Store, count: int) -> bool:
    if (await first.info()).update_seq < count or (await second.info()).update_seq < count:
        return False
    here = await contents(first)
    return len(here) == count and here == await contents(second)


async def _calls(address: str) -> int:
    def read() -> Any:
        with urllib.request.urlopen(f"{address}/_status", timeout=PATIENCE) as answer:
            return json.load(answer)

    return int((await asyncio.to_thread(read))["mqtt"]["calls"])


async def test_attachments_through_a_bridge(
    tmp_path: Path, broker: Mosquitto, upstream: str
) -> None:
    url = f"{broker.url}/{upstream.rpartition('/')[2]}"
    large = bytes(range(256)) * 6000
    with bridge(tmp_path, broker, upstream) as process:
        address = await asyncio.to_thread(process.wait_until_ready)
        told = await asyncio.to_thread(edge_agent, "status", "--url", address)
        assert told.stdout.startswith("bridge  version ")
        async with (
            opened(tmp_path / "a.sqlite") as store,
            opened(tmp_path / "b.sqlite") as other,
            gateway(url) as peer,
        ):
            files = inline("large", "x/y", large), inline("small", "text/plain", b"1")
            await edit(store, "files", None, *files, n=1)
            await replicate(LocalPeer(store), peer)
            await replicate(peer, LocalPeer(other))
            document = await other.get("files")
            assert document is not None
            there = {item.name: item for item in document.revision().attachments}
            assert sorted(there) == ["large", "small"]
            pieces = [piece async for piece in other.content(there["large"].content)]
            assert b"".join(pieces) == large


def test_what_a_stranger_sees(tmp_path: Path, broker: Mosquitto) -> None:
    """mosquitto_sub, with nothing of ours, sees topics and payloads as docs/mqtt.md has them."""
    source = make_store(tmp_path / "a" / "a.sqlite", documents(3))
    seen = tmp_path / "seen"
    with seen.open("wb") as file, hub(tmp_path, broker, "--name", "h") as running:
        listener = subprocess.Popen(
            [
                *("mosquitto_sub", "-V", "5", "-p", str(broker.port), "-t", "edge-sync/#"),
                *("-F", "%t %R %x"),
            ],
            stdout=file,
        )
        try:
            running.wait_until_ready()
            when_true(lambda: b"/status" in seen.read_bytes())
            edge_agent("replicate", source, f"{broker.url}/edge", "--create-target")
            when_true(lambda: b"/changed" in seen.read_bytes())
            assert running.stop().status == 0
            when_true(lambda: seen.read_bytes().endswith(b"/status  \n"))
        finally:
            listener.terminate()
            listener.wait()
    by_topic: dict[str, list[bytes]] = {}
    for line in seen.read_text().splitlines():
        topic, *_, payload = line.split(" ")
        by_topic.setdefault(topic, []).append(bytes.fromhex(payload))
    [status] = [topic for topic in by_topic if topic.startswith("edge-sync/h-")]
    told = json.loads(by_topic[status][0])
    assert told == {"status": "online", "role": "hub", "version": __version__}
    assert by_topic[status][-1] == b""  # nothing of it stays behind
    requests = [topic for topic in by_topic if topic.endswith("/req")]
    assert len(requests) == 1
    assert f"{requests[0].removesuffix('/req')}/rep" in by_topic
    for payload in by_topic[requests[0]]:
        assert cbor2.loads(payload)[:3] == [1, 0, ""]
    version, seq = cbor2.loads(by_topic["edge-sync/edge/changed"][-1])
    assert (version, json.loads(seq)) == (1, 3)
