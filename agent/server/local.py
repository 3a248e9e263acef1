"""`_local` documents: not replicated, one revision each, any members.

Source: CouchDB documentation, "API Reference > Local (non-replicating) Documents".
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from aiohttp import web

from agent.documents.wire import body_text, own_members
from agent.errors import NotFoundError
from agent.server.answers import answer, json_text, not_modified, text_answer
from agent.server.call import DocumentCall
from agent.server.edits import JsonObject, given_rev, parsed
from agent.store.store import Store

PREFIX = "_local/"


async def get(call: DocumentCall) -> web.Response:
    """GET /{db}/_local/{id}"""
    found = await call.store.get_local(_name(call.id))
    if found is None or call.request.query.get("rev", found[0]) != found[0]:
        raise NotFoundError(f"{call.id}: no such document")
    rev, body = found
    # Revisions are counted anew once the document was deleted, so the tag has the body in it.
    etag = f'"{blake2b(f"{rev}{body}".encode(), digest_size=16).hexdigest()}"'
    if call.request.headers.get("If-None-Match") == etag:
        return not_modified(etag)
    members = "" if body == "{}" else "," + body[1:-1]
    text = f'{{"_id":{json_text(call.id)},"_rev":"{rev}"{members}}}'
    return text_answer(text.encode(), headers={"ETag": etag})


async def put(call: DocumentCall) -> web.Response:
    """PUT /{db}/_local/{id}. 409 unless `_rev` is the current revision."""
    doc = await call.json(JsonObject)
    rev = given_rev(call, doc.get("_rev"))
    new = await write(call.store, call.id, doc, rev)
    return answer(
        {"ok": True, "id": call.id, "rev": new},
        status=200 if doc.get("_deleted") else 201,
        headers={"Location": call.url(call.name, call.id)},
    )


async def delete(call: DocumentCall) -> web.Response:
    """DELETE /{db}/_local/{id}"""
    rev = given_rev(call, None)
    if await call.store.get_local(_name(call.id)) is None:
        raise NotFoundError(f"{call.id}: no such document")
    await call.store.delete_local(_name(call.id), rev)
    return answer({"ok": True, "id": call.id, "rev": "0-0"})


async def write(store: Store, id: str, doc: Mapping[str, Any], rev: str | None) -> str:
    """Write a local document in place of revision `rev`; returns the new revision.

    `_deleted` deletes it. Raises ConflictError, RequestError.
    """
    body, deleted = parsed(own_members, doc)
    if deleted:
        await store.delete_local(_name(id), rev)
        return "0-0"
    return await store.put_local(_name(id), rev, parsed(body_text, body))


def _name(id: str) -> str:
    return id.removeprefix(PREFIX)
