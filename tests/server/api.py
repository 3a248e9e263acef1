"""A really listening server of this process, and a small client for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from agent.server.app import make_app
from agent.server.http import Server, serve
from agent.store.databases import Databases

_SEQUENCE = re.compile("([0-9]+)-[0-9a-f]{8}")
_SEQUENCES = ("seq", "last_seq", "update_seq")


def number_in(sequence: Any) -> int:
    """The number in a sequence; fails if it is none."""
    assert isinstance(sequence, str), sequence
    found = _SEQUENCE.fullmatch(sequence)
    assert found, sequence
    return int(found[1])


def numbered(body: Any) -> Any:
    """A feed or a row of it, with the numbers of its sequences, which may be null in rows."""
    if isinstance(body, list):
        return [numbered(row) for row in body]
    told = {name: number_in(body[name]) for name in _SEQUENCES if body.get(name) is not None}
    rows = {"results": numbered(body["results"])} if "results" in body else {}
    return {**body, **told, **rows}


@dataclass(frozen=True)
class Answer:
    """An answer that was read completely."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str, str]:
        """The status, and CouchDB's two words on it; fails if there is more or less."""
        body = self.json
        assert set(body) == {"error", "reason"}, body
        return self.status, body["error"], body["reason"]


class Api:
    """Requests by path. Paths are sent as they are, percent-encoding included."""

    def __init__(self, server: Server, databases: Databases, session: aiohttp.ClientSession):
        self.server = server
        self.databases = databases
        self.session = session

    @property
    def url(self) -> str:
        return self.server.url

    def open(self, method: str, path: str, **options: Any) -> Any:
        """An answer that is still to be read; `async with`."""
        url = aiohttp.client.URL(self.url + path, encoded=True)
        return self.session.request(method, url, **options)

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        async with self.open(method, path, **options) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.text())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Answer:
        if body is not None:
            options["json"] = body
        return await self.request("PUT", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("POST", path, json=body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        return await self.request("DELETE", path, **options)

    async def write(self, id: str, *, db: str = "db", **members: Any) -> str:
        """Create or edit a document, with `_rev` in the members; returns its revision."""
        [result] = (await self.post(f"/{db}/_bulk_docs", {"docs": [{"_id": id, **members}]})).json
        rev: str = result["rev"]
        return rev

    async def graft(self, id: str, *revs: str, db: str = "db", **members: Any) -> None:
        """Store a revision with its history, the newest first, as replication does."""
        generation = int(revs[0].partition("-")[0])
        history = {"start": generation, "ids": [rev.partition("-")[2] for rev in revs]}
        doc = {"_id": id, "_rev": revs[0], "_revisions": history, **members}
        answer = await self.post(f"/{db}/_bulk_docs", {"docs": [doc], "new_edits": False})
        assert (answer.status, answer.json) == (201, [])

    async def update_seq(self, db: str = "db") -> int:
        """The number of the newest change."""
        return number_in((await self.get(f"/{db}")).json["update_seq"])

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and read until the server closes."""
        reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


@asynccontextmanager
async def running(folder: Path, *, port: int = 0, **options: Any) -> AsyncIterator[Api]:
    """A server over the databases in a folder; the options are those of `make_app`."""
    databases = Databases(folder)
    server = await serve(make_app(databases, **options), "127.0.0.1", port)
    # As CouchDB's clients do; without it, some answers are multipart.
    accept = {"Accept": "application/json"}
    async with aiohttp.ClientSession(headers=accept) as session:
        try:
            yield Api(server, databases, session)
        finally:
            await server.close()
            await databases.close()
