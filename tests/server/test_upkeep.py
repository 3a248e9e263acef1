"""What is done to a database as a whole: limits, purging, compaction."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE, until
from tests.server.api import Api, number_in, numbered, running


async def test_revs_limit_is_kept_and_used(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.put("/db")
        assert (await api.get("/db/_revs_limit")).json == 1000
        assert (await api.request("PUT", "/db/_revs_limit", data="2")).json == {"ok": True}
        await edits(api, 4)
        doc = (await api.get("/db/a?revs=true")).json
        assert (doc["_revisions"]["start"], len(doc["_revisions"]["ids"])) == (4, 2)
    async with running(tmp_path) as api:
        assert (await api.get("/db/_revs_limit")).json == 2
        await edits(api, 1, rev=doc["_rev"])
        assert len((await api.get("/db/a?revs=true")).json["_revisions"]["ids"]) == 2


@pytest.mark.parametrize("path", ["/db/_revs_limit", "/db/_purged_infos_limit"])
async def test_limits_are_positive_integers(api: Api, path: str) -> None:
    for body in ("0", "-1", "1.5", "true", '"2"', "null", "9999999999999999999"):
        answer = await api.request("PUT", path, data=body)
        assert answer.error[:2] == (400, "bad_request"), body
        assert "must be positive integer" in answer.error[2]
        assert (await api.get(path)).json == 1000


async def test_purged_infos_limit(api: Api) -> None:
    assert (await api.request("PUT", "/db/_purged_infos_limit", data="5")).json == {"ok": True}
    assert (await api.get("/db/_purged_infos_limit")).json == 5


async def edits(api: Api, count: int, *, rev: str | None = None, size: int = 0) -> list[str]:
    """Edit document `a` so many times; returns the revisions."""
    revs = []
    for number in range(count):
        members: dict[str, Any] = {"n": number, "text": "x" * size}
        if rev is not None:
            members["_rev"] = rev
        rev = await api.write("a", **members)
        revs.append(rev)
    return revs


# --- purging ---------------------------------------------------------------------------


async def test_a_purged_document_was_never_there(api: Api) -> None:
    rev = await api.write("a")
    await api.write("b")
    answer = await api.post("/db/_purge", {"a": [rev, "9-none"], "none": ["1-a"]})
    assert (answer.status, answer.json) == (
        201,
        {"purge_seq": None, "purged": {"a": [rev], "none": []}},
    )
    assert (await api.get("/db/a")).error == (404, "not_found", "missing")
    assert [row["id"] for row in (await api.get("/db/_changes")).json["results"]] == ["b"]
    info = (await api.get("/db")).json
    assert (info["doc_count"], info["doc_del_count"], info["purge_seq"]) == (1, 0, 1)
    assert await api.write("a") == rev  # as if for the first time


async def test_sequences_are_not_used_twice_after_a_purge(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.put("/db")
        revs = [await api.write(id) for id in ("a", "b")]
        await api.post("/db/_purge", {"a": [revs[0]], "b": [revs[1]]})
        assert await api.update_seq() == 2
        assert numbered((await api.get("/db/_changes")).json) == {
            "results": [],
            "last_seq": 2,
            "pending": 0,
        }
    async with running(tmp_path) as api:
        assert await api.update_seq() == 2
        await api.write("c")
        [row] = (await api.get("/db/_changes?since=2")).json["results"]
        assert (row["id"], number_in(row["seq"])) == ("c", 3)


async def test_a_follower_behind_a_purge_waits_as_others_do(api: Api) -> None:
    rev = await api.write("a")
    await api.post("/db/_purge", {"a": [rev]})
    path = "/db/_changes?feed=longpoll&since=0"
    feed = asyncio.ensure_future(api.get(path))
    await asyncio.sleep(0.1)
    assert not feed.done()
    await api.write("b")
    answer = await asyncio.wait_for(feed, PATIENCE)
    assert [row["id"] for row in answer.json["results"]] == ["b"]


async def test_purging_the_winner_leaves_the_other_branch(api: Api) -> None:
    await api.graft("a", "2-b", "1-a", v="b")
    await api.graft("a", "3-d", "2-c", "1-a", v="d")
    answer = await api.post("/db/_purge", {"a": ["3-d", "1-a"]})  # 1-a is no leaf
    assert answer.json["purged"] == {"a": ["3-d"]}
    doc = (await api.get("/db/a?revs=true&conflicts=true")).json
    assert (doc["_rev"], doc["v"], doc["_revisions"]["ids"]) == ("2-b", "b", ["b", "a"])
    assert "_conflicts" not in doc
    assert (await api.get("/db/a?rev=2-c")).status == 404
    [row] = (await api.get("/db/_changes?since=2")).json["results"]
    assert (number_in(row["seq"]), row["changes"]) == (3, [{"rev": "2-b"}])
    assert (await api.get("/db")).json["doc_count"] == 1


async def test_purging_what_lost_leaves_the_winner(api: Api) -> None:
    await api.graft("a", "1-a", v="a")
    await api.graft("a", "1-b", v="b", _deleted=True)
    assert (await api.post("/db/_purge", {"a": ["1-b"]})).json["purged"] == {"a": ["1-b"]}
    doc = (await api.get("/db/a?deleted_conflicts=true")).json
    assert (doc["_rev"], doc["v"], "_deleted_conflicts" in doc) == ("1-a", "a", False)
    assert (await api.get("/db/a?rev=1-b")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"a": "1-a"},
        {"a": [1]},
        {"a": ["x"]},
        {str(number): ["1-a"] for number in range(101)},
        {"a": [f"1-{number}" for number in range(1001)]},
    ],
)
async def test_bad_purges(api: Api, body: Any) -> None:
    assert (await api.post("/db/_purge", body)).error[:2] == (400, "bad_request")


# --- compaction ------------------------------------------------------------------------


async def test_compaction_drops_old_bodies_and_shrinks_the_file(api: Api, tmp_path: Path) -> None:
    revs = await edits(api, 30, size=20_000)
    await api.graft("a", "30-b", "29-c", "28-d", v="conflict")
    path = tmp_path / "db.sqlite"
    before = (await api.get("/db")).json["sizes"]
    answer = await api.post("/db/_compact", {})
    assert (answer.status, answer.json) == (202, {"ok": True})

    async def compacted() -> Any:
        info = (await api.get("/db")).json
        return None if info["compact_running"] else info

    info = await until(compacted)
    assert before["file"] > 500_000 > 10 * 20_000 > info["sizes"]["file"]
    assert path.stat().st_size == info["sizes"]["file"]
    doc = (await api.get("/db/a?revs_info=true&conflicts=true")).json
    assert (doc["_rev"], doc["n"]) == (revs[-1], 29)
    assert [entry["status"] for entry in doc["_revs_info"]] == ["available"] + ["missing"] * 29
    [conflict] = doc["_conflicts"]
    assert (await api.get(f"/db/a?rev={conflict}")).json["v"] == "conflict"
    assert (await api.get(f"/db/a?rev={revs[0]}")).error == (404, "not_found", "missing")


async def test_there_are_no_view_files_to_compact(api: Api) -> None:
    await api.write("_design/d")
    done = (202, {"ok": True})
    for path in ("/db/_compact/d", "/db/_view_cleanup"):
        answer = await api.post(path, {})
        assert (answer.status, answer.json) == done
    assert (await api.post("/db/_compact/none", {})).error == (404, "not_found", "missing")
    assert (await api.request("POST", "/db/_compact", data="{}")).status == 415
