"""The document store: one SQLite file, one writer, any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agent.documents.revision import Rev, Revision
from agent.documents.tree import DEFAULT_REVS_LIMIT
from agent.errors import StoreError
from agent.store.connection import StoreLock, open_writer
from agent.store.reader import ChangesPage, Reader, StoredDocument, StoreInfo
from agent.store.transaction import Edit, Transaction
from agent.store.writer import Writer

_T = TypeVar("_T")


class Store:
    """A database. Everything written is durable when the call returns.

    Besides what the methods name, reads raise StoreError and StoreWriteError when SQLite fails.
    """

    def __init__(self, path: Path, lock: StoreLock, reader: Reader, info: StoreInfo) -> None:
        """Use `open`."""
        self.path = path
        self.uuid = info.uuid
        self.instance_start_time = info.instance_start_time
        self.update_seq = info.update_seq
        """The sequence of the last change that is durable."""
        self._lock = lock
        self._reader = reader
        self._writer: Writer
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, *, create: bool = True, revs_limit: int = DEFAULT_REVS_LIMIT
    ) -> Store:
        """Open a store file and make it if there is none and `create` is set.

        Raises NotFoundError, StoreBusyError (another process has it open) and StoreError (not a
        store, from a newer version, read-only, damaged).
        """

        def opened() -> tuple[Store, Any]:
            if path.is_dir():
                raise StoreError(
                    f"{path}: a folder; name the file of a store in it", path=str(path)
                )
            if not create and not path.exists():
                open_writer(path, create=False)  # raises, before a lock file is made
            lock = StoreLock(path)
            try:
                connection = open_writer(path, create=create)
                reader = Reader(path)
                try:
                    return cls(path, lock, reader, reader.info()), connection
                except BaseException:
                    reader.close()
                    connection.close()
                    raise
            except BaseException:
                lock.release()
                raise

        store, connection = await asyncio.to_thread(opened)
        store._writer = Writer(connection, path, revs_limit=revs_limit, committed=store._on_commit)
        return store

    async def close(self) -> None:
        """Finish the writes that were accepted and release the file."""
        if self._closed:
            return
        self._closed = True
        # The writer last: a read-only connection that is the last one leaves the WAL behind.
        await asyncio.to_thread(self._reader.close)
        await self._writer.close()
        self._lock.release()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    @property
    def closed(self) -> bool:
        return self._closed

    # --- writing -----------------------------------------------------------------------

    async def graft(self, revisions: Sequence[Revision]) -> list[bool]:
        """Store revisions as they are, with their histories (CouchDB's new_edits=false).

        Idempotent, in any order. One bool per revision: True when it was new.
        """
        return await self._writer.run(lambda transaction: transaction.graft(revisions))

    async def edit(self, edits: Sequence[Edit]) -> list[Rev | None]:
        """Apply edits that name the revision they replace. None where that is a conflict."""
        return await self._writer.run(lambda transaction: transaction.edit(edits))

    async def put_local(self, id: str, rev: str | None, body: str) -> str:
        """Write `_local/{id}` (body: JSON text); returns its new revision. Raises ConflictError."""
        return await self._writer.run(lambda transaction: transaction.put_local(id, rev, body))

    async def delete_local(self, id: str, rev: str | None) -> bool:
        """Delete `_local/{id}`; False when there is none. Raises ConflictError."""
        return await self._writer.run(lambda transaction: transaction.delete_local(id, rev))

    async def write(self, operation: Callable[[Transaction], _T]) -> _T:
        """Several writes as one: all of them become durable, or none."""
        return await self._writer.run(operation)

    # --- reading -----------------------------------------------------------------------

    async def info(self) -> StoreInfo:
        return await asyncio.to_thread(self._reader.info)

    async def get(self, id: str) -> StoredDocument | None:
        """A document, even a deleted one."""
        return (await self.documents([id])).get(id)

    async def documents(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Those of `ids` that exist, deleted ones included."""
        return await asyncio.to_thread(self._reader.documents, ids)

    async def revisions(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[tuple[str, Revision | None]]]:
        """For each `(id, revs)` each revision asked for; None where there is no body of it.

        Raises TooLargeError when several documents together exceed 16 MiB.
        """
        return await asyncio.to_thread(self._reader.revisions, wanted)

    async def missing(self, revs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Which of these revisions, by document id, the store has never seen."""
        return await asyncio.to_thread(self._reader.missing, revs)

    async def changes(
        self,
        since: int,
        *,
        limit: int,
        descending: bool = False,
        before: int | None = None,
        bodies: bool = True,
    ) -> ChangesPage:
        """A page of what changed after `since`; each document once, at its last change.

        With `descending` the newest come first, and the next page is `before` the last sequence of
        this one. Without `bodies` every body is empty, which saves reading them.
        """
        return await asyncio.to_thread(
            self._reader.changes,
            since,
            limit=limit,
            descending=descending,
            before=before,
            bodies=bodies,
        )

    async def pending(self, since: int) -> int:
        """How many changes there are after `since`; an upper bound from 10,000 on."""
        return await asyncio.to_thread(self._reader.pending, since)

    async def all_docs(self, **options: Any) -> list[StoredDocument]:
        """Live documents by id; the options are those of `Reader.all_docs`."""
        return await asyncio.to_thread(self._reader.all_docs, **options)

    async def rank(self, id: str) -> int:
        """How many live documents come before `id`."""
        return await asyncio.to_thread(self._reader.rank, id)

    async def get_local(self, id: str) -> tuple[str, str] | None:
        """The revision and the body (JSON text) of `_local/{id}`."""
        return await asyncio.to_thread(self._reader.local, id)

    async def wait(self, since: int) -> None:
        """Wait until there is a change after `since`, or the store is closed."""
        while self.update_seq <= since and not self._closed:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)

    def _on_commit(self, update_seq: int) -> None:
        if update_seq > self.update_seq:
            self.update_seq = update_seq
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
