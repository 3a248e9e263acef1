"""Regular expressions that stay below the limit for one document, over many documents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.server import find
from agent.store.store import Store
from tests.patience import PATIENCE, until
from tests.server.api import Api

SLOW = "^(a|aa)+$"
VICTIM = "a" * 25 + "b"
"""SLOW takes some hundredths of a second to see that it does not match."""

QUERY = {"selector": {"a": {"$regex": SLOW}}, "limit": 1}
CHANGES = "/db/_changes?filter=_selector"


@pytest.fixture
async def slow(api: Api) -> Api:
    """`db` has 400 documents that keep a query busy for several seconds."""
    docs = [{"_id": f"d{number:03}", "a": VICTIM} for number in range(400)]
    assert (await api.post("/db/_bulk_docs", {"docs": docs})).status == 201
    return api


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many documents each page of a query has looked at so far."""
    sizes: list[int] = []
    read = Store.find

    async def counted(*args: Any, **options: Any) -> Any:
        page, made = await read(*args, **options)
        sizes.append(page.examined)
        return page, made

    monkeypatch.setattr(Store, "find", counted)
    return sizes


@pytest.mark.parametrize("path", ["/db/_find", CHANGES])
async def test_others_are_served_meanwhile(
    slow: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for longer than anybody here waits: they end with the database.
    monkeypatch.setattr(find, "_REGEX_SECONDS", 2 * PATIENCE)
    monkeypatch.setattr("agent.documents.conditions._LONGEST_MATCH", PATIENCE)
    docs = [{"_id": f"e{number:04}", "a": VICTIM} for number in range(5000)]
    assert (await slow.post("/db/_bulk_docs", {"docs": docs})).status == 201
    hogs = [asyncio.create_task(slow.post(path, QUERY)) for _ in range(6)]
    await asyncio.sleep(0.5)
    async with asyncio.timeout(PATIENCE):
        assert (await slow.get("/db/_all_docs?limit=1")).status == 200
        assert (await slow.get("/db/d001")).status == 200
        assert (await slow.put("/db/new", {"b": 1})).status == 201
        assert (await slow.put("/other")).status == 201
    assert not any(hog.done() for hog in hogs)
    async with asyncio.timeout(PATIENCE):
        assert (await slow.delete("/db")).status == 200
    for hog in asyncio.as_completed(hogs):
        assert (await hog).error[:2] == (404, "not_found")


async def test_all_documents_together_have_a_limit(
    slow: Api, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "_REGEX_SECONDS", 0.6)
    answer = await slow.post("/db/_find", QUERY)
    assert answer.error[:2] == (400, "regex_timeout")
    assert 0 < sum(pages) < 400
    # It counts what the patterns take, and each request has its own.
    plain = {"selector": {"a": {"$regex": "b$"}}, "limit": 1000}
    assert len((await slow.post("/db/_find", plain)).json["docs"]) == 400


async def test_a_page_ends_so_that_others_have_a_turn(slow: Api, pages: list[int]) -> None:
    query = {"selector": {"_id": {"$lt": "d050"}, **QUERY["selector"]}}
    assert (await slow.post("/db/_find", query)).json["docs"] == []
    assert sum(pages) == 50
    assert max(pages) < 50


async def test_a_query_ends_with_its_client(slow: Api, pages: list[int]) -> None:
    hog = asyncio.create_task(slow.post("/db/_find", QUERY))
    await until(lambda: pages)
    hog.cancel()
    await asyncio.wait([hog])
    done = -1
    async with asyncio.timeout(PATIENCE):
        while done != len(pages):
            done = len(pages)
            await asyncio.sleep(1)
    assert sum(pages) < 400
