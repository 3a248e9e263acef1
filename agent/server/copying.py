"""COPY: a document under another id.

Source: CouchDB documentation, "API Reference > Documents > COPY /{db}/{docid}".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web
from msgspec.structs import replace

from agent.documents.revision import Rev, canonical
from agent.documents.wire import checked_id
from agent.errors import ConflictError, NotFoundError, RequestError
from agent.server.access import write_refusal
from agent.server.answers import answer, etag
from agent.server.call import DocumentCall, no_document, parse_rev
from agent.server.edits import given_rev, parsed
from agent.store.transaction import Edit


async def copy(call: DocumentCall) -> web.Response:
    """COPY /{db}/{docid}, to the id in the header `Destination`, which may end in `?rev=`.

    Body and attachments of the winner, or of `rev`, become a new revision there.
    """
    id, parent = _destination(call)
    refusal = write_refusal(call.request, call.store, id)
    if refusal is not None:
        raise refusal
    asked = given_rev(call, None)
    document = await call.store.get(call.id)
    if document is None or (document.deleted and asked is None):
        raise no_document(call.id, document)
    [[(_, revision)]] = await call.store.revisions([(call.id, [asked or str(document.rev)])])
    if revision is None:
        raise NotFoundError(f"{call.id}: no such revision")
    edit = Edit(
        parsed(checked_id, id),
        parent,
        revision.deleted,
        revision.body,
        canonical(msgspec.json.decode(revision.body, type=dict[str, Any])),
        tuple(replace(attachment, revpos=0) for attachment in revision.attachments),
    )
    [written] = await call.store.edit([edit])
    if written is None:
        raise ConflictError("Document update conflict.")
    return answer(
        {"ok": True, "id": id, "rev": str(written)},
        status=201,
        headers={"ETag": etag(written), "Location": call.url(call.name, id)},
    )


def _destination(call: DocumentCall) -> tuple[str, Rev | None]:
    """The id, percent-decoded, and the revision that is replaced. Raises RequestError."""
    header = call.request.headers.get("Destination")
    if header is None:
        raise RequestError(400, "bad_request", "Destination header is mandatory for COPY.")
    if header.lower().startswith(("http://", "https://")):
        raise RequestError(400, "bad_request", "Destination URL must be relative.")
    text, mark, query = header.partition("?")
    try:
        id = unquote(text, errors="strict")
        id.encode()  # what the header had besides ASCII may be no text
    except UnicodeError:
        raise RequestError(400, "bad_request", "invalid_url_encoding") from None
    if not mark:
        return id, None
    name, _, rev = query.partition("=")
    if name != "rev":
        raise RequestError(400, "bad_request", "The query of Destination can only be ?rev=")
    return id, parse_rev(rev)
