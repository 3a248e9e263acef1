"""Requests that are not what they should be, at every path with a body: refused, without trace."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.description import load
from tests.patience import PATIENCE
from tests.server.api import Answer, Api, running
from tests.server.replicating import agent
from tests.store.helpers import rows

JSON = {"Content-Type": "application/json"}
_PLACES = {
    "db": "db",
    "docid": "new",
    "ddoc": "new",
    "localid": "new",
    "attname": "new",
    "hook": "new",
}


def _with_body(kind: str) -> list[tuple[str, str]]:
    """Every method and path of the description whose body, of this type, is read."""
    description = load()
    bodies = description["components"]["requestBodies"]
    found = []
    for path, item in description["paths"].items():
        for method in ("put", "post"):
            body = item.get(method, {}).get("requestBody", {})
            body = bodies[body["$ref"].rpartition("/")[2]] if "$ref" in body else body
            if kind in body.get("content", {}) and (body.get("required") or "_changes" in path):
                found.append((method.upper(), path.format(**_PLACES)))
    return found


BODIES = _with_body("application/json")
CONTENTS = _with_body("application/octet-stream")
NAMES = [
    *("docs", "docids", "keys", "queries", "doc_ids", "selector", "index", "source", "target"),
    *("limit", "skip", "sort", "fields", "use_index", "bookmark", "name", "ddoc", "type", "key"),
    *("start_key", "end_key", "include_docs", "descending", "new_edits", "admins", "members"),
    *("_id", "_rev", "_deleted", "_attachments", "_revisions", "_local_seq", "_unknown", "a"),
    *("password", "continuous", "cancel", "replication_id", "since_seq"),
]
NUMBERS = ("_revs_limit", "_purged_infos_limit")

NO_JSON = [
    b"{",
    b'{"a":',
    b'{"docs":[{"_id":"a"},{"_i',
    b"{'a':1}",
    b"nonsense",
    b"\xef\xbb\xbf{}",
    b"{}{}",
    b'{"a":1,}',
    b'{"a":01}',
    b'{"a":NaN}',
    b'{"a":-Infinity}',
    b'{"a":1e999}',
    b'{"a":-1e999}',
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\xc0\x80"}',
    b'{"a":"\x00"}',
    b'{"a":"\n"}',
    b'{"a":"\\x41"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\udc00\\ud800"}',
    b'{"\\udfff":1}',
    "{}".encode("utf-16"),
    b"\x00",
    b"[" * 100,
    b'{"a":' * 100,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
]
NO_OBJECT = [b"[]", b"null", b"true", b'"text"', b"1.5", b"[" * 100 + b"]" * 100]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A hub with the database `db`, in which there is something of everything."""
    async with agent(tmp_path) as api:
        await api.put("/db")
        await api.put("/db/a", {"v": 1, "_attachments": {"t": {"data": "AAAA"}}})
        await api.put("/db/_local/a", {"v": 1})
        await api.post("/db/_index", {"index": {"fields": ["v"]}})
        yield api


async def everything(api: Api) -> list[Any]:
    """All that can be read and that a request could have changed."""
    paths = [
        "/_all_dbs",
        "/_scheduler/docs",
        "/_scheduler/jobs",
        "/db/_all_docs?include_docs=true&update_seq=true",
        "/db/_local_docs?include_docs=true",
        "/db/_security",
        "/db/_revs_limit",
        "/db/_purged_infos_limit",
        "/db/_index",
    ]
    file = api.databases.path("db")
    return [
        *[(await api.get(path)).json for path in paths],
        await asyncio.to_thread(rows, file, "SELECT count(*) FROM blobs"),
        await asyncio.to_thread(rows, file, "SELECT count(*) FROM chunks"),
    ]


async def send(api: Api, method: str, path: str, body: bytes, **headers: str) -> Answer:
    return await api.request(method, path, data=io.BytesIO(body), headers={**JSON, **headers})


