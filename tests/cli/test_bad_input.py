"""What people get wrong, and what the world does: each gives one line, and never a traceback.

The line says what is wrong, where, and what to do. The servers are real ones wherever a real one
gives that answer: a hub, pouchdb-server, Python's web server for a page of HTML. The stand-ins are
one for 403, which pouchdb-server has no rights for, and a TLS server with a certificate that
nobody signed.
"""

from __future__ import annotations

import fcntl
import functools
import http.server
import os
import pty
import socket
import sqlite3
import ssl
import subprocess
import termios
import tty
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import documents, in_process, make_store, query, request, serving
from tests.patience import when_true
from tests.peers.pouchdb_server import PouchDBServer
from tests.rig.network import find_free_port
from tests.store.helpers import migrated_further

SECRET = "hunter2"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store.sqlite", documents(3))


def replicate(store: Path, target: str) -> str:
    """What `replicate` complains of; it must not give a secret away."""
    result = in_process("replicate", store, target)
    assert result.stdout == ""
    assert SECRET not in result.complaint()
    return result.complaint()


def says_no_secret(store: Path, target: str) -> None:
    """Also at its most talkative."""
    assert SECRET in target
    result = edge_agent("--log-level", "debug", "replicate", "--json", store, target)
    assert result.status == 1
    assert len(result.stderr.splitlines()) > 1
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stdout + result.stderr


# --- remotes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (f"ftp://anna:{SECRET}@host/db", ["ftp://host/db", "http:// or https://"]),
        (f"http://anna:{SECRET}@host", ["http://host", "name is missing", "https://host/database"]),
        (f"http://anna:{SECRET}/x@host/db", ["http://host/db", "%2F"]),
        ("http://nowhere.invalid/db", ["http://nowhere.invalid/db", "check the name"]),
    ],
)
def test_a_wrong_url(url: str, parts: list[str], store: Path) -> None:
    complaint = replicate(store, url)
    for part in parts:
        assert part in complaint


def test_a_refused_connection(store: Path, free_port: int) -> None:
    url = f"127.0.0.1:{free_port}/db"
    complaint = replicate(store, f"http://anna:{SECRET}@{url}")
    assert complaint.startswith(f"http://{url} cannot be reached (Connection refused); check")
    says_no_secret(store, f"http://anna:{SECRET}@{url}")


