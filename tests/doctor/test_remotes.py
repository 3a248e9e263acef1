"""Remotes, brokers and receivers: real servers, with each fault made real."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import agents
from tests.agents import AgentProcess
from tests.cli.helpers import in_process, request
from tests.doctor.examined import Examined, certificate, examined
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.test_access import SECRET, guarded
from tests.patience import PATIENCE, when_true
from tests.peers.pouchdb_server import PouchDBServer
from tests.rig.network import find_free_port

LABEL = "remote 'cloud'"
FILES = (("tls_certificate", "server.pem"), ("tls_key", "server.key"))


def look(tmp_path: Path, url: str, **keys: object) -> Examined:
    """Look at a gateway with that remote."""
    table = agents.table("remote", name="cloud", url=url, **keys)
    return examined(agents.gateway_config(tmp_path / "gateway.toml", table))


def add_user(config: Path, name: str, *roles: str) -> None:
    password = config.with_name("new-password")
    password.write_text("hunter2")
    options = [option for role in roles for option in ("--role", role)]
    arguments = ("user", "add", name, *options, "--password-file", password)
    added = in_process(*arguments, "--config", config)
    assert added.status == 0, added.stderr


@contextmanager
def cloud(folder: Path, *lines: str) -> Iterator[str]:
    """A hub with two users as the remote; its address without the scheme."""
    folder.mkdir()
    config = folder / "hub.toml"
    port = find_free_port()
    config.write_text("\n".join(["[server]", f'listen = "127.0.0.1:{port}"', *lines, ""]))
    add_user(config, "anna", "_admin")
    add_user(config, "otto")
    options = ("--data", folder / "data", "--config", config)
    with AgentProcess("hub", *options, log=folder / "log") as hub:
        hub.wait_until_ready()
        yield f"127.0.0.1:{port}"


def make(address: str, name: str, members: list[str] | None = None) -> None:
    """Make a database as the administrator, and say who may read it."""
    pair = base64.b64encode(b"anna:hunter2").decode()
    headers = {"Authorization": f"Basic {pair}", "Content-Type": "application/json"}
    security = {"members": {"names": members or []}, "admins": {"names": ["anna"]}}
    for path, body in ((name, None), (f"{name}/_security", json.dumps(security).encode())):
        asked = urllib.request.Request(f"http://{address}/{path}", body, headers, method="PUT")
        urllib.request.urlopen(asked, timeout=PATIENCE).close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cloud(tmp_path_factory.mktemp("cloud") / "hub") as address:
        make(address, "edge", ["otto"])
        make(address, "private", ["anna"])
        yield address


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("hunter2")
    file.chmod(0o600)
    return file


def test_all_is_well(server: str, password: Path, tmp_path: Path) -> None:
    found = look(tmp_path, f"http://{server}/edge", user="otto", password_file="password")
    assert (found.status, found.errors) == (0, [])
    assert found.of("dns", LABEL)[1] == "127.0.0.1 is an address"
    assert found.of("version")[1] == "edge-sync-agent 0.1.0"
    assert found.of("login")[1] == "user 'otto' is let in"
    assert found.of("database") == ("ok", f"http://{server}/edge may be read", None)


def test_a_wrong_password(server: str, password: Path, tmp_path: Path) -> None:
    password.write_text("hunter3")
    found = look(tmp_path, f"http://{server}/edge", user="otto", password_file="password")
    assert found.errors == [("login", LABEL)]
    _, text, mend = found.of("login")
    assert "refused user 'otto'" in text
    assert mend == f"sudoedit {password}"
    found = look(tmp_path, f"http://{server}/edge", user="otto", password="hunter3")
    assert found.of("login")[2] == f"sudoedit {tmp_path / 'gateway.toml'}"


def test_no_password_at_all(server: str, tmp_path: Path) -> None:
    found = look(tmp_path, f"http://{server}/edge")
    assert found.errors == [("database", LABEL)]
    assert "wants a log-in" in found.of("database")[1]
    found = look(tmp_path, f"http://{server}/edge", user="otto", password_file="missing")
    assert ("config", LABEL) in found.errors


def test_a_database_of_others(server: str, password: Path, tmp_path: Path) -> None:
    found = look(tmp_path, f"http://{server}/private", user="otto", password_file="password")
    assert found.errors == [("database", LABEL)]
    assert "with 'otto' among its members" in (found.of("database")[2] or "")


def test_a_database_that_is_not_there(server: str, password: Path, tmp_path: Path) -> None:
    login = {"user": "anna", "password_file": "password"}
    found = look(tmp_path, f"http://{server}/none", **login)
    assert found.errors == [("database", LABEL)]
    assert found.of("database")[2] == "create = true"
    found = look(tmp_path, f"http://{server}/none", create=True, **login)
    assert found.of("database")[:2] == ("ok", "there is none yet; it will be made")
    # It was not made by looking.
    assert look(tmp_path, f"http://{server}/none", **login).errors == [("database", LABEL)]


def test_a_host_that_nobody_knows(tmp_path: Path) -> None:
    found = look(tmp_path, "http://no-such-host.invalid/edge")
    assert found.errors == [("dns", LABEL)]
    assert found.of("dns")[2] == "cat /etc/resolv.conf; getent hosts no-such-host.invalid"


def test_nobody_is_there(tmp_path: Path, free_port: int) -> None:
    found = look(tmp_path, f"http://127.0.0.1:{free_port}/edge")
    assert found.errors == [("server", LABEL)]
    _, text, mend = found.of("server", LABEL)
    assert "cannot be reached (Connection refused)" in text
    assert mend == f"curl -v http://127.0.0.1:{free_port}/"


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(365, "ok", "is valid for 365"), (5, "warning", "renewed"), (-1, "error", "has expired")],
)
def test_a_certificate(days: int, level: str, words: str, tmp_path: Path) -> None:
    made, _ = certificate(tmp_path, days)
    keys = [f'{key} = "{tmp_path / file}"' for key, file in FILES]
    with cloud(tmp_path / "hub", *keys) as address:
        login = {"user": "anna", "password": "hunter2", "create": True}
        found = look(tmp_path, f"https://{address}/edge", ca_file=str(made), **login)
        assert (found.of("tls")[0], words in found.of("tls")[1]) == (level, True)
        assert ("login" in [finding["check"] for finding in found.findings]) == (days > 0)
        if days > 0:
            # Without ca_file it is a stranger's; http on its port is no HTTP, and the other way.
            found = look(tmp_path, f"https://{address}/edge", **login)
            assert found.errors == [("tls", LABEL)]
            assert "ca_file" in (found.of("tls")[2] or "")


def test_tls_where_there_is_none(server: str, tmp_path: Path) -> None:
    found = look(tmp_path, f"https://{server}/edge")
    assert found.errors == [("tls", LABEL)]
    assert "does not speak TLS" in found.of("tls")[1]


def test_pouchdb_server(tmp_path: Path) -> None:
    server = PouchDBServer(tmp_path / "pouch", in_memory=True)
    server.start_now()
    try:
        request("PUT", f"{server.url}/edge")
        found = look(tmp_path, f"{server.url}/edge")
        assert found.errors == []
        assert found.of("version")[1].startswith("PouchDB Server ")
    finally:
        server.stop_now()


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [
        ("1.7.2", "error", "CouchDB 1.7.2, which is not supported"),
        ("2.3.1", "warning", "CouchDB 2.3.1, which is not maintained any more"),
        ("3.5.1", "ok", "CouchDB 3.5.1"),
        (None, "warning", "no CouchDB"),
    ],
)
def test_versions(version: str | None, level: str, words: str, tmp_path: Path) -> None:
    """The welcome of servers that cannot all be installed; their clock is from last year, too."""

    class Welcome(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            couchdb = f'"couchdb": "Welcome", "version": "{version}"' if version else ""
            body = f"{{{couchdb}}}" if self.path == "/" else '{"update_seq": "1-x"}'
            self.send_response_only(200)
            self.send_header("Date", "Sat, 29 Nov 2025 12:00:00 GMT")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Welcome) as stand_in:
        thread = threading.Thread(target=stand_in.serve_forever)
        thread.start()
        try:
            found = look(tmp_path, f"http://127.0.0.1:{stand_in.server_port}/edge")
        finally:
            stand_in.shutdown()
            thread.join()
    assert (found.of("version")[0], words in found.of("version")[1]) == (level, True)
    assert "our clock is" in found.of("clock", LABEL)[1]


def test_the_receiver_of_a_hook(tmp_path: Path) -> None:
    table = agents.table("hook", name="x", url="https://no-such-host.invalid/x?key=hunter2")
    found = examined(agents.gateway_config(tmp_path / "gateway.toml", table))
    assert found.errors == [("dns", "hook 'x'")]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_receiver_of_a_hook_is_away(scheme: str, tmp_path: Path, free_port: int) -> None:
    url = f"{scheme}://127.0.0.1:{free_port}/x?key=hunter2"
    table = agents.table("hook", name="x", url=url)
    found = examined(agents.gateway_config(tmp_path / "gateway.toml", table))
    assert found.errors == [("server", "hook 'x'")]
    assert found.of("server")[2] == f"nc -vz 127.0.0.1 {free_port}"


# --- brokers ---------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = guarded(tmp_path / "broker", "hub", "gateway-1")
    broker.start_now()
    yield broker
    broker.end_now()


def test_a_broker(broker: Mosquitto, tmp_path: Path, free_port: int) -> None:
    url = broker.url + "/edge"
    login = {"user": "gateway-1", "password": SECRET}
    found = look(tmp_path, url, user="gateway-1", password="hunter2")
    assert found.errors == [("login", LABEL)]
    assert found.of("login")[2] == f"sudoedit {tmp_path / 'gateway.toml'}"
    found = look(tmp_path, url, **login)
    assert found.errors == [("responder", LABEL)]
    assert found.of("broker", LABEL) == ("ok", f"{broker.url} lets us in", None)

    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    on_broker = broker.url.replace("//", "//hub@")
    hub = AgentProcess(
        *("hub", "--data", tmp_path / "hub", "--listen", "127.0.0.1:0"),
        *("--broker", on_broker, "--broker-password-file", secret),
        log=tmp_path / "hub.log",
    )
    with hub:
        served = hub.wait_until_ready()
        when_true(lambda: request("GET", f"{served}/_status")["mqtt"]["state"] == "connected")
        assert look(tmp_path, url, **login).errors == [("database", LABEL)]
        request("PUT", f"{served}/edge")
        found = look(tmp_path, url, **login)
        assert (found.status, found.of("responder")[0]) == (0, "ok")

        # It looks beside the running agent, without taking its place on the broker.
        table = agents.table("remote", name="cloud", url=url, **login)
        config = agents.gateway_config(tmp_path / "gateway.toml", table, port=free_port)
        with agents.gateway(config, log=tmp_path / "gateway.log") as gateway:
            address = gateway.wait_until_ready()

            def is_live() -> bool:
                [remote] = request("GET", f"{address}/_status")["remotes"]
                return {remote["push"]["state"], remote["pull"]["state"]} == {"live"}

            when_true(is_live)
            assert examined(config).errors == []
            assert is_live()
            gateway.stop()
            assert "broke" not in gateway.log


def test_a_broker_that_is_away(tmp_path: Path, free_port: int) -> None:
    url = f"mqtt://127.0.0.1:{free_port}"
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("remote", name="cloud", url=f"{url}/edge"),
        agents.table("telemetry", name="site", url=url),
    )
    found = examined(config)
    assert found.errors == [("broker", LABEL), ("broker", "telemetry 'site'")]
    assert found.of("broker", LABEL)[2] == f"nc -vz 127.0.0.1 {free_port}"
