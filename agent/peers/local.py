"""A store of this process as a `Peer`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from agent import __version__
from agent.documents.revision import Revision
from agent.errors import PermanentError
from agent.peers.peer import Change, ChangeBatch, PeerInfo, Seq, WriteResult
from agent.store.store import Store

_json = msgspec.json.Encoder()


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
        self, since: Seq, *, follow: bool, limit: int
    ) -> AsyncGenerator[ChangeBatch, None]:
        if not isinstance(since, int):
            raise PermanentError(f"{self.label}: {since!r} is no sequence of this store")
        while True:
            page = await self._store.changes(since, limit=limit, bodies=False)
            since = page.last_seq
            changes = tuple(
                Change(doc.seq, doc.id, tuple(map(str, doc.leaves())), doc.deleted)
                for doc in page.documents
            )
            yield ChangeBatch(changes, last_seq=since, pending=page.pending)
            if page.pending == 0:
                if not follow:
                    return
                await self._store.wait(since)
                if self._store.closed:
                    return

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        return await self._store.missing(revs)

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        found = await self._store.revisions(wanted)
        return [revision for revs in found for _, revision in revs if revision is not None]

    async def store(self, revisions: Sequence[Revision]) -> Sequence[WriteResult]:
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

    async def ensure_full_commit(self) -> str:
        return self._store.instance_start_time

    async def close(self) -> None:
        """The store belongs to whoever opened it."""
