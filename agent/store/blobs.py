"""Content of attachments: stored once, under its SHA-256, in chunks.

What is uploaded (`upload.py`) belongs to nothing until the transaction that stores its document
keeps it. What a crash leaves is removed when the store is opened, what no revision refers to any
more by compaction.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3

from msgspec.structs import replace

from agent.documents.attachment import (
    Attachment,
    Content,
    Inline,
    Stored,
    Uploaded,
)
from agent.errors import NotFoundError

CHUNK = 256 * 1024
"""Bytes of every chunk but the last one of a blob. It is part of the format of the file."""

NUMBERS = 2**24
"""Chunks of one blob at most: 4 TiB. Chunk n of blob b is in the place b * NUMBERS + n."""

_KEYS = 2**39  # a place, of a key and a number, is an SQLite integer


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
