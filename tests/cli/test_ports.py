"""`edge-agent ports`: what is there, who uses it, and what speaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import serial
from serial.tools import list_ports

from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import in_process
from tests.cli.serial_ports import Listed, listing
from tests.sensors.uart import Uart, json_line

Say = Callable[[Iterable[Listed]], None]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Say:
    return listing(monkeypatch)


def ports(*arguments: object) -> list[dict[str, Any]]:
    done = in_process("ports", "--json", *arguments)
    assert (done.status, done.stderr) == (0, "")
    found = done.json()["ports"]
    assert isinstance(found, list)
    return found


def test_what_this_machine_really_has() -> None:
    expected = [port.device for port in sorted(list_ports.comports())]
    assert [port["path"] for port in ports()] == expected
    text = edge_agent("ports")
    assert (text.status, text.stderr) == (0, "")
    for path in expected:
        assert path in text.stdout


def test_a_port_is_described(tmp_path: Path, listed: Say) -> None:
    with Uart(json_line) as device, Uart(json_line) as other:
        listed(
            [
                Listed(device.path, "FT232R", 0x0403, 0x6001, "A1B2", "1-1.2"),
                Listed(other.path),
            ]
        )
        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            agents.table("device", name="greenhouse", port="usb:0403:6001", adapter="json-lines"),
            agents.table("device", name="gone", port="serial:X", adapter="json-lines"),
        )
        found = {port["path"]: port for port in ports("--config", config)}
        (named,) = ports("serial:A1B2")
        text = in_process("ports", "--config", config, width=200).stdout
    assert found[device.path] == {
        "path": device.path,
        "name": "serial:A1B2",
        "by_id": None,
        "usb_id": "0403:6001",
        "serial": "A1B2",
        "location": "1-1.2",
        "description": "FT232R",
        "users": [],
        "permitted": True,
        "devices": ["greenhouse"],
        "heard": None,
        "error": None,
    }
    assert named == {**found[device.path], "devices": []}
    assert found[other.path]["name"] == other.path
    for part in (device.path, "serial:A1B2", "FT232R", "0403:6001", "1-1.2", "greenhouse", "free"):
        assert part in text


def test_without_ports(listed: Say) -> None:
    listed([])
    assert in_process("ports").stdout == "no serial port is there; plug a device in\n"
    assert ports() == []


def test_probing_several_ports(listed: Say) -> None:
    with Uart(json_line, 9600) as slow, Uart(json_line) as fast, Uart(lambda _: b"") as silent:
        listed([Listed(slow.path), Listed(fast.path), Listed(silent.path)])
        found = {port["path"]: port for port in ports("--probe", "--seconds", "1")}
        for device in (slow, fast, silent):
            assert device.heard == b""
    heard = found[slow.path]["heard"]
    assert (heard["adapter"], heard["baud"], heard["parity"]) == ("json-lines", 9600, "none")
    assert heard["reading"]["sensor"] == "temperature"
    assert heard["reading"]["unit"] == "C"
    assert heard["event"] is None
    assert found[fast.path]["heard"]["baud"] == 115200
    assert found[silent.path]["heard"] is None


def test_what_was_heard_is_shown() -> None:
    with Uart(lambda _: b'{"temperature": 21}\n') as device:
        text = in_process("ports", "--probe", device.path, width=200).stdout
    assert "json-lines at 115200 8N1: temperature = 21" in text


def test_a_port_in_use_is_left_alone(listed: Say) -> None:
    with Uart(json_line) as device, serial.Serial(device.path, exclusive=True):
        listed([Listed(device.path)])
        (found,) = ports("--probe")
        text = in_process("ports", "--probe", width=200).stdout
    (user,) = found["users"]
    assert user["pid"] == os.getpid()
    assert found["heard"] is None
    assert found["error"] is None
    assert f"used by {user['program']} ({os.getpid()})" in text


def test_a_port_that_is_not_permitted() -> None:
    with Uart(json_line) as device:
        Path(device.path).chmod(0)
        done = edge_agent(
            "ports", "--probe", device.path, environment={"COLUMNS": "200"}, bound=True
        )
    assert done.status == 0
    assert "not permitted" in done.stdout
    assert f"{device.path}: permission denied; " in done.stdout


def test_a_port_that_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "gone"), "serial:there is no such number"):
        assert "no such port" in in_process("ports", name).complaint()


def test_asking_needs_probing() -> None:
    done = in_process("ports", "--ask")
    assert done.status == 2
    assert "--probe" in done.stderr
