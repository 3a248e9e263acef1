"""Mango through the real PouchDB, with its own pouchdb-find and pouchdb-server to compare with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.pouch import Pouch, PouchDatabase, PouchError
from tests.peers.pouchdb_server import PouchDBServer
from tests.server.api import Api, running

HEROES: list[dict[str, Any]] = [
    {"_id": "mario", "name": "Mario", "rank": 5, "series": "Mario", "debut": 1981, "tags": ["red"]},
    {"_id": "puff", "name": "Jigglypuff", "rank": 8, "series": "Pokemon", "debut": 1996},
    {"_id": "link", "name": "Link", "rank": 10, "series": "Zelda", "debut": 1986, "tags": []},
    {"_id": "dk", "name": "Donkey Kong", "rank": 7, "series": "Mario", "debut": 1981},
    {"_id": "fox", "name": "Fox", "rank": 3, "series": "Star Fox", "debut": None},
    {"_id": "ness", "name": "Ness", "rank": 9, "where": {"world": "Eagleland", "level": 2}},
    {"_id": "yoshi", "name": "Yoshi", "rank": 6, "series": "Mario", "tags": ["green", "egg"]},
    {"_id": "odd", "name": 7, "rank": "high", "series": False, "debut": [1990], "a.b": 1},
]

# Not among them: negations where the field is missing, which PouchDB lets through and CouchDB, as
# the agent, does not; and texts whose order PouchDB takes from JavaScript.
QUERIES: list[dict[str, Any]] = [
    {"selector": {"series": "Mario"}},
    {"selector": {"series": "Mario", "debut": {"$gte": 1981}}},
    {"selector": {"rank": {"$gt": 5}}},
    {"selector": {"rank": {"$gt": 5, "$lte": 9}}, "sort": [{"rank": "desc"}]},
    {"selector": {"rank": {"$lt": 7}}, "sort": ["rank"], "limit": 2},
    {"selector": {"rank": {"$gte": None}}, "sort": ["rank"], "skip": 2},
    {"selector": {"rank": {"$in": [3, 8]}}},
    {"selector": {"rank": {"$gt": None, "$nin": [3, 8]}}},
    {"selector": {"debut": {"$eq": None}}},
    {"selector": {"debut": {"$exists": True}}},
    {"selector": {"_id": {"$gt": "f"}, "debut": {"$exists": False}}},
    {"selector": {"where.level": 2}},
    {"selector": {"where.world": {"$regex": "^Eagle"}}},
    {"selector": {"a\\.b": 1}},
    {"selector": {"tags": {"$all": ["egg"]}}},
    {"selector": {"tags": {"$size": 0}}},
    {"selector": {"tags": {"$elemMatch": {"$eq": "red"}}}},
    {"selector": {"rank": {"$mod": [2, 1]}}},
    {"selector": {"name": {"$type": "number"}}},
    {"selector": {"$or": [{"rank": 3}, {"series": "Zelda"}]}},
    {"selector": {"$and": [{"rank": {"$gt": 3}}, {"$not": {"rank": 8}}]}},
    {"selector": {"$nor": [{"rank": 3}, {"series": "Mario"}], "debut": {"$exists": True}}},
    {"selector": {"_id": {"$gte": "m"}}, "sort": ["_id"]},
    {"selector": {"name": {"$gt": "M"}}, "sort": ["name"]},
]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path / "agent") as api:
        yield api


@pytest.fixture
async def remote(agent: Api, pouch: Pouch) -> PouchDatabase:
    """The agent's database `db`, through PouchDB's http adapter."""
    return await pouch.open_remote(f"{agent.url}/db")


def by_name(index: dict[str, Any]) -> str:
    return str(index["name"])


async def fill(db: PouchDatabase) -> None:
    await db.bulk_docs(HEROES)
    await db.create_index("rank", ddoc="ranks", name="rank")
    await db.create_index("name", ddoc="names", name="name")
    await db.create_index("series", "debut", ddoc="series", name="series")


async def answers(db: PouchDatabase) -> list[list[str]]:
    """The ids found by each query; in their order where one was asked for."""
    found = []
    for query in QUERIES:
        options = {key: value for key, value in query.items() if key != "selector"}
        docs = (await db.find(query["selector"], fields=["_id"], **options))["docs"]
        ids = [doc["_id"] for doc in docs]
        found.append(ids if "sort" in query else sorted(ids))
    return found


async def test_the_agent_finds_what_pouchdb_and_pouchdb_server_find(
    remote: PouchDatabase, pouch: Pouch, shared_pouchdb_server: PouchDBServer
) -> None:
    local = await pouch.open("local")
    server = await pouch.open_remote(f"{shared_pouchdb_server.url}/compared-finds")
    for db in (remote, local, server):
        await fill(db)
    expected = await answers(local)
    assert await answers(server) == expected
    assert await answers(remote) == expected
    assert sum(map(len, expected)) > 40


async def test_indexes_are_created_listed_used_and_deleted(remote: PouchDatabase) -> None:
    await fill(remote)
    again = await remote.create_index("rank", ddoc="ranks", name="rank")
    assert again == {"result": "exists", "id": "_design/ranks", "name": "rank"}
    indexes = sorted(await remote.indexes(), key=by_name)
    assert [each["name"] for each in indexes] == ["_all_docs", "name", "rank", "series"]
    explained = await remote.explain({"rank": {"$gt": 3}})
    assert explained["index"]["ddoc"] == "_design/ranks"
    assert await remote.delete_index(indexes[2]) == {"ok": True}
    explained = await remote.explain({"rank": {"$gt": 3}})
    assert explained["index"]["type"] == "special"
    with pytest.raises(PouchError) as error:
        await remote.find({"rank": {"$gt": 3}}, sort=["rank"])
    assert (error.value.status, error.value.name) == (400, "no_usable_index")


async def test_an_index_made_by_pouchdb_works_where_it_is_replicated_to(
    remote: PouchDatabase, agent: Api, pouch: Pouch
) -> None:
    local = await pouch.open("local")
    await fill(local)
    await local.replicate_to(f"{agent.url}/db")
    explained = await remote.explain({"series": "Mario", "debut": {"$gt": 1980}})
    assert explained["index"]["name"] == "series"
    found = await remote.find({"rank": {"$gt": 8}}, sort=["rank"], fields=["_id"])
    assert [doc["_id"] for doc in found["docs"]] == ["ness", "link", "odd"]
    assert "warning" not in found


async def test_an_index_made_by_the_agent_works_in_pouchdb(
    remote: PouchDatabase, agent: Api, pouch: Pouch
) -> None:
    await fill(remote)
    local = await pouch.open("local")
    await local.replicate_from(f"{agent.url}/db")
    explained = await local.explain({"rank": {"$gt": 3}})
    assert explained["index"]["ddoc"] == "_design/ranks"
    assert await answers(local) == await answers(remote)


async def test_replication_from_the_agent_by_selector(
    remote: PouchDatabase, agent: Api, pouch: Pouch
) -> None:
    await fill(remote)
    local = await pouch.open("local")
    await local.replicate_from(f"{agent.url}/db", selector={"series": "Mario"})
    rows = (await local.all_docs())["rows"]
    assert [row["id"] for row in rows] == ["dk", "mario", "yoshi"]
