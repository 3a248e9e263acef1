"""No secret is told anywhere: each one that can be set is a word that no output may have in it.

The programs run as they are run, at `--log-level debug`, with remotes, brokers and hooks that work,
refuse the log-in, are not there or fail; then all that they have said is searched.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest

from agent.config_file import load
from agent.errors import EdgeAgentError
from agent.parts import hook_for, peer_for
from agent.peers.mqtt_topics import parse_mqtt_url
from agent.peers.urls import parse_database_url
from agent.replication.spec import parse_endpoint
from agent.store.databases import Databases
from agent.telemetry.options import telemetry_options
from tests import agents
from tests.agents import AgentProcess, edge_agent, table
from tests.cli.helpers import in_process
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import PATIENCE, when_true
from tests.rig.network import find_free_port
from tests.server.accounts import quick_hash

_WORD = "CANARY{}p%:ss"  # with what means something in URLs, headers and log messages


_CRASH = """
from agent.replication.verifier import Verifier

async def run(self):
    raise RuntimeError(f"a mistake of the program: {[vars(self), *map(vars, self._jobs)]}")

Verifier.run = run
"""


class Canaries:
    """Secrets, and every form in which they might be told."""

    def __init__(self) -> None:
        self.needles: dict[str, str] = {}

    def new(self, name: str, user: str = "gw") -> str:
        """A secret; `user` has it as the password."""
        secret = _WORD.format(name)
        self.keep(name, secret, user)
        return secret

    def keep(self, name: str, secret: str, user: str = "gw") -> None:
        pair = f"{user}:{secret}".encode()
        self.needles[secret] = name
        self.needles[quote(secret, safe="")] = name
        for coded in (pair, secret.encode()):
            self.needles[base64.b64encode(coded).decode().rstrip("=")] = f"{name} in base64"

    def found_in(self, text: str) -> set[str]:
        return {name for needle, name in self.needles.items() if needle in text}


class _Hook(BaseHTTPRequestHandler):
    """Refuses in every way, one after the other."""

    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen.append(self.headers["Authorization"])
        self.send_response([500, 401, 302, 429][len(self.seen) % 4])
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def refusing() -> Iterator[tuple[str, list[str]]]:
    """A webhook's receiver: its URL, and the Authorization headers that it got."""
    _Hook.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", _Hook.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(method: str, url: str, user: str, password: str, body: Any = None) -> str:
    """What a server answers, headers and all; refusals too."""
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {pair}"}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return f"{answer.headers}\n{answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.headers}\n{error.read().decode()}"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_everything_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = Canaries()
    said: dict[str, str] = {}
    admin, known = canaries.new("admin", "admin"), canaries.new("inline")
    hub_file = written(
        tmp_path / "hub.toml",
        table("user", name="admin", password_hash=quick_hash(admin), roles=["_admin"])
        + table("user", name="gw", password_hash=quick_hash(known), roles=["_admin"]),
    )
    for password in (admin, known):
        canaries.keep("hash", quick_hash(password))
    nowhere = f"127.0.0.1:{find_free_port()}"
    monkeypatch.setenv("CANARY_OF_REMOTE", canaries.new("environment"))
    broker = Mosquitto(tmp_path / "closed", anonymous=False)
    open_broker = Mosquitto(tmp_path / "open")
    with ExitStack() as stack:
        for each in (broker, open_broker):
            each.start_now()
            stack.callback(each.end_now)
        listened = (tmp_path / "listened").open("wb")
        stack.enter_context(listened)
        listener = subprocess.Popen(
            ["mosquitto_sub", "-p", str(open_broker.port), "-t", "#", "-F", "%t %U %P %p"],
            stdout=listened,
        )
        stack.callback(listener.wait)
        stack.callback(listener.terminate)
        hook_url, seen = stack.enter_context(refusing())
        mqtt_secret = quote(canaries.new("broker of the hub", "hub"), safe="")
        hub = AgentProcess(
            *("--log-level", "debug", "hub", "--data", tmp_path / "hub"),
            *("--listen", "127.0.0.1:0", "--config", hub_file),
            *("--broker", broker.url.replace("//", f"//hub:{mqtt_secret}@")),
            log=tmp_path / "hub.log",
        )
        stack.enter_context(hub)
        hub_url = hub.wait_until_ready()
        in_url = quote(canaries.new("in the URL"), safe="")
        login = {"user": "gw", "create": True, "retry_cap": 0.2}
        kept = written(tmp_path / "kept", canaries.new("file") + "\n")
        hook_token = quote(canaries.new("query of a hook"), safe="")
        remotes = [
            table("remote", name="ok", url=f"{hub_url}/ok", password=known, **login),
            table(
                "remote", name="basic", url=f"{hub_url}/b", password=known, auth="basic", **login
            ),
            table(
                "remote",
                name="refused",
                url=f"{hub_url}/edge",
                password_env="CANARY_OF_REMOTE",
                verify_interval=1,
                **login,
            ),
            table("remote", name="gone", url=f"http://{nowhere}/x", password_file="kept", **login),
            table("remote", name="url", url=f"{hub_url}/u".replace("//", f"//gw:{in_url}@")),
            table(
                "remote",
                name="mqtt",
                url=f"{broker.url}/edge",
                password=canaries.new("broker"),
                **login,
            ),
        ]
        telemetry = [
            table("telemetry", name=name, url=url, user="gw", password=canaries.new(name))
            for name, url in (("closed", broker.url), ("open", open_broker.url))
        ]
        hooks = [
            table(
                "hook",
                name="bearer",
                url=f"{hook_url}/{hook_token}?token={hook_token}",
                auth="bearer",
                password=canaries.new("bearer"),
                signing_key=canaries.new("signing key"),
                retry_cap=0.2,
            ),
            table(
                "hook",
                name="basic",
                url=f"{hook_url}/basic",
                user="gw",
                password=canaries.new("basic hook"),
                retry_cap=0.2,
            ),
        ]
        users = [
            table("user", name="admin", password_hash=quick_hash(admin), roles=["_admin"]),
        ]
        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            *(*remotes, *telemetry, *hooks, *users),
            port=find_free_port(),
        )
        with monkeypatch.context() as patched:
            (tmp_path / "crashing").mkdir()
            written(tmp_path / "crashing" / "sitecustomize.py", _CRASH)
            patched.setenv("PYTHONPATH", f"{tmp_path / 'crashing'}:{agents.CHECKOUT}")
            gateway = agents.gateway(config, "--log-level", "debug")
        stack.enter_context(gateway)
        url = gateway.wait_until_ready()

        def ask(name: str, method: str, path: str, body: Any = None, password: str = admin) -> str:
            said[name] = asked(method, f"{url}{path}", "admin", password, body)
            return said[name]

        # Log-ins that succeed and that do not, and the secrets in bodies that are wrong.
        wrong = canaries.new("wrong", "admin")
        ask("wrong password", "GET", "/_all_dbs", password=wrong)
        session = {"name": "admin", "password": wrong}
        ask("wrong session", "POST", "/_session", session)
        ask("broken session", "POST", "/_session", json.dumps(session).encode()[:-1])
        ask("session of a number", "POST", "/_session", {"name": 5, "password": [wrong]})
        cookie = asked(
            "POST", f"{url}/_session", "admin", admin, {"name": "admin", "password": admin}
        ).split("AuthSession=")[1]
        canaries.keep("session", cookie.split(";")[0])

        # Replications that others ask for.
        ask("_replicator", "PUT", "/_replicator")
        bearer = canaries.new("header")
        basic = {"username": "gw", "password": canaries.new("auth.basic")}
        in_doc = quote(canaries.new("URL of a replication"), safe="")
        endpoints = {
            "auth": {"url": f"{hub_url}/edge", "auth": {"basic": basic}},
            "header": {"url": f"{hub_url}/edge", "headers": {"Authorization": f"Bearer {bearer}"}},
            "url": f"{hub_url}/edge".replace("//", f"//gw:{in_doc}@"),
            "gone": f"http://gw:{in_doc}@{nowhere}/edge",
            "no host": f"http:/gw:{in_doc}@/edge",
            "query": f"http://gw:{in_doc}@host/edge?x=y",
            "broker": f"{broker.url}/edge".replace("//", f"//gw:{in_doc}@"),
            "broken": {"url": f"{hub_url}/edge", "auth": {"basic": {"password": in_doc}}},
        }
        for name, endpoint in endpoints.items():
            doc = {"source": "edge", "target": endpoint, "continuous": True}
            asked("PUT", f"{url}/_replicator/{quote(name)}", "admin", admin, doc)
            ask(f"_replicate {name}", "POST", "/_replicate", {**doc, "continuous": False})
        ask("write", "PUT", "/edge/a", {"n": 1})

        def all_have_failed() -> bool:
            status = json.loads(ask("_status", "GET", "/_status").split("\n\n", 1)[1])
            jobs = [each["push"]["last_error"] for each in status["remotes"][2:]]
            others = [each["last_error"] for each in status["telemetry"][:1] + status["hooks"]]
            docs = json.loads(ask("docs", "GET", "/_scheduler/docs").split("\n\n", 1)[1])["docs"]
            errors = [each for each in docs if each["state"] in ("crashing", "failed", "error")]
            fine = status["remotes"][0]["push"]["docs_written"] > 0
            return bool(fine and all(jobs) and all(others) and len(errors) == len(endpoints))

        when_true(all_have_failed)
        when_true(lambda: len(seen) >= 4)
        for path in ("/_metrics", "/_active_tasks", "/_scheduler/jobs", "/_scheduler/docs", "/"):
            ask(path, "GET", path)
        file = ["--config", config]
        for arguments in (
            ["status", *file],
            ["status", "--json", *file],
            ["top", "--once", *file],
            ["config", "check", *file],
            ["config", "check", "--json", *file],
            ["doctor", *file],
            ["doctor", "--json", *file],
            ["hooks", "list", *file],
            ["replicate", f"http://gw:{in_doc}@{nowhere}/x", tmp_path / "new.sqlite"],
            ["replicate", endpoints["url"], tmp_path / "new.sqlite"],
            ["verify", f"http://gw:{in_doc}@{nowhere}/x", endpoints["url"]],
            ["bridge", "--broker", endpoints["broker"], "--upstream", endpoints["query"]],
        ):
            done = edge_agent("--log-level", "debug", *arguments)
            said[" ".join(map(str, arguments[:2]))] = done.stdout + done.stderr
        for process, name in ((gateway, "gateway"), (hub, "hub")):
            secret = (tmp_path / name / "session.secret").read_bytes()
            for coded in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
                canaries.keep("secret of sessions", coded)
            said[name] = process.stop().stdout + process.log
        kept.unlink()
        said["no file"] = edge_agent("config", "check", *file).complaint()
    said["broker"] = (tmp_path / "listened").read_text(errors="replace")
    assert "DEBUG" in said["gateway"]
    assert "RuntimeError: a mistake of the program" in said["gateway"]
    assert "online" in said["broker"]
    # The words do stand where they belong, and would be found.
    assert canaries.found_in(" ".join(seen)) == {"bearer", "basic hook in base64"}
    assert {"inline", "signing key", "in the URL"} <= canaries.found_in(config.read_text())
    told = {name: found for name, text in said.items() if (found := canaries.found_in(text))}
    assert told == {}


