"""`POST /_replicate` with a database behind a broker, and the presence of a gateway with two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.config import RemoteConfig
from agent.parts import first_on_brokers, peer_for
from agent.replication.spec import parse_endpoint
from agent.server.mqtt_served import ServedDatabases
from agent.store.databases import Databases
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import Site, contents, readings, responding, site
from tests.patience import until
from tests.server.replicating import agent, fill, ids


@pytest.fixture
async def far(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[Site]:
    async with site(tmp_path, broker) as far:
        yield far


async def test_a_broker_as_target_and_as_source(tmp_path: Path, far: Site) -> None:
    async with agent(tmp_path / "here") as here:
        await fill(here, "one", {"_id": "a"}, {"_id": "b"})
        answer = await here.post("/_replicate", {"source": "one", "target": far.url})
        assert answer.status == 200, answer.text
        assert sorted(await contents(far.hub)) == ["a", "b"]
        await far.hub.graft(readings(3))
        told = {"source": {"url": far.url}, "target": "two", "create_target": True}
        answer = await here.post("/_replicate", told)
        assert answer.status == 200, answer.text
        assert len(await ids(here, "two")) == 5


async def test_a_database_that_is_missing_at_the_hub(tmp_path: Path, far: Site) -> None:
    async with agent(tmp_path / "here") as here:
        await fill(here, "one", {"_id": "a"})
        url = f"{far.broker.url}/nowhere"
        answer = await here.post("/_replicate", {"source": "one", "target": url})
        assert (answer.status, answer.json["reason"]) == (404, f"could not open {url}")


async def test_a_document_of_the_replicator_database(tmp_path: Path, far: Site) -> None:
    async with agent(tmp_path / "here") as here:
        await fill(here, "one", {"_id": "a"})
        document = {"source": "one", "target": far.url, "continuous": True}
        answer = await here.put("/_replicator/up", document)
        assert answer.status == 201, answer.text

        async def arrived() -> bool:
            return "a" in await contents(far.hub)

        await until(arrived)


def test_an_endpoint_is_shown_without_its_password() -> None:
    told = parse_endpoint({"url": "mqtt://me:secret@Host:1883/a%2Fb"}, "source")
    assert str(told) == "mqtt://host/a%2Fb"
    assert "secret" not in repr(told)
    with_auth = {"auth": {"basic": {"username": "you", "password": "other"}}}
    told = parse_endpoint({"url": "mqtt://me:secret@host/a", **with_auth}, "source")
    assert told.credentials is not None
    assert told.credentials.user == "you"


@pytest.mark.parametrize(
    "endpoint",
    [
        {"url": "mqtt://host"},
        {"url": "mqtt://host/a?b"},
        {"url": "mqtt://host/a", "headers": {"X": "y"}},
        {"url": "mqtt://host/a", "auth": {"proxy": {}}},
    ],
)
async def test_endpoints_that_are_refused(tmp_path: Path, endpoint: dict[str, object]) -> None:
    async with agent(tmp_path) as here:
        answer = await here.post("/_replicate", {"source": endpoint, "target": "x"})
        assert (answer.status, answer.json["error"]) == (400, "bad_request")


async def test_two_remotes_on_one_broker_are_one_presence(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """The gateway is there although its second connection, to another database, has ended."""
    remotes = [RemoteConfig(name=name, url=f"{broker.url}/{name}") for name in ("a", "b")]
    announcing = first_on_brokers(remotes)
    first, second = (
        peer_for(remote, "gateway-1", announce=remote.name in announcing) for remote in remotes
    )
    databases = Databases(tmp_path / "hub")
    async with responding(broker, ServedDatabases(databases)) as hub:

        def status() -> list[str]:
            return [gateway["status"] for gateway in hub.present.gateways()]

        await first.create()
        await second.create()
        await until(lambda: status() == ["online"])
        await second.close()
        await first.create()  # what the broker was told before has been passed on, too
        assert status() == ["online"]
        await first.close()
        await until(lambda: status() == ["offline"])
    await databases.close()
