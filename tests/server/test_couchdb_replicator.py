"""What CouchDB's own replicator asks of a source and of a target, request by request.

The requests are those that its source makes (`couch_replicator_api_wrap.erl` and
`couch_replicator_httpc.erl` of CouchDB 3), and of the answers is tested what it relies on, which
often is more than the documentation promises.
"""

from __future__ import annotations

import email
import gzip
import json
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.server.accounts import guarded, password_of
from tests.server.api import Api, number_in, numbered, running

AGENT = {"Accept": "application/json", "User-Agent": "CouchDB-Replicator/3.5.0"}
JSON = {**AGENT, "Content-Type": "application/json"}
CHECKPOINT = "/db/_local/0f1e2d3c4b5a69788796a5b4c3d2e1f0%2Bcontinuous"
FETCH = "/db/_bulk_get?latest=true&revs=true&attachments=false"


@pytest.fixture
async def source(api: Api) -> Api:
    """Four changes: a plain document, a conflict, a tombstone and one with an attachment."""
    await api.graft("plain", "1-a", v=1)
    await api.graft("twice", "2-b", "1-a", v=2)
    await api.graft("twice", "2-c", "1-a", v=3)
    await api.graft("gone", "2-b", "1-a", _deleted=True)
    packed = gzip.compress(b"text " * 100, mtime=0)
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    await api.request("PUT", "/db/attached/f.txt", data=packed, headers=headers)
    return api


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path / "target") as api:
        yield api


