"""Many documents in a request: what replication is made of.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_bulk_get, /{db}/_bulk_docs" and
"/{db}/_missing_revs, /{db}/_revs_diff".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from agent.documents.revision import Rev, Revision
from agent.documents.wire import checked_id
from agent.errors import RequestError, TooLargeError
from agent.server import local
from agent.server.access import write_refusal
from agent.server.answers import Stream, answer, json_text
from agent.server.attached import Parts, Show, accepts, write_document
from agent.server.bodies import MAX_REVISIONS
from agent.server.call import DatabaseCall, decode, parse_rev
from agent.server.documents import latest
from agent.server.edits import (
    JsonObject,
    as_request_error,
    doc_of,
    edit_from_doc,
    new_id,
    parsed,
    revision_of_doc,
)
from agent.server.render import rendered
from agent.store.lookup import MissingRevs
from agent.store.store import Store
from agent.store.stored import StoredDocument
from agent.store.transaction import Edit

_T = TypeVar("_T")
_Writing: TypeAlias = Callable[[Store], Awaitable[str]]

_GET_AT_ONCE = 200
"""Entries of a _bulk_get that are read together, or fewer where they are large."""

_MOST_DOCS = 50_000
"""In a _bulk_docs: until it is answered, each takes more than a kilobyte."""

_PARSED_AT_ONCE = 128 * 1024
"""Bytes of documents that are parsed in the event loop; more take longer than sensors can wait."""

_NOT_IN_BULK_GET = ("open_revs", "new_edits", "w", "rev", "atts_since")


async def bulk_docs(call: DatabaseCall) -> web.Response:
    """POST /{db}/_bulk_docs: `{"docs": [...], "new_edits": true}`.

    Answers 201 with an entry for each document, or with new_edits=false only for each that was not
    stored. A document that is malformed makes the whole request 400, and nothing is stored, as does
    a stub that stands for nothing (412).
    """
    call.require_json()
    members = decode(await call.documents(), dict[str, msgspec.Raw])
    if "docs" not in members:
        raise RequestError(400, "bad_request", "POST body must include `docs` parameter.")
    docs = _as(members["docs"], list[msgspec.Raw], "`docs` parameter must be an array.")
    if len(docs) > _MOST_DOCS:
        raise RequestError(413, "too_large", f"more than {_MOST_DOCS:,} documents; send less")
    new_edits = members.get("new_edits", b"true")
    if not _as(new_edits, bool, "`new_edits` parameter must be a boolean."):
        return answer(await _graft(call, docs), status=201)
    return answer(await _edit(call, docs), status=201)


async def _graft(call: DatabaseCall, docs: Sequence[msgspec.Raw]) -> list[JsonObject]:
    revisions, refused = await _off_loop(_revisions, call, docs)
    if revisions:
        await call.store.graft(revisions)
    return refused


async def _off_loop(
    parse: Callable[[DatabaseCall, Sequence[msgspec.Raw]], _T],
    call: DatabaseCall,
    docs: Sequence[msgspec.Raw],
) -> _T:
    """`parse(call, docs)`, in a thread where it takes long: sensors and feeds must go on."""
    if sum(len(memoryview(text)) for text in docs) <= _PARSED_AT_ONCE:
        return parse(call, docs)
    return await asyncio.to_thread(parse, call, docs)


def _revisions(
    call: DatabaseCall, docs: Sequence[msgspec.Raw]
) -> tuple[list[Revision], list[JsonObject]]:
    revisions = []
    refused = []
    for text in docs:
        doc = doc_of(text)
        refusal = write_refusal(call.request, call.store, doc.get("_id"))
        if refusal is not None:
            refused.append(_refused(refusal, id=doc["_id"], rev=doc.get("_rev")))
            continue
        try:
            revisions.append(revision_of_doc(doc))
        except ValueError as error:
            raise as_request_error(error) from None
    return revisions, refused


async def _edit(call: DatabaseCall, docs: Sequence[msgspec.Raw]) -> list[JsonObject]:
    results, edits, locals = await _off_loop(_edits, call, docs)
    if edits:
        written = await call.store.edit([edit for _, edit in edits])
        for (place, edit), rev in zip(edits, written, strict=True):
            results[place] = _result(edit.id, None if rev is None else str(rev))
    for place, write in locals:
        results[place] = _result(results[place]["id"], await write(call.store))
    return results


def _edits(
    call: DatabaseCall, docs: Sequence[msgspec.Raw]
) -> tuple[list[JsonObject], list[tuple[int, Edit]], list[tuple[int, _Writing]]]:
    """The results known already, and by their places the edits, of `_local` documents apart."""
    results: list[JsonObject] = []
    edits: list[tuple[int, Edit]] = []
    locals: list[tuple[int, _Writing]] = []
    for text in docs:
        doc = doc_of(text)
        id = doc.get("_id")
        if id is None:
            id = new_id()
        place = len(results)
        results.append({"id": id})
        refusal = write_refusal(call.request, call.store, id)
        if refusal is not None:
            results[place] = _refused(refusal, id=id)
            continue
        if isinstance(id, str) and id.startswith(local.PREFIX):
            locals.append((place, local.writing(id, doc, doc.get("_rev"))))
            continue
        parent = None if doc.get("_rev") is None else parse_rev(doc["_rev"])
        try:
            edits.append((place, edit_from_doc(doc, id, parent)))
        except ValueError as error:
            raise as_request_error(error) from None
    return results, edits, locals


def _result(id: str, rev: str | None) -> JsonObject:
    if rev is None:
        return {"id": id, "error": "conflict", "reason": "Document update conflict."}
    return {"ok": True, "id": id, "rev": rev}


def _refused(refusal: RequestError, **members: Any) -> JsonObject:
    return {**members, "error": refusal.error, "reason": str(refusal)}


def _as(text: msgspec.Raw | bytes, kind: Any, reason: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        raise RequestError(400, "bad_request", reason) from None


async def revs_diff(call: DatabaseCall) -> web.Response:
    """POST /{db}/_revs_diff: `{id: [rev, ...]}` to `{id: {"missing": [rev, ...]}}`.

    `possible_ancestors` are leaves that are here, where any is older than what is missing.
    """
    answers: dict[str, dict[str, list[str]]] = {}
    for id, missing in (await _missing(call)).items():
        answers[id] = {"missing": missing.revs}
        if missing.possible_ancestors:
            answers[id]["possible_ancestors"] = list(map(str, missing.possible_ancestors))
    return answer(answers)


async def missing_revs(call: DatabaseCall) -> web.Response:
    """POST /{db}/_missing_revs: `{id: [rev, ...]}` to `{"missing_revs": {id: [rev, ...]}}`."""
    found = await _missing(call)
    return answer({"missing_revs": {id: missing.revs for id, missing in found.items()}})


async def _missing(call: DatabaseCall) -> Mapping[str, MissingRevs]:
    call.require_json()
    asked = await call.json(dict[str, list[str]], limit=MAX_REVISIONS)
    for revs in asked.values():
        for rev in revs:
            parse_rev(rev)
    return await call.store.revs_diff(asked)


async def bulk_get(call: DatabaseCall) -> web.StreamResponse:
    """POST /{db}/_bulk_get?revs=&latest=&attachments=: `{"docs": [{"id", "rev"}, ...]}`.

    Answers `{"results": [{"id", "docs": [{"ok": document} or {"error": ...}]}, ...]}`, an entry
    for each one asked for, in their order. Without `rev` an entry has all leaves; with `atts_since`
    it has the contents of attachments, but for those that these revisions have already. Who does
    not accept JSON, but multipart/mixed or multipart/related, gets the documents as parts of that.
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
    show = Show.asked(call)
    entries = _entries(call.store, asked, newest=newest)
    kind = _kind_of_parts(call.request)
    if kind is not None:
        parts = Parts(call, show, kind=kind)
        async for entry in entries:
            await entry.write_parts(parts)
        return await parts.finish()
    stream = Stream(call.request)
    separator = '{"results":['
    async for entry in entries:
        await entry.write(stream, call.store, show, separator, revisions=with_revisions)
        separator = ","
    await stream.write("]}\n" if asked else '{"results":[]}\n')
    return await stream.finish()


