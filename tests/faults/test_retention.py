"""A gateway with real firmware and a hub: the gateway keeps the newest, the hub has everything."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import query, request
from tests.devices.micropython import SensorNode
from tests.patience import when_true
from tests.replication.retaining import START, bodies, readings_in, timestamp
from tests.rig.network import find_free_port
from tests.sensors.wrong_clock import WrongClock

CLOCK = '[clock]\ntrust = "system"\n'
"""Or nothing would be old on a machine that nobody tells the time."""


def retention(*rules: str, **keys: object) -> str:
    return agents.table("retention", **keys).replace("[[retention]]", "[retention]") + "".join(
        f'\n[[retention.rule]]\nkeep = "{rule}"\n' for rule in rules
    )


def remote(url: str, name: str = "hub") -> str:
    return agents.table(
        "remote", name=name, url=url, create=True, checkpoint_interval=0.2, retry_cap=0.5
    )


def numbers(path: Path) -> Counter[tuple[int, str]]:
    """The sequence numbers and sensors of the readings in a store's file."""
    sql = (
        "SELECT body ->> '$.sequence', body ->> '$.sensor' FROM docs "
        "WHERE body ->> '$.type' = 'reading'"
    )
    if not query(path, "SELECT 1 FROM sqlite_schema WHERE name = 'docs'"):
        return Counter()  # the store is just being made
    return Counter(query(path, sql))


def test_the_newest_stays_and_nothing_comes_back(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "gateway" / "edge.sqlite", tmp_path / "hub" / "edge.sqlite"
    with (
        SensorNode(tmp_path / "device", tmp_path / "sent.txt", interval_ms=20) as node,
        agents.hub(tmp_path / "hub") as hub,
    ):
        url = f"{hub.wait_until_ready()}/edge"
        device = agents.table("device", name="node", port=str(node.port), adapter="cbor-frames")
        config = agents.gateway_config(
            tmp_path / "gateway.toml", device, CLOCK, remote(url), retention("2 seconds")
        )
        with agents.gateway(config) as gateway:
            gateway.wait_until_ready()
            when_true(lambda: len(numbers(theirs)) > 900)
            node.stop()
            when_true(lambda: not numbers(ours))
            gateway.stop()
        everything = numbers(theirs)
        assert len(everything) > 900
        assert max(everything.values()) == 1
        sequences = {number for number, _ in everything}
        assert sequences == set(range(min(sequences), max(sequences) + 1))

        # By another name the hub is a remote that was never replicated with: pulled from the start.
        other = url.replace("127.0.0.1", "localhost")
        config = agents.gateway_config(
            tmp_path / "gateway.toml", device, CLOCK, remote(other), retention("2 seconds")
        )
        with agents.gateway(config) as gateway:
            here = gateway.wait_until_ready()
            request("PUT", f"{url}/setpoint", {"type": "setpoint"})
            when_true(lambda: query(ours, "SELECT 1 FROM docs WHERE id = 'setpoint'"))
            assert not numbers(ours)
            status = request("GET", f"{here}/_status")
            assert sum(entry["deleted"] for entry in status["retention"]["sensors"]) == len(
                everything
            )
            assert status["retention"]["dropped"] == 0
            when_true(
                lambda: request("GET", f"{here}/_status")["remotes"][0]["push"]["pending"] == 0
            )
            done = edge_agent("verify", f"{here}/edge", url, "--json")
            assert (done.status, done.json()["different"]) == (0, 0)
        assert numbers(theirs) == everything


def test_an_outage_longer_than_the_disk(tmp_path: Path) -> None:
    """Every reading is at the hub, or counted in a gap that the hub has."""
    ours, theirs = tmp_path / "gateway" / "edge.sqlite", tmp_path / "hub" / "edge.sqlite"
    port = find_free_port()
    node = SensorNode(tmp_path / "device", tmp_path / "sent.txt", interval_ms=10)
    with contextlib.ExitStack() as last:
        last.callback(node.unplug)
        node.plug_in(start=False)  # what is sent before the port is open nobody can count
        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            agents.table("device", name="node", port=str(node.port), adapter="cbor-frames"),
            remote(f"http://127.0.0.1:{port}/edge"),
            retention(max_size="1 MB", when_full="drop-oldest"),
            port=find_free_port(),
        )
        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()

            def status() -> Any:
                return request("GET", f"{url}/_status")

            when_true(lambda: status()["devices"][0]["state"] == "open")
            node.start()
            when_true(lambda: status()["retention"]["dropped"] > 300)
            node.stop()
            shown = edge_agent("status", "--config", config, environment={"COLUMNS": "250"}).stdout
            assert "readings dropped that not every remote had" in shown
            with agents.hub(tmp_path / "hub", port=port) as hub:
                hub.wait_until_ready()

                def equal() -> bool:
                    return bool(numbers(ours)) and numbers(ours) == numbers(theirs)

                when_true(equal)
                when_true(lambda: status()["remotes"][0]["push"]["pending"] == 0)
                missing = status()["devices"][0]["missing"]  # on the wire
                assert gateway.stop().status == 0
                assert hub.stop().status == 0
    there = numbers(theirs)
    gaps = Counter[str]()
    for body in bodies(theirs).values():
        if body["type"] == "gap":
            gaps[body["sensor"]] += body["count"]
    last = max(number for number, _ in there)
    first = node.witnesses()[0].sequence
    assert gaps
    for sensor in gaps:
        stored = sum(1 for _, name in there if name == sensor)
        assert stored + gaps[sensor] + missing == last - first + 1


def test_a_clock_that_begins_years_ahead_makes_nothing_old(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "edge.sqlite"
    nobody = '[clock]\nsources = ["http"]\n'  # not even NTP, where this runs
    config = agents.gateway_config(tmp_path / "gateway.toml", nobody, retention("90 days"))
    with agents.gateway(config) as gateway:
        url = gateway.wait_until_ready()
        now = datetime.now(UTC)
        for number in range(10):
            at = timestamp((now - START).total_seconds() - number)
            body = {"type": "reading", "device": "dev", "sensor": "t", "time": at, "value": number}
            request("PUT", f"{url}/edge/dev:t:{at}:1", body)
        gateway.stop()
    clock = WrongClock(tmp_path / "clock", 20 * 365 * 86400.0)
    with agents.gateway(config, environment=clock.environment) as gateway:
        url = gateway.wait_until_ready()
        time.sleep(1)  # it is looked at as soon as it has started
        assert request("GET", f"{url}/_status")["clock"]["state"] == "unsure"
        gateway.stop()
    assert sum(map(readings_in, bodies(path).values())) == 10
