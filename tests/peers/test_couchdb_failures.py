"""CouchPeer and what goes wrong on the way.

No real server fails on demand, so these are stand-ins: small aiohttp servers that answer in the
ways of CouchDB, Cloudant, proxies and captive portals. What works against a real server is in
test_couchdb_client.py.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

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
from agent.peers import changes_feed, couchdb_documents
from agent.peers.changes_feed import FeedMode
from agent.peers.couchdb import CouchPeer
from agent.peers.http import HttpClient
from agent.peers.http_errors import retry_after
from agent.peers.peer import START, WriteResult
from agent.peers.urls import AuthMode
from tests.peers.pouchdb_server import PouchDBServer
from tests.peers.test_couchdb_client import ALL, LEFT, named

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve: TypeAlias = Callable[..., Awaitable[CouchPeer]]

HTML = "<!doctype html><title>Please log in</title>"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a stand-in that leaves every request to one handler; gives a peer for it."""
    servers: list[TestServer] = []
    peers: list[CouchPeer] = []

    async def serve(
        handler: Handler, *, path: str = "/db", tls: ssl.SSLContext | None = None, **options: Any
    ) -> CouchPeer:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", handler)
        servers.append(TestServer(app, scheme="https" if tls else "http"))
        await servers[-1].start_server(ssl=tls, shutdown_timeout=0.1)
        peers.append(
            CouchPeer.from_url(str(servers[-1].make_url("/")).rstrip("/") + path, **options)
        )
        return peers[-1]

    yield serve
    for peer in peers:
        await peer.close()
    for server in servers:
        await server.close()


def answering(*args: Any, **kwargs: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(*args, **kwargs)

    return handler


def answering_json(body: Any, **kwargs: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, **kwargs)

    return handler


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
        await asyncio.sleep(30)
        return web.Response()

    peer = await serve(handler, timeout=0.2)
    started = time.monotonic()
    with pytest.raises(ConnectError, match="does not answer"):
        await peer.info()
    assert time.monotonic() - started < 5


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


# --- log-in ---------------------------------------------------------------------------------------


class Sessions:
    """Cookie authentication as CouchDB's, with a way to end all sessions."""

    def __init__(self, *, offered: int = 200, max_age: int | None = None) -> None:
        self.offered = offered
        self.max_age = max_age
        self.logins = 0
        self.valid = ""
        self.headers: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/_session":
            self.logins += 1
            form = await request.post()
            assert (form["name"], form["password"]) == ("anna", "p&w=ü")
            if self.offered != 200:
                return web.json_response({"error": "no"}, status=self.offered)
            self.valid = f"c00kie{self.logins}"
            response = web.json_response({"ok": True})
            response.set_cookie("AuthSession", self.valid, max_age=self.max_age)
            return response
        basic = "Basic " + base64.b64encode("anna:p&w=ü".encode()).decode()
        self.headers.append("basic" if "Authorization" in request.headers else "cookie")
        cookie = request.cookies.get("AuthSession")
        if cookie != self.valid and request.headers.get("Authorization") != basic:
            return web.json_response({"error": "unauthorized"}, status=401)
        return web.json_response({})


async def test_a_session_that_ends_is_opened_again(serve: Serve) -> None:
    sessions = Sessions()
    peer = await serve(sessions.answer, user="anna", password="p&w=ü")
    await asyncio.gather(*[peer.revs_diff({"x": ["1-a"]}) for _ in range(5)])
    assert sessions.logins == 1
    sessions.valid = "another"
    await asyncio.gather(*[peer.revs_diff({"x": ["1-a"]}) for _ in range(5)])
    assert sessions.logins == 2
    assert set(sessions.headers) == {"cookie"}


async def test_a_session_is_renewed_before_it_ends(serve: Serve) -> None:
    sessions = Sessions(max_age=1)
    peer = await serve(sessions.answer, user="anna", password="p&w=ü")
    await peer.revs_diff({"x": ["1-a"]})
    await peer.revs_diff({"x": ["1-a"]})
    assert sessions.logins == 1
    await asyncio.sleep(0.95)
    await peer.revs_diff({"x": ["1-a"]})
    assert sessions.logins == 2


@pytest.mark.parametrize("offered", [404, 405])
async def test_without_sessions_it_is_basic(serve: Serve, offered: int) -> None:
    sessions = Sessions(offered=offered)
    peer = await serve(sessions.answer, user="anna", password="p&w=ü")
    await peer.revs_diff({"x": ["1-a"]})
    await peer.revs_diff({"x": ["1-a"]})
    assert (sessions.logins, sessions.headers) == (1, ["basic", "basic"])

    peer = await serve(sessions.answer, user="anna", password="p&w=ü", auth="cookie")
    with pytest.raises(AuthError, match=r"offers no sessions \(40[45]\); use auth = 'basic'"):
        await peer.revs_diff({"x": ["1-a"]})


@pytest.mark.parametrize("auth", ["auto", "cookie"])
async def test_a_portal_is_no_log_in(serve: Serve, auth: AuthMode) -> None:
    sessions = Sessions()
    portal = True

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=HTML) if portal else await sessions.answer(request)

    peer = await serve(handler, user="anna", password="p&w=ü", auth=auth)
    with pytest.raises(NotCouchDBError):
        await peer.revs_diff({"x": ["1-a"]})
    portal = False
    await peer.revs_diff({"x": ["1-a"]})
    assert sessions.headers == ["cookie"]


