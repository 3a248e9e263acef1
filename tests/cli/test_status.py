"""`edge-agent status` against a running gateway."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import tty
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.cli.showing import plain_console, show_errors
from agent.store.store import Store
from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import request
from tests.devices.micropython import SensorNode
from tests.patience import when_true
from tests.rig.network import find_free_port

WIDE = {"COLUMNS": "250"}

BOILER = """
[[device.sensor]]
name = "boiler"
unit = "Cel"
scale = 0.1
valid = [0, 120]
change = 5

[[device.sensor.alarm]]
name = "hot"
above = 90
"""


class Gateway:
    """A gateway with two devices, the hub as a remote, and a remote that is not there."""

    def __init__(self, url: str, config: Path, gone: str, talker: int) -> None:
        self.url = url
        self.config = config
        self.gone = gone
        self._talker = talker

    def status(self) -> Any:
        return request("GET", f"{self.url}/_status")

    def says(self, line: bytes) -> None:
        """The second device, which is a test's own, sends a line."""
        os.write(self._talker, line + b"\n")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, hub_url: str) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    gone = f"http://127.0.0.1:{find_free_port()}/edge"
    port = find_free_port()
    with SensorNode(folder / "device", folder / "sent.txt", interval_ms=20) as node:
        config = agents.gateway_config(
            folder / "gateway.toml",
            agents.table("device", name="node", port=str(node.port), adapter="cbor-frames"),
            agents.table("device", name="talker", port=os.ttyname(theirs), adapter="json-lines"),
            BOILER,
            agents.table("remote", name="hub", url=f"{hub_url}/status", create=True, retry_cap=1),
            agents.table("remote", name="gone", url=gone, direction="push", retry_cap=1),
            port=port,
        )
        with agents.gateway(config) as process:
            gateway = Gateway(process.wait_until_ready(), config, gone, ours)

            def is_up() -> bool:
                status = gateway.status()
                return (
                    all(device["state"] == "open" for device in status["devices"])
                    and len(status["devices"][0]["sensors"]) == 3
                    and status["remotes"][0]["push"]["lag"] is not None
                    and status["remotes"][0]["pull"]["state"] == "live"
                    and status["remotes"][1]["push"]["last_error"] is not None
                )

            when_true(is_up)
            gateway.says(b"")  # ends what was on the line before
            gateway.says(b'{"seq": 1, "note": "[/red] :smile: \\u001b[31m"}')
            gateway.says(b'{"seq": 4, "note": "[bold]"}')
            gateway.says(b"{not JSON")
            when_true(lambda: gateway.status()["devices"][1]["errors"])
            when_true(lambda: gateway.status()["devices"][1]["gaps"])
            yield gateway
    os.close(ours)
    os.close(theirs)


def test_json(gateway: Gateway) -> None:
    result = edge_agent("status", "--json", "--config", gateway.config)
    assert (result.status, result.stderr) == (0, "")
    status = result.json()
    assert status["name"] == "gateway-1"
    assert status["version"]
    assert status["pid"]
    assert status["uptime"] > 0
    assert status["restarts"] == {}
    assert status["database"]["doc_count"] > 0
    assert status["database"]["conflicts"] == 0


def test_json_by_remote(gateway: Gateway) -> None:
    hub, gone = edge_agent("status", "--json", "--url", gateway.url).json()["remotes"]
    for direction in ("push", "pull"):
        job = hub[direction]
        assert job["state"] in ("live", "catching up")
        assert job["last_error"] is None
        assert job["pending"] >= 0
        assert job["lag"] >= 0
        assert job["doc_write_failures"] == 0
    assert datetime.fromisoformat(hub["push"]["last_confirmed"])
    assert hub["push"]["docs_written"] > 0
    assert hub["push"]["lanes"].keys() == {"urgent", "news", "backlog"}
    assert hub["pull"]["lanes"] == {}
    assert min(hub["bytes_sent"], hub["bytes_received"]) > 1000
    assert hub["bytes_per_document"] > 100
    assert hub["budget"] is None
    assert gone["bytes_per_document"] is None

    push = gone["push"]
    assert "pull" not in gone
    assert push["state"] in ("waiting", "starting")
    assert push["last_error"].startswith(f"{gateway.gone} cannot be reached")
    assert push["pending"] > 0
    assert push["last_confirmed"] is None
    assert push["lag"] is None


