"""What systemd is told by a program that it runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.systemd import Notifier
from tests.agents import AgentProcess, edge_agent

LONGEST = 20.0
"""Seconds that a message may take; only so that a test cannot hang."""


class Listener:
    """The socket on which systemd would listen."""

    def __init__(self, address: str) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind("\0" + address[1:] if address.startswith("@") else address)
        self.channel.settimeout(LONGEST)

    def wait_for(self, message: str) -> int:
        """How many other messages came before it."""
        others = 0
        while (got := self.channel.recv(4096).decode()) != message:
            others += 1
            assert got == "WATCHDOG=1"
        return others


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_alive_and_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    address = f"@edge-agent-{os.getpid()}" if abstract else str(tmp_path / "notify")
    listener = Listener(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    hub = ("hub", "--data", tmp_path / "data", "--listen", "127.0.0.1:0")
    with listener.channel, AgentProcess(*hub, log=tmp_path / "log") as agent:
        assert listener.wait_for("READY=1") == 0
        for _ in range(3):
            assert listener.wait_for("WATCHDOG=1") == 0
        assert agent.stop().status == 0
        listener.wait_for("STOPPING=1")


def test_a_hub_that_cannot_start_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    (tmp_path / "data").write_text("no folder")
    hub = ("hub", "--data", tmp_path / "data", "--listen", "127.0.0.1:0")
    with listener.channel:
        assert edge_agent(*hub).status != 0
        listener.channel.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.channel.recv(4096)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
async def test_nobody_asks_for_signs_of_life(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog is None
    notifier.send("READY=1")
    await notifier.keep_alive(_never)


async def _never() -> None:
    raise AssertionError("nobody asked")
