"""Attachments over HTTP: every form in which they come and go."""

from __future__ import annotations

import asyncio
import base64
import email
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.patience import until
from tests.server.api import Answer, Api, running
from tests.store.helpers import rows

TEXT = {"Content-Type": "text/plain"}
LARGE = bytes(range(251)) * 16_000
"""4 MB: more than is kept in memory of an upload, and no multiple of anything."""


def digest(data: bytes) -> str:
    return "md5-" + base64.b64encode(hashlib.md5(data).digest()).decode()


def inline(data: bytes, content_type: str = "text/plain") -> dict[str, Any]:
    return {"content_type": content_type, "data": base64.b64encode(data).decode()}


async def read(api: Api, path: str, **options: Any) -> bytes:
    async with api.open("GET", path, **options) as answer:
        assert answer.status in (200, 206), await answer.text()
        content: bytes = await answer.read()
        return content


async def attach(api: Api, path: str, data: bytes, **headers: str) -> Any:
    answer = await api.request("PUT", path, data=io.BytesIO(data), headers={**TEXT, **headers})
    assert answer.status == 201, answer.text
    return answer.json


def related(doc: dict[str, Any], *parts: bytes, boundary: str = "x y") -> dict[str, Any]:
    """A multipart/related request, as CouchDB's replicator writes it."""
    body = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps(doc)}".encode()
    for part in parts:
        body += f"\r\n--{boundary}\r\nContent-Length: {len(part)}\r\n\r\n".encode() + part
    body += f"\r\n--{boundary}--".encode()
    return {
        "data": io.BytesIO(body),
        "headers": {"Content-Type": f'multipart/related; boundary="{boundary}"'},
    }


def follows(data: bytes, **members: Any) -> dict[str, Any]:
    return {"content_type": "text/plain", "follows": True, "length": len(data), **members}


async def blobs(api: Api) -> list[int]:
    """The lengths of the stored contents; of what is being uploaded, None."""
    store = await api.databases.get("db")
    sql = "SELECT CASE WHEN sha256 IS NULL THEN -1 ELSE length END FROM blobs ORDER BY 1"
    return await asyncio.to_thread(rows, store.path, sql)


