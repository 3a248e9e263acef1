"""`POST /_replicate`, `_scheduler/jobs` and `_active_tasks`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.config import AgentConfig, Config, RemoteConfig, ServerConfig
from agent.replication import job, manager, pipeline
from tests.patience import PATIENCE, until
from tests.peers.pouchdb_server import PouchDBServer
from tests.rig.network import find_free_port
from tests.server.api import Api, number_in, running
from tests.server.replicating import agent, fill, ids

DOCS: list[dict[str, Any]] = [
    {"_id": "a", "type": "reading"},
    {"_id": "b", "type": "config"},
    {"_id": "c d/e", "type": "reading"},
]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Api]:
    async with agent(tmp_path / "hub") as api:
        await fill(api, "one", *DOCS)
        yield api


async def replicate(hub: Api, source: Any, target: Any, **options: Any) -> Any:
    """The answer to a replication that succeeds."""
    answer = await hub.post("/_replicate", {"source": source, "target": target, **options})
    assert answer.status == 200, answer.text
    return answer.json


# --- once ------------------------------------------------------------------------------


async def test_the_answer_is_couchdbs(hub: Api) -> None:
    result = await replicate(hub, "one", "two", create_target=True)
    assert await ids(hub, "two") == ["a", "b", "c d/e"]
    [session] = result.pop("history")
    assert result == {
        "ok": True,
        "session_id": session["session_id"],
        "source_last_seq": 3,
        "replication_id_version": 4,
    }
    times = [parsedate_to_datetime(session.pop(name)) for name in ("start_time", "end_time")]
    assert times == sorted(times)
    assert session == {
        "checkpoint": 1,
        "session_id": result["session_id"],
        "start_last_seq": 0,
        "end_last_seq": 3,
        "recorded_seq": 3,
        "missing_checked": 3,
        "missing_found": 3,
        "docs_read": 3,
        "docs_written": 3,
        "doc_write_failures": 0,
    }


async def test_a_second_time_nothing_has_changed(hub: Api) -> None:
    await replicate(hub, "one", "two", create_target=True)
    again = await replicate(hub, "one", "two")
    assert again["no_changes"] is True
    assert again["source_last_seq"] == 3
    await fill(hub, "one", {"_id": "z"})
    more = await replicate(hub, "one", "two")
    assert "no_changes" not in more
    assert [entry["recorded_seq"] for entry in more["history"]] == [4, 3]
    assert more["history"][0]["docs_written"] == 1


@pytest.mark.parametrize("way", ["string", "object"])
async def test_forms_of_an_open_source(hub: Api, way: str) -> None:
    url = f"{hub.url}/one"
    source = {"string": url, "object": {"url": f"{url}/"}}[way]
    await replicate(hub, source, {"url": "two"}, create_target=True)
    assert await ids(hub, "two") == ["a", "b", "c d/e"]


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Api]:
    """A hub with a user, and a database that is closed to others."""
    async with agent(tmp_path / "closed", admin=("user", "secret")) as api:
        await fill(api, "far", *DOCS)
        yield api


@pytest.mark.parametrize("way", ["credentials", "auth", "header"])
async def test_forms_of_credentials(hub: Api, closed: Api, way: str) -> None:
    url = f"{closed.url}/far"
    basic = base64.b64encode(b"user:secret").decode()
    source = {
        "credentials": url.replace("//", "//user:secret@"),
        "auth": {"url": url, "auth": {"basic": {"username": "user", "password": "secret"}}},
        "header": {"url": url, "headers": {"Authorization": f"Basic {basic}"}},
    }[way]
    await replicate(hub, source, "two", create_target=True)
    assert await ids(hub, "two") == ["a", "b", "c d/e"]


async def test_without_the_right_credentials(hub: Api, closed: Api) -> None:
    url = f"{closed.url}/far"
    word = f"unauthorized to access or create database {url}/"
    for source in (url, url.replace("//", "//user:wrong@")):
        answer = await hub.post("/_replicate", {"source": source, "target": "one"})
        assert answer.error == (401, "unauthorized", word)


async def test_headers_go_with_every_request(hub: Api, tmp_path: Path) -> None:
    seen = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n")
        writer.write(b'Content-Length: 21\r\n\r\n{"error":"not_found"}')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = {"url": f"http://127.0.0.1:{port}/x", "headers": {"X-Key": "k1"}}
    answer = await hub.post("/_replicate", {"source": source, "target": "one"})
    server.close()
    assert answer.error == (404, "db_not_found", f"could not open http://127.0.0.1:{port}/x/")
    assert b"X-Key: k1\r\n" in seen[0]


async def test_a_selector(hub: Api) -> None:
    await replicate(hub, "one", "two", create_target=True, selector={"type": "reading"})
    assert await ids(hub, "two") == ["a", "c d/e"]


async def test_a_selector_over_http(hub: Api) -> None:
    source = f"{hub.url}/one"
    await replicate(hub, source, "two", create_target=True, selector={"type": "reading"})
    assert await ids(hub, "two") == ["a", "c d/e"]


async def test_doc_ids_may_be_percent_encoded(hub: Api) -> None:
    await replicate(hub, "one", "two", create_target=True, doc_ids=["b", "c%20d%2Fe", "none"])
    assert await ids(hub, "two") == ["b", "c d/e"]


async def test_no_selection_is_null(hub: Api) -> None:
    await replicate(hub, "one", "two", create_target=True, doc_ids=None, filter=None)
    assert len(await ids(hub, "two")) == 3


@pytest.mark.parametrize("over_http", [False, True])
async def test_since_seq_and_winners_only(hub: Api, over_http: bool) -> None:
    source = f"{hub.url}/one" if over_http else "one"
    since = (await hub.get("/one")).json["update_seq"]
    for rev in ("1-a", "1-b"):
        await hub.graft("x", rev, db="one")
    for seq, target in ((3, "two"), (since, "three")):
        options = {"create_target": True, "since_seq": seq, "winning_revs_only": True}
        await replicate(hub, source, target, **options)
        assert await ids(hub, target) == ["x"]
        doc = (await hub.get(f"/{target}/x?conflicts=true")).json
        assert doc == {"_id": "x", "_rev": "1-b"}


async def test_checkpoints_from_when_sequences_were_numbers_still_count(hub: Api) -> None:
    source = f"{hub.url}/one"
    await replicate(hub, source, "two", create_target=True)
    [row] = (await hub.get("/one/_local_docs?include_docs=true")).json["rows"]
    log = row["doc"]
    [session] = log["history"]
    for name in ("end_last_seq", "recorded_seq"):
        session[name] = number_in(session[name])
    log["source_last_seq"] = number_in(log["source_last_seq"])
    for db in ("one", "two"):
        log["_rev"] = (await hub.get(f"/{db}/{log['_id']}")).json["_rev"]
        assert (await hub.put(f"/{db}/{log['_id']}", log)).status == 201
    await fill(hub, "one", {"_id": "z"})
    session, _ = (await replicate(hub, source, "two"))["history"]
    assert (session["start_last_seq"], session["missing_checked"]) == (3, 1)
    assert number_in(session["end_last_seq"]) == 4


async def test_the_same_request_joins_what_runs(hub: Api) -> None:
    both = await asyncio.gather(
        *(replicate(hub, f"{hub.url}/one", "two", create_target=True) for _ in range(2))
    )
    assert both[0]["source_last_seq"] == both[1]["source_last_seq"]
    assert number_in(both[0]["source_last_seq"]) == 3
    assert (await hub.get("/_scheduler/jobs")).json["jobs"] == []


# --- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 400, "bad_request"),
        ({"source": "one"}, 400, "bad_request"),
        ({"source": 1, "target": "two"}, 400, "bad_request"),
        ({"source": {"url": 1}, "target": "two"}, 400, "bad_request"),
        ({"source": "ftp://h/db", "target": "two"}, 400, "bad_request"),
        ({"source": "http://h/", "target": "two"}, 400, "bad_request"),
        ({"source": "http://u:secret@h:x/d", "target": "two"}, 400, "bad_request"),
        (
            {"source": {"url": "http://h/d", "headers": {"a": "b\r\nc"}}, "target": "one"},
            400,
            "bad_request",
        ),
        *(
            (
                {"source": {"url": "http://h/d", "headers": {name: "1"}}, "target": "one"},
                400,
                "bad_request",
            )
            for name in (
                *("Content-Length", "transfer-encoding", "HOST", "Connection"),
                *("", "a b", "a:b", "ü"),
            )
        ),
        ({"source": "http://db..example.org/d", "target": "one"}, 400, "bad_request"),
        (
            {"source": {"url": "http://h/d", "auth": {"iam": {}}}, "target": "one"},
            400,
            "bad_request",
        ),
        ({"source": "one", "target": "one2", "continuous": 1}, 400, "bad_request"),
        ({"source": "one", "target": "one2", "cancel": "true"}, 400, "bad_request"),
        ({"source": "one", "target": "one2", "doc_ids": "a"}, 400, "bad_request"),
        ({"source": "one", "target": "one2", "selector": []}, 400, "bad_request"),
        ({"source": "one", "target": "one2", "selector": {"a": {"$x": 1}}}, 400, None),
        ({"source": "one", "target": "o", "doc_ids": [], "selector": {}}, 400, "bad_request"),
        ({"source": "one", "target": "o", "checkpoint_interval": -1}, 400, "bad_request"),
        ({"source": "one", "target": "o", "filter": "app/mine"}, 501, "not_implemented"),
        ({"source": "one", "target": "o", "proxy": "http://p"}, 501, "not_implemented"),
        ({"source": "nope", "target": "one"}, 404, "db_not_found"),
        ({"source": "one", "target": "nope"}, 404, "db_not_found"),
        ({"source": "Not a Name", "target": "one"}, 404, "db_not_found"),
        ({"cancel": True, "replication_id": "none"}, 404, "not found"),
        ({"cancel": True, "source": "one", "target": "one"}, 404, "not found"),
    ],
)
async def test_refusals(hub: Api, body: Any, status: int, word: str | None) -> None:
    answer = await hub.post("/_replicate", body)
    assert answer.status == status
    assert "secret" not in answer.text
    if word is not None:
        assert answer.error[1] == word


async def test_what_is_no_json_is_refused(hub: Api) -> None:
    answer = await hub.request("POST", "/_replicate", data=b"{}")
    assert answer.error[:2] == (415, "bad_content_type")
    assert (await hub.get("/_replicate")).status == 405


async def test_databases_elsewhere_that_are_missing(hub: Api) -> None:
    url = f"{hub.url}/nope"
    answer = await hub.post("/_replicate", {"source": url, "target": "one"})
    assert answer.error == (404, "db_not_found", f"could not open {url}/")
    answer = await hub.post("/_replicate", {"source": "one", "target": url})
    assert answer.error == (404, "db_not_found", f"could not open {url}/")


async def test_a_server_that_is_not_there(hub: Api) -> None:
    url = f"http://user:secret@127.0.0.1:{find_free_port()}/db"
    answer = await hub.post("/_replicate", {"source": url, "target": "one"})
    assert answer.status == 500
    assert "cannot be reached" in answer.text
    assert "secret" not in answer.text


async def test_a_server_that_does_not_replicate(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        body = {"source": "a", "target": "b"}
        assert (await api.post("/_replicate", body)).error[:2] == (501, "not_implemented")
        assert (await api.get("/_active_tasks")).json == []


# --- continuous ------------------------------------------------------------------------


async def test_continuous_until_it_is_cancelled(hub: Api, closed: Api) -> None:
    url = f"{closed.url}/far".replace("//", "//user:secret@")
    body = {"source": url, "target": "two", "create_target": True, "continuous": True}
    answer = await hub.post("/_replicate", body)
    assert answer.status == 202
    id = answer.json["_local_id"]
    assert answer.json == {"ok": True, "_local_id": id}
    assert id.endswith("+continuous+create_target")

    await fill(closed, "far", {"_id": "later"})

    async def arrived() -> bool:
        return "later" in await ids(hub, "two")

    await until(arrived)
    again = await hub.post("/_replicate", body)
    assert (again.status, again.json["_local_id"]) == (202, id)

    listed = (await hub.get("/_scheduler/jobs")).json
    assert (listed["total_rows"], listed["offset"]) == (1, 0)
    [job] = listed["jobs"]
    assert (await hub.get(f"/_scheduler/jobs/{id}")).json == job
    assert (job["id"], job["database"], job["doc_id"]) == (id, None, None)
    assert (job["source"], job["target"]) == (f"{closed.url}/far/", "two")
    assert [event["type"] for event in job["history"]] == ["started", "added"]

    [task] = (await hub.get("/_active_tasks")).json
    assert task["type"] == "replication"
    assert task["replication_id"] == id
    assert (task["docs_read"], task["docs_written"], task["doc_write_failures"]) == (4, 4, 0)
    assert (task["revisions_checked"], task["missing_revisions_found"]) == (4, 4)
    assert (task["continuous"], task["changes_pending"], task["progress"]) == (True, 0, 100)
    assert task["started_on"] <= task["updated_on"]
    assert "secret" not in str(listed) + str(task)

    cancelled = await hub.post("/_replicate", {**body, "cancel": True})
    assert (cancelled.status, cancelled.json) == (200, {"ok": True, "_local_id": id})
    assert (await hub.get("/_active_tasks")).json == []
    assert (await hub.get(f"/_scheduler/jobs/{id}")).error[:2] == (404, "not_found")
    assert (await hub.post("/_replicate", {**body, "cancel": True})).status == 404


async def test_databases_are_in_use_as_long_as_they_are_replicated(hub: Api) -> None:
    before = dict(hub.databases._users)
    body = {"source": "one", "target": "two", "create_target": True, "continuous": True}
    for _ in range(2):
        assert (await hub.post("/_replicate", body)).status == 202  # the second joins the first
    assert {"one", "two"} <= set(hub.databases._users)
    assert (await hub.post("/_replicate", {**body, "cancel": True})).status == 200
    assert hub.databases._users == before
    assert (await hub.post("/_replicate", {**body, "cancel": True})).status == 404
    await replicate(hub, "one", "two")
    assert (await hub.post("/_replicate", {"source": "none", "target": "two"})).status == 404
    assert hub.databases._users == before


async def test_cancelling_by_id(hub: Api) -> None:
    body = {"source": "one", "target": "two", "create_target": True, "continuous": True}
    id = (await hub.post("/_replicate", body)).json["_local_id"]
    answer = await hub.post("/_replicate", {"replication_id": id, "cancel": True})
    assert (answer.status, answer.json) == (200, {"ok": True, "_local_id": id})
    assert (await hub.get("/_scheduler/jobs")).json["jobs"] == []


async def test_another_selector_is_another_replication(hub: Api) -> None:
    body = {"source": "one", "target": "two", "create_target": True, "continuous": True}
    made = set()
    for selector in ({"type": "reading"}, {"type": "config"}):
        made.add((await hub.post("/_replicate", {**body, "selector": selector})).json["_local_id"])
    assert len(made) == 2

    async def both() -> bool:
        return len(await ids(hub, "two")) == 3

    await until(both)


async def test_a_remote_that_vanishes_and_returns(hub: Api, tmp_path: Path) -> None:
    port = find_free_port()
    body = {
        "source": f"http://127.0.0.1:{port}/far",
        "target": "two",
        "create_target": True,
        "continuous": True,
    }
    async with running(tmp_path / "far", port=port) as far:
        await fill(far, "far", {"_id": "first"})
        id = (await hub.post("/_replicate", body)).json["_local_id"]

        async def first() -> bool:
            return await ids(hub, "two") == ["first"]

        await until(first)

    async def crashed() -> Any:
        job = (await hub.get(f"/_scheduler/jobs/{id}")).json
        return "error" in job["info"] and job

    job = await until(crashed)
    assert "crashed" in [event["type"] for event in job["history"]]
    assert (await hub.get("/_active_tasks")).json == []  # it does not run at the moment
    async with running(tmp_path / "far", port=port) as far:
        await fill(far, "far", {"_id": "second"})

        async def second() -> bool:
            return await ids(hub, "two") == ["first", "second"]

        await until(second)


async def test_a_remote_that_vanishes_midway(
    hub: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_HURRIED_TRIES", 2)
    monkeypatch.setattr(pipeline, "_FIRST_PIECE", 1)
    port = find_free_port()
    body = {"source": f"http://127.0.0.1:{port}/far", "target": "two", "create_target": True}
    async with running(tmp_path / "far", port=port) as far:
        for tens in range(30):
            docs = [{"_id": f"{tens:02}{n}", "text": "x" * 20_000} for n in range(10)]
            await fill(far, "far", *docs)
        request = asyncio.create_task(hub.post("/_replicate", body))

        async def some() -> bool:
            return len(await ids(hub, "two")) > 0

        await until(some)
    answer = await request
    # It may have been done before the server was gone, on a fast machine.
    assert answer.status in (200, 500)
    assert answer.status == 200 or "127.0.0.1" in answer.error[2]
    async with running(tmp_path / "far", port=port):
        assert (await hub.post("/_replicate", body)).json["ok"] is True
        assert len(await ids(hub, "two")) == 300


async def test_stopping_the_agent_ends_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.server.http._GRACE", PATIENCE)

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    silent = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with agent(tmp_path) as hub:
        await fill(hub, "one", {"_id": "a"})
        body = {"source": f"http://127.0.0.1:{port}/x", "target": "one"}
        request = asyncio.create_task(hub.post("/_replicate", body))

        async def listed() -> Any:
            return (await hub.get("/_scheduler/jobs")).json["jobs"]

        [entry] = await until(listed)
        answer = await hub.post("/_replicate", {"replication_id": entry["id"], "cancel": True})
        assert answer.status == 200
        assert (await request).error[:2] == (500, "cancelled")
        request = asyncio.create_task(hub.post("/_replicate", body))
        await until(listed)
        stopping = asyncio.get_running_loop().time()
    # Neither the server's grace nor the remote's minute is waited for.
    assert asyncio.get_running_loop().time() - stopping < 50
    with contextlib.suppress(aiohttp.ClientError):
        assert (await request).status == 500
    silent.close()
    await silent.wait_closed()


async def test_a_local_database_that_is_deleted_and_made_again(
    hub: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "MISSING_WAIT", 0.1)
    body = {"source": "one", "target": "two", "create_target": True, "continuous": True}
    await hub.post("/_replicate", body)

    async def arrived() -> bool:
        return len(await ids(hub, "two")) >= 3

    await until(arrived)
    await hub.delete("/one")
    await fill(hub, "one", {"_id": "new"})

    async def renewed() -> bool:
        return "new" in await ids(hub, "two")

    await until(renewed)


# --- configured remotes ----------------------------------------------------------------


async def test_configured_remotes_are_listed_and_stay(tmp_path: Path) -> None:
    async with running(tmp_path / "cloud") as cloud:
        await fill(cloud, "edge", {"_id": "down", "type": "setpoint"}, {"_id": "other"})
        config = Config(
            agent=AgentConfig(data=str(tmp_path / "gateway"), name="gateway"),
            server=ServerConfig(listen="127.0.0.1:0"),
            remote=[
                RemoteConfig(
                    name="cloud",
                    url=f"{cloud.url}/edge",
                    push_doc_ids=["up"],
                    pull_selector={"type": "setpoint"},
                )
            ],
        )
        async with agent(tmp_path / "gateway", config) as gateway:
            await fill(gateway, "edge", {"_id": "up"}, {"_id": "stays"})

            async def done() -> bool:
                return await ids(gateway, "edge") == ["down", "stays", "up"] and await ids(
                    cloud, "edge"
                ) == ["down", "other", "up"]

            await until(done)
            jobs = (await gateway.get("/_scheduler/jobs")).json["jobs"]
            assert {job["name"] for job in jobs} == {"cloud push", "cloud pull"}
            url = f"{cloud.url}/edge/"
            assert {(job["source"], job["target"]) for job in jobs} == {
                ("edge", url),
                (url, "edge"),
            }
            tasks = (await gateway.get("/_active_tasks")).json
            assert {task["name"] for task in tasks} == {"cloud push", "cloud pull"}
            answer = await gateway.post(
                "/_replicate", {"cancel": True, "replication_id": jobs[0]["id"]}
            )
            assert answer.error[:2] == (403, "forbidden")


# --- a real counterpart ----------------------------------------------------------------


async def test_to_and_from_pouchdb_server(hub: Api, shared_pouchdb_server: PouchDBServer) -> None:
    there = f"{shared_pouchdb_server.url}/replicate-endpoint"
    await replicate(hub, "one", there, create_target=True, doc_ids=["a", "c d/e"])
    await replicate(hub, there, "back", create_target=True)
    assert await ids(hub, "back") == ["a", "c d/e"]
    await replicate(hub, there, "some", create_target=True, doc_ids=["c d/e"])
    assert await ids(hub, "some") == ["c d/e"]
