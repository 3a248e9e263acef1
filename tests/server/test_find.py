"""Mango over HTTP: `_find`, `_explain`, `_index`, and what stands for JavaScript."""

from __future__ import annotations

from typing import Any

import pytest

from agent.store.planner import NO_INDEX
from tests.server.api import Answer, Api

GAMES = [
    {"_id": "mario", "name": "mario", "rank": 5, "series": "mario", "debut": 1981},
    {"_id": "puff", "name": "jigglypuff", "rank": 8, "series": "pokemon", "debut": 1996},
    {"_id": "link", "name": "link", "rank": 10, "series": "zelda", "debut": 1986},
    {"_id": "dk", "name": "donkey kong", "rank": 7, "series": "mario", "debut": 1981},
    {"_id": "luigi", "name": "luigi", "rank": 11, "series": "mario", "debut": 1983},
    {"_id": "yoshi", "name": "yoshi", "rank": 6, "series": "mario", "debut": 1990},
]


@pytest.fixture
async def games(api: Api) -> Api:
    await api.post("/db/_bulk_docs", {"docs": GAMES})
    return api


async def index(api: Api, *fields: Any, **more: Any) -> dict[str, Any]:
    partial = more.pop("partial_filter_selector", None)
    definition: dict[str, Any] = {"fields": list(fields)}
    if partial is not None:
        definition["partial_filter_selector"] = partial
    answer = await api.post("/db/_index", {"index": definition, **more})
    assert answer.status == 200, answer.text
    return dict(answer.json)


async def find(api: Api, selector: Any, **options: Any) -> Answer:
    return await api.post("/db/_find", {"selector": selector, **options})


async def ids(api: Api, selector: Any, **options: Any) -> list[str]:
    answer = await find(api, selector, **options)
    assert answer.status == 200, answer.text
    return [doc["_id"] for doc in answer.json["docs"]]


async def test_without_an_index_all_documents_are_looked_at_by_id(games: Api) -> None:
    answer = await find(games, {"series": "mario"}, fields=["_id", "rank"])
    assert answer.json["docs"] == [
        {"_id": "dk", "rank": 7},
        {"_id": "luigi", "rank": 11},
        {"_id": "mario", "rank": 5},
        {"_id": "yoshi", "rank": 6},
    ]
    assert answer.json["warning"] == NO_INDEX
    assert set(answer.json) == {"docs", "bookmark", "warning"}


async def test_whole_documents_come_as_they_are(games: Api) -> None:
    [doc] = (await find(games, {"_id": "link"})).json["docs"]
    assert doc == (await games.get("/db/link")).json


async def test_an_index_is_defined_by_a_design_document(api: Api) -> None:
    created = await index(api, "foo", {"bar": "asc"}, name="by-foo")
    assert created["result"] == "created"
    assert created["name"] == "by-foo"
    again = await index(api, "foo", {"bar": "asc"}, name="by-foo")
    assert again == {**created, "result": "exists"}
    design = (await api.get("/db/" + created["id"])).json
    assert design.pop("_rev").startswith("1-")
    assert design == {
        "_id": created["id"],
        "language": "query",
        "views": {
            "by-foo": {
                "map": {"fields": {"foo": "asc", "bar": "asc"}, "partial_filter_selector": {}},
                "reduce": "_count",
                "options": {"def": {"fields": ["foo", {"bar": "asc"}]}},
            }
        },
    }
    assert (await api.get("/db/_index")).json == {
        "total_rows": 2,
        "indexes": [
            {
                "ddoc": None,
                "name": "_all_docs",
                "type": "special",
                "def": {"fields": [{"_id": "asc"}]},
            },
            {
                "ddoc": created["id"],
                "name": "by-foo",
                "type": "json",
                "partitioned": False,
                "def": {"fields": [{"foo": "asc"}, {"bar": "asc"}]},
            },
        ],
    }


async def test_other_names_make_other_indexes(api: Api) -> None:
    one = await index(api, "foo", name="one")
    two = await index(api, "foo", name="two")
    assert one["id"] != two["id"]
    assert (await api.get("/db/_index?limit=1&skip=1")).json["total_rows"] == 3