# --- single attachments ----------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"hello", LARGE], ids=len)
async def test_life_of_an_attachment(api: Api, data: bytes) -> None:
    first = await attach(api, "/db/a/some/name.txt", data)
    assert (first["ok"], first["id"], first["rev"][:2]) == (True, "a", "1-")
    assert (await api.get("/db/a")).json == {
        "_id": "a",
        "_rev": first["rev"],
        "_attachments": {
            "some/name.txt": {
                "content_type": "text/plain",
                "revpos": 1,
                "digest": digest(data),
                "length": len(data),
                "stub": True,
            }
        },
    }
    async with api.open("GET", "/db/a/some%2Fname.txt") as answer:
        assert await answer.read() == data
    etag = f'"{digest(data)[4:]}"'
    expected = {
        "ETag": etag,
        "Content-MD5": digest(data)[4:],
        "Content-Type": "text/plain",
        "Content-Length": str(len(data)),
        "Accept-Ranges": "bytes",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    head = await api.request("HEAD", "/db/a/some/name.txt")
    assert (head.status, head.text) == (200, "")
    assert {name: head.headers[name] for name in expected} == expected
    same = await api.get("/db/a/some/name.txt", headers={"If-None-Match": etag})
    assert (same.status, same.text) == (304, "")
    # A page that somebody attached runs no scripts in the name of this server.
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"

    second = await attach(api, "/db/a/b", b"two", **{"If-Match": first["rev"]})
    assert second["rev"][:2] == "2-"
    assert await read(api, "/db/a/some/name.txt") == data
    gone = await api.delete(f"/db/a/some/name.txt?rev={second['rev']}")
    assert (gone.status, gone.json["rev"][:2]) == (200, "3-")
    assert (await api.get("/db/a/some/name.txt")).error == (
        404,
        "not_found",
        "Document is missing attachment",
    )
    assert await read(api, f"/db/a/some/name.txt?rev={first['rev']}") == data
    assert list((await api.get("/db/a")).json["_attachments"]) == ["b"]


async def test_the_document_keeps_its_members(api: Api) -> None:
    rev = await api.write("a", n=1, deep={"x": [1]})
    rev = (await attach(api, f"/db/a/f?rev={rev}", b"1"))["rev"]
    doc = (await api.get("/db/a")).json
    assert (doc["n"], doc["deep"]) == (1, {"x": [1]})


async def test_what_an_attachment_cannot_be_put_to(api: Api) -> None:
    rev = await api.write("a")
    for path in ("/db/a/f", "/db/a/f?rev=1-abc", "/db/new/f?rev=1-abc"):
        answer = await api.request("PUT", path, data=io.BytesIO(LARGE), headers=TEXT)
        assert answer.error[:2] == (409, "conflict"), path
    answer = await api.request("PUT", f"/db/a/_f?rev={rev}", data=b"1")
    reason = "Attachment name '_f' starts with prohibited character '_'"
    assert answer.error == (400, "bad_request", reason)
    assert (await api.delete("/db/a/f?rev=1-abc")).error[0] == 409
    assert (await api.delete("/db/a/f")).error[0] == 409
    assert (await api.delete(f"/db/a/f?rev={rev}")).error[2] == "Document is missing attachment"
    assert (await api.delete("/db/new/f")).error[2] == "missing"
    await api.delete(f"/db/a?rev={rev}")
    assert (await api.get("/db/a/f")).error[2] == "deleted"
    assert await blobs(api) == []


async def test_the_edit_is_the_same_wherever_it_is_made(api: Api) -> None:
    await api.put("/other")
    one = await attach(api, "/db/a/f", b"1")
    assert await attach(api, "/other/a/f", b"1") == one
    assert await attach(api, "/other/b/f", b"2") != {**one, "id": "b"}


async def test_content_is_stored_once(api: Api) -> None:
    for path in ("/db/a/one", "/db/b/two"):
        await attach(api, path, LARGE)
    doc = io.BytesIO(json.dumps({"_attachments": {"three": inline(LARGE)}}).encode())
    assert (await api.request("PUT", "/db/c", data=doc)).status == 201
    assert await blobs(api) == [len(LARGE)]
    assert await read(api, "/db/c/three") == LARGE


async def test_a_digest_that_is_not_the_contents_is_refused(api: Api) -> None:
    headers = {"Content-MD5": digest(b"other")[4:]}
    answer = await api.request("PUT", "/db/a/f", data=io.BytesIO(LARGE), headers=headers)
    assert answer.error == (400, "content_md5_mismatch", "Possible message corruption.")
    assert await blobs(api) == []
    await attach(api, "/db/a/f", LARGE, **{"Content-MD5": digest(LARGE)[4:]})


async def test_an_attachment_may_be_too_large(tmp_path: Path) -> None:
    async with running(tmp_path, max_attachment=3_000_000, max_body=1000) as api:
        await api.put("/db")
        answer = await api.request("PUT", "/db/a/f", data=io.BytesIO(LARGE))
        assert answer.error == (413, "attachment_too_large", "f")
        answer = await api.request(
            "PUT", "/db/a", **related({"_attachments": {"f": follows(LARGE)}}, LARGE)
        )
        assert answer.error == (413, "attachment_too_large", "f")
        assert await blobs(api) == []
        await attach(api, "/db/a/f", LARGE[:3_000_000])


async def test_an_upload_that_is_cut_off_leaves_nothing(api: Api) -> None:
    _, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(
        b"PUT /db/a/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n" + LARGE
    )
    await writer.drain()
    await until(lambda: blobs(api))
    writer.close()
    await writer.wait_closed()

    async def dropped() -> bool:
        return not await blobs(api)

    await until(dropped)
    assert (await api.get("/db/a")).status == 404


# --- ranges ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=1-", 1, len(LARGE) - 1),
        ("bytes=-7", len(LARGE) - 7, len(LARGE) - 1),
        ("bytes=262143-524289", 262143, 524289),
        ("bytes=600000-99999999", 600000, len(LARGE) - 1),
    ],
)
async def test_a_range(api: Api, asked: str, first: int, last: int) -> None:
    await attach(api, "/db/a/f", LARGE)
    async with api.open("GET", "/db/a/f", headers={"Range": asked}) as answer:
        assert await answer.read() == LARGE[first : last + 1]
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(LARGE)}"
    assert answer.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=0-", "lines=1-2", "bytes=a-b", "bytes=", "bytes=-"])
