"""Content of attachments on its way in: streamed to the store, checked, and dropped on failure.

Source: CouchDB documentation, "API Reference > Documents > Attachments".
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec.structs import replace

from agent.documents.attachment import ENCODINGS, Absent, Attachment, attachments_from_json
from agent.errors import DocumentError, RequestError
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject, doc_of, parsed
from agent.server.multipart import End, Head, MalformedError, Parser
from agent.store.store import Store
from agent.store.upload import Upload

_PASSED_OVER = 64 * 1024 * 1024
_PATIENCE = 10.0
"""Bytes, and seconds, of a refused request's rest."""


class Uploads:
    """The uploads of one request. What is not stored with a document is dropped at the end."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._open: Upload | None = None
        self.finished: dict[str, Attachment] = {}
        self.kept = False
        """Set once a document has them."""

    @classmethod
    @asynccontextmanager
    async def of(cls, call: DatabaseCall) -> AsyncIterator[Uploads]:
        """Many clients read an answer only when they have sent everything: after a refusal, what
        is still to come is read, within reason, and forgotten.
        """
        uploads = cls(call.store, call.service.max_attachment)
        try:
            yield uploads
        except (RequestError, DocumentError):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    size = 0
                    async for data in pieces(call.request):
                        size += len(data)
                        if size > _PASSED_OVER:
                            break
            raise
        finally:
            await uploads._end()

    def begin(self) -> None:
        """The next attachment."""
        self._open = self._store.upload()

    async def write(self, name: str, data: bytes) -> None:
        """Raises RequestError (413)."""
        assert self._open is not None  # noqa: S101
        if self._open.length + len(data) > self._limit:
            raise RequestError(413, "attachment_too_large", name)
        await self._open.write(data)

    async def finish(self, told: Attachment) -> Attachment:
        """The attachment, when it is all there. `told` says what it is to be, `length` -1 and
        `digest` empty where that is not known. Raises RequestError.
        """
        assert self._open is not None  # noqa: S101
        # What is encoded is decoded once, whatever length is told: content that cannot be decoded
        # would spoil every answer that has it.
        done = await self._open.finish(told.name, told.content_type, encoding=told.encoding)
        self._open = None
        self.finished[told.name] = done = replace(done, revpos=told.revpos)
        if told.length >= 0 and done.stored_length != told.stored_length:
            raise RequestError(
                400,
                "bad_request",
                f"Attachment {told.name} has {done.stored_length} bytes, not {told.stored_length}",
            )
        if told.digest.startswith("md5-") and told.digest != done.digest:
            raise RequestError(400, "content_md5_mismatch", "Possible message corruption.")
        return done

    async def _end(self) -> None:
        if self._open is not None:
            await self._open.abort()
        if not self.kept:
            await self._store.discard([upload.content for upload in self.finished.values()])


def content_encoding(call: DatabaseCall) -> str | None:
    """The encoding of the body of a request. Raises RequestError (415)."""
    encoding = call.request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and encoding not in ENCODINGS:
        raise RequestError(
            415, "bad_ctype", "Only gzip and identity content-encodings are supported"
        )
    return None if encoding == "identity" else encoding


async def read_attachment(
    call: DatabaseCall, uploads: Uploads, name: str, content_type: str
) -> Attachment:
    """The body of a request as an attachment. Raises RequestError, StoreWriteError."""
    encoding = content_encoding(call)
    digest = call.request.headers.get("Content-MD5", "")
    if digest:
        digest = f"md5-{digest.strip()}"
    uploads.begin()
    async for data in pieces(call.request):
        await uploads.write(name, data)
    return await uploads.finish(
        Attachment(name, content_type, 0, digest, -1, Absent.FOLLOWS, encoding)
    )


async def read_document(call: DatabaseCall, uploads: Uploads) -> JsonObject:
    """The document in a multipart/related request, its attachments in `uploads`.

    The document comes first; the attachments that it says follow come in its order, or say by a
    file name which they are. Raises RequestError, also for a message that was cut off.
    """
    reader = _Reader(call, uploads)
    try:
        parser = Parser(call.request.headers.get("Content-Type", ""))
        async for data in pieces(call.request):
            for event in parser.feed(data):
                await reader.take(event)
        parser.close()
    except MalformedError as error:
        raise RequestError(400, "bad_request", f"Invalid multipart body: {error}") from None
    return reader.document()


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body of a request as it arrives. Raises RequestError when it is cut off."""
    while data := await request.content.readany():
        yield data


class _Reader:
    def __init__(self, call: DatabaseCall, uploads: Uploads) -> None:
        self._limit = call.request.client_max_size
        self._uploads = uploads
        self._text: bytearray | None = None
        self._doc: JsonObject | None = None
        self._awaited: dict[str, Attachment] = {}
        self._current: Attachment | None = None

    async def take(self, event: Head | bytes | End) -> None:
        if isinstance(event, Head):
            self._begin(event)
        elif isinstance(event, bytes):
            if self._current is not None:
                await self._uploads.write(self._current.name, event)
            elif self._text is not None:
                self._text += event
                if len(self._text) > self._limit:
                    raise RequestError(413, "too_large", "the request entity is too large")
        elif event is End.PART and self._current is not None:
            await self._uploads.finish(self._current)
            self._current = None
        elif event is End.PART and self._text is not None:
            self._doc = doc_of(bytes(self._text))
            self._text = None
            members = self._doc.get("_attachments")
            if isinstance(members, dict):
                told = parsed(attachments_from_json, members)
                self._awaited = {item.name: item for item in told if item.content is Absent.FOLLOWS}
                for name in self._awaited:
                    # From here on it is a stub, for which the upload will be put in.
                    members[name] = {**members[name], "stub": True, "follows": False}

    def _begin(self, head: Head) -> None:
        if self._doc is None:
            self._text = bytearray()
            return
        name = head.file_name
        if name not in self._awaited:
            name = next(iter(self._awaited), None)
        if name is None:
            raise RequestError(400, "bad_request", "More attachments follow than the document has")
        told = self._awaited.pop(name)
        if told.encoding is None and head.headers.get("content-encoding", "") in ENCODINGS:
            told = replace(told, encoding=head.headers["content-encoding"], length=-1)
        self._current = told
        self._uploads.begin()

    def document(self) -> JsonObject:
        if self._doc is None:
            raise RequestError(400, "bad_request", "Invalid multipart body: it has no document")
        if self._awaited:
            name = next(iter(self._awaited))
            raise RequestError(400, "bad_request", f"Attachment {name} does not follow")
        return self._doc


def with_uploads(attachments: tuple[Attachment, ...], uploads: Uploads) -> tuple[Attachment, ...]:
    """The attachments of a document, those that came by themselves in their places."""
    return tuple(uploads.finished.get(item.name, item) for item in attachments)


def digest_header(attachment: Attachment) -> str:
    """An attachment's digest as Content-MD5 has it; empty where it is of another kind."""
    kind, _, value = attachment.digest.partition("-")
    try:
        return value if kind == "md5" and base64.b64decode(value) else ""
    except ValueError:
        return ""
