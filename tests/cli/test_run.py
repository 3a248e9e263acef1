"""`edge-agent run` and `edge-agent hub` end in order when they are asked to."""

from __future__ import annotations

import os
import pwd
import resource
import signal
import socket
import stat
import urllib.request
from pathlib import Path

import msgspec
import pytest

from tests import agents
from tests.cli.helpers import query, request
from tests.devices.micropython import SensorNode
from tests.patience import PATIENCE, when_true
from tests.server.api import number_in, numbered


def whole(path: Path) -> None:
    """The file alone is the store: it is sound, and nothing waits in a WAL beside it."""
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    wal = path.with_name(path.name + "-wal")
    assert not wal.exists() or wal.stat().st_size == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_hub_ends_at_once_although_clients_listen(number: signal.Signals, tmp_path: Path) -> None:
    with agents.hub(tmp_path / "hub") as hub:
        url = hub.wait_until_ready()
        request("PUT", f"{url}/db")
        request("PUT", f"{url}/db/doc", {"a": 1})
        feed = f"{url}/db/_changes?feed=continuous&heartbeat=60000"
        with urllib.request.urlopen(feed, timeout=PATIENCE) as changes:
            assert b'"doc"' in changes.readline()
            hub.send(number)
            assert numbered(msgspec.json.decode(changes.read())) == {"last_seq": 1, "pending": 0}
        result = hub.finish()
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    whole(tmp_path / "hub" / "db.sqlite")
    assert query(tmp_path / "hub" / "db.sqlite", "SELECT id, body FROM docs") == [
        ("doc", '{"a":1}')
    ]


def test_the_files_of_an_agent_are_its_users_only(tmp_path: Path) -> None:
    """Documents of `_replicator` have passwords in them."""
    before = os.umask(0o022)
    try:
        with agents.hub(tmp_path / "hub") as hub:
            url = hub.wait_until_ready()
            request("PUT", f"{url}/_replicator/r", {"source": "http://u:pw@h.invalid/x"})
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in (tmp_path / "hub").iterdir()
            }
            assert stat.S_IMODE((tmp_path / "hub").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert {"_replicator.sqlite", "_replicator.sqlite-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}


@pytest.mark.skipif(os.getuid() != 0, reason="this needs root")
def test_root_does_not_work_among_the_data_of_somebody_else(tmp_path: Path) -> None:
    """Once it had, the service could not start any more. But in a container nobody has a name."""
    data = tmp_path / "hub"
    data.mkdir()
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(data, nobody, -1)
    complaint = agents.edge_agent("hub", "--data", data, "--listen", "127.0.0.1:0").complaint()
    assert complaint.startswith(f"{data}: these are the data of the user nobody, ")
    assert "runuser -u nobody -- edge-agent" in complaint
    assert list(data.iterdir()) == []
    os.chown(data, 2_000_000_000, -1)
    with agents.hub(data) as hub:
        assert hub.wait_until_ready()
        assert hub.stop().status == 0


def test_a_process_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with agents.hub(tmp_path / "hub") as hub:
            hub.wait_until_ready()
            assert resource.prlimit(hub.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """The log says nothing of clients that leave a feed."""
    with agents.hub(tmp_path / "hub") as hub:
        url = hub.wait_until_ready()
        request("PUT", f"{url}/db")
        request("PUT", f"{url}/db/doc", {"a": 1})
        host, port = url.removeprefix("http://").split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(
                    b"GET /db/_changes?feed=continuous HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
                received = b""
                while b'"doc"' not in received:
                    received += client.recv(65536)
        request("PUT", f"{url}/db/another", {"a": 1})
        result = hub.stop()
    assert (result.status, result.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_ends_with_nothing_lost(number: signal.Signals, tmp_path: Path) -> None:
    """Every frame from the first one stored to the end is there, in full, and the checkpoints."""
    node = SensorNode(tmp_path / "device", tmp_path / "sent.txt", interval_ms=10)
    store, cloud = tmp_path / "gateway" / "edge.sqlite", tmp_path / "hub" / "edge.sqlite"
    count = "SELECT count(*) FROM docs"

    def stored(path: Path) -> int:
        made = query(path, "SELECT 1 FROM sqlite_master WHERE name = 'docs'")
        return int(query(path, count)[0][0]) if made else 0

    def confirmed(url: str) -> int:
        (remote,) = request("GET", f"{url}/_status")["remotes"]
        seqs = (remote[way]["confirmed_seq"] or 0 for way in ("push", "pull"))
        return min(number_in(seq) if isinstance(seq, str) else seq for seq in seqs)

    with agents.hub(tmp_path / "hub") as hub, node:
        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            agents.table("device", name="node", port=str(node.port), adapter="cbor-frames"),
            agents.table(
                "remote", name="hub", url=f"{hub.wait_until_ready()}/edge", create=True, retry_cap=1
            ),
        )
        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()
            when_true(lambda: stored(store) > 90)
            when_true(lambda: stored(cloud) > 90)
            when_true(lambda: confirmed(url) > 0)
            result = gateway.stop(number)
        assert (result.status, result.stdout) == (0, "")
        assert "Traceback" not in result.stderr

    whole(store)
    rows = query(store, "SELECT sequence, count(*) FROM readings GROUP BY sequence ORDER BY 1")
    first, last = rows[0][0], rows[-1][0]
    assert rows == [(sequence, 3) for sequence in range(first, last + 1)]
    logs = [
        msgspec.json.decode(body)
        for (id, body) in query(store, "SELECT id, body FROM local")
        if id != "clock" and not id.startswith("device:")
    ]
    assert len(logs) == 2  # push and pull
    [pushed] = [log["source_last_seq"] for log in logs if isinstance(log["source_last_seq"], int)]
    assert pushed > 90


def test_a_signal_during_the_start(tmp_path: Path) -> None:
    """Before it has set anything up, or after: it ends, and the next start finds all in order."""
    config = agents.gateway_config(tmp_path / "gateway.toml")
    with agents.gateway(config) as gateway:
        when_true(lambda: (tmp_path / "gateway").exists())
        assert gateway.stop().status == 0
    with agents.gateway(config) as gateway:
        url = gateway.wait_until_ready()
        assert request("GET", f"{url}/edge")["doc_count"] == 0
        assert gateway.stop().status == 0
    whole(tmp_path / "gateway" / "edge.sqlite")