async def test_a_range_that_says_nothing_is_passed_over(api: Api, asked: str) -> None:
    await attach(api, "/db/a/f", b"0123456789")
    assert (await api.get("/db/a/f", headers={"Range": asked})).text == "0123456789"


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=20-30", "bytes=5-3", "bytes=-0"])
async def test_a_range_that_cannot_be_satisfied(api: Api, asked: str) -> None:
    await attach(api, "/db/a/f", b"0123456789")
    answer = await api.get("/db/a/f", headers={"Range": asked})
    assert answer.error[:2] == (416, "requested_range_not_satisfiable")


async def test_several_ranges(api: Api) -> None:
    await attach(api, "/db/a/f", b"0123456789")
    answer = await api.get("/db/a/f", headers={"Range": "bytes=0-1, 4-4,-2"})
    assert answer.status == 206
    parts = message(answer).get_payload()
    assert [part["Content-Range"] for part in parts] == [
        "bytes 0-1/10",
        "bytes 4-4/10",
        "bytes 8-9/10",
    ]
    assert [part.get_payload() for part in parts] == ["01", "4", "89"]


def message(answer: Answer) -> Any:
    """A multipart answer as Python's own library understands it."""
    return email.message_from_string(
        f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n{answer.text}"
    )


# --- encodings -------------------------------------------------------------------------


async def test_gzip_is_stored_and_sent_as_it_came(api: Api, tmp_path: Path) -> None:
    plain = b"text " * 100_000
    packed = gzip.compress(plain, mtime=0)
    await attach(api, "/db/a/f", packed, **{"Content-Encoding": "gzip"})
    entry = (await api.get("/db/a?att_encoding_info=true")).json["_attachments"]["f"]
    assert entry == {
        "content_type": "text/plain",
        "revpos": 1,
        "digest": digest(packed),
        "length": len(plain),
        "encoding": "gzip",
        "encoded_length": len(packed),
        "stub": True,
    }
    assert "encoding" not in (await api.get("/db/a")).json["_attachments"]["f"]
    options = {"headers": {"Accept-Encoding": "gzip"}, "auto_decompress": False}
    async with api.open("GET", "/db/a/f", **options) as answer:
        assert await answer.read() == packed
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Accept-Ranges"] == "none"
    options = {"headers": {"Accept-Encoding": "identity", "Range": "bytes=0-1"}}
    async with api.open("GET", "/db/a/f", **options) as answer:
        assert await answer.read() == plain
    assert answer.headers["Content-Length"] == str(len(plain))
    doc = (await api.get("/db/a?attachments=true")).json
    assert base64.b64decode(doc["_attachments"]["f"]["data"]) == plain


async def test_gzip_may_have_some_members(api: Api) -> None:
    member = gzip.compress(b"a", mtime=0)
    await attach(api, "/db/a/f", 10_000 * member, **{"Content-Encoding": "gzip"})
    stub = (await api.get("/db/a")).json["_attachments"]["f"]
    assert stub["length"] == 10_000
    headers = {"Content-Encoding": "gzip"}
    answer = await api.request("PUT", "/db/b/f", data=10_001 * member, headers=headers)
    assert answer.error == (
        400,
        "bad_request",
        "the attachment has more than 10,000 members of gzip",
    )


async def test_encodings_that_are_none(api: Api) -> None:
    for size in (100, len(LARGE)):
        answer = await api.request(
            "PUT", "/db/a/f", data=io.BytesIO(LARGE[:size]), headers={"Content-Encoding": "gzip"}
        )
        assert answer.error[:2] == (400, "bad_request")
    answer = await api.request("PUT", "/db/a/f", data=b"1", headers={"Content-Encoding": "br"})
    assert answer.error[0] == 415
    assert await blobs(api) == []


