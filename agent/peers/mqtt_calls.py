"""The calls of `Peer` as messages: what is asked, what is answered, and the revisions in them.

JSON values, of which nobody here knows what is in them (bodies, sequences, selectors), travel as
their text. What arrives is checked as a server checks it: a document that may not be stored is
told as a `WriteResult`, anything else that does not fit is a `WireError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from agent.documents.attachment import (
    ENCODINGS,
    Absent,
    Attachment,
    Inline,
    checked_name,
    md5_digest,
)
from agent.documents.ranges import COARSEST, FINEST
from agent.documents.revision import Rev, Revision, normal_hash
from agent.documents.wire import RefusedDocumentError, body_text, checked_id, own_members
from agent.peers.mqtt_wire import Fault, WireError, convert
from agent.peers.peer import Change, ChangeBatch, PeerInfo, Seq, WriteResult

MOST_CHANGES = 1000
"""In one page."""

MOST_SPANS = 1000
MOST_LEAVES = 2000

_MOST_IDS = 10_000
_GENERATIONS = 10**15

_object = msgspec.json.Decoder(dict[str, Any])

_Id = Annotated[str, Meta(max_length=8192)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Json = Annotated[str, Meta(description="JSON text")]


# --- requests --------------------------------------------------------------------------


class Info(Struct, tag_field="call", tag="info", frozen=True):
    pass


class Create(Struct, tag_field="call", tag="create", frozen=True):
    pass


class EnsureFullCommit(Struct, tag_field="call", tag="ensure_full_commit", frozen=True):
    pass


class Changes(Struct, tag_field="call", tag="changes", frozen=True, omit_defaults=True):
    """The page of changes after a sequence."""

    since: _Json
    limit: Annotated[int, Meta(ge=1)]
    selector: _Json | None = None
    doc_ids: Annotated[list[_Id], Meta(max_length=_MOST_IDS)] | None = None


class RevsDiff(Struct, tag_field="call", tag="revs_diff", frozen=True):
    revs: Annotated[dict[_Id, list[str]], Meta(max_length=_MOST_IDS)]


class Fetch(Struct, tag_field="call", tag="fetch", frozen=True):
    wanted: Annotated[list[tuple[_Id, list[str]]], Meta(max_length=_MOST_IDS)]


class Store(Struct, tag_field="call", tag="store", frozen=True):
    """Each of `revisions` is a `WireRevision`; read with `revision_from_wire`."""

    revisions: Annotated[list[Any], Meta(max_length=_MOST_IDS)]


class AttachmentContent(Struct, tag_field="call", tag="attachment", frozen=True):
    """The content from `offset` on, which is then asked for in parts."""

    id: _Id
    rev: str
    name: str
    offset: _Count


class GetLocal(Struct, tag_field="call", tag="get_local", frozen=True):
    id: _Id


class PutLocal(Struct, tag_field="call", tag="put_local", frozen=True):
    id: _Id
    doc: _Json


class RangesOf(Struct, tag_field="call", tag="ranges", frozen=True):
    """Digests of the ranges of a level in each span."""

    level: Annotated[int, Meta(ge=FINEST, le=COARSEST)]
    spans: Annotated[list[tuple[_Id, _Id | None]], Meta(max_length=MOST_SPANS)]


class LeavesOf(Struct, tag_field="call", tag="leaves", frozen=True):
    """The leaf revisions of the first documents in a span."""

    span: tuple[_Id, _Id | None]
    limit: Annotated[int, Meta(ge=1)]


Request: TypeAlias = (
    Info
    | Create
    | EnsureFullCommit
    | Changes
    | RevsDiff
    | Fetch
    | Store
    | AttachmentContent
    | GetLocal
    | PutLocal
    | RangesOf
    | LeavesOf
)


class Answer(Struct, frozen=True, omit_defaults=True):
    """`ok` is what the call returned, of the type that goes with it; with `error` it failed."""

    ok: Any = None
    error: Fault | None = None


def request_from(value: Any) -> Request:
    """Raises WireError."""
    return convert(value, Request)  # type: ignore[arg-type]


# --- JSON ------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def from_json(text: str, kind: Any = Any) -> Any:
    """Raises WireError."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError(f"JSON that cannot be read ({error})") from None


