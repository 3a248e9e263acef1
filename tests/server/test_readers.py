"""The role `_reader`: everything can be read, nothing changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.server.access import Access, Account
from agent.server.logins import Logins
from agent.server.passwords import PasswordHash
from agent.server.sessions import Sessions
from tests.server.accounts import auth, password_of, quick_hash, secure
from tests.server.api import Api, running

ROLES = {"anna": ["_admin"], "rita": ["_reader", "staff"], "mia": ["staff"], "both": ["_reader"]}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    hashes = {name: PasswordHash.parse(quick_hash(password_of(name))) for name in ROLES}
    access = Access(
        {name: Account(hashes[name], frozenset(roles)) for name, roles in ROLES.items()},
        Sessions(b"s" * 32, {name: hash.text for name, hash in hashes.items()}),
        logins=Logins(hashes, first_delay=0.0, nobody=hashes["anna"]),
    )
    async with running(tmp_path, access=access) as api:
        assert (await api.put("/db", **auth("anna"))).status == 201
        await secure(api, "db", {"members": {"roles": ["staff"]}, "admins": {"names": ["both"]}})
        assert (await api.put("/db/doc", {"n": 1}, **auth("mia"))).status == 201
        yield api


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/db/doc", None),
        ("HEAD", "/db/doc", None),
        ("GET", "/db/_changes", None),
        ("POST", "/db/_changes", {}),
        ("GET", "/db/_conflicts", None),
        ("GET", "/db/_resolutions", None),
        ("GET", "/db/_sensors", None),
        ("POST", "/db/_find", {"selector": {}}),
        ("POST", "/db/_explain", {"selector": {}}),
        ("POST", "/db/_all_docs", {"keys": ["doc"]}),
        ("POST", "/db/_all_docs/queries", {"queries": []}),
        ("POST", "/db/_bulk_get", {"docs": [{"id": "doc"}]}),
        ("POST", "/db/_revs_diff", {}),
    ],
)
async def test_a_reader_reads(api: Api, method: str, path: str, body: Any) -> None:
    answer = await api.request(method, path, json=body, **auth("rita"))
    assert answer.status == 200


@pytest.mark.parametrize("name", ["rita", "both"])  # whatever a database makes of them
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/db/new", {}),
        ("POST", "/db", {}),
        ("POST", "/db/_bulk_docs", {"docs": [{}]}),
        ("POST", "/db/_bulk_docs", {"docs": [{"_id": "x", "_rev": "1-a"}], "new_edits": False}),
        ("DELETE", "/db/doc", None),
        ("COPY", "/db/doc", None),
        ("PUT", "/db/doc/attachment", {}),
        ("PUT", "/db/_local/checkpoint", {}),
        ("PUT", "/db/_design/d", {}),
        ("POST", "/db/_index", {"index": {"fields": ["n"]}}),
        ("POST", "/db/_purge", {}),
        ("PUT", "/db/_security", {}),
        ("POST", "/db/_resolve", {"id": "doc", "leaves": [], "doc": None}),
        ("POST", "/db/_compact", {}),
    ],
)
async def test_a_reader_changes_nothing(
    api: Api, name: str, method: str, path: str, body: Any
) -> None:
    answer = await api.request(method, path, json=body, **auth(name))
    assert answer.status == 403
    assert (await api.get("/db", **auth("anna"))).json["doc_count"] == 1


async def test_an_administrator_is_none(api: Api) -> None:
    assert (await api.put("/db/new", {}, **auth("anna"))).status == 201
