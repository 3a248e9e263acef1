"""The real PouchDB and pouchdb-server replicating with this agent's server."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from agent.server import bodies
from tests.patience import PATIENCE, until
from tests.peers.pouch import Pouch, PouchDatabase, PouchError
from tests.peers.pouchdb_server import PouchDBServer
from tests.server.api import Api, number_in, running

Leaves = list[dict[str, Any]]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Api]:
    """The agent's server, with the empty database `db`."""
    async with running(tmp_path / "agent") as api:
        await api.put("/db")
        yield api


@pytest.fixture
async def local(pouch: Pouch) -> PouchDatabase:
    """A PouchDB database in memory."""
    return await pouch.open("local")


def remote(agent: Api) -> str:
    return f"{agent.url}/db"


def in_order(leaves: Leaves) -> Leaves:
    return sorted((leaf["ok"] for leaf in leaves), key=lambda doc: str(doc["_rev"]))


async def trees_of_agent(agent: Api, *, path: str = "/db") -> dict[str, Leaves]:
    """Every leaf of every document with its history; the winner's revision comes first."""
    trees = {}
    for row in (await agent.get(f"{path}/_changes?style=all_docs")).json["results"]:
        id = row["id"]
        leaves = await agent.get(f"{path}/{quote(id, safe='')}?open_revs=all&revs=true")
        trees[id] = [{"winner": row["changes"][0]["rev"]}, *in_order(leaves.json)]
    return trees


async def trees_of_pouch(db: PouchDatabase) -> dict[str, Leaves]:
    trees = {}
    for row in (await db.changes(style="main_only"))["results"]:
        leaves: Any = await db.get(row["id"], open_revs="all", revs=True)
        trees[row["id"]] = [{"winner": row["changes"][0]["rev"]}, *in_order(leaves)]
    return trees


async def settled(agent: Api, db: PouchDatabase) -> dict[str, Leaves]:
    """Both sides are the same, down to the last revision; returns what they are."""
    trees = await trees_of_agent(agent)
    assert await trees_of_pouch(db) == trees
    return trees


# --- PouchDB replicates ----------------------------------------------------------------


async def test_push_and_pull_of_many_documents(agent: Api, local: PouchDatabase) -> None:
    docs = [{"_id": f"p{number}", "ä": ["☃", number, None]} for number in range(450)]
    await local.bulk_docs(docs)
    pushed = await local.replicate_to(remote(agent))
    assert (pushed["ok"], pushed["docs_written"]) == (True, 450)
    docs = [{"_id": f"a/{number}", "v": number} for number in range(450)]
    await agent.post("/db/_bulk_docs", {"docs": docs})
    pulled = await local.replicate_from(remote(agent))
    assert (pulled["ok"], pulled["doc_write_failures"]) == (True, 0)
    assert len(await settled(agent, local)) == 900


async def test_conflicts_have_the_same_winner_on_both_sides(
    agent: Api, local: PouchDatabase
) -> None:
    first = await local.put({"_id": "x", "v": 0})
    await local.replicate_to(remote(agent))
    await local.put({"_id": "x", "v": "pouch", "_rev": first["rev"]})
    await agent.write("x", v="agent", _rev=first["rev"])
    long = await agent.write("y", v=1)
    await agent.write("y", v=2, _rev=long)
    await local.put({"_id": "y", "v": "short"})
    for _ in range(2):
        await local.sync(remote(agent))
    trees = await settled(agent, local)
    assert len(trees["x"]) == len(trees["y"]) == 3  # the winner's revision, and two leaves
    assert (await agent.get("/db/y")).json["v"] == 2
    doc = (await agent.get("/db/x?conflicts=true")).json
    assert {doc["v"], (await local.get("x", rev=doc["_conflicts"][0]))["v"]} == {"pouch", "agent"}


async def test_resolving_a_conflict_reaches_the_other_side(
    agent: Api, local: PouchDatabase
) -> None:
    await local.put({"_id": "x", "v": "pouch"})
    await agent.write("x", v="agent")
    await local.sync(remote(agent))
    doc = await local.get("x", conflicts=True)
    await local.remove("x", doc["_conflicts"][0])
    await local.sync(remote(agent))
    await settled(agent, local)
    assert "_conflicts" not in (await agent.get("/db/x?conflicts=true")).json


