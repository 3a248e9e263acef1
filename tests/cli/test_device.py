"""`edge-agent device` against a running gateway with the reference firmware, and against a hub."""

from __future__ import annotations

import os
import pty
import tty
from collections.abc import Iterator
from typing import Any

import pytest

from tests import agents
from tests.agents import Finished, edge_agent, table
from tests.cli.helpers import request
from tests.devices.micropython import SensorNode
from tests.patience import when_true

WIDE = {"COLUMNS": "200"}


class Places:
    """The URLs of a gateway and of the hub that it replicates with."""

    def __init__(self, gateway: str, hub: str) -> None:
        self.gateway = gateway
        self.hub = hub

    def device(self, *arguments: object, at: str = "") -> Finished:
        return edge_agent("device", *arguments, "--url", at or self.gateway, environment=WIDE)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """With two devices: "node" obeys, "mute" says once how it is set and nothing any more."""
    folder = tmp_path_factory.mktemp("gateway")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    config = folder / "gateway.toml"
    with (
        SensorNode(folder / "port", folder / "log") as node,
        agents.hub(folder / "hub") as hub,
    ):
        hub_url = hub.wait_until_ready()
        agents.gateway_config(
            config,
            table("device", name="node", port=str(node.port), adapter="cbor-frames"),
            table("device", name="mute", port=os.ttyname(theirs), adapter="json-lines"),
            table("remote", name="hub", url=f"{hub_url}/edge", create=True),
        )
        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()
            when_true(lambda: reported_by_both(url, ours))
            yield Places(url, hub_url)
    os.close(ours)
    os.close(theirs)


def reported_by_both(url: str, mute: int) -> bool:
    os.write(mute, b'\n{"settings":{"mode":"eco"}}\n')
    rows = request("GET", f"{url}/edge/_all_docs?startkey=%22device:%22&endkey=%22device:~%22")
    return len(rows["rows"]) == 2


def complaint(done: Finished) -> str:
    """What is said after the table."""
    assert (done.status, done.stdout != "") == (1, True), done
    return done.stderr.strip().removeprefix("Error: ")


def row(done: Finished, key: str) -> dict[str, Any]:
    found: dict[str, Any] = done.json()["settings"][key]
    return found


def test_it_waits_until_the_device_has_confirmed_it(places: Places) -> None:
    done = places.device("set", "node", "interval_ms=500", "--json")
    assert done.status == 0, done.stderr
    expected = {"desired": 500, "reported": 500, "state": "confirmed", "reason": None}
    assert row(done, "interval_ms") == expected
    shown = places.device("show", "node", "--json")
    assert row(shown, "interval_ms") == expected
    assert shown.json()["gateway"] == "gateway-1"
    [node] = [
        device
        for device in request("GET", f"{places.gateway}/_status")["devices"]
        if device["name"] == "node"
    ]
    assert node["settings"] == {
        "desired": {"interval_ms": 500},
        "reported": {"interval_ms": 500},
        "pending": [],
        "refused": {},
        "last_error": None,
    }


def test_a_refusal_is_told_with_its_reason(places: Places) -> None:
    done = places.device("set", "node", "interval_ms=0")
    assert complaint(done) == "node: interval_ms is refused: 10 to 86400000"
    done = places.device("set", "node", "interval_ms=700", "colour=red", "--json")
    assert done.status == 1
    assert row(done, "interval_ms")["state"] == "confirmed"
    assert row(done, "colour")["state"] == "refused"
    assert places.device("set", "node", "colour=null").status == 0
    assert "colour" not in places.device("show", "node").stdout


def test_a_device_that_says_nothing(places: Places) -> None:
    done = places.device("set", "mute", "mode=comfort", "--timeout", "0.5")
    assert "not confirmed within 0.5 s" in complaint(done)
    done = places.device("set", "mute", "mode=auto", "--timeout", "0", "--json")
    assert (done.status, row(done, "mode")["state"]) == (0, "pending")


def test_a_wish_at_the_hub(places: Places) -> None:
    done = places.device(
        "set", "node", "interval_ms=600", "--database", "edge", "--json", at=places.hub
    )
    assert done.status == 0, done.stderr
    assert row(done, "interval_ms")["reported"] == 600
    assert "--database" in places.device("list", at=places.hub).complaint()
    missing = places.device("list", "--database", "missing", at=places.hub)
    assert "there is no such database" in missing.complaint()


def test_the_list_has_all(places: Places) -> None:
    devices = places.device("list", "--json").json()["devices"]
    assert sorted(device["device"] for device in devices) == ["mute", "node"]
    lines = places.device("list").stdout.splitlines()
    assert any("mute" in line and "mode" in line and '"eco"' in line for line in lines)


def test_mistakes(places: Places) -> None:
    shown = places.device("show", "nod")
    assert shown.complaint().endswith("'nod' has said how it is set; known are: mute, node")
    assert "give KEY=VALUE" in places.device("set", "node", "interval_ms").complaint()