def test_a_database_that_is_missing(store: Path, hub_url: str) -> None:
    complaint = replicate(store, f"{hub_url}/missing")
    assert complaint == (
        f"{hub_url}/missing does not exist (404 not_found: Database does not exist.); "
        "check the URL or create the database"
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a pouchdb-server that lets only `boss` into its database `secret`."""
    server = PouchDBServer(tmp_path_factory.mktemp("guarded"), in_memory=True)
    server.start_now()
    try:
        request("PUT", f"{server.url}/secret")
        nobody = {"names": ["boss"], "roles": []}
        request("PUT", f"{server.url}/secret/_security", {"admins": nobody, "members": nobody})
        request("PUT", f"{server.url}/_config/admins/boss", SECRET)
        yield server.url
    finally:
        server.stop_now()


def test_401(store: Path, guarded: str) -> None:
    url = f"{guarded}/secret"
    complaint = replicate(store, url)
    assert complaint.startswith(f"{url} wants a log-in (401 unauthorized: ")
    assert complaint.endswith("; give a user and a password")
    wrong = url.replace("//", f"//anna:{SECRET}@")
    complaint = replicate(store, wrong)
    assert complaint.startswith(f"{url} refused user 'anna' (401 unauthorized: ")
    assert complaint.endswith("; check the user and the password")
    says_no_secret(store, wrong)


class Forbidding(http.server.BaseHTTPRequestHandler):
    """Stands in for a CouchDB that knows the user, who is no member of the database."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"error":"forbidden","reason":"You are not allowed to access this db."}')

    def do_POST(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class Page(http.server.SimpleHTTPRequestHandler):
    """Python's own web server."""

    def guess_type(self, path: Any) -> str:
        """The file has no suffix to tell by."""
        return "text/html"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_403(store: Path) -> None:
    with serving(Forbidding) as port:
        target = f"http://anna:{SECRET}@127.0.0.1:{port}/db"
        complaint = replicate(store, target)
        says_no_secret(store, target)
    assert complaint == (
        f"http://127.0.0.1:{port}/db forbids GET /db "
        "(403 forbidden: You are not allowed to access this db.); "
        "give user 'anna' access to this database"
    )


def test_a_page_of_html(tmp_path: Path, store: Path) -> None:
    (tmp_path / "page").write_text("<!doctype html><title>Please log in</title>")
    with serving(functools.partial(Page, directory=str(tmp_path))) as port:
        complaint = replicate(store, f"http://127.0.0.1:{port}/page")
    assert complaint == (
        f"http://127.0.0.1:{port}/page answered 200 with text/html that is not CouchDB's JSON; "
        "check the URL, or log in to the network if this is its log-in page"
    )


def certificate(folder: Path, days: int) -> ssl.SSLContext:
    """A server's side of TLS with a certificate that it signed itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", cert, "-days", str(days)),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_a_certificate_that_does_not_verify(tmp_path: Path, store: Path) -> None:
    with serving(Forbidding, certificate(tmp_path, days=2)) as port:
        url = f"127.0.0.1:{port}/db"
        complaint = replicate(store, f"https://anna:{SECRET}@{url}")
        assert complaint.startswith(f"https://{url}: the certificate does not verify (self-signed")
        assert "; give ca_file, or a command --ca-file, if" in complaint


def test_tls_where_there_is_none(store: Path, hub_url: str) -> None:
    complaint = replicate(store, f"{hub_url.replace('http:', 'https:')}/db")
    assert "no TLS connection" in complaint
    assert complaint.endswith("check that this port speaks https")


# --- stores ----------------------------------------------------------------------------


def not_sqlite(path: Path) -> str:
    path.write_bytes(b"This is no database, it is a text that somebody put here." * 100)
    return f"{path}: not a store (no SQLite file); give another path or move the file away"


def of_another_program(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (url)")
    return f"{path}: an SQLite file of another program; give another path"


def from_a_newer_version(path: Path) -> str:
    make_store(path)
    with closing(sqlite3.connect(path)) as db:
        migrated_further(db, 99)
    return f"{path}: written by a newer version (schema 99, this one knows "


def a_folder(path: Path) -> str:
    path.mkdir()
    return f"{path}: "


BAD_STORES = [not_sqlite, of_another_program, from_a_newer_version, a_folder]


@pytest.mark.parametrize("spoil", BAD_STORES)
def test_a_file_that_is_no_store(spoil: Any, tmp_path: Path, store: Path) -> None:
    bad = tmp_path / "bad.sqlite"
    expected = spoil(bad)
    before = None if bad.is_dir() else bad.read_bytes()
    complaint = edge_agent("replicate", bad, store).complaint()
    assert complaint.startswith(expected)
    assert ";" in complaint
    assert in_process("replicate", "--create-target", store, bad).complaint() == complaint
    assert before is None or bad.read_bytes() == before


@pytest.mark.parametrize("spoil", [not_sqlite, from_a_newer_version])
def test_an_agent_does_not_start_on_such_a_file(spoil: Any, tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    expected = spoil(tmp_path / "gateway" / "edge.sqlite")
    config = agents.gateway_config(tmp_path / "gateway.toml")
    assert edge_agent("run", "--config", config).complaint().startswith(expected)


def test_a_store_that_is_missing(tmp_path: Path, store: Path) -> None:
    missing = tmp_path / "missing.sqlite"
    complaint = f"{missing}: no such store; check the path"
    assert edge_agent("replicate", missing, store).complaint() == complaint
    assert in_process("verify", store, missing).complaint() == complaint
    # Only a target is made.
    complaint += ", or have it made with --create-target"
    assert in_process("replicate", store, missing).complaint() == complaint
    complaint = in_process("replicate", "--create-target", store, missing / "x").complaint()
    assert complaint.startswith(f"{missing / 'x'}: the folder {missing} does not exist; make it")
    assert not missing.exists()


def test_a_store_that_is_read_only(tmp_path: Path, store: Path) -> None:
    """The file, or the folder it is in, where SQLite has to make files beside it."""
    inner = make_store(tmp_path / "folder" / "store.sqlite", documents(1))
    for path, kept in ((store, store), (inner, inner.parent)):
        kept.chmod(0o555)
        complaint = edge_agent("replicate", path, tmp_path / "b.sqlite", bound=True).complaint()
        kept.chmod(0o755)
        assert complaint.startswith(f"{path}: ")
        assert "is read-only; give" in complaint or "cannot be written; check" in complaint
        assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_store_that_is_in_use(tmp_path: Path, store: Path) -> None:
    config = agents.gateway_config(tmp_path / "gateway.toml", port=find_free_port())
    with agents.gateway(config) as gateway:
        gateway.wait_until_ready()
        used = tmp_path / "gateway" / "edge.sqlite"
        for result in (
            edge_agent("replicate", store, used),
            edge_agent("run", "--config", config),
        ):
            complaint = result.complaint()
            assert complaint.startswith(f"{used}: in use by another process (pid ")
            assert "; stop that process" in complaint


# --- the configuration -----------------------------------------------------------------

HEAD = "[agent]\ndata = 'gateway'\n"
REMOTE = "[[remote]]\nname = 'cloud'\nurl = 'http://127.0.0.1:1/edge'\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[agent]\ndatta = 'gateway'\n", ["agent.datta", "did you mean data?"]),
        (HEAD + "[[remotes]]\nname = 'x'\n", ["remotes", "did you mean remote?"]),
        (HEAD + "[[device]\n", ["not valid TOML", "line 3"]),
        (HEAD + REMOTE + f"pasword = '{SECRET}'\n", ["remote.pasword", "did you mean password?"]),
        (
            HEAD + "[[device]]\nname = 'a'\nport = '/dev/x'\nadapter = 'cbor'\n",
            ["device 'a'", "'cbor'", "cbor-frames, csv-lines"],
        ),
        (HEAD + "[server]\nlisten = '5984'\n", ["server.listen = '5984'", "HOST:PORT"]),
        (
            HEAD + REMOTE + "user = 'a'\npassword_file = 'gone'\n",
            ["remote 'cloud'", "gone cannot be read (No such file or directory)", "; make it"],
        ),
        (
            HEAD + REMOTE + "user = 'a'\npassword_env = 'EDGE_AGENT_TEST_NOT_SET'\n",
            ["remote 'cloud'", "EDGE_AGENT_TEST_NOT_SET", "set it, or use password_file"],
        ),
        (
            HEAD + REMOTE + "ca_file = 'gone.pem'\n",
            ["remote 'cloud'", "gone.pem cannot be read", "; give a file with certificates"],
        ),
        (
            HEAD + REMOTE.replace("edge'", "edge?x=1'").replace("//", f"//anna:{SECRET}@"),
            ["remote 'cloud'", "'http://127.0.0.1:1/edge?x=1'", "%3F"],
        ),
    ],
)
def test_a_mistake_in_the_configuration(text: str, parts: list[str], tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(text)
    result = edge_agent("run", "--config", config)
    complaint = result.complaint()
    for part in parts:
        assert part in complaint
    checked = in_process("config", "check", "--config", config)
    assert checked.complaint() == complaint
    assert checked.stdout == result.stdout == ""
    assert SECRET not in complaint


def test_a_configuration_that_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "gateway.toml"
    expected = f"{missing}: no such file; name the right one with --config"
    assert edge_agent("run", "--config", missing).complaint() == expected
    for command in (("status",), ("config", "check")):
        assert in_process(*command, "--config", missing).complaint() == expected


# --- listening -------------------------------------------------------------------------


def test_an_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = agents.gateway_config(tmp_path / "gateway.toml", port=port)
        for result in (
            edge_agent("run", "--config", config),
            edge_agent("hub", "--data", tmp_path / "hub", "--listen", f"127.0.0.1:{port}"),
        ):
            assert result.stdout == ""
            assert result.complaint() == (
                f"127.0.0.1:{port} is in use by another program; stop it, or choose another port"
            )


@pytest.mark.parametrize(
    ("listen", "part"),
    [
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:http", "expected HOST:PORT"),
        ("0.0.0.0:0", "listens on loopback only"),
    ],
)
def test_an_address_to_listen_on_that_is_none(listen: str, part: str, tmp_path: Path) -> None:
    complaint = edge_agent("hub", "--data", tmp_path / "hub", "--listen", listen).complaint()
    assert part in complaint
    assert listen.partition(":")[0] in complaint


# --- status ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("nonsense", ["'nonsense'", "--url"]),
        (f"ftp://anna:{SECRET}@host", ["'ftp://host'", "--url"]),
        (f"http://anna:{SECRET}@127.0.0.1:1", ["http://127.0.0.1:1 cannot be reached", "--url"]),
    ],
)
def test_status_of_nobody(url: str, parts: list[str]) -> None:
    result = edge_agent("--log-level", "error", "status", "--url", url)
    complaint = result.complaint()
    for part in parts:
        assert part in complaint
    assert SECRET not in complaint


def test_status_of_something_else(guarded: str) -> None:
    complaint = edge_agent("status", "--url", guarded).complaint()
    assert complaint.startswith(f"{guarded}: what answers there is no edge-agent (HTTP ")
    assert "--url" in complaint


# --- a running agent -------------------------------------------------------------------


@contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A serial port: its far end, and the path that an agent opens."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        yield ours, os.ttyname(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_running_agent_keeps_running_with_the_rest(
    tmp_path: Path, hub_url: str, guarded: str
) -> None:
    """With remotes that are away and that refuse, and devices whose ports are absent and taken."""
    refused = f"http://127.0.0.1:{find_free_port()}/edge"
    with terminal() as (device, good), terminal() as (_, busy), Path(busy).open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        fcntl.ioctl(holder, termios.TIOCEXCL)

        def serial(name: str, port: object) -> str:
            return agents.table("device", name=name, port=str(port), adapter="json-lines")

        login = {"user": "anna", "password": SECRET}

        def remote(name: str, url: str, **more: str) -> str:
            return agents.table("remote", name=name, url=url, retry_cap=1, create=True, **more)

        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            serial("absent", tmp_path / "absent"),
            serial("busy", busy),
            serial("good", good),
            remote("away", refused, **login),
            remote("guarded", f"{guarded}/secret", **login),
            remote("hub", f"{hub_url}/the-rest"),
        )
        with agents.gateway(config, "--log-level", "debug") as gateway:
            url = gateway.wait_until_ready()

            def status() -> Any:
                return request("GET", f"{url}/_status")

            def told() -> bool:
                now = status()
                devices, remotes = now["devices"], now["remotes"]
                return (
                    all(device["last_error"] for device in devices[:2])
                    and devices[2]["state"] == "open"
                    and all(remote["push"]["last_error"] for remote in remotes[:2])
                )

            when_true(told)
            for number in range(5):
                os.write(device, b'\n{"seq": %d, "temperature": 20}\n' % number)
            when_true(lambda: "the-rest" in request("GET", f"{hub_url}/_all_dbs"))
            when_true(lambda: request("GET", f"{hub_url}/the-rest")["doc_count"] >= 4)
            request("PUT", f"{hub_url}/the-rest/setpoint", {"value": 21})
            when_true(lambda: query(tmp_path / "gateway/edge.sqlite", SETPOINT))
            found = status()
            printed = [
                edge_agent("status", "--url", url, *options) for options in ((), ("--json",))
            ]
            result = gateway.stop()

    assert result.status == 0
    errors = {each["name"]: each["last_error"] for each in found["devices"]}
    assert errors["absent"].startswith(f"{tmp_path / 'absent'}: no such port; is the device")
    assert errors["busy"].startswith(f"{busy}: another program has the port open; stop it")
    assert errors["good"] is None
    for direction in ("push", "pull"):
        errors = {each["name"]: each[direction]["last_error"] for each in found["remotes"]}
        assert errors["away"].startswith(f"{refused} cannot be reached (Connection refused); check")
        assert errors["guarded"].startswith(f"{guarded}/secret refused user 'anna' (401 ")
        assert errors["hub"] is None
    assert found["restarts"] == {}
    assert "Traceback" not in result.stderr
    for text in (result.stderr, str(found), *(each.stdout + each.stderr for each in printed)):
        assert SECRET not in text


SETPOINT = "SELECT id FROM docs WHERE id = 'setpoint'"


@pytest.mark.parametrize(
    "arguments",
    [
        ("replicate", "nosuch.sqlite", "other.sqlite"),
        ("status", "--url", "http://127.0.0.1:1"),
        ("config", "check", "--config", "nosuch.toml"),
    ],
)
def test_with_json_an_error_is_one_object_too(arguments: tuple[str, ...]) -> None:
    done = edge_agent(*arguments, "--json")
    assert done.status != 0
    answer = done.json()
    assert answer["ok"] is False
    assert answer["error"] in done.stderr


def test_a_password_in_what_is_no_url_is_not_repeated(tmp_path: Path) -> None:
    done = edge_agent("replicate", "gw:hunter2@host/edge", tmp_path / "x.sqlite")
    assert "http://" in done.complaint()
    assert "hunter2" not in done.stdout + done.stderr


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    complaint = edge_agent("replicate", tmp_path, tmp_path / "x.sqlite").complaint()
    assert "folder" in complaint


def test_a_password_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff\xfe")
    done = edge_agent(
        "replicate", "http://me@127.0.0.1:1/x", "x.sqlite", "--source-password-file", file
    )
    assert "password" in done.complaint()


def test_the_names_of_documents_forge_no_line_of_the_log(tmp_path: Path) -> None:
    """Nor do they change the terminal that it is read in."""
    with agents.hub(tmp_path / "hub", log=tmp_path / "log") as hub:
        url = hub.wait_until_ready()
        request("PUT", f"{url}/_replicator")
        id = "well\n2026-03-01 ERROR forged\x1b[31m"
        request("POST", f"{url}/_replicator", {"_id": id, "source": "nowhere"})
        when_true(lambda: "forged" in hub.log)
        [line] = [line for line in hub.log.splitlines() if "forged" in line]
    assert "_replicator/well 2026-03-01 ERROR forged" in line
    assert "\x1b" not in line


def test_verify_shows_names_as_they_are_and_no_colours(tmp_path: Path) -> None:
    odd = first_revision("doc:\x1b[31m\nred", {})
    one = make_store(tmp_path / "a.sqlite", [odd])
    two = make_store(tmp_path / "b.sqlite")
    told = edge_agent("verify", one, two, "--settle", 0).stdout
    assert told.startswith(f"doc: [31m red: {two} lacks {odd.rev}\n")