@pytest.mark.parametrize("auth", ["auto", "cookie", "basic"])
async def test_a_refused_log_in_is_not_repeated(serve: Serve, auth: AuthMode) -> None:
    count = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.json_response({"error": "unauthorized", "reason": "Wrong."}, status=401)

    peer = await serve(handler, user="anna", password="pw", auth=auth)
    with pytest.raises(AuthError, match=r"user 'anna' \(401 unauthorized: Wrong\.\)"):
        await peer.info()
    assert count == 1


async def test_a_password_is_not_sent_on_to_where_a_redirect_points(serve: Serve) -> None:
    reached = []

    async def other(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.json_response({})

    target = await serve(other)
    peer = await serve(
        answering(status=307, headers={"Location": target.label}), user="a", password="b"
    )
    with pytest.raises(NotCouchDBError, match="redirects to"):
        await peer.info()
    assert reached == []


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


# --- changes --------------------------------------------------------------------------------------


def row(n: int) -> dict[str, Any]:
    return {"seq": f"{n}-g1AAA", "id": f"d{n}", "changes": [{"rev": "1-a"}, {"rev": "1-b"}]}


async def test_opaque_sequences_are_handed_back_as_they_came(serve: Serve) -> None:
    """Stands in for Cloudant, whose sequences are strings, and for BigCouch, with arrays."""
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query["since"])
        assert request.query["style"] == "all_docs"
        answers = {"0": "2-g+/=", "2-g+/=": [3, "x y"], '[3,"x y"]': [3, "x y"]}
        results = [] if asked[-1].startswith("[") else [row(1), row(2)]
        return web.json_response({"results": results, "last_seq": answers[asked[-1]]})

    peer = await serve(handler)
    batches = [batch async for batch in peer.changes(START, follow=False, limit=2)]
    assert asked == ["0", "2-g+/=", '[3,"x y"]']
    assert [batch.last_seq for batch in batches] == ["2-g+/=", [3, "x y"], [3, "x y"]]
    assert batches[0].changes[0].revs == ("1-a", "1-b")


