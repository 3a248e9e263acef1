"""Many large documents, in every answer and replication that reads several of them: the memory of
the process does not grow with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from agent.documents.revision import Revision
from agent.store.store import Store
from tests.server.hub_process import Hub, hub

SIZE = 1_000_000
COUNT = 80
MOST = 32 * 1024 * 1024
"""A page is two documents; an answer has it as texts, as bytes and on its way."""

IDS = [f"large{number:02}" for number in range(COUNT)]
BODY = msgspec.json.encode({"type": "large", "text": "x" * SIZE}).decode()
NONE = {"selector": {"type": "other"}}

Request = tuple[str, dict[str, Any] | None, int]
"""Path, body of a POST, and how many of the documents are in the answer."""

FEEDS: list[Request] = [
    ("/db/_changes?include_docs=true", None, COUNT),
    ("/db/_changes?include_docs=true&descending=true", None, COUNT),
    ("/db/_changes?include_docs=true&feed=continuous&timeout=1", None, COUNT),
    ("/db/_changes?include_docs=true&feed=eventsource&timeout=1", None, COUNT),
    # Each limit asks for a page of its own, which followers could share.
    *[(f"/db/_changes?include_docs=true&limit={limit}", None, limit) for limit in (30, 40, 50)],
    ("/db/_changes?include_docs=true&filter=_doc_ids", {"doc_ids": IDS}, COUNT),
]
LISTS: list[Request] = [
    ("/db/_all_docs?include_docs=true", None, COUNT),
    ("/db/_all_docs?include_docs=true&descending=true", None, COUNT),
    ("/db/_all_docs?include_docs=true", {"keys": IDS}, COUNT),
    ("/db/_all_docs?include_docs=true", {"keys": IDS[:1] * COUNT}, COUNT),
    ("/db/_local_docs?include_docs=true", None, COUNT),
    ("/db/_local_docs?include_docs=true", {"keys": [f"_local/{id}" for id in IDS]}, COUNT),
]
SELECTIONS: list[Request] = [
    ("/db/_changes?filter=_selector", NONE, 0),
    ("/db/_changes?filter=_selector&style=all_docs", NONE, 0),
    ("/db/_changes?filter=_selector&feed=continuous&timeout=1", NONE, 0),
    ("/conflicts/_changes?filter=_selector&style=all_docs", NONE, 0),
    *[
        ("/_replicate", {"source": name, "target": "other", "create_target": True} | NONE, 0)
        for name in ("db", "conflicts")
    ],
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of databases: many documents, and one document with as many leaves."""
    folder = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(folder))
    return folder


async def fill(folder: Path) -> None:
    many = await Store.open(folder / "db.sqlite")
    one = await Store.open(folder / "conflicts.sqlite")
    for begin in range(0, COUNT, 10):
        ids = IDS[begin : begin + 10]
        await many.graft([Revision(id, 1, ("a",), False, BODY) for id in ids])
        await one.graft([Revision("a", 1, (id,), False, BODY) for id in ids])
        await asyncio.gather(*(many.put_local(id, None, BODY) for id in ids))
    await many.graft([Revision("small", 1, ("a",), False, "{}")])
    await many.close()
    await one.close()


async def grown(
    process: Hub, session: aiohttp.ClientSession, path: str, body: Any, documents: int
) -> int:
    """Bytes by which the process was larger during a request than before."""
    process.forget()
    before = process.resident()
    method = "GET" if body is None else "POST"
    async with session.request(method, path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        length = 0
        async for piece in answer.content.iter_chunked(65536):
            length += len(piece)
    assert documents * SIZE <= length < (documents + 1) * SIZE, path
    return process.resident() - before


@pytest.mark.parametrize(
    "requests", [FEEDS, LISTS, SELECTIONS], ids=["feeds", "lists", "selections"]
)
async def test_large_documents_in_all_that_reads_many(
    filled: Path, requests: Sequence[Request]
) -> None:
    async with hub(filled) as process, aiohttp.ClientSession(process.url) as session:
        await grown(process, session, "/db/_all_docs?include_docs=true&key=%22small%22", None, 0)
        for request in requests:
            size = await grown(process, session, *request)
            assert size <= MOST, (size, request[0])
