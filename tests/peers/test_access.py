"""Clients that log in to the agent's server: another agent, and the real PouchDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agent.documents.revision import first_revision
from agent.errors import AuthError
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.urls import AuthMode
from agent.replication.replicator import Replicator
from agent.store.store import Store
from tests.peers.pouch import Pouch, PouchError
from tests.server.accounts import auth, guarded, password_of
from tests.server.api import Api


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Api]:
    async with guarded(tmp_path / "agent") as api:
        yield api


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "local.sqlite")
    await store.graft([first_revision(f"d{number}", {"v": number}) for number in range(20)])
    yield store
    await store.close()


async def replicated(source: Any, target: Any, **options: Any) -> int:
    replicator = Replicator(source, target, **options)
    await replicator.run()
    return replicator.progress.docs_written


async def test_agents_replicate_by_cookie_and_by_password(agent: Api, store: Store) -> None:
    local = LocalPeer(store)
    modes: list[AuthMode] = ["auto", "basic", "cookie"]
    for number, mode in enumerate(modes):
        password = password_of("mia")
        remote = CouchPeer.from_url(f"{agent.url}/db", user="mia", password=password, auth=mode)
        try:
            assert await replicated(local, remote) == (0 if number else 20)
            await agent.put(f"/db/back-{mode}", {}, **auth("mia"))
            assert await replicated(remote, local) == 1
        finally:
            await remote.close()
    assert (await store.info()).doc_count == 23


@pytest.mark.parametrize("mode", ["auto", "basic", "cookie"])
@pytest.mark.parametrize(
    ("name", "password"),
    [("mia", "wrong"), ("nobody", "x"), ("otto", password_of("otto")), (None, None)],
)
async def test_an_agent_that_is_not_let_in_is_told_so(
    agent: Api, store: Store, mode: AuthMode, name: str | None, password: str | None
) -> None:
    remote = CouchPeer.from_url(f"{agent.url}/db", user=name, password=password, auth=mode)
    try:
        with pytest.raises(AuthError) as caught:
            await replicated(LocalPeer(store), remote)
    finally:
        await remote.close()
    assert caught.value.status in (401, 403)
    assert password is None or password not in str(caught.value)


async def test_an_agent_that_is_an_administrator_makes_the_target(agent: Api, store: Store) -> None:
    remote = CouchPeer.from_url(f"{agent.url}/made", user="anna", password=password_of("anna"))
    try:
        assert await replicated(LocalPeer(store), remote, create_target=True) == 20
    finally:
        await remote.close()


async def test_pouchdb_logs_in(agent: Api, pouch: Pouch) -> None:
    options = {"auth": {"username": "mia", "password": password_of("mia")}, "skip_setup": True}
    remote = await pouch.open_remote(f"{agent.url}/db", **options)
    assert (await remote.put({"_id": "a"}))["ok"]
    local = await pouch.open("local")
    named = agent.url.replace("//", f"//mia:{quote(password_of('mia'), safe='')}@")
    done = await local.replicate_from(f"{named}/db")
    assert done["docs_written"] == 1
    await local.put({"_id": "b"})
    done = await local.replicate_to(f"{named}/db")
    assert done["docs_written"] == 1
    rows = (await agent.get("/db/_all_docs", **auth("mia"))).json["rows"]
    assert [row["id"] for row in rows] == ["a", "b"]
    with pytest.raises(PouchError) as caught:
        await remote.put({"_id": "_design/x"})
    assert (caught.value.status, caught.value.name) == (403, "forbidden")


@pytest.mark.parametrize(
    ("user", "status", "name"),
    [
        (None, 401, "unauthorized"),
        (("mia", "wrong"), 401, "unauthorized"),
        (("otto", password_of("otto")), 403, "forbidden"),
    ],
)
async def test_pouchdb_is_told_why_it_is_not_let_in(
    agent: Api, pouch: Pouch, user: tuple[str, str] | None, status: int, name: str
) -> None:
    options: dict[str, Any] = {"skip_setup": True}
    if user is not None:
        options["auth"] = {"username": user[0], "password": user[1]}
    remote = await pouch.open_remote(f"{agent.url}/db", **options)
    with pytest.raises(PouchError) as caught:
        await remote.put({"_id": "a"})
    assert (caught.value.status, caught.value.name) == (status, name)
