"""Documents in answers together with the contents of their attachments, streamed.

Source: CouchDB documentation, "API Reference > Documents > GET /{db}/{docid}" (attachments,
att_encoding_info, atts_since) and "Efficient Multiple Attachments Retrieving".
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, described, disposition
from agent.documents.revision import Rev, Revision
from agent.errors import EdgeAgentError, RequestError
from agent.server.answers import Stream, json_text
from agent.server.call import DatabaseCall, decode, parse_rev
from agent.server.render import rendered
from agent.store.store import Store
from agent.store.upload import decoded


class Show(msgspec.Struct, frozen=True):
    """What an answer has of attachments: their contents (`data`; only those that revisions `since`
    do not have), their encodings.
    """

    data: bool = False
    encoding_info: bool = False
    since: tuple[Rev, ...] = ()

    @classmethod
    def asked(cls, call: DatabaseCall) -> Show:
        """By `attachments`, `att_encoding_info` and `atts_since`. Raises RequestError."""
        query = call.request.query
        if "attachments" not in query and "att" not in call.request.query_string:
            return NOTHING
        since: tuple[Rev, ...] = ()
        text = query.get("atts_since")
        if text is not None:
            revs = decode(text.encode(errors="replace"), Any)
            if not isinstance(revs, list):
                raise RequestError(400, "bad_request", "atts_since must be an array of revisions")
            since = tuple(parse_rev(rev) for rev in revs)
        return cls(
            call.flag("attachments") or text is not None, call.flag("att_encoding_info"), since
        )

    def newer_than(self, known: Sequence[Rev]) -> Show:
        """Contents, but for those that the revisions `known` have; if there are any of these."""
        return replace(self, data=True, since=tuple(known)) if known else self

    def includes(self, revision: Revision, attachment: Attachment) -> bool:
        """Whether the content goes along."""
        if not self.data:
            return False
        known = 0
        for rev in self.since:
            step = revision.generation - rev.generation
            if 0 <= step < len(revision.path) and revision.path[step] == rev.hash:
                known = max(known, rev.generation)
        return attachment.revpos > known or known == 0


NOTHING = Show()


def accepts(request: web.Request, kind: str) -> bool:
    """Whether the client takes this type of content; as CouchDB, `*/*` takes all."""
    for entry in request.headers.get("Accept", "*/*").split(","):
        name, *parameters = [part.strip().lower() for part in entry.split(";")]
        if name in (kind, kind.partition("/")[0] + "/*", "*/*"):
            return not any(parameter in ("q=0", "q=0.0") for parameter in parameters)
    return False


async def write_document(
    stream: Stream,
    store: Store,
    revision: Revision,
    show: Show,
    *,
    revisions: bool = False,
    members: Mapping[str, Any] | None = None,
) -> None:
    """Write the JSON text of a document, contents in Base64."""
    if not (show.data and revision.attachments):
        await stream.write(
            rendered(
                revision, revisions=revisions, members=members, encoding_info=show.encoding_info
            )
        )
        return
    text = rendered(revision.with_attachments(()), revisions=revisions, members=members)
    separator = text.rstrip()[:-1] + ',"_attachments":{'
    for attachment in revision.attachments:
        entry = described(attachment, encoding_info=show.encoding_info)
        if not show.includes(revision, attachment):
            entry |= {"length": attachment.length, "stub": True}
            await stream.write(f"{separator}{json_text(attachment.name)}:{json_text(entry)}")
        else:
            head = json_text(entry)[:-1]
            await stream.write(f'{separator}{json_text(attachment.name)}:{head},"data":"')
            rest = b""
            async for piece in whole(stream, content(store, attachment, plain=True)):
                data = rest + piece
                even = len(data) // 3 * 3
                await stream.write(base64.b64encode(data[:even]).decode())
                rest = data[even:]
            await stream.write(base64.b64encode(rest).decode() + '"}')
        separator = ","
    await stream.write("}}")


def related_type(boundary: str) -> str:
    """The content type of a document with its attachments."""
    return f'multipart/related; boundary="{boundary}"'


async def write_related(
    stream: Stream,
    store: Store,
    revision: Revision,
    show: Show,
    *,
    boundary: str,
    revisions: bool = False,
    members: Mapping[str, Any] | None = None,
) -> None:
    """Write a document as multipart/related, the contents as they are stored."""
    sent = [item for item in revision.attachments if show.includes(revision, item)]
    shown = tuple(
        replace(item, content=Absent.FOLLOWS if item in sent else Absent.STUB)
        for item in revision.attachments
    )
    text = rendered(
        revision.with_attachments(shown),
        revisions=revisions,
        members=members,
        encoding_info=True,
    )
    await stream.write(f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{text}")
    for item in sent:
        encoding = f"Content-Encoding: {item.encoding}\r\n" if item.encoding else ""
        await stream.write(
            f"\r\n--{boundary}\r\n"
            f"Content-Disposition: {disposition(item.name)}\r\n"
            f"Content-Type: {item.content_type}\r\n"
            f"Content-Length: {item.stored_length}\r\n{encoding}\r\n"
        )
        async for piece in whole(stream, content(store, item, plain=False)):
            await stream.write_bytes(piece)
    await stream.write(f"\r\n--{boundary}--")


class Parts:
    """An answer of documents and errors as parts of a multipart message.

    Documents that have attachments are multipart/related, with the contents, asked for or not, but
    for what `atts_since` makes unnecessary.
    """

    def __init__(self, call: DatabaseCall, show: Show, *, kind: str = "multipart/mixed") -> None:
        self._store = call.store
        self._show = replace(show, data=True)
        self._revisions = call.flag("revs")
        self._boundary = secrets.token_hex(16)
        content_type = f'{kind}; boundary="{self._boundary}"'
        self._stream = Stream(call.request, headers={"Content-Type": content_type})
        self._between = "--"

    async def document(self, revision: Revision, *, known: Sequence[Rev] = ()) -> None:
        """Write a part with a document, without contents that revisions `known` have already."""
        show = self._show.newer_than(known)
        if any(show.includes(revision, item) for item in revision.attachments):
            inner = secrets.token_hex(16)
            await self._part(related_type(inner))
            await write_related(
                self._stream,
                self._store,
                revision,
                show,
                boundary=inner,
                revisions=self._revisions,
            )
        else:
            await self._part("application/json")
            text = rendered(revision, revisions=self._revisions, encoding_info=True)
            await self._stream.write(text)

    async def error(self, value: Any) -> None:
        """Write a part that says what is not there, as JSON."""
        await self._part('application/json; error="true"')
        await self._stream.write(json_text(value))

    async def finish(self) -> web.StreamResponse:
        """Send the rest; the handler returns the result."""
        await self._stream.write(f"{self._between}{self._boundary}--")
        return await self._stream.finish()

    async def _part(self, content_type: str) -> None:
        await self._stream.write(
            f"{self._between}{self._boundary}\r\nContent-Type: {content_type}\r\n\r\n"
        )
        self._between = "\r\n--"


async def document_answer(
    call: DatabaseCall,
    revision: Revision,
    show: Show,
    *,
    headers: Mapping[str, str],
    revisions: bool,
    members: Mapping[str, Any] | None,
) -> web.StreamResponse:
    """The answer to GET of a document with contents: multipart/related, or JSON."""
    if accepts(call.request, "multipart/related"):
        boundary = secrets.token_hex(16)
        stream = Stream(call.request, headers={**headers, "Content-Type": related_type(boundary)})
        await write_related(
            stream,
            call.store,
            revision,
            show,
            boundary=boundary,
            revisions=revisions,
            members=members,
        )
        return await stream.finish()
    stream = Stream(call.request, headers=headers)
    await write_document(stream, call.store, revision, show, revisions=revisions, members=members)
    await stream.write("\n")
    return await stream.finish()


def content(store: Store, attachment: Attachment, *, plain: bool) -> AsyncGenerator[bytes, None]:
    """The content of a stored attachment, `plain` or as it is stored."""
    pieces = store.content(attachment.content)
    return decoded(pieces) if plain and attachment.encoding else pieces


async def whole(stream: Stream, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The pieces; when they fail after the answer has begun, the connection ends with them, since
    nothing else would tell the client that something is missing.
    """
    try:
        async for piece in pieces:
            yield piece
    except EdgeAgentError:
        if not stream.begun:
            raise
        stream.abort()
        raise ConnectionError from None
