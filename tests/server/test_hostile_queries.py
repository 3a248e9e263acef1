"""Options and selectors that are wrong, huge, or made to keep the server busy."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.server.api import Answer, Api

FLAGS = ["descending", "include_docs", "conflicts", "attachments", "update_seq", "inclusive_end"]
HOG = "(a|a)*$"
VICTIM = "a" * 60 + "!"


async def send(api: Api, path: str, body: str) -> Answer:
    headers = {"Content-Type": "application/json"}
    return await api.request("POST", path, data=io.BytesIO(body.encode()), headers=headers)


async def find(api: Api, selector: Any, **options: Any) -> Answer:
    return await api.post("/db/_find", {"selector": selector, **options})


# --- options ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-1", "1.5", "1e3", "x", "", "9" * 19, "9" * 5000, "٣", "0x1"])
async def test_counts_that_are_none(api: Api, text: str) -> None:
    for path in [
        "/_uuids?count=",
        "/_all_dbs?limit=",
        "/_all_dbs?skip=",
        "/db/_all_docs?limit=",
        "/db/_all_docs?skip=",
        "/db/_design_docs?limit=",
        "/db/_local_docs?skip=",
        "/db/_changes?limit=",
        "/db/_changes?timeout=",
        "/db/_changes?heartbeat=",
    ]:
        answer = await api.get(path + quote(text))
        assert answer.error[0] == 400, path
        assert answer.error[1] in ("query_parse_error", "bad_request"), path
    answer = await api.get(f"/db/_changes?since={quote(text)}")
    if text != "":
        assert answer.error[:2] == (400, "bad_request")


@pytest.mark.parametrize("path", ["_all_docs", "_design_docs", "_local_docs", "_all_docs/queries"])
@pytest.mark.parametrize("value", [None, -1, 1.5, "1", "true", [], {}, 10**30])
async def test_options_in_a_body_of_the_wrong_type(api: Api, path: str, value: Any) -> None:
    for name in ["limit", "skip", *FLAGS]:
        options = {name: value}
        body = {"queries": [options]} if path.endswith("queries") else options
        answer = await api.post(f"/db/{path}", body)
        assert answer.error[:2] == (400, "query_parse_error"), name
    for keys in ([], value) if not isinstance(value, list) and value is not None else ():
        body = {"keys": keys} if not path.endswith("queries") else {"queries": [{"keys": keys}]}
        answer = await api.post(f"/db/{path}", body)
        assert answer.status == (200 if keys == [] else 400)


@pytest.mark.parametrize("text", ["{", "\u0000", '"\\ud800"', "1e999", "nan", "'a'", "[" * 9000])
async def test_json_in_a_query_that_is_none(api: Api, text: str) -> None:
    await api.write("a")
    for path in [
        "/_all_dbs?start_key=",
        "/db/_all_docs?key=",
        "/db/_all_docs?keys=",
        "/db/_all_docs?start_key=",
        "/db/_all_docs?endkey=",
        "/db/a?open_revs=",
        "/db/a?attachments=true&atts_since=",
        "/db/_changes?filter=_doc_ids&doc_ids=",
    ]:
        assert (await api.get(path + quote(text))).error[:2] == (400, "bad_request"), path


async def test_very_many_keys(api: Api) -> None:
    await api.write("k1")
    keys = [f"k{number}" for number in range(40_000)]
    rows = (await api.post("/db/_all_docs", {"keys": keys})).json["rows"]
    assert len(rows) == len(keys)
    assert [row["id"] for row in rows if "id" in row] == ["k1"]
    changed = await api.post("/db/_changes?filter=_doc_ids", {"doc_ids": keys})
    assert [row["id"] for row in changed.json["results"]] == ["k1"]
    missing = await api.post("/db/_revs_diff", {key: ["1-a"] for key in keys})
    assert len(missing.json) == len(keys)


# --- selectors -------------------------------------------------------------------------


def nested(operator: str, levels: int) -> str:
    """A selector with this operator so many times inside itself."""
    opening, closing = ('{"%s":[' % operator, "]}")  # noqa: UP031 -- it is full of braces
    if operator in ("$not", "$elemMatch", "field"):
        opening, closing = ('{"%s":' % operator, "}")  # noqa: UP031
    return opening * levels + '{"a":1}' + closing * levels


@pytest.mark.parametrize("operator", ["$and", "$or", "$nor", "$not", "$elemMatch", "field"])
@pytest.mark.parametrize("path", ["_find", "_explain", "_index", "_changes?filter=_selector"])
async def test_selectors_that_are_nested_too_deeply(api: Api, operator: str, path: str) -> None:
    for levels in (101, 400, 5000, 100_000):
        selector = nested(operator, levels)
        body = f'{{"selector":{selector}}}'
        if path == "_index":
            body = f'{{"index":{{"fields":["a"],"partial_filter_selector":{selector}}}}}'
        answer = await send(api, f"/db/{path}", body)
        assert answer.error[0] == 400, (levels, answer)
    assert (await api.get("/db/_index")).json["total_rows"] == 1


@pytest.mark.parametrize("operator", ["$and", "$or", "$nor", "$not", "$elemMatch", "field"])
async def test_selectors_that_are_nested_deeply(api: Api, operator: str) -> None:
    await api.write("x", b={"a": 1})
    answer = await send(api, "/db/_find", f'{{"selector":{{"b":{nested(operator, 40)}}}}}')
    assert answer.status == 200
    inner = operator in ("$and", "$or", "$nor", "$not")  # an even number of negations
    assert len(answer.json["docs"]) == inner


async def test_very_many_conditions(api: Api) -> None:
    await api.write("x", a=7, b=["7"])
    await api.post("/db/_index", {"index": {"fields": ["a"]}})
    many = [{"a": number} for number in range(5000)]
    assert len((await find(api, {"$or": many})).json["docs"]) == 1
    assert len((await find(api, {"$nor": many})).json["docs"]) == 0
    assert len((await find(api, {"a": {"$in": list(range(40_000))}})).json["docs"]) == 1
    # More parameters than a statement of SQLite may have.
    several = {"$and": [{"a": {"$in": list(range(200))}} for _ in range(190)]}
    assert len((await find(api, several)).json["docs"]) == 1
    fields = [f"f{number}" for number in range(5000)]
    assert (await find(api, {}, fields=fields)).json["docs"] == [{}]
    long = ".".join("x" * 5000)
    assert (await find(api, {long: {"$exists": True}})).json["docs"] == []
    indices = ".".join(["0"] * 12)
    assert (await find(api, {indices: 1})).json["docs"] == []


async def test_indexes_of_very_many_fields(api: Api) -> None:
    fields = [f"f{number}" for number in range(3000)]
    answer = await api.post("/db/_index", {"index": {"fields": fields}})
    assert answer.error == (400, "invalid_index", "An index has at most 100 fields.")
    assert (await api.post("/db/_index", {"index": {"fields": fields[:100]}})).status == 200
    await api.write("x", f0=1)
    whole = {"selector": {name: {"$gt": None} for name in fields[:100]}, "sort": fields[:100]}
    assert (await api.post("/db/_find", whole)).json["docs"] == []


@pytest.mark.parametrize(
    "view",
    [
        None,
        1,
        [],
        {},
        {"map": None},
        {"map": {"fields": None}},
        {"map": {"fields": 1}},
        {"map": {"fields": [None]}},
        {"map": {"fields": [[]]}},
        {"map": {"fields": {"a": 5}}},
        {"map": {"fields": {"a": ["asc"]}}},
        {"map": {"fields": {"": "asc"}}},
        {"map": {"fields": {"a..b": "asc"}}},
        {"map": {"fields": {"a'\"\\\0": "asc"}}},
        {"map": {"fields": {"_attachments": "asc"}}},
        {"map": {"fields": {"a": "asc"}, "partial_filter_selector": 1}},
        {"map": {"fields": {"a": "asc"}, "partial_filter_selector": {"$x": 1}}},
        {"map": {"fields": {"a": "asc"}, "partial_filter_selector": {"a": {"$regex": "("}}}},
        {"map": {"fields": {f"f{number}": "asc" for number in range(3000)}}},
        {"map": {"fields": [{"a": "asc"}] * 3000}},
        {"map": {"fields": {"a." * 3000 + "a": "asc"}}},
    ],
)
async def test_indexes_that_somebody_else_has_defined(api: Api, view: Any) -> None:
    """Design documents come by replication, too: whatever is in them, the database lives."""
    doc = {"_id": "_design/d", "_rev": "1-a", "language": "query", "views": {"v": view}}
    answer = await api.post("/db/_bulk_docs", {"docs": [doc], "new_edits": False})
    assert (answer.status, answer.json) == (201, [])
    await api.write("x", a=1)
    assert len((await find(api, {"a": 1})).json["docs"]) == 1
    assert (await api.get("/db/_index")).status == 200
    assert (await api.post("/db/_explain", {"selector": {"a": 1}})).status == 200


# --- regular expressions ---------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", "a**", "\\", "x{2,1}", "a" * 1001, "(" * 500 + ")" * 500, "(?R)", "(a)(?1)",
     "(?P<n>a)(?&n)", "[[:nonsense:]]"],
)  # fmt: skip
async def test_patterns_that_are_none_or_too_much(api: Api, pattern: str) -> None:
    answer = await find(api, {"a": {"$regex": pattern}})
    assert answer.error[:2] == (400, "bad_arg")


@pytest.mark.parametrize(
    "pattern", ["^[[:alpha:]]+$", "\\p{L}", "a++", "x(?i)ABC", "(?<=x)a", "(?<n>a)", "\\Aa*"]
)
async def test_patterns_as_pcre_has_them(api: Api, pattern: str) -> None:
    await api.write("x", a="xabc")
    assert len((await find(api, {"a": {"$regex": pattern}})).json["docs"]) == 1


@pytest.mark.parametrize("path", ["_find", "_changes?filter=_selector"])
async def test_a_pattern_that_never_ends_is_refused(api: Api, path: str) -> None:
    await api.write("x", a=VICTIM)
    begun = time.monotonic()
    hog = asyncio.create_task(api.post(f"/db/{path}", {"selector": {"a": {"$regex": HOG}}}))
    # Meanwhile others are served.
    served = 0
    while not hog.done():
        assert (await api.get("/db/x")).status == 200
        served += 1
    assert served > 5
    assert (await hog).error == (
        400,
        "regex_timeout",
        "A $regex of the selector takes too long; make it simpler",
    )
    assert time.monotonic() - begun < 50  # a quarter of a second, and what the machine adds


async def test_an_answer_that_has_begun_is_cut_off(api: Api) -> None:
    """The client must not take what it has got by then for the whole answer."""
    docs = [{"_id": f"{number:04}", "a": "x" * 1000} for number in range(1500)]
    await send(api, "/db/_bulk_docs", json.dumps({"docs": [*docs, {"_id": "z", "a": VICTIM}]}))
    body = json.dumps({"selector": {"a": {"$regex": f"^x|{HOG}"}}, "limit": 2000})
    answer = await api.raw(
        "POST /db/_find HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"0\r\n\r\n" not in answer[-10:]
