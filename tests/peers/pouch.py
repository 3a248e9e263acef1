"""Drives the real PouchDB client, which runs in Node.js, from Python."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from tests.peers.node import PEERS, node_program

Json = dict[str, Any]
Direction = Literal["to", "from", "both"]

_LONGEST_LINE = 64 * 1024 * 1024
_STOP_LIMIT = 5.0


class PouchError(Exception):
    """What PouchDB refused to do: `status` and `name` are as CouchDB has them."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.status: int | None = error.get("status")
        self.name: str | None = error.get("name")
        self.code: str | None = error.get("code")
        """The system's word for why a remote was not reached: ECONNREFUSED and the like."""
        self.reason: str | None = error.get("reason")
        self.result: Json | None = error.get("result")
        super().__init__(f"{self.status} {self.name}: {error.get('message')}")


class Pouch:
    """A Node.js process with PouchDB in it. Use it as an async context manager, which raises what
    is `unhandled` at its end."""

    def __init__(self) -> None:
        self.unhandled: list[PouchError] = []
        """What PouchDB has told nobody of."""
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._live: dict[int, LiveReplication] = {}
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            node_program(),
            str(PEERS / "pouch.mjs"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read(self._process), name="pouch reader")

    async def stop(self) -> None:
        """Ends the process; databases in a folder stay."""
        if self._process is None or self._reader is None:
            return
        process, reader = self._process, self._reader
        self._process = self._reader = None
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_LIMIT)
        except TimeoutError:
            process.kill()
            await process.wait()
        await reader

    async def kill(self) -> None:
        """Ends the process as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self.stop()
        if error is None and self.unhandled:
            raise ExceptionGroup("PouchDB has told nobody of it", self.unhandled)

    def forgive_outages(self) -> None:
        """Nothing was wrong with what is `unhandled` so far, but that a remote was not reached."""
        self.unhandled = [error for error in self.unhandled if error.code is None]

    async def open(self, name: str, *, directory: Path | None = None) -> PouchDatabase:
        """Opens a local database: on LevelDB in the folder, or in memory."""
        if directory is None:
            return await self._open(name, name, {"adapter": "memory"})
        await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
        return await self._open(name, str(directory / name), {"adapter": "leveldb"})

    async def open_remote(self, url: str, **options: Any) -> PouchDatabase:
        """Opens a database on a server; it is created if it is missing (unless skip_setup=True).

        Credentials may be in the address, or be given as auth={"username": …, "password": …}.
        """
        return await self._open(url, url, options)

    async def _open(self, name: str, path: str, options: Json) -> PouchDatabase:
        await self.call("open", name, path, options)
        return PouchDatabase(self, name)

    async def call(self, operation: str, database: str, *arguments: Any) -> Any:
        """Calls a method of a PouchDB database by PouchDB's own name for it."""
        if self._process is None:
            raise RuntimeError("PouchDB is not running")
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        request = {"id": number, "op": operation, "db": database, "args": arguments}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        try:
            await self._process.stdin.drain()
            return await answer
        finally:
            del self._answers[number]

    def new_live_replication(self, database: str) -> LiveReplication:
        live = LiveReplication(self, database, next(self._numbers))
        self._live[live.key] = live
        return live

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = json.loads(line)
            if "unhandled" in message:
                self.unhandled.append(PouchError(message["unhandled"]))
                continue
            if "live" in message:
                self._live[message["live"]].add(message["event"], message["data"])
                continue
            answer = self._answers.get(message["id"])
            if answer is None or answer.done():  # whoever asked has stopped waiting
                continue
            if "error" in message:
                answer.set_exception(PouchError(message["error"]))
            else:
                answer.set_result(message["result"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(RuntimeError("the process with PouchDB in it has ended"))


class PouchDatabase:
    """A database, local or remote. Options have PouchDB's own names: `get("a", revs=True)`."""

    def __init__(self, pouch: Pouch, name: str) -> None:
        self._pouch = pouch
        self.name = name

    async def _call(self, operation: str, *arguments: Any) -> Any:
        return await self._pouch.call(operation, self.name, *arguments)

    async def _object(self, operation: str, *arguments: Any) -> Json:
        result: Json = await self._call(operation, *arguments)
        return result

    async def _list(self, operation: str, *arguments: Any) -> list[Json]:
        result: list[Json] = await self._call(operation, *arguments)
        return result

    async def info(self) -> Json:
        return await self._object("info")

    async def put(self, document: Json, **options: Any) -> Json:
        return await self._object("put", document, options)

    async def bulk_docs(self, documents: Sequence[Json], **options: Any) -> list[Json]:
        """The result also has the errors, as CouchDB's does. Replicas use new_edits=False."""
        return await self._list("bulkDocs", documents, options)

    async def get(self, document_id: str, **options: Any) -> Json:
        return await self._object("get", document_id, options)

    async def open_revs(
        self, document_id: str, revs: Sequence[str] | Literal["all"] = "all", **options: Any
    ) -> list[Json]:
        """Each entry has `ok`, the document, or `missing`, the revision."""
        return await self._list("get", document_id, {**options, "open_revs": revs})

    async def bulk_get(self, documents: Sequence[Json], **options: Any) -> Json:
        return await self._object("bulkGet", {**options, "docs": documents})

    async def remove(self, document_id: str, rev: str) -> Json:
        return await self._object("remove", document_id, rev)

    async def all_docs(self, **options: Any) -> Json:
        return await self._object("allDocs", options)

    async def changes(self, **options: Any) -> Json:
        return await self._object("changes", options)

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Json:
        return await self._object("revsDiff", revs)

    async def put_attachment(
        self,
        document_id: str,
        name: str,
        content: bytes,
        content_type: str,
        *,
        rev: str | None = None,
    ) -> Json:
        encoded = base64.b64encode(content).decode()
        return await self._object("putAttachment", document_id, name, rev, encoded, content_type)

    async def get_attachment(self, document_id: str, name: str, **options: Any) -> bytes:
        return base64.b64decode(await self._call("getAttachment", document_id, name, options))

    async def create_index(self, *fields: str, **options: Any) -> Json:
        return await self._object("createIndex", {**options, "index": {"fields": fields}})

    async def indexes(self) -> list[Json]:
        found: list[Json] = (await self._object("getIndexes"))["indexes"]
        return found

    async def delete_index(self, index: Json) -> Json:
        return await self._object("deleteIndex", index)

    async def find(self, selector: Json, **options: Any) -> Json:
        return await self._object("find", {**options, "selector": selector})

    async def explain(self, selector: Json, **options: Any) -> Json:
        return await self._object("explain", {**options, "selector": selector})

    async def compact(self) -> Json:
        return await self._object("compact")

    async def close(self) -> None:
        await self._call("close")

    async def destroy(self) -> None:
        await self._call("destroy")

    async def replicate_to(self, url: str, **options: Any) -> Json:
        return await self._object("replicate", "to", url, options)

    async def replicate_from(self, url: str, **options: Any) -> Json:
        return await self._object("replicate", "from", url, options)

    async def sync(self, url: str, **options: Any) -> Json:
        """The result has `push` and `pull`."""
        return await self._object("replicate", "both", url, options)

    async def live(
        self, url: str, direction: Direction = "both", **options: Any
    ) -> LiveReplication:
        """Starts a replication that goes on until it is stopped; retry=True outlives outages."""
        live = self._pouch.new_live_replication(self.name)
        await self._call("live", live.key, direction, url, options)
        return live

    async def checkpoint(self, url: str, direction: Literal["to", "from"], **options: Any) -> Json:
        """The checkpoint of a replication: its `id`, and the documents `local` and `remote`.

        The options are those of the replication that go into its id (filter, doc_ids, selector).
        """
        return await self._object("checkpoint", direction, url, options)


class LiveReplication:
    """A replication that goes on. Its events are PouchDB's: paused, active, change, and so on."""

    def __init__(self, pouch: Pouch, database: str, key: int) -> None:
        self.key = key
        self.events: list[tuple[str, Any]] = []
        self._pouch = pouch
        self._database = database
        self._seen = 0
        self._changed = asyncio.Event()

    def add(self, event: str, data: Any) -> None:
        self.events.append((event, data))
        self._changed.set()

    async def wait_for(self, event: str) -> Any:
        """The data of the next event of this name, counted from the last one waited for."""
        while True:
            while self._seen < len(self.events):
                name, data = self.events[self._seen]
                self._seen += 1
                if name == event:
                    return data
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        await self._pouch.call("stopLive", self._database, self.key)


@pytest.fixture
async def pouch() -> AsyncIterator[Pouch]:
    """A process with the real PouchDB client in it."""
    async with Pouch() as pouch:
        yield pouch
