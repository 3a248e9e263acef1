"""COPY, and what else is decided by the revision that a client names."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from agent.documents.wire import MAX_DOCUMENT
from tests.server.api import Answer, Api

HEX = "0123456789abcdef0123456789abcdef"


async def copy(api: Api, source: str, target: str) -> Answer:
    return await api.request("COPY", f"/db/{source}", headers={"Destination": target})


async def test_copy_to_a_new_document(api: Api) -> None:
    rev = await api.write("a", v=[1, {"x": 2.5}])
    answer = await copy(api, "a", "b%2Fc%C3%A9")
    assert (answer.status, answer.json) == (201, {"ok": True, "id": "b/cé", "rev": rev})
    assert answer.headers["ETag"] == f'"{rev}"'
    assert answer.headers["Location"] == f"{api.url}/db/b%2Fc%C3%A9"
    doc = (await api.get("/db/b%2Fc%C3%A9")).json
    assert doc == {"_id": "b/cé", "_rev": rev, "v": [1, {"x": 2.5}]}


async def test_copy_over_a_document_needs_its_revision(api: Api) -> None:
    await api.write("a", v=1)
    there = await api.write("b", v=2)
    assert (await copy(api, "a", "b")).error[0] == 409
    assert (await copy(api, "a", "b?rev=1-none")).error[0] == 409
    answer = await copy(api, "a", f"b?rev={there}")
    assert answer.json["rev"].startswith("2-")
    assert (await api.get("/db/b")).json["v"] == 1


async def test_copy_of_an_older_revision(api: Api) -> None:
    first = await api.write("a", v=1)
    await api.write("a", v=2, _rev=first)
    assert (await copy(api, f"a?rev={first}", "b")).status == 201
    assert (await api.get("/db/b")).json["v"] == 1
    headers = {"Destination": "c", "If-Match": f'"{first}"'}
    assert (await api.request("COPY", "/db/a", headers=headers)).status == 201
    assert (await api.get("/db/c")).json["v"] == 1


async def test_copy_takes_attachments_along(api: Api) -> None:
    file = {"content_type": "text/plain", "data": "aGVsbG8="}
    await api.write("a", _attachments={"f": file})
    assert (await copy(api, "a", "b")).status == 201
    assert (await api.get("/db/b/f")).text == "hello"
    assert (await api.get("/db/b?attachments=true")).json["_attachments"]["f"]["revpos"] == 1


async def test_copy_of_what_is_not_there(api: Api) -> None:
    assert (await copy(api, "a", "b")).error == (404, "not_found", "missing")
    rev = await api.write("a")
    assert (await copy(api, "a?rev=9-none", "b")).error == (404, "not_found", "missing")
    await api.delete(f"/db/a?rev={rev}")
    assert (await copy(api, "a", "b")).error == (404, "not_found", "deleted")


@pytest.mark.parametrize(
    ("destination", "error"),
    [
        ("http://127.0.0.1/db/b", "bad_request"),
        ("b?rev=x", "bad_request"),
        ("b?x=1-a", "bad_request"),
        ("%ff", "bad_request"),
        ("_b", "illegal_docid"),
        ("?rev=1-a", "illegal_docid"),
    ],
)
async def test_bad_destinations(api: Api, destination: str, error: str) -> None:
    await api.write("a")
    assert (await copy(api, "a", destination)).error[:2] == (400, error)
    assert (await api.request("COPY", "/db/a")).error[:2] == (400, "bad_request")
    assert (await api.get("/db")).json["doc_count"] == 1


# --- hashes ----------------------------------------------------------------------------


async def test_hex_hashes_are_the_same_in_either_case(api: Api) -> None:
    upper = HEX.upper()
    await api.graft("a", f"2-{upper}", "1-ABC", v=1)
    assert (await api.get("/db/a")).json["_rev"] == f"2-{HEX}"
    assert (await api.get(f"/db/a?rev=2-{upper}")).json["_rev"] == f"2-{HEX}"
    assert (await api.get("/db/a?rev=1-abc")).status == 404  # no 32 digits: as it stands
    assert (await api.post("/db/_revs_diff", {"a": [f"2-{upper}", "1-ABC"]})).json == {}
    [entry] = (await api.post("/db/_bulk_get", {"docs": [{"id": "a", "rev": f"2-{upper}"}]})).json[
        "results"
    ]
    assert entry["docs"][0]["ok"]["v"] == 1
    answer = await api.put(f"/db/a?rev=2-{upper}", {"_rev": f"2-{HEX}", "v": 2})
    assert answer.status == 201
    assert (await api.delete("/db/a?rev=" + answer.json["rev"].upper())).status == 200


# --- sizes -----------------------------------------------------------------------------


async def test_documents_that_are_too_large(api: Api) -> None:
    async def send(method: str, path: str, body: Any) -> Answer:
        data = io.BytesIO(json.dumps(body, ensure_ascii=False).encode())
        return await api.request(
            method, path, data=data, headers={"Content-Type": "application/json"}
        )

    text = "é" * (MAX_DOCUMENT // 2)  # two bytes each
    error = (413, "document_too_large", "a")
    assert (await send("PUT", "/db/a", {"t": text})).error == error
    docs = [{"_id": "b", "_rev": "1-a"}, {"_id": "a", "_rev": "1-a", "t": text}]
    for new_edits in (True, False):
        body = {"docs": docs, "new_edits": new_edits}
        assert (await send("POST", "/db/_bulk_docs", body)).error == error
    assert (await api.get("/db")).json["doc_count"] == 0
    assert (await send("PUT", "/db/a", {"t": text[:-10]})).status == 201