async def test_indexes_share_a_design_document_and_are_deleted(api: Api) -> None:
    await index(api, "foo", ddoc="d", name="foo")
    await index(api, "bar", ddoc="_design/d", name="bar")
    listed = (await api.get("/db/_index")).json["indexes"]
    assert [each["name"] for each in listed] == ["_all_docs", "bar", "foo"]
    assert (await api.delete("/db/_index/_design/d/json/foo")).json == {"ok": True}
    assert list((await api.get("/db/_design/d")).json["views"]) == ["bar"]
    gone = await api.delete("/db/_index/_design/d/json/foo")
    assert gone.error == (404, "not_found", "missing")
    assert (await api.delete("/db/_index/_design%2Fd/json/bar")).json == {"ok": True}
    assert (await api.get("/db/_design/d")).error == (404, "not_found", "deleted")
    assert (await index(api, "foo", ddoc="d", name="foo"))["result"] == "created"


async def test_many_indexes_are_deleted_at_once(api: Api) -> None:
    await index(api, "foo", ddoc="a")
    await index(api, "bar", ddoc="b")
    answer = await api.post("/db/_index/_bulk_delete", {"docids": ["_design/a", "x", "b"]})
    assert answer.json == {
        "success": [{"id": "_design/b", "ok": True}, {"id": "_design/a", "ok": True}],
        "fail": [{"id": "_design/x", "error": "not_found"}],
    }


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, (400, "missing_required_key", "Missing required key: index")),
        ({"index": {}}, (400, "missing_required_key", "Missing required key: fields")),
        (
            {"index": {"fields": [{"foo": "desc"}, "bar"]}},
            (
                400,
                "unsupported_mixed_sort",
                "Sorts currently only support a single direction for all fields.",
            ),
        ),
        (
            {"index": {"fields": ["a"]}, "type": "text"},
            (503, "required index service unavailable", "text"),
        ),
        (
            {"index": {"fields": ["a"]}, "type": "geo"},
            (400, "invalid_index", "Invalid type for index: geo"),
        ),
        (
            {"index": [], "type": "json"},
            (400, "invalid_index", "JSON indexes must be an object, not: []"),
        ),
        (
            {"index": {"fields": ["a"]}, "ddoc": "js"},
            (400, "invalid_ddoc_lang", "Existing design doc has an invalid language: None"),
        ),
        (
            {"index": {"fields": ["a"]}, "x": 1},
            (400, "invalid_key", "Invalid key x for this request."),
        ),
    ],
)
async def test_bad_indexes_are_refused(
    api: Api, body: dict[str, Any], error: tuple[int, str, str]
) -> None:
    await api.put("/db/_design/js", {"views": {}})
    assert (await api.post("/db/_index", body)).error == error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "missing_required_key"),
        ({"selector": []}, "invalid_selector_json"),
        ({"selector": {"a": {"$mod": 1}}}, "bad_arg"),
        ({"selector": {}, "limit": -1}, "invalid_non_neg_integer"),
        ({"selector": {}, "limit": "1"}, "invalid_non_neg_integer"),
        ({"selector": {}, "skip": 1.5}, "invalid_non_neg_integer"),
        ({"selector": {}, "fields": "a"}, "invalid_fields"),
        ({"selector": {}, "fields": [1]}, "invalid_field"),
        ({"selector": {}, "sort": {}}, "invalid_sort_json"),
        ({"selector": {}, "sort": [{"a": "up"}]}, "invalid_sort_field"),
        ({"selector": {}, "sort": [{"a": "asc"}, {"b": "desc"}]}, "unsupported_mixed_sort"),
        ({"selector": {}, "sort": ["a"]}, "no_usable_index"),
        ({"selector": {}, "bookmark": "x!"}, "invalid_bookmark"),
        ({"selector": {}, "bookmark": "bnVsbA"}, "invalid_bookmark"),
        ({"selector": {}, "use_index": 1}, "invalid_index_name"),
        ({"selector": {}, "use_index": "x", "allow_fallback": False}, "invalid_index"),
        ({"selector": {}, "conflicts": 1}, "invalid_boolean"),
        ({"selector": {}, "unknown": 1}, "invalid_key"),
    ],
)
@pytest.mark.parametrize("path", ["_find", "_explain"])
async def test_bad_queries_are_refused(
    api: Api, path: str, body: dict[str, Any], error: str
) -> None:
    answer = await api.post(f"/db/{path}", body)
    assert answer.error[:2] == (400, error)


