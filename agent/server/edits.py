"""From a document that a client sends to what the store is told to write.

Source: CouchDB documentation, "API Reference > Documents" (the underscore members, `rev`,
`If-Match`) and "Replication Protocol"; the refusals are worded as CouchDB's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from agent.documents.revision import Rev, Revision, canonical
from agent.documents.wire import (
    MAX_DOCUMENT,
    RefusedDocumentError,
    attachments_of,
    body_text,
    checked_id,
    own_members,
    revision_from_doc,
)
from agent.errors import RequestError
from agent.server.call import Call, decode, parse_rev
from agent.store.transaction import Edit

JsonObject: TypeAlias = dict[str, Any]

_T = TypeVar("_T")
_InputT = TypeVar("_InputT")


def doc_of(text: bytes | msgspec.Raw) -> JsonObject:
    """The document that a client sent as JSON. Raises RequestError."""
    doc = decode(text, Any)
    if not isinstance(doc, dict):
        raise RequestError(400, "bad_request", "Document must be a JSON object")
    return doc


def parsed(parse: Callable[[_InputT], _T], value: _InputT) -> _T:
    """`parse(value)`, with the refusals of `agent.documents.wire` as RequestError."""
    try:
        return parse(value)
    except ValueError as error:
        raise as_request_error(error) from None


def as_request_error(error: ValueError) -> RequestError:
    """A refusal of `agent.documents.wire` with its HTTP status."""
    word = error.error if isinstance(error, RefusedDocumentError) else "bad_request"
    return RequestError(413 if word == "document_too_large" else 400, word, str(error))


def edit_from_doc(doc: Mapping[str, Any], id: str, parent: Rev | None) -> Edit:
    """The edit that writes `doc` as document `id` over revision `parent`.

    Raises ValueError, and RequestError (413) for a document that is too large.
    """
    body, deleted = own_members(doc)
    text = body_text(body)
    check_size(checked_id(id), text)
    return Edit(id, parent, deleted, text, canonical(body), attachments_of(doc))


def revision_of_doc(doc: Mapping[str, Any]) -> Revision:
    """The revision that `doc` is (new_edits=false).

    Raises ValueError, and RequestError (413) for a document that is too large.
    """
    revision = revision_from_doc(doc)
    check_size(revision.id, revision.body)
    return revision


def check_size(id: str, body: str) -> None:
    """Raises RequestError (413) when a body is larger than `MAX_DOCUMENT`."""
    if len(body) > MAX_DOCUMENT // 4 and len(body.encode()) > MAX_DOCUMENT:
        raise RequestError(413, "document_too_large", id)


def new_id() -> str:
    """The id of a document that came without one: 32 random hex digits."""
    return secrets.token_hex(16)


def given_rev(call: Call, in_body: Any) -> str | None:
    """The revision that a request replaces: in the body, as `rev` or in `If-Match`.

    Raises RequestError when they differ or are none.
    """
    given = None if in_body is None else str(parse_local_rev(in_body))
    query = call.request.query.get("rev")
    if query is not None:
        query = parse_local_rev(query)
        if given is not None and query != given:
            raise RequestError(
                400,
                "bad_request",
                "Document rev from request body and query string have different values",
            )
        given = query
    header = call.request.headers.get("If-Match")
    if header is not None:
        tag = parse_local_rev(header.strip('"'))
        if given is not None and tag != given:
            raise RequestError(400, "bad_request", "Document rev and etag have different values")
        given = tag
    return given


def parse_local_rev(value: Any) -> str:
    """A revision id as it stands, `0-N` of a local document too. Raises RequestError."""
    if isinstance(value, str) and value.startswith("0-") and value[2:].isdigit():
        return value
    return str(parse_rev(value))
