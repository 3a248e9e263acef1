"""The database `_replicator`: each document in it is a replication.

Source: CouchDB documentation, "Replication > Replicator Database". As in CouchDB since 2.3, a
document gets a `_replication_state` only when its replication is over: `completed`, or `failed`
where it cannot be done. What happens before that is told by `_scheduler/docs`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.documents.revision import canonical
from agent.documents.wire import body_text
from agent.errors import RequestError, StoreError
from agent.replication.manager import Manager
from agent.replication.scheduler import NODE, Replication, doc_entry, iso_time, statistics
from agent.replication.spec import Spec, parse_endpoint, parse_spec
from agent.store.store import Store
from agent.store.stored import StoredDocument
from agent.store.transaction import Edit

log = logging.getLogger(__name__)

NAME = "_replicator"

_PAGE = 100
_OVER = ("completed", "failed")


class ReplicatorDatabase:
    """Keeps the replications of the documents going, and their states up to date."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._active: dict[str, tuple[Spec, Replication]] = {}

    async def run(self) -> None:
        """Follow the database, whenever there is one. Ends only when it is cancelled."""
        while True:
            with self._manager.databases.using(NAME):
                store = await self._manager.databases.wait_for(NAME)
                try:
                    await self._follow(store)
                finally:
                    for id in list(self._active):
                        await self._stop(id)

    async def docs(self) -> list[dict[str, Any]]:
        """`_scheduler/docs`: all documents, by id."""
        databases = self._manager.databases
        if NAME not in await databases.names():
            return []
        with databases.using(NAME):
            return await self._docs(await databases.get(NAME))

    async def _docs(self, store: Store) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        start: str | None = None
        while True:
            page = await store.all_docs(start=start, inclusive_start=False, limit=_PAGE)
            for document in page.documents:
                if not document.id.startswith("_design/"):
                    entries.append(self._entry(document))
            if page.complete:
                return entries
            start = page.documents[-1].id

    def _entry(self, document: StoredDocument) -> dict[str, Any]:
        _, replication = self._active.get(document.id, (None, None))
        if replication is not None:
            return doc_entry(replication)
        body = _members(document)
        stats = body.get("_replication_stats")
        reason = body.get("_replication_state_reason")
        state = body.get("_replication_state")
        changed = body.get("_replication_state_time")
        started = stats.get("start_time") if isinstance(stats, dict) else None
        return {
            "id": None,
            "database": NAME,
            "doc_id": document.id,
            "source": _shown(body.get("source")),
            "target": _shown(body.get("target")),
            "source_proxy": None,
            "target_proxy": None,
            "state": state if state in _OVER else "initializing",
            "info": {"error": reason} if state == "failed" else stats,
            "error_count": 1 if state == "failed" else 0,
            "start_time": started or changed,
            "last_updated": changed,
            "node": NODE,
            "pid": None,
        }

    async def _follow(self, store: Store) -> None:
        """Until the database is deleted."""
        seq = 0
        while not store.closed:
            try:
                page = await store.changes(seq, limit=_PAGE)
            except StoreError:
                if store.closed:
                    return
                raise
            for document in page.documents:
                await self._changed(store, document)
            seq = page.last_seq
            if page.pending == 0:
                await store.wait(seq)

    async def _changed(self, store: Store, document: StoredDocument) -> None:
        if document.id.startswith("_design/"):
            return
        body = _members(document)
        if document.deleted or body.get("_replication_state") in _OVER:
            await self._stop(document.id)
            return
        try:
            spec = parse_spec(body)
            running, _ = self._active.get(document.id, (None, None))
            if running == spec:
                return
            await self._stop(document.id)
            self._check_single(spec)
        except RequestError as error:
            await self._stop(document.id)
            log.warning("%s/%s cannot be done: %s", NAME, document.id, error)
            await _set_state(store, document.id, "failed", reason=str(error))
            return

        async def ended(replication: Replication) -> None:
            stats = {
                **statistics(replication.job.progress),
                "start_time": iso_time(replication.started),
            }
            await _set_state(store, document.id, "completed", stats=stats)
            self._active.pop(document.id, None)

        replication = self._manager.start(spec, database=NAME, doc_id=document.id, ended=ended)
        self._active[document.id] = (spec, replication)

    def _check_single(self, spec: Spec) -> None:
        for id, (other, replication) in self._active.items():
            if other.purpose == spec.purpose:
                raise RequestError(
                    409,
                    "conflict",
                    f"Replication `{replication.id}` is started already, by document `{id}` of the "
                    f"database `{NAME}`",
                )

    async def _stop(self, id: str) -> None:
        _, replication = self._active.pop(id, (None, None))
        if replication is not None:
            await self._manager.stop(replication)


async def _set_state(
    store: Store,
    id: str,
    state: str,
    *,
    reason: str | None = None,
    stats: Mapping[str, Any] | None = None,
) -> None:
    """Write the state into a document, unless it was deleted. Edits made meanwhile are kept."""
    while True:
        document = await store.get(id)
        if document is None or document.deleted:
            return
        body = _members(document)
        body["_replication_state"] = state
        body["_replication_state_time"] = iso_time(time.time())
        for name, value in (("_state_reason", reason), ("_stats", stats)):
            body.pop(f"_replication{name}", None)
            if value is not None:
                body[f"_replication{name}"] = value
        edit = Edit(id, document.rev, False, body_text(body), canonical(body))
        [rev] = await store.edit([edit])
        if rev is not None:
            return


def _members(document: StoredDocument) -> dict[str, Any]:
    return msgspec.json.decode(document.body, type=dict[str, Any])


def _shown(endpoint: Any) -> str | None:
    """A source or target without credentials; None where it cannot be told what is secret."""
    try:
        return str(parse_endpoint(endpoint, "endpoint"))
    except RequestError:
        return None
