"""Single attachments.

Source: CouchDB documentation, "API Reference > Documents > Attachments > /{db}/{docid}/{attname}".
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec.structs import replace

from agent.documents.attachment import DEFAULT_CONTENT_TYPE, Absent, Attachment, checked_name
from agent.documents.revision import canonical
from agent.documents.wire import checked_id
from agent.errors import ConflictError, EdgeAgentError, NotFoundError, RequestError
from agent.server.answers import BASIC_HEADERS, accepts_encoding, answer, etag, has_already
from agent.server.attached import content
from agent.server.call import DocumentCall, parse_rev
from agent.server.documents import wanted
from agent.server.edits import given_rev, parsed
from agent.server.uploads import Uploads, digest_header, read_attachment
from agent.store.transaction import Edit

_RANGES = re.compile(r"bytes=(\s*(?:\d+-\d*|-\d+)\s*(?:,\s*(?:\d+-\d*|-\d+)\s*)*)\Z")
_MOST_RANGES = 9


class AttachmentCall(DocumentCall, frozen=True):
    """A request to an attachment; its name may have slashes in it."""

    attachment: str


async def get(call: AttachmentCall) -> web.StreamResponse:
    """GET and HEAD, with `rev`, Range and If-None-Match. The ETag is the digest."""
    document = await call.store.get(call.id)
    if document is None:
        raise NotFoundError(f"{call.id}: no such document")
    found = _named(call, (await wanted(call, document)).attachments)
    tag = etag(digest_header(found) or found.digest)
    if has_already(call.request, tag):
        return web.Response(status=304, headers={**BASIC_HEADERS, "ETag": tag})
    headers = {
        **BASIC_HEADERS,
        "ETag": tag,
        "Content-Type": found.content_type,
        "Accept-Ranges": "none" if found.encoding else "bytes",
        # A page that somebody attached must not act in the name of this server.
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    if found.encoding:
        headers["Vary"] = "Accept-Encoding"
        if accepts_encoding(call.request, found.encoding):
            headers["Content-Encoding"] = found.encoding
            headers["Content-MD5"] = digest_header(found)
            return await _send(call, found, headers, 200, 0, found.stored_length, plain=False)
        return await _send(call, found, headers, 200, 0, found.length, plain=True)
    ranges = _ranges(call.request.headers.get("Range"), found.length)
    if len(ranges) == 1:
        [(first, last)] = ranges
        headers["Content-Range"] = f"bytes {first}-{last}/{found.length}"
        return await _send(call, found, headers, 206, first, last + 1, plain=False)
    if ranges:
        return await _send_ranges(call, found, headers, ranges)
    if digest := digest_header(found):
        headers["Content-MD5"] = digest
    return await _send(call, found, headers, 200, 0, found.length, plain=False)


async def put(call: AttachmentCall) -> web.Response:
    """PUT: a new revision with the body as this attachment; makes the document if need be."""
    name = parsed(checked_name, call.attachment)
    id = parsed(checked_id, call.id)
    rev = given_rev(call, None)
    content_type = call.request.headers.get("Content-Type", DEFAULT_CONTENT_TYPE)
    async with Uploads.of(call) as uploads:
        new = await read_attachment(call, uploads, name, content_type)
        edit = Edit(id, None, False, "{}", b"{}", (new,))
        if rev is not None:
            edit = await _edit_of(call, rev, new)
        [written] = await call.store.edit([edit])
        uploads.kept = written is not None
    return _written(call, written, 201)


async def delete(call: AttachmentCall) -> web.Response:
    """DELETE: a new revision without this attachment."""
    rev = given_rev(call, None)
    await call.live_document(call.id)
    if rev is None:
        raise ConflictError("Document update conflict.")
    edit = await _edit_of(call, rev, None)
    [written] = await call.store.edit([edit])
    return _written(call, written, 200)


async def _edit_of(call: AttachmentCall, rev: str, new: Attachment | None) -> Edit:
    """The edit of a revision that adds `new`, or takes the attachment away."""
    [[(_, revision)]] = await call.store.revisions([(call.id, [rev])])
    if revision is None:
        raise ConflictError("Document update conflict.")
    if new is None:
        _named(call, revision.attachments)
    others = tuple(
        replace(item, content=Absent.STUB)
        for item in revision.attachments
        if item.name != call.attachment
    )
    body = msgspec.json.decode(revision.body, type=dict[str, Any])
    attachments = others if new is None else (new, *others)
    return Edit(call.id, parse_rev(rev), False, revision.body, canonical(body), attachments)


def _named(call: AttachmentCall, attachments: Sequence[Attachment]) -> Attachment:
    for found in attachments:
        if found.name == call.attachment:
            return found
    raise NotFoundError(
        f"{call.id}: no attachment {call.attachment}", reason="Document is missing attachment"
    )


def _written(call: AttachmentCall, rev: Any, status: int) -> web.Response:
    if rev is None:
        raise ConflictError("Document update conflict.")
    location = f"{call.url(call.name, call.id)}/{quote(call.attachment)}"
    return answer(
        {"ok": True, "id": call.id, "rev": str(rev)},
        status=status,
        headers={"ETag": etag(rev), "Location": location},
    )


# --- sending ---------------------------------------------------------------------------


async def _send(
    call: AttachmentCall,
    attachment: Attachment,
    headers: dict[str, str],
    status: int,
    start: int,
    end: int,
    *,
    plain: bool,
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - start
    await response.prepare(call.request)
    if call.request.method != "HEAD":
        if plain:
            await _copy(call, response, content(call.store, attachment, plain=True))
        else:
            pieces = call.store.content(attachment.content, start=start, end=end)
            await _copy(call, response, pieces)
    await response.write_eof()
    return response


async def _send_ranges(
    call: AttachmentCall,
    attachment: Attachment,
    headers: dict[str, str],
    ranges: Sequence[tuple[int, int]],
) -> web.StreamResponse:
    boundary = secrets.token_hex(16)
    headers["Content-Type"] = f'multipart/byteranges; boundary="{boundary}"'
    response = web.StreamResponse(status=206, headers=headers)
    await response.prepare(call.request)
    for first, last in ranges:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {attachment.content_type}\r\n"
            f"Content-Range: bytes {first}-{last}/{attachment.length}\r\n\r\n"
        )
        if call.request.method != "HEAD":
            await response.write(head.encode())
            pieces = call.store.content(attachment.content, start=first, end=last + 1)
            await _copy(call, response, pieces)
    if call.request.method != "HEAD":
        await response.write(f"\r\n--{boundary}--".encode())
    await response.write_eof()
    return response


async def _copy(call: AttachmentCall, response: web.StreamResponse, pieces: Any) -> None:
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                await response.write(piece)
    except EdgeAgentError:
        # The answer has begun: that its connection ends is all that can tell the client.
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionError from None


def _ranges(header: str | None, length: int) -> list[tuple[int, int]]:
    """The first and the last byte of each range; empty when all is to be sent.

    Raises RequestError (416).
    """
    found = _RANGES.match(header.strip()) if header else None
    if found is None:
        return []
    ranges = []
    for text in found[1].split(","):
        first, _, last = text.strip().partition("-")
        if max(len(first), len(last)) > 18:
            return []
        if not first:
            ranges.append((max(length - int(last), 0), length - 1))
        else:
            ranges.append((int(first), min(int(last), length - 1) if last else length - 1))
        start, end = ranges[-1]
        if start > end or (last and first and int(first) > int(last)):
            raise RequestError(
                416, "requested_range_not_satisfiable", "Requested range not satisfiable"
            )
    if len(ranges) > _MOST_RANGES or ranges[0] == (0, length - 1):
        return []
    return ranges
