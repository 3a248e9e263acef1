"""Revisions as messages carry them, with their attachments.

What arrives is checked as a server checks it: a document that may not be stored is told as a
`WriteResult`, anything else that does not fit is a `WireError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.documents.attachment import (
    ENCODINGS,
    Absent,
    Attachment,
    Inline,
    checked_name,
    md5_digest,
)
from agent.documents.revision import Revision, normal_hash
from agent.documents.wire import RefusedDocumentError, body_text, checked_id, own_members
from agent.peers.mqtt_wire import Count, convert
from agent.peers.peer import WriteResult

_GENERATIONS = 10**15

_object = msgspec.json.Decoder(dict[str, Any])


class WireAttachment(Struct, array_like=True, frozen=True):
    """As `Attachment`; `data` where the content comes along."""

    name: str
    content_type: str
    revpos: Count
    digest: str
    length: Count
    encoding: str | None = None
    encoded_length: Count | None = None
    data: bytes | None = None


class WireRevision(Struct, array_like=True, frozen=True):
    """As `Revision`."""

    id: str
    generation: int
    path: list[str]
    deleted: bool
    body: str
    attachments: list[WireAttachment] = []


class WireResult(Struct, array_like=True, frozen=True):
    """As `WriteResult`."""

    id: str
    rev: str
    error: str | None = None
    reason: str | None = None


class WireFound(Struct, frozen=True):
    """The answer to `fetch`. Each of `revisions` is a `WireRevision`."""

    revisions: list[Any]
    refused: list[WireResult] = []


def revision_to_wire(revision: Revision) -> WireRevision:
    """Contents that are in memory go along."""
    return WireRevision(
        revision.id,
        revision.generation,
        list(revision.path),
        revision.deleted,
        revision.body,
        [_attachment_to_wire(attachment) for attachment in revision.attachments],
    )


def revision_from_wire(value: Any) -> Revision | WriteResult:
    """A revision that may be stored, or why it may not."""
    wire = convert(value, WireRevision)
    try:
        return _revision(wire)
    except RefusedDocumentError as error:
        word, reason = error.error, str(error)
    except ValueError as error:
        word, reason = "bad_request", str(error)
    rev = f"{wire.generation}-{wire.path[0] if wire.path else ''}"
    return WriteResult(wire.id, rev, word, reason)


def found_to_wire(found: Iterable[Revision | WriteResult]) -> WireFound:
    revisions: list[Any] = []
    refused: list[WriteResult] = []
    for item in found:
        if isinstance(item, Revision):
            revisions.append(revision_to_wire(item))
        else:
            refused.append(item)
    return WireFound(
        revisions, [WireResult(item.id, item.rev, item.error, item.reason) for item in refused]
    )


def found_from_wire(value: Any) -> list[Revision | WriteResult]:
    found = convert(value, WireFound)
    refused = [WriteResult(item.id, item.rev, item.error, item.reason) for item in found.refused]
    return [*map(revision_from_wire, found.revisions), *refused]


def _revision(wire: WireRevision) -> Revision:
    id = checked_id(wire.id)
    if not all(wire.path) or not 0 < len(wire.path) <= wire.generation < _GENERATIONS:
        raise ValueError("the generation does not fit the history")
    return Revision(
        id,
        wire.generation,
        tuple(map(normal_hash, wire.path)),
        wire.deleted,
        _body(wire.body),
        tuple(map(_attachment_from_wire, wire.attachments)),
    )


def _body(text: str) -> str:
    try:
        members = _object.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise RefusedDocumentError("bad_request", "the body is no JSON object") from None
    own, _ = own_members(members)
    if len(own) != len(members):
        odd = next(name for name in members if name not in own)
        raise RefusedDocumentError("doc_validation", f"Bad special document member: {odd}")
    return body_text(own)


def _attachment_to_wire(attachment: Attachment) -> WireAttachment:
    content = attachment.content
    return WireAttachment(
        attachment.name,
        attachment.content_type,
        attachment.revpos,
        attachment.digest,
        attachment.length,
        attachment.encoding,
        attachment.encoded_length,
        content.data if isinstance(content, Inline) else None,
    )


def _attachment_from_wire(wire: WireAttachment) -> Attachment:
    name = checked_name(wire.name)
    if not wire.content_type or not wire.content_type.isprintable():
        raise ValueError(f"Invalid content_type of attachment {name}")
    if wire.encoding not in (None, *ENCODINGS):
        raise ValueError(f"Invalid encoding of attachment {name}")
    told = Attachment(
        name,
        wire.content_type,
        wire.revpos,
        wire.digest,
        wire.length,
        Absent.STUB if wire.data is None else Inline(wire.data),
        wire.encoding,
        wire.encoded_length if wire.encoding else None,
    )
    if wire.data is None:
        return told
    digest = md5_digest(hashlib.md5(wire.data, usedforsecurity=False).digest())
    if len(wire.data) != told.stored_length or wire.digest not in ("", digest):
        raise ValueError(f"attachment {name} is damaged")
    return replace(told, digest=digest)