async def test_tombstones_go_both_ways(agent: Api, local: PouchDatabase) -> None:
    one = await local.put({"_id": "one"})
    two = await local.put({"_id": "two"})
    await local.sync(remote(agent))
    await local.remove("one", one["rev"])
    await agent.delete(f"/db/two?rev={two['rev']}")
    await local.sync(remote(agent))
    await settled(agent, local)
    assert (await local.all_docs())["rows"] == []
    assert (await agent.get("/db/one")).error == (404, "not_found", "deleted")
    await agent.put("/db/one", {"again": True})
    await local.sync(remote(agent))
    await settled(agent, local)
    assert (await local.get("one"))["again"] is True


async def test_checkpoints_are_kept_on_both_sides_and_save_the_second_time(
    agent: Api, local: PouchDatabase
) -> None:
    await local.bulk_docs([{"_id": str(number)} for number in range(20)])
    for replicate, direction in ((local.replicate_to, "to"), (local.replicate_from, "from")):
        first = await replicate(remote(agent))
        assert first["docs_read"] == (20 if direction == "to" else 0)
        checkpoint = await local.checkpoint(remote(agent), direction)
        here, there = checkpoint["local"], checkpoint["remote"]
        assert here["session_id"] == there["session_id"]
        assert here["last_seq"] == there["last_seq"] == first["last_seq"]
        again = await replicate(remote(agent))
        assert (again["docs_read"], again["last_seq"]) == (0, first["last_seq"])


async def test_a_database_that_was_recreated_is_replicated_anew(
    agent: Api, local: PouchDatabase
) -> None:
    await local.bulk_docs([{"_id": str(number)} for number in range(5)])
    await local.sync(remote(agent))
    await agent.delete("/db")
    await agent.put("/db")
    await agent.write("new")
    await local.sync(remote(agent))
    assert len(await settled(agent, local)) == 6


async def test_live_sync_in_both_directions(agent: Api, local: PouchDatabase) -> None:
    live = await local.live(remote(agent), retry=True)
    await asyncio.wait_for(live.wait_for("paused"), PATIENCE)
    for number in range(3):
        await agent.write(f"agent{number}")
        await local.put({"_id": f"pouch{number}"})
        await asyncio.sleep(0.1)

    async def equal() -> bool:
        trees = await trees_of_agent(agent)
        return len(trees) == 6 and trees == await trees_of_pouch(local)

    await until(equal)
    await live.stop()


