"""What `_all_docs`, `_design_docs` and `_local_docs` list: documents in the order of their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.documents.revision import Rev
from agent.server import local
from agent.store.reader import StoredDocument
from agent.store.store import Store

_DESIGN = "_design/"


class Source(Protocol):
    """Documents of one kind. All bounds are whole ids."""

    prefix: str
    """What all of the ids begin with."""

    async def total(self) -> int | None:
        """How many there are; None where nobody counts them."""

    async def rank(self, id: str) -> int:
        """How many come before `id`."""

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredDocument]:
        """Those of `ids` that exist, deleted ones included."""

    async def page(
        self,
        *,
        start: str | None,
        end: str | None,
        inclusive_end: bool,
        descending: bool,
        skip: int,
        limit: int,
        bodies: bool,
    ) -> Sequence[StoredDocument]:
        """Live ones from `start` on; `start` is above `end` when they come `descending`."""


class AllDocs:
    """Every document, design documents included."""

    prefix = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def total(self) -> int | None:
        return (await self._store.info()).doc_count

    async def rank(self, id: str) -> int:
        return await self._store.rank(id, after=self.prefix)

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredDocument]:
        return await self._store.documents([id for id in ids if id.startswith(self.prefix)])

    async def page(
        self,
        *,
        start: str | None,
        end: str | None,
        inclusive_end: bool,
        descending: bool,
        skip: int,
        limit: int,
        bodies: bool,
    ) -> Sequence[StoredDocument]:
        return await self._store.all_docs(
            start=start,
            end=end,
            inclusive_end=inclusive_end,
            descending=descending,
            skip=skip,
            limit=limit,
            bodies=bodies,
        )


class DesignDocs(AllDocs):
    """Design documents."""

    prefix = _DESIGN

    async def total(self) -> int | None:
        return await self._store.rank(_DESIGN[:-1] + "0", after=_DESIGN)


class LocalDocs:
    """`_local` documents. CouchDB does not count them."""

    prefix = local.PREFIX

    def __init__(self, store: Store) -> None:
        self._store = store

    async def total(self) -> int | None:
        return None

    async def rank(self, id: str) -> int:
        return 0

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredDocument]:
        found = {}
        for id in ids:
            if id.startswith(self.prefix):
                row = await self._store.get_local(id.removeprefix(self.prefix))
                if row is not None:
                    found[id] = _as_document(id, *row)
        return found

    async def page(
        self,
        *,
        start: str | None,
        end: str | None,
        inclusive_end: bool,
        descending: bool,
        skip: int,
        limit: int,
        bodies: bool,
    ) -> Sequence[StoredDocument]:
        rows = await self._store.locals(
            start=self._name(start),
            end=self._name(end),
            inclusive_end=inclusive_end,
            descending=descending,
            skip=skip,
            limit=limit,
        )
        return [_as_document(self.prefix + name, rev, body) for name, rev, body in rows]

    def _name(self, id: str | None) -> str | None:
        """A bound among the names. One that is none of them stands behind all (see `_Range`)."""
        return id.removeprefix(self.prefix) if id and id.startswith(self.prefix) else None


def _as_document(id: str, rev: str, body: str) -> StoredDocument:
    generation, _, number = rev.partition("-")
    return StoredDocument(0, id, Rev(int(generation), number), False, 0, body, None)