def test_every_path_with_a_body_is_tried() -> None:
    assert ("POST", "/db/_bulk_docs") in BODIES
    assert ("PUT", "/db/new") in BODIES
    assert len(BODIES) >= 26
    assert len(CONTENTS) == 2


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_what_is_no_json(api: Api, method: str, path: str) -> None:
    before = await everything(api)
    objects = [] if path.endswith(NUMBERS) else NO_OBJECT
    empty = [] if path.endswith("_changes") else [b""]
    for body in [*empty, *NO_JSON, *objects]:
        status, error, reason = (await send(api, method, path, body)).error
        if path == "/_session" and len(body) > 16 * 1024:
            assert (status, error) == (413, "too_large")
            continue
        assert (status, error) == (400, "bad_request"), body[:40]
        assert reason
    assert await everything(api) == before


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_what_is_compressed_badly(api: Api, method: str, path: str) -> None:
    before = await everything(api)
    packed = gzip.compress(b'{"a":1}')
    for encoding, body in [
        ("gzip", b'{"a":1}'),
        ("gzip", packed[:-1]),
        ("gzip", packed[:-8] + b"\0" * 8),
        ("gzip", zlib.compress(b"{}")),
        ("deflate", packed),
    ]:
        answer = await send(api, method, path, body, **{"Content-Encoding": encoding})
        assert answer.error == (400, "bad_request", "the request's body is damaged")
    answer = await send(api, method, path, b"{}", **{"Content-Encoding": "br"})
    assert answer.error[:2] == (415, "bad_content_type")
    assert await everything(api) == before


async def test_what_grows_too_large(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 1_000_001, 9)
    refused = (413, "too_large", "the request entity is too large")
    async with running(tmp_path, max_body=1_000_000) as api:
        await api.put("/db")
        for method, path in BODIES:
            if path != "/_replicate":  # is not here
                answer = await send(api, method, path, bomb, **{"Content-Encoding": "gzip"})
                assert answer.error == refused, path
                answer = await send(api, method, path, gzip.decompress(bomb))
                assert answer.error == refused, path
        assert await api.update_seq() == 0


async def cut_off(api: Api, request: bytes) -> bytes:
    """Send bytes and nothing after them; returns what comes back until the server closes."""
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(request)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(("method", "path"), [*BODIES, *CONTENTS])
async def test_what_is_cut_off(api: Api, method: str, path: str) -> None:
    before = await everything(api)
    whole = b'{"docs":[{"_id":"new"}],"_id":"new"}'
    for head, body in [
        (b"Content-Length: 36", whole[:-1]),
        (b"Content-Length: 36", b""),
        (b"Transfer-Encoding: chunked", b"24\r\n" + whole[:9]),
        (b"Transfer-Encoding: chunked", b"24\r\n" + whole + b"\r\n"),
        (b"Transfer-Encoding: chunked", b"24\r\n" + whole + b"\r\n0\r\n"),
        (b"Transfer-Encoding: chunked", b""),
    ]:
        start = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = await cut_off(api, start.encode() + head + b"\r\n\r\n" + body)
        assert answer[9:12] in (b"", b"400"), answer
    assert await everything(api) == before


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: 2 \x00\r\n\r\n{}",
        b"Content-Length: 1e3\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}",
        b"Content-Length: 2, 3\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}}}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: nonsense\r\n\r\n{}",
    ],
)
async def test_lengths_that_are_none(
    api: Api, framing: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = await everything(api)
    head = b"PUT /db/new HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    async with asyncio.timeout(PATIENCE):
        answer = await api.raw(head + framing)
    assert answer.split()[1] == b"400", answer
    assert "Traceback" not in caplog.text
    assert await everything(api) == before


async def test_a_body_that_is_longer_than_told_is_no_request(api: Api) -> None:
    """What is left over is not taken for a request that somebody else might have smuggled in."""
    request = b"PUT /db/new HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}\x01 trailing"
    async with asyncio.timeout(PATIENCE):
        answer = await api.raw(request + b"\r\n\r\n")
    assert answer.rpartition(b"HTTP/1.")[2].split()[1] == b"400"


_POSTS = [path for method, path in BODIES if method == "POST" and path != "/_session"]


@pytest.mark.parametrize("path", [*_POSTS, "/db/_ensure_full_commit", "/db/_compact"])
async def test_posts_of_another_type(api: Api, path: str) -> None:
    before = await everything(api)
    refused = (415, "bad_content_type", "Content-Type must be application/json")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/related", "x", ""):
        answer = await api.request(
            "POST", path, data=b'{"docs":[{}]}', headers={"Content-Type": kind}
        )
        assert answer.error == refused
    assert await everything(api) == before


async def test_a_login_of_another_type(api: Api) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "x"):
        answer = await api.request(
            "POST", "/_session", data=b"name=a&password=b", headers={"Content-Type": kind}
        )
        assert answer.error == (400, "bad_request", "request body must contain a username")


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_members_of_the_wrong_type(api: Api, method: str, path: str) -> None:
    """Members that mean something somewhere, with values that they are mostly not made for."""
    values = [None, True, -1, 1.5, 10**400, "", "\0", [], [None], [[]], {}, {"": None}]
    for name, value in itertools.product(NAMES, values):
        whole: dict[str, Any] = {name: value}
        if path.endswith(("_find", "_explain")):
            whole.setdefault("selector", {})
        if path.endswith("_replicate"):
            whole = {"source": "db", "target": "missing", **whole}
        answer = await send(api, method, path, json.dumps(whole).encode())
        assert answer.status < 500, answer
        if answer.status >= 400:
            assert answer.error[2]


