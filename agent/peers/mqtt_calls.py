"""The calls of `Peer` as messages: what is asked, and what is answered.

JSON values, of which nobody here knows what is in them (sequences, selectors, `_local` documents),
travel as their text. What arrives and does not fit is a `WireError`. The revisions in messages have
a module of their own, `mqtt_revisions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from agent.documents.ranges import COARSEST, FINEST, Leaves, Range
from agent.documents.revision import Rev, Revision
from agent.peers.mqtt_wire import Count, Fault, WireError, convert
from agent.peers.peer import Change, ChangeBatch, PeerInfo, Seq, WriteResult

MOST_CHANGES = 1000
"""In one page."""

MOST_SPANS = 1000
MOST_LEAVES = 2000

_MOST_IDS = 10_000

_Id = Annotated[str, Meta(max_length=8192)]
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
    """Each of `revisions` is a revision, read with `revision_from_wire`."""

    revisions: Annotated[list[Any], Meta(max_length=_MOST_IDS)]


class AttachmentContent(Struct, tag_field="call", tag="attachment", frozen=True):
    """The content from `offset` on, which is then asked for in parts."""

    id: _Id
    rev: str
    name: str
    offset: Count


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
    doc_count: Count
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
    pending: Count | None = None


class WireRefusal(Struct, array_like=True, frozen=True):
    """Why the revision at a place in the request was not stored, in CouchDB's words."""

    index: Count
    error: str
    reason: str | None = None


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


def missing_from_wire(value: Any) -> dict[str, list[str]]:
    """Of `revs_diff`."""
    return {id: revs for id, revs in convert(value, dict[str, list[str]]).items() if revs}


def ranges_from_wire(value: Any) -> list[list[Range]] | None:
    return convert(value, list[list[Range]] | None)  # type: ignore[arg-type]


def leaves_from_wire(value: Any) -> list[Leaves]:
    return convert(value, list[Leaves])


def text_from_wire(value: Any) -> str:
    """Of calls that return a string, as `nothing_from_wire` of those that return nothing."""
    return convert(value, str)


def nothing_from_wire(value: Any) -> None:
    convert(value, None)  # type: ignore[arg-type]


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


def local_from_wire(value: Any) -> dict[str, Any] | None:
    return None if value is None else local_from_json(convert(value, str))


def parsed_rev(text: str) -> Rev:
    """Raises WireError."""
    try:
        return Rev.parse(text)
    except ValueError as error:
        raise WireError(str(error)) from None
