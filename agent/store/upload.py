"""Content of attachments on its way into a store, and out of what gzip made of it.

It goes to the file in small writes, between which others have theirs.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

from agent.documents.attachment import Attachment, Content, Inline, Uploaded, md5_digest
from agent.errors import DocumentError
from agent.store.blobs import CHUNK
from agent.store.transaction import Transaction

_T = TypeVar("_T")

_PIECE = 4 * CHUNK
"""Bytes in one write, and in memory, of an upload; content up to that comes with its document."""

_MOST_MEMBERS = 10_000
"""Of gzip in an attachment: each costs some time, even an empty one, of 20 bytes."""


class Keeper(Protocol):
    """The store, as far as an upload needs it."""

    async def write(self, operation: Callable[[Transaction], _T]) -> _T:
        """Raises StoreWriteError."""

    async def discard(self, contents: Iterable[Content]) -> None:
        """Drop uploads."""

    def content(self, content: Content) -> AsyncGenerator[bytes, None]:
        """In pieces."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class Upload:
    """Content on its way into a store, of any size. Ends with `finish` or `abort`."""

    def __init__(self, store: Keeper) -> None:
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


def _append(transaction: Transaction, *, upload: int | None, first: int, data: bytes) -> int:
    return transaction.blobs.append(upload, first, data)


async def decoded(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What gzip made small, in pieces of bounded size. Raises DocumentError if it is not gzip's."""
    inflate = zlib.decompressobj(wbits=31)
    members = 1
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
                    members += 1
                    if members > _MOST_MEMBERS:
                        raise DocumentError(
                            f"the attachment has more than {_MOST_MEMBERS:,} members of gzip"
                        )
    if not inflate.eof:
        raise DocumentError("the attachment is not encoded as it says")
