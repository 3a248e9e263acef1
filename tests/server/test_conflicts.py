"""`_conflicts`, `_resolve` and `_resolutions`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from agent.documents.conflict import Conflict
from tests.server.accounts import auth, guarded
from tests.server.api import Api, running


async def conflict(api: Api, id: str = "a", *, db: str = "db", **members: Any) -> list[str]:
    """Two edits of the same revision, both with `members`; returns the leaves, the winner first."""
    base = await api.write(id, db=db, v=0)
    for side in ("b", "c"):
        await api.graft(id, f"2-{side}", base, db=db, v=side, **members)
    return ["2-c", "2-b"]


async def resolved(api: Api, status: int = 201, **asked: Any) -> Any:
    answer = await api.post("/db/_resolve", asked)
    assert answer.status == status, answer.text
    return answer.json


async def leaves(api: Api, id: str = "a") -> list[dict[str, Any]]:
    """All leaves, tombstones among them."""
    found = (await api.get(f"/db/{id}?open_revs=all")).json
    return [entry["ok"] for entry in found]


async def test_conflicts_are_listed_with_their_leaves_and_the_base(api: Api) -> None:
    await conflict(api)
    await api.graft("a", "2-d", "1-x", _deleted=True)
    await api.write("b")
    listed = (await api.get("/db/_conflicts?include_docs=true")).json
    [row] = listed["rows"]
    assert (listed["total"], listed["next"]) == (1, None)
    base = row.pop("base")
    assert base.pop("_rev").startswith("1-")
    assert base == {"_id": "a", "v": 0}
    assert row.pop("leaves") == [
        {"_id": "a", "_rev": "2-c", "v": "c"},
        {"_id": "a", "_rev": "2-b", "v": "b"},
    ]
    assert row == {
        "id": "a",
        "revs": ["2-c", "2-b"],
        "fields": ["v"],
        "differences": 1,
        "policy": None,
        "state": "waiting",
        "reason": None,
    }
    [short] = (await api.get("/db/_conflicts")).json["rows"]
    assert short == row


async def test_one_conflict_alone(api: Api) -> None:
    for id in ("a", "b", "c"):
        await conflict(api, id)
    await api.write("peaceful")
    await api.put("/empty")
    found = (await api.get('/db/_conflicts?key="b"&include_docs=true')).json
    assert (found["total"], found["next"]) == (3, None)
    [row] = found["rows"]
    assert (row["id"], row["base"]["v"]) == ("b", 0)
    for id in ("peaceful", "nobody", ""):
        assert (await api.get(f'/db/_conflicts?key="{id}"')).json["rows"] == []


async def test_fields_in_which_versions_differ_are_named_as_far_as_there_is_room(api: Api) -> None:
    base = await api.write("a")
    members = {f"f{number:02}": number for number in range(30)}
    await api.graft("a", "2-b", base, same=1, **members)
    await api.graft("a", "2-c", base, same=1, **{"x.y": {"z": 1}})
    [row] = (await api.get("/db/_conflicts")).json["rows"]
    assert row["fields"] == [r"x\.y.z", *sorted(members)[:9]]
    assert row["differences"] == 31


async def test_an_answer_with_large_documents_ends_early(api: Api) -> None:
    """And says where to go on; without the documents there is no need to."""
    ids = [f"d{number}" for number in range(7)]
    for id in ids:
        await conflict(api, id, large="x" * 1_000_000)
    found, start = [], ids[0]
    while start is not None:
        options = f'include_docs=true&start_key="{start}"'
        page = (await api.get(f"/db/_conflicts?{options}")).json
        found.append([row["id"] for row in page["rows"]])
        start = page["next"]
    assert found == [ids[:5], ids[5:]]
    listed = (await api.get("/db/_conflicts")).json
    assert [row["id"] for row in listed["rows"]] == ids


async def test_without_a_common_ancestor_or_its_body_there_is_no_base(api: Api) -> None:
    await api.graft("a", "1-x")
    await api.graft("a", "1-y")
    await api.graft("b", "2-x", "1-a")
    await api.graft("b", "2-y", "1-a")
    rows = (await api.get("/db/_conflicts?include_docs=true")).json["rows"]
    assert [row["base"] for row in rows] == [None, None]


async def test_pages_of_conflicts_by_id(api: Api) -> None:
    ids = [f"d{number:03}" for number in range(130)]
    for id in reversed(ids):
        await api.graft(id, "1-x")
        await api.graft(id, "1-y")
    assert [row["id"] for row in (await api.get("/db/_conflicts")).json["rows"]] == ids[:100]
    page = (await api.get('/db/_conflicts?limit=120&start_key="d010"')).json
    assert (page["total"], [row["id"] for row in page["rows"]]) == (130, ids[10:])
    assert page["next"] is None
    nothing = {"total": 130, "rows": [], "next": ids[0]}
    assert (await api.get("/db/_conflicts?limit=0")).json == nothing
    page = (await api.get("/db/_conflicts?limit=60")).json
    assert ([row["id"] for row in page["rows"]], page["next"]) == (ids[:60], ids[60])


@pytest.mark.parametrize("query", ["limit=1001", "limit=-1", "start_key=1", "start_key=x", "key=1"])
async def test_bad_questions(api: Api, query: str) -> None:
    assert (await api.get(f"/db/_conflicts?{query}")).status == 400


async def test_one_is_chosen(api: Api) -> None:
    [winner, loser] = await conflict(api)
    done = await resolved(api, id="a", leaves=[loser, winner], choose=winner)
    assert done == {"ok": True, "id": "a", "rev": winner}
    assert (await api.get("/db/_conflicts")).json == {"total": 0, "rows": [], "next": None}
    [kept, ended] = await leaves(api)
    assert (kept["_rev"], kept["v"]) == (winner, "c")
    assert ended["_deleted"] is True
    assert ended["resolved_to"] == winner


async def test_the_loser_is_chosen(api: Api) -> None:
    """Its body wins; its branch ends all the same, so that no two sides end both branches."""
    [winner, loser] = await conflict(api)
    done = await resolved(api, id="a", leaves=[winner, loser], choose=loser)
    assert (await api.get("/db/a?revs=true")).json | {"_revisions": 0} == {
        "_id": "a",
        "_rev": done["rev"],
        "_revisions": 0,
        "v": "b",
    }
    [_, ended] = await leaves(api)
    assert ended["resolved_to"] == done["rev"]
    assert ended["_rev"].startswith("3-")


async def test_a_body_is_written(api: Api) -> None:
    seen = await conflict(api)
    done = await resolved(api, id="a", leaves=seen, doc={"v": "both", "_id": "a", "_rev": "2-c"})
    assert (await api.get("/db/a?conflicts=true")).json == {
        "_id": "a",
        "_rev": done["rev"],
        "v": "both",
    }
    feed = (await api.get("/db/_changes?style=all_docs&conflicts=true&include_docs=true")).json
    assert feed["results"][0]["doc"] == {"_id": "a", "_rev": done["rev"], "v": "both"}


async def test_the_document_is_deleted(api: Api) -> None:
    seen = await conflict(api)
    done = await resolved(api, id="a", leaves=seen, doc=None)
    assert done["rev"].startswith("3-")
    assert (await api.get("/db/a")).error == (404, "not_found", "deleted")
    assert all(leaf["_deleted"] for leaf in await leaves(api))


async def test_the_same_resolution_elsewhere_is_the_same_revision(api: Api) -> None:
    await api.put("/other")
    for db in ("db", "other"):
        await conflict(api, db=db)
        asked = {"id": "a", "leaves": ["2-b", "2-c"], "doc": {"v": "both"}}
        assert (await api.post(f"/{db}/_resolve", asked)).status == 201
    one, other = [(await api.get(f"/{db}/a?open_revs=all")).json for db in ("db", "other")]
    assert one == other


async def test_a_resolution_that_was_overtaken_is_refused(api: Api) -> None:
    [winner, loser] = await conflict(api)
    newer = await api.write("a", _rev=winner, v="newer")
    before = await api.update_seq()
    answer = await resolved(api, 409, id="a", leaves=[winner, loser], choose=winner)
    assert answer["error"] == "conflict"
    assert answer["leaves"] == [newer, loser]
    assert answer["changes"] == [{"seen": winner, "leaf": newer, "deleted": False, "fields": ["v"]}]
    assert f'{winner} became {newer} (v: "c" → "newer")' in answer["reason"]
    assert await api.update_seq() == before
    assert (await api.get("/db/_resolutions")).json == {"rows": []}
    await resolved(api, id="a", leaves=answer["leaves"], choose=loser)
    again = await resolved(api, 409, id="a", leaves=answer["leaves"], choose=loser)
    assert len(again["leaves"]) == 1
    assert f"{loser} was resolved into {again['leaves'][0]}" in again["reason"]
    await api.delete(f"/db/a?rev={again['leaves'][0]}")
    gone = await resolved(api, 409, id="a", leaves=again["leaves"], doc={})
    assert gone["leaves"] == []
    assert f"{again['leaves'][0]} was deleted" in gone["reason"]


async def test_who_is_overtaken_by_another_side_is_told_of_it(api: Api) -> None:
    seen = await conflict(api)
    [row] = (await api.get("/db/_conflicts?include_docs=true")).json["rows"]
    base = row["base"]["_rev"]
    await api.graft("a", "2-d", base, v="d")
    answer = await resolved(api, 409, id="a", leaves=seen, choose=seen[0])
    assert answer["changes"] == []
    assert "new: 2-d" in answer["reason"]


async def test_what_has_changed_is_told_of_hostile_fields_and_purged_revisions(api: Api) -> None:
    seen = await conflict(api)
    long = {"a\n.b": "\n" + 90 * "x", **{f"f{number}": number for number in range(9)}}
    newer = await api.write("a", _rev=seen[0], **long)
    reason = (await resolved(api, 409, id="a", leaves=seen, doc={}))["reason"]
    assert "\n" not in reason
    assert r"a \.b: none → " in reason
    assert "5 more)" in reason
    assert len(reason) < 600
    await api.post("/db/_purge", {"a": [seen[1], newer]})
    gone = await resolved(api, 404, id="a", leaves=seen, doc={})
    assert gone["error"] == "not_found"


async def test_of_many_who_resolve_at_once_one_does(api: Api) -> None:
    seen = await conflict(api)
    asked = [{"id": "a", "leaves": seen, "doc": {"v": number}} for number in range(8)]
    answers = await asyncio.gather(*(api.post("/db/_resolve", each) for each in asked))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert len((await api.get("/db/_resolutions")).json["rows"]) == 1


STUB = {"n": {"stub": True}}


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 400),
        ({"id": "a"}, 400),
        ({"id": "a", "leaves": [], "doc": {}}, 400),
        ({"id": "a", "leaves": ["x"], "doc": {}}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"]}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"], "doc": {}, "choose": "2-b"}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"], "choose": "2-d"}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"], "doc": []}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"], "doc": {"_x": 1}}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"], "doc": {"_deleted": True}}, 400),
        ({"id": "a", "leaves": ["2-b", "2-c"], "doc": {"_attachments": STUB}}, 412),
        ({"id": "nobody", "leaves": ["2-b"], "doc": {}}, 404),
    ],
)  # fmt: skip
async def test_bad_resolutions(api: Api, asked: dict[str, Any], status: int) -> None:
    await conflict(api)
    before = await api.update_seq()
    answer = await api.post("/db/_resolve", asked)
    assert answer.status == status, answer.text
    assert await api.update_seq() == before


async def test_a_body_that_is_too_large_or_too_deep(api: Api) -> None:
    seen = await conflict(api)
    for body, status in (({"x": "y" * 8_000_001}, 413), (deep(501), 400)):
        asked = json.dumps({"id": "a", "leaves": seen, "doc": body}).encode()
        headers = {"Content-Type": "application/json"}
        answer = await api.request("POST", "/db/_resolve", data=io.BytesIO(asked), headers=headers)
        assert answer.status == status, answer.text
    assert (await api.get("/db/_conflicts")).json["total"] == 1


def deep(levels: int) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for _ in range(levels):
        body = {"a": body}
    return body


def attached(**contents: bytes) -> dict[str, Any]:
    return {
        name: {"content_type": "text/plain", "data": base64.b64encode(data).decode()}
        for name, data in contents.items()
    }


async def test_attachments_of_both_sides_are_kept_unless_somebody_says_otherwise(api: Api) -> None:
    for id in ("a", "b"):
        base = await api.write(id)
        await api.graft(id, "2-b", base, _attachments=attached(same=b"b", one=b"1"))
        await api.graft(id, "2-c", base, _attachments=attached(same=b"c", two=b"2"))
    await resolved(api, id="a", leaves=["2-b", "2-c"], doc={"v": 1})
    for name, content in (("same", "c"), ("one", "1"), ("two", "2")):
        assert (await api.get(f"/db/a/{name}")).text == content
    stubs = {"one": {"stub": True, "content_type": "text/plain"}}
    await resolved(api, id="b", leaves=["2-b", "2-c"], doc={"_attachments": stubs})
    assert list((await api.get("/db/b")).json["_attachments"]) == ["one"]
    await api.post("/db/_compact")
    assert (await api.get("/db/b/one")).text == "1"


async def test_attachments_of_versions_that_are_not_shown_are_kept_too(api: Api) -> None:
    base = await api.write("a")
    for number in range(40):
        text = f"{number:02}"
        await api.graft(
            "a", f"2-{text}", base, _attachments=attached(**{f"n{text}": text.encode()})
        )
    [row] = (await api.get("/db/_conflicts?include_docs=true")).json["rows"]
    assert len(row["leaves"]) == 32
    await resolved(api, id="a", leaves=row["revs"], doc={"v": 1})
    await api.post("/db/_compact")
    assert len((await api.get("/db/a")).json["_attachments"]) == 40
    assert (await api.get("/db/a/n00")).text == "00"  # of the least of them


async def test_each_resolution_is_on_record(tmp_path: Path) -> None:
    async with guarded(tmp_path) as api:
        login = auth("mia")
        for id in ("a", "b"):
            docs = [
                {"_id": id, "_rev": rev, "_revisions": {"start": 2, "ids": [rev[2:], "a"]}}
                for rev in ("2-b", "2-c")
            ]
            body = {"docs": docs, "new_edits": False}
            await api.post("/db/_bulk_docs", body, **login)
            asked = {"id": id, "leaves": ["2-b", "2-c"], "choose": "2-c"}
            assert (await api.post("/db/_resolve", asked, **login)).status == 201
        [first, second] = (await api.get("/db/_resolutions", **login)).json["rows"]
        time = first.pop("time")
        assert time.endswith("Z")
        assert first == {
            "id": "a",
            "rev": "2-c",
            "leaves": ["2-c", "2-b"],
            "base": None,
            "by": "user mia",
            "number": 1,
        }
        newest = (await api.get("/db/_resolutions?limit=1&descending=true", **login)).json["rows"]
        assert newest == [second]
        before = await api.get("/db/_resolutions?after=2&descending=true", **login)
        assert [row["id"] for row in before.json["rows"]] == ["a"]
        for path in ("_conflicts", "_resolutions"):
            assert (await api.get(f"/db/{path}")).status == 401
        assert (await api.post("/db/_resolve", {})).status == 401
        assert (await api.post("/db/_resolve", {}, **auth("otto"))).status == 403
        design = {"id": "_design/x", "leaves": ["2-b"], "choose": "2-b"}
        assert (await api.post("/db/_resolve", design, **login)).status == 403


async def test_what_policies_say_is_shown(tmp_path: Path) -> None:
    class Policies:
        def outlook(self, database: str, conflict: Conflict) -> tuple[str, str, str]:
            return f"p-{database}", "undecided", f"{conflict.id} is difficult"

    async with running(tmp_path, outlooks=Policies()) as api:
        await api.put("/db")
        await conflict(api)
        [row] = (await api.get("/db/_conflicts")).json["rows"]
    shown = (row["policy"], row["state"], row["reason"])
    assert shown == ("p-db", "undecided", "a is difficult")