# --- answers ---------------------------------------------------------------------------


class WireInfo(Struct, frozen=True):
    update_seq: _Json
    doc_count: _Count
    instance_start_time: str
    server: str


class WireChange(Struct, array_like=True, frozen=True):
    seq: _Json
    id: _Id
    revs: list[str]
    deleted: bool


class WirePage(Struct, frozen=True):
    changes: list[WireChange]
    last_seq: _Json
    pending: _Count | None = None


class WireAttachment(Struct, array_like=True, frozen=True):
    """As `Attachment`; `data` where the content comes along."""

    name: str
    content_type: str
    revpos: _Count
    digest: str
    length: _Count
    encoding: str | None = None
    encoded_length: _Count | None = None
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


class WireRefusal(Struct, array_like=True, frozen=True):
    """Why the revision at a place in the request was not stored, in CouchDB's words."""

    index: _Count
    error: str
    reason: str | None = None


class WireFound(Struct, frozen=True):
    """The answer to `fetch`. Each of `revisions` is a `WireRevision`."""

    revisions: list[Any]
    refused: list[WireResult] = []


def info_to_wire(info: PeerInfo) -> WireInfo:
    return WireInfo(to_json(info.update_seq), info.doc_count, info.instance_start_time, info.server)


def info_from_wire(value: Any) -> PeerInfo:
    """Raises WireError, as all of these."""
    info = convert(value, WireInfo)
    return PeerInfo(
        from_json(info.update_seq), info.doc_count, info.instance_start_time, info.server
    )


def page_to_wire(batch: ChangeBatch) -> WirePage:
    changes = [
        WireChange(to_json(change.seq), change.id, list(change.revs), change.deleted)
        for change in batch.changes
    ]
    return WirePage(changes, to_json(batch.last_seq), batch.pending)


def page_from_wire(value: Any) -> ChangeBatch:
    page = convert(value, WirePage)
    changes = tuple(
        Change(from_json(change.seq), change.id, tuple(change.revs), change.deleted)
        for change in page.changes
    )
    return ChangeBatch(changes, from_json(page.last_seq), page.pending)


def refusals_to_wire(results: Iterable[WriteResult]) -> list[WireRefusal]:
    """What tells the results of `store`: those that failed. Most never do, and each would cost as
    much as its revision id."""
    return [
        WireRefusal(index, result.error, result.reason)
        for index, result in enumerate(results)
        if result.error is not None
    ]


def results_from_wire(value: Any, sent: Sequence[Revision]) -> list[WriteResult]:
    results = [WriteResult(revision.id, str(revision.rev)) for revision in sent]
    for refusal in convert(value, list[WireRefusal]):
        if refusal.index >= len(results):
            raise WireError("the refusal of a document that was not sent")
        told = results[refusal.index]
        results[refusal.index] = WriteResult(told.id, told.rev, refusal.error, refusal.reason)
    return results


# --- revisions -------------------------------------------------------------------------


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


# --- sequences and local documents -----------------------------------------------------


def seq_from_json(text: str) -> Seq:
    """A sequence, whatever JSON it is; a number is one that a database can count to."""
    seq = from_json(text)
    if isinstance(seq, int | float) and not -(2**63) <= seq < 2**63:
        raise WireError("a sequence larger than any database has")
    return seq


def object_from_json(text: str) -> dict[str, Any]:
    """Such as a selector."""
    found: dict[str, Any] = from_json(text, dict[str, Any])
    return found


def local_from_json(text: str) -> dict[str, Any]:
    """A `_local` document."""
    doc = object_from_json(text)
    if not isinstance(doc.get("_rev"), str | None):
        raise WireError("a _local document whose _rev is no string")
    return doc


def local_to_wire(doc: Mapping[str, Any] | None) -> str | None:
    return None if doc is None else to_json(doc)


def parsed_rev(text: str) -> Rev:
    """Raises WireError."""
    try:
        return Rev.parse(text)
    except ValueError as error:
        raise WireError(str(error)) from None
