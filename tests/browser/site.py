"""A gateway with a MicroPython board, and the hub that it replicates with."""

from __future__ import annotations

import json
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.agents import AgentProcess, gateway, gateway_config, hub, table
from tests.devices.micropython import SensorNode
from tests.patience import PATIENCE, when_true

# As root, in a container, with nothing that asks the network by itself.
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEVICE = "greenhouse"
INTERVAL = 300  # milliseconds between two readings


def request(method: str, url: str, body: Any = None, **headers: str) -> Any:
    """The JSON that a server of this machine answers with; raises for a status from 400 on."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    asked = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as response:
        return json.load(response)


@dataclass
class Site:
    """What runs. `url` is the gateway's, `hub_url` the hub's; both have the database `edge`."""

    url: str
    hub_url: str
    agent: AgentProcess
    node: SensorNode

    def put(self, id: str, **members: Any) -> str:
        """Write a document; returns its revision."""
        made = request("PUT", f"{self.url}/edge/{quote(id, safe='')}", members)
        return str(made["rev"])

    def get(self, id: str, **query: str) -> Any:
        text = "&".join(f"{key}={value}" for key, value in query.items())
        return request("GET", f"{self.url}/edge/{quote(id, safe='')}?{text}")

    def graft(self, id: str, *revs: str, **members: Any) -> None:
        """Store a revision with its history, the newest first, as replication does."""
        generation = int(revs[0].partition("-")[0])
        history = {"start": generation, "ids": [rev.partition("-")[2] for rev in revs]}
        doc = {"_id": id, "_rev": revs[0], "_revisions": history, **members}
        body = {"docs": [doc], "new_edits": False}
        assert request("POST", f"{self.url}/edge/_bulk_docs", body) == []

    def status(self) -> Any:
        return request("GET", f"{self.url}/_status")


def site_in(folder: Path, stack: ExitStack) -> Site:
    """Start all of it, and wait until readings are there and the hub has some."""
    node = SensorNode(folder / "device", folder / "sent.txt", interval_ms=INTERVAL)
    stack.enter_context(node)
    far = stack.enter_context(hub(folder / "hub"))
    hub_url = far.wait_until_ready()
    config = gateway_config(
        folder / "gateway.toml",
        table("device", name=DEVICE, port=str(node.port), adapter="cbor-frames"),
        table(
            "remote",
            name="cloud",
            url=f"{hub_url}/edge",
            create=True,
            retry_cap=1,
            verify_interval=5,
        ),
    )
    agent = stack.enter_context(gateway(config))
    site = Site(agent.wait_until_ready(), hub_url, agent, node)
    when_true(lambda: _is_live(site.status()))
    return site


def _is_live(status: Any) -> bool:
    [device], [remote] = status["devices"], status["remotes"]
    return bool(device["sensors"]) and remote["push"]["state"] == "live"
