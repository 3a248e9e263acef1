"""The document store: one SQLite file, one writer, any number of readers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.documents.attachment import Content, Uploaded
from agent.documents.revision import Rev, Revision
from agent.documents.tree import DEFAULT_REVS_LIMIT
from agent.errors import EdgeAgentError, StoreDamagedError, StoreError, StoreWriteError
from agent.store.compaction import compact, give_back
from agent.store.connection import StoreLock, open_writer
from agent.store.opening import damage_met, exists, open_checked, open_or_salvage
from agent.store.reader import Reader
from agent.store.transaction import Edit, Transaction
from agent.store.upload import Upload
from agent.store.view import StoreView
from agent.store.writer import Writer
from agent.threads import in_thread_of_its_own

_T = TypeVar("_T")

log = logging.getLogger(__name__)

_PAGE_SIZE = 4096
"""Of SQLite's files, unless they say otherwise."""


class Tally(msgspec.Struct):
    """What came into one or several databases since somebody began to count."""

    changes: int = 0
    arrived: int = 0
    """Revisions that replication brought, those among them that were here already, too."""
    durable: int = 0
    """Of these, those that are on the disk: then who brought them is told."""


class Store(StoreView):
    """A database. Everything written is durable when the call returns."""

    def __init__(self, path: Path, lock: StoreLock, reader: Reader) -> None:
        """Use `open`."""
        super().__init__(path, reader)
        self.conflicts_seen = 0
        """How often a document has come into conflict, or into another one, since it is open."""
        self.ancestors_kept = 0
        """Generations behind each winner whose bodies compaction leaves, for merges."""
        self.refusal: str | None = None
        """Why no document is taken at the moment, if none is."""
        self.data = 0
        """Bytes of the file's used pages after the latest commit, once there was one."""
        self.tally = Tally()
        """Several stores may share one."""
        self._lock = lock
        self._writer: Writer
        self._compaction: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        revs_limit: int = DEFAULT_REVS_LIMIT,
        salvage: bool = False,
    ) -> Store:
        """Open a store file and make it if there is none and `create` is set.

        With `salvage` a damaged one is set aside, and what can be read of it copied. Raises
        NotFoundError, StoreBusyError (another process has it open), StoreDamagedError and
        StoreError (not a store, from a newer version, read-only).
        """

        def opened() -> tuple[Store, Any]:
            if path.is_dir():
                raise StoreError(
                    f"{path}: a folder; name the file of a store in it", path=str(path)
                )
            if not create and not exists(path):
                open_writer(path, create=False)  # raises, before a lock file is made
            lock = StoreLock(path)
            try:
                opening = open_or_salvage if salvage else open_checked
                connection = opening(path, lock, create=create)
                reader = Reader(path)
                try:
                    return cls(path, lock, reader), connection
                except BaseException:
                    reader.close()
                    lock.closing()
                    connection.close()
                    raise
            except BaseException:
                lock.release()
                raise

        store, connection = await asyncio.to_thread(opened)
        store._writer = Writer(
            connection,
            path,
            revs_limit=store.setting("revs_limit") or revs_limit,
            committed=store._on_commit,
            closing=store._lock.leaving,
        )
        return store

    async def close(self) -> None:
        """Finish the writes that were accepted and release the file.

        It is done to its end though who waits for it is cancelled.
        """
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._compaction is not None:
            self._compaction.cancel()
            await asyncio.wait([self._compaction])
        # The writer last: a read-only connection that is the last one leaves the WAL behind.
        await asyncio.to_thread(self._stop_reading)
        await self._writer.close()
        self._lock.release()
        self.wake()

    async def graft(self, revisions: Sequence[Revision]) -> list[bool]:
        """Store revisions as they are, with their histories (CouchDB's new_edits=false).

        Idempotent, in any order. One bool per revision: True when it was new.
        """
        self.tally.arrived += len(revisions)
        self.check_room()
        fresh = await self._writer.run(lambda transaction: transaction.graft(revisions))
        self.tally.durable += len(revisions)
        return fresh

    async def edit(self, edits: Sequence[Edit]) -> list[Rev | None]:
        """Apply edits that name the revision they replace. None where that is a conflict."""
        self.check_room()
        return await self._writer.run(lambda transaction: transaction.edit(edits))

    async def put_local(self, id: str, rev: str | None, body: str) -> str:
        """Write `_local/{id}` (body: JSON text); returns its new revision. Raises ConflictError."""
        return await self._writer.run(lambda transaction: transaction.locals.put(id, rev, body))

    async def set_setting(self, name: str, value: Any) -> None:
        """Keep a setting, such as "security": any JSON value; None removes it.

        `value` must not be changed afterwards.
        """
        text = None if value is None else msgspec.json.encode(value).decode()
        await self._writer.run(lambda transaction: transaction.set_setting(name, text))
        self._settings[name] = value

    @property
    def revs_limit(self) -> int:
        """How many generations of a document's history are kept."""
        return self._writer.revs_limit

    async def set_revs_limit(self, limit: int) -> None:
        """From now on, for documents as they are written."""
        await self.set_setting("revs_limit", limit)
        self._writer.revs_limit = limit

    async def purge(self, asked: Mapping[str, Sequence[Rev]]) -> dict[str, list[Rev]]:
        """Remove leaves as if they had never been; returns those of each document that were."""
        return await self._writer.run(lambda transaction: transaction.purge(asked))

    @property
    def compacting(self) -> bool:
        return self._compaction is not None and not self._compaction.done()

    def start_compaction(self) -> asyncio.Task[None]:
        """Drop the bodies of old revisions and shrink the file, in the background.

        Returns the compaction that runs. Where it cannot finish, it says so in the log, and what
        it did until then stays done.
        """
        if self._compaction is None or self._compaction.done():
            self._compaction = asyncio.ensure_future(self._compact())
        return self._compaction

    async def _compact(self) -> None:
        try:
            await compact(self._writer, keep=self.ancestors_kept)
        except EdgeAgentError as error:
            log.warning("compaction of %s has stopped: %s; ask for it again", self.path, error)

    def check_room(self) -> None:
        """Raises StoreWriteError while no document is taken, as when the disk is full."""
        if self.refusal is not None:
            raise StoreWriteError(f"{self.path}: {self.refusal}")

    async def give_back(self, *, keep: int = 0) -> None:
        """Give all unused space but `keep` bytes, about, back to the file system; the WAL, too."""
        await give_back(self._writer, keep=keep // _PAGE_SIZE)

    async def write(self, operation: Callable[[Transaction], _T]) -> _T:
        """Several writes as one: all of them become durable, or none."""
        return await self._writer.run(operation)

    async def check(self) -> None:
        """Returns while the writer gets on; nothing is written to the disk.

        Raises StoreDamagedError once the file was found to be damaged, or is gone.
        """
        # asyncio's threads may all be looking up names, which takes long when the network fails.
        look = partial(damage_met, self.path)
        reason = await in_thread_of_its_own(look, name=f"look at {self.path.name}")
        if reason is not None and not self._closed:  # it may just have been deleted
            raise StoreDamagedError(str(self.path), reason)
        await self._writer.check()

    def upload(self) -> Upload:
        """Takes content of an attachment, which is then stored with its document."""
        return Upload(self)

    async def discard(self, contents: Iterable[Content]) -> None:
        """Drop uploads that no document got."""
        given = [content for content in contents if isinstance(content, Uploaded)]

        def operation(transaction: Transaction) -> None:
            for content in given:
                transaction.blobs.discard(content)

        if given:
            await self._writer.run(operation)

    def _on_commit(self, done: Transaction) -> None:
        self._shared.clear()
        self._latest = done.latest
        self.data = done.data
        if done.indexes is not None:
            self._indexes = done.indexes
        self.conflicts_seen += done.changed_conflicts
        if done.new_conflicts:
            log.info(
                "%s: documents that have come into conflict: %d", self.path, done.new_conflicts
            )
        if done.update_seq > self.update_seq:
            self.tally.changes += done.update_seq - self.update_seq
            self.update_seq = done.update_seq
            self.wake()