async def test_sorted_by_an_index_in_couchdbs_order(api: Api) -> None:
    await index(api, "foo")
    texts = ["AAA", "aAA", "BAA", "bAA", "\u0000aAA", "\u0001AAA"]
    docs = [{"_id": str(number), "foo": text} for number, text in enumerate(texts, start=1)]
    await api.post("/db/_bulk_docs", {"docs": docs})
    await api.write("7", foo=[1])
    await api.write("8", foo=None)
    await api.write("9", bar=1)
    selector = {"foo": {"$gt": "\u0000\u0000"}}
    expected = ["2", "5", "1", "6", "4", "3", "7"]
    assert await ids(api, selector, sort=["foo"]) == expected
    assert await ids(api, selector, sort=[{"foo": "desc"}]) == expected[::-1]
    assert await ids(api, {"foo": {"$lt": 0}}) == ["8"]


async def test_pages_by_bookmark_of_an_index_that_sqlite_does_not_have(api: Api) -> None:
    await index(api, "_attachments")
    for name in "abc":
        attachment = {"f": {"content_type": "text/plain", "data": "eA=="}}
        await api.put(f"/db/{name}", {"_attachments": attachment})
    selector = {"_attachments": {"$gt": None}}
    found, bookmark = [], "nil"
    while True:
        answer = (await find(api, selector, bookmark=bookmark, limit=2)).json
        if not answer["docs"]:
            break
        found += [doc["_id"] for doc in answer["docs"]]
        bookmark = answer["bookmark"]
    assert found == ["a", "b", "c"]


async def test_pages_by_bookmark_and_by_skip(games: Api) -> None:
    await index(games, "series", "rank")
    query: dict[str, Any] = {"sort": [{"series": "desc"}, {"rank": "desc"}], "limit": 2}
    selector = {"series": {"$gt": None}}
    expected = ["link", "puff", "luigi", "dk", "yoshi", "mario"]
    seen: list[str] = []
    bookmark = None
    for _ in range(3):
        answer = (await find(games, selector, bookmark=bookmark, **query)).json
        seen += [doc["_id"] for doc in answer["docs"]]
        bookmark = answer["bookmark"]
    assert seen == expected
    end = (await find(games, selector, bookmark=bookmark, **query)).json
    assert end == {"docs": [], "bookmark": bookmark}
    assert await ids(games, selector, skip=3, **query) == expected[3:5]
    assert (await find(games, {"series": "none"})).json["bookmark"] == "nil"
    other = await find(games, {"rank": 1}, bookmark=bookmark)
    assert other.error[:2] == (400, "invalid_bookmark")
    assert await ids(games, selector, limit=0) == []


async def test_the_default_limit_is_25(api: Api) -> None:
    await api.post("/db/_bulk_docs", {"docs": [{"n": n} for n in range(30)]})
    assert len(await ids(api, {"n": {"$gte": 0}})) == 25
    assert len(await ids(api, {"n": {"$gte": 0}}, limit=100)) == 30


async def test_long_answers_are_whole(api: Api) -> None:
    await api.post("/db/_bulk_docs", {"docs": [{"n": n, "text": "x" * 300} for n in range(3000)]})
    await index(api, "n")
    docs = (await find(api, {"n": {"$gte": 0}}, limit=10_000, sort=["n"])).json["docs"]
    assert [doc["n"] for doc in docs] == list(range(3000))


