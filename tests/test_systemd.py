"""What systemd is told by a program that it runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import StoreError
from agent.systemd import Notifier
from tests.agents import AgentProcess, edge_agent, gateway, gateway_config
from tests.cli.helpers import documents, make_store, request
from tests.patience import PATIENCE
from tests.rig.disk_errors import DiskErrors


class Listener:
    """The socket on which systemd would listen."""

    def __init__(self, address: str) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind("\0" + address[1:] if address.startswith("@") else address)
        self.channel.settimeout(PATIENCE)

    def wait_for(self, message: str) -> int:
        """How many other messages came before it, but for those that ask for time to start."""
        others = 0
        while (got := self.channel.recv(4096).decode()) != message:
            if got.startswith("EXTEND_TIMEOUT_USEC="):
                assert message == "READY=1", "it is not starting"
                continue
            others += 1
            assert got == "WATCHDOG=1"
        return others

    def wait_for_silence(self, seconds: float) -> None:
        """Until nothing comes for so long."""
        self.channel.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while True:
                self.channel.recv(4096)
        self.channel.settimeout(PATIENCE)


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


def test_while_the_disk_does_not_answer_there_is_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program goes on answering, but not working; that is what a watchdog is for."""
    listener = Listener(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    disk = DiskErrors(tmp_path)
    hub = ("hub", "--data", tmp_path / "data", "--listen", "127.0.0.1:0")
    agent = AgentProcess(*hub, log=tmp_path / "log", environment=disk.environment)
    with listener.channel, agent, ThreadPoolExecutor(1) as other:
        url = agent.wait_until_ready()
        request("PUT", f"{url}/db")
        listener.wait_for("READY=1")
        listener.wait_for("WATCHDOG=1")
        disk.set("stall -wal")
        writing = other.submit(request, "PUT", f"{url}/db/x", {})
        listener.wait_for_silence(2.0)
        assert request("GET", url)["couchdb"] == "Welcome"
        assert not writing.done()
        disk.set()
        listener.wait_for("WATCHDOG=1")
        assert writing.result()["ok"]
        assert agent.stop().status == 0


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


async def test_a_start_that_works_gets_more_time_and_one_that_hangs_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"}
    starting = asyncio.create_task(Notifier(environment).keep_starting())
    with listener.channel:
        listener.channel.setblocking(False)
        await asyncio.sleep(1.5)
        with pytest.raises(BlockingIOError):
            listener.channel.recv(4096)
        end = time.monotonic() + PATIENCE
        while True:
            await asyncio.to_thread(_work, 0.2)
            with contextlib.suppress(BlockingIOError):
                assert listener.channel.recv(4096) == b"EXTEND_TIMEOUT_USEC=900000"
                break
            assert time.monotonic() < end
        # What goes in a circle has an end, too.
        monkeypatch.setattr("agent.systemd._LONGEST_START", 1.0)
        await asyncio.wait_for(Notifier(environment).keep_starting(), PATIENCE)
        starting.cancel()


def _work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(bytes(65536))


def test_a_long_start_asks_for_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged store is copied; once the program is ready, it asks no more."""
    path = make_store(tmp_path / "data" / "edge.sqlite", documents(1000))
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(os.urandom(path.stat().st_size // 2))
    listener = Listener(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "90000")
    config = gateway_config(tmp_path / "gateway.toml")
    config.write_text(config.read_text().replace('data = "gateway"', 'data = "data"'))
    with listener.channel, gateway(config) as agent:
        assert listener.channel.recv(4096) == b"EXTEND_TIMEOUT_USEC=90000"
        assert listener.wait_for("READY=1") == 0
        for _ in range(10):
            listener.wait_for("WATCHDOG=1")
        assert agent.stop().status == 0


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
    with pytest.raises(StoreError, match="checked once"):
        await notifier.keep_alive(_once)


async def _once() -> None:
    raise StoreError("checked once", path="db")


def test_a_store_that_turns_out_to_be_damaged_ends_the_program_and_the_next_start_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    path = make_store(data / "edge.sqlite", documents(3000))
    listener = Listener(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    config = gateway_config(tmp_path / "gateway.toml")
    config.write_text(config.read_text().replace('data = "gateway"', 'data = "data"'))
    with listener.channel, gateway(config) as agent:
        url = agent.wait_until_ready()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size // 3)  # beyond the schema; without that nothing can be read
            file.write(os.urandom(size // 2))
        with pytest.raises(urllib.error.HTTPError):
            request("GET", f"{url}/edge/_all_docs")
        done = agent.finish()
        assert done.status == 1
        assert "the file is damaged" in done.stderr
    with gateway(config) as agent:
        url = agent.wait_until_ready()
        database = request("GET", f"{url}/_status")["database"]
        assert 100 < database["doc_count"] < 3000
        assert database["salvaged"]["documents"] == database["doc_count"]
        assert Path(database["salvaged"]["aside"]).exists()
        assert "documents were copied" in agent.log
        assert agent.stop().status == 0