# --- errors and texts --------------------------------------------------------------------

SECRET = "CANARY"


def refusal(parse: Callable[..., object], *arguments: object) -> str:
    """What it says of its arguments; nothing if it takes them."""
    try:
        parse(*arguments)
    except EdgeAgentError as error:
        return str(error)
    return ""


def test_a_url_that_is_none() -> None:
    schemes = ("http:", "https:", "mqtt:", "ftp:", "")
    passwords = (SECRET, *(f"{SECRET}{end}" for end in "/#?@'\""), f"a\n{SECRET}", f"'{SECRET}\"")
    rests = ("host:x/edge", "/edge", "host/edge?x", "host/a@b", "h\u00f6st/edge", "[::/edge")
    for scheme, slashes, password, rest in product(
        schemes, ("//", "/", "", "///"), passwords, rests
    ):
        url = f"{scheme}{slashes}gw:{password}@{rest}"
        assert SECRET not in refusal(parse_database_url, url), url
        assert SECRET not in refusal(parse_mqtt_url, url), url
        assert SECRET not in refusal(parse_endpoint, url, "source"), url


_REMOTE = '[[remote]]\nname = "cloud"\nurl = "http://h/d"\nuser = "gw"\n'
_HOOK = '[[hook]]\nname = "h"\nurl = "http://h/d"\n'


