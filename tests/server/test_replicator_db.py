"""The database `_replicator` and `_scheduler/docs`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.peers.local import DatabasePeer
from agent.replication import manager
from tests.patience import until
from tests.peers.pouchdb_server import PouchDBServer
from tests.server.api import Api
from tests.server.replicating import agent, fill, ids

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "MISSING_WAIT", 0.1)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Api]:
    async with agent(tmp_path / "hub") as api:
        await fill(api, "one", {"_id": "a", "type": "x"}, {"_id": "b"})
        yield api


async def doc_in_state(hub: Api, id: str, state: str) -> Any:
    """The entry of a document in `_scheduler/docs`, once it has that state."""

    async def reached() -> Any:
        answer = await hub.get(f"/_scheduler/docs/_replicator/{id}")
        return answer.status == 200 and answer.json["state"] == state and answer.json

    return await until(reached)


async def put(hub: Api, id: str, **members: Any) -> str:
    """Write a document of `_replicator`; returns its revision."""
    answer = await hub.put(f"/_replicator/{id}", members)
    assert answer.status == 201, answer.text
    rev: str = answer.json["rev"]
    return rev


async def test_there_is_none_until_it_is_used(hub: Api) -> None:
    assert (await hub.get("/_all_dbs")).json == ["one"]
    assert (await hub.get("/_replicator")).status == 404
    assert (await hub.get("/_scheduler/docs")).json == {"total_rows": 0, "offset": 0, "docs": []}
    await put(hub, "r", source="one", target="two", create_target=True)
    assert "_replicator" in (await hub.get("/_all_dbs")).json
    assert (await hub.put("/_replicator")).status == 412


async def test_a_replication_that_is_completed(hub: Api) -> None:
    await put(hub, "r", source="one", target="two", create_target=True, note="mine")
    entry = await doc_in_state(hub, "r", "completed")
    assert await ids(hub, "two") == ["a", "b"]
    doc = (await hub.get("/_replicator/r")).json
    assert doc["note"] == "mine"
    assert doc["_replication_state"] == "completed"
    assert TIME.fullmatch(doc["_replication_state_time"])
    stats = doc["_replication_stats"]
    assert TIME.fullmatch(stats.pop("start_time"))
    assert stats == {
        "revisions_checked": 2,
        "missing_revisions_found": 2,
        "docs_read": 2,
        "docs_written": 2,
        "changes_pending": 0,
        "doc_write_failures": 0,
        "checkpointed_source_seq": 2,
    }
    assert doc["_rev"].startswith("2-")
    assert (entry["database"], entry["doc_id"], entry["error_count"]) == ("_replicator", "r", 0)
    assert (entry["source"], entry["target"]) == ("one", "two")
    assert entry["info"]["docs_written"] == 2
    assert (await hub.get("/_scheduler/jobs")).json["jobs"] == []


async def test_a_document_that_cannot_be_done_is_failed(hub: Api) -> None:
    await put(hub, "js", source="http://u:secret@h/one", target="two", filter="app/mine")
    await put(hub, "half", source="one")
    entry = await doc_in_state(hub, "js", "failed")
    assert "selector" in entry["info"]["error"]
    assert entry["source"] == "http://h/one/"
    assert "secret" not in str(entry)
    doc = (await hub.get("/_replicator/js")).json
    assert doc["_replication_state"] == "failed"
    assert "JavaScript" in doc["_replication_state_reason"]
    await doc_in_state(hub, "half", "failed")


async def test_continuous_until_the_document_is_deleted(hub: Api) -> None:
    rev = await put(hub, "c", source="one", target="two", create_target=True, continuous=True)
    await doc_in_state(hub, "c", "running")
    [job] = (await hub.get("/_scheduler/jobs")).json["jobs"]
    assert (job["database"], job["doc_id"]) == ("_replicator", "c")
    [task] = (await hub.get("/_active_tasks")).json
    assert (task["database"], task["doc_id"]) == ("_replicator", "c")
    await fill(hub, "one", {"_id": "later"})

    async def arrived() -> bool:
        return "later" in await ids(hub, "two")

    await until(arrived)
    assert (await hub.get("/_replicator/c")).json["_rev"] == rev  # no state is written meanwhile
    await hub.delete(f"/_replicator/c?rev={rev}")

    async def stopped() -> bool:
        return (await hub.get("/_active_tasks")).json == []

    await until(stopped)
    assert (await hub.get("/_scheduler/docs")).json["docs"] == []


async def test_an_edit_starts_it_anew(hub: Api) -> None:
    common = {"source": "one", "create_target": True, "continuous": True}
    rev = await put(hub, "c", target="two", **common)
    first = await doc_in_state(hub, "c", "running")
    rev = await put(hub, "c", _rev=rev, target="two", note="nothing that counts", **common)
    await put(hub, "later", source="one", target="two", create_target=True)
    await doc_in_state(hub, "later", "completed")  # so the edit before it was seen, too
    assert (await hub.get("/_scheduler/docs/_replicator/c")).json["pid"] == first["pid"]
    await put(hub, "c", _rev=rev, target="three", **common)

    async def moved() -> Any:
        entry = (await hub.get("/_scheduler/docs/_replicator/c")).json
        return entry["target"] == "three" and entry

    entry = await until(moved)
    assert entry["pid"] != first["pid"]

    async def copied() -> bool:
        return len(await ids(hub, "three")) == 2

    await until(copied)
    assert len((await hub.get("/_scheduler/jobs")).json["jobs"]) == 1


async def test_a_completed_document_runs_again_once_its_state_is_taken_out(hub: Api) -> None:
    await put(hub, "r", source="one", target="two", create_target=True)
    await doc_in_state(hub, "r", "completed")
    await fill(hub, "one", {"_id": "later"})
    doc = (await hub.get("/_replicator/r")).json
    again = {name: value for name, value in doc.items() if not name.startswith("_replication")}
    await hub.put("/_replicator/r", again)

    async def arrived() -> bool:
        return "later" in await ids(hub, "two")

    await until(arrived)


async def test_what_crashes_goes_on_once_it_can(hub: Api) -> None:
    await put(hub, "w", source="missing", target="two", create_target=True)
    entry = await doc_in_state(hub, "w", "crashing")
    assert entry["error_count"] >= 1
    assert "missing" in entry["info"]["error"]
    assert "_replication_state" not in (await hub.get("/_replicator/w")).json
    await fill(hub, "missing", {"_id": "found"})
    await doc_in_state(hub, "w", "completed")
    assert await ids(hub, "two") == ["found"]


async def test_what_fails_unexpectedly_is_crashing_until_it_is_started_again(
    hub: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = True
    revs_diff = DatabasePeer.revs_diff

    async def fails(self: DatabasePeer, *arguments: Any) -> Any:
        if failing:
            raise ZeroDivisionError("a secret")
        return await revs_diff(self, *arguments)

    monkeypatch.setattr(DatabasePeer, "revs_diff", fails)
    await put(hub, "w", source="one", target="two", create_target=True)
    entry = await doc_in_state(hub, "w", "crashing")
    assert entry["error_count"] == 1
    assert "ZeroDivisionError" in entry["info"]["error"]
    assert "secret" not in str(entry)
    [job] = (await hub.get("/_scheduler/jobs")).json["jobs"]
    assert job["history"][0]["type"] == "crashed"
    assert (await hub.get("/_active_tasks")).json == []
    failing = False
    await doc_in_state(hub, "w", "completed")
    assert await ids(hub, "two") == ["a", "b"]


async def test_two_documents_for_one_replication(hub: Api) -> None:
    same = {"source": "one", "target": "two", "create_target": True, "continuous": True}
    await put(hub, "first", **same)
    await doc_in_state(hub, "first", "running")
    await put(hub, "second", **same)
    entry = await doc_in_state(hub, "second", "failed")
    assert "`first`" in entry["info"]["error"]


async def test_states_limit_and_skip(hub: Api) -> None:
    for number in range(3):
        await put(hub, f"r{number}", source="one", target=f"t{number}", create_target=True)
        await doc_in_state(hub, f"r{number}", "completed")
    await put(hub, "bad", source="one")
    await put(hub, "_design/d", language="query")
    await doc_in_state(hub, "bad", "failed")
    docs = (await hub.get("/_scheduler/docs?states=completed&limit=1&skip=1")).json
    assert (docs["total_rows"], docs["offset"]) == (3, 1)
    assert [doc["doc_id"] for doc in docs["docs"]] == ["r1"]
    docs = (await hub.get("/_scheduler/docs/_replicator")).json["docs"]
    assert [doc["doc_id"] for doc in docs] == ["bad", "r0", "r1", "r2"]
    assert (await hub.get("/_scheduler/docs?states=nonsense")).status == 400
    assert (await hub.get("/_scheduler/docs?limit=x")).status == 400
    assert (await hub.get("/_scheduler/docs/_replicator/none")).status == 404
    assert (await hub.get("/_scheduler/none")).status == 404


async def test_deleting_the_database_stops_all(hub: Api) -> None:
    same = {"source": "one", "target": "two", "create_target": True, "continuous": True}
    await put(hub, "c", **same)
    await doc_in_state(hub, "c", "running")
    await hub.delete("/_replicator")

    async def stopped() -> bool:
        return (await hub.get("/_scheduler/jobs")).json["jobs"] == []

    await until(stopped)
    await put(hub, "c", **same)
    await doc_in_state(hub, "c", "running")


async def test_a_restart(tmp_path: Path) -> None:
    async with agent(tmp_path) as hub:
        await fill(hub, "one", {"_id": "a"})
        await put(hub, "once", source="one", target="two", create_target=True)
        await doc_in_state(hub, "once", "completed")
        await put(hub, "live", source="one", target="three", create_target=True, continuous=True)
        await doc_in_state(hub, "live", "running")
    async with agent(tmp_path) as hub:
        await fill(hub, "one", {"_id": "later"})

        async def arrived() -> bool:
            return "later" in await ids(hub, "three")

        await until(arrived)
        assert await ids(hub, "two") == ["a"]  # what is completed is left alone
        await doc_in_state(hub, "once", "completed")


async def test_with_pouchdb_server(hub: Api, shared_pouchdb_server: PouchDBServer) -> None:
    there = f"{shared_pouchdb_server.url}/replicator-db"
    await put(hub, "push", source="one", target=there, create_target=True)
    await doc_in_state(hub, "push", "completed")
    await put(
        hub, "pull", source=there, target="back", create_target=True, continuous=True, doc_ids=["a"]
    )

    async def arrived() -> bool:
        return await ids(hub, "back") == ["a"]

    await until(arrived)
