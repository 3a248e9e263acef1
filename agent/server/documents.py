"""Single documents.

Source: CouchDB documentation, "API Reference > Documents".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from agent.documents.revision import Rev, Revision
from agent.errors import ConflictError, NotFoundError, RequestError
from agent.server import local
from agent.server.access import write_refusal
from agent.server.answers import (
    Stream,
    answer,
    etag,
    has_already,
    json_text,
    not_modified,
    text_answer,
)
from agent.server.attached import Parts, Show, accepts, document_answer, write_document
from agent.server.call import DatabaseCall, DocumentCall, decode, parse_rev
from agent.server.edits import (
    JsonObject,
    doc_of,
    edit_from_doc,
    given_rev,
    new_id,
    parsed,
    revision_of_doc,
)
from agent.server.render import conflicts, deleted_conflicts, rendered, revs_info
from agent.server.uploads import Uploads, read_document, with_uploads
from agent.store.stored import StoredDocument
from agent.store.transaction import Edit


async def get(call: DocumentCall) -> web.StreamResponse:
    """GET /{db}/{docid} with rev, revs, revs_info, conflicts, deleted_conflicts, local_seq, meta,
    latest and open_revs. The ETag is the revision, where only that decides on the answer.
    """
    if "open_revs" in call.request.query:
        return await _open_revs(call)
    document = await call.store.get(call.id)
    if document is None:
        raise NotFoundError(f"{call.id}: no such document")
    revision = await wanted(call, document)
    members = await _members(call, document, revision)
    tag = etag(revision.rev)
    if members is None:
        if has_already(call.request, tag):
            return not_modified(tag)
        headers = {"ETag": tag}
    else:
        headers = {}
    show = Show.asked(call)
    revisions = call.flag("revs")
    if show.data and revision.attachments:
        return await document_answer(
            call, revision, show, headers=headers, revisions=revisions, members=members
        )
    text = rendered(
        revision, revisions=revisions, members=members, encoding_info=show.encoding_info
    )
    return text_answer(text.encode(), headers=headers)


async def wanted(call: DocumentCall, document: StoredDocument) -> Revision:
    """The revision that is asked for by `rev` and `latest`. Raises NotFoundError."""
    asked = call.request.query.get("rev")
    if asked is None:
        if document.deleted:
            raise NotFoundError(f"{call.id}: deleted", reason="deleted")
        return document.revision()
    rev = parse_rev(asked)
    if call.flag("latest"):
        leaves = document.tree().descendants(rev)
        if not leaves:
            raise NotFoundError(f"{call.id}: no such revision")
        rev = leaves[0]
    if rev == document.rev:
        return document.revision()
    [[(_, revision)]] = await call.store.revisions([(call.id, [str(rev)])])
    if revision is None:
        raise NotFoundError(f"{call.id}: no such revision")
    return revision


async def _members(
    call: DocumentCall, document: StoredDocument, revision: Revision
) -> dict[str, Any] | None:
    """What was asked for and depends on more than the revision; None if nothing was."""
    meta = call.flag("meta")
    asked = False
    members: dict[str, Any] = {}
    if meta or call.flag("revs_info"):
        asked = True
        members |= await revs_info(call.store, document.tree(), revision)
    if call.flag("local_seq"):
        asked = True
        members["local_seq"] = document.seq
    if meta or call.flag("conflicts"):
        asked = True
        members |= conflicts(document)
    if meta or call.flag("deleted_conflicts"):
        asked = True
        members |= deleted_conflicts(document)
    return members if asked else None


async def _open_revs(call: DocumentCall) -> web.StreamResponse:
    """Several revisions at once: all leaves, or those of a JSON array.

    As JSON, or as multipart/mixed for who asks for just that, as CouchDB's replicator does.
    """
    document = await call.store.get(call.id)
    revs = _asked_revs(call, document)
    [found] = await call.store.revisions([(call.id, revs)])
    show = Show.asked(call)
    if accepts(call.request, "multipart/mixed"):
        parts = Parts(call, show)
        for rev, revision in found:
            if revision is None:
                await parts.error({"missing": rev})
            else:
                await parts.document(revision)
        return await parts.finish()
    stream = Stream(call.request)
    separator = "["
    for rev, revision in found:
        if revision is None:
            await stream.write(f'{separator}{{"missing":{json_text(rev)}}}')
        else:
            await stream.write(f'{separator}{{"ok":')
            await write_document(stream, call.store, revision, show, revisions=call.flag("revs"))
            await stream.write("}")
        separator = ","
    await stream.write("]\n" if found else "[]\n")
    return await stream.finish()


def _asked_revs(call: DocumentCall, document: StoredDocument | None) -> list[str]:
    text = call.request.query["open_revs"]
    if text == "all":
        if document is None:
            raise NotFoundError(f"{call.id}: no such document")
        return [str(leaf) for leaf in document.leaves()]
    asked = decode(text.encode(errors="replace"), Any)
    if not isinstance(asked, list):
        raise RequestError(400, "bad_request", "Invalid list of revisions")
    revs = [parse_rev(rev) for rev in asked]
    if call.flag("latest") and document is not None:
        return latest(document, revs)
    return [str(rev) for rev in revs]


def latest(document: StoredDocument, revs: Sequence[Rev]) -> list[str]:
    """The leaves that the revisions have become, each once; an unknown revision as it is."""
    tree = document.tree()
    found: dict[str, None] = {}
    for rev in revs:
        for leaf in tree.descendants(rev) or [rev]:
            found[str(leaf)] = None
    return list(found)


async def put(call: DocumentCall) -> web.Response:
    """PUT /{db}/{docid}; with new_edits=false the revision is taken as it is."""
    if call.request.content_type.startswith("multipart/"):
        async with Uploads.of(call) as uploads:
            return await _put(call, await read_document(call, uploads), uploads)
    return await _put(call, doc_of(await call.documents()), None)


async def _put(call: DocumentCall, doc: JsonObject, uploads: Uploads | None) -> web.Response:
    rev = given_rev(call, doc.get("_rev"))
    if call.request.query.get("new_edits") == "false":
        members = {**doc, "_id": call.id}
        if rev is not None:
            members["_rev"] = rev
        revision = parsed(revision_of_doc, members)
        if uploads is not None:
            revision = revision.with_attachments(with_uploads(revision.attachments, uploads))
        await call.store.graft([revision])
        if uploads is not None:
            uploads.kept = True
        return _written(call, call.id, revision.rev, deleted=revision.deleted)
    return await _edit(call, doc, call.id, rev, uploads)


async def post(call: DatabaseCall) -> web.Response:
    """POST /{db}: a document with its `_id` in it, or a new one."""
    call.require_json()
    doc = doc_of(await call.documents())
    id = doc.get("_id")
    if id is None:
        id = new_id()
    refusal = write_refusal(call.request, call.store, id)
    if refusal is not None:
        raise refusal
    rev = given_rev(call, doc.get("_rev"))
    if isinstance(id, str) and id.startswith(local.PREFIX):
        new = await local.write(call.store, id, doc, rev)
        return answer({"ok": True, "id": id, "rev": new}, status=201)
    return await _edit(call, doc, id, rev)


async def delete(call: DocumentCall) -> web.Response:
    """DELETE /{db}/{docid}: leaves a tombstone without members."""
    rev = given_rev(call, None)
    await call.live_document(call.id)
    return await _edit(call, {"_deleted": True}, call.id, rev)


async def _edit(
    call: DatabaseCall,
    doc: JsonObject,
    id: str,
    rev: str | None,
    uploads: Uploads | None = None,
) -> web.Response:
    parent = None if rev is None else parse_rev(rev)
    edit: Edit = parsed(lambda given: edit_from_doc(given, id, parent), doc)
    if uploads is not None:
        edit = replace(edit, attachments=with_uploads(edit.attachments, uploads))
    [written] = await call.store.edit([edit])
    if written is None:
        raise ConflictError("Document update conflict.")
    if uploads is not None:
        uploads.kept = True
    return _written(call, id, written, deleted=edit.deleted)


def _written(call: DatabaseCall, id: str, rev: Rev, *, deleted: bool) -> web.Response:
    return answer(
        {"ok": True, "id": id, "rev": str(rev)},
        status=200 if deleted else 201,
        headers={"ETag": etag(rev), "Location": call.url(call.name, id)},
    )