@pytest.mark.parametrize(
    "tables",
    [
        _REMOTE + 'password = "CANARY"\npassword_file = "x"',
        _REMOTE + 'password = ["CANARY"]',
        _REMOTE + 'passwort = "CANARY"',
        _REMOTE + "password = CANARY",
        _REMOTE + 'password = "CANARY',
        _REMOTE + 'password = """CANARY',
        _REMOTE + 'password = "CANARY\\q"',
        _REMOTE + 'password = "CANARY" "CANARY"',
        _REMOTE + 'password = "CANARY"\npassword = "CANARY"',
        _REMOTE + 'password = {CANARY = "CANARY"}',
        _REMOTE.replace("http://h", "http://gw:CANARY@") + "retry_cap = -1",
        _REMOTE.replace("http://h/d", "http:/gw:CANARY@h/d"),
        _REMOTE.replace("http://h/d", "ftp://gw:CANARY@h/d"),
        _REMOTE.replace("http://h/d", "ftp://gw:a'CANARY'b@h/d"),
        _REMOTE.replace("http://h/d", "gw:CANARY@h/d"),
        _REMOTE.replace("http://h/d", "http://gw:CANARY@h:99999/d"),
        _HOOK + 'password = "CANARY"',
        _HOOK + 'signing_key = ["CANARY"]',
        _HOOK.replace("http://h/d", "ftp://h/CANARY"),
        _HOOK.replace("http://h/d", "http://gw:CANARY@h/"),
        _HOOK.replace("http://h/d", "http://h:x/?CANARY"),
        '[[user]]\nname = "a"\npassword_hash = "CANARY"\nroles = ["_admin"]',
        '[[user]]\nname = "a"\npassword_hash = "$scrypt$CANARY"\nroles = ["_admin"]',
        '[[telemetry]]\nname = "t"\nurl = "mqtt://gw:CANARY@b:x"',
        '[[telemetry]]\nname = "t"\nurl = "http://gw:CANARY@b"',
        '[[telemetry]]\nname = "t"\nurl = "mqtt://b"\npassword = "CANARY"',
    ],
)
def test_a_mistake_in_the_configuration(tmp_path: Path, tables: str) -> None:
    config = agents.gateway_config(tmp_path / "gateway.toml", tables)
    complaint = in_process("config", "check", "--config", config).complaint()
    assert SECRET not in complaint


