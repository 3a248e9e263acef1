"""Content of attachments: stored once, under its SHA-256, in chunks.

The tables' side runs in the writer's thread, blocking; `Upload` is for the event loop. What is
uploaded goes to the file in small writes, between which others have theirs; it belongs to nothing
until the transaction that stores its document keeps it. What a crash leaves is removed when the
store is opened, what no revision refers to any more by compaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
import zlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from agent.documents.attachment import (
    Attachment,
    Content,
    Inline,
    Stored,
    Uploaded,
    md5_digest,
)
from agent.errors import DocumentError, NotFoundError

if TYPE_CHECKING:
    from agent.store.store import Store

CHUNK = 256 * 1024
"""Bytes of every chunk but the last one of a blob. It is part of the format of the file."""

NUMBERS = 2**24
"""Chunks of one blob at most: 4 TiB. Chunk n of blob b is in the place b * NUMBERS + n."""

_KEYS = 2**39  # a place, of a key and a number, is an SQLite integer
_PIECE = 4 * CHUNK
"""Bytes in one write, and in memory, of an upload; content up to that comes with its document."""


class Blobs:
    """The tables `blobs` and `chunks`, within a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def append(self, upload: int | None, first: int, data: bytes) -> int:
        """Write the chunks from number `first` on; returns the upload's key, None for a new one."""
        if upload is None:
            # Drawn, not counted: whoever discards an upload late must not meet another one.
            upload = secrets.randbelow(_KEYS)
            self._db.execute("INSERT INTO blobs (id, length) VALUES (?, 0)", (upload,))
        place = upload * NUMBERS + first
        view = memoryview(data)
        self._db.executemany(
            "INSERT INTO chunks (place, data) VALUES (?, ?)",
            (
                (place + number, view[start : start + CHUNK])
                for number, start in enumerate(range(0, len(data), CHUNK))
            ),
        )
        return upload

    def keep(self, attachment: Attachment) -> Attachment | None:
        """The attachment with its content stored for good; None where the content is not here."""
        content = attachment.content
        if isinstance(content, Inline):
            blob = hashlib.sha256(content.data).digest()
            if not self._has(blob):
                self._name(self.append(None, 0, content.data), blob, attachment)
        elif isinstance(content, Uploaded):
            blob = bytes.fromhex(content.blob)
            if self._has(blob):
                self.discard(content)
            else:
                self._name(content.upload, blob, attachment)
        elif isinstance(content, Stored):
            blob = bytes.fromhex(content.blob)
            if not self._has(blob):
                return None
        else:
            return None
        return replace(attachment, content=Stored(blob.hex()))

    def discard(self, content: Content) -> None:
        """Drop an upload, unless it was kept: whoever was cancelled while its document was stored
        does not know."""
        if isinstance(content, Uploaded) and self._is_upload(content.upload):
            self._delete(content.upload)

    def remove_unreferenced(self) -> int:
        """Drop the content that no revision has; returns how many blobs that were."""
        gone = self._db.execute(
            "SELECT id FROM blobs WHERE sha256 IS NOT NULL AND lower(hex(sha256)) NOT IN ("
            "SELECT json_extract(entry.value, '$.blob') FROM docs, json_each(docs.attachments)"
            " AS entry WHERE docs.attachments IS NOT NULL UNION ALL "
            "SELECT json_extract(entry.value, '$.blob') FROM revisions,"
            " json_each(revisions.attachments) AS entry WHERE revisions.attachments IS NOT NULL)"
        ).fetchall()
        for (id,) in gone:
            self._delete(id)
        return len(gone)

    def _has(self, blob: bytes) -> bool:
        return bool(self._db.execute("SELECT 1 FROM blobs WHERE sha256 = ?", (blob,)).fetchone())

    def _is_upload(self, id: int) -> bool:
        row = self._db.execute("SELECT sha256 IS NULL FROM blobs WHERE id = ?", (id,)).fetchone()
        return row is not None and bool(row[0])

    def _name(self, upload: int, blob: bytes, attachment: Attachment) -> None:
        self._db.execute(
            "UPDATE blobs SET sha256 = ?, length = ? WHERE id = ?",
            (blob, attachment.stored_length, upload),
        )

    def _delete(self, id: int) -> None:
        self._db.execute(
            "DELETE FROM chunks WHERE place BETWEEN ? AND ?",
            (id * NUMBERS, id * NUMBERS + NUMBERS - 1),
        )
        self._db.execute("DELETE FROM blobs WHERE id = ?", (id,))


