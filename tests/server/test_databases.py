"""Databases: create, describe, delete, create again."""

from __future__ import annotations

import json
import resource

import pytest

from tests.server.api import Api, number_in

NONE = (404, "not_found", "Database does not exist.")


async def test_life_of_a_database(server: Api) -> None:
    created = await server.put("/db")
    assert (created.status, created.json) == (201, {"ok": True})
    assert created.headers["Location"] == f"{server.url}/db"
    assert (await server.put("/db")).error == (
        412,
        "file_exists",
        "The database could not be created, the file already exists.",
    )
    assert (await server.request("HEAD", "/db")).status == 200
    assert (await server.delete("/db")).json == {"ok": True}
    assert (await server.delete("/db")).error == NONE
    assert (await server.get("/db")).error == NONE
    assert (await server.request("HEAD", "/db")).status == 404


async def test_info(api: Api) -> None:
    rev = await api.write("a")
    await api.write("a", _rev=rev, _deleted=True)
    await api.write("b")
    info = (await api.get("/db")).json
    assert info["db_name"] == "db"
    assert (info["doc_count"], info["doc_del_count"]) == (1, 1)
    assert number_in(info["update_seq"]) == 3
    assert info["purge_seq"] == 0
    assert info["sizes"]["file"] > 0
    assert info["instance_start_time"].isdigit()


async def test_instance_start_time_is_a_string_that_a_new_database_changes(api: Api) -> None:
    first = (await api.get("/db")).json["instance_start_time"]
    committed = await api.post("/db/_ensure_full_commit", {})
    assert isinstance(first, str)
    assert (committed.status, committed.json) == (201, {"ok": True, "instance_start_time": first})
    await api.delete("/db")
    await api.put("/db")
    second = (await api.get("/db")).json["instance_start_time"]
    assert second != first
    assert (await api.post("/db/_ensure_full_commit", {})).json["instance_start_time"] == second


@pytest.mark.parametrize("name", ["A", "1a", "_x", "a.b", "%C3%A4", "a%20b", "a%00", "a%0A"])
async def test_names_that_are_not_allowed(server: Api, name: str) -> None:
    status, error, reason = (await server.put(f"/{name}")).error
    assert (status, error) == (400, "illegal_database_name")
    assert reason.endswith("Must begin with a letter.")
    assert (await server.get(f"/{name}")).error == NONE
    assert (await server.delete(f"/{name}")).error == NONE
    assert (await server.get(f"/{name}/doc")).error == NONE


async def test_names_with_slashes_and_signs(server: Api) -> None:
    name = "a%2Fb-1_$()+"
    assert (await server.put(f"/{name}")).status == 201
    assert (await server.get(f"/{name}")).json["db_name"] == "a/b-1_$()+"
    assert (await server.put(f"/{name}/doc", {"x": 1})).status == 201
    assert (await server.get(f"/{name}/doc")).json["x"] == 1
    assert (await server.get("/_all_dbs")).json == ["a/b-1_$()+"]
    assert (await server.delete(f"/{name}")).status == 200


async def test_a_forgotten_document_id_does_not_delete_the_database(api: Api) -> None:
    assert (await api.delete("/db?rev=1-a")).status == 400
    assert (await api.get("/db")).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope/doc"),
        ("PUT", "/nope/doc"),
        ("GET", "/nope/_changes"),
        ("POST", "/nope/_bulk_docs"),
        ("POST", "/nope/_revs_diff"),
        ("POST", "/nope/_ensure_full_commit"),
        ("GET", "/nope/_local/x"),
        ("POST", "/nope"),
    ],
)
async def test_nothing_is_found_in_a_database_that_is_not_there(
    server: Api, method: str, path: str
) -> None:
    assert (await server.request(method, path, json={})).error == NONE


async def test_a_client_that_does_not_name_the_host_is_not_looked_up(server: Api) -> None:
    answer = await server.raw(b"PUT /db HTTP/1.0\r\n\r\n")
    assert b" 201 " in answer
    assert b"\r\nLocation: /db\r\n" in answer


async def test_many_databases_take_turns_to_be_open(server: Api) -> None:
    databases = server.databases
    databases._most_open = 4
    assert (await server.put("/followed")).status == 201
    async with server.open("GET", "/followed/_changes?feed=continuous&heartbeat=9000") as feed:
        assert await feed.content.readline() == b"\n"
        for number in range(12):
            assert (await server.put(f"/n{number}")).status == 201
            await server.write("x", db=f"n{number}", number=number)
        infos = (await server.get("/_dbs_info")).json
        assert [entry["info"]["doc_count"] for entry in infos] == [0, *[1] * 12]
        assert len(databases._open) == 4
        await server.write("news", db="followed")
        assert json.loads(await feed.content.readline())["id"] == "news"
    for number in range(12):
        assert (await server.get(f"/n{number}/x")).json["number"] == number


async def test_no_more_files(api: Api) -> None:
    """The server is overloaded, not broken: the next request may well succeed."""
    await api.write("x")  # its connection is open
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        answer = await api.put("/more")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert answer.error[:2] == (503, "service_unavailable")
    assert "too many files" in answer.error[2]
    assert (await api.put("/more")).status == 201
