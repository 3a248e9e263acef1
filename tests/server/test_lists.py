"""`_design_docs`, `_local_docs`, several queries in one request, `_all_dbs` and `_dbs_info`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.server.api import Api


@pytest.fixture
async def docs(api: Api) -> Api:
    """Documents of all three kinds."""
    for id in ("_design/a", "_design/b", "_design/c", "A", "_", "z"):
        if id != "_":
            await api.write(id, kind=id)
    for id in ("x", "y", "z"):
        await api.put(f"/db/_local/{id}", {"kind": id})
    return api


def ids(body: Any) -> list[str]:
    return [row["id"] for row in body["rows"]]


RANGES: list[tuple[dict[str, Any], str]] = [
    ({}, "012"),
    ({"descending": True}, "210"),
    ({"startkey": "{1}"}, "12"),
    ({"endkey": "{1}"}, "01"),
    ({"endkey": "{1}", "inclusive_end": False}, "0"),
    ({"startkey": "{1}", "descending": True}, "10"),
    ({"endkey": "{1}", "descending": True}, "21"),
    ({"key": "{1}"}, "1"),
    ({"skip": 1, "limit": 1}, "1"),
    ({"limit": 0}, ""),
    ({"startkey": "0"}, "012"),
    ({"startkey": "a"}, ""),
    ({"endkey": "A"}, ""),
    ({"endkey": "a"}, "012"),
    ({"startkey": "a", "descending": True}, "210"),
    ({"startkey": "A", "descending": True}, ""),
    ({"endkey": "a", "descending": True}, ""),
]
"""Options, where {1} is the id of the second document of its kind, and what they list."""


@pytest.mark.parametrize("kind", ["_design", "_local"])
async def test_only_documents_of_one_kind(docs: Api, kind: str) -> None:
    all = [f"{kind}/{name}" for name in ("abc" if kind == "_design" else "xyz")]
    for options, expected in RANGES:
        given = {
            name: value.replace("{1}", all[1]) if isinstance(value, str) else value
            for name, value in options.items()
        }
        wanted = [all[int(place)] for place in expected]
        query = urlencode({name: json.dumps(value) for name, value in given.items()})
        body = (await docs.get(f"/db/{kind}_docs?{query}")).json
        assert ids(body) == wanted, options
        assert body["total_rows"] == (3 if kind == "_design" else None)
        assert ids((await docs.post(f"/db/{kind}_docs", given)).json) == wanted, options


async def test_offset_of_design_documents(docs: Api) -> None:
    path = "/db/_design_docs?startkey=%22_design/b%22"
    assert (await docs.get(path)).json["offset"] == 1
    assert (await docs.get(path + "&descending=true")).json["offset"] == 1
    assert (await docs.get("/db/_local_docs")).json["offset"] is None


async def test_local_documents_with_their_bodies(docs: Api) -> None:
    [row] = (await docs.get("/db/_local_docs?include_docs=true&limit=1")).json["rows"]
    assert row == {
        "id": "_local/x",
        "key": "_local/x",
        "value": {"rev": "0-1"},
        "doc": {"_id": "_local/x", "_rev": "0-1", "kind": "x"},
    }


@pytest.mark.parametrize(
    ("path", "id"), [("_local_docs", "_local/x"), ("_design_docs", "_design/a")]
)
async def test_keys(docs: Api, path: str, id: str) -> None:
    keys = [id, "A", "none", id]
    body = (await docs.post(f"/db/{path}", {"keys": keys})).json
    assert [row["key"] for row in body["rows"]] == keys
    assert [row.get("error") for row in body["rows"]] == [None, "not_found", "not_found", None]


async def test_more_local_documents_than_a_page(api: Api) -> None:
    docs = [{"_id": f"_local/{number:04}"} for number in range(250)]
    await api.post("/db/_bulk_docs", {"docs": docs})
    body = (await api.get("/db/_local_docs?include_docs=true")).json
    assert ids(body) == [doc["_id"] for doc in docs]


@pytest.mark.parametrize("path", ["_all_docs", "_design_docs", "_local_docs"])
async def test_several_queries_in_one_request(docs: Api, path: str) -> None:
    queries: list[dict[str, Any]] = [
        {"limit": 1},
        {"descending": True, "skip": 1, "include_docs": True},
        {"keys": ["_local/y", "_design/b", "none"]},
    ]
    answer = await docs.post(f"/db/{path}/queries", {"queries": queries})
    single = [(await docs.post(f"/db/{path}", query)).json for query in queries]
    assert answer.json == {"results": single}
    assert len(single[0]["rows"]) == 1
    assert (await docs.post(f"/db/{path}/queries", {"queries": []})).json == {"results": []}


@pytest.mark.parametrize(
    "body", [{}, {"queries": 1}, {"queries": [1]}, {"queries": [{"skip": -1}]}]
)
async def test_bad_queries(docs: Api, body: Any) -> None:
    assert (await docs.post("/db/_all_docs/queries", body)).error[0] == 400
    assert (await docs.get("/db/_all_docs/queries")).status == 405


# --- databases -------------------------------------------------------------------------


LISTS = [
    ("", "abcd"),
    ("descending=true", "dcba"),
    ("limit=2", "ab"),
    ("skip=1&limit=2", "bc"),
    ("limit=0", ""),
    ("start_key=%22b%22", "bcd"),
    ("startkey=%22b%22&endkey=%22c%22", "bc"),
    ("startkey=%22b%22&end_key=%22c%22&inclusive_end=false", "b"),
    ("start_key=%22c%22&descending=true", "cba"),
    ("end_key=%22c%22&descending=true", "dc"),
    ("key=%22b%22", "b"),
]


async def test_options_of_all_dbs(server: Api) -> None:
    for name in "cadb":
        await server.put(f"/{name}")
    for query, expected in LISTS:
        assert (await server.get(f"/_all_dbs?{query}")).json == list(expected), query
        infos = (await server.get(f"/_dbs_info?{query}")).json
        assert [entry["info"]["db_name"] for entry in infos] == list(expected), query


@pytest.mark.parametrize("query", ["limit=x", "skip=-1", "start_key=1", "start_key=a"])
async def test_bad_options_of_all_dbs(server: Api, query: str) -> None:
    assert (await server.get(f"/_all_dbs?{query}")).status == 400


async def test_dbs_info_of_some(api: Api) -> None:
    answer = await api.post("/_dbs_info", {"keys": ["db", "none", "Not A Name"]})
    assert answer.json == [
        {"key": "db", "info": (await api.get("/db")).json},
        {"key": "none", "error": "not_found"},
        {"key": "Not A Name", "error": "not_found"},
    ]
    assert (await api.post("/_dbs_info", {"keys": []})).json == []


@pytest.mark.parametrize("body", [{}, {"keys": 1}, {"keys": [1]}, {"keys": ["a"] * 101}])
async def test_bad_dbs_info(server: Api, body: Any) -> None:
    assert (await server.post("/_dbs_info", body)).error[:2] == (400, "bad_request")
