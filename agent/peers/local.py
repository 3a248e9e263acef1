"""A store of this process as a `Peer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from agent import __version__
from agent.documents.attachment import Attachment
from agent.documents.ranges import Leaves, Range, Span
from agent.documents.revision import Revision
from agent.documents.selector import Selector, SelectorError, parse_selector
from agent.documents.tree import DamagedTreeError
from agent.errors import PermanentError
from agent.peers.arrivals import store_with_attachments
from agent.peers.peer import Change, ChangeBatch, Contents, PeerInfo, Seq, WriteResult
from agent.store import range_digests
from agent.store.databases import Databases
from agent.store.selecting import matching_leaves
from agent.store.sequences import number_of
from agent.store.store import Store
from agent.store.stored import StoredDocument

_json = msgspec.json.Encoder()

_GATHER = 0.2
"""Seconds before what is urgent is looked for again, while much is written."""


class LocalPeer:
    """Replicates with a `Store`. Its sequences are integers; closing it leaves the store open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.identity = f"store:{store.uuid}"
        self.label = str(store.path)

    async def info(self) -> PeerInfo:
        info = await self._store.info()
        return PeerInfo(
            update_seq=info.update_seq,
            doc_count=info.doc_count,
            instance_start_time=info.instance_start_time,
            server=f"edge-sync-agent {__version__}",
        )

    async def create(self) -> None:
        """A store that is open exists."""

    async def changes(
        self,
        since: Seq,
        *,
        follow: bool,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        since = self._number(since)
        ids = None if doc_ids is None else frozenset(doc_ids)
        wanted = None if selector is None else self._parsed(selector)
        while True:
            page = await self._store.changes(since, limit=limit, bodies=wanted is not None)
            since = page.last_seq
            changes = await self._told(page.documents, wanted, ids)
            yield ChangeBatch(changes, last_seq=since, pending=page.pending)
            if page.pending == 0:
                if not follow:
                    return
                await self._store.wait(since)
                if self._store.closed:
                    return

    async def urgent_changes(
        self,
        since: int,
        *,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        ids = None if doc_ids is None else frozenset(doc_ids)
        wanted = None if selector is None else self._parsed(selector)
        while True:
            now = self._store.update_seq
            while documents := await self._store.urgent(since, limit=limit):
                since = documents[-1].seq
                yield ChangeBatch(await self._told(documents, wanted, ids), last_seq=since)
            since = max(since, now)
            await self._store.wait(since)
            if self._store.closed:
                return
            await asyncio.sleep(_GATHER)

    async def count_pending(self, since: int) -> int:
        return await self._store.pending(since)

    async def count_urgent(self, since: int) -> int:
        return await self._store.count_urgent(since)

    async def _told(
        self,
        documents: Sequence[StoredDocument],
        wanted: Selector | None,
        ids: frozenset[str] | None,
    ) -> tuple[Change, ...]:
        """The documents' changes as a selection lets them be told."""
        documents = [doc for doc in documents if ids is None or doc.id in ids]
        if wanted is None:
            try:
                leaves = [doc.leaves() for doc in documents]
            except DamagedTreeError:  # noted, and told, where it is met by a query
                leaves = await self._store.query(lambda _: [doc.leaves() for doc in documents])
        else:
            leaves = await matching_leaves(self._store, documents, wanted)
        return tuple(
            Change(doc.seq, doc.id, tuple(map(str, revs)), doc.deleted)
            for doc, revs in zip(documents, leaves, strict=True)
            if revs
        )

    def _number(self, since: Seq) -> int:
        """Clients know the store's sequences from the HTTP API, as strings."""
        try:
            return since if isinstance(since, int) else number_of(self._store, str(since))
        except ValueError:
            raise PermanentError(f"{self.label}: {since!r} is no sequence of this store") from None

    def _parsed(self, selector: Mapping[str, Any]) -> Selector:
        try:
            return parse_selector(selector)
        except SelectorError as error:
            raise PermanentError(f"{self.label}: the selector is refused ({error})") from None

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        return await self._store.missing(revs)

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        found = await self._store.revisions(wanted, bounded=True)
        return [revision for revs in found for _, revision in revs if revision is not None]

    def attachment(self, revision: Revision, attachment: Attachment) -> AsyncGenerator[bytes, None]:
        return self._store.content(attachment.content)

    async def store(
        self, revisions: Sequence[Revision], contents: Contents | None = None
    ) -> Sequence[WriteResult]:
        if any(revision.attachments for revision in revisions):
            return await store_with_attachments(self._store, revisions, contents)
        await self._store.graft(revisions)
        return [WriteResult(revision.id, str(revision.rev)) for revision in revisions]

    async def get_local(self, id: str) -> dict[str, Any] | None:
        found = await self._store.get_local(id)
        if found is None:
            return None
        rev, body = found
        return {**msgspec.json.decode(body, type=dict[str, Any]), "_rev": rev}

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        body = {key: value for key, value in doc.items() if key not in ("_id", "_rev")}
        return await self._store.put_local(id, doc.get("_rev"), _json.encode(body).decode())

    async def ranges(self, level: int, spans: Sequence[Span]) -> Sequence[Sequence[Range]]:
        return await range_digests.ranges(self._store, level, spans)

    async def leaves(self, span: Span, limit: int) -> Sequence[Leaves]:
        return await range_digests.leaves(self._store, span, limit)

    async def ensure_full_commit(self) -> str:
        return self._store.instance_start_time

    async def close(self) -> None:
        """The store belongs to whoever opened it."""


class DatabasePeer(LocalPeer):
    """Replicates with a database of this process by its name.

    It may be deleted and made again meanwhile: `info`, with which every replication begins, opens
    what has the name then. Nothing else may be called before. From then on it stays open until the
    peer is closed.
    """

    def __init__(self, databases: Databases, name: str) -> None:
        self._databases = databases
        self._use = ExitStack()
        self.identity = ""
        """Empty until the store was opened."""
        self.label = name

    async def info(self) -> PeerInfo:
        """Raises NotFoundError; DocumentError for a name that no database can have."""
        self._use.close()
        self._use.enter_context(self._databases.using(self.label))
        self._store = await self._databases.get(self.label)
        self.identity = f"store:{self._store.uuid}"
        return await super().info()

    async def create(self) -> None:
        await self._databases.ensure(self.label)

    async def close(self) -> None:
        """Let go of the database."""
        self._use.close()