async def test_explain_names_the_index(games: Api) -> None:
    await index(games, "name", ddoc="one")
    await index(games, "name", "rank", ddoc="two", name="second")
    selector = {"name": "mario"}

    async def explained(**options: Any) -> dict[str, Any]:
        answer = await games.post("/db/_explain", {"selector": selector, **options})
        assert answer.status == 200
        return dict(answer.json)

    facts = await explained()
    assert facts["dbname"] == "db"
    assert facts["index"]["ddoc"] == "_design/one"
    assert facts["selector"] == {"name": {"$eq": "mario"}}
    assert facts["mrargs"]["start_key"] == ["mario"]
    assert facts["mrargs"]["end_key"] == ["mario", "<MAX>"]
    assert {each["index"]["ddoc"] for each in facts["index_candidates"]} == {None, "_design/two"}
    # `rank` need not exist, so the second index cannot have all documents.
    assert (await explained(use_index="two"))["index"]["ddoc"] == "_design/one"
    both = {"name": "mario", "rank": {"$gt": 1}}
    selector = both
    assert (await explained())["index"]["ddoc"] == "_design/two"
    named = await explained(use_index=["_design/two", "second"], fields=["_id"], skip=1)
    assert named["index"]["name"] == "second"
    assert (named["fields"], named["skip"], named["limit"]) == (["_id"], 1, 25)


async def test_an_index_that_cannot_be_used_is_named_in_the_warning(games: Api) -> None:
    await index(games, "name", ddoc="one")
    answer = (await find(games, {"rank": 5}, use_index="one")).json
    assert answer["warning"].split("\n") == [
        "_design/one was not used because it does not contain a valid index for this query.",
        NO_INDEX,
    ]
    named = (await find(games, {"name": "mario"}, use_index="two/x")).json
    assert named["warning"] == (
        "_design/two, x was not used because it is not a valid index for this query."
    )


async def test_a_partial_index_is_used_when_it_is_named(api: Api) -> None:
    await api.write("bookmark:1")
    await api.write("list:1")
    await index(
        api, "_id", ddoc="search", partial_filter_selector={"_id": {"$regex": "^bookmark:.+$"}}
    )
    assert await ids(api, {"_id": {"$gt": None}}) == ["bookmark:1", "list:1"]
    assert await ids(api, {"_id": {"$gt": None}}, use_index="search") == ["bookmark:1"]


async def test_deleted_and_design_documents_are_not_found(games: Api) -> None:
    rev = (await games.get("/db/mario")).json["_rev"]
    await games.delete(f"/db/mario?rev={rev}")
    await games.put("/db/_design/x", {"series": "mario"})
    assert await ids(games, {"series": "mario"}) == ["dk", "luigi", "yoshi"]
    await index(games, "series")
    assert await ids(games, {"series": "mario"}) == ["dk", "luigi", "yoshi"]


async def test_conflicts_and_statistics(api: Api) -> None:
    await api.graft("a", "1-a", n=1)
    await api.graft("a", "1-b", n=2)
    answer = (await find(api, {"n": 2}, conflicts=True, execution_stats=True)).json
    assert answer["docs"] == [{"_id": "a", "_rev": "1-b", "n": 2, "_conflicts": ["1-a"]}]
    stats = answer["execution_stats"]
    assert stats.pop("execution_time_ms") > 0
    assert stats == {
        "total_keys_examined": 0,
        "total_docs_examined": 1,
        "total_quorum_docs_examined": 0,
        "results_returned": 1,
    }
    assert await ids(api, {"$or": []}) == []


async def test_scanning_much_for_little_is_warned_of(api: Api) -> None:
    await api.post("/db/_bulk_docs", {"docs": [{"text": f"n{n}"} for n in range(20)]})
    answer = (await find(api, {"text": {"$regex": "^n7$"}})).json
    assert len(answer["docs"]) == 1
    assert "documents examined is high" in answer["warning"]