async def test_pending_tells_that_there_is_more(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        n = int(request.query["since"])
        return web.json_response({"results": [row(n)], "last_seq": n + 1, "pending": 2 - n})

    peer = await serve(handler)
    batches = [batch async for batch in peer.changes(START, follow=False, limit=9)]
    assert [batch.pending for batch in batches] == [2, 1, 0]


def feed(*pieces: bytes | float, pages: Any = None) -> Handler:
    """Answers pages with `pages` and a feed with `pieces`; a number is a wait in seconds."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query["feed"] == "normal":
            return web.json_response(pages or {"results": [], "last_seq": 0})
        assert request.headers["Accept-Encoding"] == "identity"
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        return response

    return handler


async def test_lines_are_taken_together_as_they_have_arrived(serve: Serve) -> None:
    lines = b"".join(
        b'{"seq":%d,"id":"d%d","changes":[{"rev":"1-a"}]}\n' % (n, n) for n in range(5)
    )
    pieces: list[bytes | float] = [
        b"\n",
        lines[:-10],
        0.2,
        lines[-10:],
        b"\n\n",
        0.2,
        lines[:50],
        30.0,
    ]
    peer = await serve(feed(*pieces))
    got = []
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        async for batch in batches:
            got.append(([change.id for change in batch.changes], batch.last_seq, batch.pending))
            if len(got) == 5:
                break
    assert got == [
        ([], 0, 0),  # the pages
        (["d0", "d1", "d2"], 2, None),
        (["d3"], 3, None),  # a part of another line had arrived
        (["d4"], 4, 0),
        (["d0"], 0, None),
    ]


@pytest.mark.parametrize("mode", ["continuous", "longpoll"])
async def test_a_feed_that_falls_silent_is_given_up(serve: Serve, mode: FeedMode) -> None:
    peer = await serve(feed(b"\n", 0.1, b"\n", 0.1, b"\n", 30.0), feed=mode, heartbeat=0.2)
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        await anext(batches)
        started = time.monotonic()
        with pytest.raises(ConnectError, match="does not answer"):
            await anext(batches)
    assert 0.6 < time.monotonic() - started < 5


async def test_a_feed_that_ends_goes_on_from_its_last_seq(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_feed, "_SHORTEST_FEED", 0.2)
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query["feed"] == "normal":
            return web.json_response({"results": [], "last_seq": "5-x", "pending": 0})
        asked.append(request.query["since"])
        if len(asked) == 3:
            line = '{"seq":"7-x","id":"d","changes":[{"rev":"2-a"}],"deleted":true}\n'
            return web.Response(text=line + '{"last_seq":"8-x","pending":0}\n')
        return web.Response(text='\n{"last_seq":"6-x","pending":0}\n')

    peer = await serve(handler)
    started = time.monotonic()
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        await anext(batches)
        batch = await anext(batches)
    assert asked == ["5-x", "6-x", "6-x"]
    assert time.monotonic() - started > 0.35  # it does not ask in a tight loop
    assert (batch.last_seq, batch.pending, batch.changes[0].deleted) == ("8-x", 0, True)


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([b'{"error":"timeout","reason":"shard"}\n'], RemoteBusyError, "timeout: shard"),
        ([b"<html>\n"], NotCouchDBError, "cannot be read .<html>"),
        ([b"{}\n"], NotCouchDBError, "cannot be read"),
        ([b'{"seq":1}\n'], NotCouchDBError, "cannot be read"),
        ([b"[" * 5000 + b"\n"], NotCouchDBError, "cannot be read"),
        ([b"\n"], ConnectError, "cut the changes feed off"),
        ([b'{"seq":1,"id":'], ConnectError, "cut the changes feed off"),
        ([b"x" * 70_000], TooLargeError, "line of more than"),
    ],
)
async def test_a_feed_that_goes_wrong(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[bytes],
    kind: type[EdgeAgentError],
    words: str,
) -> None:
    monkeypatch.setattr(changes_feed, "_LONGEST_LINE", 60_000)
    peer = await serve(feed(*pieces))
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        await anext(batches)
        with pytest.raises(kind, match=words):
            await anext(batches)


async def test_a_page_with_a_row_without_an_id(serve: Serve) -> None:
    peer = await serve(answering_json({"results": [{"seq": 1, "changes": []}], "last_seq": 1}))
    with pytest.raises(NotCouchDBError, match="cannot be read"):
        await anext(peer.changes(START, follow=False, limit=3))


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405, 501, 400])
async def test_without_bulk_get_documents_are_fetched_one_by_one(
    serve: Serve, shared_pouchdb_server: PouchDBServer, status: int
) -> None:
    """A real server behind a proxy that does not know _bulk_get and no long URLs."""
    asked = []

    async with aiohttp.ClientSession() as session:

        async def proxy(request: web.Request) -> web.Response:
            asked.append(request.raw_path)
            if request.path.endswith("_bulk_get"):
                return web.json_response({"error": "not_found", "reason": "missing"}, status=status)
            if len(request.raw_path) > 120:
                return web.Response(status=414)
            url = URL(shared_pouchdb_server.url + request.raw_path, encoded=True)
            async with session.request(
                request.method,
                url,
                data=await request.read(),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
            ) as response:
                return web.json_response(await response.json(), status=response.status)

        peer = await serve(proxy, path=f"/no-bulk-get-{status}")
        await peer.create()
        await peer.store(ALL)
        for _ in range(2):
            wanted = [*named(ALL), ("z", ["1-z"])]
            wanted[0][1].append("7-unknown")
            assert sorted(await peer.fetch(wanted), key=repr) == sorted(ALL, key=repr)
        bulk = [path for path in asked if "_bulk_get" in path]
        assert len(bulk) == (2 if status == 400 else 1)
        assert any(path.startswith(f"/no-bulk-get-{status}/_design/d?") for path in asked)
        many = [f"1-{n:032}" for n in range(200)]
        assert await peer.fetch([("x", ["2-bb", *many])]) == [LEFT]
        long = "9-" + "a" * 120
        (refused,) = await peer.fetch([("x", [long])])
        assert refused == WriteResult("x", long, "request_uri_too_long", "The URL is too long")


def bulk_get(*items: tuple[str, Any]) -> Handler:
    return answering_json({"results": [{"id": id, "docs": [item]} for id, item in items]})


async def test_errors_of_single_documents(serve: Serve) -> None:
    """The shapes are CouchDB's; `not_found` is the only one that means gone."""

    def error(word: str) -> dict[str, Any]:
        return {"error": {"id": "x", "rev": "1-a", "error": word, "reason": "why"}}

    wanted = [("x", ["1-a"])]
    peer = await serve(bulk_get(("x", error("not_found"))))
    assert await peer.fetch(wanted) == []
    peer = await serve(bulk_get(("x", error("forbidden"))))
    assert await peer.fetch(wanted) == [WriteResult("x", "1-a", "forbidden", "why")]
    peer = await serve(bulk_get(("x", error("timeout"))))
    with pytest.raises(RemoteBusyError, match=r"document 'x' \(timeout: why\); try again"):
        await peer.fetch(wanted)
    peer = await serve(bulk_get(("x", {})))
    with pytest.raises(NotCouchDBError, match="neither gave nor refused document 'x'"):
        await peer.fetch(wanted)
    peer = await serve(bulk_get())
    with pytest.raises(NotCouchDBError, match="left 1 of 1 revisions unanswered"):
        await peer.fetch(wanted)


@pytest.mark.parametrize(
    ("body", "status", "results"),
    [
        ([], 201, [None, None]),
        ([], 202, [None, None]),
        (
            [{"id": "x", "rev": "2-cc", "error": "forbidden", "reason": "no"}],
            201,
            [None, "forbidden"],
        ),
        ([{"id": "x", "error": "forbidden", "reason": "no"}], 201, ["forbidden", "forbidden"]),
        ([{"ok": True, "id": "x", "rev": "2-bb"}, {"ok": True, "id": "x"}], 201, [None, None]),
    ],
)
async def test_results_of_writing(
    serve: Serve, body: Any, status: int, results: list[str | None]
) -> None:
    peer = await serve(answering_json(body, status=status))
    written = await peer.store(ALL[:2])
    assert [(result.rev, result.error) for result in written] == [
        ("2-bb", results[0]),
        ("2-cc", results[1]),
    ]


async def test_results_of_writing_that_cannot_be_believed(serve: Serve) -> None:
    peer = await serve(answering_json([{"id": "x", "error": "internal_server_error"}], status=201))
    with pytest.raises(RemoteBusyError, match="out of order for document 'x'"):
        await peer.store([LEFT])
    peer = await serve(answering_json([{"id": "q", "error": "forbidden"}], status=201))
    with pytest.raises(NotCouchDBError, match="refused document 'q', which was not sent"):
        await peer.store([LEFT])


async def test_an_answer_that_is_too_large(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(size: int) -> str:
        return '{"results":[{"id":"x","docs":[{"ok":{"_id":"x","_rev":"1-a","v":"%s"}}]}]}' % (
            "v" * size
        )

    monkeypatch.setattr(couchdb_documents, "ANSWER_LIMIT", 400_000)
    monkeypatch.setattr(couchdb_documents, "_ONE_DOCUMENT_LIMIT", 800_000)
    many = bulk_get(*[(f"d{n}", {"ok": {"_id": f"d{n}", "_rev": "1-a"}}) for n in range(3000)])
    peer = await serve(many)  # long enough to be decoded in a thread
    assert len(await peer.fetch([(f"d{n}", ["1-a"]) for n in range(3000)])) == 3000
    for size, revs in ((500_000, ["1-a", "1-b"]), (900_000, ["1-a"])):
        peer = await serve(answering(text=text(size)))
        with pytest.raises(TooLargeError, match="ask for less at once"):
            await peer.fetch([("x", revs)])
    peer = await serve(answering(text=text(500_000)))
    (found,) = await peer.fetch([("x", ["1-a"])])
    assert isinstance(found, Revision)
    assert len(found.body) == 500_008

    async def compressed(_: web.Request) -> web.Response:
        response = web.Response(text=text(50_000_000))
        response.enable_compression(web.ContentCoding.gzip)
        return response

    peer = await serve(compressed)  # 50 MB in 50 KB
    with pytest.raises(TooLargeError):
        await peer.fetch([("x", ["1-a"])])


async def test_a_server_without_ensure_full_commit_is_asked_for_its_info(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path.endswith("_ensure_full_commit"):
            return web.json_response({"error": "not_found", "reason": "missing"}, status=404)
        return web.json_response({"update_seq": 1, "instance_start_time": 1234})

    peer = await serve(handler)
    assert await peer.ensure_full_commit() == "1234"
    peer = await serve(answering_json({"ok": True, "instance_start_time": "0"}, status=201))
    assert await peer.ensure_full_commit() == "0"


def test_ids_are_quoted_as_one_segment() -> None:
    assert couchdb_documents.document_path("a/b?&") == quote("a/b?&", safe="")
    assert couchdb_documents.document_path("_design/a/b") == "_design/a%2Fb"
