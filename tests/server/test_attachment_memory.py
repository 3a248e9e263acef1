"""A large attachment up and down, through a process of its own: its memory stays flat."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.server.hub_process import hub

PIECE = bytes(range(256)) * 1024
PIECES = 400  # 100 MiB
MOST = 16 * 1024 * 1024
LISTS = ("_all_docs?", "_changes?", "_changes?feed=continuous&timeout=1&")


async def pieces(start: int = 0) -> AsyncIterator[bytes]:
    for number in range(start, PIECES):
        yield number.to_bytes(4, "big") + PIECE[4:]


async def digest(content: AsyncIterator[bytes]) -> str:
    sha = hashlib.sha256()
    async for piece in content:
        sha.update(piece)
    return sha.hexdigest()


async def length(answer: aiohttp.ClientResponse) -> int:
    assert answer.status == 200, await answer.text()
    return sum([len(piece) async for piece in answer.content.iter_chunked(65536)])


async def test_100_mb_up_and_down(tmp_path: Path) -> None:
    async with hub(tmp_path) as process, aiohttp.ClientSession(process.url) as session:
        await (await session.put("/db")).read()
        await (await session.put("/db/first/f", data=io.BytesIO(PIECE * 16))).read()
        await (await session.get("/db/first/f")).read()
        before = process.resident()
        answer = await session.put("/db/a/f", data=pieces())
        assert answer.status == 201, await answer.text()
        up = process.resident() - before
        answer = await session.get("/db/a/f")
        received = await digest(answer.content.iter_chunked(65536))
        down = process.resident() - before
    assert received == await digest(pieces())
    assert max(up, down) <= MOST, (up, down)


async def test_100_mb_in_lists_of_documents(tmp_path: Path) -> None:
    async with hub(tmp_path) as process, aiohttp.ClientSession(process.url) as session:
        await (await session.put("/db")).read()
        await (await session.put("/db/a/f", data=pieces())).read()
        before = process.resident()
        grown = {}
        for path in LISTS:
            answer = await session.get(f"/db/{path}include_docs=true&attachments=true")
            assert await length(answer) > len(PIECE) * PIECES * 4 / 3
            grown[path] = process.resident() - before
        keys = json.dumps({"keys": ["a"]})
        path = "/db/_all_docs?include_docs=true&attachments=true"
        headers = {"Content-Type": "application/json"}
        answer = await session.post(path, data=keys, headers=headers)
        assert await length(answer) > len(PIECE) * PIECES * 4 / 3
        grown["keys"] = process.resident() - before
    assert max(grown.values()) <= MOST, grown
