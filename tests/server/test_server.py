"""The server's own paths, methods and headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from tests.server.api import Api, running


async def test_welcome_names_an_api_that_clients_know_and_the_agents_own_version(
    server: Api,
) -> None:
    answer = await server.get("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["couchdb"] == "Welcome"
    assert all(part.isdigit() for part in answer.json["version"].split("."))
    assert answer.json["vendor"] == {"name": "edge-sync-agent", "version": __version__}
    assert "uuid" not in answer.json


async def test_welcome_has_the_uuid_that_was_given(tmp_path: Path) -> None:
    async with running(tmp_path, uuid="abc") as server:
        assert (await server.get("/")).json["uuid"] == "abc"


async def test_up(server: Api) -> None:
    assert (await server.get("/_up")).json["status"] == "ok"


async def test_all_dbs_are_sorted(server: Api) -> None:
    assert (await server.get("/_all_dbs")).json == []
    for name in ("b", "a%2Fx", "c"):
        await server.put(f"/{name}")
    assert (await server.get("/_all_dbs")).json == ["a/x", "b", "c"]


async def test_uuids(server: Api) -> None:
    [one] = (await server.get("/_uuids")).json["uuids"]
    assert len(one) == 32
    many = (await server.get("/_uuids?count=50")).json["uuids"]
    assert len(set(many)) == 50
    assert (await server.get("/_uuids?count=1001")).status == 400
    assert (await server.get("/_uuids?count=x")).status == 400


async def test_what_fails_unexpectedly_is_an_error_in_couchdbs_form(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def status() -> dict[str, Any]:
        raise ZeroDivisionError

    async with running(tmp_path, status=status) as server:
        answer = await server.get("/_status")
        assert answer.error[:2] == (500, "internal_server_error")
        assert (await server.get("/_up")).status == 200
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "GET /_status failed"


async def test_status_comes_from_whoever_runs_the_server(tmp_path: Path) -> None:
    async def status() -> dict[str, object]:
        return {"ok": True, "sensors": 3}

    async with running(tmp_path, status=status) as server:
        assert (await server.get("/_status")).json == {"ok": True, "sensors": 3}


async def test_without_a_status_there_is_none(server: Api) -> None:
    assert (await server.get("/_status")).error == (404, "not_found", "missing")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET, HEAD"),
        ("PATCH", "/db", "DELETE, GET, HEAD, POST, PUT"),
        ("POST", "/db/doc", "COPY, DELETE, GET, HEAD, PUT"),
        ("GET", "/db/_bulk_docs", "POST"),
        ("HEAD", "/db/_bulk_get", "POST"),
        ("PUT", "/db/_changes", "GET, HEAD, POST"),
        ("POST", "/db/_local/x", "DELETE, GET, HEAD, PUT"),
    ],
)
async def test_methods_that_a_path_does_not_have(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await api.request(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed
    if method != "HEAD":
        reason = f"Only {allowed.replace(', ', ',')} allowed"
        assert answer.error == (405, "method_not_allowed", reason)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/_all_dbs",
        "/_up",
        "/db",
        "/db/a",
        "/db/_local/l",
        "/db/_all_docs",
        "/db/_changes",
        "/db/_changes?feed=continuous",
        "/db/nope",
        "/nope",
    ],
)
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    await api.put("/db/a", {})
    await api.put("/db/_local/l", {})
    head = await api.request("HEAD", path)
    get = await api.get(path.partition("?")[0])
    assert (head.status, head.text) == (get.status, "")
    assert head.headers.get("ETag") == get.headers.get("ETag")
    assert head.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["//db", "/db/", "/db//", "//db//a", "/db/a/"])
async def test_empty_segments_of_a_path_do_not_count(api: Api, path: str) -> None:
    await api.put("/db/a", {})
    assert (await api.get(path)).status == 200