async def test_the_last_of_two_members_of_one_name_counts(api: Api) -> None:
    answer = await send(api, "PUT", "/db/new", b'{"v":1,"v":2,"_id":"other","_id":"new"}')
    assert answer.status == 201
    assert (await api.get("/db/new")).json["v"] == 2


async def test_numbers_as_large_as_a_double(api: Api) -> None:
    text = '{"v":[1e308,-1e308,5e-324,0.1,12345678901234567890123,-9223372036854775809]}'
    assert (await send(api, "PUT", "/db/new", text.encode())).status == 201
    assert (await api.get("/db/new")).json["v"] == json.loads(text)["v"]


# --- attachments -----------------------------------------------------------------------

_DOC = json.dumps(
    {
        "_attachments": {
            "one": {"follows": True, "content_type": "text/plain", "length": 3},
            "two": {"follows": True, "content_type": "text/plain", "length": 3},
        }
    }
)


def _message(*parts: str, end: str = "\r\n--b--") -> bytes:
    head = f"--b\r\nContent-Type: application/json\r\n\r\n{_DOC}"
    return (head + "".join(f"\r\n--b\r\n\r\n{part}" for part in parts) + end).encode()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/related", _message("abc", "def")),
        ("multipart/related; boundary=", _message("abc", "def")),
        ('multipart/related; boundary=""', _message("abc", "def")),
        ("multipart/related; boundary=c", _message("abc", "def")),
        ("multipart/related; boundary=b", b""),
        ("multipart/related; boundary=b", b"--b"),
        ("multipart/related; boundary=b", b"--b--"),
        ("multipart/related; boundary=b", _message()),
        ("multipart/related; boundary=b", _message("abc")),
        ("multipart/related; boundary=b", _message("abc", "def", "ghi")),
        ("multipart/related; boundary=b", _message("abc", "de")),
        ("multipart/related; boundary=b", _message("abc", "defg")),
        ("multipart/related; boundary=b", _message("abc", "def", end="")),
        ("multipart/related; boundary=b", _message("abc", "def", end="\r\n--b")),
        ("multipart/related; boundary=b", _message("abc", "def").replace(b'{"_a', b'["_a')),
        ("multipart/related; boundary=b", _message("abc", "def").replace(b"\r\n\r\n{", b"\r\n{")),
        ("multipart/related; boundary=b", _message("abc", "def").replace(b"\r\n", b"\n")),
        (
            "multipart/related; boundary=b",
            _message("abc", "def").replace(b'"length": 3}', b'"length": 3, "digest": "md5-AAAA"}'),
        ),
        (
            "multipart/related; boundary=b",
            _message("abc", "def").replace(b'"length": 3}', b'"length": 3, "encoding": "gzip"}'),
        ),
    ],
)
async def test_multipart_messages(api: Api, content_type: str, body: bytes) -> None:
    before = await everything(api)
    for query in ("", "?new_edits=false&rev=1-a"):
        answer = await api.request(
            "PUT",
            f"/db/new{query}",
            data=io.BytesIO(body),
            headers={"Content-Type": content_type},
        )
        assert answer.error[0] == 400, answer
    assert await everything(api) == before


@pytest.mark.parametrize("path", ["/db/new/t", "/db/_design/new/t", "/db/a/t?rev=9-z"])
async def test_attachments_that_are_not_what_they_say(api: Api, path: str) -> None:
    before = await everything(api)
    for headers, status in [
        ({"Content-MD5": "AAAA"}, 400),
        ({"Content-MD5": "\u00e9"}, 400),
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Encoding": "gzip"}, 400),
        ({"If-Match": "x"}, 400),
    ]:
        answer = await api.request("PUT", path, data=io.BytesIO(b"text"), headers=headers)
        assert answer.error[0] == status, (headers, answer)
    assert await everything(api) == before


# --- headers and paths -----------------------------------------------------------------


