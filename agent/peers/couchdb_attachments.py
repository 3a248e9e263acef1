"""Attachments over CouchDB's HTTP API, streamed in both directions.

They are read one by one (GET /{db}/{doc}/{attachment}?rev=): so nothing is sent that the target
has, a lost connection costs one attachment, and every server has that. Small ones are written
inline with _bulk_docs, others as multipart/related.

Source: CouchDB documentation, "API Reference > Documents > Attachments".
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from urllib.parse import quote

from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, Inline, disposition
from agent.documents.revision import Revision
from agent.documents.wire import document_text
from agent.errors import ConnectError, EdgeAgentError, NotFoundError
from agent.peers.couchdb_documents import DocumentWriter, check_database, document_path
from agent.peers.http import HttpClient
from agent.peers.http_errors import ErrorBody
from agent.peers.http_messages import OK, StreamedBody
from agent.peers.peer import Contents, WriteResult

_INLINE = 64 * 1024
"""Bytes of all attachments of a revision up to which they go inline, a third larger but without a
request of their own."""

_INLINE_AT_ONCE = 1024 * 1024
"""Bytes of content in one _bulk_docs."""

_REFUSED = frozenset({400, 403, 409, 412, 413, 415})


async def read_attachment(
    http: HttpClient, db: str, revision: Revision, attachment: Attachment
) -> AsyncGenerator[bytes, None]:
    """As `Peer.attachment`."""
    path = f"{db}/{document_path(revision.id)}/{attachment_path(attachment.name)}"
    async with http.download(
        path, query={"rev": str(revision.rev)}, encoding=attachment.encoding
    ) as read:
        while data := await read():
            yield data


def attachment_path(name: str) -> str:
    """An attachment's place below its document. Slashes stay, unless a server would drop some."""
    odd = name.startswith("/") or name.endswith("/") or "//" in name
    return quote(name, safe="" if odd else "/")


class AttachmentWriter:
    """Writes revisions whose attachments are in `contents`."""

    def __init__(
        self, http: HttpClient, db: str, documents: DocumentWriter, contents: Contents
    ) -> None:
        self._http = http
        self._db = db
        self._documents = documents
        self._contents = contents

    async def store(self, revisions: Sequence[Revision]) -> list[WriteResult]:
        """As `Peer.store`."""
        results: dict[int, WriteResult] = {}
        waiting: dict[int, Revision] = {}
        size = 0
        for place, revision in enumerate(revisions):
            if not _goes_inline(revision):
                results[place] = await self._put(revision)
                continue
            try:
                waiting[place] = await self._inline(revision)
            except NotFoundError as error:
                results[place] = _failed(revision, "not_found", str(error))
                continue
            size += sum(attachment.length for attachment in revision.attachments)
            if size >= _INLINE_AT_ONCE:
                written = await self._documents.store(list(waiting.values()))
                results.update(zip(waiting, written, strict=True))
                waiting, size = {}, 0
        written = await self._documents.store(list(waiting.values()))
        results.update(zip(waiting, written, strict=True))
        return [results[place] for place in range(len(revisions))]

    async def _inline(self, revision: Revision) -> Revision:
        attachments = []
        for attachment in revision.attachments:
            data = b""
            async with aclosing(self._contents(revision, attachment)) as pieces:
                async for piece in pieces:
                    data += piece
            if len(data) != attachment.length:
                raise _changed(attachment, len(data))
            attachments.append(replace(attachment, content=Inline(data)))
        return revision.with_attachments(attachments)

    async def _put(self, revision: Revision) -> WriteResult:
        """PUT /{db}/{doc}?new_edits=false; what earlier revisions brought as stubs at first."""
        if any(0 < item.revpos < revision.generation for item in revision.attachments):
            result = await self._put_some(revision, since=revision.generation)
            if result.error != "missing_stub":
                return result
        return await self._put_some(revision, since=0)

    async def _put_some(self, revision: Revision, *, since: int) -> WriteResult:
        """Send the contents of attachments that came with generation `since` or later."""
        message = _Message(revision, since, self._contents)
        body = StreamedBody(message.content_type, message.length, message.pieces)
        try:
            answer = await self._http.request(
                "PUT",
                f"{self._db}/{document_path(revision.id)}",
                query={"new_edits": "false"},
                body=body,
                accept=OK | _REFUSED | {404},
            )
        except EdgeAgentError:
            # A source that fails makes sending fail; it is the source's error that tells why.
            if isinstance(message.error, NotFoundError):
                return _failed(revision, "not_found", str(message.error))
            if message.error is not None:
                raise message.error from None
            raise
        if answer.status in OK:
            return WriteResult(revision.id, str(revision.rev))
        check_database(answer)
        told = answer.json(ErrorBody)
        word = "too_large" if answer.status == 413 else told.error or "bad_request"
        return _failed(revision, word, told.reason)


class _Message:
    """A revision as multipart/related. `error` is that of the source, when it failed."""

    def __init__(self, revision: Revision, since: int, contents: Contents) -> None:
        self._revision = revision
        self._contents = contents
        self.error: EdgeAgentError | None = None
        boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; boundary="{boundary}"'
        self._sent = [item for item in revision.attachments if item.revpos >= since]
        shown = tuple(
            replace(item, content=Absent.FOLLOWS if item in self._sent else Absent.STUB)
            for item in revision.attachments
        )
        text = document_text(revision.with_attachments(shown), revisions=True, encoding_info=True)
        head = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{text}\r\n--{boundary}"
        self._heads = [head.encode()]
        for item in self._sent:
            encoding = f"Content-Encoding: {item.encoding}\r\n" if item.encoding else ""
            self._heads[-1] += (
                f"\r\nContent-Disposition: {disposition(item.name)}\r\n"
                f"Content-Type: {item.content_type}\r\n"
                f"Content-Length: {item.stored_length}\r\n{encoding}\r\n"
            ).encode()
            self._heads.append(f"\r\n--{boundary}".encode())
        self._heads[-1] += b"--"
        self.length = sum(map(len, self._heads)) + sum(item.stored_length for item in self._sent)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The message, piece by piece."""
        try:
            yield self._heads[0]
            for item, tail in zip(self._sent, self._heads[1:], strict=True):
                size = 0
                async with aclosing(self._contents(self._revision, item)) as pieces:
                    async for piece in pieces:
                        size += len(piece)
                        if size > item.stored_length:
                            break
                        yield piece
                if size != item.stored_length:
                    raise _changed(item, size)
                yield tail
        except EdgeAgentError as error:
            self.error = error
            raise


def _goes_inline(revision: Revision) -> bool:
    return (
        all(attachment.encoding is None for attachment in revision.attachments)
        and sum(attachment.length for attachment in revision.attachments) <= _INLINE
    )


def _failed(revision: Revision, error: str, reason: str | None) -> WriteResult:
    return WriteResult(revision.id, str(revision.rev), error, reason)


def _changed(attachment: Attachment, size: int) -> ConnectError:
    return ConnectError(
        f"attachment {attachment.name} came with {size} of {attachment.stored_length} bytes; "
        "try again"
    )