async def test_live_sync_goes_on_when_there_is_room_again(
    agent: Api, local: PouchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await local.live(remote(agent), retry=True)
    await asyncio.wait_for(live.wait_for("paused"), PATIENCE)
    with monkeypatch.context() as full:
        full.setattr(bodies, "_HELD", 0)
        await local.put({"_id": "a"})
        for _ in range(3):  # it is refused, and tries again
            await asyncio.wait_for(live.wait_for("active"), PATIENCE)
        assert not await agent_has(agent, "a")
    await until(lambda: agent_has(agent, "a"))
    await live.stop()


async def agent_has(agent: Api, id: str) -> bool:
    return (await agent.get(f"/db/{id}")).status == 200


async def test_live_sync_goes_on_after_a_restart_of_the_agent(
    tmp_path: Path, pouch: Pouch, local: PouchDatabase, free_port: int
) -> None:
    folder = tmp_path / "agent"
    async with running(folder, port=free_port) as agent:
        await agent.put("/db")
        live = await local.live(remote(agent), retry=True)
        await asyncio.wait_for(live.wait_for("paused"), PATIENCE)
        await agent.write("a")
    await local.put({"_id": "b"})
    async with running(folder, port=free_port) as agent:

        async def equal() -> bool:
            trees = await trees_of_agent(agent)
            return len(trees) == 2 and trees == await trees_of_pouch(local)

        await until(equal)
        await live.stop()
        pouch.forgive_outages()


async def test_selected_documents(agent: Api, local: PouchDatabase) -> None:
    for id in ("a", "b", "c"):
        await agent.write(id)
    await local.replicate_from(remote(agent), doc_ids=["a", "c"])
    assert [row["id"] for row in (await local.all_docs())["rows"]] == ["a", "c"]


async def test_attachments_go_both_ways(agent: Api, local: PouchDatabase) -> None:
    content = bytes(range(256)) * 1000
    await local.put_attachment("x", "all bytes/ä.bin", content, "application/octet-stream")
    await local.replicate_to(remote(agent))
    async with agent.open("GET", "/db/x/all%20bytes/%C3%A4.bin") as answer:
        assert await answer.read() == content
    text = b"text " * 1000
    rev = (await agent.get("/db/x")).json["_rev"]
    headers = {"Content-Type": "text/plain"}
    written = await agent.request("PUT", f"/db/x/b.txt?rev={rev}", data=text, headers=headers)
    assert written.status == 201
    await local.replicate_from(remote(agent))
    assert await local.get_attachment("x", "b.txt") == text
    assert await local.get_attachment("x", "all bytes/ä.bin") == content
    here, there = await local.get("x"), (await agent.get("/db/x")).json
    assert here["_rev"] == there["_rev"]
    told = there["_attachments"]
    assert {name: (each["revpos"], each["length"]) for name, each in told.items()} == {
        "all bytes/ä.bin": (1, len(content)),
        "b.txt": (2, len(text)),
    }
    for name, each in here["_attachments"].items():
        assert (each["digest"], each["length"]) == (told[name]["digest"], told[name]["length"])
    # PouchDB stores it decoded, and has another digest then.
    headers["Content-Encoding"] = "gzip"
    await agent.request("PUT", "/db/y/z", data=gzip.compress(text), headers=headers)
    await local.replicate_from(remote(agent))
    assert await local.get_attachment("y", "z") == text


# --- PouchDB as a client ---------------------------------------------------------------


async def test_pouchdb_as_a_client(agent: Api, pouch: Pouch) -> None:
    db = await pouch.open_remote(f"{agent.url}/made%2Fby-pouch")
    info = await db.info()
    assert (info["db_name"], number_in(info["update_seq"])) == ("made/by-pouch", 0)
    created = await db.put({"_id": "ä/☃", "v": 1})
    assert (await db.get("ä/☃", revs=True))["_revisions"]["start"] == 1
    with pytest.raises(PouchError) as conflict:
        await db.put({"_id": "ä/☃"})
    assert (conflict.value.status, conflict.value.name) == (409, "conflict")
    with pytest.raises(PouchError) as missing:
        await db.get("nope")
    assert (missing.value.status, missing.value.reason) == (404, "missing")
    await db.put({"_id": "_local/l", "v": 2})
    assert (await db.get("_local/l"))["v"] == 2
    [result] = await db.bulk_docs([{"_id": "b"}])
    assert result["ok"] is True
    await db.remove("ä/☃", created["rev"])
    rows = (await db.all_docs(keys=["b", "ä/☃", "c"]))["rows"]
    assert [row.get("error") or row["value"].get("deleted", False) for row in rows] == [
        False,
        True,
        "not_found",
    ]
    assert [row["id"] for row in (await db.changes())["results"]] == ["b", "ä/☃"]
    assert await db.revs_diff({"b": [result["rev"], "2-x"]}) == {
        "b": {"missing": ["2-x"], "possible_ancestors": [result["rev"]]}
    }
    found = await db.open_revs("b")
    assert found[0]["ok"]["_rev"] == result["rev"]
    await db.destroy()
    assert (await agent.get("/made%2Fby-pouch")).status == 404


# --- pouchdb-server replicates ---------------------------------------------------------


async def replicate(server: PouchDBServer, source: str, target: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{server.url}/_replicate",
            json={"source": source, "target": target, "create_target": True},
        ) as answer,
    ):
        result: dict[str, Any] = json.loads(await answer.text())
        assert answer.status == 200, result
        return result


async def trees_of_server(url: str) -> dict[str, Leaves]:
    headers = {"Accept": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def get(path: str) -> Any:
            async with session.get(aiohttp.client.URL(url + path, encoded=True)) as answer:
                return json.loads(await answer.text())

        trees = {}
        for row in (await get("/_changes"))["results"]:
            leaves = await get(f"/{quote(row['id'], safe='')}?open_revs=all&revs=true")
            trees[row["id"]] = [{"winner": row["changes"][0]["rev"]}, *in_order(leaves)]
        return trees


async def test_pouchdb_server_replicates_from_and_to_the_agent(
    agent: Api, shared_pouchdb_server: PouchDBServer
) -> None:
    server = shared_pouchdb_server
    await agent.post("/db/_bulk_docs", {"docs": [{"_id": f"d{n}", "v": n} for n in range(250)]})
    await agent.graft("x", "2-a", "1-x", v="a")
    await agent.graft("x", "2-b", "1-x", v="b")
    await agent.graft("gone", "2-g", "1-f", _deleted=True)
    other = f"{server.url}/with-agent"
    assert (await replicate(server, remote(agent), other))["ok"] is True
    trees = await trees_of_agent(agent)
    assert len(trees) == 252
    assert await trees_of_server(other) == trees

    back = f"{agent.url}/back"
    assert (await replicate(server, other, back))["docs_written"] == 253
    assert await trees_of_agent(agent, path="/back") == trees
    assert (await replicate(server, other, back)).get("docs_written", 0) == 0