async def test_json_may_come_compressed(api: Api) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(b'{"n":1}', mtime=0)
    assert (await api.request("PUT", "/db/a", data=body, headers=headers)).status == 201
    assert (await api.get("/db/a")).json["n"] == 1
    answer = await api.request("PUT", "/db/b", data=body[:-5], headers=headers)
    assert answer.error[:2] == (400, "bad_request")


# --- in documents ----------------------------------------------------------------------


async def test_inline_and_stubs(api: Api) -> None:
    first = (await api.put("/db/a", {"_attachments": {"x": inline(b"1"), "y": inline(b"2")}})).json
    doc = (await api.get("/db/a")).json
    doc["_attachments"] = {"x": {"stub": True}, "z": inline(b"3")}
    second = (await api.put("/db/a", doc)).json
    found = (await api.get("/db/a?attachments=true")).json["_attachments"]
    assert {name: (entry["revpos"], entry["data"]) for name, entry in found.items()} == {
        "x": (1, "MQ=="),
        "z": (2, "Mw=="),
    }
    since = json.dumps([first["rev"]])
    found = (await api.get(f"/db/a?atts_since={since}")).json["_attachments"]
    assert found["x"]["stub"] is True
    assert found["z"]["data"] == "Mw=="
    assert (await api.get("/db/a?atts_since=1")).status == 400
    doc = {"_rev": second["rev"], "_attachments": {"y": {"stub": True}}}
    assert (await api.put("/db/a", doc)).error == (
        412,
        "missing_stub",
        "Invalid attachment stub in a for y",
    )
    answer = await api.put("/db/a", {"_rev": second["rev"]})
    assert answer.status == 201
    assert "_attachments" not in (await api.get("/db/a")).json


async def test_a_replicated_stub_is_the_ancestors(api: Api) -> None:
    await api.graft("a", "1-a", _attachments={"f": {**inline(b"1"), "revpos": 1}})
    await api.graft("a", "3-c", "2-b", "1-a", _attachments={"f": {"stub": True, "revpos": 1}})
    assert await read(api, "/db/a/f?rev=3-c") == b"1"
    stranger = {"f": {"stub": True, "revpos": 2, "digest": digest(b"2")}}
    history = {"start": 4, "ids": ["d", "c", "b", "a"]}
    doc = {"_rev": "4-d", "_revisions": history, "_attachments": stranger}
    assert (await api.put("/db/a?new_edits=false", doc)).error[:2] == (412, "missing_stub")


async def test_a_losing_revision_keeps_its_attachments(api: Api) -> None:
    await api.graft("a", "1-a", _attachments={"f": inline(b"left")})
    await api.graft("a", "1-b", _attachments={"f": inline(b"right")})
    assert await read(api, "/db/a/f") == b"right"
    assert await read(api, "/db/a/f?rev=1-a") == b"left"
    await api.delete("/db/a?rev=1-b")
    assert await read(api, "/db/a/f") == b"left"


async def test_contents_in_bulk(api: Api) -> None:
    large = inline(LARGE, "image/png")
    docs = [{"_id": "a", "_attachments": {"f": large, "g": inline(b"")}}, {"_id": "b"}]
    body = io.BytesIO(json.dumps({"docs": docs}).encode())
    await api.request(
        "POST", "/db/_bulk_docs", data=body, headers={"Content-Type": "application/json"}
    )
    asked = {"docs": [{"id": "a"}, {"id": "b"}]}
    found = (await api.post("/db/_bulk_get?attachments=true", asked)).json["results"]
    attachments = found[0]["docs"][0]["ok"]["_attachments"]
    assert (attachments["f"]["data"], attachments["g"]["data"]) == (large["data"], "")
    found = (await api.post("/db/_bulk_get", asked)).json["results"]
    assert found[0]["docs"][0]["ok"]["_attachments"]["f"]["stub"] is True
    [leaf] = (await api.get("/db/a?open_revs=all&attachments=true")).json
    assert leaf["ok"]["_attachments"] == attachments
    for path in ("_changes", "_all_docs"):
        query = "include_docs=true&attachments=true"
        answer = (await api.get(f"/db/{path}?{query}")).json
        row = (answer.get("results") or answer["rows"])[0]
        assert row["doc"]["_attachments"] == attachments, path
        answer = (await api.get(f"/db/{path}?include_docs=true")).json
        row = (answer.get("results") or answer["rows"])[0]
        assert row["doc"]["_attachments"]["f"]["stub"] is True