def _kind_of_parts(request: web.Request) -> str | None:
    """The multipart type that the client wants instead of JSON; None for JSON."""
    if accepts(request, "application/json"):
        return None
    kinds = ("multipart/mixed", "multipart/related")
    return next((kind for kind in kinds if accepts(request, kind)), None)


class _Entry:
    """One entry of a _bulk_get: what was asked for, and what was found."""

    __slots__ = ("error", "found", "id", "known", "rev", "revs")

    def __init__(self, item: Any) -> None:
        self.id: Any = None
        self.rev: Rev | None = None
        self.known: tuple[Rev, ...] = ()
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
            known = item.get("atts_since", [])
            if not isinstance(known, list):
                reason = "att_since value must be array of revs."
                raise RequestError(400, "bad_request", reason)  # noqa: TRY301
            self.known = tuple(parse_rev(rev) for rev in known)
        except RequestError as error:
            self.error = {"id": self.id, "rev": given, "error": error.error, "reason": str(error)}

    def choose(self, document: StoredDocument | None, *, newest: bool) -> list[str]:
        """Decides on the revisions, and returns those that have to be looked up still."""
        if document is None:
            self.revs = [] if self.rev is None else [str(self.rev)]
            self.found = dict.fromkeys(self.revs)
            return []
        winner = str(document.rev)
        if self.rev == document.rev:
            self.revs = [winner]
        elif self.rev is None:
            self.revs = [str(leaf) for leaf in document.leaves()]
        elif newest:
            self.revs = latest(document, [self.rev])
        else:
            self.revs = [str(self.rev)]
        if winner in self.revs:
            self.found[winner] = document.revision()
        return [rev for rev in self.revs if rev != winner]

    async def write(
        self, stream: Stream, store: Store, show: Show, separator: str, *, revisions: bool
    ) -> None:
        id = json_text(self.id)
        show = show.newer_than(self.known)
        if self.error is not None:
            error = json_text(self.error)
            await stream.write(f'{separator}{{"id":{id},"docs":[{{"error":{error}}}]}}')
            return
        text = f'{separator}{{"id":{id},"docs":['
        between = ""
        for rev in self.revs or ["undefined"]:
            revision = self.found.get(rev)
            if revision is None:
                text += f'{between}{{"error":{json_text(self._missing(rev))}}}'
            elif show.data and revision.attachments:
                await stream.write(f'{text}{between}{{"ok":')
                await write_document(stream, store, revision, show, revisions=revisions)
                text = "}"
            else:
                doc = rendered(revision, revisions=revisions, encoding_info=show.encoding_info)
                text += f'{between}{{"ok":{doc}}}'
            between = ","
        await stream.write(text + "]}")

    async def write_parts(self, parts: Parts) -> None:
        if self.error is not None:
            await parts.error(self.error)
            return
        for rev in self.revs or ["undefined"]:
            revision = self.found.get(rev)
            if revision is None:
                await parts.error(self._missing(rev))
            else:
                await parts.document(revision, known=self.known)

    def _missing(self, rev: str) -> JsonObject:
        return {"id": self.id, "rev": rev, "error": "not_found", "reason": "missing"}


