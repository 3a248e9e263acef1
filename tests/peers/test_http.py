"""HttpClient and what goes wrong on the way: refusals, connections, TLS, URLs."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.documents.revision import Revision
from agent.errors import (
    AuthError,
    ConfigError,
    ConnectError,
    EdgeAgentError,
    NotCouchDBError,
    RemoteBusyError,
    RemoteError,
    TlsError,
    TooLargeError,
)
from agent.peers.couchdb import CouchPeer
from agent.peers.http import HttpClient
from agent.peers.http_errors import retry_after
from tests.peers.stand_ins import HTML, Handler, Serve, answering, answering_json
from tests.peers.test_couchdb_client import LEFT

# --- answers that are refusals ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        (answering(text=HTML, content_type="text/html"), NotCouchDBError, "200 with text/html"),
        (answering(text=HTML, status=404), NotCouchDBError, "404 with text/plain"),
        (answering(text="", status=200), NotCouchDBError, "not CouchDB's JSON"),
        (answering_json({"hello": "world"}), NotCouchDBError, "in a way that CouchDB does not"),
        (answering_json([1]), NotCouchDBError, "in a way that CouchDB does not"),
        (
            answering(status=302, headers={"Location": "http://u:pw@portal/login?token=pw"}),
            NotCouchDBError,
            "redirects to 'http://portal/login' .*log in to the network",
        ),
        (answering(text='{"update_seq":', status=200), ConnectError, "half an answer"),
        (
            answering_json({"error": "unauthorized", "reason": "No."}, status=401),
            AuthError,
            r"wants a log-in \(401 unauthorized: No.\); give a user",
        ),
        (answering(text=HTML, status=401), AuthError, "wants a log-in .401.; give a user"),
        (
            answering_json({"error": "forbidden", "reason": "No."}, status=403),
            AuthError,
            r"forbids GET /db \(403 forbidden: No.\); give a user",
        ),
        (answering(text="x", status=413), TooLargeError, "send less"),
        (answering(text=HTML, status=502), RemoteBusyError, r"\(502\); try again later"),
        (answering(text=HTML, status=511), RemoteBusyError, r"\(511\); try again later"),
        (
            answering_json({"error": "gone", "reason": "a\n\x1b[31mb" + "c" * 500}, status=410),
            RemoteError,
            r"refused GET /db \(410 gone: a  \[31mbc+…\)$",
        ),
    ],
)
async def test_a_refusal_is_one_clear_line(
    serve: Serve, handler: Handler, kind: type[EdgeAgentError], words: str
) -> None:
    peer = await serve(handler)
    with pytest.raises(kind, match=words) as error:
        await peer.info()
    assert type(error.value) is kind
    message = str(error.value)
    assert peer.label in message
    assert message.isprintable()
    assert "pw" not in message


async def test_retry_after_in_seconds(serve: Serve) -> None:
    peer = await serve(answering_json({"error": "x"}, status=429, headers={"Retry-After": "7"}))
    with pytest.raises(RemoteBusyError) as error:
        await peer.store([LEFT])
    assert error.value.retry_after == 7


def test_retry_after_as_a_date_is_relative_to_the_servers_clock() -> None:
    date = {"Retry-After": "Thu, 01 Jan 1970 00:01:30 GMT", "Date": "Thu, 01 Jan 1970 00:00:30 GMT"}
    assert retry_after(date) == 60
    assert retry_after({"Retry-After": date["Retry-After"]}) == 0
    assert retry_after({"Retry-After": "Thu, 01 Jan 2970 00:01:30 GMT"}) == 86_400
    assert retry_after({"Retry-After": "999999999"}) == 86_400
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None


async def test_a_portal_is_no_missing_checkpoint(serve: Serve) -> None:
    peer = await serve(answering(text=HTML, status=404, content_type="text/html"))
    with pytest.raises(NotCouchDBError):
        await peer.get_local("checkpoint")


# --- connections ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "heard"),
    [
        (200, {"Date": "Sun, 01 Mar 2026 08:15:30 GMT"}, ["Sun, 01 Mar 2026 08:15:30 GMT"]),
        (200, {"Date": "Sun, 01 Mar 2026 08:15:30 GMT", "Age": "60"}, []),  # from a cache
        (403, {"Date": "Sun, 01 Mar 2026 08:15:30 GMT"}, []),
    ],
)
async def test_the_date_of_a_good_answer_is_heard(
    serve: Serve, status: int, headers: dict[str, str], heard: list[str]
) -> None:
    dates: list[tuple[str, float]] = []
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    peer = await serve(
        answering_json({"rev": "0-1"}, status=status, headers=headers),
        on_date=lambda date, sent: dates.append((date, sent)),
    )
    with suppress(AuthError):
        await peer.put_local("x", {})
    assert [date for date, _ in dates] == heard
    assert all(before <= sent <= time.clock_gettime(time.CLOCK_BOOTTIME) for _, sent in dates)


async def test_an_unknown_host() -> None:
    peer = CouchPeer.from_url("http://u:pw@nobody.invalid/db", auth="basic")
    with pytest.raises(ConnectError, match=r"http://nobody\.invalid/db: the host name cannot be"):
        await peer.info()
    await peer.close()


async def test_a_server_that_says_nothing(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    peer = await serve(handler, timeout=0.2)
    started = time.monotonic()
    with pytest.raises(ConnectError, match="does not answer"):
        await peer.info()
    assert time.monotonic() - started < 30  # and not the default, a minute


@pytest.mark.parametrize("kernel_waits", [True, False])
async def test_a_server_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch, kernel_waits: bool
) -> None:
    monkeypatch.setattr("agent.peers.http._CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("agent.peers.http._SLOWEST_UPLOAD", 2**26)
    if kernel_waits:  # then a time-out of our own has to end it
        monkeypatch.setattr(HttpClient, "_socket", lambda _, address: socket.socket(*address[:3]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        peer = CouchPeer.from_url(f"http://127.0.0.1:{port}/db", timeout=0.1)
        big = Revision("x", 1, ("a",), False, '{"x":"' + "y" * 2**24 + '"}')
        with pytest.raises(ConnectError, match=r"does not answer|Connection timed out"):
            await peer.store([big])
        await peer.close()
    await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"SSH-2.0\r\n"]
)
async def test_a_connection_that_breaks(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        peer = CouchPeer.from_url(f"http://127.0.0.1:{port}/db")
        kind = NotCouchDBError if said.startswith(b"SSH") else ConnectError
        with pytest.raises(kind, match=r"does not speak HTTP|broke .*try again"):
            await peer.revs_diff({"x": ["1-a"]})
        await peer.close()


async def test_an_idle_connection_that_the_server_closed_is_opened_again() -> None:
    requests = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n{}")
        requests += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await reader.readuntil(b"\r\n\r\n{}")  # the second request on this connection: too late
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        peer = CouchPeer.from_url(f"http://127.0.0.1:{port}/db")
        for _ in range(2):
            await peer._http.request("POST", "/db/_revs_diff", body=b"{}")
        assert requests == 2
        await peer.close()


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, with its key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    key = file.with_suffix(".key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(file)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    file.write_text(file.read_text() + key.read_text())
    return file


async def test_a_certificate_that_does_not_verify(serve: Serve, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    info = answering_json({"update_seq": 0, "doc_count": 0, "instance_start_time": "0"})

    peer = await serve(info, tls=context)
    with pytest.raises(TlsError, match=r"does not verify \(self-signed.*\); give ca_file"):
        await peer.info()

    peer = await serve(info, tls=context, ca_file=certificate)
    assert (await peer.info()).instance_start_time == "0"

    elsewhere = peer.label.replace("127.0.0.1", "localhost")
    peer = CouchPeer.from_url(elsewhere, ca_file=certificate)
    with pytest.raises(TlsError, match="Hostname mismatch"):
        await peer.info()
    await peer.close()


async def test_https_to_a_port_without_it(serve: Serve, tmp_path: Path) -> None:
    plain = await serve(answering(text="{}"))
    peer = CouchPeer.from_url(plain.label.replace("http:", "https:"))
    with pytest.raises(TlsError, match="check that this port speaks https"):
        await peer.info()
    await peer.close()
    for ca_file in (tmp_path / "missing.pem", Path(__file__)):
        peer = CouchPeer.from_url("https://127.0.0.1/db", ca_file=ca_file)
        with pytest.raises(ConfigError, match=rf"ca_file '.*{ca_file.name}' cannot be used"):
            await peer.info()


# --- URLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("http://u:p%40@HOST:80/db/", "http://host/db"),
        ("HTTPS://host:443/couch/My%2fdb", "https://host/couch/My%2Fdb"),
        (" https://host:6984/a+b ", "https://host:6984/a%2Bb"),
        ("http://[::1]:5984/%64b", "http://[::1]:5984/db"),
    ],
)
def test_one_database_has_one_name(text: str, label: str) -> None:
    peer = CouchPeer.from_url(text)
    assert (peer.label, peer.identity, repr(peer)) == (label, label, f"CouchPeer({label!r})")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://u:pw@host/db", "must start with http:// or https://"),
        ("host/db", "must start with http:// or https://"),
        ("http:///db", "the host is missing"),
        ("http://mÿhost/db", "xn--"),
        ("http://host", "the database's name is missing; write https://host/database"),
        ("http://host/", "the database's name is missing"),
        ("http://host/db?x=1", "may not contain"),
        ("http://u:pw/x@host/db", "write / . # @ : in a password as %2F"),
        ("http://u:1/pw@host/db", "may not contain"),
        ("http://u:1#pw@host/db", "may not contain"),
        ("http://u:pw#x@host/db", "host or port cannot be read"),
        ("http://u:pw@host:port/db", "host or port cannot be read"),
        ("http://:pw@host/db", "a password but no user"),
        ("http://[::1/db", "host or port cannot be read"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        CouchPeer.from_url(text)
    assert "pw" not in str(error.value)


async def test_credentials_given_apart_come_before_those_in_the_url(serve: Serve) -> None:
    sent = []

    async def handler(request: web.Request) -> web.Response:
        sent.append(base64.b64decode(request.headers["Authorization"].split()[1]).decode())
        return web.json_response({})

    url = (await serve(handler)).label.replace("//", "//anna:old@")
    choices: list[dict[str, Any]] = [{}, {"password": "new"}, {"user": "bob", "password": "x"}]
    for options in choices:
        peer = CouchPeer.from_url(url, auth="basic", **options)
        await peer.revs_diff({"x": ["1-a"]})
        await peer.close()
    assert sent == ["anna:old", "anna:new", "bob:x"]
    with pytest.raises(ConfigError, match="a password but no user"):
        CouchPeer.from_url("http://host/db", password="x")


async def test_a_prefix_belongs_to_the_server(serve: Serve) -> None:
    paths = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return web.json_response({"update_seq": "7-x", "couchdb": "Welcome", "version": "3.3"})

    peer = await serve(handler, path="/couch/a%2Fb")
    info = await peer.info()
    assert paths == ["/couch/a%2Fb", "/couch/"]
    assert (info.update_seq, info.server) == ("7-x", "CouchDB 3.3")
