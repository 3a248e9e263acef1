"""Single documents: reading with all options, writing, deleting, tags."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.server.api import Api

CONFLICT = (409, "conflict", "Document update conflict.")
MISSING = (404, "not_found", "missing")
DELETED = (404, "not_found", "deleted")


async def test_life_of_a_document(api: Api) -> None:
    created = await api.put("/db/a", {"x": 1})
    rev = created.json["rev"]
    assert (created.status, created.json) == (201, {"ok": True, "id": "a", "rev": rev})
    assert created.headers["ETag"] == f'"{rev}"'
    assert created.headers["Location"] == f"{api.url}/db/a"
    assert (await api.get("/db/a")).json == {"_id": "a", "_rev": rev, "x": 1}
    second = (await api.put("/db/a", {"_rev": rev, "x": 2})).json["rev"]
    assert second.startswith("2-")
    gone = await api.delete(f"/db/a?rev={second}")
    assert gone.status == 200
    assert gone.json["rev"].startswith("3-")
    assert (await api.get("/db/a")).error == DELETED
    assert (await api.delete(f"/db/a?rev={second}")).error == DELETED
    again = (await api.put("/db/a", {"x": 3})).json["rev"]
    assert again.startswith("4-")


async def test_what_is_not_there(api: Api) -> None:
    assert (await api.get("/db/a")).error == MISSING
    assert (await api.get("/db/a?rev=1-a")).error == MISSING
    assert (await api.get("/db/a?open_revs=all")).error == MISSING
    assert (await api.delete("/db/a?rev=1-a")).error == MISSING
    assert (await api.get("/db/_nope")).error == MISSING
    await api.put("/db/a", {})
    assert (await api.get("/db/a?rev=1-a")).error == MISSING
    assert (await api.get("/db/a?rev=1-a&latest=true")).error == MISSING
    assert (await api.get("/db/a/file")).error == (
        404,
        "not_found",
        "Document is missing attachment",
    )


async def test_an_edit_must_name_the_current_revision(api: Api) -> None:
    rev = await api.write("a")
    assert (await api.put("/db/a", {})).error == CONFLICT
    assert (await api.put("/db/a", {"_rev": "1-abc"})).error == CONFLICT
    assert (await api.delete("/db/a")).error == CONFLICT
    assert (await api.delete("/db/a?rev=1-abc")).error == CONFLICT
    await api.write("a", _rev=rev)
    assert (await api.put("/db/a", {"_rev": rev})).error == CONFLICT
    assert (await api.put("/db/new", {"_rev": rev})).error == CONFLICT


@pytest.mark.parametrize("way", ["body", "query", "if-match", "quoted", "all"])
async def test_ways_to_name_the_revision(api: Api, way: str) -> None:
    rev = await api.write("a")
    body = {"_rev": rev} if way in ("body", "all") else {}
    query = f"?rev={rev}" if way in ("query", "all") else ""
    headers = {"If-Match": rev} if way == "if-match" else {}
    headers = {"If-Match": f'"{rev}"'} if way in ("quoted", "all") else headers
    answer = await api.put(f"/db/a{query}", body, headers=headers)
    assert answer.status == 201
    if not body:
        rev = answer.json["rev"]
        query = query and f"?rev={rev}"
        headers = headers and {"If-Match": rev}
        assert (await api.delete(f"/db/a{query}", headers=headers)).status == 200


async def test_revisions_that_differ_are_refused(api: Api) -> None:
    await api.write("a")
    answer = await api.put("/db/a?rev=1-a", {"_rev": "1-b"})
    assert answer.error[:2] == (400, "bad_request")
    answer = await api.put("/db/a", {"_rev": "1-b"}, headers={"If-Match": '"1-a"'})
    assert answer.error == (400, "bad_request", "Document rev and etag have different values")


async def test_etag(api: Api) -> None:
    rev = await api.write("a")
    assert (await api.get("/db/a")).headers["ETag"] == f'"{rev}"'
    same = await api.get("/db/a", headers={"If-None-Match": f'"{rev}"'})
    assert (same.status, same.text, same.headers["ETag"]) == (304, "", f'"{rev}"')
    for several in (f'W/"{rev}"', f'"x", W/"y,z" ,"{rev}"', "*"):
        assert (await api.get("/db/a", headers={"If-None-Match": several})).status == 304
    for other in (rev, f'"{rev}x"', f'"x{rev}"', '"*"', "W/*"):
        assert (await api.get("/db/a", headers={"If-None-Match": other})).status == 200
    second = await api.write("a", _rev=rev)
    assert (await api.get("/db/a", headers={"If-None-Match": f'"{rev}"'})).status == 200
    # These answers change without a new revision.
    for option in ("conflicts", "meta", "revs_info", "local_seq", "deleted_conflicts"):
        answer = await api.get(f"/db/a?{option}=true", headers={"If-None-Match": f'"{second}"'})
        assert (answer.status, "ETag" in answer.headers) == (200, False)


@pytest.mark.parametrize(
    "id",
    [
        "x/y",
        "_design/x",
        "_design/a/b",
        "ä ☃ 😀",
        "a+b c&d=e?f#g%h",
        "a\nb",
        "nul\0nul",
        "..",
        ".",
        '"quoted"\\',
        "a:b;c,d@e",
        "\u2028",
        "\ufeff",
        "x" * 2000,
    ],
)
async def test_ids_of_all_kinds(api: Api, id: str) -> None:
    path = f"/db/{quote(id, safe='')}"
    answer = await api.put(path, {"v": id})
    assert answer.status == 201, answer.text
    rev = answer.json["rev"]
    assert (await api.get(path)).json == {"_id": id, "_rev": rev, "v": id}
    [row] = (await api.get("/db/_all_docs?include_docs=true")).json["rows"]
    assert row == {"id": id, "key": id, "value": {"rev": rev}, "doc": {**row["doc"], "v": id}}
    [change] = (await api.get("/db/_changes")).json["results"]
    assert change["id"] == id
    [found] = (await api.post("/db/_bulk_get", {"docs": [{"id": id}]})).json["results"]
    assert found["docs"][0]["ok"]["v"] == id
    assert (await api.delete(f"{path}?rev={rev}")).status == 200


async def test_design_documents_may_have_a_plain_slash(api: Api) -> None:
    await api.put("/db/_design/x", {"views": {}})
    assert (await api.get("/db/_design%2Fx")).json["_id"] == "_design/x"
    assert (await api.get("/db/_design/x")).json["views"] == {}
    assert (await api.get("/db/_design/x/file")).error[2] == "Document is missing attachment"


async def test_post_takes_the_id_from_the_document_or_makes_one(api: Api) -> None:
    answer = await api.post("/db", {"_id": "a", "x": 1})
    assert (answer.status, answer.json["id"]) == (201, "a")
    made = (await api.post("/db", {"x": 2})).json
    assert len(made["id"]) == 32
    assert (await api.get(f"/db/{made['id']}")).json["x"] == 2
    assert (await api.post("/db", {"_id": "a"})).error == CONFLICT


async def test_a_tombstone_may_have_members(api: Api) -> None:
    rev = await api.write("a", x=1)
    answer = await api.put("/db/a", {"_rev": rev, "_deleted": True, "why": "old"})
    assert answer.status == 200
    gone = (await api.get(f"/db/a?rev={answer.json['rev']}")).json
    assert (gone["_deleted"], gone["why"]) == (True, "old")


async def test_bodies_come_back_as_they_were(api: Api) -> None:
    body: dict[str, Any] = {
        "z": [1, -2, 2.5, 1e300, 12345678901234567890123, True, False, None],
        "a": {"": {}, "ä": '☃😀\0\n"\\/', "list": [[], [[]]]},
    }
    await api.put("/db/a", body)
    answer = (await api.get("/db/a")).json
    assert {name: answer[name] for name in body} == body
    assert [name for name in answer if not name.startswith("_")] == list(body)


async def test_the_same_edit_makes_the_same_revision(api: Api) -> None:
    await api.put("/other")
    one = await api.write("a", x=1, y=[2.5])
    assert await api.write("a", db="other", y=[2.5], x=1) == one


# --- reading a tree --------------------------------------------------------------------


@pytest.fixture
async def tree(api: Api) -> Api:
    """`a`: 1-x, then 2-a with 3-a, 2-b and the deleted 2-c with 3-c."""
    await api.graft("a", "3-a", "2-a", "1-x", v="3a")
    await api.graft("a", "2-b", "1-x", v="2b")
    await api.graft("a", "3-c", "2-c", "1-x", _deleted=True)
    return api


async def test_the_winner_with_its_history(tree: Api) -> None:
    assert (await tree.get("/db/a?revs=true")).json == {
        "_id": "a",
        "_rev": "3-a",
        "_revisions": {"start": 3, "ids": ["a", "a", "x"]},
        "v": "3a",
    }


async def test_conflicts(tree: Api) -> None:
    assert (await tree.get("/db/a?conflicts=true")).json["_conflicts"] == ["2-b"]
    deleted = (await tree.get("/db/a?deleted_conflicts=true")).json
    assert deleted["_deleted_conflicts"] == ["3-c"]
    assert "_conflicts" not in deleted
    await tree.write("single")
    single = (await tree.get("/db/single?conflicts=true&deleted_conflicts=true")).json
    assert set(single) == {"_id", "_rev"}


async def test_meta(tree: Api) -> None:
    doc = (await tree.get("/db/a?meta=true")).json
    assert doc["_conflicts"] == ["2-b"]
    assert doc["_deleted_conflicts"] == ["3-c"]
    assert [entry["rev"] for entry in doc["_revs_info"]] == ["3-a", "2-a", "1-x"]


async def test_revs_info_tells_what_can_be_read(api: Api) -> None:
    first = await api.write("a", v=1)
    second = await api.write("a", _rev=first, _deleted=True)
    third = await api.write("a", v=3)
    info = (await api.get("/db/a?revs_info=true")).json["_revs_info"]
    assert [entry["rev"] for entry in info] == [third, second, first]
    assert [entry["status"] for entry in info][:2] == ["available", "deleted"]
    readable = (await api.get(f"/db/a?rev={first}")).status == 200
    assert info[2]["status"] == ("available" if readable else "missing")


async def test_local_seq(tree: Api) -> None:
    seq = await tree.update_seq()
    assert (await tree.get("/db/a?local_seq=true")).json["_local_seq"] == seq


async def test_one_revision(tree: Api) -> None:
    doc = (await tree.get("/db/a?rev=2-b&revs=true")).json
    assert doc["v"] == "2b"
    assert doc["_revisions"] == {"start": 2, "ids": ["b", "x"]}
    gone = (await tree.get("/db/a?rev=3-c")).json
    assert gone == {"_id": "a", "_rev": "3-c", "_deleted": True}


async def test_latest_goes_on_to_the_leaf(tree: Api) -> None:
    assert (await tree.get("/db/a?rev=2-a&latest=true")).json["_rev"] == "3-a"
    assert (await tree.get("/db/a?rev=2-b&latest=true")).json["_rev"] == "2-b"
    assert (await tree.get("/db/a?rev=1-x&latest=true")).json["_rev"] == "3-a"


async def test_open_revs_all(tree: Api) -> None:
    found = (await tree.get("/db/a?open_revs=all&revs=true")).json
    assert [entry["ok"]["_rev"] for entry in found] == ["3-a", "2-b", "3-c"]
    assert found[1]["ok"]["_revisions"]["ids"] == ["b", "x"]
    assert found[2]["ok"]["_deleted"] is True


async def test_open_revs_of_a_list(tree: Api) -> None:
    revs = quote('["2-b","9-z","3-a"]')
    found = (await tree.get(f"/db/a?open_revs={revs}")).json
    assert found == [
        {"ok": {"_id": "a", "_rev": "2-b", "v": "2b"}},
        {"missing": "9-z"},
        {"ok": {"_id": "a", "_rev": "3-a", "v": "3a"}},
    ]
    assert (await tree.get(f"/db/nope?open_revs={revs}")).json == [
        {"missing": rev} for rev in ("2-b", "9-z", "3-a")
    ]
    assert (await tree.get("/db/a?open_revs=[]")).json == []


async def test_open_revs_latest(tree: Api) -> None:
    revs = quote('["1-x","2-a","9-z"]')
    found = (await tree.get(f"/db/a?open_revs={revs}&latest=true")).json
    assert [entry.get("missing") or entry["ok"]["_rev"] for entry in found] == [
        "3-a",
        "2-b",
        "3-c",
        "9-z",
    ]


async def test_open_revs_as_multipart_for_couchdbs_replicator(tree: Api) -> None:
    revs = quote('["2-b","9-z"]')
    answer = await tree.get(
        f"/db/a?open_revs={revs}&revs=true", headers={"Accept": "multipart/mixed"}
    )
    kind, _, boundary = answer.headers["Content-Type"].partition("; boundary=")
    assert kind == "multipart/mixed"
    start, found, missing, end = answer.text.split(f"--{boundary.strip(chr(34))}")
    assert (start, end) == ("", "--")
    assert found.startswith("\r\nContent-Type: application/json\r\n\r\n{")
    assert '"_revisions":{"start":2,"ids":["b","x"]}' in found
    assert missing == (
        '\r\nContent-Type: application/json; error="true"\r\n\r\n{"missing":"9-z"}\r\n'
    )


@pytest.mark.parametrize("value", ["x", "{}", "1", '"all"', "[1]", '["x"]', "", "[", '["1-a"'])
async def test_bad_open_revs(tree: Api, value: str) -> None:
    assert (await tree.get(f"/db/a?open_revs={quote(value)}")).error[:2] == (400, "bad_request")


# --- new_edits=false -------------------------------------------------------------------


async def test_a_revision_as_it_is(api: Api) -> None:
    doc = {"_revisions": {"start": 3, "ids": ["c", "b", "a"]}, "x": 1}
    for _ in range(2):
        answer = await api.put("/db/a?new_edits=false", {"_id": "a", "_rev": "3-c", **doc})
        assert (answer.status, answer.json) == (201, {"ok": True, "id": "a", "rev": "3-c"})
    assert (await api.get("/db/a?revs=true")).json == {"_id": "a", "_rev": "3-c", **doc}
    assert await api.update_seq() == 1


async def test_the_revision_of_a_replicated_document_may_be_in_the_query(api: Api) -> None:
    assert (await api.put("/db/a?new_edits=false&rev=2-b", {})).json["rev"] == "2-b"


async def test_a_replicated_document_needs_a_revision(api: Api) -> None:
    assert (await api.put("/db/a?new_edits=false", {})).error == (
        400,
        "bad_request",
        "When `new_edits: false`, the document needs `_rev` or `_revisions` specified",
    )


@pytest.mark.parametrize("body", [None, [], "text", 5])
async def test_a_document_is_an_object(api: Api, body: Any) -> None:
    text = json.dumps(body).encode()
    plain = {"data": text, "headers": {"Content-Type": "application/json"}}
    part = b"--x\r\n\r\n%b\r\n--x--" % text
    multipart = {"data": part, "headers": {"Content-Type": "multipart/related; boundary=x"}}
    for answer in (
        await api.request("PUT", "/db/a", **plain),
        await api.request("PUT", "/db/a", **multipart),
        await api.request("PUT", "/db/_local/a", **plain),
        await api.request("POST", "/db", **plain),
        await api.post("/db/_bulk_docs", {"docs": [body]}),
        await api.post("/db/_bulk_docs", {"docs": [body], "new_edits": False}),
    ):
        assert answer.error == (400, "bad_request", "Document must be a JSON object")