def test_json_by_sensor(gateway: Gateway) -> None:
    node, talker = edge_agent("status", "--json", "--url", gateway.url).json()["devices"]
    assert (node["state"], node["last_error"]) == ("open", None)
    assert node["bytes_received"] > 0
    sensors = {sensor["name"]: sensor for sensor in node["sensors"]}
    assert sensors.keys() == {"temperature", "humidity", "door_open"}
    for sensor in sensors.values():
        assert sensor["rate"] > 0
        assert sensor["readings"] > 0
    assert sensors["temperature"]["unit"] == "C"
    assert talker["errors"] == 1
    assert (talker["gaps"], talker["missing"]) == (1, 2)
    note = next(sensor for sensor in talker["sensors"] if sensor["name"] == "note")
    assert (note["gaps"], note["errors"]) == (1, 0)


def test_json_figures(gateway: Gateway) -> None:
    status = gateway.status()
    hub, gone = status["remotes"]
    assert hub["push"]["rate"] > 0
    assert hub["push"]["confirmed"] > 0
    assert hub["pull"]["backlog_seconds"] == 0
    assert hub["pull"]["drain_seconds"] == 0
    assert (gone["push"]["rate"], gone["push"]["drain_seconds"]) == (0, None)
    assert gone["push"]["errors"] > 0
    # The oldest change that waits is one of the first readings.
    assert 0 < gone["push"]["backlog_seconds"] <= status["uptime"] + 5

    pipeline = status["pipeline"]
    for stage in ("detect", "transfer", "confirm"):
        assert pipeline[stage]["count"] > 0
        assert pipeline[stage]["rate"] > 0
    assert pipeline["process"]["count"] == 0
    assert pipeline["detect"]["readings"] > 0

    system = status["system"]
    assert 10 * 2**20 < system["memory_rss"] < 2**30
    assert 0 < system["disk_free"] <= system["disk_total"]
    assert system["bytes_written"] >= 0
    assert system["uptime"] > 0
    assert system["cpu_seconds"] > 0


def test_json_attention(gateway: Gateway) -> None:
    status = gateway.status()
    told = [each["what"] for each in status["attention"]]
    assert any("Remote gone, push: nothing gets through" in what for what in told)
    assert any("2 readings of device talker" in what for what in told)
    assert not any("Remote hub" in what for what in told)


def test_metrics(gateway: Gateway) -> None:
    with urllib.request.urlopen(f"{gateway.url}/_metrics") as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples["edge_agent_replication_confirmed_total", "hub", "push"] > 0
    assert samples["edge_agent_replication_up", "hub", "pull"] == 1
    assert samples["edge_agent_replication_up", "gone", "push"] == 0
    assert samples["edge_agent_replication_pending_changes", "gone", "push"] > 0
    assert ("edge_agent_replication_drain_seconds", "gone", "push") not in samples
    assert samples["edge_agent_sensor_readings_total", "node", "temperature"] > 0
    assert samples["edge_agent_device_gaps_total", "talker"] == 1
    assert samples["edge_agent_device_up", "node"] == 1
    used = {sample.name for family in families for sample in family.samples}
    assert {"process_resident_memory_bytes", "edge_agent_changes_detected_total"} <= used


