"""Many documents in a request: what replication is made of.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_bulk_get, /{db}/_bulk_docs" and
"/{db}/_missing_revs, /{db}/_revs_diff".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from agent.documents.revision import Rev, Revision
from agent.documents.wire import AttachmentsError, checked_id, revision_from_doc
from agent.errors import ConflictError, RequestError
from agent.server import local
from agent.server.answers import Stream, answer, json_text
from agent.server.call import DatabaseCall, decode, parse_rev
from agent.server.documents import latest
from agent.server.edits import JsonObject, as_request_error, edit_from_doc, new_id, parsed
from agent.server.render import rendered
from agent.store.reader import StoredDocument
from agent.store.store import Store
from agent.store.transaction import Edit

_GET_AT_ONCE = 200
"""Entries of a _bulk_get that are read together: bounds the memory."""

_NOT_IN_BULK_GET = ("open_revs", "new_edits", "w", "rev", "atts_since")


async def bulk_docs(call: DatabaseCall) -> web.Response:
    """POST /{db}/_bulk_docs: `{"docs": [...], "new_edits": true}`.

    Answers 201 with an entry for each document, or with new_edits=false only for each that was not
    stored. A document that is malformed makes the whole request 400, and nothing is stored; one
    with attachments only fails itself.
    """
    call.require_json()
    members = await call.json(dict[str, msgspec.Raw])
    if "docs" not in members:
        raise RequestError(400, "bad_request", "POST body must include `docs` parameter.")
    docs = _as(members["docs"], list[msgspec.Raw], "`docs` parameter must be an array.")
    new_edits = members.get("new_edits", b"true")
    if not _as(new_edits, bool, "`new_edits` parameter must be a boolean."):
        return answer(await _graft(call.store, docs), status=201)
    return answer(await _edit(call.store, docs), status=201)


async def _graft(store: Store, docs: Sequence[msgspec.Raw]) -> list[JsonObject]:
    revisions = []
    failed = []
    for text in docs:
        doc = _document(text)
        try:
            revisions.append(revision_from_doc(doc))
        except AttachmentsError as error:
            failed.append(_failure(error, id=doc.get("_id"), rev=doc.get("_rev")))
        except ValueError as error:
            raise as_request_error(error) from None
    if revisions:
        await store.graft(revisions)
    return failed


async def _edit(store: Store, docs: Sequence[msgspec.Raw]) -> list[JsonObject]:
    results: list[JsonObject] = []
    edits: list[tuple[int, Edit]] = []
    locals: list[tuple[int, JsonObject]] = []
    for text in docs:
        doc = _document(text)
        id = doc.get("_id")
        if id is None:
            id = new_id()
        place = len(results)
        results.append({"id": id})
        if isinstance(id, str) and id.startswith(local.PREFIX):
            locals.append((place, doc))
            continue
        parent = None if doc.get("_rev") is None else parse_rev(doc["_rev"])
        try:
            edits.append((place, edit_from_doc(doc, id, parent)))
        except AttachmentsError as error:
            results[place] = _failure(error, id=id)
        except ValueError as error:
            raise as_request_error(error) from None
    if edits:
        written = await store.edit([edit for _, edit in edits])
        for (place, edit), rev in zip(edits, written, strict=True):
            results[place] = _result(edit.id, None if rev is None else str(rev))
    for place, doc in locals:
        results[place] = await _edit_local(store, doc)
    return results


async def _edit_local(store: Store, doc: JsonObject) -> JsonObject:
    id = doc["_id"]
    try:
        return _result(id, await local.write(store, id, doc, doc.get("_rev")))
    except ConflictError:
        return _result(id, None)


def _result(id: str, rev: str | None) -> JsonObject:
    if rev is None:
        return {"id": id, "error": "conflict", "reason": "Document update conflict."}
    return {"ok": True, "id": id, "rev": rev}


def _failure(error: AttachmentsError, **members: Any) -> JsonObject:
    return {**members, "error": error.error, "reason": str(error)}


def _document(text: msgspec.Raw) -> JsonObject:
    doc = decode(text, Any)
    if not isinstance(doc, dict):
        raise RequestError(400, "bad_request", "Document must be a JSON object")
    return doc


def _as(text: msgspec.Raw | bytes, kind: Any, reason: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        raise RequestError(400, "bad_request", reason) from None


async def revs_diff(call: DatabaseCall) -> web.Response:
    """POST /{db}/_revs_diff: `{id: [rev, ...]}` to `{id: {"missing": [rev, ...]}}`."""
    missing = await _missing(call)
    return answer({id: {"missing": revs} for id, revs in missing.items()})


async def missing_revs(call: DatabaseCall) -> web.Response:
    """POST /{db}/_missing_revs: `{id: [rev, ...]}` to `{"missing_revs": {id: [rev, ...]}}`."""
    return answer({"missing_revs": await _missing(call)})


async def _missing(call: DatabaseCall) -> Mapping[str, Sequence[str]]:
    call.require_json()
    asked = await call.json(dict[str, list[str]])
    for revs in asked.values():
        for rev in revs:
            parse_rev(rev)
    return await call.store.missing(asked)


async def bulk_get(call: DatabaseCall) -> web.StreamResponse:
    """POST /{db}/_bulk_get?revs=&latest=: `{"docs": [{"id", "rev"}, ...]}`.

    Answers `{"results": [{"id", "docs": [{"ok": document} or {"error": ...}]}, ...]}`, an entry
    for each one asked for, in their order. Without `rev` an entry has all leaves.
    """
    call.require_json()
    for name in _NOT_IN_BULK_GET:
        if name in call.request.query:
            raise RequestError(400, "bad_request", f'"{name}" query parameter is not acceptable')
    members = await call.json(JsonObject)
    if "docs" not in members:
        raise RequestError(400, "bad_request", "Missing JSON list of 'docs'.")
    asked = members["docs"]
    if not isinstance(asked, list):
        raise RequestError(400, "bad_request", "`docs` parameter must be an array.")
    with_revisions, newest = call.flag("revs"), call.flag("latest")
    stream = Stream(call.request)
    separator = '{"results":['
    for start in range(0, len(asked), _GET_AT_ONCE):
        entries = [_Entry(item) for item in asked[start : start + _GET_AT_ONCE]]
        await _look_up(call.store, entries, newest=newest)
        for entry in entries:
            await stream.write(separator + entry.text(revisions=with_revisions))
            separator = ","
    await stream.write("]}\n" if asked else '{"results":[]}\n')
    return await stream.finish()


class _Entry:
    """One entry of a _bulk_get: what was asked for, and what was found."""

    __slots__ = ("error", "found", "id", "rev", "revs")

    def __init__(self, item: Any) -> None:
        self.id: Any = None
        self.rev: Rev | None = None
        self.revs: list[str] = []
        self.found: dict[str, Revision | None] = {}
        self.error: dict[str, Any] | None = None
        given: Any = None
        try:
            if not isinstance(item, dict):
                raise RequestError(400, "bad_request", "document must be a JSON object")  # noqa: TRY301
            if "id" not in item:
                raise RequestError(400, "bad_request", "document id missed")  # noqa: TRY301
            self.id = item["id"]
            parsed(checked_id, self.id)
            given = item.get("rev")
            if given is not None:
                self.rev = parse_rev(given)
        except RequestError as error:
            self.error = {"id": self.id, "rev": given, "error": error.error, "reason": str(error)}

    def choose(self, document: StoredDocument | None, *, newest: bool) -> list[str]:
        """Decides on the revisions, and returns those that have to be looked up still."""
        if document is None:
            self.revs = [] if self.rev is None else [str(self.rev)]
            self.found = dict.fromkeys(self.revs)
            return []
        if self.rev is None:
            self.revs = [str(leaf) for leaf in document.leaves()]
        elif newest and self.rev != document.rev:
            self.revs = latest(document, [self.rev])
        else:
            self.revs = [str(self.rev)]
        winner = str(document.rev)
        if winner in self.revs:
            self.found[winner] = document.revision()
        return [rev for rev in self.revs if rev != winner]

    def text(self, *, revisions: bool) -> str:
        id = json_text(self.id)
        if self.error is not None:
            return f'{{"id":{id},"docs":[{{"error":{json_text(self.error)}}}]}}'
        docs = []
        for rev in self.revs or ["undefined"]:
            revision = self.found.get(rev)
            if revision is None:
                docs.append(
                    f'{{"error":{{"id":{id},"rev":{json_text(rev)},'
                    '"error":"not_found","reason":"missing"}}'
                )
            else:
                docs.append(f'{{"ok":{rendered(revision, revisions=revisions)}}}')
        return f'{{"id":{id},"docs":[{",".join(docs)}]}}'


async def _look_up(store: Store, entries: Sequence[_Entry], *, newest: bool) -> None:
    sound = [entry for entry in entries if entry.error is None]
    documents = await store.documents(list({entry.id for entry in sound}))
    others = [
        (entry, revs)
        for entry in sound
        if (revs := entry.choose(documents.get(entry.id), newest=newest))
    ]
    if others:
        found = await store.revisions([(entry.id, revs) for entry, revs in others])
        for (entry, _), revisions in zip(others, found, strict=True):
            entry.found.update(revisions)