async def _entries(
    store: Store, asked: Sequence[Any], *, newest: bool
) -> AsyncGenerator[_Entry, None]:
    for start in range(0, len(asked), _GET_AT_ONCE):
        async for entry in _looked_up(store, asked[start : start + _GET_AT_ONCE], newest=newest):
            yield entry


async def _looked_up(
    store: Store, asked: Sequence[Any], *, newest: bool
) -> AsyncGenerator[_Entry, None]:
    """The entries in their order, never more of them in memory than fit."""
    entries = [_Entry(item) for item in asked]
    try:
        await _look_up(store, entries, newest=newest)
    except TooLargeError:
        if len(asked) == 1:
            raise
        half = len(asked) // 2
        for part in (asked[:half], asked[half:]):
            async for entry in _looked_up(store, part, newest=newest):
                yield entry
        return
    for entry in entries:
        yield entry


async def _look_up(store: Store, entries: Sequence[_Entry], *, newest: bool) -> None:
    sound = [entry for entry in entries if entry.error is None]
    documents = await store.documents(list({entry.id for entry in sound}), bounded=True)
    others = [
        (entry, revs)
        for entry in sound
        if (revs := entry.choose(documents.get(entry.id), newest=newest))
    ]
    if others:
        found = await store.revisions([(entry.id, revs) for entry, revs in others])
        for (entry, _), revisions in zip(others, found, strict=True):
            entry.found.update(revisions)
