"""`_all_docs` with all options."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.server.api import Api, number_in

IDS = ["B", "a", "b", "c", "d", "ä"]  # in the order of code points


@pytest.fixture
async def docs(api: Api) -> Api:
    for id in reversed(IDS):
        await api.write(id, v=id)
    gone = await api.write("cc")
    await api.write("cc", _rev=gone, _deleted=True)
    return api


async def ask(api: Api, **options: Any) -> Any:
    """All docs, by GET and by POST; both must be the same."""
    query = urlencode(
        {
            name: value if name in ("limit", "skip") else json.dumps(value)
            for name, value in options.items()
        }
    )
    got = await api.get(f"/db/_all_docs?{query}")
    posted = await api.post("/db/_all_docs", options)
    assert (got.status, got.json) == (posted.status, posted.json)
    return got.json


def ids(body: Any) -> list[str]:
    return [row["id"] for row in body["rows"]]


async def test_an_empty_database(api: Api) -> None:
    assert await ask(api) == {"total_rows": 0, "offset": 0, "rows": []}


async def test_all(docs: Api) -> None:
    body = await ask(docs)
    assert (body["total_rows"], body["offset"]) == (6, 0)
    assert ids(body) == IDS
    assert body["rows"][0] == {"id": "B", "key": "B", "value": body["rows"][0]["value"]}
    assert set(body["rows"][0]["value"]) == {"rev"}


@pytest.mark.parametrize(
    ("options", "expected", "offset"),
    [
        ({"startkey": "b"}, ["b", "c", "d", "ä"], 2),
        ({"start_key": "bb"}, ["c", "d", "ä"], 3),
        ({"endkey": "b"}, ["B", "a", "b"], 0),
        ({"end_key": "b", "inclusive_end": False}, ["B", "a"], 0),
        ({"startkey": "a", "endkey": "c"}, ["a", "b", "c"], 1),
        ({"startkey": "a", "endkey": "c", "inclusive_end": False}, ["a", "b"], 1),
        ({"startkey": "z", "endkey": "z"}, [], 5),
        ({"startkey": "b", "endkey": "a"}, [], 2),
        ({"startkey": "a", "endkey": "b", "descending": True}, [], 4),
        ({"descending": True}, IDS[::-1], 0),
        ({"descending": True, "startkey": "c"}, ["c", "b", "a", "B"], 2),
        ({"descending": True, "startkey": "cc", "endkey": "b"}, ["c", "b"], 2),
        (
            {"descending": True, "startkey": "c", "endkey": "a", "inclusive_end": False},
            ["c", "b"],
            2,
        ),
        ({"key": "c"}, ["c"], 3),
        ({"key": "cc"}, [], 4),
        ({"limit": 2}, ["B", "a"], 0),
        ({"skip": 4}, ["d", "ä"], 4),
        ({"skip": 1, "limit": 2, "startkey": "a"}, ["b", "c"], 2),
        ({"limit": 0}, [], 0),
        ({"skip": 100}, [], 6),
        ({"startkey": 5}, IDS, 0),
        ({"startkey": None}, IDS, 0),
        ({"endkey": 5}, [], 0),
        ({"startkey": {}}, [], 0),
        ({"endkey": []}, IDS, 0),
        ({"descending": True, "startkey": {}}, IDS[::-1], 0),
        ({"key": 5}, [], 0),
        ({"startkey": "_design/", "endkey": "_design/\ufff0"}, [], 1),
    ],
)
async def test_ranges(docs: Api, options: Any, expected: list[str], offset: int) -> None:
    body = await ask(docs, **options)
    assert ids(body) == expected
    assert body["total_rows"] == 6
    if expected:
        assert body["offset"] == offset


async def test_keys(docs: Api) -> None:
    keys = ["d", "nope", "cc", "d", 5]
    body = await ask(docs, keys=keys, include_docs=True)
    rows = body["rows"]
    assert [row["key"] for row in rows] == keys
    assert rows[0]["doc"]["v"] == "d"
    assert rows[1] == {"key": "nope", "error": "not_found"}
    assert rows[2]["value"]["deleted"] is True
    assert rows[2]["doc"] is None
    assert rows[3] == rows[0]
    assert rows[4] == {"key": 5, "error": "not_found"}
    assert ids(await ask(docs, keys=["a", "b", "c"], skip=1, limit=1)) == ["b"]
    assert ids(await ask(docs, keys=["a", "b", "c"], descending=True)) == ["c", "b", "a"]
    assert ids(await ask(docs, keys=[])) == []


async def test_include_docs(docs: Api) -> None:
    row = (await ask(docs, include_docs=True, limit=1))["rows"][0]
    assert row["doc"] == {"_id": "B", "_rev": row["value"]["rev"], "v": "B"}


async def test_conflicts_are_in_the_documents(api: Api) -> None:
    await api.graft("a", "1-a")
    await api.graft("a", "1-b")
    await api.graft("b", "1-b")
    one, two = (await ask(api, include_docs=True, conflicts=True))["rows"]
    assert one["doc"]["_conflicts"] == ["1-a"]
    assert "_conflicts" not in two["doc"]


async def test_update_seq(docs: Api) -> None:
    assert number_in((await ask(docs, update_seq=True))["update_seq"]) == 8
    assert (await ask(docs, update_seq=True, keys=["a"]))["update_seq"] is None
    assert (await docs.get("/db/_local_docs?update_seq=true")).json["update_seq"] is None


@pytest.mark.parametrize("include_docs", [False, True])
@pytest.mark.parametrize("descending", [False, True])
async def test_more_rows_than_a_page(api: Api, include_docs: bool, descending: bool) -> None:
    expected = [f"{number:05}" for number in range(2500)]
    await api.post("/db/_bulk_docs", {"docs": [{"_id": id} for id in expected]})
    if descending:
        expected.reverse()
    options = {"include_docs": include_docs, "descending": descending}
    assert ids(await ask(api, **options)) == expected
    assert ids(await ask(api, skip=3, limit=2100, **options)) == expected[3:2103]
    assert ids(await ask(api, startkey=expected[7], **options)) == expected[7:]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit=x", "query_parse_error"),
        ("limit=-1", "query_parse_error"),
        ("skip=1.5", "query_parse_error"),
        ("skip=99999999999999999999", "query_parse_error"),
        ("startkey=a", "bad_request"),
        ('startkey="\\ud800"', "bad_request"),
        ("keys=1", "bad_request"),
        ('keys=["a"]&key="a"', "query_parse_error"),
    ],
)
async def test_bad_queries(docs: Api, query: str, error: str) -> None:
    answer = await docs.get(f"/db/_all_docs?{quote(query, safe='=&')}")
    assert answer.error[:2] == (400, error)


@pytest.mark.parametrize(
    "body", [{"limit": "1"}, {"limit": -1}, {"skip": True}, {"descending": 1}, {"keys": "a"}, []]
)
async def test_bad_bodies(docs: Api, body: Any) -> None:
    assert (await docs.post("/db/_all_docs", body)).error[0] == 400