def remove_uploads(connection: sqlite3.Connection) -> None:
    """Drop what uploads left that never ended. Only while nothing is uploaded: at the start."""
    left = connection.execute("SELECT id FROM blobs WHERE sha256 IS NULL").fetchall()
    if left:
        connection.execute("BEGIN IMMEDIATE")
        for (id,) in left:
            Blobs(connection)._delete(id)
        connection.execute("COMMIT")


def read_chunks(
    db: sqlite3.Connection, blob: str, upload: int | None, first: int, count: int
) -> list[bytes]:
    """Up to `count` chunks of stored content, or of an upload. Raises NotFoundError."""
    id = upload
    if id is None:
        key = (bytes.fromhex(blob),)
        row = db.execute("SELECT id FROM blobs WHERE sha256 = ?", key).fetchone()
        if row is None:
            raise NotFoundError("the attachment's content has been removed")
        id = row[0]
    place = id * NUMBERS + first
    return [
        data
        for (data,) in db.execute(
            "SELECT data FROM chunks WHERE place BETWEEN ? AND ? ORDER BY place",
            (place, min(place + count, (id + 1) * NUMBERS) - 1),
        )
    ]


def has_content(db: sqlite3.Connection, blob: str) -> bool:
    """Whether there is content with this SHA-256 (in hex)."""
    sql = "SELECT 1 FROM blobs WHERE sha256 = ?"
    return db.execute(sql, (bytes.fromhex(blob),)).fetchone() is not None


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class Upload:
    """Content on its way into a store, of any size. Ends with `finish` or `abort`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts: list[bytes] = []
        self._waiting = 0
        self._upload: int | None = None
        self._chunks = 0
        self._md5: _Hash = hashlib.md5(usedforsecurity=False)
        self._sha: _Hash = hashlib.sha256()
        self.length = 0
        """Bytes so far."""

    async def write(self, data: bytes) -> None:
        """Raises StoreWriteError."""
        self._parts.append(data)
        self._waiting += len(data)
        self.length += len(data)
        if self._waiting >= 2 * _PIECE:
            joined = b"".join(self._parts)
            self._parts = [joined[_PIECE:]]
            self._waiting -= _PIECE
            await self._flush(joined[:_PIECE])

    async def finish(
        self,
        name: str,
        content_type: str,
        *,
        encoding: str | None = None,
        length: int | None = None,
    ) -> Attachment:
        """The attachment, to be stored with its document.

        `length` is that of the plain content, for those who know it; else what is encoded is
        decoded once more to find out. Raises DocumentError when it cannot be decoded.
        """
        rest = b"".join(self._parts)
        self._parts = []
        content: Content
        if self._upload is None and len(rest) <= _PIECE:
            await asyncio.to_thread(self._hash, rest)
            content = Inline(rest)
        else:
            for start in range(0, len(rest), _PIECE):
                await self._flush(rest[start : start + _PIECE])
            assert self._upload is not None  # noqa: S101
            content = Uploaded(self._upload, self._sha.hexdigest())
        plain = self.length
        if encoding is not None:
            plain = await self._plain_length(content) if length is None else length
        return Attachment(
            name,
            content_type,
            0,
            md5_digest(self._md5.digest()),
            plain,
            content,
            encoding,
            None if encoding is None else self.length,
        )

    async def abort(self) -> None:
        """Drop what was written."""
        self._parts = []
        if self._upload is not None:
            upload, self._upload = self._upload, None
            await self._store.discard([Uploaded(upload, "")])

    async def _flush(self, data: bytes) -> None:
        await asyncio.to_thread(self._hash, data)
        self._upload = await self._store.write(
            partial(_append, upload=self._upload, first=self._chunks, data=data)
        )
        self._chunks += -(-len(data) // CHUNK)

    def _hash(self, data: bytes) -> None:
        self._md5.update(data)
        self._sha.update(data)

    async def _plain_length(self, content: Content) -> int:
        length = 0
        async for piece in decoded(self._store.content(content)):
            length += len(piece)
        return length


def _append(transaction: Any, *, upload: int | None, first: int, data: bytes) -> int:
    key: int = transaction.blobs.append(upload, first, data)
    return key


async def decoded(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What gzip made small, in pieces of bounded size. Raises DocumentError if it is not gzip's."""
    inflate = zlib.decompressobj(wbits=31)
    async for piece in pieces:
        rest = piece
        while rest:
            try:
                data = await asyncio.to_thread(inflate.decompress, rest, CHUNK)
            except zlib.error:
                raise DocumentError("the attachment is not encoded as it says") from None
            if data:
                yield data
            rest = inflate.unconsumed_tail
            if inflate.eof:
                # There may be several members, one after the other (RFC 1952).
                rest = inflate.unused_data
                if rest:
                    inflate = zlib.decompressobj(wbits=31)
    if not inflate.eof:
        raise DocumentError("the attachment is not encoded as it says")
