"""Servers to replicate with: where a database is empty, and where it is filled.

Each gives the URL of a database and, where it runs here, the process id of a server that has done
nothing yet but start.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec
from yarl import URL

from agent.documents.revision import Revision
from agent.documents.wire import document_text
from agent.store.store import Store
from scripts.benchmarks.harness import BenchError, Options
from scripts.benchmarks.processes import running_agent
from scripts.benchmarks.readings import BATCH
from tests.peers.pouchdb_server import PouchDBServer

DATABASE = "bench"

Place = tuple[str, int | None]
"""The URL of a database, and the server's process id."""


class Server(Protocol):
    def empty(self, folder: Path) -> contextlib.AbstractAsyncContextManager[Place]:
        """A database that does not exist yet, or is empty. `folder` is new."""

    def filled(self, folder: Path) -> contextlib.AbstractAsyncContextManager[Place]:
        """A database with all the readings."""


async def fill_store(path: Path, revisions: Sequence[Revision]) -> None:
    """Make a store file with these revisions."""
    store = await Store.open(path)
    try:
        for start in range(0, len(revisions), BATCH):
            await store.graft(revisions[start : start + BATCH])
    finally:
        await store.close()


class Hub:
    """A hub of this agent's. `template` is a store file with all the readings, if one is needed."""

    def __init__(self, template: Path | None = None) -> None:
        self._template = template

    @contextlib.asynccontextmanager
    async def empty(self, folder: Path) -> AsyncIterator[Place]:
        data = str(folder / "hub")
        async with running_agent("hub", "--data", data, "--listen", "127.0.0.1:0") as hub:
            yield f"{hub.url}/{DATABASE}", hub.pid

    @contextlib.asynccontextmanager
    async def filled(self, folder: Path) -> AsyncIterator[Place]:
        (folder / "hub").mkdir()
        copy = folder / "hub" / f"{DATABASE}.sqlite"
        assert self._template is not None
        await asyncio.to_thread(shutil.copy, self._template, copy)
        async with self.empty(folder) as place:
            yield place


class PouchServer:
    """A pouchdb-server, which keeps its databases with LevelDB."""

    def __init__(self, template: Path | None = None) -> None:
        """`template` becomes the folder of a server with all the readings, see `make_template`."""
        self._template = template

    async def make_template(self, revisions: Sequence[Revision]) -> None:
        assert self._template is not None
        async with PouchDBServer(self._template) as server, _session() as session:
            url = URL(server.url) / DATABASE
            await _request(session, "PUT", url)
            await _fill(session, url, revisions)

    @contextlib.asynccontextmanager
    async def empty(self, folder: Path) -> AsyncIterator[Place]:
        async with PouchDBServer(folder / "server") as server:
            yield f"{server.url}/{DATABASE}", server.pid

    @contextlib.asynccontextmanager
    async def filled(self, folder: Path) -> AsyncIterator[Place]:
        assert self._template is not None
        await asyncio.to_thread(shutil.copytree, self._template, folder / "server")
        async with self.empty(folder) as place:
            yield place


class CouchDB:
    """A CouchDB that runs already, with databases of our own that are deleted again."""

    def __init__(self, url: str, revisions: Sequence[Revision] = ()) -> None:
        try:
            self._url = URL(url)
            self._url.origin()
        except ValueError:
            # Without the error's text, which may hold the password.
            raise BenchError("--couchdb is not a URL such as http://user:pass@host:5984") from None
        self._revisions = revisions

    @contextlib.asynccontextmanager
    async def empty(self, folder: Path) -> AsyncIterator[Place]:
        async with self._database(()) as place:
            yield place

    @contextlib.asynccontextmanager
    async def filled(self, folder: Path) -> AsyncIterator[Place]:
        async with self._database(self._revisions) as place:
            yield place

    @contextlib.asynccontextmanager
    async def _database(self, revisions: Sequence[Revision]) -> AsyncIterator[Place]:
        url = self._url / f"edge-agent-bench-{secrets.token_hex(8)}"
        async with _session() as session:
            await _request(session, "PUT", url)
            try:
                await _fill(session, url, revisions)
                yield str(url), None
            finally:
                await _request(session, "DELETE", url)


def peers(options: Options) -> list[tuple[str, Server]]:
    """A hub, and what stands beside it; of use are their empty databases only."""
    found: list[tuple[str, Server]] = [
        ("edge-agent hub", Hub()),
        ("pouchdb-server, LevelDB", PouchServer()),
    ]
    if options.couchdb is not None:
        found.append(("CouchDB", CouchDB(options.couchdb)))
    return found


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))


async def _fill(session: aiohttp.ClientSession, url: URL, revisions: Sequence[Revision]) -> None:
    """Write the revisions into a database."""
    for start in range(0, len(revisions), BATCH):
        docs = ",".join(
            document_text(revision, revisions=True) for revision in revisions[start : start + BATCH]
        )
        body = f'{{"new_edits":false,"docs":[{docs}]}}'.encode()
        refused = await _request(session, "POST", url / "_bulk_docs", body)
        if any("error" in entry for entry in refused):
            raise BenchError(f"{_public(url)} refused readings: {refused[0]}")


async def _request(
    session: aiohttp.ClientSession, method: str, url: URL, body: bytes | None = None
) -> Any:
    headers = {"Content-Type": "application/json"}
    try:
        async with session.request(method, url, data=body, headers=headers) as response:
            answer = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BenchError(f"{method} {_public(url)}: {type(error).__name__}") from None
    if not response.ok:
        raise BenchError(f"{method} {_public(url)}: {response.status} {answer[:200]!r}")
    return msgspec.json.decode(answer)


def _public(url: URL) -> URL:
    return url.with_user(None)
