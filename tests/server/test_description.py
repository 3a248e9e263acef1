"""docs/openapi.yaml has the paths and methods that the server has, no more and no fewer."""

from __future__ import annotations

import pytest

from agent.server import app, design
from tests.fuzz.description import load, routes
from tests.server.api import Api

_ROUTES: dict[str, set[str]] = {}
for _method, _path in routes(load()):
    _ROUTES.setdefault(_path, set()).add(_method)
_PLACES = {
    "file": "index.html",
    "db": "db",
    "docid": "a",
    "ddoc": "a",
    "localid": "a",
    "attname": "a",
    "index": "a",
}


@pytest.mark.parametrize("path", [path for path in _ROUTES if "{function}" not in path])
async def test_a_path_has_the_methods_that_are_described(api: Api, path: str) -> None:
    answer = await api.request("PATCH", path.format(**_PLACES, jobid="a", hook="a"))
    if path == "/{db}/_temp_view":  # refused whatever is asked
        assert answer.status == 501
        return
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(", ")) == _ROUTES[path]


def test_the_paths_of_the_server_are_described() -> None:
    first = {path.split("/")[1] for path in _ROUTES if not path.startswith("/{db}")}
    assert first == {*app._SERVER, "_scheduler", "_hooks", "_utils"}
    second = {path.split("/")[2] for path in _ROUTES if path.count("/") == 2 and "{db}" in path}
    assert second == {*app._DATABASE, "_temp_view", "{docid}"} - {""}
    queries = {path.split("/")[2] for path in _ROUTES if path.endswith("/queries")}
    assert queries == {*app._QUERIES}


def test_what_needs_javascript_is_described() -> None:
    [path] = [path for path in _ROUTES if "{function}" in path]
    parameters = load()["paths"][path]["parameters"]
    [functions] = [each["schema"]["enum"] for each in parameters if each.get("name") == "function"]
    assert {*functions} == design.HANDLERS - {"_rewrite"}  # which any path may follow
