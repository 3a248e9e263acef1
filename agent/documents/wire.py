"""Revisions to and from the JSON documents that CouchDB's protocol carries.

Source: CouchDB documentation, "API Reference > Documents" (the underscore members) and "CouchDB
Replication Protocol > Upload Batch of Changed Documents"; the refusals are worded as CouchDB's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.documents.attachment import (
    Absent,
    Attachment,
    attachments_from_json,
    attachments_text,
)
from agent.documents.revision import Rev, Revision, normal_hash

_encoder = msgspec.json.Encoder()

# What CouchDB adds to a document on request; it ignores these members when it is given them.
_IGNORED = frozenset({"_revs_info", "_local_seq", "_conflicts", "_deleted_conflicts"})
_GENERATIONS = 10**15  # as in Rev.parse; SQLite's integers end at 9.2e18
# What CouchDB's replicator writes into documents of `_replicator`: they are members like others.
_OWN = frozenset(
    {
        "_replication_id",
        "_replication_state",
        "_replication_state_reason",
        "_replication_state_time",
        "_replication_stats",
    }
)
_READ = ("_id", "_rev", "_revisions", "_deleted", "_attachments")

MAX_DOCUMENT = 8_000_000
"""Bytes of a document's JSON text without its attachments: CouchDB's `max_document_size`."""

DEEPEST = 500
"""How deep a document's arrays and objects may be nested.

SQLite's JSON functions give up at 1000, and so do many JSON parsers; one such document would make
the store's views unusable, and could not be passed on.
"""

_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|([\[{])|([\]}])')


class RefusedDocumentError(ValueError):
    """A document that CouchDB refuses: `error` is its word for that, the message its reason."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


def revision_from_doc(doc: Mapping[str, Any]) -> Revision:
    """The revision that a document means when it is written with `new_edits=false`.

    `doc` has `_id` and at least one of `_rev` and `_revisions`; the latter counts where they
    disagree. All underscore members are taken off; the others keep their order. Raises ValueError
    with CouchDB's reason where CouchDB refuses such a document.
    """
    body, deleted = own_members(doc)
    id = checked_id(doc.get("_id"))
    generation, path = _history(doc)
    return Revision(id, generation, path, deleted, body_text(body), attachments_of(doc))


def own_members(doc: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The members that do not start with an underscore, and whether `doc` is a tombstone.

    What a replicator notes in its documents (`_replication_state` and so on) is among the former.

    Raises RefusedDocumentError: doc_validation for an unknown underscore member or a bad one.
    """
    body = dict(doc)
    for name in _READ:
        body.pop(name, None)
    if "\n_" in "\n" + "\n".join(body):  # one search: few documents have others
        body = _checked_members(body)
    deleted = doc.get("_deleted", False)
    if not isinstance(deleted, bool):
        raise _bad_member("_deleted")
    if not isinstance(doc.get("_attachments", {}), dict):
        raise _bad_member("_attachments")
    return body, deleted


def _checked_members(members: Mapping[str, Any]) -> dict[str, Any]:
    body = {}
    for name, value in members.items():
        if not name.startswith("_") or name in _OWN:
            body[name] = value
        elif name not in _IGNORED:
            raise _bad_member(name)
    return body


def attachments_of(doc: Mapping[str, Any]) -> tuple[Attachment, ...]:
    """The attachments of a document. Raises ValueError with CouchDB's reason."""
    members = doc.get("_attachments")
    if not members:
        return ()
    attachments = attachments_from_json(members)
    for attachment in attachments:
        if attachment.content is Absent.FOLLOWS:
            raise ValueError(f"Attachment {attachment.name} cannot follow a document in JSON")
    return attachments


def body_text(body: Mapping[str, Any]) -> str:
    """The JSON text of a body, without white space, its members in their order.

    Raises RefusedDocumentError when it is nested deeper than `DEEPEST`.
    """
    try:
        text = _encoder.encode(body).decode()
    except RecursionError:
        raise _too_deep() from None
    if text.count("{") + text.count("[") > DEEPEST:
        depth = 0
        for bracket in _BRACKETS.finditer(text):
            if bracket[1]:
                depth += 1
                if depth > DEEPEST:
                    raise _too_deep()
            elif bracket[2]:
                depth -= 1
    return text


def checked_id(id: Any) -> str:
    """`id`, if a document that replicates may have it. Raises RefusedDocumentError."""
    if not isinstance(id, str):
        raise _illegal_id("Document id must be a string")
    if not id:
        raise _illegal_id("Document id must not be empty")
    if id.startswith("_") and not id.startswith("_design/"):
        raise _illegal_id("Only reserved document ids may start with underscore.")
    if id == "_design/":
        raise _illegal_id("Illegal document id `_design/`")
    return id


class _History(msgspec.Struct):
    start: int
    ids: tuple[str, ...]


class _Head(msgspec.Struct, omit_defaults=True):
    id: str = msgspec.field(name="_id")
    rev: str = msgspec.field(name="_rev")
    deleted: bool = msgspec.field(name="_deleted", default=False)
    revisions: _History | None = msgspec.field(name="_revisions", default=None)


def document_text(revision: Revision, *, revisions: bool, encoding_info: bool = False) -> str:
    """The JSON text of the whole document, the underscore members first.

    `revisions` asks for `_revisions`, `encoding_info` for the encodings of attachments. The body is
    spliced in as it is, without decoding it. Content of attachments that is in memory is inline.
    """
    generation, path = revision.generation, revision.path
    history = _History(generation, path) if revisions else None
    told = _Head(revision.id, f"{generation}-{path[0]}", revision.deleted, history)
    head = _encoder.encode(told).decode()[:-1]
    if revision.attachments:
        text = attachments_text(revision.attachments, encoding_info=encoding_info)
        head += f',"_attachments":{text}'
    members = revision.body.lstrip()[1:].lstrip()
    return head + members if members.startswith("}") else f"{head},{members}"


def _history(doc: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    history = doc.get("_revisions")
    if history is not None:
        if not isinstance(history, dict):
            raise _bad_member("_revisions")
        start, ids = history.get("start"), history.get("ids")
        if not isinstance(start, int) or isinstance(start, bool):
            raise RefusedDocumentError("doc_validation", "_revisions.start isn't an integer.")
        if not isinstance(ids, list):
            raise RefusedDocumentError("doc_validation", "_revisions.ids isn't a array.")
        if not all(isinstance(hash, str) and hash for hash in ids):
            raise RefusedDocumentError("doc_validation", "RevId isn't a string")
        if ids and not len(ids) <= start < _GENERATIONS:
            raise ValueError("_revisions.start does not fit _revisions.ids")
        if ids:
            return start, tuple(map(normal_hash, ids))
    text = doc.get("_rev")
    if text is None:
        raise ValueError(
            "When `new_edits: false`, the document needs `_rev` or `_revisions` specified"
        )
    if not isinstance(text, str):
        raise ValueError("Invalid rev format")  # noqa: TRY004
    rev = Rev.parse(text)
    return rev.generation, (rev.hash,)


def _bad_member(name: str) -> RefusedDocumentError:
    return RefusedDocumentError("doc_validation", f"Bad special document member: {name}")


def _illegal_id(reason: str) -> RefusedDocumentError:
    return RefusedDocumentError("illegal_docid", reason)


def _too_deep() -> RefusedDocumentError:
    return RefusedDocumentError(
        "bad_request", f"The document is nested deeper than {DEEPEST} levels"
    )
