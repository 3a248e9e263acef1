"""Input that is broken, hostile or huge: always a refusal in CouchDB's form, never a 500.

`test_malformed` sends what is no request at all to every path.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.documents.wire import DEEPEST
from tests.server.api import Answer, Api, running

JSON = {"Content-Type": "application/json"}


def documents(text: str) -> Iterator[tuple[str, str, str]]:
    """The ways to send a member with this JSON text in a document."""
    yield "PUT", "/db/a", f'{{"v":{text}}}'
    yield "PUT", "/db/a?new_edits=false", f'{{"_rev":"1-a","v":{text}}}'
    yield "PUT", "/db/_local/a", f'{{"v":{text}}}'
    yield "POST", "/db", f'{{"_id":"b","v":{text}}}'
    yield "POST", "/db/_bulk_docs", f'{{"docs":[{{"_id":"c","v":{text}}}]}}'
    yield (
        "POST",
        "/db/_bulk_docs",
        f'{{"new_edits":false,"docs":[{{"_id":"d","_rev":"1-a","v":{text}}}]}}',
    )


async def send(api: Api, method: str, path: str, body: str | bytes) -> Answer:
    return await api.request(method, path, data=body, headers=JSON)


@pytest.mark.parametrize("levels", [DEEPEST, 1000, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
async def test_documents_that_are_nested_too_deeply(api: Api, levels: int, pair: str) -> None:
    text = "[" * levels + "]" * levels if pair == "[]" else '{"a":' * levels + "1" + "}" * levels
    for method, path, body in documents(text):
        status, error, _ = (await send(api, method, path, body)).error
        assert (status, error) == (400, "bad_request")
    assert await api.update_seq() == 0


@pytest.mark.parametrize("pair", ["[]", "{}"])
async def test_documents_that_are_nested_deeply(api: Api, pair: str) -> None:
    levels = DEEPEST - 1
    text = "[" * levels + "]" * levels if pair == "[]" else '{"a":' * levels + "1" + "}" * levels
    for number, (method, path, body) in enumerate(documents(text)):
        assert (await send(api, method, path, body)).status == 201
        if number == 0:
            await api.delete("/db")
            await api.put("/db")
    body = (await api.get("/db/_changes?include_docs=true")).text
    assert text in body


async def test_many_brackets_that_are_not_nested(api: Api) -> None:
    body: dict[str, Any] = {"rows": [[number, {}] for number in range(1000)], "text": "[" * 2000}
    assert (await api.put("/db/a", body)).status == 201
    assert (await api.get("/db/a")).json["rows"] == body["rows"]


@pytest.mark.parametrize("rev", ["x", "1", "-a", "1-", "a-1", "0-1", "-1-a", "1" * 30 + "-a", ""])
async def test_bad_revisions(api: Api, rev: str) -> None:
    await api.write("a")
    refused = (400, "bad_request", "Invalid rev format")
    assert (await api.get(f"/db/a?rev={rev}")).error == refused
    assert (await api.put(f"/db/a?rev={rev}", {})).error == refused
    assert (await api.put("/db/a", {"_rev": rev})).error == refused
    assert (await api.delete(f"/db/a?rev={rev}")).error == refused
    assert (await api.put("/db/a", {}, headers={"If-Match": f'"{rev}"'})).error == refused


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("_x", "Only reserved document ids may start with underscore."),
        ("_design%2F", "Illegal document id `_design/`"),
        ("_design", "Only reserved document ids may start with underscore."),
    ],
)
async def test_bad_ids(api: Api, id: str, reason: str) -> None:
    for query in ("", "?new_edits=false"):
        answer = await api.put(f"/db/{id}{query}", {"_rev": "1-a"} if query else {})
        assert answer.error == (400, "illegal_docid", reason)


@pytest.mark.parametrize(
    "path", ["/db/%ff", "/%ff", "/db/%ED%A0%80", "/db/a%ff/b", "/db/_local/%ff"]
)
async def test_paths_that_are_no_utf_8(api: Api, path: str) -> None:
    assert (await api.get(path)).error == (400, "bad_request", "invalid_url_encoding")


@pytest.mark.parametrize("path", ["/db/%", "/db/%zz", "/db/%4"])
async def test_percent_signs_alone_are_themselves(api: Api, path: str) -> None:
    assert (await api.get(path)).error == (404, "not_found", "missing")


async def test_a_charset_in_the_content_type_is_fine(api: Api) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert (await api.request("POST", "/db", data=b"{}", headers=headers)).status == 201


async def test_compressed_bodies(api: Api) -> None:
    body = gzip.compress(b'{"_id":"a","v":1}')
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert (await api.request("POST", "/db", data=body, headers=headers)).status == 201
    assert (await api.get("/db/a")).json["v"] == 1
    answer = await api.request("POST", "/db", data=b"not gzip", headers=headers)
    assert answer.error == (400, "bad_request", "the request's body is damaged")


LONG = b'{"v":', b'"' + b"x" * 300_000 + b'"}'
SHORT = gzip.compress(b'{"v":"x"}')
DEFLATED = zlib.compress(b'{"v":"x"}')
DAMAGED = (400, "bad_request", "the request's body is damaged")
TOO_LARGE = (413, "too_large", "the request entity is too large")
TOO_MANY = (413, "too_large", "the request has more than 10,000 members of gzip")


@pytest.mark.parametrize(
    ("encoding", "body", "letters"),
    [
        ("gzip", b"".join(map(gzip.compress, LONG)), 300_000),
        ("gzip", b"".join(gzip.compress(part, 0) for part in LONG), 300_000),
        ("gzip", gzip.compress(b"") * 5000 + SHORT, 1),
        ("deflate", DEFLATED, 1),
    ],
    ids=["two", "two that are not smaller", "empty ones", "deflate"],
)
async def test_all_members_of_a_compressed_body_count(
    api: Api, encoding: str, body: bytes, letters: int
) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    assert (await api.request("PUT", "/db/a", data=body, headers=headers)).status == 201
    assert (await api.get("/db/a")).json["v"] == "x" * letters


@pytest.mark.parametrize(
    ("encoding", "body", "error"),
    [
        ("gzip", b"", DAMAGED),
        ("gzip", SHORT[:-1], DAMAGED),
        ("gzip", SHORT + gzip.compress(b" ")[:-1], DAMAGED),
        ("gzip", SHORT + b"something else", DAMAGED),
        ("gzip", SHORT + DEFLATED, DAMAGED),
        ("gzip", SHORT + gzip.compress(b"") * 10_000, TOO_MANY),
        ("gzip", SHORT + gzip.compress(b" " * 500_000) * 2, TOO_LARGE),
        ("deflate", DEFLATED + b"something else", DAMAGED),
        ("deflate", DEFLATED + DEFLATED, DAMAGED),
    ],
    ids=[
        *("nothing", "cut off", "a second one, cut off", "something else", "another format"),
        *("too many", "too large together", "deflate and something else", "deflate twice"),
    ],
)
async def test_nothing_else_may_be_in_a_compressed_body(
    tmp_path: Path, encoding: str, body: bytes, error: tuple[int, str, str]
) -> None:
    async with running(tmp_path, max_body=1_000_000) as api:
        await api.put("/db")
        headers = {**JSON, "Content-Encoding": encoding}
        answer = await api.request("PUT", "/db/a", data=body, headers=headers)
        assert answer.error == error


async def test_bodies_that_are_too_large(tmp_path: Path) -> None:
    async with running(tmp_path, max_body=10_000) as api:
        await api.put("/db")
        assert (await api.put("/db/a", {"v": "x" * 9_000})).status == 201
        refused = (413, "too_large", "the request entity is too large")
        assert (await api.put("/db/b", {"v": "x" * 10_000})).error == refused
        assert (await api.post("/db/_bulk_docs", {"docs": ["x" * 10_000]})).error == refused
        bomb = gzip.compress(b'{"v":"' + b"x" * 1_000_000 + b'"}')
        headers = {**JSON, "Content-Encoding": "gzip"}
        assert (await api.request("PUT", "/db/c", data=bomb, headers=headers)).error == refused
        assert (await api.get("/db")).json["doc_count"] == 1


async def test_what_is_no_http_is_400(api: Api) -> None:
    answer = await api.raw(b"NONSENSE\r\n\r\n")
    assert answer.split(b" ")[1] == b"400"
    assert (await api.get("/")).status == 200


async def test_what_is_no_path_is_404(api: Api) -> None:
    answer = await api.raw(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1] == b"404"
    assert answer.endswith(b'{"error":"not_found","reason":"Not Found"}\n')


async def test_dots_are_no_way_out_of_a_database(api: Api) -> None:
    answer = await api.raw(b"GET /db/.. HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b" 404 " in answer
    assert b'"missing"' in answer