# --- multipart -------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?new_edits=false"])
async def test_a_document_in_parts(api: Api, query: str) -> None:
    packed = gzip.compress(b"plain" * 1000)
    doc = {
        "n": 1,
        "_rev": "1-a",
        "_attachments": {
            "large": follows(LARGE, digest=digest(LARGE), revpos=1),
            "in": inline(b"inline"),
            "empty": follows(b""),
            "packed": follows(packed, encoding="gzip", encoded_length=len(packed), length=5000),
        },
    }
    if not query:
        del doc["_rev"]
    answer = await api.request("PUT", f"/db/a{query}", **related(doc, LARGE, b"", packed))
    assert answer.status == 201, answer.text
    assert await read(api, "/db/a/large") == LARGE
    assert await read(api, "/db/a/in") == b"inline"
    assert await read(api, "/db/a/empty") == b""
    assert await read(api, "/db/a/packed") == b"plain" * 1000
    assert (await api.get("/db/a")).json["n"] == 1

    # And back: CouchDB's way for one document, and for all its leaves.
    accept = {"headers": {"Accept": "multipart/related"}}
    async with api.open("GET", "/db/a?attachments=true", **accept) as reply:
        body = await reply.read()
        kind = reply.headers["Content-Type"]
    again = await api.request("PUT", "/db/b", data=io.BytesIO(body), headers={"Content-Type": kind})
    assert again.status == 409  # it has the revision of the other one in it
    await api.put("/other")
    again = await api.request(
        "PUT", "/other/a?new_edits=false", data=io.BytesIO(body), headers={"Content-Type": kind}
    )
    assert again.status == 201
    query = "?attachments=true&att_encoding_info=true"
    assert (await api.get(f"/other/a{query}")).json == (await api.get(f"/db/a{query}")).json


async def test_leaves_in_parts(api: Api) -> None:
    await api.graft("a", "1-a", _attachments={"f": inline(b"left")})
    await api.graft("a", "1-b")
    accept = {"headers": {"Accept": "multipart/mixed"}}
    answer = await api.get('/db/a?open_revs=["1-a","1-b","9-x"]&revs=true', **accept)
    left, right, missing = message(answer).get_payload()
    assert left.get_content_type() == "multipart/related"
    doc, content = left.get_payload()
    entry = json.loads(doc.get_payload())["_attachments"]["f"]
    assert (entry["follows"], entry["length"]) == (True, 4)
    assert content.get_filename() == "f"
    assert content.get_payload() == "left"
    assert json.loads(right.get_payload())["_rev"] == "1-b"
    assert json.loads(missing.get_payload()) == {"missing": "9-x"}
    answer = await api.get('/db/a?open_revs=["1-a"]&atts_since=["1-a"]', **accept)
    [left] = message(answer).get_payload()
    assert json.loads(left.get_payload())["_attachments"]["f"]["stub"] is True


