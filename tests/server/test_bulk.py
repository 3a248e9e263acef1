"""Requests about many documents, of which replication consists."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent.server import bulk
from agent.server.edits import doc_of
from tests.server.api import Api

# --- _bulk_docs ------------------------------------------------------------------------


async def test_edits_in_bulk(api: Api) -> None:
    old = await api.write("old", v=1)
    docs = [
        {"_id": "new", "v": 1},
        {"v": 2},
        {"_id": "old", "_rev": old, "v": 3},
        {"_id": "old", "_rev": old, "v": 4},
        {"_id": "new", "v": 5},
    ]
    answer = await api.post("/db/_bulk_docs", {"docs": docs})
    assert answer.status == 201
    new, made, edited, late, twice = answer.json
    assert (new["ok"], new["id"]) == (True, "new")
    assert len(made["id"]) == 32
    assert edited["rev"].startswith("2-")
    conflict = {"error": "conflict", "reason": "Document update conflict."}
    assert late == {"id": "old", **conflict}
    assert twice == {"id": "new", **conflict}
    assert (await api.get("/db/old")).json["v"] == 3


async def test_no_documents(api: Api) -> None:
    for body in ({"docs": []}, {"docs": [], "new_edits": False}):
        answer = await api.post("/db/_bulk_docs", body)
        assert (answer.status, answer.json) == (201, [])


async def test_grafting_is_idempotent_and_order_does_not_matter(api: Api) -> None:
    await api.put("/other")
    docs = [
        {"_id": "a", "_revisions": {"start": 4, "ids": ["d", "c", "b", "a"]}, "_deleted": True},
        {"_id": "a", "_rev": "3-x", "_revisions": {"start": 3, "ids": ["x", "b", "a"]}, "v": 1},
        {"_id": "a", "_rev": "2-y", "v": 2},
    ]
    for db, order in (("db", docs), ("other", docs[::-1]), ("db", docs)):
        answer = await api.post(f"/{db}/_bulk_docs", {"docs": order, "new_edits": False})
        assert (answer.status, answer.json) == (201, [])
    for db in ("db", "other"):
        found = (await api.get(f"/{db}/a?open_revs=all&revs=true")).json
        assert [entry["ok"]["_rev"] for entry in found] == ["3-x", "2-y", "4-d"]
        assert found[0]["ok"]["_revisions"] == {"start": 3, "ids": ["x", "b", "a"]}
    assert (await api.get("/db")).json["doc_count"] == 1


@pytest.mark.parametrize("new_edits", [True, False])
async def test_a_stub_for_nothing_fails_the_request(api: Api, new_edits: bool) -> None:
    stub = {"_id": "b", "_attachments": {"f": {"stub": True}}}
    docs = [{"_id": "a"}, stub, {"_id": "c"}]
    if not new_edits:
        docs = [{**doc, "_rev": "1-a"} for doc in docs]
    answer = await api.post("/db/_bulk_docs", {"docs": docs, "new_edits": new_edits})
    assert answer.error == (412, "missing_stub", "Invalid attachment stub in b for f")
    assert (await api.get("/db/_all_docs")).json["rows"] == []


@pytest.mark.parametrize("new_edits", [True, False])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"_id": "_x"}, "illegal_docid"),
        ({"_id": ""}, "illegal_docid"),
        ({"_id": 1}, "illegal_docid"),
        ({"_id": "_design/"}, "illegal_docid"),
        ({"_foo": 1}, "doc_validation"),
        ({"_deleted": 1}, "doc_validation"),
        ({"_attachments": 1}, "doc_validation"),
        ({"_rev": "x"}, "bad_request"),
        ({"_rev": 1}, "bad_request"),
        (1, "bad_request"),
        (None, "bad_request"),
        (["a"], "bad_request"),
    ],
)
async def test_a_malformed_document_fails_the_request_and_nothing_is_stored(
    api: Api, bad: Any, error: str, new_edits: bool
) -> None:
    if isinstance(bad, dict):
        bad = {"_id": "bad", "_rev": "1-b", **bad}
        if new_edits and bad["_rev"] == "1-b":
            del bad["_rev"]
    docs = [{"_id": "good"} if new_edits else {"_id": "good", "_rev": "1-a"}, bad]
    answer = await api.post("/db/_bulk_docs", {"docs": docs, "new_edits": new_edits})
    assert answer.error[:2] == (400, error)
    assert await api.update_seq() == 0


@pytest.mark.parametrize(
    "history",
    [
        1,
        {},
        {"start": "1", "ids": ["a"]},
        {"start": True, "ids": ["a"]},
        {"start": 1},
        {"start": 1, "ids": "a"},
        {"start": 1, "ids": [1]},
        {"start": 1, "ids": [""]},
        {"start": 1, "ids": ["b", "a"]},
        {"start": -1, "ids": ["a"]},
        {"start": 10**30, "ids": ["a"]},
    ],
)
async def test_malformed_histories(api: Api, history: Any) -> None:
    doc = {"_id": "a", "_rev": "1-a", "_revisions": history}
    answer = await api.post("/db/_bulk_docs", {"docs": [doc], "new_edits": False})
    assert answer.error[0] == 400
    assert await api.update_seq() == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "POST body must include `docs` parameter."),
        ({"docs": 1}, "`docs` parameter must be an array."),
        ({"docs": {}}, "`docs` parameter must be an array."),
        ({"docs": None}, "`docs` parameter must be an array."),
        ({"docs": [], "new_edits": "no"}, "`new_edits` parameter must be a boolean."),
    ],
)
async def test_bad_bulk_docs(api: Api, body: Any, reason: str) -> None:
    assert (await api.post("/db/_bulk_docs", body)).error == (400, "bad_request", reason)


# --- _bulk_get -------------------------------------------------------------------------


async def test_bulk_get_has_an_entry_for_each_one_asked_for_in_order(api: Api) -> None:
    await api.graft("a", "2-a", "1-x", v="a")
    await api.graft("a", "2-b", "1-x", v="b")
    await api.graft("gone", "2-g", "1-g", _deleted=True)
    docs: list[Any] = [
        {"id": "a", "rev": "2-a"},
        {"id": "nope", "rev": "1-z"},
        {"id": "gone", "rev": "2-g"},
        {"id": "a", "rev": "2-b"},
        {"id": "a"},
        {"id": "a", "rev": "9-z"},
        {"id": "nope"},
        {"id": "a", "rev": "2-a"},
    ]
    answer = await api.post("/db/_bulk_get?revs=true", {"docs": docs})
    assert answer.status == 200
    assert set(answer.json) == {"results"}
    results = answer.json["results"]
    assert [entry["id"] for entry in results] == [doc["id"] for doc in docs]
    assert results[0]["docs"] == [
        {
            "ok": {
                "_id": "a",
                "_rev": "2-a",
                "_revisions": {"start": 2, "ids": ["a", "x"]},
                "v": "a",
            }
        }
    ]
    missing = {"id": "nope", "error": "not_found", "reason": "missing"}
    assert results[1]["docs"] == [{"error": {**missing, "rev": "1-z"}}]
    assert results[2]["docs"][0]["ok"]["_deleted"] is True
    assert results[3]["docs"][0]["ok"]["v"] == "b"
    assert [doc["ok"]["_rev"] for doc in results[4]["docs"]] == ["2-b", "2-a"]
    assert results[5]["docs"][0]["error"]["rev"] == "9-z"
    assert results[6]["docs"] == [{"error": {**missing, "rev": "undefined"}}]
    assert results[7] == results[0]


async def test_bulk_get_without_revs_has_no_histories(api: Api) -> None:
    await api.write("a")
    [entry] = (await api.post("/db/_bulk_get", {"docs": [{"id": "a"}]})).json["results"]
    assert "_revisions" not in entry["docs"][0]["ok"]


async def test_bulk_get_latest(api: Api) -> None:
    first = await api.write("a", v=1)
    second = await api.write("a", _rev=first, v=2)
    docs = [{"id": "a", "rev": first}, {"id": "a", "rev": second}, {"id": "a", "rev": "1-z"}]
    results = (await api.post("/db/_bulk_get?latest=true", {"docs": docs})).json["results"]
    assert [entry["docs"][0]["ok"]["v"] for entry in results[:2]] == [2, 2]
    assert results[2]["docs"][0]["error"]["error"] == "not_found"


async def test_bulk_get_of_many(api: Api) -> None:
    docs = [{"_id": f"{number:04}", "text": "x" * 500} for number in range(1000)]
    await api.post("/db/_bulk_docs", {"docs": docs})
    asked = [{"id": doc["_id"]} for doc in reversed(docs)]
    results = (await api.post("/db/_bulk_get", {"docs": asked})).json["results"]
    assert [entry["docs"][0]["ok"]["_id"] for entry in results] == [doc["id"] for doc in asked]


async def test_bulk_get_answers_for_bad_entries_one_by_one(api: Api) -> None:
    await api.write("a")
    docs: list[Any] = [
        1,
        {},
        {"id": 4},
        {"id": ""},
        {"id": "_x"},
        {"id": "a", "rev": "x"},
        {"id": "a", "rev": 5},
        {"id": "a", "atts_since": "1-a"},
        {"id": "a", "atts_since": ["x"]},
        {"id": "a"},
    ]
    results = (await api.post("/db/_bulk_get", {"docs": docs})).json["results"]
    errors = [entry["docs"][0].get("error", {}).get("error") for entry in results]
    assert errors == [
        "bad_request",
        "bad_request",
        "illegal_docid",
        "illegal_docid",
        "illegal_docid",
        "bad_request",
        "bad_request",
        "bad_request",
        "bad_request",
        None,
    ]


@pytest.mark.parametrize("body", [{}, {"docs": 1}, {"docs": {}}, {"docs": None}])
async def test_bad_bulk_get(api: Api, body: Any) -> None:
    assert (await api.post("/db/_bulk_get", body)).error[:2] == (400, "bad_request")


async def test_bulk_get_refuses_options_of_single_documents(api: Api) -> None:
    answer = await api.post("/db/_bulk_get?rev=1-a", {"docs": []})
    assert answer.error == (400, "bad_request", '"rev" query parameter is not acceptable')
    assert (await api.post("/db/_bulk_get", {"docs": []})).json == {"results": []}


# --- _revs_diff ------------------------------------------------------------------------


async def test_revs_diff_names_only_what_is_missing(api: Api) -> None:
    await api.graft("a", "3-a", "2-a", "1-a")
    await api.graft("b", "1-b")
    asked = {
        "a": ["3-a", "1-a", "2-z"],
        "b": ["1-b"],
        "c": ["1-c", "2-c"],
        "d": [],
    }
    missing = {"a": ["2-z"], "c": ["1-c", "2-c"]}
    diff = (await api.post("/db/_revs_diff", asked)).json
    assert diff == {id: {"missing": revs} for id, revs in missing.items()}
    newer = {"a": ["4-z", "9-y"], "b": ["1-c"], "new": ["4-z"]}
    assert (await api.post("/db/_revs_diff", newer)).json == {
        "a": {"missing": ["4-z", "9-y"], "possible_ancestors": ["3-a"]},
        "b": {"missing": ["1-c"]},
        "new": {"missing": ["4-z"]},
    }
    answer = (await api.post("/db/_missing_revs", asked)).json
    assert answer == {"missing_revs": missing}
    assert (await api.post("/db/_revs_diff", {})).json == {}


@pytest.mark.parametrize(
    "body", [[], 1, {"a": "1-a"}, {"a": [1]}, {"a": ["x"]}, {"a": {"1-a": 1}}, {"a": None}]
)
@pytest.mark.parametrize("path", ["_revs_diff", "_missing_revs"])
async def test_bad_revs_diff(api: Api, path: str, body: Any) -> None:
    await api.write("a")
    assert (await api.post(f"/db/{path}", body)).error[:2] == (400, "bad_request")


@pytest.mark.parametrize(("count", "aside"), [(10, False), (2000, True)])
@pytest.mark.parametrize("new_edits", [True, False])
async def test_large_requests_are_parsed_aside(
    api: Api, monkeypatch: pytest.MonkeyPatch, count: int, aside: bool, new_edits: bool
) -> None:
    """Not in the event loop, where sensors and feeds would wait for it."""
    threads = []

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread() is not threading.main_thread())
        return doc_of(*arguments)

    monkeypatch.setattr(bulk, "doc_of", watched)
    docs = [{"_id": f"d{n}", "_rev": "1-a", "text": "x" * 200} for n in range(count)]
    if new_edits:
        docs = [{"_id": doc["_id"], "text": doc["text"]} for doc in docs]
    response = await api.post("/db/_bulk_docs", {"docs": docs, "new_edits": new_edits})
    assert response.status == 201
    assert set(threads) == {aside}
    assert (await api.get("/db")).json["doc_count"] == count


async def test_bulk_get_of_large_documents(api: Api) -> None:
    """Together they exceed what is read at once."""
    ids = [f"big{n}" for n in range(24)]
    for id in ids:
        await api.write(id, text="x" * 1_000_000)
    response = await api.post("/db/_bulk_get", {"docs": [{"id": id} for id in ids]})
    assert [entry["id"] for entry in response.json["results"]] == ids
    assert all(entry["docs"][0]["ok"]["text"] for entry in response.json["results"])