async def ask(api: Api, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    text = "" if body is None else json.dumps(body)
    answer = await api.request(method, path, data=text, headers=JSON if text else AGENT)
    return answer.status, answer.json


async def attached(source: Api, more: str = "") -> tuple[str, bytes]:
    """The content type and the body of the answer to `open_doc_revs`."""
    [row] = (await ask(source, "GET", "/db/_changes?since=4"))[1]["results"]
    revs = quote(json.dumps([row["changes"][0]["rev"], "9-x"]))
    path = f"/db/attached?revs=true&open_revs={revs}&latest=true{more}"
    headers = {**AGENT, "Accept": "multipart/mixed"}
    async with source.open("GET", path, headers=headers) as answer:
        assert answer.status == 200
        return answer.headers["Content-Type"], await answer.read()


def parts(content_type: str, body: bytes) -> list[Message[str, str]]:
    """Its parser stops at the last boundary and refuses anything but two hyphens behind it."""
    boundary = content_type.partition('boundary="')[2].rstrip('"').encode()
    assert body.startswith(b"--" + boundary + b"\r\n")
    assert body.endswith(b"\r\n--" + boundary + b"--")
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    return email.message_from_bytes(head + body).get_payload()  # type: ignore[return-value]


async def test_opening_a_database(source: Api) -> None:
    status, info = await ask(source, "GET", "/db")
    assert status == 200
    assert number_in(info["update_seq"]) == 5
    assert info["instance_start_time"].isdigit()
    assert (await ask(source, "GET", "/nope"))[0] == 404
    commit = await source.request("POST", "/db/_ensure_full_commit", headers=JSON)
    assert commit.status == 201
    assert commit.json["instance_start_time"] == info["instance_start_time"]


async def test_creating_a_target_that_may_exist(target: Api) -> None:
    assert (await ask(target, "PUT", "/db"))[0] == 201
    assert (await ask(target, "PUT", "/db"))[0] == 412
    assert await target.update_seq() == 0


async def test_changes(source: Api) -> None:
    query = "style=all_docs&since=0&timeout=10000"
    status, feed = await ask(source, "GET", f"/db/_changes?feed=normal&{query}")
    assert status == 200
    rows = [
        (number_in(row["seq"]), row["id"], len(row["changes"]), "deleted" in row)
        for row in feed["results"]
    ]
    assert rows == [
        (1, "plain", 1, False),
        (3, "twice", 2, False),
        (4, "gone", 1, True),
        (5, "attached", 1, False),
    ]
    assert (number_in(feed["last_seq"]), feed["pending"]) == (5, 0)
    ids = f"/db/_changes?filter=_doc_ids&feed=normal&{query}"
    assert len((await ask(source, "POST", ids, {"doc_ids": ["gone"]}))[1]["results"]) == 1
    selector = f"/db/_changes?filter=_selector&feed=normal&{query}"
    assert len((await ask(source, "POST", selector, {"selector": {"v": 1}}))[1]["results"]) == 1


async def test_following(source: Api) -> None:
    """A feed that goes on ends after the timeout, with a line that says where."""
    path = "/db/_changes?feed=continuous&style=all_docs&since=4&timeout=1000"
    async with source.open("GET", path, headers=AGENT) as answer:
        lines = [json.loads(line) async for line in answer.content if line.strip()]
    assert [number_in(line["seq"]) for line in lines[:-1]] == [5]
    assert numbered(lines[-1]) == {"last_seq": 5, "pending": 0}


async def test_what_is_missing(target: Api) -> None:
    await target.put("/db")
    await target.graft("twice", "1-a")
    revs = {"plain": ["1-a"], "twice": ["2-b", "2-c"]}
    assert (await ask(target, "POST", "/db/_revs_diff", revs))[1] == {
        "plain": {"missing": ["1-a"]},
        "twice": {"missing": ["2-b", "2-c"], "possible_ancestors": ["1-a"]},
    }
    assert (await ask(target, "POST", "/db/_revs_diff", {"twice": ["1-a"]}))[1] == {}


async def test_fetching_many(source: Api) -> None:
    """The entries are matched with the requests by their places, so no other members may be there.
    A document with stubs is fetched again by itself."""
    rows = (await ask(source, "GET", "/db/_changes?style=all_docs"))[1]["results"]
    asked = [
        {"id": row["id"], "rev": change["rev"]} for row in rows for change in row["changes"]
    ] + [{"id": "never", "rev": "1-a"}]
    status, found = await ask(source, "POST", FETCH, {"docs": asked})
    assert status == 200
    assert list(found) == ["results"]
    assert [entry["id"] for entry in found["results"]] == [item["id"] for item in asked]
    docs = [doc for entry in found["results"] for doc in entry["docs"]]
    assert [doc["ok"]["_rev"] for doc in docs[:-1]] == [item["rev"] for item in asked[:-1]]
    assert all("_revisions" in doc["ok"] for doc in docs[:-1])
    assert docs[3]["ok"]["_deleted"] is True
    assert docs[4]["ok"]["_attachments"]["f.txt"]["stub"] is True
    assert docs[5] == {
        "error": {"id": "never", "rev": "1-a", "error": "not_found", "reason": "missing"}
    }


async def test_fetching_attachments(source: Api) -> None:
    content_type, body = await attached(source)
    assert content_type.startswith('multipart/mixed; boundary="')
    document, missing = parts(content_type, body)
    doc, content = document.get_payload()
    assert isinstance(doc, Message)
    assert isinstance(content, Message)
    assert doc["Content-Type"] == "application/json"  # with parameters it would not be understood
    [entry] = json.loads(doc.get_payload(decode=True) or b"")["_attachments"].items()
    packed = content.get_payload(decode=True)
    assert isinstance(packed, bytes)
    assert entry == (
        "f.txt",
        {
            "content_type": "text/plain",
            "revpos": 1,
            "digest": entry[1]["digest"],
            "follows": True,
            "encoding": "gzip",
            "length": 500,
            "encoded_length": len(packed),
        },
    )
    assert gzip.decompress(packed) == b"text " * 100
    assert missing["Content-Type"] == 'application/json; error="true"'
    assert missing.get_payload() == '{"missing":"9-x"}'


async def test_fetching_without_attachments_that_the_target_has(source: Api) -> None:
    [row] = (await ask(source, "GET", "/db/_changes?since=4"))[1]["results"]
    known = quote(json.dumps([row["changes"][0]["rev"]]))
    document, _ = parts(*await attached(source, f"&atts_since={known}"))
    assert document["Content-Type"] == "application/json"
    doc = json.loads(document.get_payload(decode=True) or b"")
    assert doc["_attachments"]["f.txt"]["stub"] is True


async def test_writing_many(target: Api) -> None:
    await target.put("/db")
    history = {"start": 2, "ids": ["b", "a"]}
    docs = [
        {"_id": "plain", "_rev": "1-a", "v": 1, "_revisions": {"start": 1, "ids": ["a"]}},
        {"_id": "gone", "_rev": "2-b", "_deleted": True, "_revisions": history},
    ]
    for _ in range(2):
        body = json.dumps({"new_edits": False, "docs": docs})
        headers = {**JSON, "X-Couch-Full-Commit": "false"}
        answer = await target.request("POST", "/db/_bulk_docs", data=body, headers=headers)
        assert (answer.status, answer.json) == (201, [])
    assert (await ask(target, "GET", "/db/plain"))[1] == {"_id": "plain", "_rev": "1-a", "v": 1}


async def test_writing_one_with_attachments(source: Api, target: Api) -> None:
    """The part that was fetched is sent on, its contents as they are encoded."""
    await target.put("/db")
    document, _ = parts(*await attached(source))
    doc, content = document.get_payload()
    assert isinstance(doc, Message)
    assert isinstance(content, Message)
    body = b"--b\r\nContent-Type: application/json\r\n\r\n%b\r\n--b\r\n%b\r\n\r\n%b\r\n--b--" % (
        doc.get_payload(decode=True),
        b"\r\n".join(f"{name}: {value}".encode() for name, value in content.items()),
        content.get_payload(decode=True),
    )
    headers = {**AGENT, "Content-Type": 'multipart/related; boundary="b"'}
    path = "/db/attached?new_edits=false"
    answer = await target.request("PUT", path, data=body, headers=headers)
    assert answer.status == 201
    assert answer.json["rev"] == json.loads(doc.get_payload(decode=True) or b"")["_rev"]
    query = "?attachments=true&att_encoding_info=true&revs=true"
    copies = [(await ask(api, "GET", f"/db/attached{query}"))[1] for api in (source, target)]
    assert copies[0] == copies[1]


async def test_writing_a_design_document(target: Api) -> None:
    """These are sent one by one, and without attachments they are plain JSON."""
    await target.put("/db")
    doc = {"_id": "_design/a/b", "_rev": "1-a", "_revisions": {"start": 1, "ids": ["a"]}}
    status, written = await ask(target, "PUT", "/db/_design/a%2Fb?new_edits=false", doc)
    assert (status, written["rev"]) == (201, "1-a")


async def test_a_document_without_its_attachment(target: Api) -> None:
    """On this error it fetches the document again, with all of its attachments."""
    await target.put("/db")
    stub = {"content_type": "text/plain", "revpos": 1, "stub": True, "length": 1}
    doc = {"_id": "a", "_rev": "1-a", "_attachments": {"f": {**stub, "digest": "md5-eA=="}}}
    status, error = await ask(target, "PUT", "/db/a?new_edits=false", doc)
    assert (status, error["error"]) == (412, "missing_stub")


async def test_checkpoints(api: Api) -> None:
    assert await ask(api, "GET", CHECKPOINT) == (
        404,
        {"error": "not_found", "reason": "missing"},
    )
    log = {"session_id": "s", "source_last_seq": 5, "history": [{"recorded_seq": 5}]}
    status, first = await ask(api, "PUT", CHECKPOINT, log)
    assert (status, first["rev"]) == (201, "0-1")
    status, second = await ask(api, "PUT", CHECKPOINT, {**log, "_rev": "0-1"})
    assert (status, second["rev"]) == (201, "0-2")
    found = (await ask(api, "GET", CHECKPOINT))[1]
    assert (found.pop("_id").partition("+")[2], found.pop("_rev")) == ("continuous", "0-2")
    assert found == log


async def test_logging_in(tmp_path: Path) -> None:
    """First with a form, for a cookie that goes along with every request."""
    async with guarded(tmp_path) as api:
        form = aiohttp.FormData({"name": "anna", "password": password_of("anna")})
        answer = await api.request("POST", "/_session", data=form, headers=AGENT)
        assert answer.status == 200
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        assert cookie.startswith("AuthSession=")
        assert "Max-Age=" in answer.headers["Set-Cookie"]
        api.session.cookie_jar.clear()
        headers = {**AGENT, "Cookie": cookie}
        assert (await api.request("PUT", "/db", headers=headers)).status == 412
        assert (await api.request("PUT", "/db", headers=AGENT)).status == 401