@pytest.mark.parametrize("kind", ["multipart/mixed", "multipart/related"])
async def test_many_documents_in_parts(api: Api, kind: str) -> None:
    await api.graft("a", "1-a", _attachments={"f": inline(b"data")})
    await api.graft("b", "1-b")
    ids: list[Any] = [{"id": "b", "rev": "1-b"}, {"id": "a"}, {"id": "c"}, {"id": "b", "rev": 1}]
    asked = {"docs": ids}
    accept = {"headers": {"Accept": kind}}
    answer = await api.post("/db/_bulk_get?revs=true", asked, **accept)
    assert answer.headers["Content-Type"].startswith(f"{kind}; boundary=")
    plain, related, missing, malformed = message(answer).get_payload()
    doc = json.loads(plain.get_payload())
    assert (doc["_rev"], doc["_revisions"]) == ("1-b", {"start": 1, "ids": ["b"]})
    doc, content = related.get_payload()
    assert json.loads(doc.get_payload())["_attachments"]["f"]["follows"] is True
    assert content.get_payload() == "data"
    for part, id, error in [(missing, "c", "not_found"), (malformed, "b", "bad_request")]:
        assert part["Content-Type"] == 'application/json; error="true"'
        told = json.loads(part.get_payload())
        assert (told["id"], told["error"]) == (id, error)
    either = {"headers": {"Accept": f"{kind}, application/json"}}
    assert "results" in (await api.post("/db/_bulk_get", asked, **either)).json


async def test_many_documents_with_contents_that_are_new_to_some_revisions(api: Api) -> None:
    first = (await api.put("/db/a", {"_attachments": {"x": inline(b"1")}})).json["rev"]
    stub = {"stub": True}
    attachments = {"x": stub, "y": inline(b"2")}
    await api.put("/db/a", {"_rev": first, "_attachments": attachments})
    asked = {"docs": [{"id": "a", "atts_since": [first]}, {"id": "a", "atts_since": []}]}
    [new, all] = (await api.post("/db/_bulk_get", asked)).json["results"]
    found = new["docs"][0]["ok"]["_attachments"]
    assert (found["x"]["stub"], found["y"]["data"]) == (True, "Mg==")
    found = all["docs"][0]["ok"]["_attachments"]
    assert (found["x"]["stub"], found["y"]["stub"]) == (True, True)
    accept = {"headers": {"Accept": "multipart/mixed"}}
    [new, all] = message(await api.post("/db/_bulk_get", asked, **accept)).get_payload()
    assert [part.get_payload() for part in new.get_payload()[1:]] == ["2"]
    assert [part.get_payload() for part in all.get_payload()[1:]] == ["1", "2"]


@pytest.mark.parametrize("size", [0, 1, 30, 200, 300, 1_000_000, 4_016_000, 4_016_100])
async def test_a_message_that_is_cut_off_leaves_nothing(api: Api, size: int) -> None:
    request = related({"_attachments": {"f": follows(LARGE)}}, LARGE)
    request["data"] = io.BytesIO(request["data"].read(size))
    answer = await api.request("PUT", "/db/a", **request)
    assert answer.error[:2] == (400, "bad_request")
    assert (await api.get("/db/a")).status == 404
    assert await blobs(api) == []


@pytest.mark.parametrize(
    ("attachments", "parts", "error"),
    [
        ({"f": follows(b"12")}, [LARGE], "bad_request"),
        ({"f": follows(LARGE, digest=digest(b"1"))}, [LARGE], "content_md5_mismatch"),
        ({"f": follows(LARGE)}, [LARGE, b"more"], "bad_request"),
        ({"f": follows(LARGE), "g": follows(b"")}, [LARGE], "bad_request"),
        ({}, [LARGE], "bad_request"),
        ({"_f": follows(b"1")}, [b"1"], "bad_request"),
    ],
)
async def test_parts_that_are_not_as_told(
    api: Api, attachments: dict[str, Any], parts: list[bytes], error: str
) -> None:
    answer = await api.request("PUT", "/db/a", **related({"_attachments": attachments}, *parts))
    assert answer.error[:2] == (400, error)
    assert await blobs(api) == []


async def test_parts_may_say_which_they_are(api: Api) -> None:
    with aiohttp.MultipartWriter("related") as writer:
        doc = {"_attachments": {"one": follows(b"1"), "two": follows(b"22")}}
        writer.append_json(doc)
        for name, data in (("two", b"22"), ("one", b"1")):
            part = writer.append(data)
            part.set_content_disposition("attachment", filename=name)
    answer = await api.request("PUT", "/db/a", data=writer)
    assert answer.status == 201, answer.text
    assert (await read(api, "/db/a/one"), await read(api, "/db/a/two")) == (b"1", b"22")
