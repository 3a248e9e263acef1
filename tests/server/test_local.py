"""`_local` documents, in which checkpoints are kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api import Api

CHECKPOINT: dict[str, Any] = {
    "session_id": "Ŝ-1",
    "source_last_seq": "12-abc",
    "replication_id_version": 3,
    "history": [{"recorded_seq": 4, "docs_written": 1, "nested": {"a": [1, 2.5, None, True]}}],
    "last_seq": 0,
    "version": 1,
}
PATHS = ["/db/_local/a.b_c=", "/db/_local%2Fa.b_c="]


@pytest.mark.parametrize("path", PATHS)
async def test_life_of_a_local_document(api: Api, path: str) -> None:
    id = "_local/a.b_c="
    assert (await api.get(path)).error == (404, "not_found", "missing")
    first = await api.put(path, CHECKPOINT)
    assert (first.status, first.json) == (201, {"ok": True, "id": id, "rev": "0-1"})
    assert (await api.get(path)).json == {"_id": id, "_rev": "0-1", **CHECKPOINT}
    second = await api.put(path, {"_id": id, "_rev": "0-1", "x": 2})
    assert second.json["rev"] == "0-2"
    assert (await api.get(path)).json == {"_id": id, "_rev": "0-2", "x": 2}
    assert (await api.delete(f"{path}?rev=0-2")).json == {"ok": True, "id": id, "rev": "0-0"}
    assert (await api.get(path)).status == 404
    assert (await api.delete(path)).error == (404, "not_found", "missing")


@pytest.mark.parametrize(
    ("rev", "new"), [(None, "0-1"), ("0-1", "0-2"), ("0-7", "0-8"), ("0-0", "0-1")]
)
async def test_the_last_write_stays_and_revisions_only_count(
    api: Api, rev: str | None, new: str
) -> None:
    await api.put("/db/_local/x", {"a": 1})
    doc: dict[str, Any] = {"a": 2} if rev is None else {"a": 2, "_rev": rev}
    answer = await api.put("/db/_local/x", doc)
    assert (answer.status, answer.json["rev"]) == (201, new)
    assert (await api.get("/db/_local/x")).json == {"_id": "_local/x", "_rev": new, "a": 2}
    assert (await api.delete("/db/_local/x?rev=0-99")).json["rev"] == "0-0"
    assert (await api.get("/db/_local/x")).status == 404


@pytest.mark.parametrize("rev", ["1-abc", "0-a", "0-", "x", "0-" + "9" * 30])
async def test_a_revision_must_be_that_of_a_local_document(api: Api, rev: str) -> None:
    await api.put("/db/_local/x", {"a": 1})
    error = (400, "bad_request", "Invalid rev format")
    assert (await api.put("/db/_local/x", {"_rev": rev})).error == error
    assert (await api.delete(f"/db/_local/x?rev={rev}")).error == error
    assert (await api.get("/db/_local/x")).json["a"] == 1


async def test_the_revision_may_be_in_the_query_or_in_if_match(api: Api) -> None:
    await api.put("/db/_local/x", {})
    assert (await api.put("/db/_local/x?rev=0-1", {})).json["rev"] == "0-2"
    answer = await api.put("/db/_local/x", {}, headers={"If-Match": '"0-2"'})
    assert answer.json["rev"] == "0-3"


async def test_etag(api: Api) -> None:
    await api.put("/db/_local/x", {"a": 1})
    tag = (await api.get("/db/_local/x")).headers["ETag"]
    same = await api.get("/db/_local/x", headers={"If-None-Match": tag})
    assert (same.status, same.text) == (304, "")
    several = await api.get("/db/_local/x", headers={"If-None-Match": f'"x", W/{tag}'})
    assert several.status == 304
    await api.delete("/db/_local/x?rev=0-1")
    await api.put("/db/_local/x", {"a": 2})
    assert (await api.get("/db/_local/x", headers={"If-None-Match": tag})).json["_rev"] == "0-1"


async def test_deleting_by_a_member(api: Api) -> None:
    await api.put("/db/_local/x", {})
    answer = await api.put("/db/_local/x", {"_rev": "0-1", "_deleted": True})
    assert (answer.status, answer.json["rev"]) == (200, "0-0")
    assert (await api.get("/db/_local/x")).status == 404


async def test_local_documents_are_in_no_list(api: Api) -> None:
    await api.put("/db/_local/x", {})
    assert (await api.get("/db/_all_docs")).json["rows"] == []
    assert (await api.get("/db/_changes")).json["results"] == []
    assert (await api.get("/db")).json["doc_count"] == 0


async def test_in_bulk_and_by_post(api: Api) -> None:
    docs = [{"_id": "_local/x", "a": 1}, {"_id": "y"}, {"_id": "_local/x", "a": 2}]
    results = (await api.post("/db/_bulk_docs", {"docs": docs})).json
    assert results[0] == {"ok": True, "id": "_local/x", "rev": "0-1"}
    assert results[1]["ok"] is True
    assert results[2] == {"ok": True, "id": "_local/x", "rev": "0-1"}
    assert (await api.post("/db", {"_id": "_local/z"})).json["rev"] == "0-1"
    assert (await api.get("/db/_local/x")).json["a"] == 2


@pytest.mark.parametrize("path", ["/db/_local", "/db/_local/", "/db/_local%2F"])
async def test_a_name_is_needed(api: Api, path: str) -> None:
    assert (await api.get(path)).error == (400, "bad_request", "Invalid _local document id.")
    assert (await api.put(path, {})).status == 400


async def test_there_are_no_attachments(api: Api) -> None:
    refused = (400, "bad_request", "_local documents do not accept attachments.")
    for method in ("GET", "PUT", "DELETE"):
        assert (await api.request(method, "/db/_local/x/file")).error == refused
    doc = {"_attachments": {"a": {"content_type": "text/plain", "data": ""}}, "v": 1}
    assert (await api.put("/db/_local/x", doc)).status == 201
    await api.write("_local/y", **doc)
    for id in ("_local/x", "_local/y"):
        found = (await api.get(f"/db/{id}?attachments=true")).json
        assert found == {"_id": id, "_rev": "0-1", "v": 1}


async def test_unknown_underscore_members_are_refused(api: Api) -> None:
    answer = await api.put("/db/_local/x", {"_foo": 1})
    assert answer.error == (400, "doc_validation", "Bad special document member: _foo")


@pytest.mark.parametrize(
    "bad",
    [
        {"_id": "_local/x", "_rev": "1-a"},
        {"_id": "_local/x", "_rev": 1},
        {"_id": "_local/x", "_rev": "0-x"},
        {"_id": "_local/x", "_bad": 1},
        {"_id": "_local/"},
    ],
)
async def test_one_that_is_malformed_refuses_the_whole_bulk(api: Api, bad: dict[str, Any]) -> None:
    docs = [{"_id": "y"}, {"_id": "_local/z"}, bad]
    answer = await api.post("/db/_bulk_docs", {"docs": docs})
    assert answer.status == 400
    assert (await api.get("/db")).json["doc_count"] == 0
    assert (await api.get("/db/_local/z")).status == 404
