"""The rig's PouchDB client and server, against each other."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.patience import PATIENCE, until
from tests.peers.pouch import Pouch, PouchError
from tests.peers.pouchdb_server import PouchDBServer
from tests.peers.stand_ins import Serve


async def test_client_reads_and_writes_documents(pouch: Pouch) -> None:
    db = await pouch.open("local")
    first = await db.put({"_id": "a", "n": 1})
    second = await db.put({"_id": "a", "n": 2, "_rev": first["rev"]})
    await db.bulk_docs([{"_id": "b"}, {"_id": "c"}])
    removed = await db.remove("c", (await db.get("c"))["_rev"])

    document = await db.get("a", revs=True)
    assert document["n"] == 2
    assert document["_revisions"]["start"] == 2
    assert [row["id"] for row in (await db.all_docs())["rows"]] == ["a", "b"]
    changes = (await db.changes(include_docs=True))["results"]
    assert {change["id"]: change["changes"][0]["rev"] for change in changes} == {
        "a": second["rev"],
        "b": (await db.get("b"))["_rev"],
        "c": removed["rev"],
    }
    assert (await db.info())["doc_count"] == 2


async def test_client_tells_why_it_refuses(pouch: Pouch) -> None:
    db = await pouch.open("local")
    await db.put({"_id": "a"})
    with pytest.raises(PouchError, match="conflict") as conflict:
        await db.put({"_id": "a"})
    assert conflict.value.status == 409
    with pytest.raises(PouchError) as missing:
        await db.get("b")
    assert missing.value.status == 404


async def test_client_keeps_both_sides_of_a_conflict(pouch: Pouch) -> None:
    db = await pouch.open("local")
    for digit in "ab":
        revision = {"_id": "x", "_rev": f"1-{digit * 32}", "side": digit}
        assert await db.bulk_docs([revision], new_edits=False) == []

    document = await db.get("x", conflicts=True)
    assert (document["side"], document["_conflicts"]) == ("b", ["1-" + "a" * 32])
    leaves = await db.open_revs("x")
    assert {leaf["ok"]["side"] for leaf in leaves} == {"a", "b"}
    assert await db.revs_diff({"x": ["1-" + "a" * 32, "2-c"]}) == {"x": {"missing": ["2-c"]}}
    found = await db.bulk_get([{"id": "x", "rev": "1-" + "a" * 32}])
    assert found["results"][0]["docs"][0]["ok"]["side"] == "a"


async def test_client_keeps_a_database_in_a_folder(tmp_path: Path) -> None:
    async with Pouch() as pouch:
        await (await pouch.open("kept", directory=tmp_path)).put({"_id": "a"})
    async with Pouch() as pouch:
        db = await pouch.open("kept", directory=tmp_path)
        assert (await db.get("a"))["_id"] == "a"
        await db.close()


async def test_client_that_was_killed_answers_nobody(pouch: Pouch) -> None:
    db = await pouch.open("local")
    live = asyncio.create_task(db.replicate_to("http://127.0.0.1:9/nobody", live=True, retry=True))
    await asyncio.sleep(0.1)
    await pouch.kill()
    with pytest.raises(RuntimeError, match="has ended"):
        await live


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_client_tells_what_nobody_was_told(serve: Serve, hangs_up: bool) -> None:
    """PouchDB asks its source how far that is, for a display, and does not look at the answer."""
    replicated = False

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal replicated
        place = request.path.removeprefix("/db/").partition("/")[0]
        if place == "_changes":
            row = {"id": "a", "seq": 1, "changes": [{"rev": "1-b"}]}
            rows = [row] if request.query["since"] == "0" else []
            return web.json_response({"results": rows, "last_seq": 1})
        if place == "_bulk_get":
            replicated = True
            docs = [{"ok": {"_id": "a", "_rev": "1-b"}}]
            return web.json_response({"results": [{"id": "a", "docs": docs}]})
        if place == "_local":
            status = 201 if request.method == "PUT" else 404
            return web.json_response({"ok": True, "rev": "0-1"}, status=status)
        if replicated and hangs_up and request.transport is not None:
            request.transport.abort()
        return web.Response(text="no JSON" if replicated else '{"update_seq": 1}')

    url = (await serve(answer)).identity
    expected = nullcontext() if hangs_up else pytest.raises(ExceptionGroup, match="told nobody")
    with expected:
        async with Pouch() as pouch:
            db = await pouch.open("local")
            assert (await db.replicate_from(url))["docs_written"] == 1
            await until(lambda: pouch.unhandled)
            assert (await db.get("a"))["_rev"] == "1-b"
            pouch.forgive_outages()


@pytest.mark.parametrize("in_memory", [False, True])
async def test_replicates_both_ways(pouch: Pouch, tmp_path: Path, in_memory: bool) -> None:
    async with PouchDBServer(tmp_path / "server", in_memory=in_memory) as server:
        url = f"{server.url}/site"
        here = await pouch.open("here")
        await here.bulk_docs([{"_id": f"here-{n}"} for n in range(20)])
        pushed = await here.replicate_to(url)
        assert (pushed["ok"], pushed["docs_written"]) == (True, 20)

        there = await pouch.open_remote(url)
        await there.put({"_id": "there"})
        pulled = await here.replicate_from(url)
        assert (pulled["ok"], pulled["docs_written"]) == (True, 1)

        both = await here.sync(url)
        assert (both["push"]["docs_written"], both["pull"]["docs_written"]) == (0, 0)
        assert (await here.info())["doc_count"] == (await there.info())["doc_count"] == 21


async def test_checkpoints_are_on_both_sides(
    pouch: Pouch, shared_pouchdb_server: PouchDBServer
) -> None:
    url = f"{shared_pouchdb_server.url}/checkpoints"
    db = await pouch.open("local")
    await db.put({"_id": "a"})
    assert (await db.checkpoint(url, "to"))["local"] is None
    pushed = await db.replicate_to(url)
    checkpoint = await db.checkpoint(url, "to")
    assert checkpoint["id"].startswith("_local/")
    for side in ("local", "remote"):
        assert checkpoint[side]["last_seq"] == pushed["last_seq"]


async def test_attachments_replicate(pouch: Pouch, shared_pouchdb_server: PouchDBServer) -> None:
    url = f"{shared_pouchdb_server.url}/attachments"
    content = bytes(range(256))
    one, other = await pouch.open("one"), await pouch.open("other")
    await one.put_attachment("a", "all bytes", content, "application/octet-stream")
    await one.replicate_to(url)
    await other.replicate_from(url)
    assert await other.get_attachment("a", "all bytes") == content


async def test_live_replication_follows_until_stopped(
    pouch: Pouch, shared_pouchdb_server: PouchDBServer
) -> None:
    url = f"{shared_pouchdb_server.url}/live"
    db = await pouch.open("local")
    remote = await pouch.open_remote(url)
    live = await db.live(url, retry=True)
    async with asyncio.timeout(PATIENCE):
        await live.wait_for("paused")
        await db.put({"_id": "from here"})
        change = await live.wait_for("change")
        assert change["direction"] == "push"
        await remote.put({"_id": "from there"})
        while (await live.wait_for("change"))["direction"] != "pull":
            pass
    await live.stop()
    assert (await db.info())["doc_count"] == 2


async def test_server_comes_back_after_a_crash(pouch: Pouch, pouchdb_server: PouchDBServer) -> None:
    db = await pouch.open_remote(f"{pouchdb_server.url}/kept")
    await db.put({"_id": "a"})
    await pouchdb_server.kill()
    with pytest.raises(PouchError):
        await db.info()
    await pouchdb_server.start()
    assert (await db.get("a"))["_id"] == "a"


async def test_server_outlives_a_bad_request(pouchdb_server: PouchDBServer) -> None:
    async with aiohttp.ClientSession(pouchdb_server.url) as session:
        async with session.put("/db") as created:
            assert created.status == 201
        async with session.get("/db/_changes?filter=d/nope") as bad:
            assert bad.status == 404
        async with session.get("/db") as info:
            assert info.status == 200


async def test_server_reports_that_it_cannot_start(tmp_path: Path) -> None:
    async with PouchDBServer(tmp_path / "one") as server:
        with pytest.raises(RuntimeError, match="already in use"):
            await PouchDBServer(tmp_path / "other", port=server.port).start()
