"""The normal changes feed and its options."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api import Api, number_in, numbered


async def changes(api: Api, query: str = "") -> Any:
    answer = await api.get(f"/db/_changes{query}")
    assert answer.status == 200, answer.text
    return numbered(answer.json)


async def test_an_empty_database(api: Api) -> None:
    assert await changes(api) == {"results": [], "last_seq": 0, "pending": 0}


async def test_each_document_is_there_once_at_its_last_change(api: Api) -> None:
    first = await api.write("a")
    await api.write("b")
    rev = await api.write("a", _rev=first, _deleted=True)
    body = await changes(api)
    assert [row["id"] for row in body["results"]] == ["b", "a"]
    assert body["results"][1] == {"seq": 3, "id": "a", "changes": [{"rev": rev}], "deleted": True}
    assert "deleted" not in body["results"][0]
    assert (body["last_seq"], body["pending"]) == (3, 0)


async def test_since(api: Api) -> None:
    for id in ("a", "b", "c"):
        await api.write(id)
    for since in ("1", '"1"', "%221%22"):
        body = await changes(api, f"?since={since}")
        assert [row["id"] for row in body["results"]] == ["b", "c"]
    assert (await changes(api, "?since=now")) == {"results": [], "last_seq": 3, "pending": 0}
    assert (await changes(api, "?since=3"))["last_seq"] == 3


async def test_sequences_are_strings_that_are_taken_back(api: Api) -> None:
    for id in ("a", "b", "c"):
        await api.write(id)
    body = (await api.get("/db/_changes")).json
    first, second, third = (row["seq"] for row in body["results"])
    assert body["last_seq"] == third == (await api.get("/db")).json["update_seq"]
    [entry] = (await api.get("/_dbs_info")).json
    assert entry["info"]["update_seq"] == third
    for since in (first, f'"{first}"', f"%22{first}%22"):
        body = (await api.get(f"/db/_changes?since={since}")).json
        assert [row["seq"] for row in body["results"]] == [second, third]
    assert (await changes(api, f"?since={third}"))["results"] == []


async def test_a_sequence_of_a_former_database_starts_from_the_beginning(api: Api) -> None:
    for id in ("a", "b", "c"):
        await api.write(id)
    former = [row["seq"] for row in (await api.get("/db/_changes")).json["results"]]
    await api.delete("/db")
    await api.put("/db")
    await api.write("new")
    couchdbs = "3-g1AAAACLeJzLYWBgYMpgTmHgz8tPSTV0MDQy1zMAQsMckEQiQ1L9____sxKZ8KlJcgCSSfVgZYz4"
    for since in (*former, "3", couchdbs):
        body = await changes(api, f"?since={since}")
        assert [row["id"] for row in body["results"]] == ["new"]
        assert body["last_seq"] == 1


@pytest.mark.parametrize(
    "since",
    [
        *("x", "-1", "1.5", "1-abc", "{}", "[1]", "null", "99999999999999999999", ""),
        *("1-", "1-0123abcd-", "-0123abcd", "x-0123abcd", "1-0123ABCD", "1-0123abcd5"),
    ],
)
async def test_sequences_that_are_none(api: Api, since: str) -> None:
    answer = await api.get(f"/db/_changes?since={since}")
    assert answer.error[:2] == (400, "bad_request")


async def test_limit_and_pending(api: Api) -> None:
    for number in range(10):
        await api.write(str(number))
    body = await changes(api, "?limit=3")
    assert [row["id"] for row in body["results"]] == ["0", "1", "2"]
    assert (body["last_seq"], body["pending"]) == (3, 7)
    body = await changes(api, "?limit=3&since=7")
    assert (body["last_seq"], body["pending"]) == (10, 0)
    assert len((await changes(api, "?limit=0"))["results"]) == 1


async def test_descending(api: Api) -> None:
    for number in range(5):
        await api.write(str(number))
    body = await changes(api, "?descending=true&limit=2")
    assert [row["id"] for row in body["results"]] == ["4", "3"]
    for feed in ("normal", "longpoll"):
        body = await changes(api, f"?descending=true&feed={feed}")
        assert [row["seq"] for row in body["results"]] == [5, 4, 3, 2, 1]


async def test_style(api: Api) -> None:
    await api.graft("a", "2-a", "1-x")
    await api.graft("a", "2-b", "1-x")
    await api.graft("a", "3-c", "2-c", _deleted=True)
    [row] = (await changes(api))["results"]
    assert row["changes"] == [{"rev": "2-b"}]
    [row] = (await changes(api, "?style=all_docs"))["results"]
    assert row["changes"] == [{"rev": "2-b"}, {"rev": "2-a"}, {"rev": "3-c"}]
    assert (await api.get("/db/_changes?style=x")).status == 400


async def test_include_docs(api: Api) -> None:
    await api.graft("a", "1-a", v=1)
    await api.graft("a", "1-b", v=2)
    await api.graft("gone", "2-g", "1-g", _deleted=True, why="old")
    one, gone = (await changes(api, "?include_docs=true"))["results"]
    assert one["doc"] == {"_id": "a", "_rev": "1-b", "v": 2}
    assert gone["doc"] == {"_id": "gone", "_rev": "2-g", "_deleted": True, "why": "old"}
    one, gone = (await changes(api, "?include_docs=true&conflicts=true"))["results"]
    assert one["doc"]["_conflicts"] == ["1-a"]
    assert "_conflicts" not in gone["doc"]


@pytest.mark.parametrize("query", ["", "?include_docs=true", "?filter=_doc_ids"])
@pytest.mark.parametrize("descending", ["", "&descending=true"])
async def test_more_rows_than_a_page(api: Api, query: str, descending: str) -> None:
    ids = [str(number) for number in range(2500)]
    await api.post("/db/_bulk_docs", {"docs": [{"_id": id, "v": "x" * 100} for id in ids]})
    separator = "&" if query else "?"
    answer = await api.post(
        f"/db/_changes{query}{separator}limit=2200{descending}", {"doc_ids": ids}
    )
    rows = answer.json["results"]
    expected = (ids[::-1] if descending else ids)[:2200]
    assert [row["id"] for row in rows] == expected
    assert answer.json["last_seq"] == rows[-1]["seq"]
    if not descending:
        assert answer.json["pending"] == 300


async def test_filter_by_ids(api: Api) -> None:
    for id in ("a", "b", "c", "d"):
        await api.write(id)
    answer = await api.post("/db/_changes?filter=_doc_ids", {"doc_ids": ["b", "nope"]})
    assert [row["id"] for row in answer.json["results"]] == ["b"]
    assert number_in(answer.json["last_seq"]) == 4
    answer = await api.post("/db/_changes?filter=_doc_ids&limit=1", {"doc_ids": ["b", "d"]})
    assert (number_in(answer.json["last_seq"]), answer.json["pending"]) == (2, 2)


async def test_filter_by_ids_in_the_query(api: Api) -> None:
    for id in ("a", "b", "c"):
        await api.write(id)
    path = "?filter=_doc_ids&doc_ids=%5B%22c%22,%22a%22%5D"
    body = await changes(api, path)
    assert [row["id"] for row in body["results"]] == ["a", "c"]
    body = await changes(api, path + "&descending=true&limit=1")
    assert [row["id"] for row in body["results"]] == ["c"]
    body = await changes(api, path + "&since=1")
    assert ([row["id"] for row in body["results"]], body["last_seq"]) == (["c"], 3)


async def test_a_few_ids_are_found_among_many(api: Api) -> None:
    docs = [{"_id": str(number)} for number in range(2100)]
    await api.post("/db/_bulk_docs", {"docs": docs})
    ids = [str(number) for number in range(0, 2100, 21)]
    for some in (ids, [*ids, "1"]):  # a hundred are looked up, for more the feed is read
        answer = await api.post("/db/_changes?filter=_doc_ids", {"doc_ids": some})
        rows = answer.json["results"]
        assert [row["id"] for row in rows] == sorted(some, key=int)
        assert number_in(answer.json["last_seq"]) == 2100


async def test_seq_interval(api: Api) -> None:
    for id in ("a", "b", "c", "d", "e"):
        await api.write(id)
    body = await changes(api, "?seq_interval=2")
    assert [row["seq"] for row in body["results"]] == [None, 2, None, 4, None]
    assert body["last_seq"] == 5
    body = await changes(api, "?seq_interval=x")
    assert [row["seq"] for row in body["results"]] == [1, 2, 3, 4, 5]


async def test_last_event_id_is_another_word_for_since(api: Api) -> None:
    await api.write("a")
    await api.write("b")
    first = (await api.get("/db/_changes?limit=1")).json["last_seq"]
    for last in ("1", first):
        body = await changes(api, f"?last-event-id={last}")
        assert [row["id"] for row in body["results"]] == ["b"]


async def test_filter_of_design_documents(api: Api) -> None:
    await api.write("a")
    await api.write("_design/d")
    [row] = (await changes(api, "?filter=_design"))["results"]
    assert row["id"] == "_design/d"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("d/f", 501),
        ("d/none", 404),
        ("d/f/f", 400),
        ("e/f", 404),
        ("_view", 400),
        ("_view&view=x", 400),
        ("_view&view=d/v", 501),
        ("_view&view=d/none", 404),
        ("nope", 400),
        ("_doc_ids", 400),
        ("_doc_ids&doc_ids=[1]", 400),
    ],
)
async def test_other_filters(api: Api, name: str, status: int) -> None:
    await api.write("_design/d", filters={"f": "function(){}"}, views={"v": {"map": ""}})
    assert (await api.post(f"/db/_changes?filter={name}", {})).error[0] == status


async def test_post_without_a_body(api: Api) -> None:
    await api.write("a")
    answer = await api.request("POST", "/db/_changes", headers={"Content-Type": "application/json"})
    assert [row["id"] for row in answer.json["results"]] == ["a"]


@pytest.mark.parametrize(
    "query",
    [
        "feed=x",
        "limit=x",
        "limit=-1",
        "timeout=x",
        "heartbeat=x",
        "heartbeat=0",
        "heartbeat=-5",
    ],
)
async def test_bad_options(api: Api, query: str) -> None:
    assert (await api.get(f"/db/_changes?{query}")).error[0] == 400
