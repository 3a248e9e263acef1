"""What a gateway tells of itself with its presence, through a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent import __version__, figures
from agent.config import AgentConfig, Config, RemoteConfig, ServerConfig
from agent.peers.mqtt_presence import Present
from agent.runtime import Agent
from agent.server.mqtt import Responder
from agent.server.mqtt_served import ServedDatabases
from agent.store.databases import Databases
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import responding, site
from tests.patience import until
from tests.rig.network import find_free_port
from tests.store.helpers import revision


async def test_a_gateway_tells_how_it_is(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_ANNOUNCED", 0.05)
    gone = f"http://127.0.0.1:{find_free_port()}/edge"
    config = Config(
        agent=AgentConfig(name="gateway-1", data=str(tmp_path / "gateway")),
        server=ServerConfig(listen="127.0.0.1:0"),
        remote=[
            RemoteConfig(name="cloud", url=f"{broker.url}/edge", direction="push"),
            RemoteConfig(name="gone", url=gone, direction="push"),
        ],
    )
    async with site(tmp_path, broker) as hub:
        agent = Agent.from_config(config)
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(agent.run(stop, lambda _: ready.set()))
        await ready.wait()

        def told(responder: Responder = hub.responder) -> Any:
            gateways = responder.present.gateways()
            return [{key: gateway[key] for key in FIGURES} for gateway in gateways]

        await until(lambda: told() == [{"status": "online", **NOTHING}])
        since = hub.responder.present.gateways()[0]["since"]
        store = await agent.databases.get("edge")
        await store.graft([revision("a", "x"), revision("a", "y")])
        waiting = {"status": "online", "lag": None, "backlog": 1, "conflicts": 1}
        await until(lambda: told() == [waiting])
        [gateway] = hub.responder.present.gateways()
        assert (gateway["version"], gateway["since"]) == (__version__, since)

        # A broker that was started again hears it from the gateway, and who comes later from it.
        await broker.stop()
        await broker.start()
        served = ServedDatabases(Databases(tmp_path / "later"))
        async with responding(broker, served, name="later", group="others") as later:
            await until(lambda: told(later) == [waiting])
        stop.set()
        await running
        await until(lambda: told() == [{"status": "offline", **dict.fromkeys(NOTHING)}])


NOTHING = {"lag": None, "backlog": 0, "conflicts": 0}
FIGURES = ("status", *NOTHING)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"status":"online","role":"gateway","lag":-1}',
        b'{"status":"online","role":"gateway","backlog":1.5}',
        b'{"status":"online","role":"gateway","conflicts":"many"}',
    ],
)
def test_figures_that_cannot_be(payload: bytes) -> None:
    present = Present()
    present.take("g", payload)
    assert present.gateways() == []


def test_those_of_an_older_program_and_of_a_newer_one() -> None:
    present = Present()
    present.take("old", b'{"status":"online","role":"gateway","version":"0.1.0"}')
    present.take("new", b'{"status":"online","role":"gateway","backlog":3,"more":[1]}')
    new, old = present.gateways()
    assert (old["backlog"], new["backlog"]) == (None, 3)