async def test_attachments_are_seen_as_stubs(api: Api) -> None:
    content = {"content_type": "text/plain", "data": "aGk="}
    await api.write("with", _attachments={"a.txt": content})
    await api.write("without")
    assert await ids(api, {"_attachments": {"$exists": True}}) == ["with"]
    [doc] = (await find(api, {"_id": "with"})).json["docs"]
    assert doc["_attachments"]["a.txt"]["stub"] is True
    selector = {"_attachments": {"a\\.txt": {"length": 2}}}
    assert await ids(api, selector) == ["with"]


async def test_the_changes_feed_filters_by_a_selector(games: Api) -> None:
    async def changed(selector: Any) -> Answer:
        return await games.post("/db/_changes?filter=_selector", {"selector": selector})

    rows = (await changed({"series": "mario", "rank": {"$gt": 5}})).json["results"]
    assert [row["id"] for row in rows] == ["dk", "luigi", "yoshi"]
    refused = (400, "bad_request", "Invalid operator: $x")
    assert (await changed({"a": {"$x": 1}})).error == refused
    refused = (400, "bad_request", "Selector error: expected a JSON object")
    assert (await changed("mario")).error == refused
    assert (await games.post("/db/_changes?filter=_selector", {})).error == refused
    refused = (400, "bad_request", "Selector must be specified in POST payload")
    assert (await games.get("/db/_changes?filter=_selector")).error == refused
    rev = (await games.get("/db/dk")).json["_rev"]
    await games.delete(f"/db/dk?rev={rev}")
    rows = (await changed({"_deleted": True})).json["results"]
    assert [row["id"] for row in rows] == ["dk"]


async def test_what_is_told_of_a_design_document(games: Api) -> None:
    async def told(ddoc: str) -> Any:
        return (await games.get(f"/db/{ddoc}/_info")).json

    await index(games, "rank", ddoc="search")
    before = await told("_design/search")
    assert before["name"] == "search"
    facts = before["view_index"]
    assert (facts["language"], facts["updates_pending"]["total"]) == ("query", 0)
    assert facts["update_seq"] == await games.update_seq()
    assert await told("_design%2Fsearch") == before
    await index(games, "name", ddoc="search")
    after = (await told("_design/search"))["view_index"]
    assert after["signature"] != facts["signature"]
    assert (await games.get("/db/_design/none/_info")).error == (404, "not_found", "missing")
    assert (await games.delete("/db/_design/search/_info")).status == 405


async def test_javascript_is_refused_with_what_to_use_instead(api: Api) -> None:
    script = "function () {}"
    await api.put(
        "/db/_design/js",
        {
            "views": {"v": {"map": script}},
            "shows": {"s": script},
            "lists": {"l": script},
            "updates": {"u": script},
            "filters": {"f": script},
            "rewrites": [],
        },
    )
    for path in ("_view/v", "_show/s/x", "_list/l/v", "_rewrite/x", "_update/u"):
        for url in (f"/db/_design/js/{path}", f"/db/_design%2Fjs/{path}"):
            for method in ("GET", "POST"):
                status, error, reason = (await api.request(method, url, json={})).error
                assert (status, error) == (501, "not_implemented")
                assert "_find" in reason
    assert (await api.post("/db/_temp_view", {})).error[:2] == (501, "not_implemented")
    filtered = await api.get("/db/_changes?filter=js/f")
    assert filtered.error[:2] == (501, "not_implemented")
    assert "_selector" in filtered.error[2]
    assert (await api.get("/db/_design/none/_view/v")).error == (404, "not_found", "missing")
    unknown = await api.get("/db/_design/js/_view/x")
    assert unknown.error == (404, "not_found", "missing_named_view")


async def test_wrong_methods_and_types(api: Api) -> None:
    assert (await api.get("/db/_find")).error == (405, "method_not_allowed", "Only POST allowed")
    assert (await api.request("POST", "/db/_find", data=b"{}")).status == 415
    assert (await api.get("/db/_index/_bulk_delete")).status == 405
    assert (await api.get("/db/_index/d/json/n")).status == 405
    assert (await api.get("/db/_index/d")).status == 404
    assert (await api.get("/db/_index?limit=0")).error[:2] == (500, "invalid_list_index_params")