def test_what_a_traceback_would_show(tmp_path: Path) -> None:
    """Of each object that holds secrets."""
    login = {"user": "gw", "password": SECRET}
    config = load(
        agents.gateway_config(
            tmp_path / "gateway.toml",
            table("remote", name="http", url=f"http://gw:{SECRET}@h/d", **login),
            table("remote", name="mqtt", url=f"mqtt://gw:{SECRET}@h/d", **login),
            table("telemetry", name="t", url=f"mqtt://gw:{SECRET}@h", **login),
            table("hook", name="h", url=f"http://h/{SECRET}", signing_key=SECRET, **login),
            table("user", name="a", password_hash=f"$scrypt${SECRET}", roles=["_admin"]),
        )
    )
    holders: list[Any] = [config, *config.remote, *config.telemetry, *config.hook, *config.user]
    holders += [peer_for(remote, "gateway") for remote in config.remote]
    holders.append(telemetry_options(config.telemetry[0], config))
    holders.append(hook_for(config.hook[0], Databases(tmp_path), "edge"))
    for endpoint in (f"http://gw:{SECRET}@h/d", f"mqtt://gw:{SECRET}@h/d"):
        holders.append(parse_endpoint(endpoint, "source"))
    for holder in holders:
        assert SECRET not in repr(holder), type(holder)