HEADERS = [
    *("Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-MD5", "Cookie"),
    *("Content-Type", "Destination", "Host", "If-Match", "If-None-Match", "Last-Event-ID"),
    *("Origin", "Range", "X-CouchDB-WWW-Authenticate"),
]


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /db/a",
        b"GET /db/a/t",
        b"PUT /db/a",
        b"PUT /db/new/t",
        b"COPY /db/a",
        b"DELETE /db/a",
        b"GET /db/_changes?feed=eventsource&timeout=0",
        b"GET /_session",
        b"DELETE /_session?next=/",
        b"POST /db/_find",
    ],
)
async def test_headers_that_are_no_text(api: Api, request_line: bytes) -> None:
    values = (b"\xff\xfe", b'1-\xff"', b"x" * 5000, b"", b"bytes=\xd9\xa1-", b"a=\xff; b")
    for header, value in itertools.product(HEADERS, values):
        host = b"" if header == "Host" else b"Host: localhost\r\n"
        answer = await api.raw(
            request_line + b" HTTP/1.1\r\nConnection: close\r\n" + host
            + header.encode() + b": " + value + b"\r\nContent-Length: 2\r\n\r\n{}",
        )  # fmt: skip
        assert answer.startswith(b"HTTP/1.1 "), answer
        assert answer[9:12] < b"500", (value, answer)


@pytest.mark.parametrize("id", ["\0", "a\0b", "\n", "\u202e", "\U0010ffff", "a" * 7000, "'\";--"])
async def test_ids_that_are_odd_but_allowed(api: Api, id: str) -> None:
    answer = await send(api, "POST", "/db", json.dumps({"_id": id, "v": 1}).encode())
    assert answer.status == 201
    listed = (await api.post("/db/_all_docs", {"keys": [id], "include_docs": True})).json["rows"]
    assert [row["doc"]["_id"] for row in listed] == [id]
    found = await api.post("/db/_find", {"selector": {"_id": id}})
    assert [doc["_id"] for doc in found.json["docs"]] == [id]
    got = (await api.post("/db/_bulk_get", {"docs": [{"id": id}]})).json["results"]
    assert got[0]["docs"][0]["ok"]["v"] == 1
    changed = (await api.get("/db/_changes")).json["results"]
    assert id in [row["id"] for row in changed]


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nCookie: AuthSession=CANARY" + b"x" * 10_000,
        b"GET / HTTP/1.1\r\nAuthorization: CANARY\x01",
        b"GET / HTTP/1.1\r\nAuthorization CANARY",
        b"GET http://gw:CANARY@127.0.0.1:99999999/db HTTP/1.1\r\nHost: x",
        b"GET http://gw:CANARY@127.0.0.1/db\x01 HTTP/1.1\r\nHost: x",
    ],
)
async def test_the_log_has_nothing_of_what_is_no_request(
    api: Api, request_head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    answer = await api.raw(request_head + b"\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    assert "a request that is not HTTP: " in caplog.text
    assert "CANARY" not in caplog.text
    caplog.clear()
    caplog.set_level("WARNING")
    await api.raw(request_head + b"\r\n\r\n")
    assert caplog.text == ""


async def test_urls_that_are_too_long(api: Api) -> None:
    before = await everything(api)
    for method in ("GET", "PUT"):
        answer = await api.raw(f"{method} /db/{'a' * 40_000} HTTP/1.1\r\n\r\n".encode())
        assert answer.split(b" ")[1] in (b"400", b"414")
    assert await everything(api) == before


@pytest.mark.parametrize(
    "name", ["a" * 201, "a" * 30_000, "A", "1", "_x", "a%20b", "a%00", "%c3%a9"]
)
async def test_names_that_no_database_can_have(api: Api, name: str) -> None:
    before = await everything(api)
    assert (await api.put(f"/{name}")).error[:2] == (400, "illegal_database_name")
    assert (await api.get(f"/{name}")).error[0] == 404
    assert (await api.delete(f"/{name}")).error[0] == 404
    assert await everything(api) == before


@pytest.mark.parametrize("path", ["/%0d%0aX:%20y", "/%00", "//elsewhere.example", "elsewhere"])
async def test_places_that_nobody_is_sent_to(api: Api, path: str) -> None:
    answer = await api.delete(f"/_session?next={path}", allow_redirects=False)
    assert answer.error[:2] == (400, "bad_request")


async def test_revisions_with_what_headers_cannot_have(api: Api) -> None:
    """Any string is a hash; in an ETag some are escaped."""
    rev = "1-a\r\nX: \0y"
    answer = await send(api, "PUT", "/db/new?new_edits=false", json.dumps({"_rev": rev}).encode())
    assert (answer.status, answer.json["rev"]) == (201, rev)
    assert answer.headers["ETag"] == '"1-a%0D%0AX: %00y"'
    answer = await api.get("/db/new")
    assert (answer.status, answer.json["_rev"]) == (200, rev)
    assert answer.headers["ETag"] == '"1-a%0D%0AX: %00y"'
    unchanged = await api.get("/db/new", headers={"If-None-Match": answer.headers["ETag"]})
    assert unchanged.status == 304