def test_text(gateway: Gateway) -> None:
    result = edge_agent("status", "--config", gateway.config, environment=WIDE)
    assert (result.status, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("gateway-1  version ")
    assert "documents, 0 conflicts, " in lines[1]

    def cells(*start: str) -> list[str]:
        for line in lines:
            found = [cell.strip() for cell in line.strip("│┃").split("│")]
            if found[: len(start)] == [*start]:
                return found
        raise AssertionError(f"no row {start} in\n{result.stdout}")

    _, _, state, pending, confirmed, lag = cells("hub", "push")
    assert state in ("live", "catching up")
    assert pending.isdigit()
    assert confirmed.endswith(" s ago")
    assert lag.endswith(" s")
    _, _, _, pending, confirmed, lag = cells("gone", "push")
    assert int(pending) > 0
    assert (confirmed, lag) == ("-", "?")
    errors = [line for line in lines if " cannot be reached" in line and "│" not in line]
    assert errors[0].startswith(f"gone push: {gateway.gone} cannot be reached (")
    assert not any(line.startswith("hub p") for line in lines)

    place = next(n for n, line in enumerate(lines) if "Remote gone, push: nothing gets" in line)
    assert lines[place].startswith("warning: ")
    assert lines[place + 1].startswith("    Check the network and the other side")

    _, _, value, rate, gaps, errors, state = cells("node", "temperature")
    assert value.endswith(" C")
    assert float(rate.removesuffix("/s")) > 0
    assert (gaps, errors, state) == ("0", "0", "")
    *_, gaps, errors, state = cells("node", "all")
    assert (gaps, errors, state) == ("0", "0", "open")
    _, _, value, rate, gaps, errors, state = cells("talker", "note")
    # What a device says is shown as it is, not as a style.
    assert value == "[bold]"
    assert (gaps, errors, state) == ("1", "0", "")
    *_, gaps, errors, state = cells("talker", "all")
    assert (gaps, errors, state) == ("1", "1", "open")


def test_alarms_and_quality(gateway: Gateway) -> None:
    def boiler() -> Any:
        sensors = gateway.status()["devices"][1]["sensors"]
        return next((sensor for sensor in sensors if sensor["name"] == "boiler"), {})

    for value in (800, 801, 1300):
        gateway.says(b'{"boiler": %d}' % value)
    when_true(lambda: boiler().get("readings") == 3)
    shown = {
        key: boiler()[key] for key in ("last_value", "unit", "quality", "suppressed", "alarms")
    }
    assert shown == {
        "last_value": 130,
        "unit": "Cel",
        "quality": "out-of-range",
        "suppressed": 1,
        "alarms": ["hot"],
    }
    result = edge_agent("status", "--config", gateway.config, environment=WIDE)
    assert " 130.0 Cel (alarm hot, out-of-range) " in result.stdout


def test_what_a_device_says_cannot_change_the_terminal(gateway: Gateway) -> None:
    for number, value in enumerate((b"[/red] :smile:", b"\\u001b[31m", b"a\\nb")):
        gateway.says(b'{"seq": %d, "wild-%d": "%s"}' % (5 + number, number, value))
    when_true(lambda: len(wild_sensors(gateway)) == 3)
    result = edge_agent("status", "--url", gateway.url, environment=WIDE)
    assert (result.status, result.stderr) == (0, "")
    assert " [/red] :smile: " in result.stdout
    assert "\x1b" not in result.stdout
    assert " a b " in result.stdout


def wild_sensors(gateway: Gateway) -> list[str]:
    names = [sensor["name"] for sensor in gateway.status()["devices"][1]["sensors"]]
    return [name for name in names if name.startswith("wild-")]


def test_a_hub_has_a_status_too(hub_url: str) -> None:
    result = edge_agent("status", "--url", hub_url)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("hub  version ")
    assert edge_agent("status", "--url", f"{hub_url}/", "--json").json()["uptime"] > 0


def test_dropped_readings_of_many_sensors(tmp_path: Path) -> None:
    """The worst are named, however many noise on a line has made."""
    sensors = {f"dev:s{n}:": {"floor": f"dev:s{n}:x", "dropped": n} for n in range(100)}
    record = {"sensors": sensors, "others": {"dropped": 50}}

    async def remembered() -> None:
        store = await Store.open(tmp_path / "gateway" / "edge.sqlite")
        await store.put_local("retention", None, json.dumps(record))
        await store.close()

    (tmp_path / "gateway").mkdir()
    asyncio.run(remembered())
    config = agents.gateway_config(
        tmp_path / "gateway.toml", '[retention]\nmax_size = "1 GB"\n', port=find_free_port()
    )
    with agents.gateway(config) as gateway:
        gateway.wait_until_ready()
        shown = edge_agent("status", "--config", config, environment=WIDE).stdout.splitlines()
    told = [line for line in shown if "dropped" in line]
    assert told[0] == "99 readings dropped that not every remote had: dev s99"
    rest = sum(range(80)) + 50
    assert told[20:] == [f"{rest:,} readings of other sensors dropped, too"]


def test_what_several_have_in_common_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [("a push", "gone"), ("a pull", "gone"), ("b push", None), ("c", "full\x1b[31m")]
    show_errors(plain_console(), errors)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["a push, a pull", "c"]
    assert "\x1b" not in "".join(lines)
