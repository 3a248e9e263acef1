"""What is read of a database, and how its changes are waited for."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from agent.documents.attachment import Attachment, Content, Inline, Stored, Uploaded
from agent.documents.conditions import RegexTime
from agent.documents.conflict import Conflict
from agent.documents.revision import Revision
from agent.errors import StoreError
from agent.store import changes, listing, lookup
from agent.store.blobs import CHUNK, has_content, read_chunks
from agent.store.changes import ChangesPage
from agent.store.conflicts import ConflictsPage, conflict_of, conflicts_after, conflicts_by_id
from agent.store.find import FindPage, Position, find_page
from agent.store.info import StoreInfo, read_info, read_settings
from agent.store.latest import Latest
from agent.store.listing import DocumentsPage
from agent.store.locals import read_local
from agent.store.lookup import MissingRevs
from agent.store.mango_index import MangoIndex, all_indexes
from agent.store.parts import devices_with_parts, read_parts
from agent.store.planner import Plan
from agent.store.reader import Reader
from agent.store.record import read_record
from agent.store.stored import StoredDocument

_P = ParamSpec("_P")
_T = TypeVar("_T")

_READERS = 4
"""Threads that read, at most; each has a connection to the file. The first comes when needed."""

_EXAMINERS = 2
"""The same for what may take long, which so never keeps others from reading."""

_READ_CHUNKS = 2
"""Chunks of an attachment that are read together, and in memory."""

_SHARED_ROWS = 100
"""Who is further behind than this many changes reads them alone."""

_SHARED_PAGES = 4
"""Answers that are kept until the next write: followers with and without bodies, and slow ones."""

_SHARED_BYTES = 64 * 1024
"""A larger answer is shared by those who ask for it while it is read, and not kept."""


class StoreView:
    """A database as those see it who only read it.

    Besides what the methods name, reads raise StoreError and StoreWriteError when SQLite fails.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        """Blocking: reads what is kept in memory."""
        info = reader.query(read_info)
        self.path = path
        self.uuid = info.uuid
        self.instance_start_time = info.instance_start_time
        made = f"{info.uuid} {info.instance_start_time}".encode()
        self.incarnation = blake2b(made, digest_size=4).hexdigest()
        """8 hex digits; others once the database was deleted and made again."""
        self.update_seq = info.update_seq
        """The sequence of the last change that is durable."""
        self._latest = Latest.nothing(info.update_seq)
        self._reader = reader
        self._settings = reader.query(read_settings)
        self._indexes: Sequence[MangoIndex] = reader.query(all_indexes)
        # Not asyncio's own threads: look-ups of names may fill those for as long as they like.
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix=f"reader {path.name}")
        self._examiners = ThreadPoolExecutor(_EXAMINERS, thread_name_prefix=f"examiner {path.name}")
        self._waiting: set[asyncio.Future[None]] = set()
        self._shared: dict[tuple[int, int, bool], asyncio.Future[ChangesPage]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def setting(self, name: str) -> Any:
        """A setting of this database (JSON), None where it was never set. From memory."""
        return self._settings.get(name)

    async def info(self) -> StoreInfo:
        return await self._read(read_info)

    async def get(self, id: str) -> StoredDocument | None:
        """A document, even a deleted one."""
        return (await self.documents([id])).get(id)

    async def documents(
        self, ids: Sequence[str], *, bounded: bool = False
    ) -> dict[str, StoredDocument]:
        """Those of `ids` that exist, deleted ones included.

        With `bounded` raises TooLargeError when several together exceed 16 MiB.
        """
        return await self._read(lookup.documents_of, ids, bounded=bounded)

    async def first_documents(
        self, ids: Sequence[str], *, bodies: bool = True
    ) -> dict[str, StoredDocument | None]:
        """A page of `ids`, from the first on: each document, or None where there is none."""
        return await self._read(lookup.first_documents, ids, bodies=bodies)

    async def revisions(
        self, wanted: Sequence[tuple[str, Sequence[str]]], *, bounded: bool = False
    ) -> list[list[tuple[str, Revision | None]]]:
        """For each `(id, revs)` each revision asked for; None where there is no body of it.

        Raises TooLargeError when several documents together exceed 16 MiB, with `bounded` also
        when several revisions of one do.
        """
        self._check_open()
        latest = self._latest.revisions(wanted)
        if latest is not None:
            return latest
        return await self._read(lookup.revisions_of, wanted, bounded=bounded)

    async def missing(self, revs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Which of these revisions, by document id, the store has never seen."""
        return {id: missing.revs for id, missing in (await self.revs_diff(revs)).items()}

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> dict[str, MissingRevs]:
        """The same, with the leaves that may be ancestors of what is missing."""
        self._check_open()
        if self._latest.revisions(list(revs.items())) is not None:
            return {}  # all of it is there
        return await self._read(lookup.revs_diff, revs)

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
        this one. Without `bodies` every body may be empty, which saves reading them.
        """
        latest = None if descending else self._changes_now(since, limit)
        if latest is not None:
            return latest
        return await self._read(
            changes.changes_after,
            since,
            limit=limit,
            descending=descending,
            before=before,
            bodies=bodies,
        )

    async def recent_changes(self, since: int, *, limit: int, bodies: bool) -> ChangesPage:
        """The same as `changes`, for those who follow: many who ask at once share one answer."""
        latest = self._changes_now(since, limit)
        if latest is not None:
            return latest
        if self.update_seq - since > _SHARED_ROWS:
            return await self.changes(since, limit=limit, bodies=bodies)
        key = (since, limit, bodies)
        page = self._shared.get(key)
        if page is None or (page.done() and page.exception() is not None):
            page = asyncio.ensure_future(self._recent_changes(key))
            self._shared[key] = page
            if len(self._shared) > _SHARED_PAGES:
                del self._shared[next(iter(self._shared))]
        return await asyncio.shield(page)  # one of them may be cancelled; the others wait on

    def _changes_now(self, since: int, limit: int) -> ChangesPage | None:
        """The same where it takes no reading."""
        self._check_open()
        return self._latest.changes(since, limit)

    async def _recent_changes(self, key: tuple[int, int, bool]) -> ChangesPage:
        since, limit, bodies = key
        page = await self.changes(since, limit=limit, bodies=bodies)
        if page.size > _SHARED_BYTES:
            self._shared.pop(key, None)
        return page

    async def changes_of(self, ids: Sequence[str], since: int, **options: Any) -> ChangesPage:
        """The same as `changes` of some documents, with the options of `changes.changes_of`."""
        return await self._read(changes.changes_of, ids, since, **options)

    async def urgent(self, since: int, *, limit: int) -> list[StoredDocument]:
        """Documents with `"urgent": true` that changed after `since`, at most `limit`, in the order
        of their changes; none when there are no more."""
        return await self._read(changes.urgent_after, since, limit=limit)

    async def count_urgent(self, since: int) -> int:
        """How many documents with `"urgent": true` changed after `since`."""
        return await self._read(changes.count_urgent, since)

    async def pending(self, since: int) -> int:
        """How many changes there are after `since`; an upper bound from 2,000 on."""
        return await self._read(changes.pending_after, since)

    @property
    def indexes(self) -> Sequence[MangoIndex]:
        """The Mango indexes, the special one first. From memory."""
        return self._indexes

    async def find(
        self,
        plan: Plan,
        read: Callable[[FindPage], _T],
        *,
        after: Position | None,
        limit: int,
        conflicts: bool = False,
        time: RegexTime | None = None,
    ) -> tuple[FindPage, _T]:
        """A page of the documents that a planned query finds, at most `limit`.

        With it what `read` makes of the page, in the thread that has read it. `conflicts`: the
        documents have `_conflicts`. Raises SelectorError when `$regex` takes too long on a
        document, or longer than what is left of `time`.
        """

        def found(db: sqlite3.Connection) -> tuple[FindPage, _T]:
            page = find_page(db, plan, after=after, limit=limit, conflicts=conflicts, time=time)
            return page, read(page)

        return await self.query(found)

    async def examine(self, function: Callable[..., _T], *args: Any) -> _T:
        """What a function returns that may take long, called in one of a few threads for such.

        Raises StoreError, also when the store is closed before its turn has come.
        """

        def examined() -> _T:
            self._check_open()
            return function(*args)

        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._examiners, examined)

    async def query(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """What a function reads from one state of the store; as `examine`. It has to be short."""
        return await self.examine(self._reader.query, function)

    async def all_docs(self, **options: Any) -> DocumentsPage:
        """Live documents by id; the options are those of `listing.all_docs`."""
        return await self._read(listing.all_docs, **options)

    async def rank(self, id: str, *, after: str = "") -> int:
        """How many live documents come before `id`, from `after` on."""
        return await self._read(listing.rank, id, after=after)

    async def locals(self, **options: Any) -> DocumentsPage:
        """`_local` documents by id; the options are those of `listing.local_docs`."""
        return await self._read(listing.local_docs, **options)

    async def conflicts_after(self, seq: int, *, limit: int) -> ConflictsPage:
        """Conflicts in the order of the documents' last changes, from after `seq` on."""
        return await self._read(conflicts_after, seq, limit)

    async def conflicts_by_id(
        self, start: str, *, limit: int, after: bool = False
    ) -> ConflictsPage:
        """Conflicts by document id, from `start` on, or from `after` it on."""
        return await self._read(conflicts_by_id, start, limit=limit, inclusive=not after)

    async def conflict(self, id: str) -> Conflict | None:
        """The live leaves of a document, even if it is only one; None where there is none."""
        return await self._read(conflict_of, id)

    async def resolutions(
        self, *, limit: int, after: int | None = None, descending: bool = False
    ) -> list[tuple[int, str]]:
        """The record of resolutions (JSON texts) with their numbers; `after` continues."""
        return await self._read(read_record, limit, after=after, descending=descending)

    async def content(
        self, content: Content, *, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of stored content from `start` to before `end`, in pieces.

        Raises NotFoundError when it was removed meanwhile.
        """
        if isinstance(content, Inline):
            yield content.data[start:end]
            return
        assert isinstance(content, Stored | Uploaded)  # noqa: S101
        upload = content.upload if isinstance(content, Uploaded) else None
        place = start // CHUNK * CHUNK
        while end is None or place < end:
            chunks = await self._read(
                read_chunks, content.blob, upload, place // CHUNK, _READ_CHUNKS
            )
            for chunk in chunks:
                stop = len(chunk) if end is None else end - place
                if piece := chunk[max(start - place, 0) : max(stop, 0)]:
                    yield piece
                place += CHUNK
            if len(chunks) < _READ_CHUNKS:
                return

    async def attachments(self, id: str) -> list[Attachment]:
        """The attachments of all revisions of a document whose bodies are here."""
        return await self._read(lookup.attachments_of, id)

    async def has_content(self, blob: str) -> bool:
        """Whether there is content with this SHA-256 (in hex)."""
        return await self._read(has_content, blob)

    async def get_local(self, id: str) -> tuple[str, str] | None:
        """The revision and the body (JSON text) of `_local/{id}`."""
        return await self._read(read_local, id)

    async def parts(self, device: str) -> list[tuple[str, str]]:
        """A device's parts of documents that are not finished: their ids, and JSON texts."""
        return await self._read(read_parts, device)

    async def devices_with_parts(self) -> list[str]:
        """The devices that have parts of documents."""
        return await self._read(devices_with_parts)

    async def wait(self, since: int) -> None:
        """Wait until there is a change after `since`, or the store is closed."""
        while self.update_seq <= since and not self._closed:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)

    async def wait_a_while(self, since: int, seconds: float) -> None:
        """The same, but no longer than `seconds` or until `wake`. Costs next to no memory."""
        if self.update_seq > since or self._closed:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _release, future)
        self._waiting.add(future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.discard(future)

    def wake(self) -> None:
        """Let everybody go who waits; who waits for a change goes on waiting."""
        for future in self._waiting:
            _release(future)

    async def _read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _T:
        """What a query returns, made in a thread. Raises StoreError."""
        self._check_open()
        ask = partial(self._reader.query, query, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: the store is closed", path=str(self.path))

    def _stop_reading(self) -> None:
        self._threads.shutdown()  # lets those finish that have begun, or wait for a thread
        self._examiners.shutdown()
        self._reader.close()


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
