"""What `_all_docs`, `_design_docs` and `_local_docs` list: documents in the order of their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Unpack

from msgspec.structs import replace

from agent.documents.revision import Rev
from agent.server import local
from agent.store.listing import DocumentsPage, IdRange
from agent.store.store import Store
from agent.store.stored import PAGE_BYTES, StoredDocument

_DESIGN = "_design/"


class Source(Protocol):
    """Documents of one kind. All bounds are whole ids."""

    prefix: str
    """What all of the ids begin with."""

    async def total(self) -> int | None:
        """How many there are; None where nobody counts them."""

    async def rank(self, id: str) -> int:
        """How many come before `id`."""

    async def find(
        self, ids: Sequence[str], *, bodies: bool
    ) -> Mapping[str, StoredDocument | None]:
        """A page of `ids`, from the first on: each document, None where there is none.

        Deleted ones are included.
        """

    async def page(
        self, *, skip: int, limit: int, bodies: bool, **ids: Unpack[IdRange]
    ) -> DocumentsPage:
        """Live ones, in the order of their ids."""


class AllDocs:
    """Every document, design documents included."""

    prefix = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def total(self) -> int | None:
        return (await self._store.info()).doc_count

    async def rank(self, id: str) -> int:
        return await self._store.rank(id, after=self.prefix)

    async def find(
        self, ids: Sequence[str], *, bodies: bool
    ) -> Mapping[str, StoredDocument | None]:
        found = await self._store.first_documents(ids, bodies=bodies)
        return {id: doc if id.startswith(self.prefix) else None for id, doc in found.items()}

    async def page(
        self, *, skip: int, limit: int, bodies: bool, **ids: Unpack[IdRange]
    ) -> DocumentsPage:
        return await self._store.all_docs(skip=skip, limit=limit, bodies=bodies, **ids)


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

    async def find(
        self, ids: Sequence[str], *, bodies: bool
    ) -> Mapping[str, StoredDocument | None]:
        found: dict[str, StoredDocument | None] = {}
        size = 0
        for id in ids:
            name = self._name(id)
            row = await self._store.get_local(name) if name is not None else None
            found[id] = row and _as_document(id, *row)
            size += len(row[1]) if row else 0
            if size > PAGE_BYTES:
                break
        return found

    async def page(
        self, *, skip: int, limit: int, bodies: bool, **ids: Unpack[IdRange]
    ) -> DocumentsPage:
        ids["start"], ids["end"] = self._name(ids.get("start")), self._name(ids.get("end"))
        page = await self._store.locals(skip=skip, limit=limit, **ids)
        documents = [replace(document, id=self.prefix + document.id) for document in page.documents]
        return DocumentsPage(documents, page.complete)

    def _name(self, id: str | None) -> str | None:
        """A bound among the names. One that is none of them stands behind all (see `_Range`)."""
        return id.removeprefix(self.prefix) if id and id.startswith(self.prefix) else None


def _as_document(id: str, rev: str, body: str) -> StoredDocument:
    generation, _, number = rev.partition("-")
    return StoredDocument(0, id, Rev(int(generation), number), False, 0, body, None)
