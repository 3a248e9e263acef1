"""Documents as they are stored: rows of `docs`, and how many of them fill a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.documents.attachment import attachments_from_store
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree

PAGE_BYTES = 1024 * 1024
"""A page ends with the document that exceeds this."""

COLUMNS = "seq, id, gen, hash, deleted, conflicts, body, tree, attachments"
"""What `document_of` takes."""

_json = msgspec.json.Decoder(msgspec.Raw)  # which looks at everything and makes nothing of it

_NO_BODY = COLUMNS.replace("body", "''")


class StoredDocument(msgspec.Struct, frozen=True):
    """A row of `docs`: a document as its winning revision shows it."""

    seq: int
    id: str
    rev: Rev
    deleted: bool
    conflicts: int
    body: str
    encoded_tree: bytes | None
    encoded_attachments: str | None = None

    def tree(self) -> RevTree:
        if self.encoded_tree is not None:
            return RevTree.decode(self.encoded_tree)
        return RevTree.of(self.revision())

    def leaves(self) -> list[Rev]:
        """All leaf revisions, the winner first."""
        return [self.rev] if self.encoded_tree is None else self.tree().leaves()

    def revision(self) -> Revision:
        """The winner with its history."""
        if self.encoded_tree is None:
            path: tuple[str, ...] = (self.rev.hash,)
        else:
            path = RevTree.decode(self.encoded_tree).path(self.rev)
        return Revision(
            self.id,
            self.rev.generation,
            path,
            self.deleted,
            self.body,
            attachments_from_store(self.encoded_attachments),
        )


def columns(*, bodies: bool) -> str:
    """The same columns; without `bodies` every body is empty, which saves reading them."""
    return COLUMNS if bodies else _NO_BODY


def document_of(row: tuple[Any, ...]) -> StoredDocument:
    seq, id, generation, digest, deleted, conflicts, body, tree, attachments = row
    rev = Rev(generation, digest)
    if body != "":
        sound(body)
    return StoredDocument(seq, id, rev, bool(deleted), conflicts, body, tree, attachments)


def sound(body: Any) -> str:
    """The text of a body that is as it was stored: JSON. It goes as it is into answers with others,
    and to remotes, which could not read any of them.

    Raises msgspec.DecodeError: the store is damaged.
    """
    if not isinstance(body, str):
        raise msgspec.DecodeError("a body is no text")
    _json.decode(body)
    return body


def size_of(row: tuple[Any, ...]) -> int:
    """About the bytes that a document takes."""
    return len(row[1]) + len(row[6]) + len(row[7] or b"") + len(row[8] or "")


def filled(
    rows: Iterable[tuple[Any, ...]], most_bytes: int = PAGE_BYTES
) -> tuple[list[StoredDocument], int]:
    """The documents that fill a page; what comes after them is not read. And their size."""
    documents = []
    size = 0
    for row in rows:
        documents.append(document_of(row))
        size += size_of(row)
        if size > most_bytes:
            break
    return documents, size
