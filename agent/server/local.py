"""`_local` documents: not replicated, one revision each, any members.

Source: CouchDB documentation, "API Reference > Local (non-replicating) Documents".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Any

from aiohttp import web

from agent.documents.wire import body_text, own_members
from agent.errors import NotFoundError, RequestError
from agent.server.answers import answer, has_already, json_text, not_modified, text_answer
from agent.server.call import DocumentCall
from agent.server.edits import doc_of, given_rev, parse_local_rev, parsed
from agent.store.store import Store

PREFIX = "_local/"

_DIGITS = 15
"""Of a revision's number: what SQLite's integers and others' floats hold."""


async def get(call: DocumentCall) -> web.Response:
    """GET /{db}/_local/{id}"""
    found = await call.store.get_local(_name(call.id))
    if found is None or call.request.query.get("rev", found[0]) != found[0]:
        raise NotFoundError(f"{call.id}: no such document")
    rev, body = found
    # Revisions are counted anew once the document was deleted, so the tag has the body in it.
    etag = f'"{blake2b(f"{rev}{body}".encode(), digest_size=16).hexdigest()}"'
    if has_already(call.request, etag):
        return not_modified(etag)
    members = "" if body == "{}" else "," + body[1:-1]
    text = f'{{"_id":{json_text(call.id)},"_rev":"{rev}"{members}}}'
    return text_answer(text.encode(), headers={"ETag": etag})


async def put(call: DocumentCall) -> web.Response:
    """PUT /{db}/_local/{id}"""
    doc = doc_of(await call.documents())
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
    new = await write(call.store, call.id, {"_deleted": True}, rev)
    return answer({"ok": True, "id": call.id, "rev": new})


async def write(store: Store, id: str, doc: Mapping[str, Any], rev: str | None) -> str:
    """Write a local document; returns the revision that follows on `rev`, the client's.

    As in CouchDB nobody is refused: whoever writes last has it, and revisions only count.
    Raises RequestError.
    """
    return await writing(id, doc, rev)(store)


def writing(id: str, doc: Mapping[str, Any], rev: Any) -> Callable[[Store], Awaitable[str]]:
    """What writes a local document, once everything about it is known to be sound.

    `_deleted` deletes it, `_attachments` are left out. Raises RequestError.
    """
    if id == PREFIX:
        raise RequestError(400, "bad_request", "Invalid _local document id.")
    body, deleted = parsed(own_members, doc)
    before, _, number = ("0-0" if rev is None else parse_local_rev(rev)).partition("-")
    if before != "0" or not (number.isascii() and number.isdigit() and len(number) <= _DIGITS):
        raise RequestError(400, "bad_request", "Invalid rev format")
    name, last = _name(id), int(number)
    text = None if deleted else parsed(body_text, body)
    return lambda store: store.write(
        lambda transaction: transaction.locals.overwrite(name, last, text)
    )


def _name(id: str) -> str:
    return id.removeprefix(PREFIX)
